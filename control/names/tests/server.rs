//! The server, by real sockets on the loopback.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    time::{Instant, timeout},
};
use vswitch_names::{
    Network, Record, Table, Verdict,
    server::{Server, Settings, Upstream},
};

/// Longer than any test may take.
const LONG: Duration = Duration::from_secs(20);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A network of loopback addresses, in which 127.8.0.2 asks.
fn table(db: &str) -> Table {
    let record =
        |name: &str, at: &str| Record { name: name.into(), addresses: vec![ip(at)], ..Record::default() };
    let records = [record("web", "127.8.0.2"), record("db", db)];
    let network = Network::new("blue", ["127.8.0.0/24".parse().unwrap()], &records);
    Table::new("vswitch.internal", 5, [Arc::new(network)], [(ip("127.8.0.2"), vec!["blue".into()])])
}

/// An address of the loopback with a port that nothing uses.
async fn free(address: &str) -> SocketAddr {
    loop {
        let datagrams = UdpSocket::bind((ip(address), 0)).await.unwrap();
        let address = datagrams.local_addr().unwrap();
        if TcpListener::bind(address).await.is_ok() {
            return address;
        }
    }
}

/// A server with these others, at an address of its own.
async fn start(upstream: Vec<SocketAddr>) -> (Server, SocketAddr) {
    let server =
        Server::start(Settings { upstream: Upstream::Servers(upstream), allow: Vec::new() }).unwrap();
    server.set_table(table("127.8.0.3"));
    let address = free("127.8.1.1").await;
    server.listen(&BTreeSet::from([address]));
    assert!(server.failures().is_empty(), "{:?}", server.failures());
    (server, address)
}

fn query(name: &str) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

/// A client's socket, of the station `web`.
async fn client(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip("127.8.0.2"), 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    socket
}

async fn ask(socket: &UdpSocket, query: &[u8]) -> Message {
    let mut buffer = [0; 4096];
    socket.send(query).await.unwrap();
    let length = timeout(LONG, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

fn addresses(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[tokio::test]
async fn names_of_the_network_are_answered_and_a_new_table_loses_no_query() {
    let (server, address) = start(Vec::new()).await;
    let socket = client(address).await;
    for turn in 0..200_u8 {
        server.set_table(table(&format!("127.8.0.{}", 3 + turn)));
        assert_eq!(addresses(&ask(&socket, &query("db.")).await), [format!("127.8.0.{}", 3 + turn)]);
        // The sockets are the same ones.
        server.listen(&BTreeSet::from([address]));
    }
    assert_eq!(server.counters().responses(Verdict::Answered), 200);
    let (buckets, _) = server.counters().latency();
    assert_eq!(buckets.last().unwrap().count, 200);
}

#[tokio::test]
async fn an_address_that_is_taken_is_told_and_taken_later() {
    let (server, address) = start(Vec::new()).await;
    let other = free("127.8.1.2").await;
    let holder = UdpSocket::bind(other).await.unwrap();
    let both = BTreeSet::from([address, other]);
    server.listen(&both);
    assert_eq!(server.failures().len(), 1);
    assert_eq!(
        addresses(&ask(&client(address).await, &query("db.")).await),
        ["127.8.0.3"],
        "the other goes on"
    );
    drop(holder);
    server.listen(&both);
    assert!(server.failures().is_empty());
    assert_eq!(addresses(&ask(&client(other).await, &query("db.")).await), ["127.8.0.3"]);
}

/// Another server, that notes where queries come from and with which id; it answers with `respond`.
async fn upstream(
    respond: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
) -> (SocketAddr, Arc<Mutex<Vec<(u16, [u8; 2])>>>) {
    let address = free("127.8.2.1").await;
    let socket = UdpSocket::bind(address).await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            noted.lock().unwrap().push((from.port(), [buffer[0], buffer[1]]));
            for response in respond(&buffer[..length]) {
                socket.send_to(&response, from).await.unwrap();
            }
        }
    });
    (address, seen)
}

fn respond(query: &[u8], code: ResponseCode) -> Vec<u8> {
    let mut response = Message::from_vec(query).unwrap().into_response();
    response.metadata.response_code = code;
    response.to_vec().unwrap()
}

/// A query like `query`, for another name.
fn another(query: &[u8], name: &str) -> Vec<u8> {
    let mut other = self::query(name);
    other[..2].copy_from_slice(&query[..2]);
    other
}

#[tokio::test]
async fn other_names_are_passed_on_from_ports_and_with_ids_that_nobody_can_guess() {
    let (other, seen) = upstream(|query| {
        let right = respond(query, ResponseCode::NXDomain);
        let mut forged = respond(query, ResponseCode::NoError);
        forged[0] ^= 0x55;
        // The right id, to a question that was not asked.
        let elsewhere = respond(&another(query, "example.org."), ResponseCode::NoError);
        vec![forged, elsewhere, right]
    })
    .await;
    let (server, address) = start(vec![other]).await;
    let socket = client(address).await;
    for _ in 0..64 {
        let answer = ask(&socket, &query("example.com.")).await;
        assert_eq!(
            (answer.id, answer.response_code),
            (7, ResponseCode::NXDomain),
            "unchanged, with the client's id"
        );
    }
    let seen = seen.lock().unwrap();
    let ports: BTreeSet<_> = seen.iter().map(|(port, _)| port).collect();
    let ids: BTreeSet<_> = seen.iter().map(|(_, id)| id).collect();
    assert!(ports.len() > 60 && ids.len() > 60, "{} ports, {} ids of 64", ports.len(), ids.len());
    assert!(
        !seen.windows(3).all(|it| it[1].0.wrapping_sub(it[0].0) == it[2].0.wrapping_sub(it[1].0)),
        "no series"
    );
    assert_eq!(server.in_flight(), 0);
}

