//! Shows and controls a running vswitchd; see [`vswitch_cli::ctl`].

use std::process::ExitCode;

fn main() -> ExitCode {
    vswitch_cli::ctl::main()
}
