//! Access to this host's kernel.
//!
//! | module | its story |
//! |---|---|
//! | [`netns`], [`link`] | namespaces and interfaces |
//! | [`gateway`] | the outside world: nftables, published ports (feature `gateway`) |
//! | [`socket`], [`channel`] | unix sockets; descriptors handed over them |
//! | [`tun`], [`queue`], [`probe`] | the TAP driver; the kernel's counters of a TAP; path MTU discovery |
//! | [`random`] | random numbers |

pub mod channel;
#[cfg(feature = "gateway")]
pub mod gateway;
pub mod link;
pub mod netns;
pub mod probe;
pub mod queue;
pub mod random;
pub mod socket;
pub mod tun;
