//! Benches of vswitchd.
//!
//! In memory ([`memory`]): what deciding about a frame ([`forward`]) and crossing a tunnel ([`tunnel`]) cost, without any kernel. On the wire ([`wire`]):
//! the wire matrix joins two containers by vswitchd, by the kernel's bridge and by other userspace switches, one
//! after the other in every round, and puts the same loads on each:
//!
//! ```text
//!   wire       rounds of systems of loads
//!     lab        two containers and the room of the switch: network namespaces
//!     systems    what joins them
//!     probes     what is measured between them
//!     report     samples → medians, paired ratios, targets → table, JSON, SVG
//! ```
//!
//! Of the control plane ([`control`]): how long its commands take with a thousand endpoints present.
//!
//! `docs/benchmarks.md` says how to run it and how to read what it prints.

pub mod control;
pub mod environment;
pub mod error;
pub mod forward;
pub mod interrupt;
pub mod lab;
pub mod memory;
pub mod probes;
pub mod process;
pub mod report;
pub mod systems;
pub mod targets;
pub mod tunnel;
pub mod wire;
