//! Who may talk to whom: networks, ports and the paths between them.
//!
//! Built and checked when the configuration changes, then only indexed. Two questions are asked for each
//! frame: [`Topology::classify`] (which network is it in?) and [`Topology::reach`] (by which ports may
//! it leave?). A topology never changes; workers are handed a new one between two turns.

use std::{fmt, num::NonZeroU16};

use crate::{
    addr::{NetworkId, PortId, VlanId},
    drops::DropReason,
    limit::{Limit, Limits},
    wire::frame::{ETHERNET_HEADER, Frame, TAG, Tag},
};

/// The octets an IP packet may have on a port whose MTU nobody set: a jumbo frame of 9216 octets.
pub const DEFAULT_MTU: u16 = 9198;
const _: () = assert!(DEFAULT_MTU as usize + ETHERNET_HEADER + TAG == 9216);

/// A broadcast domain, as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its number, unique.
    pub id: NetworkId,
    /// The VLAN by which trunks carry it.
    pub vlan: Option<VlanId>,
    /// Whether access ports take tagged frames and carry the tag as payload.
    pub passes_tags: bool,
}

/// A port, as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRules {
    /// Its number, unique.
    pub id: PortId,
    /// Which networks it carries.
    pub mode: PortMode,
    /// Frames never go from an isolated port to another.
    pub isolated: bool,
    /// Frames never go between two ports of one split-horizon group.
    pub horizon: Option<NonZeroU16>,
    /// Whether flooded frames leave by it.
    pub flood: bool,
    /// Addresses learned on it at most.
    pub mac_limit: Option<u32>,
    /// What it may flood.
    pub storm: StormLimits,
    /// How much may come in and leave by it.
    pub limits: Limits,
    /// Octets of the longest IP packet that may leave by it.
    pub mtu: u16,
}

impl PortRules {
    /// A port without limits, in one network.
    pub fn access(id: PortId, network: NetworkId) -> Self {
        Self {
            id,
            mode: PortMode::Access(network),
            isolated: false,
            horizon: None,
            flood: true,
            mac_limit: None,
            storm: StormLimits::default(),
            limits: Limits::default(),
            mtu: DEFAULT_MTU,
        }
    }
}

/// Which networks a port carries, and how its frames tell them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortMode {
    /// One network, untagged.
    Access(NetworkId),
    /// Several networks by VLAN tag and at most one untagged.
    Trunk {
        /// Carried by the tag of their VLAN.
        tagged: Vec<NetworkId>,
        /// The network of untagged and priority-tagged frames.
        native: Option<NetworkId>,
    },
    /// Several networks; the device itself knows which (a tunnel's VNI).
    Tunnel(Vec<NetworkId>),
    /// None: it gets copies of others' frames, and nothing that it sends is taken in.
    Mirror,
}

/// Frames per second that may be flooded; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct StormLimits {
    /// To ff:ff:ff:ff:ff:ff.
    pub broadcast: Option<u32>,
    /// To other groups.
    pub multicast: Option<u32>,
    /// To stations not in the table.
    pub unknown: Option<u32>,
}

/// A contradiction in what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopologyError {
    /// Two ports have one number.
    PortTwice(PortId),
    /// Two networks have one number.
    NetworkTwice(NetworkId),
    /// A port carries a network that does not exist.
    NoNetwork(PortId, NetworkId),
    /// A trunk carries a network without VLAN.
    NoVlan(PortId, NetworkId),
    /// A trunk would carry two networks by one VLAN.
    VlanTwice(PortId, VlanId),
    /// A trunk carries untagged what passes tags: the payload's tag would be taken for the trunk's.
    NativePassesTags(PortId, NetworkId),
    /// A port carries a network both tagged and untagged, or twice.
    CarriedTwice(PortId, NetworkId),
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortTwice(port) => write!(f, "two ports have the number {}", port.0),
            Self::NetworkTwice(network) => write!(f, "two networks have the number {}", network.0),
            Self::NoNetwork(port, network) => {
                write!(f, "port {} carries network {}, which does not exist", port.0, network.0)
            }
            Self::NoVlan(port, network) => {
                write!(f, "trunk {} carries network {}, which has no VLAN", port.0, network.0)
            }
            Self::VlanTwice(port, vlan) => write!(f, "trunk {} carries VLAN {vlan} twice", port.0),
            Self::NativePassesTags(port, network) => {
                write!(f, "trunk {} carries network {} untagged, which passes tags", port.0, network.0)
            }
            Self::CarriedTwice(port, network) => {
                write!(f, "port {} carries network {} twice", port.0, network.0)
            }
        }
    }
}

