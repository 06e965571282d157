//! What the kernel dropped because a TAP's queue was full.
//!
//! A TAP queues what the container sends until a worker reads it (as many frames as the interface's `txqueuelen`); what
//! finds the queue full, or nobody who has the interface open, is dropped and counted as the interface's `tx_dropped`
//! (`tun_net_xmit` in drivers/net/tun.c). The descriptor does not tell that count, so it is read where the interface is by
//! now when somebody asks: all of a namespace at once, from /proc/net/dev, which takes no lock, where a netlink dump
//! would wait for whoever changes interfaces.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{sync::Mutex, task::spawn_blocking};
use tracing::debug;
use vswitch::device::tap::Tap;

use crate::netns::{self, Namespace, Traveller};

/// How long what was seen is good enough: for all that one picture of the switch is made of.
const FRESH: Duration = Duration::from_millis(100);

/// Octets that the interfaces of a namespace are read into at first: some hundred fit.
const TEXT: usize = 64 << 10;

/// The queue of a TAP in the kernel.
#[derive(Debug, Default)]
pub(super) struct Queue {
    dropped: AtomicU64,
}

impl Queue {
    /// Frames dropped since the interface was made, as far as was looked.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

/// TAPs that are open, and their queues.
pub(super) type Queues = Vec<(Arc<Tap>, Arc<Queue>)>;

/// Looks at queues, one look at a time, however many ask.
#[derive(Debug, Default)]
pub(super) struct Looker {
    last: Mutex<Option<Instant>>,
}

impl Looker {
    /// Looks at the queues that `queues` tells, unless somebody has just done so.
    ///
    /// Namespaces are entered and the kernel may let us wait, so this is no work for whoever holds a lock of the daemon.
    pub(super) async fn look(&self, queues: impl Future<Output = Queues> + Send) {
        let mut last = self.last.lock().await;
        if last.is_some_and(|last| last.elapsed() < FRESH) {
            return;
        }
        let queues = queues.await;
        let looked = spawn_blocking(move || netns::travel(|traveller| look(traveller, &queues))).await;
        if let Err(error) = looked.map_err(io::Error::other).flatten() {
            debug!("cannot look at the queues of TAPs: {error}");
        }
        *last = Some(Instant::now());
    }
}

/// Looks at each queue. One that cannot be seen stays as it was seen last.
fn look(traveller: &Traveller, queues: &Queues) {
    let mut seen = HashMap::new();
    let mut text = String::with_capacity(TEXT);
    for (tap, queue) in queues {
        let dropped = (|| -> io::Result<_> {
            let namespace = Namespace::adopt(tap.namespace()?, "of a TAP")?;
            let interfaces = match seen.entry(namespace.identity()) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    traveller.enter(&namespace)?;
                    text.clear();
                    File::open("/proc/thread-self/net/dev")?.read_to_string(&mut text)?;
                    new.insert(dropped_by_name(&text))
                }
            };
            Ok(interfaces.get(&tap.name()?).copied())
        })();
        match dropped {
            Ok(Some(dropped)) => queue.dropped.store(dropped, Relaxed),
            Ok(None) => {}
            Err(error) => debug!("cannot look at the queue of a TAP: {error}"),
        }
    }
}

/// The packets to send that each interface dropped, from the text of /proc/net/dev (`dev_seq_printf_stats` in
/// net/core/net-procfs.c).
fn dropped_by_name(text: &str) -> HashMap<String, u64> {
    // Eight numbers of what was received, then octets, packets, errors and drops of what was to be sent.
    const DROPPED: usize = 11;
    let interface = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        Some((name.trim().to_owned(), numbers.split_whitespace().nth(DROPPED)?.parse().ok()?))
    };
    text.lines().filter_map(interface).collect()
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
        assert_eq!(dropped, [("lo".to_owned(), 0), ("eth0".to_owned(), 1 << 32)].into());
        assert!(dropped_by_name("").is_empty() && dropped_by_name("x: 1 2").is_empty());
    }
}
