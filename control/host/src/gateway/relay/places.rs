//! The places of all relays: connections, and senders of datagrams.
//!
//! Each costs descriptors and memory, and anyone who reaches a published port may ask for one. Where all are taken, the
//! client that has most gives the one up that has been silent longest, so that one client can take places from itself only.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::descriptors;

/// Maximum number of places.
const MOST: usize = 4096;

/// Gives out places.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    start: Instant,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    places: HashMap<u64, Arc<Tenant>>,
}

/// Who has a place.
#[derive(Debug)]
struct Tenant {
    client: IpAddr,
    /// Milliseconds after the start: when it was active last.
    active: AtomicU64,
    evicted: Notify,
}

/// A place, for as long as it lives.
#[derive(Debug)]
pub(super) struct Place {
    key: u64,
    tenant: Arc<Tenant>,
    of: Arc<Places>,
}

impl Default for Places {
    /// As many as the limit of descriptors bears, of which a connection takes two.
    fn default() -> Self {
        Self::new(descriptors::share(MOST, 8))
    }
}

impl Places {
    fn new(most: usize) -> Self {
        Self { most, start: Instant::now(), taken: Mutex::default() }
    }

    /// A place for `from`, which may cost another its own.
    pub(super) fn take(self: &Arc<Self>, from: IpAddr) -> Place {
        let client = client(from);
        let now = self.now();
        let tenant = Arc::new(Tenant { client, active: AtomicU64::new(now), evicted: Notify::new() });
        let mut taken = self.taken();
        if taken.places.len() >= self.most {
            taken.evict(client);
        }
        let key = taken.next;
        taken.next += 1;
        taken.places.insert(key, Arc::clone(&tenant));
        Place { key, tenant, of: Arc::clone(self) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Takes a place from the client that has most, counting one more for `newcomer`.
    fn evict(&mut self, newcomer: IpAddr) {
        let mut count = HashMap::from([(newcomer, 1_usize)]);
        for tenant in self.places.values() {
            *count.entry(tenant.client).or_default() += 1;
        }
        // Of equals, the one that has been silent longest.
        let worth = |(key, tenant): (&u64, &Arc<Tenant>)| {
            (count[&tenant.client], std::cmp::Reverse((tenant.active.load(Relaxed), *key)))
        };
        let key = self.places.iter().max_by_key(|&it| worth(it)).map(|(key, _)| *key);
        if let Some(tenant) = key.and_then(|key| self.places.remove(&key)) {
            tenant.evicted.notify_one();
        }
    }
}

impl Place {
    /// Notes that it is used.
    pub(super) fn note(&self) {
        self.tenant.active.store(self.of.now(), Relaxed);
    }

    /// Waits until it is given to another.
    pub(super) async fn evicted(&self) {
        self.tenant.evicted.notified().await;
    }

    /// For how long it has not been used.
    pub(super) fn silent(&self) -> Duration {
        Duration::from_millis(self.of.now().saturating_sub(self.tenant.active.load(Relaxed)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.taken().places.remove(&self.key);
    }
}

/// What counts as one client: an IPv4 address, or the network of an IPv6 host, which has any number of addresses in it
/// (RFC 4291 section 2.5.1).
fn client(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    async fn is_evicted(place: &Place) -> bool {
        timeout(Duration::from_millis(1), place.evicted()).await.is_ok()
    }

    #[test]
    fn clients_are_told_apart_by_what_they_cannot_choose() {
        assert_eq!(client(at("192.0.2.7")), client(at("::ffff:192.0.2.7")));
        assert_ne!(client(at("192.0.2.7")), client(at("192.0.2.8")));
        assert_eq!(client(at("2001:db8::1")), client(at("2001:db8::ffff:1")));
        assert_ne!(client(at("2001:db8::1")), client(at("2001:db8:0:1::1")));
        assert_eq!(client(at("::1")), at("::1"));
    }

    #[tokio::test]
    async fn who_has_most_loses_the_place_that_is_silent_longest() {
        let places = Arc::new(Places::new(4));
        let quiet = places.take(at("192.0.2.1"));
        let mut greedy: Vec<_> = (0..3).map(|_| places.take(at("192.0.2.2"))).collect();
        // The first speaks.
        greedy[0].tenant.active.store(7, Relaxed);
        let newcomer = places.take(at("192.0.2.3"));
        assert!(is_evicted(&greedy[1]).await);
        for place in [&quiet, &greedy[0], &greedy[2], &newcomer] {
            assert!(!is_evicted(place).await);
        }
        // A client that has as many as others takes from itself.
        drop(greedy.remove(1));
        let again = places.take(at("192.0.2.2"));
        assert!(is_evicted(&greedy[1]).await && !is_evicted(&again).await);
        assert_eq!(places.taken().places.len(), 4);
        drop((quiet, greedy, newcomer, again));
        assert_eq!(places.taken().places.len(), 0);
    }
}
