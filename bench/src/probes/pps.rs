//! Frames of 64 bytes at the maximum rate: offered, delivered and received per second.
//!
//! One thread of container a sends UDP datagrams by `sendmmsg`, one thread of b takes them by `recvmmsg`, both through
//! the whole stack of their kernel, like an application. The receiver polls twice per millisecond instead of waiting:
//! waking it for each frame would be charged to the switch, in the system call that delivers the frame. *Offered* is
//! what the sender passed to the kernel, *delivered* what container b's interface counted, *received* what its
//! application read: the figure.

use std::{
    fs,
    io::IoSlice,
    net::UdpSocket,
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use rustix::net::{
    MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg, sockopt::set_socket_recv_buffer_size_force,
};

use crate::{
    error::{Doing, Error, Result},
    interrupt,
    lab::{INTERFACE, Lab, Namespace},
    report::{Better, Figure, Reading},
};

const PORT: u16 = 7009;
/// 14 Ethernet + 20 IPv4 + 8 UDP + 18 = 60 bytes, 64 with frame check sequence: the smallest frame.
const PAYLOAD: [u8; 18] = [0; 18];
/// Datagrams per system call.
const BATCH: u8 = 64;
/// Sleep of the receiver when its socket is empty.
const NAP: Duration = Duration::from_micros(500);
/// Warm-up for queues and caches before counting starts.
const WARM_UP: Duration = Duration::from_millis(300);

pub(super) fn run(lab: &Lab, time: Duration) -> Result<Vec<Reading>> {
    let address = (lab.b.address, PORT);
    let receiver = lab.b.namespace.enter(|| UdpSocket::bind(address))?.doing("bind the receiver")?;
    // A deep queue, beyond net.core.rmem_max: frames that arrive while the receiver sleeps are not lost. A small
    // frame is charged with about 1 KiB, so this holds some ten milliseconds.
    set_socket_recv_buffer_size_force(&receiver, 8 << 20).doing("prepare the receiver")?;
    let sender = lab.a.namespace.enter(|| UdpSocket::bind((lab.a.address, 0)))?.doing("bind the sender")?;
    sender.connect(address).doing("address the sender")?;

    let (stop, offered, received) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let counted = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                match receive(&receiver) {
                    0 => std::thread::sleep(NAP),
                    count => _ = received.fetch_add(count, Relaxed),
                }
            }
        });
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                offered.fetch_add(send(&sender), Relaxed);
            }
        });
        let count = || {
            let delivered = delivered(&lab.b.namespace)?;
            Ok::<_, Error>([offered.load(Relaxed), delivered, received.load(Relaxed)])
        };
        let measure = || {
            interrupt::sleep(WARM_UP)?;
            let (start, before) = (Instant::now(), count()?);
            interrupt::sleep(time)?;
            Ok::<_, Error>((before, count()?, start.elapsed().as_secs_f64()))
        };
        let counted = measure();
        stop.store(true, Relaxed);
        counted
    });
    let (before, after, seconds) = counted?;
    let words = ["offered", "delivered", "received"];
    let readings = words.iter().zip(before.iter().zip(after)).map(|(word, (before, after))| {
        let (key, label) = (format!("pps64.{word}"), format!("64 B frames {word}"));
        let figure = Figure::new(key, label, "kpps", Better::Higher).headline(*word == "received");
        figure.is((after - before) as f64 / seconds / 1e3)
    });
    Ok(readings.rev().collect())
}

/// Sends one batch and returns the number of datagrams the kernel accepted.
fn send(socket: &UdpSocket) -> u64 {
    let payload = [IoSlice::new(&PAYLOAD)];
    let mut controls: [SendAncillaryBuffer<'_, '_, '_>; BATCH as usize] =
        std::array::from_fn(|_| Default::default());
    let mut messages: Vec<_> = controls.iter_mut().map(|control| MMsgHdr::new(&payload, control)).collect();
    // ENOBUFS and similar errors are signs of overload; continue with the next batch.
    sendmmsg(socket, &mut messages, SendFlags::empty()).map_or(0, |sent| sent as u64)
}

/// Receives at most one batch, and returns the number of datagrams.
fn receive(socket: &UdpSocket) -> u64 {
    let mut byte = [0_u8; PAYLOAD.len()];
    let mut slice = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    // rustix has no recvmmsg, and a system call for each frame would measure the receiver.
    // SAFETY: mmsghdr holds integers and pointers; all-zero is a valid value for it, with null pointers.
    #[expect(unsafe_code, reason = "libc gives mmsghdr no constructor")]
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_iov = &raw mut slice;
    message.msg_hdr.msg_iovlen = 1;
    let mut messages = [message; BATCH as usize];
    // SAFETY: the array is as long as we say, and each element points to `slice` and through it to `byte`, which
    // outlive the call. All write to the same bytes one after the other, and they are never read.
    #[expect(unsafe_code, reason = "a system call without a safe wrapper")]
    let count = unsafe {
        let timeout = std::ptr::null_mut();
        libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), BATCH.into(), libc::MSG_DONTWAIT, timeout)
    };
    u64::try_from(count).unwrap_or(0)
}

/// Frames that the interface of a namespace has received, from `/proc/net/dev`.
fn delivered(namespace: &Namespace) -> Result<u64> {
    let table = namespace.enter(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
    let table = table.doing("read /proc/net/dev")?;
    packets(&table).ok_or_else(|| Error::Answer { from: "/proc/net/dev".into(), missing: INTERFACE.into() })
}

fn packets(table: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.trim().strip_prefix(INTERFACE)?.strip_prefix(':'))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_cross_the_loopback() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        assert_eq!(send(&sender), u64::from(BATCH));
        assert_eq!(receive(&receiver), u64::from(BATCH));
        assert_eq!(receive(&receiver), 0);
    }

    #[test]
    fn the_second_number_is_the_packets() {
        let table = "Inter-| Receive\n    lo: 1 2 0\n  eth0: 9000 70 0 0\n";
        assert_eq!(packets(table), Some(70));
        assert_eq!(packets("  eth01: 1 2\n"), None);
    }
}
