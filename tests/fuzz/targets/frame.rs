//! Any octets, with any offload header, into every kind of port of a switch.
#![no_main]

#[path = "../lab.rs"]
mod lab;

use lab::Lab;
use libfuzzer_sys::fuzz_target;
use vswitch::{
    addr::Timestamp,
    device::mem::OwnedFrame,
    offload::{Offload, VNET_HEADER},
};

fuzz_target!(|data: &[u8]| {
    let Some((header, frame)) = data.split_first_chunk::<VNET_HEADER>() else { return };
    let offload = Offload::parse(header, frame).unwrap_or_default();
    let mut lab = Lab::new();
    for port in 0..lab::PORTS {
        lab.put(port, OwnedFrame { offload, bytes: frame.to_vec() });
        lab.turn(port, Timestamp::default());
        for (to, packet) in lab.take_all() {
            assert_ne!(to, port, "never out of the ingress");
            assert!(packet.bytes.len() <= frame.len() + 4, "a tag is all that is added");
        }
        lab.check_books();
    }
});
