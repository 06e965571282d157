//! Events, for later queries and for watchers.
//!
//! The [`Journal`] keeps the latest events, numbered. Each reader has a position and copies what is new, so a slow one delays
//! no writer: it is told how many events were overwritten before it read them. Events of the MAC table, which forwarding notes
//! anyway, are fetched before each read and write ([`Journal::fetch`]). The [`Observer`], a part of the core, notes which ports
//! go up and down.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::sync::watch;
use tracing::{info, warn};
use vswitch::{
    addr::{PortId, Timestamp},
    counters::PortTotals,
    fdb::{self, Change, Fdb},
};

use super::{core::Asker, edge::Edge, view::Names};
use crate::state::{self, State};
use vswitch_model::{
    Name,
    api::events::{Event, EventsFilter, Station, What},
};

/// Events, in the order in which they became known.
pub(crate) type EventStream = BoxStream<'static, Event>;

/// Number of events kept: some 100 bytes each.
const KEPT: usize = 4096;

/// Minimum time between two events about refusals of one port's guard.
const QUIET: Duration = Duration::from_mins(1);

/// The latest events.
#[derive(Debug)]
pub(crate) struct Journal {
    ring: Mutex<Ring>,
    /// Number of events that the table had lost at the last fetch. Locked while its events are fetched, so that they stay in
    /// order.
    lost: Mutex<u64>,
    /// Notifies readers of new events; closed when there will be no more.
    news: watch::Sender<bool>,
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<Event>,
    /// Number of the next event.
    next: u64,
}

/// The position of a reader.
struct Reader {
    journal: Arc<Journal>,
    news: watch::Receiver<bool>,
    /// Number of the next event it reads.
    next: u64,
    /// Events it has copied and not returned yet.
    fetched: VecDeque<Event>,
    filter: EventsFilter,
}

impl Journal {
    pub(crate) fn new() -> Arc<Self> {
        let ring = Ring { events: VecDeque::new(), next: 1 };
        Arc::new(Self { ring: Mutex::new(ring), lost: Mutex::new(0), news: watch::Sender::new(true) })
    }

    /// Notes what happens now.
    pub(crate) fn note_now(&self, what: What) {
        self.note(now_ms(), what);
    }

    /// Notes what happened at `time_ms`.
    pub(crate) fn note(&self, time_ms: u64, what: What) {
        let mut ring = self.ring();
        if ring.events.len() == KEPT {
            ring.events.pop_front();
        }
        let seq = ring.next;
        ring.next += 1;
        ring.events.push_back(Event { seq, time_ms, what });
        drop(ring);
        self.news.send_replace(true);
    }

    /// Notes the table's events since the last call. `names` must contain the names of that time.
    pub(crate) fn fetch<N: Borrow<Names>>(&self, fdb: &Fdb, names: impl FnOnce() -> N, now: Timestamp) {
        // A panic under the lock makes a number be reported twice.
        let mut lost = self.lost.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut events = Vec::new();
        fdb.drain_events(|event| events.push(event));
        if !events.is_empty() {
            let (names, now_ms) = (names(), now_ms());
            for event in events {
                report(names.borrow(), &event);
                let what = seen(names.borrow(), &event);
                self.note(now_ms.saturating_sub(age_ms(event.at, now)), what);
            }
        }
        let by_now = fdb.totals().events_lost;
        if by_now > *lost {
            self.note(now_ms(), What::Lost { count: by_now - *lost });
            *lost = by_now;
        }
    }

    /// The events that match `filter`.
    pub(crate) fn read(self: &Arc<Self>, filter: EventsFilter) -> EventStream {
        // Events that do not match are not counted as missed.
        let next = self.ring().events.front().map_or(1, |oldest| oldest.seq);
        let news = self.news.subscribe();
        let reader = Reader { journal: Arc::clone(self), news, next, fetched: VecDeque::new(), filter };
        stream::unfold(reader, |mut reader| async { Some((reader.next().await?, reader)) }).boxed()
    }

    /// Ends all readers: there will be no further events.
    pub(crate) fn close(&self) {
        self.news.send_replace(false);
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // A panic under the lock leaves a journal without an event.
        self.ring.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Reader {
    /// Waits for the next event; `None`: there will be no more.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.fetched.pop_front() {
                return Some(event);
            }
            let goes_on = *self.news.borrow_and_update();
            if self.fetch() {
                continue;
            }
            if !goes_on || !self.filter.follow {
                return None;
            }
            self.news.changed().await.ok()?;
        }
    }

    /// Copies new events. Returns whether there were any.
    fn fetch(&mut self) -> bool {
        let ring = self.journal.ring();
        let oldest = ring.next - ring.events.len() as u64;
        if let Some(lost) = oldest.checked_sub(self.next).filter(|lost| *lost > 0) {
            let time_ms = ring.events.front().map_or(0, |event| event.time_ms);
            self.fetched.push_back(Event { seq: oldest - 1, time_ms, what: What::Lost { count: lost } });
        }
        let since = self.filter.since_ms.unwrap_or(0);
        let new = ring.events.iter().filter(|event| event.seq >= self.next && event.time_ms >= since);
        self.fetched.extend(new.cloned());
        self.next = ring.next;
        !self.fetched.is_empty()
    }
}

