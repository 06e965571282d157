//! Offloads that a virtio header does not describe: tunnels inside containers, and super-frames longer than 64 KB.

use std::process::Command;

use rustix::process::Signal;
use vswitch_tests::{Netns, Vswitchd, eventually, net, tcp};

/// Two containers on veth ports, with addresses in 10.9.0.0/24 and fd09::/64.
fn pair(switch: &str) -> (Vswitchd, [Netns; 2]) {
    let containers = ["a", "b"].map(Netns::new);
    let mut config = net().switch(switch).network("blue");
    for (number, (name, container)) in (2..).zip(["a", "b"].into_iter().zip(&containers)) {
        config = config.veth(name, container).address(&format!("10.9.0.{number}/24 fd09::{number}/64"));
    }
    (Vswitchd::start(&config), containers)
}

/// A VXLAN device between the containers, with addresses in 10.77.0.0/24.
fn nest(containers: &[Netns; 2]) {
    for (number, container) in (2..).zip(containers) {
        let other = 5 - number;
        container.ip(&format!(
            "link add vx0 mtu 1450 type vxlan id 77 local 10.9.0.{number} remote 10.9.0.{other} dstport 4789 dev eth0"
        ));
        container.ip(&format!("address add 10.77.0.{number}/24 dev vx0"));
        container.ip("link set vx0 up");
    }
}

