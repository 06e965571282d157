//! Looks at and commands a running vswitchd; see [`vswitch_control::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    vswitch_control::cli::main()
}
