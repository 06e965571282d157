//! TCP with the payload checked byte by byte.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use crate::{Netns, PATIENCE, eventually, pattern::Pattern};

/// Connects `client` to `address`, which is one of `server`.
pub fn connect(client: &Netns, server: &Netns, address: &str) -> (TcpStream, TcpStream) {
    let listener = server.listen(address);
    let near = client.connect(listener.local_addr().unwrap());
    let (far, _) = listener.accept().unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    far.set_write_timeout(Some(PATIENCE)).unwrap();
    (near, far)
}

/// Sends `bytes` bytes both ways at once, in writes of `chunk`, and checks every byte and the end of both streams.
pub fn exchange(client: &Netns, server: &Netns, address: &str, bytes: u64, chunk: usize) {
    let (near, far) = connect(client, server, address);
    let (there, back) = (Pattern(chunk as u64), Pattern(!(chunk as u64)));
    thread::scope(|scope| {
        scope.spawn(|| send(&near, there, bytes, chunk));
        scope.spawn(|| send(&far, back, bytes, chunk));
        scope.spawn(|| receive(&near, back, bytes));
        scope.spawn(|| receive(&far, there, bytes));
    });
}

fn send(mut stream: &TcpStream, pattern: Pattern, bytes: u64, chunk: usize) {
    let mut sent = 0;
    while sent < bytes {
        let part = pattern.make(sent, chunk.min(usize::try_from(bytes - sent).unwrap()));
        stream.write_all(&part).unwrap();
        sent += part.len() as u64;
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

fn receive(mut stream: &TcpStream, pattern: Pattern, bytes: u64) {
    let mut buffer = vec![0; 1 << 16];
    let mut received = 0;
    loop {
        let len = stream.read(&mut buffer).unwrap();
        if len == 0 {
            break;
        }
        assert_eq!(pattern.first_difference(received, &buffer[..len]), None, "of {received}+{len} bytes");
        received += len as u64;
    }
    assert_eq!(received, bytes);
}

/// A background stream that is checked all the way.
#[derive(Debug)]
pub struct Flow {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Flow {
    /// Starts a stream from `client` to `address`, which is one of `server`.
    pub fn start(client: &Netns, server: &Netns, address: &str) -> Self {
        let (near, far) = connect(client, server, address);
        Self::of(near, far)
    }

    /// A stream over an open connection, from its first end to its second.
    pub fn of(near: TcpStream, far: TcpStream) -> Self {
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (Arc::clone(&stop), Arc::clone(&received));
        let sender = thread::spawn(move || pour(near, &told));
        let receiver = thread::spawn(move || drink(far, &count));
        Self { stop, received, threads: vec![sender, receiver] }
    }

    /// Bytes received and verified so far.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Waits until `bytes` more bytes have been received.
    pub fn flows(&self, bytes: u64) {
        let goal = self.received() + bytes;
        eventually("the stream goes on", || (self.received() >= goal).then_some(()));
    }

    /// Ends the stream, checks that nothing was lost or corrupted, and returns its length.
    pub fn stop(mut self) -> u64 {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap().unwrap();
        }
        self.received()
    }

    /// Drops a stream that may be broken.
    pub fn abandon(mut self) {
        self.stop.store(true, Relaxed);
        self.threads.clear();
    }
}

const STREAM: Pattern = Pattern(0xf10c);

fn pour(mut stream: TcpStream, stop: &AtomicBool) -> Result<(), String> {
    let mut sent = 0;
    while !stop.load(Relaxed) {
        let part = STREAM.make(sent, 1 << 15);
        stream.write_all(&part).map_err(|error| format!("after sending {sent} bytes: {error}"))?;
        sent += part.len() as u64;
    }
    stream.shutdown(Shutdown::Write).map_err(|error| error.to_string())
}

fn drink(mut stream: TcpStream, received: &AtomicU64) -> Result<(), String> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let at = received.load(Relaxed);
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => {
                if let Some(place) = STREAM.first_difference(at, &buffer[..len]) {
                    return Err(format!("byte {place} is wrong"));
                }
                received.fetch_add(len as u64, Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("after {at} bytes: {error}")),
        }
    }
}
