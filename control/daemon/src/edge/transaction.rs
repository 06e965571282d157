//! A change of the edge: begun, performed step by step, and then committed or undone.
//!
//! ```text
//! Edge::begin ─> Opening ── perform: close, update, open ── set_up ─> SetUp ── commit ─> the state that is real now
//!                   │                                         │         │
//!                   └────────────────── undo <────────────────┴─────────┘
//! ```
//! The stages are types, because only this order is correct: an interface is set up after closed ones have freed their names,
//! it is made persistent only after the store has its record, and workers get a plan only of what is set up. Between [`SetUp`]
//! and [`SetUp::commit`] the caller does what needs the interfaces: the host's rules, and the store. Undoing awaits, so it
//! cannot be left to `Drop`: a change that is dropped leaves the edge half changed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tracing::{error, warn};
use vswitch::{addr::PortId, counters::PortCounters, device::tap::Tap};

use super::{Edge, EdgePort, Share};
use crate::{
    crash,
    device::{self, OpenDevice, Source, released, remove_all},
    state::{self, Effect, State},
};
use vswitch_host::netns::together;
use vswitch_model::{Error, InterfaceSpec, Mtu, Name};

/// How a change is made.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(super) on_failure: OnFailure,
    /// TAPs made by helpers, for the ports that are opened with them.
    handed: BTreeMap<Name, Tap>,
    /// Interfaces that persist are as an earlier run left them.
    resumes: bool,
}

/// What happens when the device of a port cannot be opened or set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnFailure {
    /// The change fails: the caller can react.
    Refuse,
    /// The port is down and retried: it was declared, and what it needs may appear later.
    Retry,
}

impl Attempt {
    /// Everything now, or nothing.
    pub(crate) fn now() -> Self {
        Self { on_failure: OnFailure::Refuse, handed: BTreeMap::new(), resumes: false }
    }

    /// As much as possible now, the rest later.
    pub(crate) fn retrying() -> Self {
        Self { on_failure: OnFailure::Retry, handed: BTreeMap::new(), resumes: false }
    }

    /// The same at a start: what persists goes on.
    pub(crate) fn resuming() -> Self {
        Self { resumes: true, ..Self::retrying() }
    }

    /// The same, with a TAP for `port` that a helper has made.
    pub(crate) fn handing(mut self, port: Name, tap: Option<Tap>) -> Self {
        self.handed.extend(tap.map(|tap| (port, tap)));
        self
    }

    pub(crate) fn on_failure(&self) -> OnFailure {
        self.on_failure
    }
}

/// A change in progress. See the [module](self).
#[must_use = "a change is committed or undone"]
pub(crate) struct Opening<'e> {
    pub(super) edge: &'e mut Edge,
    /// The next state.
    pub(super) next: State,
    pub(super) attempt: Attempt,
    /// Effects that were performed, or at least begun.
    done: Vec<Effect>,
    /// Devices of this change that are open already.
    ahead: HashMap<PortId, Ahead>,
    /// Interfaces that are not set up yet, in the order of the effects.
    pub(super) unset: Vec<Unset>,
    /// Opened ports whose interfaces are not persistent yet.
    opened: Vec<PortId>,
    /// Ports whose stations are new, and announced once the workers know them.
    fresh: Vec<PortId>,
    /// Devices that the workers may still use; they are dropped with the next plan.
    leaving: Vec<OpenDevice>,
    /// What tunnels carried before.
    pub(super) overlay_before: Option<Mtu>,
}

/// The counters a device was opened with, and the device.
type Ahead = (Arc<[PortCounters]>, Result<OpenDevice, Error>);

/// A port whose interface is to be set up.
#[derive(Debug)]
pub(super) struct Unset {
    pub(super) id: PortId,
    pub(super) why: Why,
}

/// Why an interface is set up.
#[derive(Debug)]
pub(super) enum Why {
    /// It is new.
    Opened,
    /// Something else is wanted of it than this.
    Changed(InterfaceSpec),
    /// The length of its super-frames follows what tunnels carry; nothing else changes.
    Overlay,
}