/// Notes the core's actions, and which ports are up.
#[derive(Debug)]
pub(crate) struct Observer {
    journal: Arc<Journal>,
    /// The ports at the last observation: why they were down, if they were.
    ports: BTreeMap<Name, Option<String>>,
    /// What the guards had refused at the last event about it, and the time of that.
    refused: BTreeMap<PortId, (Instant, PortTotals)>,
}

impl Observer {
    pub(crate) fn new(journal: Arc<Journal>) -> Self {
        Self { journal, ports: BTreeMap::new(), refused: BTreeMap::new() }
    }

    pub(crate) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Notes what has just happened.
    pub(crate) fn note(&self, what: What) {
        self.journal.note(now_ms(), what);
    }

    /// Notes what a command has changed, and logs it with who gave the command.
    pub(crate) fn note_changes(&self, changes: &[state::Change], by: &Asker) {
        for what in changes.iter().map(what) {
            by.log(&what);
            self.note(what);
        }
    }

    /// Notes which ports went up or down since the last observation, what guards have refused, and the table's events.
    pub(crate) fn look(&mut self, state: &State, edge: &Edge) {
        self.look_at_table(state, edge);
        self.look_at_guards(state, edge);
        let before = std::mem::take(&mut self.ports);
        for port in state.ports() {
            let name = port.spec.name.clone();
            let down = edge.port(port.id).and_then(|port| edge.why_down(port));
            let was_up = before.get(&name).map(Option::is_none);
            match &down {
                None if was_up != Some(true) => self.note(What::PortUp { port: name.clone() }),
                Some(reason) if was_up != Some(false) => {
                    self.note(What::PortDown { port: name.clone(), reason: reason.clone() });
                }
                _ => {}
            }
            self.ports.insert(name, down);
        }
    }

    /// Notes what guards have refused since the last event about it.
    fn look_at_guards(&mut self, state: &State, edge: &Edge) {
        let mut before = std::mem::take(&mut self.refused);
        for port in state.ports().filter(|port| port.spec.guard.is_some()) {
            let Some(totals) = edge.port(port.id).map(|real| PortTotals::sum(&real.counters)) else {
                continue;
            };
            let reported = before.remove(&port.id);
            let is_quiet = reported.as_ref().is_some_and(|(at, _)| at.elapsed() < QUIET);
            let known = reported.as_ref().map(|(_, totals)| totals.clone()).unwrap_or_default();
            let news =
                totals.drops().filter(|(reason, _)| reason.is_guard()).filter_map(|(reason, frames)| {
                    let new = frames.saturating_sub(known.drops[reason.index()]);
                    (new > 0).then(|| format!("{new} {reason}"))
                });
            let detail = news.collect::<Vec<_>>().join(", ");
            if detail.is_empty() || is_quiet {
                self.refused.extend(reported.map(|reported| (port.id, reported)));
                continue;
            }
            let name = port.spec.name.clone();
            warn!(port = %name, "its guard refuses what its station sends ({detail}): `vswitchctl drops {name}` says why");
            self.note(What::GuardDropped { port: name, detail });
            self.refused.insert(port.id, (Instant::now(), totals));
        }
    }

    /// Notes the table's events since the last call, before a network or port is removed and its name with it.
    pub(crate) fn look_at_table(&self, state: &State, edge: &Edge) {
        self.journal.fetch(&edge.fdb, || Names::of(state), edge.workers.now());
    }
}

