//! Datagrams and streams.
//!
//! A datagram is answered where it is received: only one that goes upstream becomes a task, and of these there is a bounded
//! number. A stream is a task; there are 256, of which one client has 16, and each sends a whole query within three seconds or is
//! closed. Its queries are answered one after another, so what it pipelines waits in its own socket.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};
use tracing::debug;

use super::{Shared, lock, upstream};
use crate::answer::{Outcome, Transport, Verdict, answer, failure};

/// Longest query that is read from a datagram. Ours have some fifty bytes.
const QUERY_MAX: usize = 4096;

/// Bytes of queries that wait while we answer others.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Time in which a stream's next query must have come, and in which its client must take the response.
const IDLE: Duration = Duration::from_secs(3);

/// Maximum number of streams, and of one client's.
const STREAMS: usize = 256;
const STREAMS_EACH: usize = 16;

/// Pause after an error of the kernel that may last.
const PAUSE: Duration = Duration::from_millis(100);

/// The sockets of an address. They may be bound before it exists (`IP_FREEBIND`).
pub(super) fn open(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let socket = |kind, protocol| -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        match address {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => {
                socket.set_only_v6(true)?;
                socket.set_freebind_v6(true)?;
            }
        }
        Ok(socket)
    };
    let datagrams = socket(Type::DGRAM, Protocol::UDP)?;
    datagrams.set_recv_buffer_size(RECEIVE_BUFFER)?;
    // No reuse of the address: it would let another server take our queries without a word.
    datagrams.bind(&address.into())?;
    let bound = datagrams.local_addr()?;
    let streams = socket(Type::STREAM, Protocol::TCP)?;
    streams.set_reuse_address(true)?;
    streams.bind(&bound)?;
    streams.listen(i32::try_from(STREAMS).unwrap_or(i32::MAX))?;
    Ok((UdpSocket::from_std(datagrams.into())?, TcpListener::from_std(streams.into())?))
}

/// Answers datagrams.
pub(super) async fn datagrams(socket: UdpSocket, shared: Arc<Shared>) {
    let socket = Arc::new(socket);
    let mut buffer = [0; QUERY_MAX];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                debug!("cannot receive a query: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let query = &buffer[..length];
        let came = Instant::now();
        match shared.decide(query, client.ip(), Transport::Udp) {
            Decision::Respond(bytes) => {
                shared.send(&socket, &bytes, client);
                shared.counters.took(came.elapsed());
            }
            Decision::Forward(permit) => {
                let (socket, shared, query) = (Arc::clone(&socket), Arc::clone(&shared), query.to_vec());
                tokio::spawn(async move {
                    let response = shared.forward(&query, Transport::Udp, permit).await;
                    shared.send(&socket, &response, client);
                    shared.counters.took(came.elapsed());
                });
            }
            Decision::Ignore => {}
        }
    }
}

/// Answers streams.
pub(super) async fn streams(listener: TcpListener, shared: Arc<Shared>) {
    let places = Arc::new(Mutex::new(HashMap::new()));
    // Ends with this task.
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        match accepted {
            Ok((stream, client)) => match Place::take(&places, client.ip()) {
                Some(place) => {
                    let shared = Arc::clone(&shared);
                    tasks.spawn(async move {
                        let _place = place;
                        // A client that goes, or is too slow, is no failure of ours.
                        let _ = converse(stream, client, &shared).await;
                    });
                }
                None => drop(shared.counters.shut_out.fetch_add(1, Relaxed)),
            },
            // The client has gone meanwhile, or descriptors are short: neither ends the server.
            Err(error) => {
                debug!("cannot accept a stream: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// One of the streams.
struct Place {
    places: Arc<Mutex<HashMap<IpAddr, usize>>>,
    client: IpAddr,
}

impl Place {
    fn take(places: &Arc<Mutex<HashMap<IpAddr, usize>>>, client: IpAddr) -> Option<Self> {
        let mut taken = lock(places);
        let own = taken.get(&client).copied().unwrap_or_default();
        if own >= STREAMS_EACH || taken.values().sum::<usize>() >= STREAMS {
            return None;
        }
        taken.insert(client, own + 1);
        Some(Self { places: Arc::clone(places), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.places);
        if let Some(own) = taken.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.client);
            }
        }
    }
}

/// Answers the queries of a stream: each has its length before it (RFC 1035 section 4.2.2).
async fn converse(mut stream: TcpStream, client: SocketAddr, shared: &Shared) -> io::Result<()> {
    loop {
        let query = timeout(IDLE, async {
            let length = stream.read_u16().await?;
            let mut query = vec![0; length.into()];
            stream.read_exact(&mut query).await?;
            io::Result::Ok(query)
        });
        let query = query.await??;
        let came = Instant::now();
        let response = match shared.decide(&query, client.ip(), Transport::Tcp) {
            Decision::Respond(bytes) => bytes,
            Decision::Forward(permit) => shared.forward(&query, Transport::Tcp, permit).await,
            Decision::Ignore => return Ok(()),
        };
        shared.counters.took(came.elapsed());
        let length = u16::try_from(response.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &response].concat();
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

/// What to do with a query, within the bounds.
enum Decision {
    Respond(Vec<u8>),
    Forward(OwnedSemaphorePermit),
    Ignore,
}

impl Shared {
    fn decide(&self, query: &[u8], client: IpAddr, transport: Transport) -> Decision {
        let table = self.table();
        self.counters.came(transport);
        let asker = self.asker(&table, client);
        match answer(&table, query, asker, transport, self.turn()) {
            Outcome::Respond(bytes, verdict) => {
                self.counters.note(verdict);
                Decision::Respond(bytes)
            }
            Outcome::Ignore => Decision::Ignore,
            Outcome::Upstream => match Arc::clone(&self.in_flight).try_acquire_owned() {
                Ok(permit) => Decision::Forward(permit),
                Err(_) => {
                    self.counters.crowded.fetch_add(1, Relaxed);
                    self.counters.note(Verdict::Failed);
                    Decision::Respond(failure(query))
                }
            },
        }
    }

    /// What another server answers, or that none does.
    async fn forward(&self, query: &[u8], transport: Transport, _permit: OwnedSemaphorePermit) -> Vec<u8> {
        self.counters.forwarded.fetch_add(1, Relaxed);
        let servers = Arc::clone(&lock(&self.servers));
        match upstream::ask(&servers, query, transport).await {
            Some(response) => response,
            None => {
                self.counters.unanswered.fetch_add(1, Relaxed);
                self.counters.note(Verdict::Failed);
                failure(query)
            }
        }
    }

    fn send(&self, socket: &UdpSocket, response: &[u8], client: SocketAddr) {
        // A full queue is the client's to try again: who waits here would delay all others.
        if socket.try_send_to(response, client).is_err() {
            self.counters.unsent.fetch_add(1, Relaxed);
        }
    }
}
