//! A service: one address, the backends that stand behind it, and which of them a new flow gets.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    flows::Key,
    hash::{mix, mix_address},
    maglev::Table,
};
use crate::addr::{MacAddr, Timestamp};

/// What keeps the flows of a client together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Affinity {
    /// Nothing: each flow gets a backend of its own.
    #[default]
    None,
    /// All flows of a client's address go to one backend: the one that the address falls to, or, for as long as the client was
    /// last heard within this time, the one it had before.
    Client(Option<Duration>),
}

/// One of several that serve.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its address, of the service's family.
    pub address: IpAddr,
    /// Its station.
    pub mac: MacAddr,
    /// Whether it gets new flows.
    pub is_ready: bool,
    /// When those that it has are over.
    pub ends: Option<Timestamp>,
    /// New flows that it was given. Shared with earlier plans.
    pub given: Arc<Given>,
}

/// Number of flows that a backend was given.
#[derive(Debug, Default)]
pub struct Given(AtomicU64);

impl Given {
    /// The number so far.
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(super) fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// An address that several backends stand behind.
#[derive(Debug)]
pub struct Service {
    address: IpAddr,
    affinity: Affinity,
    /// Sorted by address.
    backends: Box<[Backend]>,
    table: Table,
}

impl Service {
    /// The service at `address`. Only backends of its family count.
    pub fn new(address: IpAddr, affinity: Affinity, backends: impl IntoIterator<Item = Backend>) -> Self {
        let mut backends: Vec<_> = backends
            .into_iter()
            .filter(|backend| backend.address.is_ipv4() == address.is_ipv4())
            .take(usize::from(u16::MAX))
            .collect();
        backends.sort_by_key(|backend| backend.address);
        backends.dedup_by_key(|backend| backend.address);
        let ready: Vec<_> = (0..)
            .zip(&backends)
            .filter(|(_, backend)| backend.is_ready)
            .map(|(number, backend)| (number, backend.address))
            .collect();
        Self { address, affinity, backends: backends.into(), table: Table::new(&ready) }
    }

    /// Its address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Its backends, by address.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// What keeps the flows of a client together.
    pub fn affinity(&self) -> Affinity {
        self.affinity
    }

    /// The backend with this address.
    pub(super) fn backend(&self, address: IpAddr) -> Option<&Backend> {
        let place = self.backends.binary_search_by_key(&address, |backend| backend.address).ok()?;
        Some(&self.backends[place])
    }

    /// The backend that a new flow falls to; `None`: none is ready.
    pub(super) fn choose(&self, key: &Key) -> Option<&Backend> {
        let client = mix_address(mix_address(0, key.client), key.service);
        let hash = match self.affinity {
            Affinity::None => mix(
                client,
                u64::from(key.client_port) << 32 | u64::from(key.port) << 8 | u64::from(key.protocol),
            ),
            Affinity::Client(_) => client,
        };
        self.backends.get(usize::from(self.table.choose(hash)?))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::flows::Mark, *};

    fn backend(last: u8, is_ready: bool) -> Backend {
        Backend {
            address: IpAddr::from([10, 9, 0, last]),
            mac: MacAddr([2, 0, 0, 0, 0, last]),
            is_ready,
            ends: None,
            given: Arc::default(),
        }
    }

    fn key(client: u8, client_port: u16) -> Key {
        let service = IpAddr::from([10, 9, 0, 100]);
        let client = IpAddr::from([10, 9, 1, client]);
        Key { network: Mark(0), client, client_port, service, port: 80, protocol: 6 }
    }

    #[test]
    fn flows_are_spread_evenly_over_ready_backends() {
        let backends =
            [backend(1, true), backend(2, true), backend(3, false), backend(4, true), backend(5, true)];
        let service = Service::new(IpAddr::from([10, 9, 0, 100]), Affinity::None, backends);
        let mut shares = [0_i32; 6];
        for client_port in 20_000..30_000 {
            let IpAddr::V4(chosen) = service.choose(&key(7, client_port)).unwrap().address else {
                unreachable!()
            };
            shares[usize::from(chosen.octets()[3])] += 1;
        }
        assert_eq!(shares[3], 0, "not ready");
        let even = [1, 2, 4, 5].iter().all(|backend| (shares[*backend] - 2_500).abs() <= 125);
        assert!(even, "within 5 %: {shares:?}");
    }

    #[test]
    fn a_client_keeps_its_backend() {
        let backends = (1..=9).map(|last| backend(last, true));
        let service = Service::new(IpAddr::from([10, 9, 0, 100]), Affinity::Client(None), backends);
        let chosen = |client, port| service.choose(&key(client, port)).unwrap().address;
        assert!((1..500).all(|port| chosen(1, port) == chosen(1, 0)));
        assert!((2..100).any(|client| chosen(client, 0) != chosen(1, 0)), "and not all have one");
    }

    #[test]
    fn addresses_of_the_other_family_and_double_ones_do_not_count() {
        let other = Backend { address: IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]), ..backend(1, true) };
        let service = Service::new(
            IpAddr::from([10, 9, 0, 100]),
            Affinity::None,
            [other, backend(1, true), backend(1, true)],
        );
        assert_eq!(service.backends().len(), 1);
    }
}
