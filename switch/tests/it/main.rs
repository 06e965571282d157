//! The switch from outside: whole engines in memory, and what they send.

mod balance;
mod capture;
mod datagrams;
mod forwarding;
mod ingress;
#[cfg(feature = "os")]
mod kernel_gso;
mod lab;
mod limit;
mod mirror;
mod model;
mod neighbours;
mod nested;
mod segment;
mod spread;
mod superframe;
mod too_big;
mod trace;
mod tunnel;
