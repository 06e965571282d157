//! Loop detection: names the two ports that are connected to each other outside of the switch.
//!
//! In a loop every flooded frame comes back by the other port, and with it its source address: the table has the address on
//! one port while it keeps arriving at another, hundreds of times a second. Such sightings are counted for each address, by
//! port, within [`WINDOW`]. From [`MANY`] on the loop is reported: between the two ports where the address arrives, or, if it
//! arrives at one only, between that and the port where the table has it.
//!
//! The table's moves say less: damping makes few of them, and they do not distinguish the ports of the loop from that of the
//! station. Frames that storm limits drop are not learned from, so they are not counted here either. No frame is dropped and
//! no port is closed: the switch cannot know which of the two links is wanted. Two stations with the same address that both
//! send many frames look the same.
//!
//! Probe frames of our own would be certain, but other switches and stations would receive them, and would have to drop them.

use std::{collections::HashMap, time::Duration};

use super::slot::Key;
use crate::addr::{MacAddr, NetworkId, PortId, Timestamp};

/// Period in which sightings are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// Number of sightings within [`WINDOW`] from which there is a loop. A station that moves, or a pair of routers that take over
/// from each other, makes a few.
const MANY: u32 = 50;

/// Time after which a loop that was not seen again is over.
const OVER: Duration = Duration::from_secs(5);

/// Maximum number of watched addresses. In a loop that has more, these will do.
const WATCHED: usize = 64;

/// Maximum number of loops that are remembered.
const KNOWN: usize = 16;

/// Maximum number of ports whose sightings are counted for each address.
const PORTS: usize = 4;

/// Two ports that are connected to each other outside of the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loop {
    /// The broadcast domain.
    pub network: NetworkId,
    /// The two ports; the lower number first.
    pub ports: [PortId; 2],
    /// An address that keeps arriving at them.
    pub mac: MacAddr,
    /// When it was first seen.
    pub since: Timestamp,
    last: Timestamp,
}

/// Sightings of one address within [`WINDOW`].
#[derive(Clone, Copy, Debug)]
struct Watch {
    since: Timestamp,
    seen: [(PortId, u32); PORTS],
}

/// The addresses that are watched, and the loops that were found.
#[derive(Clone, Debug)]
pub(super) struct Loops {
    watched: HashMap<Key, Watch>,
    known: Vec<Loop>,
}

impl Loops {
    pub(super) fn new() -> Self {
        // Room for twice the bound: a hash map that stays half empty never grows.
        Self { watched: HashMap::with_capacity(WATCHED * 2), known: Vec::with_capacity(KNOWN) }
    }

    /// Notes that a frame from `key`, which the table has on `home`, was received on `seen`. Returns the two ports of a
    /// loop that was not known.
    pub(super) fn note(
        &mut self,
        key: Key,
        home: PortId,
        seen: PortId,
        now: Timestamp,
    ) -> Option<[PortId; 2]> {
        if self.watched.len() >= WATCHED && !self.watched.contains_key(&key) {
            self.watched.retain(|_, watch| now.since(watch.since) <= WINDOW);
            if self.watched.len() >= WATCHED {
                return None;
            }
        }
        let watch = self.watched.entry(key).or_insert_with(|| Watch::new(now));
        if now.since(watch.since) > WINDOW {
            *watch = Watch::new(now);
        }
        let ports = watch.note(home, seen)?;
        *watch = Watch::new(now);
        let (network, mac) = key.parts();
        self.found(Loop { network, ports, mac, since: now, last: now })
    }

    /// The loops that are there at `now`.
    pub(super) fn list(&self, now: Timestamp) -> Vec<Loop> {
        self.known.iter().filter(|it| now.since(it.last) <= OVER).copied().collect()
    }

    /// Forgets the loops of networks and ports for which `gone(network, port)` holds.
    pub(super) fn purge(&mut self, gone: impl Fn(NetworkId, PortId) -> bool) {
        self.known.retain(|it| !it.ports.iter().any(|port| gone(it.network, *port)));
    }

