//! What the kernel dropped because a TAP's queue was full.
//!
//! A TAP queues what the container sends until a worker reads it (as many frames as the interface's `txqueuelen`); what
//! finds the queue full, or nobody who has the interface open, is dropped and counted as the interface's `tx_dropped`
//! (`tun_net_xmit` in drivers/net/tun.c). The descriptor does not tell that count, so it is read where the interface is by
//! now when somebody asks: all of a namespace at once, from /proc/net/dev, which takes no lock, where a netlink dump
//! would wait for whoever changes interfaces.

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

use tokio::{sync::Semaphore, task::spawn_blocking};
use tracing::debug;
use vswitch::device::tap::Tap;

use crate::netns::{self, Namespace, Traveller};
use vswitch_model::Identity;

/// How long what was seen is good enough: for all that one picture of the switch is made of.
const FRESH: Duration = Duration::from_millis(100);

/// Octets that the interfaces of a namespace are read into at first: some hundred fit.
const TEXT: usize = 64 << 10;

/// The queue of a TAP in the kernel.
#[derive(Debug, Default)]
pub struct Queue {
    dropped: AtomicU64,
}

impl Queue {
    /// Frames dropped since the interface was made, as far as was looked.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

/// Where the queues of TAPs are to be seen: namespaces, and the names that interfaces have there.
///
/// Not the TAPs themselves: whoever holds one keeps its interface alive.
#[derive(Debug, Default)]
pub struct Queues(HashMap<Identity, Watched>);

/// A namespace, and the queues of interfaces there by name.
type Watched = (Namespace, Vec<(String, Arc<Queue>)>);

impl Queues {
    /// Adds the queue of `tap`, where its interface is by now.
    ///
    /// # Errors
    /// The interface is gone, or its namespace is not ours to enter.
    pub fn add(&mut self, tap: &Tap, queue: &Arc<Queue>) -> io::Result<()> {
        let namespace = Namespace::adopt(tap.namespace()?, "of a TAP")?;
        let (_, there) = self.0.entry(namespace.identity()).or_insert_with(|| (namespace, Vec::new()));
        there.push((tap.name()?, Arc::clone(queue)));
        Ok(())
    }

    /// Looks at each queue. One that cannot be seen stays as it was seen last.
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

/// Looks at queues, one look at a time, however many ask.
#[derive(Debug)]
pub struct Looker {
    /// Whose turn it is to look.
    turn: Semaphore,
    last: Mutex<Option<Instant>>,
}

impl Default for Looker {
    fn default() -> Self {
        Self { turn: Semaphore::new(1), last: Mutex::default() }
    }
}

impl Looker {
    /// Looks at the queues that `queues` tells, unless that was just done. Waits for nothing but another's look.
    pub async fn look(&self, queues: impl FnOnce() -> Queues + Send + 'static) {
        let turn = self.turn.acquire().await;
        if self.last().is_some_and(|last| last.elapsed() < FRESH) {
            return;
        }
        // Namespaces are entered and the kernel may let us wait.
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

    fn last(&self) -> MutexGuard<'_, Option<Instant>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The packets to send that each interface dropped, from the text of /proc/net/dev (`dev_seq_printf_stats` in
/// net/core/net-procfs.c).
fn dropped_by_name(text: &str) -> HashMap<&str, u64> {
    // Eight numbers of what was received, then octets, packets, errors and drops of what was to be sent.
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
