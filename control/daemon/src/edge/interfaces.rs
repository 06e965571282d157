//! Interfaces: set up when opened, and removed when no port has them.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tracing::warn;
use vswitch::addr::PortId;

use super::{
    Edge,
    transaction::{OnFailure, Opening, Unset},
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
    /// Sets up the interfaces of opened and changed ports, several namespaces at a time.
    pub(super) async fn configure(&mut self) -> Result<(), Error> {
        self.follow_overlay().await;
        let unset = std::mem::take(&mut self.unset);
        let (edge, overlay) = (&*self.edge, self.edge.overlay_mtu());
        let progress = Arc::clone(&edge.progress);
        let interface = |unset: Unset| {
            let port = edge.ports.get(&unset.id).filter(|port| port.device.is_ok())?;
            let interface = port.wanted.spec.interface()?;
            // Of a bare one, others configure all but the MTU.
            let before = unset.before.clone().filter(|_| interface.bare.is_none());
            Some((unset, interface, wanted(&port.wanted, interface, before, overlay)))
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
        let mut by_namespace: BTreeMap<Inode, (Namespace, Vec<(PortId, Wanted)>)> = BTreeMap::new();
        for (unset, mut wanted, home) in found {
            match home {
                Ok(Some(Home { namespace, ifname, .. })) => {
                    wanted.ifname = ifname;
                    let group = by_namespace.entry(namespace.inode());
                    group.or_insert_with(|| (namespace, Vec::new())).1.push((unset.id, wanted));
                }
                // Of a port that was open until now, this is soon detected.
                Ok(None) if unset.before.is_some() => {}
                Ok(None) => self.lose(unset.id, device::gone())?,
                Err(error) => self.lose(unset.id, error)?,
            }
        }
        let (ids, groups): (Vec<Vec<_>>, Vec<_>) = by_namespace
            .into_values()
            .map(|(namespace, group)| {
                let (ids, wanted): (Vec<_>, Vec<_>) = group.into_iter().unzip();
                (ids, (namespace, wanted))
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
        let results = results?;
        for (ids, results) in ids.into_iter().zip(results) {
            match results {
                Ok(results) => {
                    for (id, result) in ids.into_iter().zip(results) {
                        result.or_else(|error| self.lose(id, error.into()).map(|()| Vec::new()))?;
                    }
                }
                Err(error) => ids.into_iter().try_for_each(|id| self.lose(id, error.clone()))?,
            }
        }
        Ok(())
    }

    /// Lets open interfaces follow a change of what tunnels carry: the length of their super-frames depends on it.
    async fn follow_overlay(&mut self) {
        let overlay = self.edge.overlay_mtu();
        if std::mem::replace(&mut self.overlay_before, overlay) == overlay || !self.edge.machine.is_real() {
            return;
        }
        for port in self.edge.ports.values() {
            let is_set_up = port.device.is_ok() && !self.unset.iter().any(|it| it.id == port.wanted.id);
            let Some(interface) = port.wanted.spec.interface().filter(|_| is_set_up) else { continue };
            if let Err(error) = follow(&port.wanted, interface, overlay).await {
                warn!(port = %port.wanted.spec.name, "its super-frames are as long as before: {}", error.sentence);
            }
        }
    }

    /// A port's interface could not be set up: it has none, then.
    fn lose(&mut self, id: PortId, error: Error) -> Result<(), Error> {
        if self.attempt.on_failure == OnFailure::Refuse {
            return Err(error);
        }
        self.take_down(id, error.sentence);
        Ok(())
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
            let wanted = wanted(&port.wanted, interface, None, overlay);
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

/// Changes nothing of a port's interface but the length of its super-frames.
async fn follow(port: &state::Port, interface: &InterfaceSpec, overlay: Option<Mtu>) -> Result<(), Error> {
    let (links, ifname) = match &interface.bare {
        Some(_) => match device::locate(interface, port.spec.ifname()).await? {
            Some(place) => (Links::open(place.namespace)?, place.ifname),
            None => return Ok(()),
        },
        None => (Links::open(device::namespace(interface)?)?, port.spec.ifname().to_owned()),
    };
    let all = wanted(port, interface, None, overlay);
    // As for a bare one, it stays down if it is.
    let spec = InterfaceSpec { bare: Some(Bare::default()), ..InterfaceSpec::default() };
    links.configure(&Wanted { ifname, spec, before: None, mtu: None, ..all }).await?;
    Ok(())
}

/// The wanted configuration of a port's interface; the tunnel carries packets of `overlay` bytes.
pub(super) fn wanted(
    port: &state::Port,
    interface: &InterfaceSpec,
    before: Option<InterfaceSpec>,
    overlay: Option<Mtu>,
) -> Wanted {
    let crosses = overlay.is_some_and(|overlay| port.mtu <= overlay);
    Wanted {
        ifname: port.spec.ifname().to_owned(),
        spec: interface.clone(),
        before,
        mtu: Some(port.mtu.get()),
        super_frame: Some(if crosses { link::super_frame(port.mtu.get()) } else { link::WHOLE_SUPER_FRAME }),
        is_wary: port.spec.is_hosts(),
        // Only those of veth pairs are read through AF_PACKET.
        described_offloads: port.spec.host_ifname().is_some(),
    }
}
