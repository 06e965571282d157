//! Drop reasons: a closed list, each with a name and a sentence that says what to do.
//!
//! Names follow the kernel's `enum skb_drop_reason` (include/net/dropreason-core.h) where it has one. A frame
//! that is not delivered is not an error of the switch: it has exactly one reason and is counted once.

use std::fmt;

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $hint:literal;)*) => {
        /// The reason why a frame was not delivered.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $variant,)* }

        impl DropReason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name, as printed in counters, logs and the API.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Its meaning, and what an operator can do about it.
            pub fn hint(self) -> &'static str {
                match self { $(Self::$variant => $hint,)* }
            }
        }
    };
}

drop_reasons! {
    // Ingress.
    /// Shorter than an Ethernet header, than the tag it announces or, from a tunnel, than its IP header.
    PktTooSmall = "PKT_TOO_SMALL", "shorter than its Ethernet header, or, from a tunnel, than its IP header: the sender makes broken frames";
    /// The offload header contradicts the frame.
    DevHdr = "DEV_HDR", "its offload header does not fit the frame: the port offers what virtio cannot tell (tunnels, SCTP); at the interface that sends, `ethtool -K eth0 tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off tx-gre-segmentation off tx-gre-csum-segmentation off tx-ipxip4-segmentation off tx-ipxip6-segmentation off tx-sctp-segmentation off tx-checksum-sctp off tx-gso-list off`";
    /// The source address is a group or zero.
    MacInvalidSource = "MAC_INVALID_SOURCE", "its source is a group or zero address: the sender makes broken frames";
    /// Sent to 01:80:C2:00:00:0X, which a bridge does not forward.
    LinkLocalGroup = "LINK_LOCAL_GROUP", "sent to 01:80:c2:00:00:0x (pause, LACP, LLDP; BPDUs where the mask leaves them out): set switch.group_forward_mask to pass it on";
    /// Tagged with a VLAN that the port does not carry.
    VlanNotAllowed = "VLAN_NOT_ALLOWED", "tagged with a VLAN this port does not carry, or with a tag that is payload: add its network to the port's trunk, or let its network pass tags (tags = \"pass\")";
    /// Untagged on a trunk without a native network.
    VlanUntagged = "VLAN_UNTAGGED", "untagged on a trunk without native network: set the port's native network";
    /// Sent by a port that mirrors others.
    MirrorOnly = "MIRROR_ONLY", "sent by a port that only gets copies of others' frames: what watches there needs another port to talk by";
    /// No VXLAN header, or one without a VNI.
    VxlanInvalidHdr = "VXLAN_INVALID_HDR", "not VXLAN: something else sends to the tunnel's UDP port, or vxlan.strict refuses reserved bits";
    /// The header says that no Ethernet frame follows.
    VxlanNotEthernet = "VXLAN_NOT_ETHERNET", "VXLAN-GPE, or a message of operations and maintenance, and no frame that a station sent: let the peer's tunnel send plain VXLAN (RFC 7348)";
    /// The sender is not a peer.
    VxlanPeerUnknown = "VXLAN_PEER_UNKNOWN", "its sender is not a peer: add it, or check whether a peer sends from another of its addresses";
    /// The sender is about to become a peer.
    VxlanPeerNew = "VXLAN_PEER_NEW", "arrived before its sender was taken in as a peer (vxlan.learn_peers): the sender repeats what matters";
    /// The VNI belongs to no network that this peer carries.
    VxlanVniNotFound = "VXLAN_VNI_NOT_FOUND", "its VNI is of no network that this peer carries: give a network that vni, or add it to the peer's networks";
    /// Marked as congested in the underlay, but the inner transport does not support ECN.
    IpTunnelEcn = "IP_TUNNEL_ECN", "marked congested on the way by a router, but its sender knows no ECN (RFC 6040): find the congested link";
    /// Sent from an address that belongs to the station of another port.
    LocalMac = "LOCAL_MAC", "its source address belongs to another port, of a gateway or a guarded station, or it came from a tunnel and is pinned: its sender is hostile, two stations have one address, or there is a loop";
    /// A guarded station sends from a MAC address that it does not have.
    GuardMac = "GUARD_MAC", "its source MAC address is not that of its port's station: if it may be, add it to the port's guard = { also = [\"02:…\"] }, or connect with -o guard.also=MAC; guard=off lets all pass";
    /// A guarded station sends from an IP address that it does not have.
    GuardIp = "GUARD_IP", "its source IP address is not that of its port's station: if it may be, add it or its subnet to the port's guard = { also = [\"10.9.0.100\"] }, or connect with -o guard.also=ADDRESS; guard=off lets all pass";
    /// A guarded station claims an address by ARP that it does not have.
    GuardArp = "GUARD_ARP", "claims an address by ARP that is not its port's station's: if it may be, add the IP or MAC address to the port's guard = { also = [\"10.9.0.100\"] }, or connect with -o guard.also=ADDRESS; guard=off lets all pass";
    /// A guarded station claims an address by neighbour discovery that it does not have.
    GuardNd = "GUARD_ND", "claims an address by IPv6 neighbour discovery that is not its port's station's: if it may be, add the IP or MAC address to the port's guard = { also = [\"fd00:9::100\"] }, or connect with -o guard.also=ADDRESS; guard=off lets all pass";
    /// A guarded station says that it is a router, or hides what it says.
    GuardRa = "GUARD_RA", "a router's advertisement or redirect, or headers that could hide one, from a station that is no router: if it is one, set guard = false at its port, or connect with -o guard=off";
    /// A guarded station answers as a DHCP server.
    GuardDhcp = "GUARD_DHCP", "a DHCP server's message, from a station that is none: if it is one, set guard = false at its port, or connect with -o guard=off";
    /// Exceeds the port's ingress rate limit.
    LimitRx = "LIMIT_RX", "above the rate that its port may send at: TCP slows down by that, others lose; raise limit.rx if it is too low";
    /// Exceeds the port's limit for broadcast frames.
    StormBroadcast = "STORM_BROADCAST", "above the port's broadcast limit: find the loop or raise storm.broadcast";
    /// Exceeds the port's limit for multicast frames.
    StormMulticast = "STORM_MULTICAST", "above the port's multicast limit: find the sender or raise storm.multicast";
    /// Exceeds the port's limit for frames to unknown stations.
    StormUnknown = "STORM_UNKNOWN", "above the port's limit of frames to unknown addresses: find the scanner or raise storm.unknown";
    /// Sent to services, but none of this host has the address.
    ServiceUnknown = "SERVICE_UNKNOWN", "sent to the MAC address of services, but no service of the network has its IP address here: it was removed a moment ago, or its client is behind a tunnel; see `vswitchctl service ls`";
    /// Sent to a service without a backend that takes it.
    ServiceNoBackend = "SERVICE_NO_BACKEND", "its service has no backend, and its sender is told so: connect one with `network connect --service`, or see `vswitchctl service ps` for why none is ready";
    /// Of a connection whose backend is gone.
    ServiceBackendGone = "SERVICE_BACKEND_GONE", "its connection's backend has left the service, and its sender is told so: clients connect again and get another; drain backends before they leave with `service update --drain`";
    /// Sent to a service, but neither TCP nor UDP nor a ping.
    ServiceProtocol = "SERVICE_PROTOCOL", "sent to a service, which serves TCP and UDP and answers pings: send other protocols to a backend's own address";
    /// A fragment for a service whose packet's first fragment did not come before.
    ServiceFragment = "SERVICE_FRAGMENT", "a fragment to a service without the first of its packet before it, which has the ports: packets were lost or reordered; smaller datagrams need no fragments";
    /// Flooded to many ports by a port of which too many frames wait for that already.
    FloodBacklog = "FLOOD_BACKLOG", "flooded to hundreds of ports faster than these can be served, and too many such frames of its port wait already: find the sender, or limit it by storm.broadcast and storm.multicast";
    /// Waited to be flooded to many ports, and its own port is gone or has left the network.
    FloodGone = "FLOOD_GONE", "it waited to be flooded to hundreds of ports while its own port was closed or left the network: whoever still wants an answer asks again";
    // Lookup.
    /// The destination is behind the ingress port.
    SamePort = "SAME_PORT", "its destination is behind the port it came from: it needs no switch, or a MAC is used twice";
    /// Both ports are isolated.
    PortIsolated = "PORT_ISOLATED", "both ends are isolated ports, or containers of a network with icc=false, where other hosts' containers are isolated as well: clear isolated, or set icc=true, to let them talk";
    /// Both ports belong to one split-horizon group.
    SplitHorizon = "SPLIT_HORIZON", "it came from a tunnel and would leave by a tunnel: the sender's host must send it there itself";
    /// The destination was learned on a port that no longer carries the network.
    PortGone = "PORT_GONE", "the port its destination was learned on has left the network: it is learned again with the next frame from there";
    /// The network has no other port to flood to.
    NoReceiver = "NO_RECEIVER", "the network has no other port: attach one";
    // Egress; counted on the egress port.
    /// Longer than the egress port carries.
    PktTooBig = "PKT_TOO_BIG", "longer than the egress port's MTU: give all ports of the network the same MTU, over a tunnel the overlay's; packets that may be fragmented cross a tunnel in fragments with fragment = true on the network";
    /// Too short for its IP header, where that must be read: on the way into a tunnel.
    IpInHdr = "IP_INHDR", "ends within its IP header, which a tunnel must read: the sender makes broken frames";
    /// A mirror copy that is itself an encapsulated copy for the same collector.
    MirrorLoop = "MIRROR_LOOP", "a copy on its way to the collector that it is for: what is mirrored is the way to the collector; mirror other ports, or lead it elsewhere";
    /// Exceeds the port's egress rate limit.
    LimitTx = "LIMIT_TX", "above the rate that the egress port may be sent at: TCP slows down by that, others lose; raise limit.tx if it is too low";
    /// The egress device is down or gone.
    DevReady = "DEV_READY", "the egress device is down or gone: set its link up, or see its port for the cause";
    /// The egress device's queue is full.
    FullRing = "FULL_RING", "the egress device's queue is full: the receiver is slower than the sender";
    /// The host has no route to the other end of the tunnel.
    IpOutNoRoutes = "IP_OUTNOROUTES", "the host has no route to the other end: see `ip route get` with its address";
    /// The egress device rejected the frame.
    DevTxError = "DEV_TX_ERROR", "the egress device refused the frame: see the port's last error";
}

impl DropReason {
    /// Number of reasons: the length of an array indexed by reason.
    pub const COUNT: usize = Self::ALL.len();

    /// Whether it is an egress reason, counted on the egress port.
    pub fn is_egress(self) -> bool {
        self >= Self::PktTooBig
    }

    /// Whether it is that of a port's guard.
    pub fn is_guard(self) -> bool {
        (Self::GuardMac..=Self::GuardDhcp).contains(&self)
    }

    /// Whether the sender of a frame to a service is told that nothing takes it.
    pub(crate) fn is_told(self) -> bool {
        matches!(self, Self::ServiceUnknown | Self::ServiceNoBackend | Self::ServiceBackendGone)
    }

    /// The reason as an array index.
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_hints_are_sentences() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(reason.hint().len() > 20, "{reason}");
        }
    }
}
