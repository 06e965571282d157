//! One gateway per network namespace: each sets the whole table, so two would undo each other's.
//!
//! The claim is a listening socket with an abstract name (unix(7)): such names belong to a network namespace, whatever the
//! file systems of two daemons have in common, and are released with the process. Any user may bind the name, so one
//! bound by a user other than ours is not a claim.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    process, thread,
    time::Duration,
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::process::geteuid;
use tracing::warn;
use vswitch_model::sentence::printable;

use super::GatewayError;

const NAME: &str = "vswitchd gateway";

/// How often, and at what intervals, a claim of our own that is on its way out is waited for.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Held by the one that sets the table.
#[derive(Debug)]
pub(super) struct Claim {
    _listener: Option<OwnedFd>,
}

impl Claim {
    /// Takes the claim in the calling thread's namespace.
    ///
    /// # Errors
    /// Another daemon has it: who.
    pub(super) fn take() -> Result<Self, GatewayError> {
        let mut tries = TRIES;
        loop {
            match Self::try_take() {
                // A child that has not begun its program yet holds our own for a moment longer.
                Err(GatewayError::Owned { pid, .. }) if pid.cast_unsigned() == process::id() && tries > 0 => {
                    tries -= 1;
                    thread::sleep(PAUSE);
                }
                done => return done,
            }
        }
    }

    fn try_take() -> Result<Self, GatewayError> {
        let address = SocketAddr::from_abstract_name(NAME).map_err(GatewayError::Claim)?;
        let error = match UnixListener::bind_addr(&address) {
            Ok(listener) => return Ok(Self { _listener: Some(listener.into()) }),
            Err(error) => error,
        };
        if error.kind() != io::ErrorKind::AddrInUse {
            return Err(GatewayError::Claim(error));
        }
        let holder =
            UnixStream::connect_addr(&address).and_then(|stream| Ok(getsockopt(&stream, PeerCredentials)?));
        match holder {
            Ok(holder) if holder.uid() == geteuid().as_raw() => {
                Err(GatewayError::Owned { pid: holder.pid(), holder: described(holder.pid()) })
            }
            Ok(holder) => {
                warn!(
                    "user {} has bound the gateway's name, which is ignored: process {}",
                    holder.uid(),
                    holder.pid()
                );
                Ok(Self { _listener: None })
            }
            Err(error) => Err(GatewayError::Claim(error)),
        }
    }
}

/// A process by number and command line, for an operator.
fn described(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    match words.join(" ").trim() {
        "" => format!("process {pid}"),
        words => format!("process {pid}: {}", printable(words)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_one_owner_at_a_time() {
        let first = Claim::take();
        let Ok(first) = first else {
            // A daemon of this machine has it: the same sentence.
            return assert!(first.unwrap_err().to_string().contains("process "));
        };
        let refusal = Claim::take().unwrap_err().to_string();
        assert!(refusal.contains(&format!("process {}: ", process::id())), "{refusal}");
        drop(first);
        Claim::take().unwrap();
    }
}
