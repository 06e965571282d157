//! What tests use of the daemon's own crates, gathered here, so that they follow when it moves.

pub use vswitch_daemon::config;
pub use vswitch_host::{
    gateway,
    netns::{Namespace, run_in},
};
pub use vswitch_model::{Netns as Place, publish};
