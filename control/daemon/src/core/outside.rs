//! Access to the outside: reserved ports of the host, and the gateway's rules.
//!
//! nft(8) takes up to 30 ms. The core waits for it on its own thread, where it delays no reader.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::Core;
use crate::{edge::OnFailure, machine::Machine};
use vswitch_host::gateway::{Gateway, GatewayError, Interference, Outside};
use vswitch_model::{
    Connect, EndpointSpec, Error, Name, NetworkSpec,
    options::{EndpointOptions, Meaning},
    publish::{Publish, Published},
};

/// The host's rules, wanted and set.
#[derive(Debug)]
pub(super) struct Rules {
    machine: Machine,
    gateway: Gateway,
    /// What could not be made, and is tried again: sentences.
    due: Vec<String>,
    /// Why it is unknown what others have changed, or why it cannot be set again.
    unmended: Option<String>,
}

impl Core {
    /// Reserves ports of the host for an endpoint that will be created at `now`.
    pub(super) fn reserve(
        &mut self,
        network: &Name,
        connect: &Connect,
        now: Timestamp,
    ) -> Result<Vec<Published>, Error> {
        let Some(network) = self.state.network(network).filter(|_| !connect.publish.is_empty()) else {
            return Ok(Vec::new());
        };
        let addresses = self.state.choose_addresses(&network.spec, connect.ip, connect.ip6, now)?;
        let options = EndpointOptions::read(&connect.options)?;
        self.reserve_for(&network.spec, &addresses, options.hold, connect.publish.clone())
    }

    /// Publishes ports for an endpoint of a network that has or will have `addresses`; with `hold` our sockets reserve them.
    pub(super) fn reserve_for(
        &mut self,
        network: &NetworkSpec,
        addresses: &[IpNet],
        hold: bool,
        mut publish: Vec<Publish>,
    ) -> Result<Vec<Published>, Error> {
        self.state.check_publishable(network)?;
        let addresses: Vec<_> = addresses.iter().map(IpNet::addr).collect();
        publish.iter_mut().for_each(|it| it.host_ip = it.host_ip.or(network.options.binding));
        Ok(self.rules.gateway.reserve(&publish, &addresses, hold)?)
    }
}

impl Rules {
    pub(super) fn new(machine: Machine) -> Self {
        Self { machine, gateway: Gateway::default(), due: Vec::new(), unmended: None }
    }

    /// Ensures that no other daemon sets the host's rules, if any are wanted.
    pub(super) fn claim(&mut self, wanted: &[Outside]) -> Result<(), Error> {
        if !wanted.is_empty() && self.machine.is_real() {
            self.gateway.claim()?;
        }
        Ok(())
    }

    /// Releases the reserved ports of an endpoint.
    pub(super) fn release(&mut self, published: &[Published]) {
        self.gateway.release(published);
    }

    /// Deletes the tracked connections of removed endpoints, in networks that had a gateway.
    pub(super) fn end_connections<'e>(
        &self,
        before: &[Outside],
        gone: impl Iterator<Item = &'e EndpointSpec>,
    ) {
        if self.machine.is_real() {
            let addresses = gone.flat_map(|it| &it.addresses).map(IpNet::addr);
            let is_gated = |ip: &IpAddr| before.iter().flat_map(|it| &it.subnets).any(|net| net.contains(ip));
            self.gateway.end_connections(addresses.filter(is_gated));
        }
    }

    /// Removes rules of an earlier run if none are wanted: it may have ended before it stored what they were for.
    pub(super) fn forget(&mut self, wanted: &[Outside]) {
        if wanted.is_empty()
            && self.machine.is_real()
            && let Err(why) = self.gateway.set(&[])
        {
            // Without nft, or without permission to use it, there are none.
            debug!("cannot look for rules of an earlier run: {why}");
        }
    }

    /// Removes all that there is of them, and what is kept as long as there may be any.
    pub(super) fn remove_all(&mut self) {
        self.forget(&[]);
        if self.machine.is_real() {
            self.gateway.leave_zone();
        }
    }

    /// Sets the host's rules. With [`OnFailure::Retry`], and where no network depends on them, as far as possible, now and later.
    pub(super) fn set(&mut self, outsides: &[Outside], on_failure: OnFailure) -> Result<(), Error> {
        if !self.machine.is_real() {
            return Ok(());
        }
        // Without networks that have an interface of their own here, all that the rules do is to keep stations behind the host's
        // ports from the tunnel's peers: a warning, as at a start.
        if on_failure == OnFailure::Refuse
            && (outsides.is_empty() || outsides.iter().any(Outside::is_networks))
        {
            self.gateway.set(outsides)?;
            self.due.clear();
            return Ok(());
        }
        let restored = self.gateway.restore(outsides);
        self.note(restored);
        Ok(())
    }

    /// Notes what could not be made.
    fn note(&mut self, done: Result<Vec<(Published, GatewayError)>, GatewayError>) {
        let due = match done {
            Ok(left_out) => left_out.iter().map(|(_, why)| format!("not published for now: {why}")).collect(),
            Err(why) => vec![format!("networks do not reach the outside for now: {why}")],
        };
        due.iter().filter(|why| !self.due.contains(why)).for_each(|why| warn!("{why}"));
        if !self.due.is_empty() && due.is_empty() {
            info!("networks reach the outside again");
        }
        self.due = due;
    }

    /// What could not be made, and is tried again: sentences.
    pub(super) fn troubles(&self) -> impl Iterator<Item = &String> {
        self.due.iter().chain(&self.unmended)
    }

    /// Retries what failed.
    pub(super) fn retry(&mut self, outsides: &[Outside]) {
        if !self.due.is_empty() {
            // Its errors are reported once.
            let _ = self.set(outsides, OnFailure::Retry);
        }
    }

    /// Sets again what others have changed, and lets pass what they drop by now. Returns a sentence for each thing.
    pub(super) fn mend(&mut self, outsides: &[Outside]) -> Vec<String> {
        // What could not be set is due.
        if !self.machine.is_real() || !self.due.is_empty() {
            return Vec::new();
        }
        let (table, mut told) = match self.gateway.check(outsides) {
            Ok(Interference { table, settings }) => {
                self.unmended = None;
                (table, settings)
            }
            Err(error) => {
                let why = format!("what other programs change of the gateways is not set right: {error}");
                if self.unmended.as_ref() != Some(&why) {
                    warn!("{why}");
                }
                self.unmended = Some(why);
                return Vec::new();
            }
        };
        if let Some(what) = table {
            let mended = self.gateway.mend(outsides);
            self.note(mended);
            told.push(format!("{what}: it is made anew"));
        }
        told
    }
}
