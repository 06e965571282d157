//! Several switches in memory, real TCP and UDP across them, and faulty cables.
//!
//! Needs neither root nor a clock. A failing run prints its seed; `FABRIC_SEED=n` repeats it.

mod cable;
mod host;
mod simulation;
mod tunnel;

use cable::Faults;
use simulation::{BLUE, BLUE_PORTS, Fabric, RED, RED_PORTS, TRUNKS, peer};
use smoltcp::iface::SocketHandle;

/// Each trunk loses one frame in a hundred, and duplicates and reorders others.
const ROUGH: Faults = Faults { loss: 10, repeat: 5, delay: 20, latency: 2 };
const SMOOTH: Faults = Faults { loss: 0, repeat: 0, delay: 0, latency: 1 };

fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let given = std::env::var("FABRIC_SEED").ok().and_then(|seed| seed.parse().ok());
    given.map_or(1..count + 1, |seed| seed..seed + 1)
}

/// Byte `at` of a transfer. The period matches no length used here.
fn byte(at: usize, salt: u8) -> u8 {
    (at % 251 + at / 251 % 241).to_le_bytes()[0] ^ salt
}

/// A TCP transfer between two hosts, checked byte by byte.
struct Transfer {
    from: (usize, SocketHandle),
    to: (usize, SocketHandle),
    salt: u8,
    len: usize,
    sent: usize,
    received: usize,
}

impl Transfer {
    fn begin(fabric: &mut Fabric, from: usize, to: usize, len: usize, salt: u8) -> Self {
        let listener = fabric.hosts[to].listen(80);
        let ip = fabric.hosts[to].ip;
        let connection = fabric.hosts[from].connect(ip, 80);
        Self { from: (from, connection), to: (to, listener), salt, len, sent: 0, received: 0 }
    }

    /// Sends what fits, checks what was received, and returns whether the transfer is complete.
    fn is_done(&mut self, fabric: &mut Fabric) -> bool {
        let socket = fabric.hosts[self.from.0].tcp(self.from.1);
        if socket.may_send() && self.sent < self.len {
            let end = self.len.min(self.sent + 16_384);
            let data: Vec<_> = (self.sent..end).map(|at| byte(at, self.salt)).collect();
            self.sent += socket.send_slice(&data).expect("it may send");
        }
        let mut buffer = [0; 16_384];
        let socket = fabric.hosts[self.to.0].tcp(self.to.1);
        while socket.can_recv() {
            let len = socket.recv_slice(&mut buffer).expect("it can receive");
            for byte_received in &buffer[..len] {
                assert_eq!(*byte_received, byte(self.received, self.salt), "byte {}", self.received);
                self.received += 1;
            }
        }
        self.received == self.len
    }
}

#[test]
fn tcp_crosses_three_switches_whole_whatever_cables_do() {
    for seed in seeds(4) {
        let mut fabric = Fabric::chain(3, ROUGH, seed);
        let client = fabric.plug_host(1, 0, BLUE_PORTS[0]);
        let server = fabric.plug_host(2, 2, BLUE_PORTS[0]);
        let mut there = Transfer::begin(&mut fabric, client, server, 300_000, 0);
        fabric.drive(300, |fabric| there.is_done(fabric));
        assert!(fabric.lost() > 0, "the cables were as rough as they should be");
        let mac = fabric.hosts[server].mac;
        let places = [0, 1, 2].map(|switch| fabric.place(switch, BLUE, mac));
        assert_eq!(places, [Some(TRUNKS[1]), Some(TRUNKS[1]), Some(BLUE_PORTS[0])]);
        assert_eq!(fabric.place(1, RED, mac), None);
        fabric.check_books();
    }
}

