//! Ports that fail, that come back, and that are heard.

use std::{sync::Arc, time::Instant};

use tracing::{info, warn};
use vswitch::{addr::PortId, counters::PortTotals};

use super::{Edge, EdgePort, Heard, Missing};
use crate::device::{self, OpenDevice};

impl Edge {
    pub(super) fn is_up(&self, port: &EdgePort) -> bool {
        self.why_down(port).is_none()
    }

    /// Why `port` carries no frames, if it does not.
    pub(crate) fn why_down(&self, port: &EdgePort) -> Option<String> {
        match &port.device {
            Err(why) => Some(why.clone()),
            Ok(OpenDevice::Remote { .. }) if self.endpoint().is_none() => {
                Some("the tunnel has no end here: see port vxlan, or write [vxlan] into the file".into())
            }
            Ok(_) => None,
        }
    }

    /// Notes which ports have failed since the last call. True: a new plan is needed.
    pub(crate) fn collect_faults(&mut self) -> bool {
        let plan = Arc::clone(self.workers.plan());
        let faults = plan.ports.iter().flatten().filter_map(|port| Some((port.id, port.fault()?)));
        let mut any = false;
        for (id, fault) in faults {
            let why = match fault.raw_os_error() {
                Some(EBADFD | ENODEV | ENXIO) => "its interface is gone".to_owned(),
                Some(ENETDOWN) => "its interface is down or gone".to_owned(),
                _ => format!("its interface fails: {fault}"),
            };
            any |= self.take_down(id, why);
        }
        any
    }

    /// Takes the ports out of forwarding whose containers have ended. True: a new plan is needed.
    pub(crate) fn collect_abandoned(&mut self) -> bool {
        let abandoned = |port: &EdgePort| port.device.as_ref().is_ok_and(OpenDevice::is_abandoned);
        let gone: Vec<_> = self.ports.iter().filter(|(_, port)| abandoned(port)).map(|(id, _)| *id).collect();
        gone.into_iter().fold(false, |any, id| any | self.take_down(id, "its namespace is gone".to_owned()))
    }

    /// A port has lost its device. True: it had one. An interface that persists stays for the next try.
    pub(super) fn take_down(&mut self, id: PortId, why: String) -> bool {
        let Some(port) = self.ports.get_mut(&id).filter(|port| port.device.is_ok()) else { return false };
        warn!(port = %port.wanted.spec.name, "down: {why}");
        let persists = port.wanted.spec.interface().is_some_and(|interface| interface.persist);
        let device = std::mem::replace(&mut port.device, Err(why));
        self.leaving.extend(device.ok().filter(|_| !persists));
        self.stale.changed.insert(id);
        true
    }

    /// Tries to open the ports that are down. True: at least one is back, and a new plan is needed.
    pub(crate) async fn retry(&mut self) -> bool {
        let down: Vec<_> =
            self.ports.iter().filter(|(_, port)| port.device.is_err()).map(|(id, _)| *id).collect();
        let mut any = false;
        for id in down {
            let Some(wanted) = self.ports.get(&id).map(|port| port.wanted.clone()) else { continue };
            let device = device::open(&wanted, None, self.workers.count(), &self.owner).await;
            let key = self.key();
            let Some(port) = self.ports.get_mut(&id) else { continue };
            match device {
                Ok(device) => {
                    if let OpenDevice::Endpoint(endpoint) = &device {
                        endpoint.strangers.on_stranger(Arc::clone(&self.on_stranger));
                    }
                    info!(port = %wanted.spec.name, "up again");
                    (port.device, port.key) = (Ok(device), key);
                    self.unset.push(id);
                    self.unkept.push(id);
                    any = true;
                }
                Err(error) => port.device = Err(error.sentence),
            }
        }
        if any && let Err(error) = self.set_up(Missing::Retry).await {
            warn!("{}", error.sentence);
        }
        self.keep();
        any
    }

    /// Notes which ports were heard since the last call.
    pub(crate) fn listen(&mut self) {
        for port in self.ports.values_mut() {
            let frames = PortTotals::sum(&port.counters).rx_frames;
            if frames > port.heard.map_or(0, |heard| heard.frames) {
                port.heard = Some(Heard { at: Instant::now(), frames });
            }
        }
    }
}

// include/uapi/asm-generic/errno-base.h, errno.h
const ENXIO: i32 = 6;
const ENODEV: i32 = 19;
const EBADFD: i32 = 77;
const ENETDOWN: i32 = 100;
