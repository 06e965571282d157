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
    os::fd::AsFd,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use socket2::{SockRef, Socket};
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
    socket: Receiver<Socket>,
}

/// A relay's socket, which is handed back when the relay ends.
#[derive(Debug)]
struct Lent<S: AsFd> {
    socket: Arc<S>,
    back: Sender<Socket>,
}

impl<S: AsFd> Drop for Lent<S> {
    fn drop(&mut self) {
        if let Ok(socket) = SockRef::from(&*self.socket).try_clone() {
            // The caller that ended it may no longer wait for it.
            let _ = self.back.send(socket);
        }
    }
}

impl Relays {
    /// Relays from `socket`, a listening TCP socket or a bound UDP socket, to `to`.
    ///
    /// # Errors
    /// Those of the kernel; SCTP is [`io::ErrorKind::Unsupported`].
    pub(super) fn begin(&mut self, protocol: Protocol, socket: Socket, to: SocketAddr) -> io::Result<Relay> {
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
        socket.set_nonblocking(true)?;
        let (back, returned) = channel();
        let _registered_there = runtime.enter();
        let task = match protocol {
            Protocol::Tcp => {
                let lent = Lent { socket: TcpListener::from_std(socket.into())?.into(), back };
                runtime.spawn(async move { streams::carry(&lent.socket, to, places).await })
            }
            Protocol::Udp => {
                datagrams::prepare(&socket)?;
                let lent = Lent { socket: UdpSocket::from_std(socket.into())?.into(), back };
                runtime.spawn(async move { datagrams::carry(&lent.socket, to, places).await })
            }
            Protocol::Sctp => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Relay { to, task: task.abort_handle(), socket: returned })
    }
}

impl Relay {
    /// Its destination.
    pub(super) fn to(&self) -> SocketAddr {
        self.to
    }

    /// Ends it, and returns its socket.
    pub(super) fn end(self) -> Option<Socket> {
        self.task.abort();
        self.socket.recv_timeout(PATIENCE).ok()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
        // Its end is answered by the socket, or by being disconnected; until then the port is in use.
        while self.socket.recv_timeout(PATIENCE).is_ok() {}
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