#[test]
fn udp_crosses_three_switches_untouched() {
    const COUNT: u8 = 200;
    for seed in seeds(4) {
        let mut fabric = Fabric::chain(3, ROUGH, seed);
        let client = fabric.plug_host(1, 0, BLUE_PORTS[0]);
        let server = fabric.plug_host(2, 2, BLUE_PORTS[1]);
        let (from, to) = (fabric.hosts[client].bind(5000), fabric.hosts[server].bind(53));
        let ip = fabric.hosts[server].ip;
        // The first datagram triggers ARP; any others sent before the reply would be lost.
        let mut arrived = Vec::new();
        let mut next = 0;
        fabric.drive(60, |fabric| {
            if next < COUNT && u64::from(next) * 10 <= fabric.now {
                let data: Vec<_> = (0..1472).map(|at| byte(at, next)).collect();
                fabric.hosts[client].send_to(from, &data, ip, 53);
                next += 1;
            }
            while let Some(data) = fabric.hosts[server].receive_from(to) {
                let salt = data[0] ^ byte(0, 0);
                assert!(data.len() == 1472 && (0..).zip(&data).all(|(at, got)| *got == byte(at, salt)));
                arrived.push(salt);
            }
            fabric.now > 5_000
        });
        arrived.sort_unstable();
        arrived.dedup();
        assert!(arrived.len() > usize::from(COUNT) * 9 / 10, "{} of {COUNT} arrived", arrived.len());
        fabric.check_books();
    }
}

#[test]
fn a_station_that_moves_is_followed() {
    for seed in seeds(2) {
        let mut fabric = Fabric::chain(3, SMOOTH, seed);
        let client = fabric.plug_host(1, 0, BLUE_PORTS[0]);
        let server = fabric.plug_host(2, 2, BLUE_PORTS[0]);
        let mut transfer = Transfer::begin(&mut fabric, client, server, 2_000_000, 0);
        let places = [(1, BLUE_PORTS[1]), (0, BLUE_PORTS[1]), (2, BLUE_PORTS[1])];
        for (part, (switch, port)) in (1..).zip(places) {
            fabric.drive(60, |fabric| transfer.is_done(fabric) || transfer.received > part * 400_000);
            assert!(transfer.received < transfer.len, "it moves while the transfer runs");
            fabric.move_host(server, switch, port);
            fabric.hosts[server].announce();
        }
        fabric.drive(60, |fabric| transfer.is_done(fabric));
        let mac = fabric.hosts[server].mac;
        let places = [0, 1, 2].map(|switch| fabric.place(switch, BLUE, mac));
        assert_eq!(places, [Some(TRUNKS[1]), Some(TRUNKS[1]), Some(BLUE_PORTS[1])]);
        fabric.check_books();
    }
}

#[test]
fn networks_on_the_same_trunks_never_meet() {
    for seed in seeds(2) {
        let mut fabric = Fabric::chain(3, ROUGH, seed);
        // The same two addresses in both networks, and in each a third host that only listens.
        let blue = [(1, 0, 0), (2, 2, 0), (3, 1, 0)]
            .map(|(id, switch, port)| fabric.plug_host(id, switch, BLUE_PORTS[port]));
        let red = [(1, 2, 0), (2, 0, 0), (4, 1, 0)]
            .map(|(id, switch, port)| fabric.plug_host(id, switch, RED_PORTS[port]));
        let mut transfers = [(blue, 0x00), (red, 0xff)]
            .map(|([from, to, _], salt)| Transfer::begin(&mut fabric, from, to, 100_000, salt));
        for host in [blue[2], red[2]] {
            fabric.hosts[host].announce();
        }
        fabric
            .drive(300, |fabric| transfers.each_mut().map(|transfer| transfer.is_done(fabric)) == [true; 2]);
        // Frames of a host that exists in one network reached all of that network, and none of the other.
        let (only_blue, only_red) = (fabric.hosts[blue[2]].mac, fabric.hosts[red[2]].mac);
        let heard = |host: usize, mac| fabric.hosts[host].nic.sources.contains(&mac);
        assert!(!red.iter().any(|host| heard(*host, only_blue)));
        assert!(!blue.iter().any(|host| heard(*host, only_red)));
        // Bystanders received broadcasts, and at most a frame or two sent before their switch had learned the address.
        for (bystander, ends) in [(blue[2], [blue[0], blue[1]]), (red[2], [red[0], red[1]])] {
            let macs = ends.map(|host| fabric.hosts[host].mac);
            let sources = &fabric.hosts[bystander].nic.sources;
            let seen = sources.iter().filter(|mac| macs.contains(mac)).count();
            assert!((1..20).contains(&seen), "a bystander saw {seen} frames of others");
        }
        fabric.check_books();
    }
}

