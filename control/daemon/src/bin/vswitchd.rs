//! The switch's daemon; see [`vswitch_daemon`].

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use vswitch_daemon::{LogFormat, Options, store};

/// A learning Ethernet switch for containers, in userspace.
///
/// Reads net.toml, creates its networks and ports, and forwards frames until SIGTERM or SIGINT.
/// SIGHUP reads the file again and applies the difference.
#[derive(Debug, Parser)]
#[command(name = "vswitchd", version, max_term_width = 100)]
#[command(
    after_help = "Examples:\n  vswitchd --check --config net.toml\n  vswitchd --config net.toml --log debug\n\n\
    Exit codes:\n  0  stopped by a signal, or the file is valid\n  1  could not start, or failed\n  2  usage: the command \
    line or the file is invalid"
)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "VSWITCH_CONFIG", default_value = "/etc/vswitch/net.toml")]
    config: PathBuf,
    /// Only check the file and report its errors.
    #[arg(long)]
    check: bool,
    /// Format of the log.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// Log level: error, warn, info, debug, trace, or a filter such as "info,vswitch::device=trace".
    #[arg(long, value_name = "LEVEL", env = "VSWITCH_LOG", default_value = "info")]
    log: String,
    /// Remove the interfaces, the firewall table and the rules that vswitchd keeps on this host, and exit: before it is
    /// uninstalled. Containers lose their networks; the store is left.
    #[arg(long, conflicts_with = "check")]
    remove_all: bool,
    /// Read a store's database from standard input and print it as lines: the daemon reads a possibly damaged database
    /// this way.
    #[arg(long, hide = true)]
    read_store: bool,
}

fn main() -> ExitCode {
    let Arguments { config, check, log_format, log, remove_all, read_store } = Arguments::parse();
    if read_store {
        return store::read_to_stdout();
    }
    vswitch_daemon::run(Options { config, check, remove_all, log_format, log })
}
