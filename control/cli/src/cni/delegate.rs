//! Delegation of address assignment to another plugin, which runs with the same environment and configuration.

use std::{
    path::PathBuf,
    process::{ExitStatus, Output, Stdio},
};

use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command};

use super::wire::{Code, Failure, Outcome};

/// Runs the plugin `kind` with the command `verb`, and reads its result if it has one.
pub(super) async fn run(kind: &str, verb: &str, config: &str) -> Result<Option<Outcome>, Failure> {
    let path = find(kind)?;
    let failed = |error: std::io::Error| {
        Failure::new(Code::Io, format!("cannot run the IPAM plugin {}: {error}", path.display()))
    };
    let mut command = Command::new(&path);
    command.env("CNI_COMMAND", verb).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that ends without reading reports why.
        let _ = stdin.write_all(config.as_bytes()).await;
    }
    let Output { status, stdout, .. } = child.wait_with_output().await.map_err(failed)?;
    outcome(kind, status, &stdout)
}

/// What a plugin that ended with `status` wrote; some verbs have no result.
fn outcome(kind: &str, status: ExitStatus, stdout: &[u8]) -> Result<Option<Outcome>, Failure> {
    let written = serde_json::from_slice::<Value>(stdout);
    if !status.success() {
        let unknown = || Failure::new(Code::Io, format!("the IPAM plugin {kind} failed: {status}"));
        return Err(written.ok().and_then(|it| Failure::of_plugin(&it)).unwrap_or_else(unknown));
    }
    if stdout.trim_ascii().is_empty() {
        return Ok(None);
    }
    written.and_then(serde_json::from_value).map_err(|error| {
        Failure::new(Code::Decode, format!("cannot parse the result of the IPAM plugin {kind}: {error}"))
    })
}

fn find(kind: &str) -> Result<PathBuf, Failure> {
    let folders = std::env::var_os("CNI_PATH").unwrap_or_default();
    let legal = !kind.is_empty() && !kind.contains('/');
    let found =
        std::env::split_paths(&folders).map(|folder| folder.join(kind)).find(|path| legal && path.is_file());
    found.ok_or_else(|| {
        Failure::new(
            Code::Config,
            format!(
                "there is no IPAM plugin {kind:?} in CNI_PATH ({}): install it, or remove ipam",
                folders.display()
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_result_that_cannot_be_read_is_a_failure_and_none_is_not() {
        let ended =
            |code: i32, stdout: &str| outcome("static", ExitStatus::from_raw(code << 8), stdout.as_bytes());
        for nothing in ["", "\n", "null"] {
            assert!(ended(0, nothing).unwrap().is_none(), "{nothing:?}");
        }
        let given = ended(0, r#"{"ips": [{"address": "10.9.0.2/24"}]}"#).unwrap().unwrap();
        assert_eq!(given.ips.len(), 1);
        for garbage in ["{\"ips\": [", "done", r#"{"ips": 7}"#] {
            assert_eq!(ended(0, garbage).unwrap_err().written("1.1.0")["code"], 6, "{garbage}");
        }
        let message = |stdout: &str| ended(1, stdout).unwrap_err().written("1.1.0")["msg"].clone();
        assert_eq!(message(r#"{"code": 11, "msg": "full"}"#), "full");
        assert_eq!(message("no JSON"), "the IPAM plugin static failed: exit status: 1");
    }
}
