//! The API: HTTP and JSON on a unix socket.
//!
//! [`vswitch_model::api`] are the words on the wire, used by both sides. [`server`] turns requests into calls of a
//! [`Backend`], which the daemon is; it knows nothing of how they are done. The other side is
//! `vswitch-cli`'s client. The OpenAPI document is made from the same types and served at `/v1/openapi.json`.
//!
//! Who may open the socket may do everything: access is a matter of the socket's owner and group.

mod extract;
pub mod inspect;
pub mod reply;
pub mod server;

use futures_util::{future::BoxFuture, stream::BoxStream};

use inspect::CaptureStream;
use vswitch_model::{
    Connect, Error, Name, NetworkSpec, NetworkUpdate, PortSpec, Reference,
    api::{
        Drop, Endpoint, FdbEntry, FdbFilter, FdbKey, Flush, Flushed, Network, Port, Prune, Pruned, Reload,
        StaticEntry, Stats, Status,
        capture::{Capture, CaptureRequest},
        events::{Event, EventsFilter},
        trace::{Trace, TraceRequest, Why, WhyFilter},
        tunnel::{Probe, Tunnel},
    },
};

/// What a [`Backend`] answers, in its time.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// Events, as they become known.
pub type EventStream = BoxStream<'static, Event>;

/// The daemon, as the API sees it. Every error is a sentence for the person who asked.
pub trait Backend: Send + Sync + 'static {
    /// The daemon at a glance.
    fn status(&self) -> Answer<'_, Status>;

    /// Every network, those that are there from the start too, by name.
    fn networks(&self) -> Answer<'_, Vec<Network>>;
    /// One network; `not_found` when there is none.
    fn network(&self, network: Reference) -> Answer<'_, Network>;
    /// Makes a network and chooses what is not told; `conflict` when its name, VLAN id or VNI is taken.
    fn add_network(&self, spec: NetworkSpec) -> Answer<'_, Network>;
    /// Changes a network while containers stay connected; `invalid` for what cannot change.
    fn update_network(&self, network: Reference, update: NetworkUpdate) -> Answer<'_, Network>;
    /// Deletes a network; `forbidden` while containers are in it, `conflict` while ports use it or the configuration file
    /// declares it.
    fn delete_network(&self, network: Reference) -> Answer<'_, ()>;
    /// Deletes the networks that the API made and nobody uses.
    fn prune_networks(&self, prune: Prune) -> Answer<'_, Pruned>;

    /// Every endpoint, by network and name.
    fn endpoints(&self) -> Answer<'_, Vec<Endpoint>>;
    /// Connects a sandbox to a network and chooses what is not told; its interface is made and set up.
    fn connect(&self, network: Reference, connect: Connect) -> Answer<'_, Endpoint>;
    /// Disconnects an endpoint, which is called by its name, its id or its container's; its interface goes.
    fn disconnect(&self, network: Reference, endpoint: Reference) -> Answer<'_, ()>;

    /// Every port, by name.
    fn ports(&self) -> Answer<'_, Vec<Port>>;
    /// One port; `not_found` when there is none.
    fn port(&self, name: Name) -> Answer<'_, Port>;
    /// Makes a port and its interface; `conflict` when a name is taken.
    fn add_port(&self, spec: PortSpec) -> Answer<'_, Port>;
    /// Deletes a port and the interface made for it; `conflict` while the configuration file declares it.
    fn delete_port(&self, name: Name) -> Answer<'_, ()>;

    /// The tunnel at a glance: this host's end, and its peers.
    fn tunnel(&self) -> Answer<'_, Tunnel>;
    /// Measures the way to a peer; `not_found` when there is none, `unavailable` when it does not answer.
    fn probe(&self, peer: Name) -> Answer<'_, Probe>;

    /// The MAC table, or the part of it that the filter names.
    fn fdb(&self, filter: FdbFilter) -> Answer<'_, Vec<FdbEntry>>;
    /// Pins an address to a port, in place of what was learned.
    fn add_fdb(&self, entry: StaticEntry) -> Answer<'_, FdbEntry>;
    /// Forgets one address; `not_found` when it is not in the table.
    fn delete_fdb(&self, key: FdbKey) -> Answer<'_, ()>;
    /// Forgets learned addresses; pinned ones stay.
    fn flush_fdb(&self, flush: Flush) -> Answer<'_, Flushed>;

    /// The counters of every port, network and worker, taken at one moment.
    fn stats(&self) -> Answer<'_, Stats>;
    /// Why frames died: the reasons that occurred, of one port or of all.
    fn drops(&self, port: Option<Name>) -> Answer<'_, Vec<Drop>>;
    /// What happened, and what happens: the latest events, oldest first.
    fn events(&self, filter: EventsFilter) -> Answer<'_, EventStream>;

    /// Captures frames for as long as the stream is read; `conflict` when too many captures go on.
    fn capture(&self, request: CaptureRequest) -> Answer<'_, CaptureStream>;
    /// The captures that go on.
    fn captures(&self) -> Answer<'_, Vec<Capture>>;
    /// Ends a capture when what it has seen is handed over; `not_found` when there is none.
    fn end_capture(&self, id: u64) -> Answer<'_, ()>;
    /// What would become of a frame. Changes nothing.
    fn trace(&self, request: TraceRequest) -> Answer<'_, Trace>;
    /// What is known of an address.
    fn why(&self, filter: WhyFilter) -> Answer<'_, Why>;

    /// Reads the configuration file again and applies the difference; with `dry_run` only says it.
    fn reload(&self, dry_run: bool) -> Answer<'_, Reload>;
}
