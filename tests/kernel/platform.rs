//! Kernel behaviour that the switch relies on, one test each. If another kernel causes trouble, look here first.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use vswitch::{
    device::tap::{Tap, TapOptions},
    offload::{LONG_HEADER, VNET_HEADER},
};
use vswitch_tests::{
    Netns, eventually,
    pattern::Pattern,
    raw::{BROADCAST, EXPERIMENT, frame, set_option, tagged},
    udp,
};

/// The long offload header, and the short one with which it begins.
const HEADER: usize = LONG_HEADER;
const SHORT: usize = VNET_HEADER;
const STATION: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Creates a TAP `tap0` with offloads, up, in a namespace that sends nothing by itself.
fn tap(netns: &Netns) -> OwnedFd {
    netns.silence();
    let mut tap = netns.run(|| Tap::open("tap0", TapOptions { exclusive: true, persist: false })).unwrap();
    tap.set_offload(true).unwrap();
    netns.ip("link set tap0 up");
    tap.into_fd()
}

/// A veth pair `v0` between two namespaces that send nothing by themselves.
fn veth() -> (Netns, Netns) {
    let (near, far) = (Netns::new("near"), Netns::new("far"));
    near.ip(&format!("link add v0 type veth peer name v0 netns {}", far.name()));
    for netns in [&near, &far] {
        netns.silence();
        netns.ip("link set v0 up");
    }
    // Until the kernel has noticed the carrier, it drops what is sent.
    for netns in [&near, &far] {
        eventually("the link is up", || netns.ip("-o link show v0").contains("state UP").then_some(()));
    }
    (near, far)
}

/// An unbound AF_PACKET socket, which receives from all interfaces of its namespace.
fn packet(netns: &Netns, options: &[libc::c_int]) -> Socket {
    // ETH_P_ALL, in network byte order.
    let all = Protocol::from(i32::from(3_u16.to_be()));
    let socket = netns.run(|| Socket::new(Domain::PACKET, Type::RAW, Some(all)).unwrap());
    for option in options {
        set_option(socket.as_raw_fd(), libc::SOL_PACKET, *option, &1).unwrap();
    }
    socket.set_nonblocking(true).unwrap();
    socket
}

// include/uapi/linux/if_packet.h
const IGNORE_OUTGOING: libc::c_int = 23;
const PACKET_VNET_HDR_SZ: libc::c_int = 24;

fn receive(socket: &Socket) -> io::Result<Vec<u8>> {
    let mut buffer = [MaybeUninit::uninit(); 1 << 16];
    let len = socket.recv(&mut buffer)?;
    // socket2 guarantees that the first `len` bytes are initialised; only those are copied.
    let mut vector = vec![0; len];
    for (to, from) in vector.iter_mut().zip(&buffer[..len]) {
        #[expect(unsafe_code, reason = "recv returns how many bytes it has written, but not the bytes")]
        // SAFETY: within the first `len` bytes, which recv has written.
        let byte = unsafe { from.assume_init() };
        *to = byte;
    }
    Ok(vector)
}

fn read(tap: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 1 << 17];
    let len = rustix::io::read(tap, &mut buffer[..])?;
    buffer.truncate(len);
    Ok(buffer)
}

fn errno(error: &io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

#[test]
fn a_tap_takes_all_offloads_and_uso_only_for_both_families() {
    let netns = Netns::new("offloads");
    let tap = tap(&netns);
    // include/uapi/linux/if_tun.h: CSUM, TSO4, TSO6, TSO_ECN; USO4, USO6.
    let (tso, uso4, uso6) = (0x0f, 0x20, 0x40);
    let ask = |offloads: libc::c_ulong| {
        #[expect(unsafe_code, reason = "the TUN ioctls have no safe wrapper")]
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        let answer = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, offloads) };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error().raw_os_error().unwrap()) }
    };
    assert_eq!(ask(tso | uso4 | uso6), Ok(()), "Linux 6.2 and later");
    assert_eq!(ask(tso | uso4), Err(libc::EINVAL));
    assert_eq!(ask(tso | uso6), Err(libc::EINVAL));
    assert_eq!(ask(tso), Ok(()));
    assert_eq!(ask(0), Ok(()));
}

