//! Consistent hashing: a table in which each backend has an equal share of places (Eisenbud et al., "Maglev: A Fast and
//! Reliable Software Network Load Balancer", NSDI 2016, section 3.4).
//!
//! Each backend has an order of its own of all places, and the backends take turns in claiming the first free place of theirs. So
//! shares differ by one place, and when a backend comes or goes, few places of the others change.

use std::net::IpAddr;

use super::hash::{mix, mix_address};

/// Sizes of tables: primes, so that every step visits all places.
const SIZES: [usize; 5] = [251, 1_021, 4_093, 16_381, 65_521];

/// Places for each backend at least, as far as there are tables of that size: shares differ by less than a hundredth.
const SHARE: usize = 100;

/// Which backend serves a flow, by the flow's hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table(Box<[u16]>);

impl Table {
    /// The table of these backends, of which each has a number. No more than 65,521 have a place.
    pub(super) fn new(backends: &[(u16, IpAddr)]) -> Self {
        if backends.is_empty() {
            return Self(Box::default());
        }
        let enough = |size: &&usize| **size >= backends.len() * SHARE;
        let size = *SIZES.iter().find(enough).unwrap_or(&SIZES[SIZES.len() - 1]);
        let mut orders: Vec<_> = backends.iter().map(|(_, address)| Order::of(*address, size)).collect();
        let mut places = vec![None; size];
        let mut free = size;
        while free > 0 {
            for ((number, _), order) in backends.iter().zip(&mut orders).take(free) {
                let place = order.by_ref().find(|place| places[*place].is_none());
                // Each order visits every place, and one is free.
                places[place.expect("a place is free")] = Some(*number);
            }
            free = free.saturating_sub(backends.len());
        }
        Self(places.into_iter().flatten().collect())
    }

    /// The number of the backend for a flow with this hash, if there is one.
    #[inline]
    pub(super) fn choose(&self, hash: u64) -> Option<u16> {
        let place = (u128::from(hash) * self.0.len() as u128) >> 64;
        #[expect(clippy::cast_possible_truncation, reason = "less than the length of the table")]
        self.0.get(place as usize).copied()
    }
}

/// The order in which a backend claims places.
#[derive(Debug)]
struct Order {
    next: usize,
    step: usize,
    size: usize,
}

impl Order {
    fn of(address: IpAddr, size: usize) -> Self {
        let hash = mix_address(0, address);
        let below = |hash: u64, bound: usize| usize::try_from(hash % bound as u64).unwrap_or(0);
        Self { next: below(hash, size), step: below(mix(1, hash), size - 1) + 1, size }
    }
}

impl Iterator for Order {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let place = self.next;
        self.next = (place + self.step) % self.size;
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(numbers: impl IntoIterator<Item = u16>) -> Vec<(u16, IpAddr)> {
        let address = |number: u16| IpAddr::from([10, 9, number.to_be_bytes()[0], number.to_be_bytes()[1]]);
        numbers.into_iter().map(|number| (number, address(number))).collect()
    }

    #[test]
    fn shares_are_equal_and_no_backends_have_none() {
        assert_eq!(Table::new(&[]).choose(7), None);
        for count in [1, 2, 3, 16, 100, 655, 3_000] {
            let table = Table::new(&backends(0..count));
            let mut shares = vec![0_usize; usize::from(count)];
            table.0.iter().for_each(|number| shares[usize::from(*number)] += 1);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 1, "{count} backends: {least} to {most}");
        }
    }

    #[test]
    fn a_backend_that_goes_takes_few_flows_of_others_along() {
        for count in [2, 5, 16, 100] {
            let before = Table::new(&backends(0..count));
            for gone in [0, count / 2, count - 1] {
                let after = Table::new(&backends((0..count).filter(|number| *number != gone)));
                let flows = 10_000_u64;
                let moved = (0..flows).map(|flow| mix(3, flow)).filter(|hash| {
                    let chosen = before.choose(*hash).unwrap();
                    chosen != gone && after.choose(*hash) != Some(chosen)
                });
                let moved = moved.count();
                assert!(moved <= 500, "{count} backends without {gone}: {moved} flows of others moved");
            }
        }
    }
}
