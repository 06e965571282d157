//! Userspace relay for what the kernel does not translate.
//!
//! The kernel does not translate between address families, and accepts no replies to ::1 from another interface. So a
//! connection to such a published port ends at the socket that reserves the port, and another leads to the container, which
//! sees the gateway's address. All relays share one thread, and a bounded number of [places].

mod datagrams;
mod places;
mod streams;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use socket2::Socket;
use tokio::{
    net::{TcpListener, UdpSocket},
    runtime::{Builder, Runtime},
    task::AbortHandle,
};

use self::places::Places;
use vswitch_model::publish::Protocol;

/// How long to wait for a relay to end, which takes no time unless the machine is stalled.
const PATIENCE: Duration = Duration::from_secs(1);

/// The thread of all relays, started with the first, and what they share.
#[derive(Debug, Default)]
pub(super) struct Relays {
    runtime: Option<Runtime>,
    places: Arc<Places>,
}

/// A relay. Dropping it ends it and its connections, and frees the port.
#[derive(Debug)]
pub(super) struct Relay {
    to: SocketAddr,
    task: AbortHandle,
    ended: Receiver<()>,
}

impl Relays {
    /// Relays from `socket`, a listening TCP socket or a bound UDP socket, to `to`.
    ///
    /// # Errors
    /// Those of the kernel; SCTP is [`io::ErrorKind::Unsupported`].
    pub(super) fn begin(&mut self, protocol: Protocol, socket: &Socket, to: SocketAddr) -> io::Result<Relay> {
        let places = Arc::clone(&self.places);
        let runtime = match &self.runtime {
            Some(runtime) => runtime,
            None => {
                let thread = Builder::new_multi_thread()
                    .worker_threads(1)
                    .thread_name("relay")
                    .enable_all()
                    .build()?;
                self.runtime.insert(thread)
            }
        };
        let socket = socket.try_clone()?;
        socket.set_nonblocking(true)?;
        let (end, ended) = channel();
        let _registered_there = runtime.enter();
        let task = match protocol {
            Protocol::Tcp => {
                let listener = TcpListener::from_std(socket.into())?;
                runtime.spawn(until_the_end(streams::carry(listener, to, places), end))
            }
            Protocol::Udp => {
                datagrams::prepare(&socket)?;
                let socket = UdpSocket::from_std(socket.into())?;
                runtime.spawn(until_the_end(datagrams::carry(socket, to, places), end))
            }
            Protocol::Sctp => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Relay { to, task: task.abort_handle(), ended })
    }
}

/// Signals the end once the relay's socket is closed, not before.
async fn until_the_end(relay: impl Future<Output = ()>, end: Sender<()>) {
    relay.await;
    drop(end);
}

impl Relay {
    /// Its destination.
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
        if let Some(runtime) = self.runtime.take() {
            // This may be dropped by a task, itself run on the runtime, which must not wait for threads.
            runtime.shutdown_background();
        }
    }
}