#[test]
fn frames_come_behind_a_long_header_by_tap_and_a_short_one_by_packet_socket() {
    let netns = Netns::new("header");
    let tap = tap(&netns);
    let sent = frame(BROADCAST, STATION, EXPERIMENT, b"hello");
    netns.raw("tap0").send(&sent);
    let came = read(&tap).unwrap();
    assert_eq!((&came[..HEADER], &came[HEADER..]), (&[0; HEADER][..], &sent[..]));

    let (near, far) = veth();
    let socket = packet(&far, &[libc::PACKET_VNET_HDR]);
    near.raw("v0").send(&sent);
    let came = eventually("the frame comes", || receive(&socket).ok());
    assert_eq!(&came[SHORT..], sent);
    let size = libc::c_int::try_from(HEADER).unwrap();
    let refused = set_option(socket.as_raw_fd(), libc::SOL_PACKET, PACKET_VNET_HDR_SZ, &size);
    assert_eq!(
        refused.map_err(|error| error.raw_os_error()),
        Err(Some(libc::EINVAL)),
        "a long one is refused"
    );
}

/// A persistent TAP keeps the size of the header that its last owner set, perhaps an older version of the switch.
#[test]
fn a_tap_that_is_adopted_gets_the_header_of_its_new_owner() {
    let netns = Netns::new("older");
    netns.silence();
    let open = || netns.run(|| Tap::open("tap0", TapOptions { exclusive: false, persist: true })).unwrap();
    let size = |tap: &OwnedFd| {
        let mut size: libc::c_int = 0;
        #[expect(unsafe_code, reason = "no safe wrapper")]
        // SAFETY: TUNGETVNETHDRSZ writes one int, which lives across the call.
        let result = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNGETVNETHDRSZ, &raw mut size) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        size
    };
    let older = open().into_fd();
    assert_eq!(usize::try_from(size(&older)), Ok(SHORT), "the kernel's default");
    netns.ip("link set tap0 up");
    // It waits in the queue.
    let sent = frame(BROADCAST, STATION, EXPERIMENT, b"hello");
    netns.raw("tap0").send(&sent);
    drop(older);
    let mut tap = open();
    tap.set_persist(false).unwrap();
    tap.set_offload(true).unwrap();
    let tap = tap.into_fd();
    assert_eq!(usize::try_from(size(&tap)), Ok(HEADER));
    netns.raw("tap0").send(&sent);
    let came = read(&tap).unwrap();
    assert_eq!((&came[..HEADER], &came[HEADER..]), (&[0; HEADER][..], &sent[..]));
}

#[test]
fn what_is_written_to_a_tap_is_received_before_the_write_returns() {
    let netns = Netns::new("write");
    let tap = tap(&netns);
    let socket = packet(&netns, &[]);
    let written = frame(BROADCAST, STATION, EXPERIMENT, b"hello");
    for _ in 0..100 {
        rustix::io::write(&tap, &[&[0; HEADER][..], &written].concat()).unwrap();
        assert_eq!(receive(&socket).unwrap(), written, "at once");
    }
}

#[test]
fn what_a_host_sends_itself_is_not_received_when_told_so() {
    let (near, _far) = veth();
    let (all, foreign) = (packet(&near, &[]), packet(&near, &[IGNORE_OUTGOING]));
    near.raw("v0").send(&frame(BROADCAST, STATION, EXPERIMENT, b"mine"));
    eventually("a socket that was not told receives it", || receive(&all).ok());
    assert_eq!(errno(&receive(&foreign).unwrap_err()), Some(Errno::AGAIN));
}

#[test]
fn a_tag_is_taken_off_and_told_beside_the_frame() {
    let (near, far) = veth();
    let (socket, raw) = (packet(&far, &[]), far.raw("v0"));
    let sent = tagged(BROADCAST, STATION, 5 << 13 | 10, EXPERIMENT, b"hello");
    near.raw("v0").send(&sent);
    let came = eventually("the frame comes", || receive(&socket).ok());
    assert_eq!(came, frame(BROADCAST, STATION, EXPERIMENT, b"hello"), "the bytes are without it");
    assert_eq!(raw.receive(vswitch_tests::PATIENCE), Some(sent), "PACKET_AUXDATA tells it");
}

