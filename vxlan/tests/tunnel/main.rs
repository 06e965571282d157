//! The data plane of the tunnel in memory: frames become datagrams, and datagrams frames. No socket, no root, no clock.

mod books;
mod copies;
mod lab;
mod marks;
mod merging;
mod mtu;
mod packets;
#[path = "../../../switch/tests/it/superframe.rs"]
mod superframe;