impl std::error::Error for TopologyError {}

/// The network of a frame, and the tag by which the ingress port carried it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classified {
    /// The network.
    pub network: NetworkId,
    /// The outer tag, if it is the switch's business: removed or replaced on the way out. A tag that a
    /// network passes is payload and not here.
    pub tag: Option<Tag>,
}

/// A port as one network sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The port.
    pub port: PortId,
    /// The VLAN by which it carries the network; `None`: untagged.
    pub vlan: Option<VlanId>,
    horizon: Option<NonZeroU16>,
    isolated: bool,
    flood: bool,
}

/// Who may talk to whom. See the [module](self).
#[derive(Debug, Default)]
pub struct Topology {
    /// By port number.
    ports: Vec<Option<PortEntry>>,
    /// By network number.
    networks: Vec<NetworkEntry>,
    group_forward_mask: u16,
    /// Whether what comes in from some tunnel is limited.
    limits_tunnels: bool,
}

#[derive(Debug)]
struct PortEntry {
    ingress: Ingress,
    isolated: bool,
    horizon: Option<NonZeroU16>,
    mac_limit: Option<u32>,
    storm: StormLimits,
    max_frame: usize,
    /// Elsewhere: few ports have any, and the lines that every frame needs stay few.
    limits: Option<Box<Limits>>,
}

#[derive(Debug)]
enum Ingress {
    Access {
        network: NetworkId,
    },
    /// `by_vlan` has 4,096 places, the last and the first of which stay empty.
    Trunk {
        by_vlan: Box<[Option<NetworkId>]>,
        native: Option<NetworkId>,
    },
    Tunnel,
    Mirror,
}

#[derive(Debug, Default)]
struct NetworkEntry {
    passes_tags: bool,
    members: Vec<Member>,
    /// By port number: its place in `members`, or [`NO_MEMBER`].
    place: Vec<u16>,
}

const NO_MEMBER: u16 = u16::MAX;

impl Topology {
    /// Builds the topology, or says what contradicts itself.
    ///
    /// `group_forward_mask` has bit X set when frames to 01:80:C2:00:00:0X are forwarded.
    pub fn build(
        networks: &[Network],
        ports: &[PortRules],
        group_forward_mask: u16,
    ) -> Result<Self, TopologyError> {
        let mut known: Vec<Option<&Network>> =
            vec![None; length(networks.iter().map(|network| network.id.index()))];
        for network in networks {
            if known[network.id.index()].replace(network).is_some() {
                return Err(TopologyError::NetworkTwice(network.id));
            }
        }
        let slots = length(ports.iter().map(|rules| rules.id.index()));
        let mut topology = Self {
            ports: (0..slots).map(|_| None).collect(),
            networks: known
                .iter()
                .map(|network| NetworkEntry {
                    passes_tags: network.is_some_and(|network| network.passes_tags),
                    members: Vec::new(),
                    place: vec![NO_MEMBER; slots],
                })
                .collect(),
            group_forward_mask,
            limits_tunnels: false,
        };
        for rules in ports {
            topology.add_port(&known, rules)?;
        }
        Ok(topology)
    }

