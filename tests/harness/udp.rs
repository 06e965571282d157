//! UDP: an echo server, and datagrams that must arrive unchanged.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{Netns, pattern::Pattern, raw::set_option};

/// A server that echoes every datagram. Stopped on drop.
#[derive(Debug)]
pub struct Echo {
    /// The address it listens on.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts an echo server on a free port of `address`.
    pub fn start(netns: &Netns, address: &str) -> Self {
        let socket = netns.udp(address);
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let address = socket.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while !told.load(Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                    // A reply that cannot be sent shows as a timeout at the client.
                    let _ = socket.send_to(&buffer[..len], from);
                }
            }
        });
        Self { address, stop, thread: Some(thread) }
    }

    /// Sends `len` bytes and checks the reply. `None` if there is none within `limit`.
    pub fn round_trip(&self, client: &UdpSocket, len: usize, limit: Duration) -> Option<Duration> {
        let payload = Pattern(len as u64).make(0, len);
        client.set_read_timeout(Some(limit)).unwrap();
        let start = Instant::now();
        client.send_to(&payload, self.address).unwrap();
        let mut answer = vec![0; 1 << 16];
        let len = client.recv(&mut answer).ok()?;
        assert!(answer[..len] == payload, "the echo of {} bytes is wrong", payload.len());
        Some(start.elapsed())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes the kernel segment what `socket` sends into datagrams of `size` bytes (UDP_SEGMENT, udp(7)).
pub fn segment(socket: &UdpSocket, size: u16) {
    set_option(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, &libc::c_int::from(size)).unwrap();
}
