//! Connections that the kernel tracks for who is gone, or was not there yet.

use std::{
    io::{Read, Write},
    net::{TcpListener, UdpSocket},
    time::Instant,
};

use etherparse::PacketBuilder;
use vswitch_tests::{Netns, PATIENCE, eventually};

use super::{SILENCE, World, socket};

/// A server of UDP in a container; what it hears comes at once or not at all.
fn server(container: &Netns, address: &str) -> UdpSocket {
    let server = container.run(|| UdpSocket::bind((address, 80)).unwrap());
    server.set_read_timeout(Some(SILENCE)).unwrap();
    server
}

fn hears(server: &UdpSocket, sender: &UdpSocket) -> bool {
    // What was refused before may be told now.
    let _ = sender.send(b"x");
    server.recv(&mut [0; 9]).is_ok()
}

#[test]
fn a_sender_that_never_pauses_reaches_who_is_there_now() {
    let mut world = World::new();
    let (web, client) = (server(&world.blue.web, "10.9.1.2"), server(&world.blue.client, "10.9.1.3"));
    let sender = world.outside.udp("192.0.2.2");
    sender.connect(socket("192.0.2.1", 8080)).unwrap();
    // It was there before the port was published.
    world.set(&[world.blue.outside(Vec::new())]);
    let _ = sender.send(b"x");
    // ICMP errors of the closed port come back to the sender.
    eventually("the port is closed", || sender.send(b"x").is_err().then_some(()));
    world.publish(&["8080:80/udp"]);
    eventually("the container hears a sender that was there first", || hears(&web, &sender).then_some(()));
    // Another takes its place.
    world.set(&[world.blue.outside(Vec::new())]);
    let published = world.reserve(&["8080:80/udp"], &[world.blue.ip(3)]).unwrap();
    world.set(&[world.blue.outside(published)]);
    eventually("the one in its place hears it", || hears(&client, &sender).then_some(()));
    assert!(!hears(&web, &sender));
    // It ends, and another gets its address, which publishes nothing.
    world.set(&[world.blue.outside(Vec::new())]);
    let ended = world.blue.ip(3);
    world.at_host(|gateway| gateway.end_connections([ended]));
    while client.recv(&mut [0; 9]).is_ok() {}
    assert!(!hears(&client, &sender));
}

#[test]
fn a_client_of_a_container_that_is_replaced_is_reset_at_once() {
    let mut world = World::new();
    let listen =
        |container: &Netns, address: &str| container.run(|| TcpListener::bind((address, 80)).unwrap());
    let (web, client) = (listen(&world.blue.web, "10.9.1.2"), listen(&world.blue.client, "10.9.1.3"));
    world.publish(&["8080:80"]);
    let mut stream = world.outside.connect(socket("192.0.2.1", 8080));
    let (mut served, _) = web.accept().unwrap();
    stream.write_all(b"a").unwrap();
    served.read_exact(&mut [0]).unwrap();

    world.set(&[world.blue.outside(Vec::new())]);
    let published = world.reserve(&["8080:80"], &[world.blue.ip(3)]).unwrap();
    world.set(&[world.blue.outside(published)]);
    let start = Instant::now();
    let mut answer = [0];
    let told = stream.write_all(b"b").and_then(|()| stream.read_exact(&mut answer));
    assert!(told.is_err() && start.elapsed() < PATIENCE / 4, "{told:?} after {:?}", start.elapsed());
    // What leads to others goes on when one ends.
    let mut other = world.outside.connect(socket("192.0.2.1", 8080));
    let (mut served, _) = client.accept().unwrap();
    let ended = world.blue.ip(2);
    world.at_host(|gateway| gateway.end_connections([ended]));
    other.write_all(b"c").unwrap();
    served.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"c");
}

#[test]
fn what_belongs_to_no_connection_does_not_leave_with_a_containers_address() {
    let mut world = World::new();
    for (outside, leaves) in [(world.blue.outside(Vec::new()), false), (world.blue.routed(), true)] {
        world.set(std::slice::from_ref(&outside));
        let seen = world.outside.raw("wan");
        let (from, to) = (world.blue.web.mac("eth0"), world.host.mac("gw-blue"));
        let packet = PacketBuilder::ethernet2(from, to)
            .ipv4([10, 9, 1, 2], [192, 0, 2, 2], 64)
            .tcp(45_020, 443, 787, 64)
            .rst()
            .ack(3665);
        let mut frame = Vec::new();
        packet.write(&mut frame, &[]).unwrap();
        world.blue.web.raw("eth0").send(&frame);
        let own = [10, 9, 1, 2];
        let came = std::iter::from_fn(|| seen.receive(SILENCE)).any(|it| it.get(26..30) == Some(&own[..]));
        assert_eq!(came, leaves);
    }
}