    fn add_port(&mut self, known: &[Option<&Network>], rules: &PortRules) -> Result<(), TopologyError> {
        let find = |id: NetworkId| {
            known.get(id.index()).copied().flatten().ok_or(TopologyError::NoNetwork(rules.id, id))
        };
        let ingress = match &rules.mode {
            PortMode::Access(network) => {
                find(*network)?;
                self.join(rules, *network, None)?;
                Ingress::Access { network: *network }
            }
            PortMode::Trunk { tagged, native } => {
                let mut by_vlan = vec![None; 4096].into_boxed_slice();
                for &network in tagged {
                    let vlan = find(network)?.vlan.ok_or(TopologyError::NoVlan(rules.id, network))?;
                    if by_vlan[usize::from(vlan.as_u16())]
                        .replace(network)
                        .is_some_and(|other| other != network)
                    {
                        return Err(TopologyError::VlanTwice(rules.id, vlan));
                    }
                    self.join(rules, network, Some(vlan))?;
                }
                if let Some(native) = *native {
                    if find(native)?.passes_tags {
                        return Err(TopologyError::NativePassesTags(rules.id, native));
                    }
                    self.join(rules, native, None)?;
                }
                Ingress::Trunk { by_vlan, native: *native }
            }
            PortMode::Tunnel(networks) => {
                for &network in networks {
                    find(network)?;
                    self.join(rules, network, None)?;
                }
                Ingress::Tunnel
            }
            PortMode::Mirror => Ingress::Mirror,
        };
        let entry = PortEntry {
            ingress,
            isolated: rules.isolated,
            horizon: rules.horizon,
            mac_limit: rules.mac_limit,
            storm: rules.storm,
            limits: (rules.limits != Limits::default()).then(|| rules.limits.into()),
            // As the kernel's is_skb_forwardable: a tag is not held against the frame.
            max_frame: usize::from(rules.mtu) + ETHERNET_HEADER + TAG,
        };
        self.limits_tunnels |= matches!(rules.mode, PortMode::Tunnel(_)) && rules.limits.rx.is_some();
        match self.ports[rules.id.index()].replace(entry) {
            None => Ok(()),
            Some(_) => Err(TopologyError::PortTwice(rules.id)),
        }
    }

    fn join(
        &mut self,
        rules: &PortRules,
        network: NetworkId,
        vlan: Option<VlanId>,
    ) -> Result<(), TopologyError> {
        let entry = &mut self.networks[network.index()];
        let place = &mut entry.place[rules.id.index()];
        if *place != NO_MEMBER {
            return Err(TopologyError::CarriedTwice(rules.id, network));
        }
        *place = u16::try_from(entry.members.len()).unwrap_or(NO_MEMBER);
        let member = Member {
            port: rules.id,
            vlan,
            horizon: rules.horizon,
            isolated: rules.isolated,
            flood: rules.flood,
        };
        entry.members.push(member);
        Ok(())
    }

    /// The network that a frame received on `ingress` is in. `known` is set by devices that know it (tunnels).
    ///
    /// A tag that is not the switch's is payload, and refused unless the network passes it: taken out of its network
    /// untagged, by a trunk that carries it natively, the frame would be in another one (VLAN hopping).
    #[inline(always)]
    pub fn classify(
        &self,
        ingress: PortId,
        known: Option<NetworkId>,
        frame: &Frame,
    ) -> Result<Classified, DropReason> {
        match (&self.port(ingress)?.ingress, frame.tag) {
            (Ingress::Access { network }, None) => Ok(Classified { network: *network, tag: None }),
            (port, tag) => self.classify_tagged(port, ingress, known, tag, frame.stacked),
        }
    }

    /// The same for frames that have a tag, or come in by a port of several networks: a call, off the ordinary frame's way.
    #[inline(never)]
    fn classify_tagged(
        &self,
        port: &Ingress,
        ingress: PortId,
        known: Option<NetworkId>,
        tag: Option<Tag>,
        stacked: bool,
    ) -> Result<Classified, DropReason> {
        let has_tag = tag.is_some();
        let (network, tag) = match (port, tag) {
            (Ingress::Access { network }, tag) => {
                let own = tag.filter(|tag| tag.is_priority() && !self.passes_tags(*network));
                (*network, own)
            }
            (Ingress::Trunk { by_vlan, .. }, Some(tag)) if !tag.is_priority() => {
                let network = by_vlan[usize::from(tag.0 & 0x0fff)].ok_or(DropReason::VlanNotAllowed)?;
                (network, Some(tag))
            }
            (Ingress::Trunk { native, .. }, tag) => (native.ok_or(DropReason::VlanUntagged)?, tag),
            (Ingress::Mirror, _) => return Err(DropReason::MirrorOnly),
            (Ingress::Tunnel, _) => {
                let carried = known.filter(|network| self.carries(*network, ingress));
                (carried.ok_or(DropReason::VxlanVniNotFound)?, None)
            }
        };
        let tagged_payload = if tag.is_some() { stacked } else { has_tag };
        if tagged_payload && !self.passes_tags(network) {
            return Err(DropReason::VlanNotAllowed);
        }
        Ok(Classified { network, tag })
    }

