//! Pinning and flushing addresses.

use tracing::{info, warn};
use vswitch::{
    addr::{NetworkId, PortId},
    fdb::Origin,
};

use super::Core;
use crate::state::{Kind, Refusal};
use vswitch_model::{
    Error, Name,
    api::{FdbKey, Flush, Flushed, StaticEntry},
};

impl Core {
    /// Applies all stored pins: a reopened port has none. Returns those that failed.
    pub(super) fn pin_again(&self) -> Vec<StaticEntry> {
        self.store.pins().into_iter().filter(|pin| self.pin(pin).is_err()).collect()
    }

    /// Deletes stored pins whose network or port is gone.
    pub(super) fn forget_pins(&self, pins: Vec<StaticEntry>) {
        for pin in pins {
            info!(mac = %pin.mac, network = %pin.network, port = %pin.port, "a pinned address is removed with its port");
            // If it cannot be deleted now, it is the next time.
            if let Err(error) = self.store.remove_pin(&pin.network, pin.mac) {
                warn!(mac = %pin.mac, network = %pin.network, "cannot delete a pinned address: {error}");
            }
        }
    }

    /// Pins an address and stores that, or does neither.
    pub(super) fn pin_and_keep(&mut self, pin: &StaticEntry) -> Result<(), Error> {
        self.pin(pin)?;
        if let Err(error) = self.store.put_pin(pin) {
            self.edge.fdb.forget(self.network_id(&pin.network)?, pin.mac);
            self.edge.pin_stations(&self.state);
            return Err(error.into());
        }
        self.edge.settle_fast();
        self.asker.log(format_args!("{} pinned to port {} in network {}", pin.mac, pin.port, pin.network));
        Ok(())
    }

    /// Removes one address, learned or pinned by command. That of a known station stays pinned to its port.
    pub(super) fn forget_address(&mut self, key: &FdbKey) -> Result<(), Error> {
        let network = self.network_id(&key.network)?;
        self.store.remove_pin(&key.network, key.mac)?;
        if let Some(home) = self.edge.home(network, key.mac) {
            if self.edge.fdb.unpin(network, key.mac, Origin::Static) {
                self.edge.pin_stations(&self.state);
                self.edge.settle_fast();
                return Ok(());
            }
            let port = self.edge.port(home).map_or("its port", |port| port.wanted.spec.name.as_str());
            let why = format!(
                "{} belongs to {port} and stays there: disconnect it, or switch its guard off if it has one",
                key.mac
            );
            return Err(Error::conflict(why));
        }
        if self.edge.fdb.forget(network, key.mac) {
            self.edge.settle_fast();
            self.asker.log(format_args!("{} of network {} removed", key.mac, key.network));
            Ok(())
        } else {
            Err(Error::not_found(format!("{} is not known in network {}", key.mac, key.network)))
        }
    }

    /// Removes learned addresses; pinned ones stay.
    pub(super) fn flush(&mut self, flush: Flush) -> Result<Flushed, Error> {
        let before = self.learned();
        self.asker.log(format_args!("learned addresses removed: {flush:?}"));
        match flush {
            Flush::All => self.state.networks().for_each(|network| self.edge.fdb.flush_network(network.id)),
            Flush::Port(name) => self.edge.fdb.flush_port(self.port_id(&name)?),
            Flush::Network(name) => self.edge.fdb.flush_network(self.network_id(&name)?),
        }
        let entries = before.saturating_sub(self.learned());
        Ok(Flushed { entries: u32::try_from(entries).unwrap_or(u32::MAX) })
    }

    /// Learned addresses that are not expired.
    fn learned(&self) -> usize {
        let entries = self.edge.fdb.entries(self.edge.workers.now());
        entries.filter(|entry| entry.origin == Origin::Learned).count()
    }

    /// Pins an address in the table.
    fn pin(&self, pin: &StaticEntry) -> Result<(), Error> {
        let (network, port) = (self.network_id(&pin.network)?, self.port_id(&pin.port)?);
        if !pin.mac.is_station() {
            return Err(Error::invalid(format!(
                "{} is a multicast or zero address, which no station can have",
                pin.mac
            )));
        }
        let (spec, carried) = (self.state.port(&pin.port), self.state.network(&pin.network));
        if !spec.zip(carried).is_some_and(|(port, network)| port.spec.holds(&network.spec)) {
            let why = format!("port {} does not carry network {}", pin.port, pin.network);
            return Err(Error::invalid(why));
        }
        if !self.edge.fdb.pin(network, pin.mac, port, Origin::Static, self.edge.workers.now()) {
            let why = "the table is full of pinned addresses: remove some, or raise switch.mac_limit";
            return Err(Error::conflict(why));
        }
        Ok(())
    }
    fn port_id(&self, name: &Name) -> Result<PortId, Error> {
        let missing = || Refusal::Missing { kind: Kind::Port, name: name.clone() };
        Ok(self.state.port(name).ok_or_else(missing)?.id)
    }

    fn network_id(&self, name: &Name) -> Result<NetworkId, Error> {
        let missing = || Refusal::Missing { kind: Kind::Network, name: name.clone() };
        Ok(self.state.network(name).ok_or_else(missing)?.id)
    }
}
