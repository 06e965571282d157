//! Who is there: hosts by their leases, and by what comes through the tunnel.

use std::{fmt, time::Duration};

use vswitch_model::Name;

use super::{Cluster, Event, Output, TTL};
use crate::{
    keys::Key,
    record::{Availability, Node},
};

/// Silence of the tunnel after which a suspect host is down.
const SILENCE: Duration = Duration::from_secs(10);

/// How long a host may be without a lease before that means something.
const BEGINNING: Duration = Duration::from_secs(2);

/// What is known of a host's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Standing {
    /// Its lease is alive.
    #[default]
    Ready,
    /// Its lease has ended; it, the way to the store, or the store has failed. Frames are still sent to it.
    Suspect,
    /// And nothing was heard from it by the tunnel either. Nothing is flooded to it.
    Down,
}

impl Standing {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Suspect => "suspect",
            Self::Down => "down",
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A host as this one sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: Name,
    /// Its record.
    pub node: std::sync::Arc<Node>,
    /// Its life.
    pub standing: Standing,
}

impl Host {
    /// Its standing and availability in a word: ready, suspect, down, drained.
    pub fn word(&self) -> &'static str {
        match (self.standing, self.node.availability) {
            (Standing::Ready, Availability::Drain) => "drained",
            (standing, _) => standing.as_str(),
        }
    }
}

/// What was noticed of a host.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Track {
    standing: Standing,
    /// Since when its lease is gone, as seen from here.
    absent: Option<Duration>,
    met: Option<Duration>,
}

impl Track {
    pub(super) fn met(&mut self, now: Duration) {
        self.met = Some(now);
    }

    /// For how long its lease is gone.
    pub(super) fn absent_for(&self, now: Duration) -> Duration {
        self.absent.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }
}

impl Cluster {
    /// All hosts, by name; this one as well.
    pub fn hosts(&self) -> Vec<Host> {
        let host = |(name, node): (&Name, &std::sync::Arc<Node>)| Host {
            name: name.clone(),
            node: std::sync::Arc::clone(node),
            standing: self.standing(name),
        };
        self.mirror.nodes().map(host).collect()
    }

    /// The standing of a host. Without the store it stays what it was.
    pub fn standing(&self, name: &Name) -> Standing {
        self.hosts.get(name).map(|track| track.standing).unwrap_or_default()
    }

    pub(super) fn track(&self, name: &Name) -> Track {
        self.hosts.get(name).copied().unwrap_or_default()
    }

    /// Looks who is there. Called while the store is followed.
    pub(super) fn look_at_hosts(&mut self, now: Duration, out: &mut Vec<Output>) {
        // After a loss of the store all leases may have ended at once: their owners have the time of one to put them again.
        if now < self.following_since + TTL {
            return;
        }
        let names: Vec<Name> = self.mirror.nodes().map(|(name, _)| name.clone()).collect();
        self.hosts.retain(|name, _| names.contains(name));
        let mut changed = false;
        for name in names.into_iter().filter(|name| *name != self.me.name) {
            let alive = self.mirror.get(&Key::Alive(name.clone())).is_some();
            let track = self.hosts.entry(name.clone()).or_default();
            track.absent = if alive { None } else { track.absent.or(Some(now)) };
            let unheard = track.met.is_none_or(|met| now >= met + SILENCE);
            let standing = match track.absent {
                None => Standing::Ready,
                // One that has just joined, or whose run has just begun, is about to put it.
                Some(since) if now < since + BEGINNING => track.standing,
                Some(since) if now >= since + SILENCE && unheard => Standing::Down,
                // A host that was down and is heard again is at least there.
                Some(_) => Standing::Suspect,
            };
            if standing != track.standing {
                track.standing = standing;
                changed = true;
                out.push(Output::Event(Event::Host(name, standing)));
            }
        }
        if changed {
            out.push(Output::Changed(Vec::new()));
        }
    }
}
