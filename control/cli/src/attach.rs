//! The tap helper; the conversation with the daemon is [`vswitch_model::attach`]'s.

pub mod helper;
pub mod target;
