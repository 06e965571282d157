//! Ports, their counters and their drops.

use vswitch::{counters::PortTotals, drops::DropReason};

use super::{LivePort, Snapshot, state_of};
use crate::state;
use vswitch_model::{
    Carries, DeviceSpec, Error, Name,
    api::{Acceleration, Direction, Drop, Fates, Port, Traffic},
};

impl Snapshot {
    /// Every port, by name.
    pub(crate) fn ports(&self) -> Vec<Port> {
        self.state.ports().map(|port| self.show_port(&port)).collect()
    }

    /// The port of that name.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn port(&self, name: &Name) -> Result<Port, Error> {
        Ok(self.show_port(&self.find_port(name)?))
    }

    /// Drops with their reasons, at one port or at all.
    ///
    /// # Errors
    /// There is no such port.
    pub(crate) fn drops(&self, port: Option<&Name>) -> Result<Vec<Drop>, Error> {
        match port {
            Some(name) => Ok(self.drops_at(&self.find_port(name)?)),
            None => Ok(self.state.ports().flat_map(|port| self.drops_at(&port)).collect()),
        }
    }

    fn show_port(&self, port: &state::Port) -> Port {
        let spec = &port.spec;
        let real = self.live(port.id);
        let totals = self.totals(port.id);
        let taught = real.map(|real| self.live.fdb.learning_of_port(port.id).since(real.taught_before));
        let taught = taught.unwrap_or_default();
        let reason = self.why_down(port.id);
        Port {
            name: spec.name.clone(),
            id: port.id.0,
            declared: port.origin == state::Origin::File,
            network: spec.carries.untagged().cloned(),
            trunk: spec.carries.tagged().to_vec(),
            mirror: match &spec.carries {
                Carries::Mirror { mirror } => Some(mirror.clone()),
                _ => None,
            },
            kind: spec.device.kind().to_owned(),
            device: spec.label(),
            netns: spec.interface().and_then(|interface| interface.netns.as_ref()).map(ToString::to_string),
            state: state_of(reason.as_ref()),
            reason,
            warnings: real.map(|real| real.warnings.clone()).unwrap_or_default(),
            mtu: port.mtu,
            offload: spec.offload,
            limit: spec.limit,
            guard: spec.guard.clone(),
            isolated: spec.isolated,
            acceleration: real.and_then(|real| self.acceleration(real)),
            worker: real.map_or(0, |real| u16::try_from(real.worker).unwrap_or(u16::MAX)),
            macs: self.macs().on(port.id),
            rx: received(&totals),
            tx: sent(&totals),
            fates: Fates {
                unicast: totals.unicast,
                flooded: totals.flooded,
                answered: totals.answered,
                waiting: totals.waiting,
                offered: totals.offered,
                segments: totals.tx_segments,
                learned: taught.learned,
                moved: taught.moved,
                unlearned: taught.refused,
                evicted: taught.evicted,
                overflow: self.overflow(port.id),
            },
            drops: self.drops_at(port),
        }
    }

    /// Whether the kernel forwards for a port; `None` for tunnels.
    fn acceleration(&self, real: &LivePort) -> Option<Acceleration> {
        let why_not = |reason: String| Acceleration { reason: Some(reason), ..Acceleration::default() };
        if let Some(reason) = &self.live.why_not_fast {
            return real.fast.is_some().then(|| why_not(reason.clone()));
        }
        Some(match real.fast.as_ref()? {
            Err(reason) => why_not(reason.clone()),
            Ok(fast) => {
                let fast = fast.upgrade()?;
                let (rx_frames, tx_frames) = fast.forwarded();
                let slow = fast.slow();
                let reason = slow.map(|slow| slow.to_string());
                Acceleration { on: slow.is_none(), reason, rx_frames, tx_frames }
            }
        })
    }

    /// The same for all of them.
    pub(super) fn accelerations(&self) -> Acceleration {
        let each = self.live.ports.values().filter_map(|port| self.acceleration(port));
        let reason = self.live.why_not_fast.clone();
        let sum = Acceleration { on: reason.is_none(), reason, ..Acceleration::default() };
        each.fold(sum, |sum, it| Acceleration {
            rx_frames: sum.rx_frames + it.rx_frames,
            tx_frames: sum.tx_frames + it.tx_frames,
            ..sum
        })
    }

    pub(super) fn drops_at(&self, port: &state::Port) -> Vec<Drop> {
        let totals = self.totals(port.id);
        let drop = |(reason, frames): (DropReason, u64)| Drop {
            port: port.spec.name.clone(),
            direction: if reason.is_egress() { Direction::Tx } else { Direction::Rx },
            reason: reason.name().to_owned(),
            frames,
            hint: self.hint(reason),
        };
        let unreceived =
            [(self.overflow(port.id), unreceived(&port.spec.device)), (self.damaged(port.id), DAMAGED)];
        let unreceived = unreceived.into_iter().filter(|(frames, _)| *frames > 0);
        let unreceived = unreceived.map(|(frames, (reason, hint))| Drop {
            port: port.spec.name.clone(),
            direction: Direction::Rx,
            reason: reason.to_owned(),
            frames,
            hint: hint.to_owned(),
        });
        totals.drops().map(drop).chain(unreceived).collect()
    }

    /// The hint of a reason, with the names involved if they are known.
    fn hint(&self, reason: DropReason) -> String {
        if reason == DropReason::VxlanPeerUnknown
            && let Some(stranger) = self.strangers().last()
        {
            return self.state.about_stranger(stranger.address);
        }
        reason.hint().to_owned()
    }
}

/// Name and hint of frames that the kernel dropped before the switch could receive them. The names are the kernel's.
fn unreceived(device: &DeviceSpec) -> (&'static str, &'static str) {
    match device {
        DeviceSpec::Tap(_) => (
            "TAP_FULL_RING",
            "the interface's queue was full, or no daemon had it open: the kernel dropped these before the switch received them, and they are not among the received; raise switch.workers if CPUs are idle, or the interface's txqueuelen against bursts",
        ),
        _ => (
            "SOCKET_RCVBUFF",
            "the kernel's buffer for the port was full: these were dropped before the switch received them, and are not among the received; raise switch.workers if CPUs are idle",
        ),
    }
}

/// Name and hint of damaged datagrams of a tunnel that the kernel dropped. The name is the kernel's.
const DAMAGED: (&str, &str) = (
    "UDP_CSUM",
    "their outer UDP checksum was wrong: the kernel dropped these before the switch received them, and they are not among the received; a link, NIC or its checksum offload between the hosts breaks them (`ethtool -K` rx, tx-checksumming)",
);

pub(super) fn received(totals: &PortTotals) -> Traffic {
    Traffic { frames: totals.rx_frames, bytes: totals.rx_bytes, super_frames: totals.rx_super }
}

pub(super) fn sent(totals: &PortTotals) -> Traffic {
    Traffic { frames: totals.tx_frames, bytes: totals.tx_bytes, super_frames: totals.tx_super }
}
