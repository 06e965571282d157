//! Duplicate-MAC damping: an address that keeps moving is held where it is.
//!
//! Two stations with the same address make a switch relearn it with every frame, and each gets half of the
//! traffic. After `moves` moves within `window`, the address is held in place for `hold` and reported. The
//! defaults are FRR's (bgpd: 5 moves in 180 s, recovery after 1,800 s; RFC 7432 section 15.1).

use std::{collections::HashMap, time::Duration};

use super::slot::Key;
use crate::addr::Timestamp;

/// Settings of duplicate-MAC damping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Damping {
    /// Number of moves within `window` after which an address is held; 0 disables damping.
    pub moves: u32,
    /// Time window in which moves are counted.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::seconds"))]
    pub window: Duration,
    /// How long an address is held.
    #[cfg_attr(feature = "serde", serde(with = "crate::text::seconds"))]
    pub hold: Duration,
}

impl Default for Damping {
    fn default() -> Self {
        Self { moves: 5, window: Duration::from_secs(180), hold: Duration::from_secs(1800) }
    }
}

/// Maximum number of addresses with a move count; the one whose count began first is evicted.
const REMEMBERED: usize = 1024;

#[derive(Debug)]
struct Record {
    since: Timestamp,
    moves: u32,
    held_until: Option<Timestamp>,
}

/// Move counts of recently moved addresses.
#[derive(Debug)]
pub(super) struct Moves {
    pub(super) settings: Damping,
    records: HashMap<Key, Record>,
}

impl Moves {
    pub(super) fn new(settings: Damping) -> Self {
        // Room for twice the bound: a hash map that stays half empty never grows.
        Self { settings, records: HashMap::with_capacity(REMEMBERED * 2) }
    }

    /// Whether another move of `key` at `now` is allowed. If not, it is held from now on.
    pub(super) fn allow(&mut self, key: Key, now: Timestamp) -> bool {
        if self.settings.moves == 0 {
            return true;
        }
        if self.records.len() >= REMEMBERED && !self.records.contains_key(&key) {
            self.make_room();
        }
        let window = self.settings.window;
        let record = self.records.entry(key).or_insert(Record { since: now, moves: 0, held_until: None });
        if elapsed(record.since, now) > window {
            *record = Record { since: now, moves: 0, held_until: None };
        }
        record.moves += 1;
        if record.moves < self.settings.moves {
            return true;
        }
        record.held_until = Some(after(now, self.settings.hold));
        false
    }

    /// Whether [`Moves::allow`] would allow another move of `key`.
    pub(super) fn would_allow(&self, key: Key, now: Timestamp) -> bool {
        let record =
            self.records.get(&key).filter(|record| elapsed(record.since, now) <= self.settings.window);
        self.settings.moves == 0 || record.map_or(0, |record| record.moves) + 1 < self.settings.moves
    }

    /// Whether `key`, which is held in the table, may move again. Resets its move count if so.
    pub(super) fn release(&mut self, key: Key, now: Timestamp) -> bool {
        let until = self.records.get(&key).and_then(|record| record.held_until);
        let free = until.is_none_or(|until| until <= now);
        if free {
            self.records.remove(&key);
        }
        free
    }

    /// The addresses whose hold has ended at `now`.
    pub(super) fn due(&self, now: Timestamp) -> Vec<Key> {
        let over = |record: &Record| record.held_until.is_some_and(|until| until <= now);
        self.records.iter().filter(|(_, record)| over(record)).map(|(key, _)| *key).collect()
    }

    fn make_room(&mut self) {
        let oldest = self.records.iter().min_by_key(|(_, record)| record.since).map(|(key, _)| *key);
        oldest.and_then(|key| self.records.remove(&key));
    }
}

fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(now.as_millis().saturating_sub(since.as_millis()))
}

fn after(now: Timestamp, duration: Duration) -> Timestamp {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_millis(now.as_millis().saturating_add(millis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{MacAddr, NetworkId};

    fn key(last: u16) -> Key {
        let [high, low] = last.to_be_bytes();
        Key::new(NetworkId(1), MacAddr([2, 0, 0, 0, high, low]))
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn the_fifth_move_in_three_minutes_holds_for_half_an_hour() {
        let mut moves = Moves::new(Damping::default());
        for second in 0..4 {
            assert!(moves.allow(key(1), at(second)));
        }
        assert!(!moves.allow(key(1), at(180)));
        assert!(!moves.release(key(1), at(180 + 1799)));
        assert!(moves.release(key(1), at(180 + 1800)));
        assert!(moves.allow(key(1), at(180 + 1800)));
    }

    #[test]
    fn slow_moves_are_never_held() {
        let mut moves = Moves::new(Damping::default());
        assert!((0..100).all(|round| moves.allow(key(1), at(round * 46))));
    }

    #[test]
    fn memory_is_bounded() {
        let mut moves = Moves::new(Damping::default());
        for id in 0..10_000 {
            assert!(moves.allow(key(id), at(u64::from(id))));
        }
        assert_eq!(moves.records.len(), REMEMBERED);
    }
}
