//! What the hosts of a cluster know of each other: networks, addresses, the place of every endpoint, and who is there.
//!
//! A store that all hosts reach has the truth ([`store`]), in a layout of keys ([`keys`]) and records ([`record`]). Each host
//! keeps a copy ([`mirror`]) and decides by itself what to write ([`core`]), in a state machine without I/O and clock that a
//! simulation drives through years of faults (`tests/simulation.rs`).
//!
//! Left to others: what the switch does with the directory, and how a host gets at the store.

pub mod blocks;
pub mod core;
pub mod keys;
pub mod mirror;
pub mod record;
pub mod store;