/// A change whose interfaces are set up.
#[must_use = "a change is committed or undone"]
pub(crate) struct SetUp<'e>(Opening<'e>);

/// A change that cannot be set up.
#[must_use = "what was done is undone"]
pub(crate) struct Failed<'e> {
    work: Opening<'e>,
    error: Error,
}

impl Edge {
    /// Counters of a port that is opened: one more than workers, for what the kernel forwards.
    fn fresh_counters(&self) -> Arc<[PortCounters]> {
        PortCounters::of_workers(self.workers.count() + 1)
    }

    async fn open_device(
        &self,
        port: &state::Port,
        source: Source,
        counters: &Arc<[PortCounters]>,
    ) -> Result<OpenDevice, Error> {
        let share = Share { fast: &self.fast, counters };
        device::open(self.machine, port, source, self.workers.count(), &self.owner, &share).await
    }

    /// Begins a change to `next`.
    pub(crate) fn begin(&mut self, next: State, attempt: Attempt) -> Opening<'_> {
        let overlay_before = self.overlay_mtu();
        Opening {
            edge: self,
            next,
            overlay_before,
            attempt,
            done: Vec::new(),
            ahead: HashMap::new(),
            unset: Vec::new(),
            opened: Vec::new(),
            fresh: Vec::new(),
            leaving: Vec::new(),
        }
    }

    /// Gives the workers a plan of the current state, and returns when they have adopted it.
    pub(crate) async fn rebuild(&mut self, state: &State) {
        self.begin(state.clone(), Attempt::retrying()).rebuild().await;
    }
}

impl<'e> Opening<'e> {
    /// Whether an effect concerns the edge.
    pub(crate) fn is_for(effect: &Effect) -> bool {
        use Effect::{ClosePort, OpenPort, SetSwitch, UpdatePort};
        matches!(effect, SetSwitch { .. } | ClosePort(_) | UpdatePort { .. } | OpenPort(_))
    }

