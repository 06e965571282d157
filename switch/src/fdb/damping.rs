//! Duplicate-MAC damping: an address that keeps moving is reported, and moves once a second at most.
//!
//! Two stations with the same address make a switch relearn it with every frame, and each gets half of the
//! traffic. After `moves` moves within `window`, the address is *held* for `hold` and reported. The
//! defaults are FRR's (bgpd: 5 moves in 180 s, recovery after 1,800 s; RFC 7432 section 15.1).
//!
//! Unlike there, a held address is not fixed to its current port: the sender behind that port may be the forger, the end of a
//! loop or the router that failed, and a switch cannot distinguish them. The address follows its last sender, [`DWELL`] after
//! its last move. It is released at once when it is seen elsewhere while its port is silent: then it has really moved.
//!
//! Copies made by a loop are no moves: within [`DWELL`] moves count once, however many there are, and no more than `moves` of
//! them are made.

use std::{collections::HashMap, time::Duration};

use super::slot::Key;
use crate::addr::Timestamp;

/// Settings of duplicate-MAC damping: when an address is held, that is, limited to one move a second.
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

/// Period in which moves count once, between moves of a held address, and after which a port counts as silent.
pub(super) const DWELL: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct Record {
    since: Timestamp,
    /// Moves that count.
    moves: u32,
    /// Time of the last of them.
    counted: Timestamp,
    /// Further moves within [`DWELL`] of it.
    more: u32,
    held_until: Option<Timestamp>,
}

/// The decision about a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// It is made.
    pub(super) moves: bool,
    /// It is the one for which the address is held from now on.
    pub(super) begins_hold: bool,
}

impl Record {
    fn new(now: Timestamp) -> Self {
        Self { since: now, moves: 0, counted: now, more: 0, held_until: None }
    }

    fn next(&mut self, settings: Damping, now: Timestamp) -> Verdict {
        if self.held_until.is_none() && now.since(self.since) > settings.window {
            *self = Self::new(now);
        }
        if self.moves > 0 && now.since(self.counted) < DWELL {
            self.more = self.more.saturating_add(1);
            let moves = self.held_until.is_none() && self.more < settings.moves;
            return Verdict { moves, begins_hold: false };
        }
        (self.counted, self.more) = (now, 0);
        self.moves = self.moves.saturating_add(1);
        let begins_hold = self.held_until.is_none() && self.moves >= settings.moves;
        if begins_hold {
            self.held_until = Some(after(now, settings.hold));
        }
        Verdict { moves: true, begins_hold }
    }
}

/// Move counts of recently moved addresses.
#[derive(Clone, Debug)]
pub(super) struct Moves {
    pub(super) settings: Damping,
    records: HashMap<Key, Record>,
}

impl Moves {
    pub(super) fn new(settings: Damping) -> Self {
        // Room for twice the bound: a hash map that stays half empty never grows.
        Self { settings, records: HashMap::with_capacity(REMEMBERED * 2) }
    }

    /// Decides another move of `key` at `now`.
    pub(super) fn next(&mut self, key: Key, now: Timestamp) -> Verdict {
        if self.settings.moves == 0 {
            return Verdict { moves: true, begins_hold: false };
        }
        if self.records.len() >= REMEMBERED && !self.records.contains_key(&key) {
            self.make_room();
        }
        self.records.entry(key).or_insert_with(|| Record::new(now)).next(self.settings, now)
    }

    /// Whether [`Moves::next`] would make one more move of `key`. Changes nothing.
    pub(super) fn would_move(&self, key: Key, now: Timestamp) -> bool {
        let record = self.records.get(&key).filter(|_| self.settings.moves > 0);
        record.is_none_or(|record| { *record }.next(self.settings, now).moves)
    }

    /// Resets the move count of `key`, which may move freely again.
    pub(super) fn forget(&mut self, key: Key) {
        self.records.remove(&key);
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

    fn made(moves: &mut Moves, millis: u64) -> bool {
        moves.next(key(1), Timestamp::from_millis(millis)).moves
    }

    #[test]
    fn the_fifth_move_in_three_minutes_holds_for_half_an_hour() {
        let mut moves = Moves::new(Damping::default());
        for second in 0..4 {
            let verdict = moves.next(key(1), at(second));
            assert_eq!(verdict, Verdict { moves: true, begins_hold: false });
        }
        assert_eq!(moves.next(key(1), at(180)), Verdict { moves: true, begins_hold: true });
        assert!(!moves.release(key(1), at(180 + 1799)));
        assert!(moves.release(key(1), at(180 + 1800)));
        assert_eq!(moves.next(key(1), at(180 + 1800)), Verdict { moves: true, begins_hold: false });
    }

    #[test]
    fn a_held_address_moves_once_a_second() {
        let mut moves = Moves::new(Damping::default());
        assert!((0..5).all(|second| made(&mut moves, second * 1000)));
        let made: Vec<_> = (4001..7000).filter(|millis| made(&mut moves, *millis)).collect();
        assert_eq!(made, [5000, 6000]);
    }

    #[test]
    fn slow_moves_are_never_held() {
        let mut moves = Moves::new(Damping::default());
        assert!((0..100).all(|round| !moves.next(key(1), at(round * 46)).begins_hold));
    }

    #[test]
    fn a_loop_of_two_seconds_is_no_reason_to_hold_and_its_moves_are_limited() {
        let mut moves = Moves::new(Damping::default());
        let verdicts: Vec<_> =
            (0..2000).map(|millis| moves.next(key(1), Timestamp::from_millis(millis))).collect();
        assert!(verdicts.iter().all(|verdict| !verdict.begins_hold));
        assert_eq!(verdicts.iter().filter(|verdict| verdict.moves).count(), 2 * 5);
    }

    #[test]
    fn memory_is_bounded() {
        let mut moves = Moves::new(Damping::default());
        for id in 0..10_000 {
            assert!(moves.next(key(id), at(u64::from(id))).moves);
        }
        assert_eq!(moves.records.len(), REMEMBERED);
    }
}
