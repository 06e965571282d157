//! Turns off, on an interface, offloads that a virtio header cannot describe.
//!
//! Frames of a veth pair are read through AF_PACKET behind a `virtio_net_hdr`, which describes super-frames of TCP and UDP and
//! an Internet checksum, and no more: the segments of a tunnel inside a container (VXLAN, GRE, IP in IP) and SCTP with its own
//! checksum come out of it misdescribed, or are lost with `EINVAL` (`virtio_net_hdr_from_skb`, include/linux/virtio_net.h).
//! Without these features the sender's kernel finishes such packets itself before they leave the interface.
//!
//! The features are set by name (`ETHTOOL_MSG_FEATURES_SET`, Documentation/networking/ethtool-netlink.rst).

use std::{io, ops::ControlFlow};

use netlink_packet_core::NLM_F_ACK;
use rustix::{io::Errno, net::netlink};

use super::Links;
use crate::{
    netlink::{Socket, attribute, attributes, nest},
    netns::run_in,
};

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

// include/uapi/linux/genetlink.h and ethtool_netlink.h.
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
        let socket = Socket::open(netlink::GENERIC)?;
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
    fn ask(&self, command: u8, flags: u16, request: &[u8]) -> io::Result<Vec<u8>> {
        // genlmsghdr: command, version.
        self.socket.send(self.family, flags, [command, 1, 0, 0], request)?;
        let mut answer = Vec::new();
        self.socket.answers(|_, body| {
            answer.extend(body.get(4..).unwrap_or_default());
            ControlFlow::Break(())
        })?;
        Ok(answer)
    }
}
