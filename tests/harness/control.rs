//! The parts of the daemon's crates that tests use, in one place.

pub use vswitch_control::{
    config, gateway,
    model::Netns as Place,
    netns::{Namespace, run_in},
};
