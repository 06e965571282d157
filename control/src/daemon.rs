//! The daemon's options.

use std::{path::PathBuf, process::ExitCode};

use clap::ValueEnum;

/// How the daemon is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Only check the file.
    pub check: bool,
    /// How the log is written.
    pub log_format: LogFormat,
    /// A level, or a filter as `tracing_subscriber::EnvFilter` reads it.
    pub log: String,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object per line.
    Json,
}

/// Runs the daemon until it is told to stop.
pub fn run(options: Options) -> ExitCode {
    drop(options);
    ExitCode::FAILURE
}
