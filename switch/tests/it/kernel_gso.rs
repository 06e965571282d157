//! Our segments against the kernel's own.
//!
//! A super-frame is written to a TAP that takes offload headers; a kernel bridge carries it to a TAP that
//! does not, so the kernel cuts it in software on the way. What is read there must be what [`Segmenter`]
//! makes, byte by byte.
#![expect(clippy::disallowed_methods, reason = "a kernel has its own time")]

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::nested::{Nested, nested};
use super::superframe::{ACK, Addresses, CWR, FIN, PSH, Spec, Transport, specs};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use vswitch::checksum;
use vswitch::offload::{LONG_HEADER, MAX_DATAGRAMS, Offload};
use vswitch::segment::Segmenter;

/// Two TAPs on a bridge, in a network namespace that ends with its thread and descriptors.
struct Bridge {
    offloading: File,
    plain: File,
}

impl Bridge {
    /// Moves the calling thread to a new network namespace and builds the bridge there.
    fn new() -> Self {
        #[expect(unsafe_code, reason = "no safe wrapper")]
        // SAFETY: no memory is shared with the kernel; only this thread's view of the network changes.
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(unshared, 0, "{}", std::io::Error::last_os_error());
        let bridge = Self { offloading: tap("in", libc::IFF_VNET_HDR), plain: tap("out", 0) };
        let size = libc::c_int::try_from(LONG_HEADER).expect("small");
        #[expect(unsafe_code, reason = "no safe wrapper")]
        // SAFETY: TUNSETVNETHDRSZ reads one int, which lives across the call.
        let set =
            unsafe { libc::ioctl(bridge.offloading.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        ip("link add bridge type bridge");
        for port in ["in", "out"] {
            ip(&format!("link set {port} master bridge up"));
        }
        ip("link set bridge up");
        bridge
    }

    /// Sends a frame in by the one TAP and returns `count` frames of the same source from the other, or as
    /// many as come within a second.
    fn carry(&mut self, header: &[u8; LONG_HEADER], frame: &[u8], count: usize) -> Vec<Vec<u8>> {
        let written = self.offloading.write_vectored(&[IoSlice::new(header), IoSlice::new(frame)]);
        assert_eq!(written.expect("the kernel takes the frame"), header.len() + frame.len());
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut frames = Vec::new();
        let mut buf = vec![0; 1 << 16];
        while frames.len() < count && Instant::now() < deadline {
            match self.plain.read(&mut buf) {
                // Not the neighbour discovery of the namespace itself.
                Ok(len) if buf[6..12] == frame[6..12] => frames.push(buf[..len].to_vec()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_micros(100))
                }
                Err(error) => panic!("{error}"),
            }
        }
        frames
    }
}

fn tap(name: &str, flags: i32) -> File {
    let tun = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
    let tun = tun.expect("/dev/net/tun");
    // struct ifreq: a name of 16 bytes and a union of 24, here the flags.
    let mut request = [0u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = i16::try_from(libc::IFF_TAP | libc::IFF_NO_PI | flags).expect("16 bits");
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    #[expect(unsafe_code, reason = "no safe wrapper")]
    // SAFETY: `request` is as long as struct ifreq and outlives the call, which writes the name back into it.
    let answer = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
    tun
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2");
    assert!(status.success(), "ip {arguments}");
}

/// Asserts that we, the kernel and the model make the same wire frames of one super-frame.
fn compare(bridge: &mut Bridge, spec: &Spec, size: u16) {
    let (header, frame) = (spec.gso_header(size), spec.offloaded());
    let offload = Offload::parse(&header, &frame).expect("valid");
    let name =
        format!("{} bytes by {size}: {:?}", spec.payload.len(), Spec { payload: vec![], ..spec.clone() });
    compare_frames(bridge, &name, &frame, offload, &spec.cut(size.into()));
}

/// The same for a super-frame in a tunnel.
fn compare_nested(bridge: &mut Bridge, nested: &Nested, size: u16) {
    let frame = nested.offloaded();
    let offload = Offload::parse_long(&nested.header(size), &frame).expect("valid");
    let Nested { outer, shim, inner, csum } = nested;
    let shown = Spec { payload: vec![], ..inner.clone() };
    let name = format!("{} bytes by {size}: {shown:?} in {shim:?} in {outer:?}, {csum}", inner.payload.len());
    compare_frames(bridge, &name, &frame, offload, &nested.cut(size.into()));
}

fn compare_frames(bridge: &mut Bridge, name: &str, frame: &[u8], offload: Offload, model: &[Vec<u8>]) {
    let theirs = bridge.carry(&offload.emit_long(), frame, offload.segments(frame.len()));
    assert_eq!((theirs.len(), model.len()), (offload.segments(frame.len()), theirs.len()), "{name}");
    let segments = Segmenter::new(frame, &offload).expect("of this frame");
    for (index, ((segment, theirs), model)) in segments.zip(&theirs).zip(model).enumerate() {
        let mut ours = vec![0; segment.wire_len()];
        segment.copy_into(&mut ours).expect("room");
        assert_eq!(&ours, theirs, "segment {index} of {name}");
        assert_eq!(theirs, model, "segment {index} of {name}");
    }
}

const V4: Addresses = Addresses::V4([10, 9, 0, 2, 10, 9, 0, 3]);
const V6: Addresses = Addresses::V6([0xfd; 32]);
const TCP: Transport =
    Transport::Tcp { sequence: u32::MAX - 3000, flags: ACK | FIN | PSH | CWR, options: 12 };

fn spec(addresses: Addresses, transport: Transport) -> Spec {
    let payload = (0u8..251).cycle().take(60_000).collect();
    Spec {
        tags: vec![],
        addresses,
        ip_options: 0,
        extensions: vec![],
        id: 0xfff0,
        transport,
        accurate: false,
        payload,
    }
}

#[test]
#[ignore = "needs root and a TAP"]
fn the_kernel_cuts_the_same() {
    let mut bridge = Bridge::new();
    let plain = [spec(V4, TCP), spec(V6, TCP), spec(V4, Transport::Udp), spec(V6, Transport::Udp)];
    let tagged = plain.clone().map(|spec| Spec { tags: vec![[0x81, 0, 0x20, 5]], ..spec });
    let options = [TCP, Transport::Udp].map(|transport| Spec { ip_options: 8, ..spec(V4, transport) });
    let extensions =
        [TCP, Transport::Udp].map(|transport| Spec { extensions: vec![(60, 1)], ..spec(V6, transport) });
    for spec in plain.into_iter().chain(tagged).chain(options).chain(extensions) {
        compare(&mut bridge, &spec, 1000);
        compare(&mut bridge, &spec, 1399);
    }
}

#[test]
#[ignore = "needs root and a TAP"]
fn the_kernel_completes_the_same() {
    let mut bridge = Bridge::new();
    for (addresses, transport) in [(V4, TCP), (V6, TCP), (V4, Transport::Udp), (V6, Transport::Udp)] {
        let spec = Spec { payload: b"0123456789".to_vec(), ..spec(addresses, transport) };
        let mut ours = spec.offloaded();
        let mut header = [0; LONG_HEADER];
        header[..10].copy_from_slice(&spec.csum_header());
        let theirs = bridge.carry(&header, &ours, 1);
        assert!(checksum::complete(&mut ours, spec.transport_at(), spec.checksum_at()));
        assert_eq!(theirs, [ours], "{addresses:?} {transport:?}");
    }
}

/// The kernel never refuses what we accept, and any shape of frame is cut the same.
#[test]
#[ignore = "needs root and a TAP"]
fn the_kernel_cuts_anything_the_same() {
    let mut bridge = Bridge::new();
    let mut runner = TestRunner::deterministic();
    let strategy = (specs(), 100..1400u16);
    for _ in 0..500 {
        let (spec, size) = strategy.new_tree(&mut runner).expect("a value").current();
        if spec.payload.len().div_ceil(size.into()) <= MAX_DATAGRAMS {
            compare(&mut bridge, &spec, size);
        }
    }
}

/// The same for encapsulated super-frames, since Linux 6.17.
#[test]
#[ignore = "needs root, a TAP and Linux 6.17"]
fn the_kernel_cuts_the_same_in_a_tunnel() {
    let mut bridge = Bridge::new();
    let of = [(V4, TCP), (V6, TCP), (V4, Transport::Udp), (V6, Transport::Udp)];
    for outer in [V4, V6] {
        for (inner, transport) in of {
            for csum in [false, true] {
                let outer = Spec { payload: vec![], ..spec(outer, Transport::Udp) };
                let shim = vec![8, 0, 0, 0, 0, 0, 77, 0];
                let nested = Nested { outer, shim, inner: spec(inner, transport), csum };
                compare_nested(&mut bridge, &nested, 1000);
                compare_nested(&mut bridge, &nested, 1299);
            }
        }
    }
}

#[test]
#[ignore = "needs root, a TAP and Linux 6.17"]
fn the_kernel_cuts_anything_the_same_in_a_tunnel() {
    let mut bridge = Bridge::new();
    let mut runner = TestRunner::deterministic();
    let strategy = (nested(), 100..1100u16);
    for _ in 0..500 {
        let (nested, size) = strategy.new_tree(&mut runner).expect("a value").current();
        if (2..=MAX_DATAGRAMS).contains(&nested.inner.payload.len().div_ceil(size.into())) {
            compare_nested(&mut bridge, &nested, size);
        }
    }
}
