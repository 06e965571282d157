//! What carries commands out: one at a time, wholly or not at all.

use std::{sync::Arc, time::Instant};

use tracing::{error, warn};
use vswitch::device::tap::Tap;

use super::reap::Unfetched;
use crate::{
    crash,
    edge::{Edge, Missing},
    journal::Observer,
    state::{self, Command, Effect, Origin, Plan, State},
    store::{Store, StoreError},
};
use vswitch_host::gateway::Gateway;
use vswitch_model::Error;

/// What is wanted, what is real, and what is kept; changed together.
pub(super) struct Core {
    pub(super) state: State,
    pub(super) edge: Edge,
    pub(super) store: Store,
    pub(super) observer: Observer,
    pub(super) gateway: Arc<std::sync::Mutex<Gateway>>,
    /// Whether something of the host's rules could not be made, and is tried again.
    pub(super) outside_is_due: bool,
    /// When it was looked at last what others have made of the host's rules.
    pub(super) outside_checked: Instant,
    pub(super) unfetched: Unfetched,
    /// When it was told last that no more strangers are taken in as peers.
    pub(super) crowd_told: Option<Instant>,
}

/// How a command is carried out.
pub(super) struct Manner {
    pub(super) missing: Missing,
    /// The TAP of the port that the command adds, made by a helper.
    pub(super) handed: Option<Tap>,
}

impl Core {
    /// Obeys a command, wholly or not at all.
    pub(super) async fn execute(
        &mut self,
        command: Command,
        manner: Manner,
    ) -> Result<Vec<state::Change>, Error> {
        let plan = self.state.plan(command)?;
        self.carry_out(plan, manner).await
    }

    pub(super) async fn carry_out(
        &mut self,
        plan: Plan,
        mut manner: Manner,
    ) -> Result<Vec<state::Change>, Error> {
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
        self.edge.rebuild(&self.state).await;
        crash::point();
        self.observer.note_changes(&changes);
        self.look();
        self.pin_again();
        if !changes.is_empty() {
            self.state.warnings().iter().for_each(|warning| warn!("{warning}"));
        }
        Ok(changes)
    }

    /// Keeps what the file declares, for the day when it does not any more.
    pub(super) fn note_declared(&self) -> Result<(), StoreError> {
        let declared: Vec<_> = self.state.networks().filter(|it| it.origin == Origin::File).collect();
        self.store.declare(declared.iter().map(|it| &*it.spec))
    }

    /// Notes what has happened.
    pub(super) fn look(&mut self) {
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
                self.set_outside(new.to_vec(), manner.missing).await?;
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