/// A change of the state as an event.
fn what(change: &state::Change) -> What {
    use state::{Change as Difference, Delta};
    let detail = || {
        let line = change.to_string();
        line.split_once(": ").map_or_else(String::new, |(_, detail)| detail.to_owned())
    };
    match change {
        Difference::Switch { .. } => What::SwitchChanged { detail: detail() },
        Difference::Network(Delta::Added(it)) => What::NetworkAdded { network: it.spec.name.clone() },
        Difference::Network(Delta::Removed(it)) => What::NetworkRemoved { network: it.spec.name.clone() },
        Difference::Network(Delta::Changed { new, .. }) => {
            What::NetworkChanged { network: new.spec.name.clone(), detail: detail() }
        }
        Difference::Port(Delta::Added(it)) => What::PortAdded { port: it.spec.name.clone() },
        Difference::Port(Delta::Removed(it)) => What::PortRemoved { port: it.spec.name.clone() },
        Difference::Port(Delta::Changed { new, .. }) => {
            What::PortChanged { port: new.spec.name.clone(), detail: detail() }
        }
        Difference::Endpoint(Delta::Changed { old, new }) if old.name != new.name => What::Renamed {
            endpoint: new.name.clone(),
            network: new.network.clone(),
            before: old.name.clone(),
        },
        Difference::Endpoint(Delta::Changed { old, new: it }) if old.unready != it.unready => {
            let (endpoint, network) = (it.name.clone(), it.network.clone());
            match it.unready {
                true => What::EndpointUnready { endpoint, network },
                false => What::EndpointReady { endpoint, network },
            }
        }
        Difference::Endpoint(Delta::Added(it) | Delta::Changed { new: it, .. }) => {
            What::Connected { endpoint: it.name.clone(), network: it.network.clone() }
        }
        Difference::Endpoint(Delta::Removed(it)) => {
            What::Disconnected { endpoint: it.name.clone(), network: it.network.clone() }
        }
    }
}

/// An event of the table as an event of the journal.
fn seen(names: &Names, event: &fdb::Event) -> What {
    let port = |id| names.port(id).to_owned();
    let station =
        Station { mac: event.mac, network: names.network(event.network).to_owned(), port: port(event.port) };
    match event.what {
        Change::Learned => What::MacLearned(station),
        Change::Moved { from } => What::MacMoved { station, from: port(from) },
        Change::Held { rival } => What::MacHeld { station, rival: port(rival) },
        Change::Looped { rival } => What::Loop { station, rival: port(rival) },
        Change::Refused { limit } => What::MacRefused { station, limit },
        Change::Released => What::MacReleased(station),
        Change::Expired => What::MacExpired(station),
        Change::Evicted => What::MacEvicted(station),
    }
}

/// Logs loops, full networks, and addresses that are held or free again.
fn report(names: &Names, event: &fdb::Event) {
    let (network, port) = (names.network(event.network), names.port(event.port));
    match event.what {
        Change::Held { rival } => warn!(
            mac = %event.mac, %network, %port, rival = %names.port(rival),
            "an address moves too often and is limited to one move a second: look for a second station with this address, or for a loop"
        ),
        Change::Looped { rival } => warn!(
            mac = %event.mac, %network, %port, rival = %names.port(rival),
            "a loop: an address keeps arriving at two ports, which are connected to each other outside of the switch, or two stations have it"
        ),
        Change::Refused { limit } => warn!(
            mac = %event.mac, %network, %port, limit,
            "an address is not learned, as its network has mac_limit of them: frames to it are flooded; raise the limit, or find who makes up addresses"
        ),
        Change::Released => info!(mac = %event.mac, %network, %port, "a held address is released"),
        _ => {}
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn age_ms(at: Timestamp, now: Timestamp) -> u64 {
    now.as_millis().saturating_sub(at.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(number: usize) -> What {
        What::PortUp { port: format!("p{number}").parse().unwrap() }
    }

    #[tokio::test]
    async fn a_reader_gets_what_is_kept_and_then_what_comes() {
        let journal = Journal::new();
        journal.note(10, up(1));
        journal.note(20, up(2));
        let all: Vec<_> = journal.read(EventsFilter::default()).collect().await;
        assert_eq!(
            all.iter().map(|event| (event.seq, event.time_ms)).collect::<Vec<_>>(),
            [(1, 10), (2, 20)]
        );
        let late = EventsFilter { since_ms: Some(15), follow: true };
        let mut reader = journal.read(late);
        assert_eq!(reader.next().await.unwrap().seq, 2);
        journal.note(30, up(3));
        assert_eq!(reader.next().await.unwrap().what, up(3));
        journal.close();
        assert_eq!(reader.next().await, None);
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_what_it_missed() {
        let journal = Journal::new();
        journal.note(0, up(0));
        let mut reader = journal.read(EventsFilter { since_ms: None, follow: true });
        assert_eq!(reader.next().await.unwrap().seq, 1);
        (0..KEPT + 10).for_each(|number| journal.note(1, up(number)));
        let lost = reader.next().await.unwrap();
        assert_eq!((lost.seq, lost.what), (11, What::Lost { count: 10 }));
        assert_eq!(reader.next().await.unwrap().seq, 12);
        assert_eq!(journal.ring().events.len(), KEPT);
        // One who comes later has missed nothing he asked for.
        assert_eq!(journal.read(EventsFilter::default()).next().await.unwrap().seq, 12);
    }
}
