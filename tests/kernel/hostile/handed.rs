//! Descriptors that a tap helper hands over and goes on using.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    cmsg_space,
    net::{
        AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
        SocketType, connect, recv, sendmsg, socket,
    },
};
use serde_json::{Value, json};
use vswitch::device::tap::{Tap, TapOptions};
use vswitch_tests::{
    Netns, Vswitchd, net,
    raw::{BROADCAST, EXPERIMENT, frame},
    tcp::Flow,
    within,
};

/// Hands `descriptor` to the daemon as the TAP of port `name` in network blue, and returns its answer.
fn hand_over(switch: &Vswitchd, name: &str, descriptor: &OwnedFd) -> Value {
    let helper = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    let path = format!("{}.attach", switch.socket().display());
    connect(&helper, &SocketAddrUnix::new(path).unwrap()).unwrap();
    let port = json!({ "port": { "name": name, "network": "blue", "kind": "tap", "ifname": name } });
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let text = port.to_string();
    sendmsg(&helper, &[IoSlice::new(text.as_bytes())], &mut ancillary, SendFlags::empty()).unwrap();
    let mut answer = vec![0; 1 << 16];
    let (len, _) = recv(&helper, &mut answer[..], RecvFlags::empty()).unwrap();
    serde_json::from_slice(&answer[..len]).unwrap()
}

/// A TAP's open file description is shared with the helper that made it, who may make it blocking at any time: a worker that
/// waited in a read or a write would hold up every network, the control plane and SIGTERM.
#[test]
fn a_tap_that_its_helper_makes_blocking_blocks_no_worker() {
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let config =
        net().network("blue").tap("a", &a).address("10.9.0.1/24").tap("b", &b).address("10.9.0.2/24");
    let mut switch = Vswitchd::start(&config);
    let tap = switch.host.run(|| Tap::open("h1", TapOptions { exclusive: true, persist: false })).unwrap();
    let descriptor = tap.into_fd();
    let answer = hand_over(&switch, "h1", &descriptor);
    assert_eq!(answer["port"]["name"], "h1", "{answer}");
    rustix::io::ioctl_fionbio(&descriptor, false).unwrap();
    switch.host.silence();
    switch.host.ip("link set h1 up");
    // It is read, and written to as well: a full queue of its interface makes a blocking write wait.
    let raw = switch.host.raw("h1");
    for _ in 0..300 {
        raw.send(&frame(BROADCAST, [2, 0, 0, 0, 0, 0x77], EXPERIMENT, &[0; 46]));
    }
    let flow = Flow::start(&a, &b, "10.9.0.2");
    flow.flows(10_000_000);
    switch.ctl(&["network", "create", "red"]);
    assert!(switch.port("h1")["rx"]["frames"].as_u64().unwrap() >= 300, "{}", switch.port("h1"));
    flow.stop();
    within(Duration::from_secs(6), "SIGTERM ends it", || {
        assert!(switch.stop().success());
        Some(())
    });
}

#[test]
fn a_descriptor_that_is_no_tap_is_refused() {
    let switch = Vswitchd::start(&net().network("blue"));
    let (reader, _writer) = rustix::pipe::pipe().unwrap();
    let answer = hand_over(&switch, "h1", &reader);
    assert!(answer.to_string().contains("is not one of /dev/net/tun"), "{answer}");
    // IFF_NAPI_FRAGS: one writer's copy holds a lock that another's waits for.
    switch.host.run(|| {
        let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun").unwrap();
        let fd = OwnedFd::from(file);
        let answer = hand_over(&switch, "h1", &fd);
        assert!(answer.to_string().contains("is not a TAP"), "not attached to an interface: {answer}");
    });
}

/// The kernel facts that this rests on.
#[test]
fn a_call_that_says_so_does_not_wait_on_a_blocking_tap() {
    let netns = Netns::new("nowait");
    netns.silence();
    let tap =
        netns.run(|| Tap::open("tap0", TapOptions { exclusive: true, persist: false })).unwrap().into_fd();
    rustix::io::ioctl_fionbio(&tap, false).unwrap();
    let mut buffer = [0; 2048];
    let read = rustix::io::preadv2(
        &tap,
        &mut [IoSliceMut::new(&mut buffer)],
        u64::MAX,
        rustix::io::ReadWriteFlags::NOWAIT,
    );
    assert_eq!(read, Err(rustix::io::Errno::AGAIN));
}
