//! How fast checksums, offload headers and software segmentation are on this machine, one core, data in L2.
//!
//! `cargo run --release --example segment_speed --no-default-features`
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::{hint::black_box, time::Instant};

use vswitch::checksum::Sum;
use vswitch::headers::MAX_HEADER;
use vswitch::offload::{Offload, VNET_HEADER};
use vswitch::segment::Segmenter;

/// Ethernet, IPv4 and TCP headers of a super-frame with 64000 bytes of payload.
#[rustfmt::skip]
const HEADERS: [u8; 54] = [
    2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00,
    0x45, 0, 0xfa, 0x28, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 9, 0, 2, 10, 9, 0, 3,
    0x9c, 0x40, 0x13, 0x89, 0, 0, 0, 1, 0, 0, 0, 7, 0x50, 0x10, 0x20, 0, 0, 0, 0, 0,
];
const PAYLOAD: usize = 64_000;
/// NEEDS_CSUM, TCPV4, hdr_len 54, gso_size 1448, checksum at 34 + 16.
const TSO: [u8; VNET_HEADER] = [1, 1, 54, 0, 0xa8, 0x05, 34, 0, 16, 0];
const CSUM: [u8; VNET_HEADER] = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0];

fn main() {
    let frame: Vec<u8> = HEADERS.into_iter().chain((0..=255).cycle().take(PAYLOAD)).collect();
    for bytes in [64, 256, 1448, 9000, PAYLOAD] {
        let data = &frame[54..54 + bytes];
        report(&format!("checksum of {bytes} bytes"), bytes, || Sum::of(black_box(data)));
    }
    for (name, header) in [("nothing", [0; VNET_HEADER]), ("checksum", CSUM), ("TSO", TSO)] {
        report(&format!("parse a header that says {name}"), 0, || Offload::parse(black_box(&header), &frame));
    }
    let offload = Offload::parse(&TSO, &frame).expect("valid");
    let mut buf = [0; 2048];
    report("copy 64000 bytes", PAYLOAD, || {
        for chunk in black_box(&frame).chunks(1502) {
            black_box(&mut buf)[..chunk.len()].copy_from_slice(chunk);
        }
    });
    report("segment 64000 bytes by 1448, headers only", PAYLOAD, || {
        for segment in Segmenter::new(black_box(&frame), &offload).expect("valid") {
            segment.write_header(black_box(&mut buf[..MAX_HEADER]));
        }
    });
    report("segment 64000 bytes by 1448, copied", PAYLOAD, || {
        for segment in Segmenter::new(black_box(&frame), &offload).expect("valid") {
            segment.copy_into(black_box(&mut buf));
        }
    });
}

/// Prints the best of five runs of `work`, which handles `bytes` per call.
fn report<T>(name: &str, bytes: usize, mut work: impl FnMut() -> T) {
    let calls = 400_000_000 / (bytes + 400);
    let run = |_| {
        let start = Instant::now();
        for _ in 0..calls {
            black_box(work());
        }
        start.elapsed().as_secs_f64() / calls as f64
    };
    let best = (0..5).map(run).fold(f64::INFINITY, f64::min);
    print!("{name:44} {:9.1} ns", best * 1e9);
    match bytes {
        0 => println!(),
        _ => println!(" {:7.1} GB/s", bytes as f64 / best / 1e9),
    }
}