#[test]
fn a_tap_whose_interface_was_deleted_says_so() {
    let netns = Netns::new("deleted");
    let tap = tap(&netns);
    assert_eq!(read(&tap), Err(Errno::AGAIN));
    netns.ip("link delete tap0");
    assert_eq!(read(&tap), Err(Errno::BADFD));
    assert_eq!(rustix::io::write(&tap, &[0; 64]), Err(Errno::BADFD));
}

/// This is why the daemon checks every second whether the namespaces of its ports still exist.
#[test]
fn an_open_tap_keeps_its_namespace_alive() {
    let (mut netns, witness) = (Netns::new("kept"), Netns::new("witness"));
    let tap = tap(&netns);
    witness.ip(&format!("link add w0 type veth peer name w0 netns {}", netns.name()));
    netns.delete();
    // Namespaces are freed in order: once a later one is gone, this one would be, too.
    let mut later = Netns::new("later");
    witness.ip(&format!("link add w1 type veth peer name w1 netns {}", later.name()));
    later.delete();
    eventually("the later one is gone", || (!witness.has_link("w1")).then_some(()));
    assert!(witness.has_link("w0"));
    assert_eq!(read(&tap), Err(Errno::AGAIN), "and the TAP is well");
    drop(tap);
    eventually("it goes with the descriptor", || (!witness.has_link("w0")).then_some(()));
}

#[test]
fn a_tap_has_one_owner_at_a_time_and_may_persist() {
    let netns = Netns::new("owner");
    let open = |exclusive, persist| {
        netns
            .run(|| Tap::open("tap0", TapOptions { exclusive, persist }))
            .map_err(|error| error.raw_os_error())
    };
    let first = open(true, true).unwrap();
    assert_eq!(open(false, true).unwrap_err(), Some(libc::EBUSY), "somebody has it");
    drop(first);
    assert!(netns.has_link("tap0"), "it outlives its descriptor");
    let mac = netns.mac("tap0");
    assert_eq!(open(true, false).unwrap_err(), Some(libc::EBUSY), "IFF_TUN_EXCL: it exists");
    let again = open(false, true).unwrap();
    assert_eq!(netns.mac("tap0"), mac, "taken over, it is the same");
    again.set_persist(false).unwrap();
    drop(again);
    assert!(!netns.has_link("tap0"));
}

#[test]
fn a_packet_socket_is_told_once_that_its_interface_went_down() {
    let (near, _far) = veth();
    let open = || near.run(|| vswitch_tests::Raw::open("v0"));
    let raw = open().unwrap();
    near.ip("link set v0 down");
    let error = raw.try_send(&frame(BROADCAST, STATION, EXPERIMENT, b"hello")).unwrap_err();
    assert_eq!(errno(&error), Some(Errno::NETDOWN));
    near.ip("link set v0 up");
    let error = raw.try_send(&frame(BROADCAST, STATION, EXPERIMENT, b"hello")).unwrap_err();
    assert_eq!(errno(&error), Some(Errno::NETDOWN), "what was noted when it went down");
    raw.send(&frame(BROADCAST, STATION, EXPERIMENT, b"hello"));
    near.ip("link delete v0");
    let error = raw.try_send(&frame(BROADCAST, STATION, EXPERIMENT, b"hello")).unwrap_err();
    assert!(matches!(errno(&error), Some(Errno::NETDOWN | Errno::NXIO | Errno::NODEV)), "{error}");
}

#[test]
fn segmented_datagrams_leave_a_tap_whole() {
    let netns = Netns::new("uso");
    let tap = tap(&netns);
    netns.ip("address add 10.9.0.1/24 dev tap0");
    netns.ip("neighbour add 10.9.0.2 lladdr 02:00:00:00:00:02 dev tap0");
    let socket = netns.udp("10.9.0.1");
    udp::segment(&socket, 1000);
    let payload = Pattern(1).make(0, 20_000);
    socket.send_to(&payload, "10.9.0.2:7").unwrap();
    let came = read(&tap).unwrap();
    // flags: NEEDS_CSUM; type: VIRTIO_NET_HDR_GSO_UDP_L4; gso_size.
    assert_eq!((came[0], came[1], u16::from_le_bytes([came[4], came[5]])), (1, 5, 1000));
    assert_eq!(&came[HEADER + 14 + 20 + 8..], payload);
    assert_eq!(read(&tap), Err(Errno::AGAIN), "it was one frame");
}