/// Every station of both networks, on every switch of a full mesh, talks to stations on the two others at the same time.
#[test]
fn tcp_crosses_a_mesh_of_tunnels_whole_whatever_the_underlay_does() {
    for seed in seeds(3) {
        let mut fabric = Fabric::mesh(3, ROUGH, seed);
        // The same addresses in both networks, on different switches.
        let blue = [(1, 0), (2, 1), (3, 2)].map(|(id, switch)| fabric.plug_host(id, switch, BLUE_PORTS[0]));
        let red = [(1, 2), (2, 0), (3, 1)].map(|(id, switch)| fabric.plug_host(id, switch, RED_PORTS[0]));
        let ring = |[a, b, c]: [usize; 3]| [(a, b), (b, c), (c, a)];
        let pairs = ring(blue).into_iter().zip([0x00; 3]).chain(ring(red).into_iter().zip([0xff; 3]));
        let mut transfers: Vec<_> =
            pairs.map(|((from, to), salt)| Transfer::begin(&mut fabric, from, to, 200_000, salt)).collect();
        fabric.drive(300, |fabric| {
            transfers.iter_mut().fold(true, |done, transfer| transfer.is_done(fabric) & done)
        });
        assert!(fabric.lost() > 0, "the underlay was as rough as it should be");
        let mac = fabric.hosts[blue[2]].mac;
        let places = [0, 1, 2].map(|switch| fabric.place(switch, BLUE, mac));
        assert_eq!(places, [Some(peer(2)), Some(peer(2)), Some(BLUE_PORTS[0])]);
        let places = [0, 1, 2].map(|switch| fabric.place(switch, RED, mac));
        assert_eq!(places, [Some(peer(1)), Some(RED_PORTS[0]), Some(peer(1))]);
        fabric.check_books();
    }
}

#[test]
fn what_is_for_everyone_crosses_each_tunnel_once_and_comes_back_by_none() {
    let mut fabric = Fabric::mesh(4, SMOOTH, 1);
    let blue: Vec<_> = (0..4).map(|switch| fabric.plug_host(1, switch, BLUE_PORTS[0])).collect();
    let beside = fabric.plug_host(2, 0, BLUE_PORTS[1]);
    let red: Vec<_> = (0..4).map(|switch| fabric.plug_host(3, switch, RED_PORTS[0])).collect();
    for (count, host) in (1..).zip([blue[0], red[3], blue[2]]) {
        fabric.hosts[host].announce();
        let end = fabric.now + 1000;
        fabric.drive(2, |fabric| fabric.now > end);
        assert_eq!(
            fabric.datagrams,
            3 * count,
            "a switch sends to each of its peers, and none of them further"
        );
    }
    let heard = |host: usize, id| {
        let sources = &fabric.hosts[host].nic.sources;
        sources.iter().filter(|mac| mac.0[5] == id).count()
    };
    assert_eq!(
        [&blue[..], &[beside]].concat().iter().map(|host| heard(*host, 1)).collect::<Vec<_>>(),
        [1, 2, 1, 2, 2]
    );
    assert!(blue.iter().all(|host| heard(*host, 3) == 0), "what only red has");
    assert_eq!(red.iter().map(|host| heard(*host, 3)).collect::<Vec<_>>(), [1, 1, 1, 0]);
    fabric.check_books();
}

#[test]
fn a_station_that_moves_to_another_host_is_followed_through_tunnels() {
    let mut fabric = Fabric::mesh(3, SMOOTH, 1);
    let client = fabric.plug_host(1, 0, BLUE_PORTS[0]);
    let server = fabric.plug_host(2, 1, BLUE_PORTS[0]);
    let mut transfer = Transfer::begin(&mut fabric, client, server, 1_000_000, 0);
    for (part, switch) in (1..).zip([2, 0, 1]) {
        fabric.drive(60, |fabric| transfer.is_done(fabric) || transfer.received > part * 200_000);
        assert!(transfer.received < transfer.len, "it moves while the transfer runs");
        fabric.move_host(server, switch, BLUE_PORTS[1]);
        fabric.hosts[server].announce();
    }
    fabric.drive(60, |fabric| transfer.is_done(fabric));
    let mac = fabric.hosts[server].mac;
    let places = [0, 1, 2].map(|switch| fabric.place(switch, BLUE, mac));
    assert_eq!(places, [Some(peer(1)), Some(BLUE_PORTS[1]), Some(peer(1))]);
    fabric.check_books();
}
