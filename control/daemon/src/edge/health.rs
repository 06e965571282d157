//! Ports that fail, recover, and receive.

use std::sync::Arc;

use tracing::{info, warn};
use vswitch::{counters::PortTotals, device::DeviceError};

use super::{Edge, EdgePort, transaction::Opening};
use crate::{
    device::OpenDevice,
    tunnel::{self, Ties},
};
use vswitch_host::netns::Presences;
use vswitch_model::Netns;

impl Edge {
    pub(super) fn is_up(&self, port: &EdgePort) -> bool {
        self.why_down(port).is_none()
    }

    /// Why `port` carries no frames; `None` if it does.
    pub(crate) fn why_down(&self, port: &EdgePort) -> Option<String> {
        port.why_down(|| self.endpoint().is_some())
    }

    /// The names of the namespaces that open devices keep alive.
    pub(crate) fn kept_namespaces(&self) -> impl Iterator<Item = &Netns> {
        self.ports.values().filter_map(|port| port.device.as_ref().ok()?.keeps())
    }

    /// Notes which ports were heard since the last call, and what others' interfaces carry by now.
    pub(crate) fn listen(&self) {
        let now = self.workers.now();
        for port in self.ports.values() {
            if let Some(Ok(fast)) = port.device.as_ref().ok().and_then(OpenDevice::fast) {
                fast.count();
            }
            port.heard.note(PortTotals::sum(&port.counters).rx_frames, now);
            if let Ok(OpenDevice::Foreign(device)) = &port.device {
                device.measure();
            }
        }
        self.follow_links(|_| true);
    }
}

impl Opening<'_> {
    /// Takes failed ports out of forwarding. Returns whether there were any.
    pub(crate) async fn take_down_faulty(mut self) -> bool {
        let any = self.collect_faults();
        if any {
            self.rebuild().await;
        }
        any
    }

    /// Takes the ports out of forwarding whose containers have ended, and tries those again that are down. True: that made a
    /// difference.
    pub(crate) async fn try_again(mut self, now: &Presences) -> bool {
        let any = self.collect_abandoned(now) | self.collect_displaced().await | self.retry().await;
        // Only what is asked for now fails for good; the rest is down, and tried again as well.
        if let Err(error) = self.configure().await {
            warn!("{}", error.sentence);
        }
        self.keep();
        if any {
            self.rebuild().await;
        }
        any
    }

    /// Notes which ports have failed. Returns whether there were any.
    pub(super) fn collect_faults(&mut self) -> bool {
        let plan = Arc::clone(self.edge.workers.plan());
        let faults = plan.ports.iter().flatten().filter_map(|port| Some((port.id, port.fault()?)));
        let mut any = false;
        for (id, fault) in faults {
            let why = match DeviceError::of(&fault) {
                DeviceError::Gone => "its interface is gone".to_owned(),
                DeviceError::Down => "its interface is down or gone".to_owned(),
                _ => format!("its interface fails: {fault}"),
            };
            any |= self.take_down(id, why);
        }
        any
    }

    /// Takes the ports out of forwarding whose containers have ended. True: there were some.
    fn collect_abandoned(&mut self, now: &Presences) -> bool {
        let abandoned = |port: &EdgePort| port.device.as_ref().is_ok_and(|device| device.is_abandoned(now));
        let ports = self.edge.ports.iter();
        let gone: Vec<_> = ports.filter(|(_, port)| abandoned(port)).map(|(id, _)| *id).collect();
        gone.into_iter().fold(false, |any, id| any | self.take_down(id, "its namespace is gone".to_owned()))
    }

    /// Closes the tunnel's end if an interface that its sockets are tied to is gone, or another. True: it was closed.
    async fn collect_displaced(&mut self) -> bool {
        let Some((id, spec, endpoint)) = self.edge.open_endpoint().filter(|_| self.edge.is_real()) else {
            return false;
        };
        let ties = Ties::of(endpoint);
        let why = match tunnel::ties(spec).await {
            Ok(now) if now == ties => return false,
            Ok(_) => "its interface was made anew".to_owned(),
            Err(error) => error.sentence,
        };
        self.take_down(id, why);
        // Its port must be free before it is opened again.
        self.let_go().await;
        true
    }

    /// Tries to open the ports that are down. True: at least one is back.
    async fn retry(&mut self) -> bool {
        let ports = self.edge.ports.iter();
        let down: Vec<_> = ports.filter(|(_, port)| port.device.is_err()).map(|(id, _)| *id).collect();
        let mut any = false;
        for id in down {
            if self.reopen(id).await {
                info!(port = %self.edge.ports[&id].wanted.spec.name, "up again");
                any = true;
            }
        }
        any
    }
}

impl EdgePort {
    /// Why it carries no frames; `None` if it does. Peers and collectors need the tunnel's endpoint.
    pub(super) fn why_down(&self, tunnel_is_open: impl FnOnce() -> bool) -> Option<String> {
        match &self.device {
            Err(why) => Some(why.clone()),
            Ok(OpenDevice::Remote { .. }) if !tunnel_is_open() => {
                Some("the tunnel has no open endpoint: see port vxlan, or add [vxlan] to the file".into())
            }
            Ok(_) => None,
        }
    }
}
