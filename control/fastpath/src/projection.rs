//! The table in the kernel: a projection of the MAC table.
//!
//! A thread of its own writes it. It is told which entries to read again ([`crate::feed`]), and has of the kernel's table what it
//! wrote there. In the other direction it reads when stations were last seen, as the table knows nothing of frames that passes it
//! by.

use std::{
    collections::HashMap as Map,
    sync::Arc,
    time::{Duration, Instant},
};

use aya::maps::{HashMap, MapData};
use vswitch::{
    addr::{MacAddr, NetworkId, Timestamp},
    fdb::{Entry, Fdb, Origin},
};

use crate::{
    feed::{Feed, Work},
    lanes::{self, Lanes},
    layout::{AGES, Key, OWN, Station},
};

/// The workers' clock.
pub(crate) type Clock = Box<dyn Fn() -> Timestamp + Send>;

/// How often in an ageing time the MAC table learns who was seen.
const READINGS: u32 = 16;
const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(10);

/// Difference in ticks from which the kernel's table learns that the other one has seen a station: half of a second.
const NEWS: u32 = 8;

/// Keeps the table in the kernel. See the [module](self).
pub(crate) struct Projection {
    fdb: Arc<Fdb>,
    clock: Clock,
    lanes: Arc<Lanes>,
    feed: Arc<Feed>,
    stations: HashMap<MapData, Key, Station>,
    /// What is there; of a station that was seen since, not when.
    written: Map<Key, Station>,
    /// Whether what an earlier run has left was taken over: until then it stays.
    is_restored: bool,
}

impl Projection {
    pub(crate) fn new(
        fdb: Arc<Fdb>,
        clock: Clock,
        lanes: Arc<Lanes>,
        feed: Arc<Feed>,
        stations: HashMap<MapData, Key, Station>,
    ) -> Self {
        let written = stations.iter().filter_map(Result::ok).collect();
        Self { fdb, clock, lanes, feed, stations, written, is_restored: false }
    }

    /// Works until the feed ends.
    pub(crate) fn run(mut self) {
        let (mut work, mut done) = (Work::new(), 0);
        let mut reading = Instant::now() + SHORTEST;
        while let Some(next) = self.feed.next(&mut work, done, reading) {
            if let Some(fdb) = work.table.take() {
                self.fdb = fdb;
            }
            if work.restore {
                self.restore();
            }
            if work.all {
                self.write_all();
            }
            for &(network, mac) in &work.stations {
                self.write(network, mac);
            }
            if Instant::now() >= reading {
                self.read_seen();
                reading = Instant::now() + (self.lanes.ageing() / READINGS).clamp(SHORTEST, LONGEST);
            }
            done = next;
        }
    }

    /// Teaches the MAC table what the programs know from an earlier run.
    fn restore(&mut self) {
        self.is_restored = true;
        let learned: Vec<_> = self.written.iter().filter(|(_, station)| station.flags & AGES != 0).collect();
        for (key, station) in learned {
            let is_alive = lanes::age(lanes::now(), station.seen) <= lanes::ticks(self.lanes.ageing());
            if let Some(port) = self.lanes.port(station.lane, station.epoch).filter(|_| is_alive) {
                let (network, mac) = key.parts();
                let at = self.time_of(station.seen);
                self.fdb.learn(self.fdb.station(network, mac), port, None, at);
            }
        }
    }

    /// Writes what the MAC table has of a station.
    fn write(&mut self, network: NetworkId, mac: MacAddr) {
        let entry = self.fdb.entry(network, mac, (self.clock)());
        let wanted = entry.and_then(|entry| self.station(&entry));
        self.put(Key::new(network, mac), wanted);
    }

    fn write_all(&mut self) {
        let fdb = Arc::clone(&self.fdb);
        let wanted: Map<_, _> = fdb
            .entries((self.clock)())
            .filter_map(|entry| Some((Key::new(entry.network, entry.mac), self.station(&entry)?)))
            .collect();
        if self.is_restored {
            let is_gone = |key: &&Key| !wanted.contains_key(key);
            let gone: Vec<_> = self.written.keys().filter(is_gone).copied().collect();
            gone.into_iter().for_each(|key| self.put(key, None));
        }
        wanted.into_iter().for_each(|(key, station)| self.put(key, Some(station)));
    }

    /// The station of an entry, if it is behind a lane. One whose moves are limited is left to the switch.
    fn station(&self, entry: &Entry) -> Option<Station> {
        let (lane, epoch, taken) = self.lanes.of(entry.port).filter(|_| !entry.held)?;
        let is_own = taken.own == Some(entry.mac);
        let ages = entry.origin == Origin::Learned;
        let flags = if is_own { OWN } else { 0 } | if ages { AGES } else { 0 };
        let seen = lanes::now().wrapping_sub(lanes::ticks(entry.age));
        Some(Station { lane, epoch, seen, flags })
    }

    fn put(&mut self, key: Key, wanted: Option<Station>) {
        let Some(mut station) = wanted else {
            if self.written.remove(&key).is_some() {
                // It is gone already.
                let _ = self.stations.remove(&key);
            }
            return;
        };
        let is_same = |other: &Station| Station { seen: station.seen, ..*other } == station;
        let is_written = self.written.get(&key).is_some_and(is_same);
        if is_written && station.flags & AGES == 0 {
            return;
        }
        if let Some(there) = self.stations.get(&key, 0).ok().filter(is_same) {
            if is_written && !lanes::is_later(station.seen, there.seen, NEWS) {
                return;
            }
            if lanes::is_later(there.seen, station.seen, 0) {
                station.seen = there.seen;
            }
        }
        match self.stations.insert(key, station, 0) {
            Ok(()) => drop(self.written.insert(key, station)),
            // The kernel's table is full: what concerns this station passes through the switch.
            Err(_) => drop(self.written.remove(&key)),
        }
    }

    /// Tells the MAC table when stations were seen by the programs, and the other way round.
    fn read_seen(&mut self) {
        let learned = self.written.iter().filter(|(_, station)| station.flags & AGES != 0);
        let keys: Vec<_> = learned.map(|(key, _)| *key).collect();
        for key in keys {
            let Ok(station) = self.stations.get(&key, 0) else { continue };
            let (network, mac) = key.parts();
            if let Some(port) = self.lanes.port(station.lane, station.epoch) {
                self.fdb.heard(network, mac, port, self.time_of(station.seen));
            }
            self.write(network, mac);
        }
    }

    /// A tick on the workers' clock.
    fn time_of(&self, tick: u32) -> Timestamp {
        let age = lanes::duration(lanes::age(lanes::now(), tick)).as_millis();
        let now = (self.clock)().as_millis();
        Timestamp::from_millis(now.saturating_sub(u64::try_from(age).unwrap_or(u64::MAX)))
    }
}
