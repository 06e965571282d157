//! The CNI plugin; see [`vswitch_cli::cni`].

use std::process::ExitCode;

fn main() -> ExitCode {
    vswitch_cli::cni::main()
}
