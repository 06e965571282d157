//! Interfaces: set up when opened, and removed when no port has them.

use std::collections::{BTreeMap, HashSet, btree_map::Entry};

use tracing::warn;

use super::{
    Edge,
    transaction::{OnFailure, Opening, Unset, Why},
};
use crate::{device, state};
use vswitch_host::{
    link::{self, LinkError, Links, Step, Wanted},
    netns::{Inode, Namespace},
};
use vswitch_model::{Bare, Error, InterfaceSpec, Mtu};

impl Opening<'_> {
    /// Sets up the interfaces of ports that were opened and changed, one namespace at a time: each is read once.
    ///
    /// # Errors
    /// The first failure that the change does not go on with; all others are set up nevertheless.
    pub(super) async fn configure(&mut self) -> Result<(), Error> {
        self.follow_overlay();
        let mut failures = Vec::new();
        let mut by_namespace: BTreeMap<Inode, (Links, Vec<(Unset, Wanted)>)> = BTreeMap::new();
        for unset in std::mem::take(&mut self.unset) {
            let Some(port) = self.edge.ports.get(&unset.id) else { continue };
            let Some(interface) = port.wanted.spec.interface() else { continue };
            let mut wanted = self.wanted(&unset.why, &port.wanted, interface);
            if interface.bare.is_some() {
                match device::locate(interface, &wanted.ifname).await {
                    Ok(Some(place)) => {
                        wanted.ifname = place.ifname;
                        let group = by_namespace.entry(place.links.namespace().inode());
                        group.or_insert_with(|| (place.links, Vec::new())).1.push((unset, wanted));
                    }
                    // That an open port's interface is gone is soon detected.
                    Ok(None) if !matches!(unset.why, Why::Opened) => {}
                    Ok(None) => failures.extend(self.lose(&unset, device::gone())),
                    Err(error) => failures.extend(self.lose(&unset, error)),
                }
                continue;
            }
            match device::namespace(interface) {
                Ok(namespace) => {
                    let group = match by_namespace.entry(namespace.inode()) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(new) => new.insert((Links::open(namespace)?, Vec::new())),
                    };
                    group.1.push((unset, wanted));
                }
                Err(error) => failures.extend(self.lose(&unset, error)),
            }
        }
        for (links, group) in by_namespace.into_values() {
            let (unset, wanted): (Vec<_>, Vec<_>) = group.into_iter().unzip();
            let results = match links.configure_all(&wanted).await {
                Ok(results) => results,
                Err(error) => {
                    let error = Error::from(error);
                    failures.extend(unset.iter().filter_map(|unset| self.lose(unset, error.clone())));
                    continue;
                }
            };
            for (unset, result) in unset.into_iter().zip(results) {
                if let Err(error) = result {
                    failures.extend(self.lose(&unset, error.into()));
                }
            }
        }
        failures.into_iter().next().map_or(Ok(()), Err)
    }

    /// Lets open interfaces follow a change of what tunnels carry: the length of their super-frames depends on it.
    fn follow_overlay(&mut self) {
        let overlay = self.edge.overlay_mtu();
        if std::mem::replace(&mut self.overlay_before, overlay) == overlay || !self.edge.machine.is_real() {
            return;
        }
        let others: HashSet<_> = self.unset.iter().map(|unset| unset.id).collect();
        let open = self.edge.ports.values().filter(|port| port.device.is_ok());
        let ids = open.map(|port| port.wanted.id).filter(|id| !others.contains(id));
        self.unset.extend(ids.map(|id| Unset { id, why: Why::Overlay }));
    }

    fn wanted(&self, why: &Why, port: &state::Port, interface: &InterfaceSpec) -> Wanted {
        let all = wanted(port, interface, self.edge.overlay_mtu());
        match why {
            Why::Opened => all,
            // Where it was moved, others configure all but the MTU.
            Why::Changed(_) if interface.bare.is_some() => all,
            Why::Changed(before) => Wanted { before: Some(before.clone()), ..all },
            Why::Overlay => {
                // As a bare one, it stays down if it is.
                let spec = InterfaceSpec { bare: Some(Bare::default()), ..InterfaceSpec::default() };
                Wanted { spec, mtu: None, ..all }
            }
        }
    }

    /// A port's interface could not be set up. If it is tried again later, a new one is closed until then; one that was there
    /// stays as it is. Otherwise the change fails, with the error that is returned.
    fn lose(&mut self, unset: &Unset, error: Error) -> Option<Error> {
        match unset.why {
            Why::Opened if self.attempt.on_failure == OnFailure::Retry => {
                self.take_down(unset.id, error.sentence);
                None
            }
            Why::Opened | Why::Changed(_) => Some(error),
            Why::Overlay => {
                let port = self.edge.ports.get(&unset.id).map(|port| &port.wanted.spec.name);
                warn!(
                    port = port.map(tracing::field::display),
                    "its super-frames are as long as before: {}", error.sentence
                );
                None
            }
        }
    }
}

