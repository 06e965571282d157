//! `vswitchctl`: parses the command line, executes it and prints the result.
//!
//! One clap enum, one call of the [`Client`] per variant, one rendering in [`show`]. Everything that is printed as text
//! can also be printed as the API's JSON with `--json`.

mod arguments;
mod capture;
mod cluster;
mod cni;
mod complete;
mod dns;
mod docker;
mod events;
mod filter;
mod man;
mod mirror;
mod network;
mod sandbox;
mod service;
pub mod show;
mod support;
pub mod top;
mod trace;
mod tunnel;

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use serde::Serialize;

pub use arguments::{AttachArguments, Cli, Command, FdbCommand, PortCommand};
pub use capture::CaptureArguments;
pub use cluster::{ClusterCommand, EndpointCommand, InitArguments, JoinArguments};
pub use cni::CniCommand;
pub use dns::DnsCommand;
pub use docker::DockerCommand;
pub use events::EventsArguments;
pub use mirror::{MirrorArguments, MirrorCommand};
pub use network::{
    ConnectArguments, CreateArguments, InspectArguments, ListArguments, NetworkCommand, PruneArguments,
    UpdateArguments,
};
pub use sandbox::{SandboxArgument, SandboxCommand};
pub use service::ServiceCommand;
pub use trace::{TraceArguments, WhyArguments};
pub use tunnel::{PeerArguments, PeerCommand, TunnelCommand};

use crate::{
    attach::helper,
    client::{Client, ClientError},
};
use vswitch_model::{
    Error, ErrorKind,
    api::{DropsFilter, FdbFilter, FdbKey, Flush, StaticEntry},
    sentence::printable_lines,
};

/// The exit codes, as printed by `--help` and in the manual.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused: by the daemon, or by the kernel; status --check: something does not work
  2  usage: the command line is invalid
  3  the daemon is unreachable
  4  a named object does not exist
  5  permission denied";

/// Parses the command line, executes it, prints the outcome, and returns the exit code.
pub fn main() -> ExitCode {
    complete::answer();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let result = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run(&cli)),
        Err(error) => Err(Error::from(error).into()),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            complain(&error, cli.json);
            ExitCode::from(exit_code(&error))
        }
    }
}

async fn run(cli: &Cli) -> Result<ExitCode, ClientError> {
    if let Command::Status { check: true, .. } = cli.command {
        return check(&Client::new(&cli.socket), cli.json).await;
    }
    print(&execute(cli).await?)?;
    Ok(ExitCode::SUCCESS)
}