    fn carries(&self, network: NetworkId, port: PortId) -> bool {
        let place = self.networks.get(network.index()).and_then(|entry| entry.place.get(port.index()));
        place.is_some_and(|place| *place != NO_MEMBER)
    }

    /// Whether frames come and go by `port` with their network told beside them.
    pub fn is_tunnel(&self, port: PortId) -> bool {
        self.port(port).is_ok_and(|entry| matches!(entry.ingress, Ingress::Tunnel))
    }

    #[inline]
    fn passes_tags(&self, network: NetworkId) -> bool {
        self.networks.get(network.index()).is_some_and(|entry| entry.passes_tags)
    }

    /// The ports that a frame of `network`, received on `ingress`, may leave by.
    ///
    /// Never holds `ingress` itself nor a port of its split-horizon group, so flooding over the whole of it
    /// cannot loop; nor, from an isolated port, another one.
    pub fn reach(&self, network: NetworkId, ingress: PortId) -> Reach<'_> {
        let from = self.ports.get(ingress.index()).and_then(Option::as_ref);
        Reach {
            entry: self.networks.get(network.index()),
            ingress,
            horizon: from.and_then(|entry| entry.horizon),
            isolated: from.is_some_and(|entry| entry.isolated),
        }
    }

    /// Addresses that may be learned on `port`.
    pub fn mac_limit(&self, port: PortId) -> Option<u32> {
        self.ports.get(port.index())?.as_ref()?.mac_limit
    }

    /// What `port` may flood.
    pub fn storm(&self, port: PortId) -> StormLimits {
        self.ports.get(port.index()).and_then(Option::as_ref).map(|entry| entry.storm).unwrap_or_default()
    }

    /// How much may come in and leave by `port`.
    pub fn limits(&self, port: PortId) -> Option<&Limits> {
        self.ports.get(port.index())?.as_ref()?.limits.as_deref()
    }

    /// Whether a batch whose first frame came in by `port` may hold frames of a port that limits what comes in: a batch is of
    /// one port, or of all tunnels.
    pub(crate) fn limits_batch(&self, port: PortId) -> bool {
        self.port(port).is_ok_and(|entry| {
            entry.limits.as_ref().is_some_and(|limits| limits.rx.is_some())
                || self.limits_tunnels && matches!(entry.ingress, Ingress::Tunnel)
        })
    }

    /// [`max_frame`](Self::max_frame), and the limit of what leaves by `port`.
    #[inline]
    pub(crate) fn way_out(&self, port: PortId) -> (usize, Option<&Limit>) {
        let Some(Some(entry)) = self.ports.get(port.index()) else { return (0, None) };
        (entry.max_frame, entry.limits.as_ref().and_then(|limits| limits.tx.as_ref()))
    }

    /// Octets of the longest frame that may leave by `port`, with Ethernet header and one tag, without FCS.
    pub fn max_frame(&self, port: PortId) -> usize {
        self.ports.get(port.index()).and_then(Option::as_ref).map_or(0, |entry| entry.max_frame)
    }

    /// One more than the highest port number.
    pub fn ports(&self) -> usize {
        self.ports.len()
    }

    /// Whether frames to 01:80:C2:00:00:0`last` are forwarded.
    pub fn forwards_group(&self, last: u8) -> bool {
        self.group_forward_mask >> (last & 0x0f) & 1 != 0
    }

    fn port(&self, port: PortId) -> Result<&PortEntry, DropReason> {
        // A frame that was on its way when its port was removed.
        self.ports.get(port.index()).and_then(Option::as_ref).ok_or(DropReason::PortGone)
    }
}

/// The ports a frame may leave by: an index, not a search. See [`Topology::reach`].
#[derive(Clone, Copy, Debug)]
pub struct Reach<'a> {
    entry: Option<&'a NetworkEntry>,
    ingress: PortId,
    horizon: Option<NonZeroU16>,
    isolated: bool,
}