    /// Opens the interfaces of many ports at a time, before the effects are performed in their order. Nothing is closed at a start,
    /// so that no name has to become free before.
    ///
    /// # Errors
    /// There is no thread or no descriptor to do so.
    pub(crate) async fn foresee(&mut self, effects: &[Effect]) -> Result<(), Error> {
        if !self.attempt.resumes || !self.edge.machine.is_real() {
            return Ok(());
        }
        let edge = &*self.edge;
        let opened = |effect: &'_ Effect| match effect {
            Effect::OpenPort(port) if port.spec.interface().is_some() => Some(port.clone()),
            _ => None,
        };
        let ports: Vec<_> = effects.iter().filter_map(opened).collect();
        let count = ports.len();
        let ids: Vec<_> = ports.iter().map(|port| port.id).collect();
        let open = async |port: state::Port| {
            let counters = edge.fresh_counters();
            let device = edge.open_device(&port, Source::Make, &counters).await;
            (counters, device)
        };
        let told = |done| edge.progress.tell("interfaces are opened", done, count);
        let opened = together(ports, open, told).await?;
        self.ahead = ids.into_iter().zip(opened).collect();
        Ok(())
    }

    /// Performs the edge's part of an effect.
    ///
    /// # Errors
    /// It failed, possibly midway: the change must be [undone](Opening::undo).
    pub(crate) async fn perform(&mut self, effect: &Effect) -> Result<(), Error> {
        self.done.push(effect.clone());
        self.act(effect).await
    }

    async fn act(&mut self, effect: &Effect) -> Result<(), Error> {
        match effect {
            Effect::SetSwitch { new, .. } => self.edge.set_switch(new),
            Effect::ClosePort(port) => self.close(port.id),
            Effect::UpdatePort { old, new } => self.update(old, new).await?,
            Effect::OpenPort(port) => self.open(port).await?,
            // Performed once the interfaces are set up, by the owner of the host's rules and of the store.
            Effect::SetOutside { .. } | Effect::Store(_) | Effect::Unstore(_) | Effect::Restore { .. } => {}
        }
        Ok(())
    }

    /// Removes the port, with its interface and its entries in the table; the next plan removes these.
    fn close(&mut self, id: PortId) {
        let Some(port) = self.edge.ports.remove(&id) else { return };
        if let Ok(open) = &port.device {
            // From now on it is not persistent, so that it is not left behind in any case. An error means that it is gone
            // already.
            let _ = open.keep(false);
        }
        self.leaving.extend(port.device);
        self.edge.stale.closed.insert(id);
    }

    /// Opens the port's device.
    async fn open(&mut self, wanted: &state::Port) -> Result<(), Error> {
        // It may have the name or number of a closed one.
        self.let_go().await;
        let source = self.attempt.handed.remove(&wanted.spec.name).map_or(Source::Make, Source::Handed);
        let machine = self.edge.machine;
        let is_set_up = matches!(source, Source::Handed(_)) || !machine.is_real();
        let (counters, device) = match self.ahead.remove(&wanted.id) {
            Some(opened) => opened,
            None => {
                let counters = self.edge.fresh_counters();
                let device = self.edge.open_device(wanted, source, &counters).await;
                (counters, device)
            }
        };
        if self.attempt.on_failure == OnFailure::Refuse {
            device.as_ref().map_err(Clone::clone)?;
        }
        match &device {
            Err(error) => warn!(port = %wanted.spec.name, "down: {}", error.sentence),
            Ok(device) => {
                self.edge.follow_strangers(device);
                if wanted.spec.interface().is_some() && !is_set_up {
                    self.unset.push(Unset { id: wanted.id, why: Why::Opened });
                }
            }
        }
        let port = EdgePort {
            wanted: wanted.clone(),
            counters,
            taught_before: self.edge.fdb.learning_of_port(wanted.id),
            worker: self.edge.idlest_worker(),
            key: self.edge.key(),
            device: device.map_err(|error| error.sentence),
            heard: Default::default(),
        };
        self.opened.push(wanted.id);
        self.edge.ports.insert(wanted.id, port);
        Ok(())
    }

    /// Opens a port that is down again.
    pub(super) async fn reopen(&mut self, id: PortId) -> bool {
        let Some(port) = self.edge.ports.get(&id) else { return false };
        let device = self.edge.open_device(&port.wanted, Source::Make, &port.counters).await;
        let key = self.edge.key();
        let device = device.inspect(|device| self.edge.follow_strangers(device));
        let Some(port) = self.edge.ports.get_mut(&id) else { return false };
        let is_open = device.is_ok();
        port.device = device.map_err(|error| error.sentence);
        if is_open {
            port.key = key;
            self.unset.push(Unset { id, why: Why::Opened });
            self.opened.push(id);
        }
        is_open
    }

    /// Applies a change that needs no new device.
    async fn update(&mut self, old: &state::Port, new: &state::Port) -> Result<(), Error> {
        if old.spec.interface() != new.spec.interface() {
            // It may be assigned what a closed port's interface still has: a default route, an address.
            self.let_go().await;
        }
        let Some(port) = self.edge.ports.get_mut(&new.id) else { return Ok(()) };
        port.wanted = new.clone();
        let Ok(device) = &port.device else { return Ok(()) };
        if old.spec.carries != new.spec.carries {
            self.edge.stale.changed.insert(new.id);
        }
        if let (Some(spec), OpenDevice::Endpoint(endpoint)) = (new.spec.device.endpoint(), device) {
            endpoint.set_ttl(spec.ttl.fixed())?;
        }
        let (Some(before), Some(after)) = (old.spec.interface(), new.spec.interface()) else { return Ok(()) };
        if before == after && old.mtu == new.mtu || !self.edge.machine.is_real() {
            return Ok(());
        }
        self.edge.follow_own(new, after).await;
        self.unset.push(Unset { id: new.id, why: Why::Changed(before.clone()) });
        Ok(())
    }

    /// Lets closed ports' devices go at once, not with the plan in the end.
    pub(super) async fn let_go(&mut self) {
        if !self.leaving.is_empty() {
            self.rebuild().await;
        }
    }

    /// Marks a port as down without a device. Returns whether it had one. A persistent interface stays for the next try.
    pub(super) fn take_down(&mut self, id: PortId, why: String) -> bool {
        let port = self.edge.ports.get_mut(&id).filter(|port| port.device.is_ok());
        let Some(port) = port else { return false };
        warn!(port = %port.wanted.spec.name, "down: {why}");
        let persists = port.wanted.spec.interface().is_some_and(|interface| interface.persist);
        let device = std::mem::replace(&mut port.device, Err(why));
        self.leaving.extend(device.ok().filter(|_| !persists));
        self.edge.stale.changed.insert(id);
        true
    }

    /// Sets up the opened interfaces, one namespace at a time.
    ///
    /// # Errors
    /// One failed, and the attempt is not to be retried.
    pub(crate) async fn set_up(mut self) -> Result<SetUp<'e>, Failed<'e>> {
        match self.configure().await {
            Ok(()) => Ok(SetUp(self)),
            Err(error) => Err(Failed { work: self, error }),
        }
    }

    /// Gives the workers a plan, and removes the entries and devices that it no longer uses.
    pub(super) async fn rebuild(&mut self) {
        self.collect_faults();
        let layout = self.edge.layout(&self.next);
        let plan = Arc::new(self.edge.plan(&self.next, &layout));
        let before = Arc::downgrade(self.edge.workers.plan());
        self.edge.prepare_fast(&layout, &plan);
        // Before the workers know of services, so that no frame to them is flooded.
        self.edge.pin_services();
        self.edge.workers.adopt(plan);
        self.edge.remote.stale |= self.edge.stale.forget_in(&self.edge.fdb);
        // Of a network whose number was used before, pins were forgotten.
        self.edge.pin_services();
        self.edge.pin_stations(&self.next);
        self.edge.pin_remote(&self.next);
        self.edge.adopt_fast(&layout);
        self.edge.announce(std::mem::take(&mut self.fresh), &self.next).await;
        // A trace holds the plan, and its devices, for a moment.
        released(before).await;
        remove_all(std::mem::take(&mut self.leaving)).await;
    }

    /// Makes the opened interfaces persistent where that is configured; they are what they should be from now on.
    pub(super) fn keep(&mut self) {
        for id in std::mem::take(&mut self.opened) {
            let Some(EdgePort { wanted, device: Ok(open), .. }) = self.edge.ports.get(&id) else { continue };
            let persist = wanted.spec.interface().is_some_and(|interface| interface.persist);
            if let Err(error) = open.keep(persist) {
                warn!(port = %wanted.spec.name, "its interface would not outlive the daemon: {error}");
            }
            if !(persist && self.attempt.resumes) {
                self.fresh.push(id);
            }
        }
    }

    /// Undoes all effects, back to `before`. What cannot be undone is logged, and retried later.
    pub(crate) async fn undo(mut self, before: &State) {
        self.next = before.clone();
        self.attempt = Attempt::retrying();
        for effect in std::mem::take(&mut self.done).into_iter().rev() {
            if let Err(error) = self.act(&effect.undo()).await {
                error!("cannot undo a failed change: {}", error.sentence);
            }
        }
        if let Err(error) = self.configure().await {
            error!("cannot undo a failed change: {}", error.sentence);
        }
        self.keep();
        self.rebuild().await;
    }
}

impl SetUp<'_> {
    /// Completes the change: interfaces become persistent where configured, and the workers adopt the plan. Returns the new
    /// state.
    ///
    /// Called only after the store has all of it: the next start finds the interfaces by their records.
    pub(crate) async fn commit(self) -> State {
        let Self(mut work) = self;
        work.keep();
        crash::point();
        work.rebuild().await;
        crash::point();
        work.next
    }

    /// Like [`Opening::undo`].
    pub(crate) async fn undo(self, before: &State) {
        self.0.undo(before).await;
    }
}

impl Failed<'_> {
    /// Like [`Opening::undo`]; returns the error.
    pub(crate) async fn undo(self, before: &State) -> Error {
        self.work.undo(before).await;
        self.error
    }
}
