//! The CNI plugin; see [`vswitch_control::cni`].

use std::process::ExitCode;

fn main() -> ExitCode {
    vswitch_control::cni::main()
}