impl<'a> Reach<'a> {
    /// `port` as the network sees it, or why the frame may not leave by it.
    pub fn member(&self, port: PortId) -> Result<&'a Member, DropReason> {
        let entry = self.entry.ok_or(DropReason::PortGone)?;
        let place = entry.place.get(port.index()).copied().unwrap_or(NO_MEMBER);
        let member = entry.members.get(usize::from(place)).ok_or(DropReason::PortGone)?;
        self.check(member).map(|()| member)
    }

    /// All of them, for flooding.
    pub fn members(self) -> impl Iterator<Item = &'a Member> {
        let members = self.entry.map_or(&[][..], |entry| &entry.members);
        members.iter().filter(move |member| member.flood && self.check(member).is_ok())
    }

    fn check(&self, member: &Member) -> Result<(), DropReason> {
        if member.port == self.ingress {
            Err(DropReason::SamePort)
        } else if self.horizon.is_some() && self.horizon == member.horizon {
            Err(DropReason::SplitHorizon)
        } else if self.isolated && member.isolated {
            Err(DropReason::PortIsolated)
        } else {
            Ok(())
        }
    }
}

fn length(indices: impl Iterator<Item = usize>) -> usize {
    indices.max().map_or(0, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::MacAddr;

    const BLUE: NetworkId = NetworkId(0);
    const RED: NetworkId = NetworkId(1);

    fn vlan(id: u16) -> VlanId {
        VlanId::try_from(id).unwrap()
    }

    fn networks() -> [Network; 2] {
        [
            Network { id: BLUE, vlan: Some(vlan(10)), passes_tags: false },
            Network { id: RED, vlan: Some(vlan(20)), passes_tags: true },
        ]
    }

    fn trunk(id: u16, tagged: &[NetworkId], native: Option<NetworkId>) -> PortRules {
        PortRules {
            mode: PortMode::Trunk { tagged: tagged.to_vec(), native },
            ..PortRules::access(PortId(id), BLUE)
        }
    }

    fn tagged(tag: Option<u16>) -> Frame {
        Frame { dst: MacAddr::BROADCAST, src: MacAddr([2; 6]), tag: tag.map(Tag), stacked: false }
    }

    #[test]
    fn every_kind_of_port_classifies_every_kind_of_tag() {
        let ports = [
            PortRules::access(PortId(0), BLUE),
            PortRules::access(PortId(1), RED),
            trunk(2, &[BLUE, RED], None),
            trunk(3, &[RED], Some(BLUE)),
            PortRules { mode: PortMode::Tunnel(vec![RED]), ..PortRules::access(PortId(4), RED) },
        ];
        let topology = Topology::build(&networks(), &ports, 0).unwrap();
        let ok = |network, tag: Option<u16>| Ok(Classified { network, tag: tag.map(Tag) });
        let (blue10, red20, other, priority) = (Some(0x600a), Some(20), Some(30), Some(0xe000));
        for (port, tag, expected) in [
            (0, None, ok(BLUE, None)),
            (0, priority, ok(BLUE, priority)),
            (0, blue10, Err(DropReason::VlanNotAllowed)),
            (1, None, ok(RED, None)),
            (1, other, ok(RED, None)),
            (1, priority, ok(RED, None)),
            (2, None, Err(DropReason::VlanUntagged)),
            (2, priority, Err(DropReason::VlanUntagged)),
            (2, blue10, ok(BLUE, blue10)),
            (2, red20, ok(RED, red20)),
            (2, other, Err(DropReason::VlanNotAllowed)),
            (2, Some(0x0fff), Err(DropReason::VlanNotAllowed)),
            (3, None, ok(BLUE, None)),
            (3, priority, ok(BLUE, priority)),
            (3, blue10, Err(DropReason::VlanNotAllowed)),
            (3, red20, ok(RED, red20)),
            (9, None, Err(DropReason::PortGone)),
        ] {
            assert_eq!(
                topology.classify(PortId(port), None, &tagged(tag)),
                expected,
                "port {port}, tag {tag:?}"
            );
        }
        assert_eq!(topology.classify(PortId(4), Some(RED), &tagged(None)), ok(RED, None));
        assert_eq!(topology.classify(PortId(4), None, &tagged(None)), Err(DropReason::VxlanVniNotFound));
    }

    #[test]
    fn a_tag_in_the_payload_cannot_hop_into_another_vlan() {
        let ports = [
            PortRules::access(PortId(0), BLUE),
            PortRules::access(PortId(1), RED),
            trunk(2, &[RED], Some(BLUE)),
            trunk(3, &[BLUE], None),
            PortRules { mode: PortMode::Tunnel(vec![BLUE]), ..PortRules::access(PortId(4), BLUE) },
        ];
        let topology = Topology::build(&networks(), &ports, 0).unwrap();
        let stacked = |outer| Frame { stacked: true, ..tagged(Some(outer)) };
        let classify =
            |port, frame: &Frame| topology.classify(PortId(port), Some(BLUE), frame).map(|it| it.network);
        assert_eq!(
            classify(0, &stacked(0xe000)),
            Err(DropReason::VlanNotAllowed),
            "priority tag, then a tag"
        );
        assert_eq!(classify(2, &stacked(0)), Err(DropReason::VlanNotAllowed));
        assert_eq!(classify(3, &stacked(10)), Err(DropReason::VlanNotAllowed));
        assert_eq!(classify(4, &tagged(Some(10))), Err(DropReason::VlanNotAllowed), "RFC 7348 section 6.1");
        assert_eq!(classify(1, &stacked(0)), Ok(RED), "red passes tags");
        assert_eq!(classify(2, &stacked(20)), Ok(RED));
    }

    #[test]
    fn reach_leaves_out_ingress_group_and_fellow_isolated() {
        let isolated = |id| PortRules { isolated: true, ..PortRules::access(PortId(id), BLUE) };
        let tunnel = |id| PortRules {
            mode: PortMode::Tunnel(vec![BLUE]),
            horizon: NonZeroU16::new(1),
            ..PortRules::access(PortId(id), BLUE)
        };
        let ports = [
            PortRules::access(PortId(0), BLUE),
            isolated(1),
            isolated(2),
            tunnel(3),
            tunnel(4),
            PortRules::access(PortId(5), RED),
        ];
        let topology = Topology::build(&networks(), &ports, 0).unwrap();
        let members =
            |ingress| topology.reach(BLUE, PortId(ingress)).members().map(|m| m.port.0).collect::<Vec<_>>();
        assert_eq!(members(0), [1, 2, 3, 4]);
        assert_eq!(members(1), [0, 3, 4]);
        assert_eq!(members(3), [0, 1, 2]);
        let why = |ingress, port| topology.reach(BLUE, PortId(ingress)).member(PortId(port)).err();
        assert_eq!(why(0, 1), None);
        assert_eq!(why(0, 0), Some(DropReason::SamePort));
        assert_eq!(why(1, 2), Some(DropReason::PortIsolated));
        assert_eq!(why(3, 4), Some(DropReason::SplitHorizon));
        assert_eq!(why(0, 5), Some(DropReason::PortGone));
        assert_eq!(why(0, 99), Some(DropReason::PortGone));
    }

    #[test]
    fn contradictions_are_refused() {
        let build = |ports: &[PortRules]| Topology::build(&networks(), ports, 0).err();
        let (zero, blue) = (PortId(0), PortRules::access(PortId(0), BLUE));
        assert_eq!(build(&[blue.clone(), blue]), Some(TopologyError::CarriedTwice(zero, BLUE)));
        assert_eq!(
            build(&[PortRules::access(zero, BLUE), PortRules::access(zero, RED)]),
            Some(TopologyError::PortTwice(zero))
        );
        assert_eq!(
            build(&[PortRules::access(zero, NetworkId(7))]),
            Some(TopologyError::NoNetwork(zero, NetworkId(7)))
        );
        assert_eq!(build(&[trunk(0, &[BLUE], Some(BLUE))]), Some(TopologyError::CarriedTwice(zero, BLUE)));
        assert_eq!(build(&[trunk(0, &[], Some(RED))]), Some(TopologyError::NativePassesTags(zero, RED)));
        let no_vlan = [Network { id: BLUE, vlan: None, passes_tags: false }];
        assert_eq!(
            Topology::build(&no_vlan, &[trunk(0, &[BLUE], None)], 0).err(),
            Some(TopologyError::NoVlan(zero, BLUE))
        );
        let same = [networks()[0].clone(), Network { vlan: Some(vlan(10)), ..networks()[1].clone() }];
        assert_eq!(
            Topology::build(&same, &[trunk(0, &[BLUE, RED], None)], 0).err(),
            Some(TopologyError::VlanTwice(zero, vlan(10)))
        );
    }

    #[test]
    fn reserved_groups_follow_the_mask() {
        let topology = Topology::build(&[], &[], 1 << 0xe).unwrap();
        assert!(topology.forwards_group(0x0e) && !topology.forwards_group(0x00));
    }
}
