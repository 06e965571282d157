//! Access to this host's kernel.
//!
//! | module | its story |
//! |---|---|
//! | [`netns`], [`link`] | namespaces and interfaces |
//! | [`limited`] | calls with a time limit on files that a caller names |
//! | [`gateway`] | the outside world: nftables, published ports (feature `gateway`) |
//! | [`socket`], [`channel`] | unix sockets; descriptors handed over them |
//! | [`tun`], [`queue`], [`probe`] | the TAP driver; the kernel's counters of a TAP; path MTU discovery |
//! | [`descriptors`], [`memory`] | how much of them a request may take |
//! | [`kept`] | memory that outlives the process |
//! | [`random`] | random numbers |

pub mod channel;
pub mod descriptors;
#[cfg(feature = "gateway")]
pub mod gateway;
pub mod kept;
pub mod limited;
pub mod link;
pub mod memory;
mod netlink;
pub mod netns;
pub mod probe;
pub mod queue;
pub mod random;
pub mod socket;
pub mod tun;