/// Executes `cli` and returns the text to print.
///
/// # Errors
/// When the daemon is unreachable or refuses.
pub async fn execute(cli: &Cli) -> Result<String, ClientError> {
    let client = Client::new(&cli.socket).telling(|busy| eprintln!("vswitchctl: {busy}"));
    let json = cli.json;
    match &cli.command {
        Command::Status { watch: None, .. } => render(json, &client.status().await?, show::status),
        Command::Status { watch: Some(seconds), .. } => {
            watch(*seconds, json, async || client.status().await, |_, now| show::status(now)).await
        }
        Command::Port(command) => port(&client, command, json).await,
        Command::Network(command) => network::execute(&client, command, json).await,
        Command::Sandbox(command) => sandbox::execute(&client, command, json).await,
        Command::Service(command) => service::execute(&client, command, json).await,
        Command::Dns(command) => dns::execute(&client, command, json).await,
        Command::Docker(command) => docker::execute(&client, command, json).await,
        Command::Peer(command) => tunnel::peer(&client, command, json).await,
        Command::Tunnel(command) => tunnel::tunnel(&client, command, json).await,
        Command::Cluster(command) => cluster::execute(&client, command, json).await,
        Command::Endpoint(command) => cluster::endpoint(&client, command, json).await,
        Command::Cni(command) => cni::execute(&client, command, &cli.socket, json).await,
        Command::Fdb(command) => fdb(&client, command, json).await,
        Command::Stats { watch: None } => render(json, &client.stats().await?, show::stats),
        Command::Stats { watch: Some(seconds) } => {
            watch(*seconds, json, async || client.stats().await, show::rates).await
        }
        Command::Top { interval } => top::run(&client, Duration::from_secs((*interval).into())).await,
        Command::Events(arguments) => events::events(&client, arguments, json).await,
        Command::Drops { port } => {
            let drops = client.drops(&DropsFilter { port: port.clone() }).await?;
            render(json, &drops, |drops| show::drops(drops))
        }
        Command::Capture(arguments) => capture::capture(&client, arguments, json).await,
        Command::Mirror(command) => mirror::mirror(&client, command, json).await,
        Command::Trace(arguments) => trace::trace(&client, arguments, json).await,
        Command::Why(arguments) => trace::why(&client, arguments, json).await,
        Command::Reload { dry_run } => render(json, &client.reload(*dry_run).await?, show::reload),
        Command::Log { level: Some(level), .. } => {
            render(json, &client.set_log(level).await?, |log| format!("the log's level is {}\n", log.level))
        }
        Command::Log { level: None, lines } => {
            let mut log = client.log().await?;
            log.lines.drain(..log.lines.len() - lines.unwrap_or(0).min(log.lines.len()));
            render(json, &log, |log| match lines {
                Some(_) => log.lines.iter().map(|line| format!("{line}\n")).collect(),
                None => format!("{}\n", log.level),
            })
        }
        Command::Support { output } => support::support(&client, output.as_deref(), json).await,
        Command::Attach(arguments) => {
            let port = helper::attach(cli.socket.clone(), arguments.order()?).await?;
            render(json, &port, show::port_line)
        }
        Command::Detach { name } => {
            client.delete_port(name).await?;
            Ok(done(json, format_args!("port {name} detached")))
        }
        Command::Completions { shell } => complete::script(*shell),
        Command::Man { folder } => Ok(man::man(folder.as_deref()).map_err(Error::from)?),
    }
}

