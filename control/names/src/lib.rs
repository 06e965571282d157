//! Names of the stations of a host's networks, and the DNS server that answers for them.
//!
//! ```text
//! records ─ Network::new ─> Network ┐
//!                                   ├─ Table, replaced as a whole
//! local stations, and their networks┘     └─ answer(query, who asks) ─> response, or "ask upstream"
//! ```
//! A name means what it means to the one who asks: a station sees the names of its own networks, in the order in which it joined
//! them. The records may be of this host or of any other: nothing here knows where a station is.
//!
//! | module | contents |
//! |---|---|
//! | [`table`] | the names of each network, and who asks for them |
//! | [`question`] | a name as it was asked: a name of ours, an address, a service, or nothing of ours |
//! | [`answer`](mod@answer) | from the bytes of a query to those of a response |
//! | [`reply`] | whether a response of another server belongs to a query |
//! | `server`, with the feature `server` | sockets, bounds, upstream servers |
//!
//! What is left out: zones that are not ours are never cached, and nothing is signed.

pub mod answer;
pub mod question;
pub mod reply;
#[cfg(feature = "server")]
pub mod server;
pub mod table;

pub use answer::{Outcome, Transport, Verdict, answer};
pub use table::{Asker, Network, Part, Port, Record, StationId, Table};