#[tokio::test]
async fn a_server_that_fails_or_is_silent_gives_way_to_the_next() {
    let (failing, _) = upstream(|query| vec![respond(query, ResponseCode::ServFail)]).await;
    let (silent, _) = upstream(|_| Vec::new()).await;
    let (right, _) = upstream(|query| vec![respond(query, ResponseCode::NXDomain)]).await;
    let (_server, address) = start(vec![failing, silent, right]).await;
    let begun = Instant::now();
    let answer = ask(&client(address).await, &query("example.com.")).await;
    assert_eq!(answer.response_code, ResponseCode::NXDomain);
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "the third is asked after a second, not after the second's time"
    );
}

#[tokio::test]
async fn a_dead_upstream_delays_nobody_else_and_is_bounded() {
    let (silent, _) = upstream(|_| Vec::new()).await;
    let (server, address) = start(vec![silent]).await;
    let lost = client(address).await;
    while server.in_flight() < 1024 {
        lost.send(&query("example.com.")).await.unwrap();
        tokio::task::yield_now().await;
    }
    let socket = client(address).await;
    let begun = Instant::now();
    assert_eq!(addresses(&ask(&socket, &query("db.")).await), ["127.8.0.3"]);
    assert_eq!(
        ask(&socket, &query("example.org.")).await.response_code,
        ResponseCode::ServFail,
        "too many wait"
    );
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn we_never_ask_ourselves() {
    let server =
        Server::start(Settings { upstream: Upstream::Servers(Vec::new()), allow: Vec::new() }).unwrap();
    server.set_table(table("127.8.0.3"));
    let address = free("127.8.1.3").await;
    server.set(Settings { upstream: Upstream::Servers(vec![address]), allow: Vec::new() });
    server.listen(&BTreeSet::from([address]));
    assert!(server.servers().is_empty());
    let answer = ask(&client(address).await, &query("example.com.")).await;
    assert_eq!(answer.response_code, ResponseCode::ServFail);
}

async fn stream(server: SocketAddr, from: &str) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(ip(from), 0))?;
    socket.connect(server).await
}

fn framed(query: &[u8]) -> Vec<u8> {
    [&u16::try_from(query.len()).unwrap().to_be_bytes()[..], query].concat()
}

async fn response(stream: &mut TcpStream) -> std::io::Result<Message> {
    let mut bytes = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(Message::from_vec(&bytes).unwrap())
}

#[tokio::test]
async fn a_stream_may_pipeline_and_send_byte_by_byte() {
    let (_server, address) = start(Vec::new()).await;
    let mut stream = stream(address, "127.8.0.2").await.unwrap();
    let many = framed(&query("db.")).repeat(50);
    stream.write_all(&many).await.unwrap();
    for _ in 0..50 {
        assert_eq!(addresses(&response(&mut stream).await.unwrap()), ["127.8.0.3"]);
    }
    for byte in framed(&query("db.")) {
        stream.write_all(&[byte]).await.unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(addresses(&response(&mut stream).await.unwrap()), ["127.8.0.3"]);
}

#[tokio::test]
async fn streams_that_send_nothing_are_closed_and_shut_out_only_their_client() {
    let (server, address) = start(Vec::new()).await;
    let mut idle = Vec::new();
    for _ in 0..16 {
        let mut half = stream(address, "127.8.0.2").await.unwrap();
        half.write_all(&[0]).await.unwrap();
        idle.push(half);
    }
    let mut more = stream(address, "127.8.0.2").await.unwrap();
    assert_eq!(
        timeout(LONG, more.read(&mut [0; 1])).await.unwrap().unwrap_or(0),
        0,
        "the 17th of one client"
    );
    let mut other = stream(address, "127.8.0.9").await.unwrap();
    other.write_all(&framed(&query("db."))).await.unwrap();
    assert_eq!(addresses(&response(&mut other).await.unwrap()), ["127.8.0.3"]);
    for half in &mut idle {
        assert_eq!(timeout(LONG, half.read(&mut [0; 1])).await.unwrap().unwrap_or(0), 0, "closed");
    }
    assert_eq!(server.counters().shut_out.load(std::sync::atomic::Ordering::Relaxed), 1);
    let mut again = stream(address, "127.8.0.2").await.unwrap();
    again.write_all(&framed(&query("db."))).await.unwrap();
    assert_eq!(addresses(&response(&mut again).await.unwrap()), ["127.8.0.3"]);
}

#[tokio::test]
async fn this_host_sees_our_zone_only() {
    let (_server, address) = start(Vec::new()).await;
    let socket = UdpSocket::bind((ip("127.0.0.1"), 0)).await.unwrap();
    socket.connect(address).await.unwrap();
    // The loopback is this host: it sees our zone, and nothing else by us.
    assert_eq!(addresses(&ask(&socket, &query("db.blue.vswitch.internal.")).await), ["127.8.0.3"]);
    assert_eq!(ask(&socket, &query("example.com.")).await.response_code, ResponseCode::Refused);
}