    fn found(&mut self, found: Loop) -> Option<[PortId; 2]> {
        let same = |it: &&mut Loop| (it.network, it.ports) == (found.network, found.ports);
        if let Some(known) = self.known.iter_mut().find(same) {
            let was_over = found.last.since(known.last) > OVER;
            let since = if was_over { found.since } else { known.since };
            *known = Loop { since, ..found };
            return was_over.then_some(found.ports);
        }
        if self.known.len() == KNOWN {
            let oldest = (0..KNOWN).min_by_key(|index| self.known[*index].last)?;
            self.known.swap_remove(oldest);
        }
        self.known.push(found);
        Some(found.ports)
    }
}

impl Watch {
    fn new(since: Timestamp) -> Self {
        Self { since, seen: [(PortId(0), 0); PORTS] }
    }

    /// Counts a sighting; with the last of [`MANY`], returns the two ports.
    fn note(&mut self, home: PortId, seen: PortId) -> Option<[PortId; 2]> {
        let place = self.seen.iter_mut().find(|(port, count)| *port == seen || *count == 0);
        // In a loop of more ports than are counted, some two of them are named.
        let (port, count) = place?;
        (*port, *count) = (seen, *count + 1);
        let total: u32 = self.seen.iter().map(|(_, count)| count).sum();
        if total < MANY {
            return None;
        }
        let mut seen = self.seen;
        seen.sort_unstable_by_key(|(_, count)| std::cmp::Reverse(*count));
        let [(first, _), (second, often), ..] = seen;
        // The station itself sends now and then, and is seen on its port while the table has it elsewhere.
        let other = if often >= MANY / 4 || first == home { second } else { home };
        let mut ports = [first, other];
        ports.sort_unstable();
        (first != other).then_some(ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: PortId = PortId(1);
    const L0: PortId = PortId(2);
    const L1: PortId = PortId(3);

    fn key(last: u8) -> Key {
        Key::new(NetworkId(1), MacAddr([2, 0, 0, 0, 0, last]))
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// What `count` sightings by turns at `ports`, a millisecond each from `start` on, report.
    fn run(loops: &mut Loops, home: PortId, ports: &[PortId], start: u64, count: usize) -> Vec<[PortId; 2]> {
        let sightings = (start..).zip(ports.iter().cycle()).take(count);
        sightings.filter_map(|(millis, port)| loops.note(key(1), home, *port, at(millis))).collect()
    }

    #[test]
    fn a_loop_is_named_by_its_two_ports_once() {
        // The table has the station on its own port, or on one of the loop's.
        for (home, seen) in [(W, &[L0, L1][..]), (L0, &[L1]), (L1, &[L0, L0, L0, L0, L0, L0, L0, W])] {
            let mut loops = Loops::new();
            assert_eq!(run(&mut loops, home, seen, 0, 3000), [[L0, L1]], "{home:?} {seen:?}");
            let [found] = loops.list(at(3000))[..] else { panic!("{loops:?}") };
            assert_eq!(
                (found.ports, found.mac, found.network),
                ([L0, L1], MacAddr([2, 0, 0, 0, 0, 1]), NetworkId(1))
            );
            assert_eq!(loops.list(at(9000)), [], "it is over");
            assert_eq!(run(&mut loops, home, seen, 20_000, 3000), [[L0, L1]], "it is back");
        }
    }

    #[test]
    fn stations_that_move_make_no_loop() {
        let mut loops = Loops::new();
        for second in 0..100 {
            // 49 a second are many moves.
            assert_eq!(run(&mut loops, W, &[L0], second * 1100, 49), Vec::<[PortId; 2]>::new());
        }
        assert_eq!(loops.list(at(110_000)), []);
    }

    #[test]
    fn memory_is_bounded_and_ports_that_go_are_forgotten() {
        let mut loops = Loops::new();
        for mac in 0..=255 {
            assert_eq!(loops.note(key(mac), W, L0, at(0)), None);
        }
        assert_eq!(loops.watched.len(), WATCHED);
        for port in 10..60 {
            for _ in 0..MANY {
                loops.note(key(1), PortId(5), PortId(port), at(2000));
            }
        }
        assert_eq!(loops.known.len(), KNOWN);
        loops.purge(|_, port| port == PortId(5));
        assert_eq!(loops.list(at(2000)), []);
    }
}
