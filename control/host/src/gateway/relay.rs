//! What the kernel does not translate, carried on by hand.
//!
//! Nothing in the kernel translates between address families, and it takes no answers to ::1 from another interface. So a
//! connection to such a published port ends at the socket that holds the port, and another goes on to the container, which
//! sees the gateway's address. All relays share one thread; each has a bound to what it carries at a time.

mod datagrams;
mod streams;

use std::{
    io,
    net::SocketAddr,
    sync::mpsc::{Receiver, Sender, channel},
    time::Duration,
};

use socket2::Socket;
use tokio::{
    net::{TcpListener, UdpSocket},
    runtime::{Builder, Runtime},
    task::AbortHandle,
};

use vswitch_model::publish::Protocol;

/// Connections, or senders of datagrams, that one port carries at a time. Of TCP the next ones wait; of UDP they are not
/// heard.
const AT_ONCE: usize = 1024;

/// How long the end of a relay is waited for: it is at hand, unless the machine stands still.
const PATIENCE: Duration = Duration::from_secs(1);

/// The thread of all relays; there is none before the first begins.
#[derive(Debug, Default)]
pub(super) struct Relays(Option<Runtime>);

/// A relay. It ends with the value, and its connections with it; then nothing of it holds the port.
#[derive(Debug)]
pub(super) struct Relay {
    to: SocketAddr,
    task: AbortHandle,
    ended: Receiver<()>,
}

impl Relays {
    /// Carries what comes to `socket` on to `to`: a listening socket of TCP, a bound one of UDP.
    ///
    /// # Errors
    /// What the kernel says; SCTP is [`io::ErrorKind::Unsupported`].
    pub(super) fn begin(&mut self, protocol: Protocol, socket: &Socket, to: SocketAddr) -> io::Result<Relay> {
        let runtime = match &self.0 {
            Some(runtime) => runtime,
            None => {
                let thread = Builder::new_multi_thread()
                    .worker_threads(1)
                    .thread_name("relay")
                    .enable_all()
                    .build()?;
                self.0.insert(thread)
            }
        };
        let socket = socket.try_clone()?;
        socket.set_nonblocking(true)?;
        let (end, ended) = channel();
        let _registered_there = runtime.enter();
        let task = match protocol {
            Protocol::Tcp => {
                let listener = TcpListener::from_std(socket.into())?;
                runtime.spawn(until_the_end(streams::carry(listener, to), end))
            }
            Protocol::Udp => {
                datagrams::prepare(&socket)?;
                let socket = UdpSocket::from_std(socket.into())?;
                runtime.spawn(until_the_end(datagrams::carry(socket, to), end))
            }
            Protocol::Sctp => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Relay { to, task: task.abort_handle(), ended })
    }
}

/// The end is told when the relay's socket is closed, not before.
async fn until_the_end(relay: impl Future<Output = ()>, end: Sender<()>) {
    relay.await;
    drop(end);
}

impl Relay {
    /// Where it leads.
    pub(super) fn to(&self) -> SocketAddr {
        self.to
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
        // Answered by being disconnected.
        let _ = self.ended.recv_timeout(PATIENCE);
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Whoever drops this may be a task himself, and must not wait for threads.
            runtime.shutdown_background();
        }
    }
}
