//! Datagrams that the kernel dropped at the inlets, by reason: a socket has one count for datagrams that did not
//! fit its buffer and for those with a wrong checksum.
//!
//! `SK_MEMINFO_DROPS` and `SO_RXQ_OVFL` are that one count (`sk_drops`). The reason is only counted for the whole
//! network namespace: `InCsumErrors` of Udp in /proc/net/snmp, `Udp6InCsumErrors` in /proc/net/snmp6. As many of
//! the sockets' drops are attributed to checksums as there were such errors since the last reading. If other
//! sockets of the host receive wrong checksums while an inlet's buffer is full, some of its drops are counted as
//! damaged; each drop is counted once.

use std::{fs, net::IpAddr};

/// Datagrams that were dropped before they could be received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// The inlet's buffer was full.
    pub overflow: u64,
    /// The outer UDP checksum was wrong.
    pub damaged: u64,
}

/// The counts of the last reading.
#[derive(Debug)]
pub(crate) struct Losses {
    /// Drops of the sockets for any reason.
    dropped: u64,
    /// Wrong checksums in the namespace.
    errors: u64,
    /// Errors of the last reading without a matching drop: the two are not read at the same time.
    unmatched: u64,
    lost: Lost,
}

impl Losses {
    /// Nothing is lost; the namespace has counted `errors` before.
    pub(crate) fn new(errors: u64) -> Self {
        Self { dropped: 0, errors, unmatched: 0, lost: Lost::default() }
    }

    /// Updates the losses with the current counts.
    pub(crate) fn update(&mut self, dropped: u64, errors: u64) -> Lost {
        let lost = dropped.saturating_sub(self.dropped);
        let fresh = errors.saturating_sub(self.errors);
        let damaged = lost.min(fresh + self.unmatched);
        self.unmatched = fresh.saturating_sub(damaged);
        (self.dropped, self.errors) = (dropped, errors);
        self.lost.damaged += damaged;
        self.lost.overflow += lost - damaged;
        self.lost
    }
}

/// Number of datagrams with wrong checksums in the calling thread's network namespace, of the family of `local`;
/// 0 if the kernel does not report it.
pub(crate) fn checksum_errors(local: IpAddr) -> u64 {
    let (path, count): (_, fn(&str) -> Option<u64>) = match local {
        IpAddr::V4(_) => ("/proc/thread-self/net/snmp", in_snmp),
        IpAddr::V6(_) => ("/proc/thread-self/net/snmp6", in_snmp6),
    };
    fs::read_to_string(path).ok().and_then(|text| count(&text)).unwrap_or(0)
}

/// Format: a line of names and one of values, each starting with the protocol.
fn in_snmp(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|name| name == "InCsumErrors")?;
    values.split(' ').nth(at)?.parse().ok()
}

/// Format: a name and a value per line.
fn in_snmp6(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp6InCsumErrors"));
    lines.next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_buffers_and_wrong_checksums_are_distinguished() {
        let mut losses = Losses::new(100);
        assert_eq!(losses.update(0, 100), Lost::default());
        assert_eq!(losses.update(20, 120), Lost { overflow: 0, damaged: 20 });
        assert_eq!(losses.update(50, 120), Lost { overflow: 30, damaged: 20 });
        assert_eq!(
            losses.update(50, 125),
            Lost { overflow: 30, damaged: 20 },
            "another socket's, or read before the drop"
        );
        assert_eq!(losses.update(55, 125), Lost { overflow: 30, damaged: 25 });
        assert_eq!(losses.update(65, 125), Lost { overflow: 40, damaged: 25 }, "no error is counted twice");
    }

    #[test]
    fn the_kernels_own_words() {
        let snmp = "Icmp: InMsgs\nIcmp: 1\n\
            Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\n\
            Udp: 9 8 7 6 5 4 20 2 1\nUdpLite: InCsumErrors\nUdpLite: 3\n";
        assert_eq!(in_snmp(snmp), Some(20));
        let snmp6 = "Udp6RcvbufErrors                \t5\nUdp6InCsumErrors                \t21\n";
        assert_eq!(in_snmp6(snmp6), Some(21));
        assert_eq!((in_snmp(""), in_snmp6("")), (None, None));
    }
}
