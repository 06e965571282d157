//! Which interfaces change, as the kernel tells it (`ip monitor link address`).

#![expect(unsafe_code, reason = "to register a descriptor with the runtime has no safe form")]

use std::{collections::BTreeSet, future::pending};

use nix::net::if_::if_nametoindex;
use tokio::io::unix::AsyncFd;

use crate::netlink::{Message, Monitor};

// include/uapi/linux/rtnetlink.h.
const GROUPS: u32 = 0x1 | 0x10 | 0x100; // RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
const KINDS: [u16; 4] = [16, 17, 20, 21]; // RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR

/// Hears of changes of interfaces and their addresses in one namespace.
#[derive(Debug)]
pub struct Watch(Option<Monitor>);

impl Watch {
    /// Begins to hear in the calling thread's network namespace.
    pub fn begin() -> Self {
        Self(Monitor::open(None, GROUPS).ok())
    }

    /// What has changed since the last call, by whomever.
    pub fn changed(&mut self) -> Changes {
        self.0.as_ref().map_or(Changes(None), Changes::read)
    }
}

/// Hears the same at once.
#[derive(Debug)]
pub struct LiveWatch(Option<AsyncFd<Monitor>>);

impl LiveWatch {
    /// Begins to hear in the calling thread's network namespace, within a runtime.
    pub fn begin() -> Self {
        let monitor = Monitor::open(None, GROUPS).ok();
        // SAFETY: a monitor has one descriptor, and keeps it open as long as it lives.
        Self(monitor.and_then(|monitor| unsafe { AsyncFd::register(monitor) }.ok()))
    }

    /// Hears nothing.
    pub fn none() -> Self {
        Self(None)
    }

    /// Waits for changes.
    pub async fn changed(&self) -> Changes {
        let Some(monitor) = &self.0 else { return pending().await };
        let Ok(mut ready) = monitor.readable().await else { return pending().await };
        let changes = Changes::read(monitor.get_ref());
        ready.clear_ready();
        changes
    }
}

/// Interfaces by number; `None`: it is unknown which.
#[derive(Debug)]
pub struct Changes(Option<BTreeSet<u32>>);

impl Changes {
    fn read(monitor: &Monitor) -> Self {
        let mut changed = BTreeSet::new();
        let heard = monitor.heard(|message| changed.extend(index(message)));
        Self(matches!(heard, Ok(true)).then_some(changed))
    }

    /// Whether the interface with this number may have changed.
    pub fn has_number(&self, number: u32) -> bool {
        self.0.as_ref().is_none_or(|changed| changed.contains(&number))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_some_and(BTreeSet::is_empty)
    }

    /// Whether an interface of the calling thread's namespace may have changed; one that is gone has not.
    pub fn has(&self, ifname: &str) -> bool {
        let index = if_nametoindex(ifname).ok();
        index.is_some_and(|index| self.0.as_ref().is_none_or(|changed| changed.contains(&index)))
    }
}

/// The interface of a message: in ifinfomsg as in ifaddrmsg it is the second word.
fn index(message: Message<'_>) -> Option<u32> {
    let word = message.body.get(4..8).filter(|_| KINDS.contains(&message.kind))?;
    Some(u32::from_ne_bytes(*word.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_addresses_name_their_interface() {
        let body = [&[2, 24, 0, 0][..], &7_u32.to_ne_bytes(), &[0; 8]].concat();
        for (kind, expected) in [(16, Some(7)), (21, Some(7)), (24, None)] {
            assert_eq!(index(Message { port: 0, kind, body: &body }), expected, "{kind}");
        }
        assert_eq!(index(Message { port: 0, kind: 16, body: &body[..7] }), None);
    }
}
