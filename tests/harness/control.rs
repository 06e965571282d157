//! What tests use of the daemon's own crates, gathered here, so that they follow when it moves.

pub use vswitch_control::{
    config, gateway,
    model::Netns as Place,
    netns::{Namespace, run_in},
};
