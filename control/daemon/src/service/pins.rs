//! Addresses that are pinned to a port by hand.

use tracing::{info, warn};
use vswitch::fdb::Origin;

use super::core::Core;
use vswitch_model::{Error, api::StaticEntry};

impl Core {
    /// Pins every address that is kept to its port: a port that was opened anew has none. A pin whose network or port is
    /// gone is kept no longer.
    pub(super) fn pin_again(&mut self) {
        for pin in self.store.pins() {
            if self.pin(&pin).is_err() {
                info!(mac = %pin.mac, network = %pin.network, port = %pin.port, "a pinned address goes with its port");
                // Where it cannot be forgotten now, it is the next time.
                if let Err(error) = self.store.remove_pin(&pin.network, pin.mac) {
                    warn!(mac = %pin.mac, network = %pin.network, "the pinned address is kept still: {error}");
                }
            }
        }
    }

    /// Pins an address in the table.
    pub(super) fn pin(&self, pin: &StaticEntry) -> Result<(), Error> {
        let (network, port) = (self.network_id(&pin.network)?, self.port_id(&pin.port)?);
        if !pin.mac.is_station() {
            return Err(Error::invalid(format!("{} is a group or zero address: no station has it", pin.mac)));
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
}
