//! Tests with a real kernel: they need root, iproute2 and, some of them, other programs. `make test-kernel` installs what
//! is missing.
//!
//! One binary, so that there is one link step; `-- gateway::` selects a module. Each test has namespaces, files and
//! processes of its own, so any two can run in parallel, except `scale`: a thousand interfaces keep the kernel busy, so it
//! runs alone.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

mod accelerate;
mod capture;
mod cli;
mod cluster;
mod crash;
mod directory;
mod engines;
mod gateway;
mod guard;
mod hostile;
mod hoststack;
mod isolation;
mod l2;
mod life;
mod limit;
mod loops;
mod metrics;
mod mirror;
mod names;
mod nested;
mod network;
mod observe;
mod offload;
mod pair;
mod platform;
mod replay;
mod scale;
mod services;
mod store;
mod switch;
mod too_long;
mod tunnel;
mod underlay;
mod vlan;
mod vxlan;
mod web;
