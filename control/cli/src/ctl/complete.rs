//! Completion of the command line by a shell, with the names of what the daemon has.
//!
//! The shell runs vswitchctl with `COMPLETE` set for each completion (`clap_complete::env`), so the names are those of the moment.
//! Where the daemon does not answer there are none.

use std::{ffi::OsStr, path::PathBuf, time::Duration};

use clap::{Arg, Command, CommandFactory, builder::Str};
use clap_complete::{
    CompleteEnv, Shell,
    engine::{ArgValueCompleter, CompletionCandidate},
    env::Shells,
};
use tokio::{runtime, time::timeout};

use super::{Cli, default_socket};
use crate::client::{Client, ClientError};
use vswitch_model::Error;

/// How long a shell waits for names.
const PATIENCE: Duration = Duration::from_secs(1);

/// The variable that tells us that a shell asks.
const VARIABLE: &str = "COMPLETE";

/// Answers a shell that asks what could be typed next, and ends; otherwise does nothing.
pub(super) fn answer() {
    CompleteEnv::with_factory(|| with_names(Cli::command())).var(VARIABLE).complete();
}

/// What a shell has to read once.
///
/// # Errors
/// It is no shell that we know.
pub(super) fn script(shell: Shell) -> Result<String, ClientError> {
    let shells = Shells::builtins();
    let completer = shells.completer(&shell.to_string());
    let completer =
        completer.ok_or_else(|| Error::invalid(format!("there are no completions for {shell}")))?;
    let mut script = Vec::new();
    let written =
        completer.write_registration(VARIABLE, "vswitchctl", "vswitchctl", "vswitchctl", &mut script);
    written.map_err(Error::from)?;
    Ok(String::from_utf8_lossy(&script).into_owned())
}

/// What an argument names.
#[derive(Clone, Copy, Debug)]
enum Names {
    Networks,
    Ports,
    Peers,
}

/// `command` with names for all arguments that want some: help and completion go by the same word.
fn with_names(command: Command) -> Command {
    let complete = |argument: Arg| match wanted(argument.get_value_names()) {
        Some(names) => argument.add(ArgValueCompleter::new(move |typed: &OsStr| candidates(names, typed))),
        None => argument,
    };
    command.mut_args(complete).mut_subcommands(with_names)
}

fn wanted(value: Option<&[Str]>) -> Option<Names> {
    match value?.first()?.as_str() {
        "NETWORK" | "NETWORK,…" => Some(Names::Networks),
        "PORT" | "PORT,…" => Some(Names::Ports),
        "PEER" => Some(Names::Peers),
        _ => None,
    }
}

/// The names that begin with what is typed; of a list, its last part.
fn candidates(names: Names, typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let (before, begun) = typed.rfind(',').map_or(("", &*typed), |comma| typed.split_at(comma + 1));
    let all = ask(names).unwrap_or_default();
    let fitting = all.into_iter().filter(|name| name.starts_with(begun));
    fitting.map(|name| CompletionCandidate::new(format!("{before}{name}"))).collect()
}

fn ask(names: Names) -> Option<Vec<String>> {
    let client =
        Client::new(socket(std::env::args_os().map(|argument| argument.to_string_lossy().into_owned())));
    let asked = async {
        match names {
            Names::Networks => {
                let networks = client.networks().await.ok()?;
                Some(networks.iter().map(|network| network.spec.name.to_string()).collect())
            }
            Names::Ports => {
                Some(client.ports().await.ok()?.iter().map(|port| port.name.to_string()).collect())
            }
            Names::Peers => {
                let tunnel = client.tunnel().await.ok()?;
                Some(tunnel.peers.iter().map(|peer| peer.name.to_string()).collect())
            }
        }
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async { timeout(PATIENCE, asked).await.ok()? })
}

/// The daemon's socket, as the command line so far has it.
fn socket(mut line: impl Iterator<Item = String>) -> PathBuf {
    while let Some(word) = line.next() {
        let given = match word.strip_prefix("--socket") {
            Some("") => line.next(),
            Some(rest) => rest.strip_prefix('=').map(ToOwned::to_owned),
            None => None,
        };
        if let Some(path) = given {
            return path.into();
        }
    }
    std::env::var_os("VSWITCH_SOCKET").map_or_else(default_socket, PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_of_the_line_is_asked() {
        let of = |line: &str| socket(line.split(' ').map(str::to_owned));
        assert_eq!(of("vswitchctl --socket /a port show "), PathBuf::from("/a"));
        assert_eq!(of("vswitchctl port show --socket=/b "), PathBuf::from("/b"));
    }

    /// Every command that names one of them completes it.
    #[test]
    fn arguments_that_name_something_are_completed() {
        fn count(command: &Command) -> usize {
            let own = command.get_arguments().filter(|it| wanted(it.get_value_names()).is_some()).count();
            own + command.get_subcommands().map(count).sum::<usize>()
        }
        assert!(count(&Cli::command()) > 25, "{}", count(&Cli::command()));
        let command = Cli::command();
        for path in
            ["network inspect", "network rm", "port show", "port del", "detach", "peer probe", "fdb flush"]
        {
            let found = path.split(' ').fold(&command, |at, name| at.find_subcommand(name).unwrap());
            assert!(count(found) > 0, "{path}");
        }
    }
}
