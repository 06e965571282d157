//! The core: one owner of what is wanted, what is real and what is kept.
//!
//! Requests come in by a [`Handle`] and are served one by one, wholly or not at all ([`actor`]); readers take a
//! [`Snapshot`] and wait for nobody.
//!
//! | file | its story |
//! |---|---|
//! | `request`, `handle`, `actor` | how the core is asked, and who serves |
//! | `commands`, `engines`, `reload`, `pins` | what is asked from outside |
//! | `upkeep`, `reap`, `outside` | what the core looks after by itself |

mod actor;
mod backend;
mod commands;
mod engines;
mod handle;
mod outside;
mod pins;
mod plumbing;
mod reap;
mod reload;
mod request;
mod upkeep;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use tokio::sync::watch;
use tracing::{error, warn};
use vswitch::device::tap::Tap;

use self::reap::Unfetched;
pub(crate) use self::{
    actor::{Signals, start},
    handle::Handle,
    request::{Captures, Request},
};
use crate::{
    crash,
    edge::{Edge, Missing},
    journal::Observer,
    state::{self, Command, Effect, Origin, Plan, State},
    store::{Store, StoreError},
    view::{Process, Snapshot},
};
use vswitch_host::gateway::Gateway;
use vswitch_model::{Error, Id, Name};

/// What is wanted, what is real, and what is kept; changed together.
pub(crate) struct Core {
    state: State,
    edge: Edge,
    store: Store,
    observer: Observer,
    gateway: Gateway,
    /// Whether something of the host's rules could not be made, and is tried again.
    outside_is_due: bool,
    /// When it was looked at last what others have made of the host's rules.
    outside_checked: Instant,
    unfetched: Unfetched,
    /// The networks that engines know by ids of their own, as the store has them.
    adopted: Arc<BTreeMap<Id, Name>>,
    process: Arc<Process>,
    signals: Signals,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

/// How a command is carried out.
struct Manner {
    missing: Missing,
    /// The TAP of the port that the command adds, made by a helper.
    handed: Option<Tap>,
}

impl Core {
    /// Obeys a command, wholly or not at all.
    async fn execute(&mut self, command: Command, manner: Manner) -> Result<Vec<state::Change>, Error> {
        let plan = self.state.plan(command)?;
        self.carry_out(plan, manner).await
    }

    async fn carry_out(&mut self, plan: Plan, mut manner: Manner) -> Result<Vec<state::Change>, Error> {
        let Plan { next, changes, effects } = plan;
        self.observer.look_at_table(&self.state, &self.edge);
        for (index, effect) in effects.iter().enumerate() {
            crash::point();
            if let Err(error) = self.perform(effect, &next, &mut manner).await {
                self.take_back(&effects[..=index]).await;
                return Err(error);
            }
        }
        crash::point();
        if let Err(error) = self.edge.set_up(manner.missing).await {
            self.take_back(&effects).await;
            return Err(error);
        }
        crash::point();
        self.edge.keep();
        self.state = next;
        crash::point();
        self.rebuild().await;
        crash::point();
        self.observer.note_changes(&changes);
        self.look();
        self.pin_again();
        if !changes.is_empty() {
            self.state.warnings().iter().for_each(|warning| warn!("{warning}"));
        }
        Ok(changes)
    }

    /// Lets the workers work by what is wanted and real, and readers see it.
    async fn rebuild(&mut self) {
        self.edge.rebuild(&self.state).await;
        self.publish();
    }

    /// Keeps what the file declares, for the day when it does not any more.
    fn note_declared(&self) -> Result<(), StoreError> {
        let declared: Vec<_> = self.state.networks().filter(|it| it.origin == Origin::File).collect();
        self.store.declare(declared.iter().map(|it| &*it.spec))
    }

    /// Notes what has happened.
    fn look(&mut self) {
        self.observer.look(&self.state, &self.edge);
    }

    async fn perform(&mut self, effect: &Effect, next: &State, manner: &mut Manner) -> Result<(), Error> {
        match effect {
            Effect::SetSwitch { new, .. } => self.edge.set_switch(new),
            Effect::ClosePort(port) => self.edge.close(port.id),
            Effect::UpdatePort { old, new } => {
                // It may be given what a closed port's interface still has: a default route, an address.
                if self.edge.is_letting_go() && old.spec.interface() != new.spec.interface() {
                    self.edge.rebuild(next).await;
                }
                self.edge.update(old, new).await?;
            }
            Effect::OpenPort(port) => {
                if self.edge.is_letting_go() {
                    self.edge.rebuild(next).await;
                }
                self.edge.open(port, manner.handed.take(), manner.missing).await?;
            }
            Effect::Store(record) => {
                // What is kept must be real.
                self.edge.set_up(manner.missing).await?;
                crash::point();
                self.store.put(record)?;
            }
            Effect::Unstore(record) => self.store.remove(record.kind(), record.key())?,
            Effect::SetOutside { new, .. } => {
                // The gateways' interfaces must be there, with their addresses.
                self.edge.set_up(manner.missing).await?;
                self.set_outside(new, manner.missing)?;
            }
            Effect::Restore { new, .. } => self.store.put(new)?,
        }
        Ok(())
    }

    /// Undoes `effects`, of which the last may have been done in part.
    async fn take_back(&mut self, effects: &[Effect]) {
        let state = self.state.clone();
        let mut manner = Manner { missing: Missing::Retry, handed: None };
        for effect in effects.iter().rev() {
            let undone = effect.clone().undo();
            if let Err(error) = self.perform(&undone, &state, &mut manner).await {
                error!("cannot undo a change that failed: {}", error.sentence);
            }
        }
        if let Err(error) = self.edge.set_up(Missing::Retry).await {
            error!("cannot undo a change that failed: {}", error.sentence);
        }
        self.edge.rebuild(&state).await;
    }
}
