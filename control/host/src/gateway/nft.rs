//! Runs nft(8), in the network namespace of the calling thread.
//!
//! The types are those of [`nftables`], which could run nft as well, but leaves nft's error messages on our standard error
//! instead of returning them.

use std::{
    io::{self, Write},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use nftables::schema::Nftables;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;

use super::GatewayError;

/// Time limit of a run. A table with ten thousand published ports takes two seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs a transaction, atomically. Returns the id of the process that has made it.
pub(super) fn apply(transaction: &Nftables<'_>) -> Result<u32, GatewayError> {
    let json = serde_json::to_vec(transaction).map_err(|error| GatewayError::Run(error.into()))?;
    Ok(run(&["-j", "-f", "-"], &json)?.0)
}

/// Runs `nft list`.
///
/// Untyped: tables of others have expressions that [`nftables`] does not model.
pub(super) fn list(what: &[&str]) -> Result<Value, GatewayError> {
    let (_, shown) = run(&[&["-j", "list"], what].concat(), &[])?;
    serde_json::from_slice(&shown).map_err(|error| GatewayError::Run(error.into()))
}

/// Returns the process's id, and what it has written.
fn run(arguments: &[&str], input: &[u8]) -> Result<(u32, Vec<u8>), GatewayError> {
    let mut nft = Command::new("nft");
    nft.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = nft.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => GatewayError::NoNft,
        _ => GatewayError::Run(error),
    })?;
    let id = child.id();
    let (written, output) = feed(child, input, LIMIT).map_err(GatewayError::Run)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = if said.trim().is_empty() { output.status.to_string().into() } else { said };
        return Err(GatewayError::nft(&said));
    }
    written.map_err(GatewayError::Run)?;
    Ok((id, output.stdout))
}

/// Writes `input` to a process and waits for its end. Returns how writing ended, and the output.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`]: it had not ended after `limit`, and was killed.
fn feed(mut child: Child, input: &[u8], limit: Duration) -> io::Result<(io::Result<()>, Output)> {
    let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    thread::scope(|scope| {
        let (ended, end) = channel::<()>();
        let watch = thread::Builder::new().name("nft".into()).spawn_scoped(scope, move || {
            let is_late = end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            is_late && pidfd_send_signal(process, Signal::KILL).is_ok()
        })?;
        // nft reads all input before it writes, so this cannot deadlock. If it exits before, its output says why.
        let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input));
        let output = child.wait_with_output();
        drop(ended);
        if watch.join().is_ok_and(|was_killed| was_killed) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("it did not end within {limit:?}")));
        }
        Ok((written, output?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(program: &str, argument: &str) -> Child {
        let mut command = Command::new(program);
        command.arg(argument).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    #[test]
    fn a_process_is_fed_and_killed_if_it_does_not_end() {
        let (written, output) = feed(start("cat", "-"), b"rules", LIMIT).unwrap();
        assert!(written.is_ok() && output.status.success() && output.stdout == b"rules");
        let late = feed(start("sleep", "100"), b"", Duration::from_millis(20)).unwrap_err();
        assert_eq!(
            (late.kind(), late.to_string()),
            (io::ErrorKind::TimedOut, "it did not end within 20ms".into())
        );
    }
}
