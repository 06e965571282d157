//! Benches of vswitchd.
//!
//! In memory ([`memory`]): the cost of forwarding a frame ([`forward`]) and of a tunnel ([`tunnel`]), without a kernel.
//! On the wire ([`wire`]): two matrices connect two containers by vswitchd, by the kernel's bridge and by other
//! userspace switches, one after the other in every round, and apply the same loads to each: on one host, and through
//! tunnels between two.
//!
//! ```text
//!   wire       rounds of sites of systems of loads
//!     lab        two containers and their hosts: network namespaces
//!     underlay   connects the hosts
//!     systems    connect the containers
//!     probes     measurements between them
//!     report     samples → medians, paired ratios, targets → table, JSON, SVG
//! ```
//!
//! With container engines: the same matrix between containers of Docker ([`systems::Docker`]), and the time to attach
//! one ([`mod@attach`]), with its own drivers and with ours.
//!
//! The control plane ([`control`]): durations of its commands with a thousand endpoints present.
//!
//! Names ([`names`]): dnsperf beside Docker's own server.
//!
//! `docs/benchmarks.md` describes how to run it and how to read its output.

pub mod attach;
pub mod control;
pub mod engine;
pub mod environment;
pub mod error;
pub mod forward;
pub mod interrupt;
pub mod lab;
pub mod memory;
pub mod names;
pub mod overhead;
pub mod probes;
pub mod process;
pub mod report;
pub mod systems;
pub mod targets;
pub mod tunnel;
pub mod underlay;
pub mod wire;
