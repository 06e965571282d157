//! Neighbours that a control plane knows: who asks for their address gets the answer from the switch.
//!
//! In a network over several hosts a question "who has 10.9.0.7?" would cross every tunnel, only to find a station that the
//! control plane has on record. So questions for addresses of this table are answered at the port they came in by, and go no
//! further:
//!
//! ```text
//! decide    the question would be flooded
//! read      an ARP request (RFC 826) or a neighbour solicitation (RFC 4861), whole and of an ordinary asker     question
//! look up   the table has the address, and frames to its station may leave from here
//! answer    as the station itself would, by the port of the asker                                          question
//! ```
//! All else is flooded as ever: questions for addresses that are not on record, and what is no question but news for
//! everybody: gratuitous ARP, unsolicited advertisements. Duplicate address detection (RFC 5227, RFC 4862) is flooded as
//! well: only the station itself knows whether it has the address, and a record that is late would take the address from the
//! station that has just moved here. Questions that come out of a tunnel were not answered by the host they come from, and
//! are not answered here either.
//!
//! Networks without such a table pay nothing, the others a look at frames that would be flooded.

mod announce;
mod question;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{PoisonError, RwLock},
};

pub use announce::announcement;
pub(crate) use question::{Question, answer};

use crate::addr::{MacAddr, NetworkId};

/// The IP addresses of known stations, by network. Shared by the workers, which never wait for it.
#[derive(Debug, Default)]
pub struct Neighbours(RwLock<HashMap<(NetworkId, IpAddr), MacAddr>>);

impl Neighbours {
    /// The station of `network` that has `address`. Waits for a writer.
    pub fn get(&self, network: NetworkId, address: IpAddr) -> Option<MacAddr> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.get(&(network, address)).copied()
    }

    /// The same for a worker. While the table is being changed no station is found: the question is flooded, which is right too.
    pub(crate) fn try_get(&self, network: NetworkId, address: IpAddr) -> Option<MacAddr> {
        self.0.try_read().ok()?.get(&(network, address)).copied()
    }

    /// Applies changes, all at once: `None` removes an address.
    pub fn change(&self, changes: impl IntoIterator<Item = ((NetworkId, IpAddr), Option<MacAddr>)>) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (address, station) in changes {
            match station {
                Some(mac) => drop(table.insert(address, mac)),
                None => drop(table.remove(&address)),
            }
        }
    }

    /// All addresses, in no order.
    pub fn addresses(&self) -> Vec<(NetworkId, IpAddr)> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Number of addresses.
    pub fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
