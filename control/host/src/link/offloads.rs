//! Turns off, on an interface, offloads that a virtio header cannot describe.
//!
//! Frames of a veth pair are read through AF_PACKET behind a `virtio_net_hdr`, which describes super-frames of TCP and UDP and
//! an Internet checksum, and no more: the segments of a tunnel inside a container (VXLAN, GRE, IP in IP) and SCTP with its own
//! checksum come out of it misdescribed, or are lost with `EINVAL` (`virtio_net_hdr_from_skb`, include/linux/virtio_net.h).
//! Without these features the sender's kernel finishes such packets itself before they leave the interface.
//!
//! The features are set by name (`ETHTOOL_MSG_FEATURES_SET`, Documentation/networking/ethtool-netlink.rst). `rtnetlink` speaks
//! only to the family of routes, so the two messages are written here.

use std::{io, time::Duration};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::Links;
use crate::netns::run_in;

/// The features, by the names of net/ethtool/common.c. All kernels that have ethtool's netlink family know them.
const UNDESCRIBED: &[&str] = &[
    "tx-udp_tnl-segmentation",
    "tx-udp_tnl-csum-segmentation",
    "tx-gre-segmentation",
    "tx-gre-csum-segmentation",
    "tx-ipxip4-segmentation",
    "tx-ipxip6-segmentation",
    "tx-esp-segmentation",
    "tx-tunnel-remcsum-segmentation",
    "tx-sctp-segmentation",
    "tx-checksum-sctp",
    "tx-gso-list",
];

/// How long the kernel may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

// include/uapi/linux/netlink.h, genetlink.h and ethtool_netlink.h.
const AF_NETLINK: i32 = 16;
const NETLINK_GENERIC: i32 = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const NLA_F_NESTED: u16 = 0x8000;
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
const ETHTOOL_A_HEADER_FLAGS: u16 = 3;
const ETHTOOL_FLAG_OMIT_REPLY: u32 = 2;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;

/// `struct nlmsghdr` and `struct genlmsghdr`.
const HEADERS: usize = 16 + 4;

impl Links {
    /// Turns off what a virtio header does not describe on `ifname`. Idempotent.
    ///
    /// # Errors
    /// The interface is gone, there is no right to change it, or the kernel is older than 5.7 or built without
    /// `CONFIG_ETHTOOL_NETLINK`.
    pub(super) fn limit_offloads(&self, ifname: &str) -> io::Result<()> {
        run_in(&self.namespace, || Ethtool::open()?.turn_off(ifname, UNDESCRIBED))?
    }
}

/// The `ethtool` family of generic netlink.
struct Ethtool {
    socket: Socket,
    family: u16,
}

impl Ethtool {
    /// Opens it in the calling thread's network namespace.
    fn open() -> io::Result<Self> {
        let socket =
            Socket::new(Domain::from(AF_NETLINK), Type::DGRAM, Some(Protocol::from(NETLINK_GENERIC)))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut ethtool = Self { socket, family: GENL_ID_CTRL };
        let name = attribute(CTRL_ATTR_FAMILY_NAME, b"ethtool\0");
        let answer = ethtool.ask(CTRL_CMD_GETFAMILY, 0, &name)?;
        let family = attributes(&answer).find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID);
        let family = family.and_then(|(_, value)| value.first_chunk().copied()).ok_or(Errno::PROTO)?;
        ethtool.family = u16::from_ne_bytes(family);
        Ok(ethtool)
    }

    /// Turns `features` of `ifname` off.
    fn turn_off(&self, ifname: &str, features: &[&str]) -> io::Result<()> {
        let header = [
            attribute(ETHTOOL_A_HEADER_DEV_NAME, &[ifname.as_bytes(), &[0]].concat()),
            attribute(ETHTOOL_A_HEADER_FLAGS, &ETHTOOL_FLAG_OMIT_REPLY.to_ne_bytes()),
        ];
        // A named bit without ETHTOOL_A_BITSET_BIT_VALUE is one to clear.
        let bits = features.iter().map(|name| {
            let name = attribute(ETHTOOL_A_BITSET_BIT_NAME, &[name.as_bytes(), &[0]].concat());
            nest(ETHTOOL_A_BITSET_BITS_BIT, &name)
        });
        let bits = nest(ETHTOOL_A_BITSET_BITS, &bits.collect::<Vec<_>>().concat());
        let message =
            [nest(ETHTOOL_A_FEATURES_HEADER, &header.concat()), nest(ETHTOOL_A_FEATURES_WANTED, &bits)];
        self.ask(ETHTOOL_MSG_FEATURES_SET, NLM_F_ACK, &message.concat()).map(drop)
    }

    /// Sends one request, and returns the attributes of the answer; an acknowledgement has none.
    fn ask(&self, command: u8, flags: u16, attributes: &[u8]) -> io::Result<Vec<u8>> {
        let len = u32::try_from(HEADERS + attributes.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADERS + attributes.len());
        message.extend(len.to_ne_bytes());
        message.extend(self.family.to_ne_bytes());
        message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        // Sequence number and sender, which the kernel fills in; command and version.
        message.extend([0; 8]);
        message.extend([command, 1, 0, 0]);
        message.extend(attributes);
        self.socket.send(&message)?;
        let mut answer = vec![0; 16 << 10];
        let received = io::Read::read(&mut &self.socket, &mut answer)?;
        answer.truncate(received);
        let kind = answer.get(4..6).ok_or(Errno::PROTO)?;
        if kind == NLMSG_ERROR.to_ne_bytes() {
            let code = answer.get(16..).and_then(|rest| rest.first_chunk().copied()).ok_or(Errno::PROTO)?;
            return match i32::from_ne_bytes(code) {
                0 => Ok(Vec::new()),
                code => Err(io::Error::from_raw_os_error(-code)),
            };
        }
        Ok(answer.get(HEADERS..).ok_or(Errno::PROTO)?.to_vec())
    }
}

/// An attribute: length, kind and value, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).expect("some hundred bytes of names");
    let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute of attributes.
fn nest(kind: u16, attributes: &[u8]) -> Vec<u8> {
    attribute(kind | NLA_F_NESTED, attributes)
}

/// The attributes in `bytes`: kind and value of each, up to the first that is cut short.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1] = *bytes.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & !NLA_F_NESTED, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_read_back() {
        let bytes =
            [attribute(2, b"ethtool\0"), attribute(1, &[7, 0]), nest(3, &attribute(9, b"x"))].concat();
        assert_eq!(bytes.len(), 12 + 8 + 12);
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read[..2], [(2, &b"ethtool\0"[..]), (1, &[7, 0])]);
        assert_eq!(attributes(read[2].1).collect::<Vec<_>>(), [(9, &b"x"[..])]);
        for len in 0..bytes.len() {
            assert!(attributes(&bytes[..len]).count() <= 3, "{len}");
        }
        assert_eq!(attributes(&[3, 0, 0, 0, 0]).count(), 0, "shorter than itself");
    }
}