fn ethtool(netns: &Netns, arguments: &str) -> String {
    let mut command = Command::new("ethtool");
    command.args(arguments.split(' '));
    let output = netns.run(|| command.output().expect("ethtool is installed"));
    assert!(output.status.success(), "ethtool {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_tunnel_inside_containers_passes_veth_ports() {
    for keys in ["accelerate = \"auto\"", "accelerate = \"off\""] {
        let (switch, containers) = pair(keys);
        nest(&containers);
        let [a, b] = &containers;
        a.reaches("10.77.0.3");
        tcp::exchange(a, b, "10.77.0.3", 5_000_000, 64 << 10);
        assert_eq!([switch.dropped("a", "DEV_HDR"), switch.dropped("b", "DEV_HDR")], [0, 0]);
    }
}

const TUNNELS: [&str; 2] = ["tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation"];

/// The root of a container may turn on what a virtio header cannot tell.
#[test]
fn super_frames_of_a_tunnel_inside_a_container_pass_by_the_kernel() {
    let (switch, containers) = pair("accelerate = \"auto\"");
    nest(&containers);
    let [a, b] = &containers;
    for container in &containers {
        ethtool(container, &format!("-K eth0 {}", TUNNELS.map(|name| format!("{name} on")).join(" ")));
    }
    // Until they know each other, they pass the switch, which cannot.
    eventually("the kernel forwards", || {
        a.pings("10.77.0.3").then_some(())?;
        (switch.port("a")["acceleration"]["rx_frames"].as_u64() > Some(0)).then_some(())
    });
    tcp::exchange(a, b, "10.77.0.3", 5_000_000, 64 << 10);
    assert_eq!([switch.dropped("a", "DEV_HDR"), switch.dropped("b", "DEV_HDR")], [0, 0]);
}

/// In the switch they have a name, with what to do, and they are turned off again by the next start.
#[test]
fn super_frames_of_a_tunnel_inside_a_container_are_named() {
    let (mut switch, containers) = pair("accelerate = \"off\"");
    nest(&containers);
    let [a, b] = &containers;
    a.reaches("10.77.0.3");
    let tunnels = TUNNELS;
    ethtool(a, &format!("-K eth0 {}", tunnels.map(|name| format!("{name} on")).join(" ")));
    let mut stream = tcp::connect(a, b, "10.77.0.3").0;
    // Its own connection may stall; a super-frame is dropped at once.
    stream.set_write_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    let _ = std::io::Write::write_all(&mut stream, &[7; 1 << 20]);
    eventually("the drop has a name", || (switch.dropped("a", "DEV_HDR") > 0).then_some(()));
    let drops = switch.ctl(&["drops", "--port", "a"]);
    let hint = drops[0]["hint"].as_str().unwrap();
    assert!(tunnels.iter().all(|name| hint.contains(&format!("{name} off"))), "{hint}");
    drop(stream);

    switch.stop();
    switch.run();
    let features = ethtool(a, "-k eth0");
    assert!(tunnels.iter().all(|name| features.contains(&format!("{name}: off"))), "{features}");
}

#[test]
fn super_frames_longer_than_64_kb_pass() {
    for keys in ["accelerate = \"auto\"", "accelerate = \"off\""] {
        let (switch, containers) = pair(keys);
        let [a, b] = &containers;
        a.reaches("fd09::3");
        for container in &containers {
            container.ip("link set eth0 gso_max_size 185000");
        }
        // Known to newer versions of `ip` alone.
        let mut command = Command::new("ip");
        command.args(["-n", a.name(), "link", "set", "eth0", "gso_ipv4_max_size", "185000"]);
        let _ = command.output();
        for address in ["fd09::3", "10.9.0.3"] {
            tcp::exchange(a, b, address, 40_000_000, 1 << 20);
        }
        let port = switch.port("a");
        let super_frames = port["rx"]["super_frames"].as_u64().unwrap();
        assert!(super_frames > 100, "{keys}: {super_frames}");
        // The first tells that they come; what waited behind it is lost with it.
        let lost = ["a", "b"].map(|port| switch.dropped(port, "DEV_HDR"));
        assert!(lost.iter().all(|lost| *lost < 10), "{keys}: {lost:?} of {super_frames}");
    }
}

/// With `offload = "udp"` a burst arrives as one super-frame, which the receiver's kernel cuts again; other ports and mirrors get
/// each datagram.
#[test]
fn datagrams_are_merged_for_ports_that_ask() {
    let [a, asks, other, watch] = ["a", "asks", "other", "watch"].map(Netns::new);
    let config = net().network("blue").tap("a", &a).address("10.9.0.2/24");
    let config = config.tap("asks", &asks).address("10.9.0.3/24").keys("offload = \"udp\"");
    let config = config.tap("other", &other).address("10.9.0.4/24");
    let switch = Vswitchd::start(&config.mirror("watch", &watch, "{ ports = [\"a\"] }"));
    const BURST: usize = 40;
    for (container, address, merged) in [(&asks, "10.9.0.3", true), (&other, "10.9.0.4", false)] {
        a.reaches(address);
        let (raw, mirror) = (container.raw("eth0"), watch.raw("eth0"));
        let (receiver, sender) = (container.udp(address), a.udp("10.9.0.2"));
        // They wait in the TAP's queue, so that the switch receives them at once.
        switch.signal(Signal::STOP);
        for number in 0..BURST {
            sender.send_to(&[u8::try_from(number).unwrap(); 500], receiver.local_addr().unwrap()).unwrap();
        }
        switch.signal(Signal::CONT);
        let mut buffer = [0; 2048];
        for number in 0..BURST {
            assert_eq!(receiver.recv(&mut buffer).unwrap(), 500);
            assert_eq!(usize::from(buffer[0]), number);
        }
        let datagrams = |raw: &vswitch_tests::Raw| {
            let mut lens = Vec::new();
            while let Some(frame) = raw.receive(std::time::Duration::from_millis(200)) {
                if frame[12..14] == [8, 0] && frame[23] == 17 {
                    lens.push(frame.len());
                }
            }
            lens
        };
        let seen = datagrams(&raw);
        if merged {
            assert!(seen.len() < BURST && seen.iter().sum::<usize>() > BURST * 500, "{seen:?}");
        } else {
            assert_eq!(seen, [542; BURST]);
        }
        assert_eq!(datagrams(&mirror), [542; BURST]);
    }
}
