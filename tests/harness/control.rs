//! The parts of the daemon's crates that tests use, in one place.

pub use vswitch_daemon::config;
pub use vswitch_host::{
    gateway,
    netns::{Namespace, run_in},
};
pub use vswitch_model::{Netns as Place, publish};
