//! The link between two hosts, over which tunnels go.
//!
//! Between namespaces of one machine a veth pair passes super-frames uncut, so the measurement is an exchange of
//! references. That resembles two virtual machines on one server, but not a wire, where every packet travels
//! separately. So tunnels are measured on both: on a plain veth pair, and on one that segments on transmit, whose other
//! end coalesces like the kernel does with packets from a network card (GRO).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use crate::{
    error::{Doing, Result},
    lab::{MTU, Namespace},
    process::run,
};

/// The interface of a host towards the other.
pub const INTERFACE: &str = "underlay";

/// Treatment of super-frames by the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// They stay whole.
    Veth,
    /// They are segmented, as for a network card without tunnel offloads.
    Wire,
}

/// The protocol of the outer headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A link between two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Its treatment of super-frames.
    pub link: Link,
    /// The protocol of the outer headers.
    pub family: Family,
}

impl Underlay {
    /// All links, in the order of the table.
    pub const ALL: [Self; 4] = [
        Self { link: Link::Wire, family: Family::V4 },
        Self { link: Link::Veth, family: Family::V4 },
        Self { link: Link::Wire, family: Family::V6 },
        Self { link: Link::Veth, family: Family::V6 },
    ];

    /// Bytes that VXLAN puts before an inner packet, its Ethernet header included.
    pub fn overhead(self) -> u16 {
        match self.family {
            Family::V4 => 20 + 8 + 8 + 14,
            Family::V6 => 40 + 8 + 8 + 14,
        }
    }

    /// Connects two hosts, and returns the end of each.
    ///
    /// # Errors
    /// Fails when `ip` or `ethtool` do.
    pub fn join(self, first: &Namespace, second: &Namespace) -> Result<[Uplink; 2]> {
        let peer = second.name();
        first.ip(&format!("link add {INTERFACE} type veth peer name {INTERFACE} netns {peer}"))?;
        let [one, two] = [1, 2].map(|last| self.address(last));
        let uplinks =
            [(one, two), (two, one)].map(|(local, remote)| Uplink { underlay: self, local, remote });
        for (host, uplink) in [first, second].into_iter().zip(uplinks) {
            if self.link == Link::Wire {
                let features = ["tso", "off", "gso", "off", "tx-udp-segmentation", "off", "gro", "on"];
                run(host.command("ethtool").args(["-K", INTERFACE]).args(features))?;
            }
            host.ip(&format!("link set {INTERFACE} mtu {MTU} up"))?;
            uplink.configure(host, INTERFACE)?;
        }
        Ok(uplinks)
    }

    fn address(self, last: u8) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::new(10, 98, 0, last).into(),
            Family::V6 => Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, last.into()).into(),
        }
    }
}

/// A host's end of the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The link.
    pub underlay: Underlay,
    /// The host's own address.
    pub local: IpAddr,
    /// The other host's.
    pub remote: IpAddr,
}

impl Uplink {
    /// Gives `interface` the host's address on the underlay.
    ///
    /// # Errors
    /// Fails when `ip` does.
    pub fn configure(self, host: &Namespace, interface: &str) -> Result<()> {
        let local = self.local;
        match self.underlay.family {
            Family::V4 => host.ip(&format!("address add {local}/24 dev {interface}"))?,
            Family::V6 => {
                // Namespaces are created with IPv6 off.
                let setting = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
                host.enter(|| std::fs::write(setting, "0"))?.doing("switch IPv6 on")?;
                host.ip(&format!("address add {local}/64 dev {interface} nodad"))?
            }
        };
        Ok(())
    }
}

impl fmt::Display for Underlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.link, self.family) {
            (Link::Wire, Family::V4) => "wire4",
            (Link::Veth, Family::V4) => "veth4",
            (Link::Wire, Family::V6) => "wire6",
            (Link::Veth, Family::V6) => "veth6",
        })
    }
}

impl FromStr for Underlay {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let known = Self::ALL.into_iter().find(|underlay| underlay.to_string() == name);
        known.ok_or_else(|| {
            format!("`{name}` is none of {}", Self::ALL.map(|known| known.to_string()).join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for underlay in Underlay::ALL {
            assert_eq!(underlay.to_string().parse(), Ok(underlay));
        }
        assert!("wire5".parse::<Underlay>().unwrap_err().contains("wire4, veth4"));
    }
}
