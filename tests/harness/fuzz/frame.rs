//! Any bytes, with any offload header, into every kind of port of a switch.

use vswitch::{
    addr::Timestamp,
    device::mem::OwnedFrame,
    offload::{LONG_HEADER, Offload},
};

use super::ports::{PORTS, Ports};

/// Forwards the frame that follows an offload header.
pub fn frame(data: &[u8]) {
    let Some((header, frame)) = data.split_first_chunk::<LONG_HEADER>() else { return };
    let offload = Offload::parse_long(header, frame).unwrap_or_default();
    let mut ports = Ports::new();
    for port in 0..PORTS {
        let packet = OwnedFrame { offload, bytes: frame.to_vec() };
        for (to, packet) in ports.switch(port, packet, Timestamp::default()) {
            assert_ne!(to, port, "never out of the ingress");
            assert!(packet.bytes.len() <= frame.len() + 4, "a tag is all that is added");
        }
        ports.check_books();
    }
}