impl Edge {
    /// Sets up the host's own interfaces again that others have changed, udevd among them. Returns a sentence for each.
    pub(crate) async fn mend_interfaces(&mut self) -> Vec<String> {
        let changed = self.watch.changed();
        if !self.machine.is_real() || changed.is_empty() {
            return Vec::new();
        }
        let overlay = self.overlay_mtu();
        let own = self.ports.values().filter_map(|port| {
            let is_own = port.device.is_ok() && port.wanted.spec.is_hosts();
            let interface = port.wanted.spec.interface().filter(|_| is_own)?;
            let wanted = wanted(&port.wanted, interface, overlay);
            changed.has(&wanted.ifname).then_some(wanted)
        });
        let own: Vec<_> = own.collect();
        if own.is_empty() {
            return Vec::new();
        }
        let opened = Namespace::current().map_err(Error::from).and_then(|it| Ok(Links::open(it)?));
        let configured = match opened {
            Ok(links) => links.configure_all(&own).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        let told = |(wanted, result): (&Wanted, Result<Vec<Step>, LinkError>)| {
            let ifname = &wanted.ifname;
            match result {
                Ok(steps) if steps.is_empty() => None,
                Ok(steps) => {
                    let steps: Vec<_> = steps.iter().map(ToString::to_string).collect();
                    Some(format!(
                        "{ifname} was changed by another program and has {} again",
                        steps.join(", ")
                    ))
                }
                Err(error) => Some(format!("{ifname} was changed by another program, and stays so: {error}")),
            }
        };
        match configured {
            Ok(results) => own.iter().zip(results).filter_map(told).collect(),
            Err(error) => {
                vec![format!(
                    "what others change of the gateways' interfaces is not set right: {}",
                    error.sentence
                )]
            }
        }
    }

    /// Removes interfaces of an earlier run that no port has.
    pub(crate) async fn remove_orphans(&self) {
        if !self.machine.is_real() {
            return;
        }
        if let Err(error) = device::remove_orphans(&self.owner, &self.host_ends()).await {
            warn!("interfaces of an earlier run may be left behind: {}", error.sentence);
        }
    }

    /// Reports such interfaces instead, because their records may be lost: containers may still use them.
    pub(crate) async fn tell_orphans(&self) {
        match device::orphans(&self.owner, &self.host_ends()).await {
            Ok(orphans) => orphans.iter().for_each(|ifname| {
                warn!(
                    ifname,
                    "an interface without a port is left as it is, because its record may be lost: connect its container \
                     anew, or delete it with `ip link del {ifname}`"
                );
            }),
            Err(error) => warn!("interfaces of an earlier run may be left behind: {}", error.sentence),
        }
    }

    /// The names of the host's ends of all veth pairs.
    fn host_ends(&self) -> HashSet<String> {
        self.ports.values().filter_map(|port| port.wanted.spec.host_ifname()).collect()
    }
}

/// The wanted configuration of a port's interface; the tunnel carries packets of `overlay` bytes.
fn wanted(port: &state::Port, interface: &InterfaceSpec, overlay: Option<Mtu>) -> Wanted {
    let crosses = overlay.is_some_and(|overlay| port.mtu <= overlay);
    Wanted {
        ifname: port.spec.ifname().to_owned(),
        spec: interface.clone(),
        before: None,
        mtu: Some(port.mtu.get()),
        super_frame: Some(if crosses { link::super_frame(port.mtu.get()) } else { link::WHOLE_SUPER_FRAME }),
        is_wary: port.spec.is_hosts(),
        // Only those of veth pairs are read through AF_PACKET.
        described_offloads: port.spec.host_ifname().is_some(),
    }
}
