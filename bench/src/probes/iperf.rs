//! Runs iperf3: one server process in container b and one client process in a per stream.
//!
//! iperf3 before 3.16 serves all streams of `-P` from one thread, so it would measure itself.

use std::{fs, time::Duration};

use serde_json::Value;

use crate::{
    error::{Error, Result},
    interrupt,
    lab::Lab,
    process::Process,
};

const FIRST_PORT: u16 = 5201;
/// Time to connect, to exchange results and to drain full queues, in addition to the load itself.
const SLACK: Duration = Duration::from_secs(15);

/// Running streams.
#[derive(Debug)]
pub(super) struct Streams {
    servers: Vec<Process>,
    clients: Vec<Process>,
    limit: Duration,
}

impl Streams {
    /// Starts `count` streams for `time`, rounded up to whole seconds.
    ///
    /// # Errors
    /// Fails when a program cannot be started or a server does not listen.
    pub(super) fn start(lab: &Lab, count: u16, time: Duration, arguments: &[&str]) -> Result<Self> {
        let ports = FIRST_PORT..FIRST_PORT + count;
        let servers = ports.clone().map(|port| serve(lab, port)).collect::<Result<Vec<_>>>()?;
        let seconds = whole_seconds(time);
        let clients = ports.map(|port| {
            let mut client = lab.a.command("iperf3");
            client.args(["-4", "--json", "--connect-timeout", "5000", "-c", &lab.b.address.to_string()]);
            client.args(["-p", &port.to_string(), "-t", &seconds.to_string()]).args(arguments);
            Process::start(&mut client)
        });
        let clients = clients.collect::<Result<Vec<_>>>()?;
        Ok(Self { servers, clients, limit: Duration::from_secs(seconds) + SLACK })
    }

    /// Waits for the end of all streams and returns the `end` part of each client's result.
    ///
    /// # Errors
    /// Fails if a stream does, with its reason.
    pub(super) fn finish(self) -> Result<Vec<Value>> {
        let results =
            self.clients.into_iter().map(|client| client.finish(self.limit).and_then(|text| end(&text)));
        let results = results.collect();
        drop(self.servers);
        results
    }
}

/// The number at `/path/of/keys`.
///
/// # Errors
/// Fails without one.
pub(super) fn number(result: &Value, path: &str) -> Result<f64> {
    let found = result.pointer(path).and_then(Value::as_f64);
    found.ok_or_else(|| Error::Answer { from: "iperf3".into(), missing: path.into() })
}

/// iperf3 counts in whole seconds.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn serve(lab: &Lab, port: u16) -> Result<Process> {
    let mut command = lab.b.command("iperf3");
    let server = Process::start(command.args(["-4", "-s", "-1", "-p", &port.to_string()]))?;
    let listening = || {
        let table = lab.b.namespace.enter(|| fs::read_to_string("/proc/thread-self/net/tcp")).ok()?.ok()?;
        is_listening(&table, port).then_some(())
    };
    interrupt::wait_for("an iperf3 server", Duration::from_secs(5), listening)?;
    Ok(server)
}

/// Whether a table of the form of `/proc/net/tcp` has a socket in state LISTEN (0A) on `port`.
fn is_listening(table: &str, port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    table.lines().any(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        matches!(columns.as_slice(), [_, local, _, "0A", ..] if local.ends_with(&wanted))
    })
}

fn end(text: &str) -> Result<Value> {
    let unusable = || Error::Answer { from: "iperf3".into(), missing: "end".into() };
    let mut result: Value = serde_json::from_str(text).map_err(|_| unusable())?;
    if let Some(error) = result.get("error").and_then(Value::as_str) {
        let (command, message) = ("iperf3".to_owned(), error.to_owned());
        return Err(Error::Command { command, status: "error in its result".to_owned(), message });
    }
    result.get_mut("end").map(Value::take).ok_or_else(unusable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_socket_is_found_by_port_and_state() {
        let table = "  sl  local_address rem_address   st\n   0: 00000000:1451 00000000:0000 0A 0:0\n";
        assert!(is_listening(table, 5201));
        assert!(!is_listening(table, 5202));
        assert!(!is_listening(&table.replace("0A 0:0", "06 0:0"), 5201));
    }

    #[test]
    fn a_result_with_an_error_is_one() {
        assert!(
            end(r#"{"end":{}, "error":"unable to connect"}"#).unwrap_err().to_string().contains("connect")
        );
        assert_eq!(number(&end(r#"{"end":{"sum":{"bytes":7}}}"#).unwrap(), "/sum/bytes").unwrap(), 7.0);
    }
}
