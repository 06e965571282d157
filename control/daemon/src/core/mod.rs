//! The core: the owner of the desired state, the devices and the store.
//!
//! Requests arrive through a [`Handle`] and are served one by one, entirely or not at all ([`actor`]); readers take a
//! [`Snapshot`] and never wait.
//!
//! | file | contents |
//! |---|---|
//! | `request`, `handle`, `actor` | how the core is asked, and who serves |
//! | `commands`, `engines`, `reload`, `pins` | what is asked from outside |
//! | `upkeep`, `reap`, `outside`, `underlay` | what the core looks after by itself |

mod actor;
mod commands;
mod engines;
mod handle;
mod outside;
mod pins;
mod reap;
mod reload;
mod request;
#[cfg(test)]
pub(crate) mod simulated;
mod underlay;
mod upkeep;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use tokio::sync::watch;
use tracing::{error, warn};

pub(crate) use self::{
    actor::{Leave, Running, Signals, start},
    engines::Engines,
    handle::Handle,
    request::{Asker, Captures, Request},
};
use self::{outside::Rules, reap::Unfetched, underlay::Underlay, upkeep::Mended};
use crate::{
    crash,
    edge::{Attempt, Edge, OnFailure, Opening},
    journal::Observer,
    names::Naming,
    state::{self, Command, Delta, Effect, Origin, State, Transition},
    store::{Store, StoreError},
    view::{Process, Snapshot},
};
use vswitch_model::Error;

/// The desired state, the real one and the stored one, which change together.
pub(crate) struct Core {
    state: State,
    /// Who asked for what is being done.
    asker: Asker,
    /// Why the file is not what is done, if it was read again and refused.
    reload_refused: Option<String>,
    edge: Edge,
    store: Store,
    observer: Observer,
    rules: Rules,
    mended: Mended,
    /// Declared endpoints that are not connected, as `name.network`, and why.
    unconnected: BTreeMap<String, String>,
    unfetched: Unfetched,
    /// The time of the last warning that an unknown sender did not become a peer.
    crowd_warned: Option<Instant>,
    underlay: Underlay,
    naming: Naming,
    engines: Arc<Engines>,
    process: Arc<Process>,
    signals: Signals,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

impl Core {
    /// Executes a command, entirely or not at all.
    async fn execute(&mut self, command: Command, attempt: Attempt) -> Result<Vec<state::Change>, Error> {
        let plan = self.state.plan(command)?;
        self.carry_out(plan, attempt).await
    }

    async fn carry_out(&mut self, plan: Transition, attempt: Attempt) -> Result<Vec<state::Change>, Error> {
        let done = self.make(plan, attempt).await;
        // Reopened ports have lost their pinned addresses, whether the change was made or undone.
        let homeless = self.pin_again();
        let changes = done?;
        self.forget_pins(homeless);
        self.forget_names(&changes);
        if !changes.is_empty() {
            self.state.warnings().iter().for_each(|warning| warn!("{warning}"));
        }
        Ok(changes)
    }

    /// Makes a change, or undoes what was made of it.
    async fn make(&mut self, plan: Transition, attempt: Attempt) -> Result<Vec<state::Change>, Error> {
        let Transition { next, changes, effects } = plan;
        let on_failure = attempt.on_failure();
        self.observer.look_at_table(&self.state, &self.edge);
        let (real, kept): (Vec<_>, Vec<_>) = effects.into_iter().partition(Opening::is_for);
        let mut work = self.edge.begin(next, attempt);
        if let Err(error) = work.foresee(&real).await {
            work.undo(&self.state).await;
            return Err(error);
        }
        for effect in &real {
            crash::point();
            if let Err(error) = work.perform(effect).await {
                work.undo(&self.state).await;
                return Err(error);
            }
        }
        crash::point();
        let work = match work.set_up().await {
            Ok(work) => work,
            Err(failed) => return Err(failed.undo(&self.state).await),
        };
        // The gateways' interfaces exist, with their addresses, before rules and records refer to them.
        for (index, effect) in kept.iter().enumerate() {
            crash::point();
            if let Err(error) = keep(&mut self.rules, &self.store, effect, on_failure) {
                for effect in kept[..=index].iter().rev() {
                    let undone = effect.clone().undo();
                    if let Err(error) = keep(&mut self.rules, &self.store, &undone, OnFailure::Retry) {
                        error!("cannot undo a failed change: {}", error.sentence);
                    }
                }
                work.undo(&self.state).await;
                return Err(error);
            }
        }
        crash::point();
        let before = std::mem::replace(&mut self.state, work.commit().await);
        self.rules.end_connections(
            before.outside(),
            changes.iter().filter_map(|change| match change {
                state::Change::Endpoint(Delta::Removed(endpoint)) => Some(&**endpoint),
                _ => None,
            }),
        );
        self.publish();
        self.observer.note_changes(&changes, &self.asker);
        self.look();
        Ok(changes)
    }

    /// Gives the workers a plan, and readers a snapshot.
    async fn rebuild(&mut self) {
        self.edge.rebuild(&self.state).await;
        self.publish();
    }

    /// Stores the file's declaration, for networks that it may drop later.
    fn note_declared(&self) -> Result<(), StoreError> {
        let declared: Vec<_> = self.state.networks().filter(|it| it.origin == Origin::File).collect();
        self.store.declare(declared.iter().map(|it| &*it.spec))
    }

    /// Notes what has happened.
    fn look(&mut self) {
        self.observer.look(&self.state, &self.edge);
    }
}

/// Performs the part of an effect that concerns the host's rules or the store, if any.
fn keep(rules: &mut Rules, store: &Store, effect: &Effect, on_failure: OnFailure) -> Result<(), Error> {
    match effect {
        Effect::SetOutside { new, .. } => rules.set(new, on_failure)?,
        Effect::Store(record) => store.put(record)?,
        Effect::Unstore(record) => store.remove(record.kind(), record.key())?,
        Effect::Restore { new, .. } => store.put(new)?,
        // Performed before, by the edge.
        Effect::SetSwitch { .. } | Effect::ClosePort(_) | Effect::UpdatePort { .. } | Effect::OpenPort(_) => {
        }
    }
    Ok(())
}
