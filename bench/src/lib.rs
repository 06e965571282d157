//! Benches of vswitchd.
//!
//! In memory ([`memory`]): what deciding about a frame ([`forward`]) and crossing a tunnel ([`tunnel`]) cost, without any
//! kernel. On the wire ([`wire`]): two matrices join two containers by vswitchd, by the kernel's bridge and by other userspace
//! switches, one after the other in every round, and put the same loads on each: on one host, and through tunnels between two.
//!
//! ```text
//!   wire       rounds of sites of systems of loads
//!     lab        two containers and their hosts: network namespaces
//!     underlay   what joins the hosts
//!     systems    what joins the containers
//!     probes     what is measured between them
//!     report     samples → medians, paired ratios, targets → table, JSON, SVG
//! ```
//!
//! With container engines: the same matrix between containers of Docker ([`systems::Docker`]), and how long it takes to attach
//! one ([`mod@attach`]), by its own drivers and by ours.
//!
//! Of the control plane ([`control`]): how long its commands take with a thousand endpoints present.
//!
//! `docs/benchmarks.md` says how to run it and how to read what it prints.

pub mod attach;
pub mod control;
pub mod engine;
pub mod environment;
pub mod error;
pub mod forward;
pub mod interrupt;
pub mod lab;
pub mod memory;
pub mod overhead;
pub mod probes;
pub mod process;
pub mod report;
pub mod systems;
pub mod targets;
pub mod tunnel;
pub mod underlay;
pub mod wire;
