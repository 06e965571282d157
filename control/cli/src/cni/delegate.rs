//! Delegation of address assignment to another plugin, which runs with the same environment and configuration.

use std::{
    path::PathBuf,
    process::{Output, Stdio},
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
    let written: Value = serde_json::from_slice(&stdout).unwrap_or_default();
    if !status.success() {
        let unknown = || Failure::new(Code::Io, format!("the IPAM plugin {kind} failed: {status}"));
        return Err(Failure::of_plugin(&written).unwrap_or_else(unknown));
    }
    if written.is_null() {
        return Ok(None);
    }
    serde_json::from_value(written).map(Some).map_err(|error| {
        Failure::new(Code::Decode, format!("cannot parse the result of the IPAM plugin {kind}: {error}"))
    })
}

fn find(kind: &str) -> Result<PathBuf, Failure> {
    let told = std::env::var_os("CNI_PATH").unwrap_or_default();
    let legal = !kind.is_empty() && !kind.contains('/');
    let found =
        std::env::split_paths(&told).map(|folder| folder.join(kind)).find(|path| legal && path.is_file());
    found.ok_or_else(|| {
        Failure::new(
            Code::Config,
            format!(
                "there is no IPAM plugin {kind:?} in CNI_PATH ({}): install it, or remove ipam",
                told.display()
            ),
        )
    })
}
