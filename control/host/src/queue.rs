//! Frames that the kernel dropped because a TAP's queue was full.
//!
//! A TAP queues what the container sends until a worker reads it (at most `txqueuelen` frames); a frame that finds the
//! queue full, or no process with the interface open, is dropped and counted as the interface's `tx_dropped`
//! (`tun_net_xmit` in drivers/net/tun.c). The descriptor does not give access to that counter, so it is read on demand in
//! the interface's current namespace: for all interfaces at once, from /proc/net/dev, which takes no lock, while a netlink
//! dump would wait for changes of interfaces.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};
use tracing::debug;
use vswitch::device::tap::Tap;

use crate::netns::{self, Inode, Namespace, Traveller};

/// Age up to which a reading is reused: one view of the switch needs many.
const FRESH: Duration = Duration::from_millis(100);

/// Age up to which a reading answers while the next is made: with a thousand TAPs that takes milliseconds, and longer while
/// interfaces are made and removed, since each request to a TAP waits for the lock of the kernel's interfaces (`rtnl_lock`).
const RECENT: Duration = Duration::from_secs(1);

/// Initial size of the read buffer in bytes: room for some hundred interfaces.
const TEXT: usize = 64 << 10;

/// The queue of a TAP in the kernel.
#[derive(Debug, Default)]
pub struct Queue {
    dropped: AtomicU64,
}

impl Queue {
    /// Frames dropped since the interface was created, as of the last reading.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

/// Where the queues of TAPs can be read: namespaces, and the names of interfaces there.
///
/// Without the TAPs themselves, since an open one keeps its interface alive.
#[derive(Debug, Default)]
pub struct Queues(HashMap<Inode, Watched>);

/// A namespace, and the queues of interfaces there by name.
type Watched = (Namespace, Vec<(String, Arc<Queue>)>);

impl Queues {
    /// Adds the queue of `tap`, in the current namespace of its interface.
    ///
    /// # Errors
    /// The interface is gone, or its namespace cannot be entered.
    pub fn add(&mut self, tap: &Tap, queue: &Arc<Queue>) -> io::Result<()> {
        let namespace = Namespace::adopt(tap.namespace()?, "of a TAP")?;
        let (_, there) = self.0.entry(namespace.inode()).or_insert_with(|| (namespace, Vec::new()));
        there.push((tap.name()?, Arc::clone(queue)));
        Ok(())
    }

    /// Reads each queue. One that cannot be read keeps its last value.
    fn look(&self, traveller: &Traveller) {
        let mut text = String::with_capacity(TEXT);
        for (namespace, queues) in self.0.values() {
            text.clear();
            let entered = traveller.enter(namespace).map_err(io::Error::from);
            let read = entered
                .and_then(|()| File::open("/proc/thread-self/net/dev"))
                .and_then(|mut file| file.read_to_string(&mut text));
            if let Err(error) = read {
                debug!("cannot look at the queues of TAPs: {error}");
                continue;
            }
            let dropped = dropped_by_name(&text);
            for (ifname, queue) in queues {
                if let Some(dropped) = dropped.get(ifname.as_str()) {
                    queue.dropped.store(*dropped, Relaxed);
                }
            }
        }
    }
}

/// Reads queues, with one reading at a time for all callers.
#[derive(Debug)]
pub struct Looker {
    /// Serializes readings.
    turn: Arc<Semaphore>,
    last: Mutex<Option<Instant>>,
}

impl Default for Looker {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), last: Mutex::default() }
    }
}

impl Looker {
    /// Reads the queues given by `queues`, unless that was done within 100 ms. Waits for it only if the last reading is more than
    /// a second old.
    pub async fn look(self: &Arc<Self>, queues: impl FnOnce() -> Queues + Send + 'static) {
        if self.is_younger(FRESH) {
            return;
        }
        if self.is_younger(RECENT) {
            if let Ok(turn) = Arc::clone(&self.turn).try_acquire_owned() {
                let this = Arc::clone(self);
                tokio::spawn(async move { this.read(turn, queues).await });
            }
            return;
        }
        // Waits for a reading in progress. Never closed.
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else { return };
        if !self.is_younger(FRESH) {
            self.read(turn, queues).await;
        }
    }

    /// Reads in the turn of this caller.
    async fn read(&self, turn: OwnedSemaphorePermit, queues: impl FnOnce() -> Queues + Send + 'static) {
        // Entering namespaces may block.
        let look = move || {
            let queues = queues();
            netns::travel(move |traveller| queues.look(traveller))
        };
        if let Err(error) = spawn_blocking(look).await.map_err(io::Error::other).flatten() {
            debug!("cannot look at the queues of TAPs: {error}");
        }
        *self.last() = Some(Instant::now());
        drop(turn);
    }

    fn is_younger(&self, age: Duration) -> bool {
        self.last().is_some_and(|last| last.elapsed() < age)
    }

    fn last(&self) -> MutexGuard<'_, Option<Instant>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Transmit drops by interface, from the text of /proc/net/dev (`dev_seq_printf_stats` in net/core/net-procfs.c).
fn dropped_by_name(text: &str) -> HashMap<&str, u64> {
    // Eight receive counters, then bytes, packets, errors and drops of transmission.
    const DROPPED: usize = 11;
    let interfaces = text.lines().filter_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        Some((name.trim(), numbers.split_whitespace().nth(DROPPED)?.parse().ok()?))
    });
    interfaces.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_found_with_what_they_dropped() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:30064771072 9 0 7 0 0 0 0 64 2 0 4294967296 0 0 0 0
";
        let dropped = dropped_by_name(text);
        assert_eq!(dropped, [("lo", 0), ("eth0", 1 << 32)].into());
        assert!(dropped_by_name("").is_empty() && dropped_by_name("x: 1 2").is_empty());
    }
}
