//! Interfaces: set up when opened, and removed when no port has them.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tracing::warn;

use super::{
    Edge,
    transaction::{OnFailure, Opening, Unset, Why},
};
use crate::{
    device::{self, Home},
    state,
};
use vswitch_host::{
    link::{self, LinkError, Links, Step, Wanted},
    netns::{Inode, Namespace, together},
};
use vswitch_model::{Bare, Error, InterfaceSpec, Mtu};

impl Opening<'_> {
    /// Sets up the interfaces of opened and changed ports, several namespaces at a time: each is read once.
    ///
    /// # Errors
    /// The first failure that the change does not go on with; all others are set up nevertheless.
    pub(super) async fn configure(&mut self) -> Result<(), Error> {
        self.follow_overlay();
        let unset = std::mem::take(&mut self.unset);
        let edge = &*self.edge;
        let progress = Arc::clone(&edge.progress);
        let overlay = edge.overlay_mtu();
        let interface = |unset: Unset| {
            let port = edge.ports.get(&unset.id).filter(|port| port.device.is_ok())?;
            let interface = port.wanted.spec.interface()?;
            let wanted = wanted_for(&unset.why, &port.wanted, interface, overlay);
            Some((unset, interface, wanted))
        };
        let wanted: Vec<_> = unset.into_iter().filter_map(interface).collect();
        let count = wanted.len();
        let find = async |(unset, interface, wanted): (Unset, &InterfaceSpec, Wanted)| {
            let found = match interface.bare {
                Some(_) => device::locate(interface, &wanted.ifname).await,
                None => device::namespace(interface)
                    .map(|it| Some(Home { namespace: it, ifname: wanted.ifname.clone(), is_moved: false })),
            };
            (unset, wanted, found)
        };
        let found = together(wanted, find, |_| {}).await?;
        let mut failures = Vec::new();
        let mut by_namespace: BTreeMap<Inode, (Namespace, Vec<(Unset, Wanted)>)> = BTreeMap::new();
        for (unset, mut wanted, home) in found {
            match home {
                Ok(Some(Home { namespace, ifname, .. })) => {
                    wanted.ifname = ifname;
                    let group = by_namespace.entry(namespace.inode());
                    group.or_insert_with(|| (namespace, Vec::new())).1.push((unset, wanted));
                }
                // Of a port that was open until now, this is soon detected.
                Ok(None) if !matches!(unset.why, Why::Opened) => {}
                Ok(None) => failures.extend(self.lose(&unset, device::gone())),
                Err(error) => failures.extend(self.lose(&unset, error)),
            }
        }
        let (all, groups): (Vec<Vec<_>>, Vec<_>) = by_namespace
            .into_values()
            .map(|(namespace, group)| {
                let (unset, wanted): (Vec<_>, Vec<_>) = group.into_iter().unzip();
                (unset, (namespace, wanted))
            })
            .unzip();
        let set_up = AtomicUsize::new(0);
        let each = || {
            set_up.fetch_add(1, Relaxed);
        };
        let configure = async |(namespace, wanted): (Namespace, Vec<Wanted>)| {
            let results = Links::open(namespace)?.configure_all(&wanted, &each).await;
            results.map_err(Error::from)
        };
        let told = |_| progress.tell("interfaces are set up", set_up.load(Relaxed), count);
        let results = together(groups, configure, told).await;
        progress.end();
        for (unset, results) in all.into_iter().zip(results?) {
            match results {
                Ok(results) => {
                    for (unset, result) in unset.iter().zip(results) {
                        failures.extend(result.err().and_then(|error| self.lose(unset, error.into())));
                    }
                }
                Err(error) => {
                    failures.extend(unset.iter().filter_map(|unset| self.lose(unset, error.clone())));
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
                let port = port.map(tracing::field::display);
                warn!(port, "its super-frames are as long as before: {}", error.sentence);
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
            Ok(links) => links.configure_all(&own, || {}).await.map_err(Error::from),
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

/// What is wanted of a port's interface, and for this reason; the tunnel carries packets of `overlay` bytes.
fn wanted_for(why: &Why, port: &state::Port, interface: &InterfaceSpec, overlay: Option<Mtu>) -> Wanted {
    let all = wanted(port, interface, overlay);
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
