//! This host's kernel, asked and told.
//!
//! | module | its story |
//! |---|---|
//! | [`netns`], [`link`] | namespaces and interfaces |
//! | [`gateway`] | the outside world: nftables, published ports (feature `gateway`) |
//! | [`socket`], [`channel`] | unix sockets; descriptors handed over them |
//! | [`queue`], [`probe`] | what the kernel counts at a TAP; how long a packet may be on its way |
//! | [`random`] | chance |

pub mod channel;
#[cfg(feature = "gateway")]
pub mod gateway;
pub mod link;
pub mod netns;
pub mod probe;
pub mod queue;
pub mod random;
pub mod socket;
