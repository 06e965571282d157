//! The switch's daemon; see [`vswitch_daemon`].

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use vswitch_daemon::{LogFormat, Options, store};

/// A learning Ethernet switch for containers, in userspace.
///
/// Reads net.toml, makes its networks and ports, and forwards until it is told to stop (SIGTERM, SIGINT).
/// SIGHUP reads the file again and applies the difference.
#[derive(Debug, Parser)]
#[command(name = "vswitchd", version, max_term_width = 100)]
#[command(
    after_help = "Examples:\n  vswitchd --check --config net.toml\n  vswitchd --config net.toml --log debug\n\n\
    Exit codes:\n  0  stopped as told, or the file is right\n  1  could not start, or failed\n  2  usage: the command \
    line or the file makes no sense"
)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "VSWITCH_CONFIG", default_value = "/etc/vswitch/net.toml")]
    config: PathBuf,
    /// Only check the file and say what is wrong with it.
    #[arg(long)]
    check: bool,
    /// How the log is written.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter such as "info,vswitch::device=trace".
    #[arg(long, value_name = "LEVEL", env = "VSWITCH_LOG", default_value = "info")]
    log: String,
    /// Read a store's database from standard input and tell it in lines: how the daemon looks at one that may be damaged.
    #[arg(long, hide = true)]
    read_store: bool,
}

fn main() -> ExitCode {
    let Arguments { config, check, log_format, log, read_store } = Arguments::parse();
    if read_store {
        return store::read_to_stdout();
    }
    vswitch_daemon::run(Options { config, check, log_format, log })
}