/// Prints what does not work; the code says whether something does not.
async fn check(client: &Client, json: bool) -> Result<ExitCode, ClientError> {
    let troubles = client.status().await?.troubles;
    let all_is_well = troubles.is_empty();
    print(&render(json, &troubles, |troubles| match all_is_well {
        true => "all is well\n".to_owned(),
        false => show::troubles(troubles),
    })?)?;
    Ok(if all_is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn port(client: &Client, command: &PortCommand, json: bool) -> Result<String, ClientError> {
    match command {
        PortCommand::Ls => render(json, &client.ports().await?, |ports| show::ports(ports)),
        PortCommand::Show { name } => render(json, &client.port(name).await?, show::port),
        PortCommand::Add(arguments) => {
            render(json, &client.add_port(&arguments.spec()?).await?, show::port_line)
        }
        PortCommand::Del { name } => {
            client.delete_port(name).await?;
            Ok(done(json, format_args!("port {name} deleted")))
        }
    }
}

async fn fdb(client: &Client, command: &FdbCommand, json: bool) -> Result<String, ClientError> {
    match command.clone() {
        FdbCommand::Ls { network, port, mac } => {
            let entries = client.fdb(&FdbFilter { network, port, mac }).await?;
            render(json, &entries, |entries| show::fdb(entries))
        }
        FdbCommand::Add { network, mac, port } => {
            let entry = client.add_fdb(&StaticEntry { network, mac, port }).await?;
            render(json, &entry, |entry| format!("{} pinned to port {}\n", entry.mac, entry.port))
        }
        FdbCommand::Del { network, mac } => {
            client.delete_fdb(&FdbKey { network, mac }).await?;
            Ok(done(json, format_args!("{mac} removed")))
        }
        FdbCommand::Flush { port, network, all: _ } => {
            let flush = match (port, network) {
                (Some(port), _) => Flush::Port(port),
                (None, Some(network)) => Flush::Network(network),
                (None, None) => Flush::All,
            };
            let flushed = client.flush_fdb(&flush).await?;
            render(json, &flushed, |flushed| format!("{} learned addresses removed\n", flushed.entries))
        }
    }
}

/// Queries periodically and prints the answer, until the daemon ends or standard output is closed.
///
/// `show` also gets the previous answer.
async fn watch<T: Serialize>(
    seconds: u16,
    json: bool,
    ask: impl AsyncFn() -> Result<T, ClientError>,
    show: impl Fn(&T, &T) -> String,
) -> Result<String, ClientError> {
    let mut before = ask().await?;
    loop {
        tokio::time::sleep(Duration::from_secs(seconds.into())).await;
        let now = ask().await?;
        let text = if json { json_line(&now)? } else { show(&before, &now) };
        write(if json { "" } else { clear() })?;
        print(&text)?;
        before = now;
    }
}

/// The sequence that clears a terminal; empty if the output is not a terminal.
fn clear() -> &'static str {
    // Cursor home, then clear to the end: ECMA-48 CUP and ED.
    if io::stdout().is_terminal() { "\x1b[H\x1b[J" } else { "" }
}

fn json_line(value: &impl Serialize) -> Result<String, ClientError> {
    let line = serde_json::to_string(value).map_err(io::Error::from).map_err(Error::from)?;
    Ok(line + "\n")
}

fn render<T: Serialize>(json: bool, value: &T, show: impl Fn(&T) -> String) -> Result<String, ClientError> {
    if !json {
        return Ok(show(value));
    }
    let text = serde_json::to_string_pretty(value).map_err(io::Error::from).map_err(Error::from)?;
    Ok(text + "\n")
}

/// The confirmation, in text output only: programs read the exit code.
fn done(json: bool, sentence: std::fmt::Arguments<'_>) -> String {
    if json { String::new() } else { format!("{sentence}\n") }
}

/// Prints text that contains names chosen by others.
fn print(text: &str) -> Result<(), ClientError> {
    write(&printable_lines(text))
}

fn write(text: &str) -> Result<(), ClientError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `vswitchctl … | head` has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result.map_err(Error::from)?),
    }
}

fn complain(error: &ClientError, json: bool) {
    let refusal = || match error {
        ClientError::Refused(refusal) => refusal.clone(),
        ClientError::NoRights(_) => Error::new(ErrorKind::Forbidden, error.to_string()),
        _ => Error::unavailable(error.to_string()),
    };
    let text = if json { serde_json::to_string(&refusal()).ok() } else { None };
    let text = text.unwrap_or_else(|| format!("vswitchctl: {error}"));
    let _ = writeln!(io::stderr(), "{}", printable_lines(&text));
}

/// Prints help, or what is wrong with the command line: as JSON where that is asked for.
fn usage(error: &clap::Error) -> ExitCode {
    let json = error.use_stderr() && std::env::args_os().any(|argument| argument == "--json");
    let refusal = || Error::invalid(error.render().to_string().trim().to_owned());
    match json.then(|| serde_json::to_string(&refusal())) {
        Some(Ok(text)) => drop(writeln!(io::stderr(), "{text}")),
        _ => drop(error.print()),
    }
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

/// The exit code for the kind of failure; see [`EXIT_CODES`].
pub fn exit_code(error: &ClientError) -> u8 {
    match error {
        ClientError::NotRunning(_)
        | ClientError::Died(_)
        | ClientError::Ended(_)
        | ClientError::Broken(..)
        | ClientError::Unknown(..) => 3,
        ClientError::NoRights(_) => 5,
        ClientError::Refused(refusal) => code_of(refusal.kind),
    }
}

fn code_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Unavailable => 3,
        ErrorKind::NotFound => 4,
        ErrorKind::Forbidden => 5,
        ErrorKind::Invalid | ErrorKind::Conflict | ErrorKind::Internal => 1,
    }
}

/// The default socket of the daemon.
fn default_socket() -> PathBuf {
    vswitch_model::ApiSpec::default().socket
}
