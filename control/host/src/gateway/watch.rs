//! What others change of nftables, as the kernel tells it (`nft monitor`).
//!
//! Each transaction is told by a message for each of its objects, and one in the end with the process that made it
//! (`nft_commit_notify`, `nf_tables_gen_notify`, net/netfilter/nf_tables_api.c). All are marked with the number of the socket that
//! it was requested by: our own are told from those of others by the number of the nft(8) that we ran.

use std::{collections::HashSet, mem};

use rustix::net::netlink;

use vswitch_model::sentence::printable;

use super::rules::TABLE;
use crate::netlink::{Message, Monitor, attributes};

// include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h.
const GROUP: u32 = 1 << 6; // NFNLGRP_NFTABLES
const SUBSYSTEM: u16 = 10; // NFNL_SUBSYS_NFTABLES
const NEW_GENERATION: u16 = 15; // NFT_MSG_NEWGEN
const FAMILY: u8 = 1; // NFPROTO_INET
/// The table's name, in the messages of all kinds of objects.
const NAME_OF_TABLE: u16 = 1;
const PROCESS: u16 = 2; // NFTA_GEN_PROC_PID
const NAME_OF_PROCESS: u16 = 3; // NFTA_GEN_PROC_NAME
/// Length of nfgenmsg.
const HEAD: usize = 4;

/// Hears of changes from its first use on.
#[derive(Debug, Default)]
pub(super) struct Watch {
    monitor: Option<Monitor>,
    /// The numbers of our own transactions since the last look.
    own: HashSet<u32>,
}

/// What others have changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// Who changed our table; of several the last.
    pub(super) ours: Option<String>,
    /// Whether anything may have been changed at all.
    pub(super) anything: bool,
}

impl Watch {
    /// Begins to hear in the calling thread's network namespace, if it does not yet.
    pub(super) fn begin(&mut self) {
        if self.monitor.is_none() {
            // Without it, each look says that anything may have been changed.
            self.monitor = Monitor::open(Some(netlink::NETFILTER), GROUP).ok();
        }
    }

    /// Notes a transaction of our own: the process id of its nft(8).
    pub(super) fn expect(&mut self, own: u32) {
        self.own.insert(own);
    }

    /// What was changed since the last look.
    pub(super) fn look(&mut self) -> Changed {
        let own = mem::take(&mut self.own);
        let Some(monitor) = &self.monitor else { return Changed { ours: None, anything: true } };
        let mut reader = Reader::default();
        let all = monitor.heard(|message| {
            if !own.contains(&message.port) {
                reader.read(message);
            }
        });
        if all.is_err() {
            self.monitor = None;
        }
        Changed { ours: reader.ours, anything: reader.anything || !matches!(all, Ok(true)) }
    }
}

#[derive(Debug, Default)]
struct Reader {
    /// Whether the transaction that is being read has an object of our table.
    is_ours: bool,
    ours: Option<String>,
    anything: bool,
}

impl Reader {
    fn read(&mut self, message: Message<'_>) {
        let [subsystem, kind] = [message.kind >> 8, message.kind & 0xff];
        let Some((head, body)) = message.body.split_at_checked(HEAD).filter(|_| subsystem == SUBSYSTEM)
        else {
            return;
        };
        self.anything = true;
        if kind == NEW_GENERATION {
            if mem::take(&mut self.is_ours) {
                self.ours = Some(author(body));
            }
            return;
        }
        let table = attributes(body).find(|(kind, _)| *kind == NAME_OF_TABLE);
        let is_named_ours = |name: &[u8]| name.strip_suffix(b"\0") == Some(TABLE.as_bytes());
        self.is_ours |= head[0] == FAMILY && table.is_some_and(|(_, name)| is_named_ours(name));
    }
}

/// Who made a transaction.
fn author(generation: &[u8]) -> String {
    let value = |wanted| attributes(generation).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let process = value(PROCESS).and_then(<[u8]>::first_chunk).map(|pid| u32::from_be_bytes(*pid));
    let name = value(NAME_OF_PROCESS).unwrap_or_default();
    let name = String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name)).into_owned();
    match process {
        Some(pid) if !name.is_empty() => format!("{} (process {pid})", printable(&name)),
        _ => "another program".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attribute;

    fn object(kind: u16, family: u8, table: &str) -> (u16, Vec<u8>) {
        let name = [table.as_bytes(), b"\0"].concat();
        (SUBSYSTEM << 8 | kind, [vec![family, 0, 0, 0], attribute(NAME_OF_TABLE, &name)].concat())
    }

    fn generation(pid: u32, name: &str) -> (u16, Vec<u8>) {
        let name = [name.as_bytes(), b"\0"].concat();
        let own = [attribute(1, &[0, 0, 0, 9]), attribute(PROCESS, &pid.to_be_bytes())].concat();
        let body = [vec![0; 4], own, attribute(NAME_OF_PROCESS, &name)].concat();
        (SUBSYSTEM << 8 | NEW_GENERATION, body)
    }

    fn heard(messages: &[(u16, Vec<u8>)]) -> Changed {
        let mut reader = Reader::default();
        for (kind, body) in messages {
            reader.read(Message { port: 7, kind: *kind, body });
        }
        Changed { ours: reader.ours, anything: reader.anything }
    }

    #[test]
    fn a_change_of_our_table_is_told_with_who_made_it() {
        let changed = heard(&[object(8, FAMILY, "vswitch"), generation(4711, "nft")]);
        assert_eq!(changed, Changed { ours: Some("nft (process 4711)".into()), anything: true });
        // Tables of others, be it of the same name.
        let others = [object(8, FAMILY, "vswitch2"), object(8, 2, "vswitch"), generation(1, "iptables")];
        assert_eq!(heard(&others), Changed { ours: None, anything: true });
        // One after the other: the second changes ours.
        let both =
            [object(8, FAMILY, "filter"), generation(1, "a"), object(14, FAMILY, TABLE), generation(2, "b")];
        assert_eq!(heard(&both).ours, Some("b (process 2)".into()));
        assert_eq!(heard(&[(SUBSYSTEM << 8, vec![1])]), Changed::default(), "cut short");
        assert_eq!(heard(&[(7 << 8, vec![0; 8])]), Changed::default(), "another subsystem");
    }
}
