//! The nftables table, generated from the requirements. Pure.
//!
//! ```text
//! guard        prerouting, raw   drops packets of containers from or to the host's loopback, and to the ends of tunnels
//! prerouting   nat               \  published ports: by address and port, then by port at any address of the host
//! output       nat               /
//! forward      filter            what may pass between a network and the outside
//! postrouting  nat               masquerade: to the outside, and back to a container by way of the host
//! ```
//!
//! Everything that grows with the number of networks or ports is an element of a set or map, so a packet costs a few
//! hash lookups and the chains never change. Addresses and ports of containers are in two maps with one key, since nft
//! before 1.0.7 cannot read a map to both from JSON.
//!
//! There is one table, of family `inet`, that is ours alone: it is created as a whole, and changes are applied to the
//! elements that differ. A packet traverses the tables of others as well, and each of them may drop it.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
    net::SocketAddr,
};

use ipnet::IpNet;
use nftables::{
    expr::{
        CT, Expression, Fib, FibFlag, FibResult, Meta, MetaKey, NamedExpression, Payload, PayloadField,
        Prefix,
    },
    schema::{
        Chain, Element, Map, NfCmd, NfListObject, NfObject, Nftables, Rule, Set, SetFlag, SetType,
        SetTypeValue, Table,
    },
    stmt::{Counter, JumpTarget, Match, NAT, NATFamily, Operator, Statement},
    types::{NfChainPolicy, NfChainType, NfFamily, NfHook},
};

use vswitch_model::{
    Family,
    publish::{Protocol, Published},
};

use super::wants::Wants;

/// Name of our table.
pub const TABLE: &str = "vswitch";

/// Priorities of nft(8), "Standard priority names".
const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

/// The transaction that replaces our table by that of `wants`; it removes the table if they are empty.
///
/// Deterministic: equal wants give equal transactions.
pub(super) fn ruleset(wants: &Wants) -> Nftables<'static> {
    let mut draft = Draft::default();
    draft.replace_table(wants.is_empty());
    if wants.is_empty() {
        return draft.finish();
    }
    draft.holders(wants);
    draft.guard();
    draft.destination();
    draft.forward();
    draft.postrouting();
    draft.finish()
}

/// The transaction that changes the table of `before` into that of `after`, by elements; neither is empty.
///
/// Much cheaper than [`ruleset`]: the kernel frees what a transaction deletes only after an RCU grace period, and nft does
/// not exit before (`nft_rcv_nl_event`, net/netfilter/nf_tables_api.c): 12 ms, measured on Linux 6.18. Additions do not
/// wait.
pub(super) fn difference(before: &Wants, after: &Wants) -> Nftables<'static> {
    let element = |(name, elements): (String, Vec<Expression<'static>>)| {
        let element =
            Element { family: NfFamily::INet, table: TABLE.into(), name: name.into(), elem: elements.into() };
        NfListObject::Element(element)
    };
    let gone = contents(&before.without(after)).into_iter().map(element).map(NfCmd::Delete);
    let new = contents(&after.without(before)).into_iter().map(element).map(NfCmd::Add);
    Nftables { objects: gone.chain(new).map(NfObject::CmdObject).collect() }
}

/// Elements of the sets and maps by name, without empty ones.
fn contents(wants: &Wants) -> Vec<(String, Vec<Expression<'static>>)> {
    let mut draft = Draft::default();
    draft.holders(wants);
    let elements = |object| match object {
        NfObject::CmdObject(NfCmd::Add(NfListObject::Set(set))) => Some((set.name, set.elem?)),
        NfObject::CmdObject(NfCmd::Add(NfListObject::Map(map))) => Some((map.name, map.elem?)),
        _ => None,
    };
    let owned =
        |(name, elements): (Cow<'_, str>, Cow<'static, [_]>)| (name.into_owned(), elements.into_owned());
    draft.0.into_iter().filter_map(elements).map(owned).collect()
}

/// What differs between IPv4 and IPv6.
trait InRules {
    /// The name of the header.
    fn header(self) -> &'static str;

    /// The family of the translated address.
    fn nat(self) -> NATFamily;

    /// The type of addresses in sets and maps.
    fn address_type(self) -> SetType;

    /// The addresses that never leave a host: RFC 1122 section 3.2.1.3 (g), RFC 4291 section 2.5.3.
    fn loopback(self) -> Expression<'static>;

    /// The value of `meta nfproto`.
    fn protocol(self) -> &'static str;

    /// `name` of this family: sets and maps hold one kind of address.
    fn named(self, name: &str) -> String;
}

impl InRules for Family {
    fn header(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    fn nat(self) -> NATFamily {
        match self {
            Self::V4 => NATFamily::IP,
            Self::V6 => NATFamily::IP6,
        }
    }

    fn address_type(self) -> SetType {
        match self {
            Self::V4 => SetType::Ipv4Addr,
            Self::V6 => SetType::Ipv6Addr,
        }
    }

    fn loopback(self) -> Expression<'static> {
        match self {
            Self::V4 => prefix("127.0.0.0", 8),
            Self::V6 => prefix("::1", 128),
        }
    }

    fn protocol(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    fn named(self, name: &str) -> String {
        match self {
            Self::V4 => format!("{name}4"),
            Self::V6 => format!("{name}6"),
        }
    }
}

/// The transaction as it grows.
#[derive(Default)]
struct Draft(Vec<NfObject<'static>>);

impl Draft {
    /// Deletes our table, if present, and recreates it unless it should be `gone`.
    fn replace_table(&mut self, gone: bool) {
        let table =
            || NfListObject::Table(Table { family: NfFamily::INet, name: TABLE.into(), ..Table::default() });
        self.add(table());
        self.0.push(NfObject::CmdObject(NfCmd::Delete(table())));
        if !gone {
            self.add(table());
        }
    }

    /// Sets and maps, with all that is in them.
    fn holders(&mut self, wants: &Wants) {
        self.set("inside", &wants.inside);
        self.set("gateways", &wants.gateways);
        self.set("internal", &wants.internal);
        for family in Family::ALL {
            self.nets(family, "subnets", &wants.subnets);
            self.nets(family, "masquerade", &wants.masquerade);
            self.tunnels(family, &wants.tunnels);
            self.published(family, &wants.published);
        }
        let relayed = |(protocol, port): &(Protocol, u16)| {
            let key = vec![word(protocol.as_str()), Expression::Number((*port).into())];
            Expression::Named(NamedExpression::Concat(key))
        };
        let elem = some(wants.relayed.iter().map(relayed).collect());
        let set_type = SetTypeValue::Concatenated(vec![SetType::InetProto, SetType::InetService].into());
        self.add_set(Set { name: "relayed".into(), set_type, elem, ..our_set() });
        let any = wants.tunnels.iter().filter(|end| end.ip().is_unspecified()).map(SocketAddr::port);
        let any: BTreeSet<u16> = any.collect();
        let elem = some(any.into_iter().map(|port| Expression::Number(port.into())).collect());
        let set_type = SetTypeValue::Single(SetType::InetService);
        self.add_set(Set { name: "tunnel_ports".into(), set_type, elem, ..our_set() });
    }

    /// A container may reach the host, but not its loopback.
    ///
    /// The kernel drops such packets itself, unless `route_localnet` is set for the interface, as it is where ports
    /// are published: [`super::sysctl`].
    fn guard(&mut self) {
        self.base("guard", NfChainType::Filter, NfHook::Prerouting, RAW);
        for field in ["saddr", "daddr"] {
            let forged = [
                equal(meta(MetaKey::Iifname), word("@inside")),
                equal(payload("ip", field), Family::V4.loopback()),
            ];
            self.rule("guard", [&forged[..], &[Statement::Drop(None)]].concat());
        }
        // Published ports lead out of an internal network, and none of its packets is forwarded: neither is one by a relay.
        let relayed =
            Expression::Named(NamedExpression::Concat(vec![meta(MetaKey::L4proto), payload("th", "dport")]));
        self.rule(
            "guard",
            vec![
                equal(meta(MetaKey::Iifname), word("@internal")),
                equal(meta(MetaKey::Nfproto), word(Family::V6.protocol())),
                equal(relayed, word("@relayed")),
                Statement::Drop(None),
            ],
        );
        self.seal_tunnels();
    }

    /// Drops what containers send to tunnel ends, on this host or another: with the host's address, which masquerade
    /// gives it, or a forged one, a datagram would pass for a peer's, and its content for a frame of any network.
    ///
    /// Fragments are reassembled before this chain by connection tracking, which translation switches on
    /// (NF_IP_PRI_CONNTRACK_DEFRAG, -400).
    fn seal_tunnels(&mut self) {
        let port = || payload("udp", "dport");
        let mut seal = |end, set: String| {
            let inside = equal(meta(MetaKey::Iifname), word("@inside"));
            let counted = Statement::Counter(Counter::Anonymous(None));
            let end = equal(end, word(format!("@{set}")));
            self.rule("guard", vec![inside, end, counted, Statement::Drop(None)]);
        };
        for family in Family::ALL {
            let end = vec![payload(family.header(), "daddr"), port()];
            seal(Expression::Named(NamedExpression::Concat(end)), family.named("tunnels"));
        }
        seal(port(), "tunnel_ports".into());
    }

    /// Translates what is sent to published ports: from the outside, from containers, and by the host itself.
    fn destination(&mut self) {
        self.chain(Chain { name: "published".into(), ..ours() });
        let jump = || Statement::Jump(JumpTarget { target: "published".into() });
        self.base("prerouting", NfChainType::NAT, NfHook::Prerouting, DSTNAT);
        // A station on the same link may send to 127.0.0.1 all the same; translated, it would no longer be dropped as
        // martian, and a port published for the host alone would be reachable from the link.
        self.rule(
            "prerouting",
            vec![equal(payload("ip", "daddr"), Family::V4.loopback()), Statement::Return(None)],
        );
        self.rule("prerouting", vec![jump()]);
        self.base("output", NfChainType::NAT, NfHook::Output, DSTNAT);
        // The kernel accepts replies to ::1 from the loopback only: the relay handles these.
        self.rule(
            "output",
            vec![equal(payload("ip6", "daddr"), Family::V6.loopback()), Statement::Return(None)],
        );
        self.rule("output", vec![jump()]);
        for family in Family::ALL {
            let of_family = equal(meta(MetaKey::Nfproto), word(family.protocol()));
            let at_this = [payload(family.header(), "daddr"), meta(MetaKey::L4proto), payload("th", "dport")];
            let at_any = [meta(MetaKey::L4proto), payload("th", "dport")];
            self.rule("published", vec![of_family.clone(), translate(family, "this", &at_this)]);
            let local = Fib { result: FibResult::Type, flags: HashSet::from([FibFlag::Daddr]) };
            let local = equal(Expression::Named(NamedExpression::Fib(local)), word("local"));
            self.rule("published", vec![of_family, local, translate(family, "any", &at_any)]);
        }
    }

    /// Accepts packets out of a network and back; into it only to published ports. Nothing passes an internal one.
    fn forward(&mut self) {
        self.base("forward", NfChainType::Filter, NfHook::Forward, FILTER);
        for key in [MetaKey::Iifname, MetaKey::Oifname] {
            self.rule("forward", vec![equal(meta(key), word("@internal")), Statement::Drop(None)]);
        }
        // What belongs to no connection is not masqueraded, and would leave with a container's own address.
        for family in Family::ALL {
            let inside = equal(meta(MetaKey::Iifname), word("@gateways"));
            let masqueraded =
                equal(payload(family.header(), "saddr"), word(format!("@{}", family.named("masquerade"))));
            let invalid = Match { left: ct("state"), right: word("invalid"), op: Operator::IN };
            self.rule("forward", vec![inside, masqueraded, Statement::Match(invalid), Statement::Drop(None)]);
        }
        let inward = || equal(meta(MetaKey::Oifname), word("@gateways"));
        let states = Expression::List(vec![word("established"), word("related")]);
        let known = Match { left: ct("state"), right: states, op: Operator::IN };
        self.rule("forward", vec![inward(), Statement::Match(known), Statement::Accept(None)]);
        self.rule("forward", vec![inward(), translated(), Statement::Accept(None)]);
        self.rule("forward", vec![inward(), Statement::Drop(None)]);
    }

    /// Masquerades packets whose replies would not come back otherwise.
    fn postrouting(&mut self) {
        self.base("postrouting", NfChainType::NAT, NfHook::Postrouting, SRCNAT);
        let inward = |op| {
            let right = word("@gateways");
            Statement::Match(Match { left: meta(MetaKey::Oifname), right, op })
        };
        for family in Family::ALL {
            let source = |right| equal(payload(family.header(), "saddr"), right);
            let named = |name: &str| word(format!("@{}", family.named(name)));
            let returning =
                |from| vec![inward(Operator::EQ), translated(), source(from), Statement::Masquerade(None)];
            // A container would reply to its neighbour, or to the loopback, directly.
            self.rule("postrouting", returning(named("subnets")));
            if family == Family::V4 {
                self.rule("postrouting", returning(family.loopback()));
            }
            let outward =
                vec![inward(Operator::NEQ), source(named("masquerade")), Statement::Masquerade(None)];
            self.rule("postrouting", outward);
        }
    }

    /// The maps that [`translate`] looks into: to the address and to the port, for ports at one address (`this`) and
    /// at all addresses of the host (`any`).
    fn published(&mut self, family: Family, published: &BTreeSet<Published>) {
        let of_family = || {
            let translated = published.iter().filter(|published| published.is_translated());
            translated.filter(|published| Family::of(published.at().ip()) == family)
        };
        for (place, at_any) in [("this", false), ("any", true)] {
            let mut key = vec![SetType::InetProto, SetType::InetService];
            if !at_any {
                key.insert(0, family.address_type());
            }
            let here = || of_family().filter(|published| published.at().ip().is_unspecified() == at_any);
            let address = here().map(|one| pair(one, word(one.to().ip().to_string()))).collect();
            let port = here().map(|one| pair(one, Expression::Number(one.to().port().into()))).collect();
            self.map(family.named(&format!("{place}_address")), &key, family.address_type(), address);
            self.map(family.named(&format!("{place}_port")), &key, SetType::InetService, port);
        }
    }

    /// The tunnel ends with known addresses.
    fn tunnels(&mut self, family: Family, tunnels: &BTreeSet<SocketAddr>) {
        let ends = tunnels.iter().filter(|end| !end.ip().is_unspecified() && Family::of(end.ip()) == family);
        let element = |end: &SocketAddr| {
            let end = vec![word(end.ip().to_string()), Expression::Number(end.port().into())];
            Expression::Named(NamedExpression::Concat(end))
        };
        let elem = some(ends.map(element).collect());
        let set_type = SetTypeValue::Concatenated(vec![family.address_type(), SetType::InetService].into());
        self.add_set(Set { name: family.named("tunnels").into(), set_type, elem, ..our_set() });
    }

    fn nets(&mut self, family: Family, name: &str, nets: &BTreeSet<IpNet>) {
        let nets = nets.iter().filter(|net| Family::of(**net) == family);
        let elements = nets.map(|net| prefix(&net.network().to_string(), net.prefix_len())).collect();
        let flags = Some(HashSet::from([SetFlag::Interval]));
        let set_type = SetTypeValue::Single(family.address_type());
        self.add_set(Set {
            name: family.named(name).into(),
            set_type,
            flags,
            elem: some(elements),
            ..our_set()
        });
    }

    /// A set of interfaces.
    fn set(&mut self, name: &'static str, ifnames: &BTreeSet<String>) {
        let elem = some(ifnames.iter().cloned().map(word).collect());
        let set_type = SetTypeValue::Single(SetType::Ifname);
        self.add_set(Set { name: name.into(), set_type, elem, ..our_set() });
    }

    fn add_set(&mut self, set: Set<'static>) {
        self.add(NfListObject::Set(Box::new(set)));
    }

    fn map(&mut self, name: String, key: &[SetType], value: SetType, elements: Vec<Expression<'static>>) {
        self.add(NfListObject::Map(Box::new(Map {
            family: NfFamily::INet,
            table: TABLE.into(),
            name: name.into(),
            set_type: SetTypeValue::Concatenated(key.to_vec().into()),
            map: SetTypeValue::Single(value),
            elem: some(elements),
            ..Map::default()
        })));
    }

    fn base(&mut self, name: &'static str, kind: NfChainType, hook: NfHook, priority: i32) {
        self.chain(Chain {
            name: name.into(),
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(priority),
            policy: Some(NfChainPolicy::Accept),
            ..ours()
        });
    }

    fn chain(&mut self, chain: Chain<'static>) {
        self.add(NfListObject::Chain(chain));
    }

    fn rule(&mut self, chain: &'static str, statements: Vec<Statement<'static>>) {
        self.add(NfListObject::Rule(Rule {
            family: NfFamily::INet,
            table: TABLE.into(),
            chain: chain.into(),
            expr: statements.into(),
            ..Rule::default()
        }));
    }

    fn add(&mut self, object: NfListObject<'static>) {
        self.0.push(NfObject::CmdObject(NfCmd::Add(object)));
    }

    fn finish(self) -> Nftables<'static> {
        Nftables { objects: self.0.into() }
    }
}

fn ours() -> Chain<'static> {
    Chain { family: NfFamily::INet, table: TABLE.into(), ..Chain::default() }
}

fn our_set() -> Set<'static> {
    Set { family: NfFamily::INet, table: TABLE.into(), ..Set::default() }
}

/// nft rejects an empty list of elements.
fn some(elements: Vec<Expression<'static>>) -> Option<Cow<'static, [Expression<'static>]>> {
    (!elements.is_empty()).then(|| elements.into())
}

/// An element of a map of published ports.
fn pair(published: &Published, value: Expression<'static>) -> Expression<'static> {
    let at = published.at();
    let mut key = vec![word(published.protocol.as_str()), Expression::Number(at.port().into())];
    if !at.ip().is_unspecified() {
        key.insert(0, word(at.ip().to_string()));
    }
    Expression::List(vec![Expression::Named(NamedExpression::Concat(key)), value])
}

/// Translates by the maps of `place`; continues without a match.
fn translate(family: Family, place: &str, key: &[Expression<'static>]) -> Statement<'static> {
    let found_in = |what: &str| {
        let key = Expression::Named(NamedExpression::Concat(key.to_vec()));
        let data = word(format!("@{}", family.named(&format!("{place}_{what}"))));
        Some(Expression::Named(NamedExpression::Map(Box::new(nftables::expr::Map { key, data }))))
    };
    let family = Some(family.nat());
    Statement::DNAT(Some(NAT { addr: found_in("address"), family, port: found_in("port"), flags: None }))
}

/// Whether the connection's destination was translated.
fn translated() -> Statement<'static> {
    Statement::Match(Match { left: ct("status"), right: word("dnat"), op: Operator::IN })
}

pub(super) fn word(text: impl Into<Cow<'static, str>>) -> Expression<'static> {
    Expression::String(text.into())
}

pub(super) fn equal(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op: Operator::EQ })
}

pub(super) fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn ct(key: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::CT(CT { key: key.into(), family: None, dir: None }))
}

fn payload(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn prefix(address: &str, len: u8) -> Expression<'static> {
    let addr = Box::new(word(address.to_owned()));
    Expression::Named(NamedExpression::Prefix(Prefix { addr, len: len.into() }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::{collection::vec, prelude::*};
    use serde_json::{Value, json};

    use super::{super::Outside, *};

    fn published(at: &str, to: &str) -> Published {
        Published::new(Protocol::Tcp, at.parse().unwrap(), to.parse().unwrap()).unwrap()
    }

    fn blue(published: Vec<Published>) -> Outside {
        Outside {
            ifname: "vg-blue".into(),
            internal: false,
            subnets: vec!["10.9.0.0/24".parse().unwrap(), "fd00:9::/64".parse().unwrap()],
            masquerade: true,
            published,
            tunnels: Arc::default(),
        }
    }

    fn red() -> Outside {
        Outside {
            ifname: "vg-red".into(),
            internal: false,
            subnets: vec!["10.8.0.0/24".parse().unwrap()],
            masquerade: false,
            published: Vec::new(),
            tunnels: Arc::default(),
        }
    }

    /// Added objects of one kind.
    fn added(outsides: &[Outside], kind: &str) -> Vec<Value> {
        let json = serde_json::to_value(ruleset(&Wants::of(outsides))).unwrap();
        let objects = json["nftables"].as_array().unwrap();
        objects.iter().map(|object| object["add"][kind].clone()).filter(|object| !object.is_null()).collect()
    }

    fn elements(outsides: &[Outside], kind: &str, name: &str) -> Value {
        let found = added(outsides, kind).into_iter().find(|object| object["name"] == name);
        found.unwrap_or_else(|| panic!("no {kind} {name}"))["elem"].clone()
    }

    #[test]
    fn a_published_port_is_an_element() {
        let outsides = [
            blue(vec![
                published("0.0.0.0:8080", "10.9.0.2:80"),
                published("[::]:8080", "[fd00:9::2]:80"),
                published("192.0.2.1:443", "10.9.0.3:8443"),
            ]),
            red(),
        ];
        let any = json!({ "concat": ["tcp", 8080] });
        let this = json!({ "concat": ["192.0.2.1", "tcp", 443] });
        for (map, expected) in [
            ("any_address4", json!([[any, "10.9.0.2"]])),
            ("any_port4", json!([[any, 80]])),
            ("any_address6", json!([[any, "fd00:9::2"]])),
            ("any_port6", json!([[any, 80]])),
            ("this_address4", json!([[this, "10.9.0.3"]])),
            ("this_port4", json!([[this, 8443]])),
            ("this_address6", json!(null)),
        ] {
            assert_eq!(elements(&outsides, "map", map), expected, "{map}");
        }
        for (set, expected) in [
            ("gateways", json!(["vg-blue", "vg-red"])),
            ("masquerade4", json!([{ "prefix": { "addr": "10.9.0.0", "len": 24 } }])),
            ("subnets6", json!([{ "prefix": { "addr": "fd00:9::", "len": 64 } }])),
        ] {
            assert_eq!(elements(&outsides, "set", set), expected, "{set}");
        }
    }

    #[test]
    fn the_ends_of_tunnels_are_elements_and_those_of_any_address_ports() {
        let ends = ["10.8.0.1:4789", "10.8.0.2:8472", "[fd00:8::2]:4789", "0.0.0.0:4790", "[::]:4790"];
        let tunnels = Arc::new(ends.iter().map(|end| end.parse().unwrap()).collect());
        let outsides = [Outside { tunnels: Arc::clone(&tunnels), ..blue(Vec::new()) }, red()];
        for (set, expected) in [
            ("tunnels4", json!([{ "concat": ["10.8.0.1", 4789] }, { "concat": ["10.8.0.2", 8472] }])),
            ("tunnels6", json!([{ "concat": ["fd00:8::2", 4789] }])),
            ("tunnel_ports", json!([4790])),
        ] {
            assert_eq!(elements(&outsides, "set", set), expected, "{set}");
        }
        let difference = difference(&Wants::of(&[blue(Vec::new()), red()]), &Wants::of(&outsides));
        let changed = serde_json::to_value(difference).unwrap();
        assert_eq!(
            changed["nftables"].as_array().unwrap().len(),
            3,
            "a peer more is an element more: {changed}"
        );
    }

    #[test]
    fn where_the_host_is_a_station_only_tunnels_are_sealed() {
        let tunnels = Arc::new(["10.8.0.1:4789".parse().unwrap()].into());
        let outsides = [Outside::of_station("own0".into(), tunnels), red()];
        assert_eq!(elements(&outsides, "set", "inside"), json!(["own0", "vg-red"]));
        assert_eq!(elements(&outsides, "set", "gateways"), json!(["vg-red"]));
        assert_eq!(added(&outsides[..1], "rule"), added(&[red()], "rule"));
    }

    #[test]
    fn an_internal_network_is_inside_and_no_gateway() {
        let outsides = [Outside::of_internal("vg-inner".into(), Arc::default()), red()];
        for (set, expected) in [
            ("inside", json!(["vg-inner", "vg-red"])),
            ("gateways", json!(["vg-red"])),
            ("internal", json!(["vg-inner"])),
        ] {
            assert_eq!(elements(&outsides, "set", set), expected, "{set}");
        }
    }

    #[test]
    fn nothing_wanted_leaves_nothing() {
        let table = json!({ "table": { "family": "inet", "name": "vswitch" } });
        let expected = json!({ "nftables": [{ "add": table }, { "delete": table }] });
        assert_eq!(serde_json::to_value(ruleset(&Wants::of(&[]))).unwrap(), expected);
    }

    #[test]
    fn without_masquerade_only_what_comes_back_by_the_host_is_hidden() {
        let mut routed = blue(Vec::new());
        routed.masquerade = false;
        assert_eq!(elements(std::slice::from_ref(&routed), "set", "masquerade4"), json!(null));
        assert_ne!(elements(&[routed], "set", "subnets4"), json!(null));
    }

    #[test]
    fn a_change_is_the_elements_that_differ() {
        let before = [blue(vec![published("0.0.0.0:80", "10.9.0.2:80")]), red()];
        let after = [blue(vec![published("0.0.0.0:80", "10.9.0.3:80")])];
        let element = |name: &str, elem: Value| json!({ "element": { "family": "inet", "table": TABLE, "name": name, "elem": elem } });
        let key = json!({ "concat": ["tcp", 80] });
        let expected = json!({ "nftables": [
            { "delete": element("inside", json!(["vg-red"])) },
            { "delete": element("gateways", json!(["vg-red"])) },
            { "delete": element("subnets4", json!([{ "prefix": { "addr": "10.8.0.0", "len": 24 } }])) },
            { "delete": element("any_address4", json!([[key, "10.9.0.2"]])) },
            { "delete": element("any_port4", json!([[key, 80]])) },
            { "add": element("any_address4", json!([[key, "10.9.0.3"]])) },
            { "add": element("any_port4", json!([[key, 80]])) },
        ] });
        let difference = difference(&Wants::of(&before), &Wants::of(&after));
        assert_eq!(serde_json::to_value(difference).unwrap(), expected);
    }

    #[test]
    fn a_network_more_only_adds() {
        let json =
            serde_json::to_value(difference(&Wants::of(&[red()]), &Wants::of(&[red(), blue(Vec::new())])));
        let json = json.unwrap();
        let objects = json["nftables"].as_array().unwrap();
        assert!(!objects.is_empty() && objects.iter().all(|object| object["add"].is_object()), "{json}");
    }

    fn any_outside() -> impl Strategy<Value = Outside> {
        let ports = vec((any::<bool>(), any::<u16>(), 1..=u16::MAX), 0..20);
        (0..1000u16, any::<bool>(), ports).prop_map(|(number, masquerade, ports)| {
            let (high, low) = (number / 250, number % 250);
            let published = ports.into_iter().map(|(all, at, to)| {
                let ip = if all { "0.0.0.0" } else { "192.0.2.1" };
                published(&format!("{ip}:{at}"), &format!("10.{high}.{low}.2:{to}"))
            });
            let published = published.collect();
            Outside {
                ifname: format!("vg-{number}"),
                internal: false,
                subnets: vec![format!("10.{high}.{low}.0/24").parse().unwrap()],
                masquerade,
                published,
                tunnels: Arc::default(),
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn rules_are_the_same_for_all_and_the_order_does_not_matter(mut outsides in vec(any_outside(), 1..20)) {
            let transaction = ruleset(&Wants::of(&outsides));
            prop_assert_eq!(added(&outsides, "rule"), added(&[red()], "rule"));
            outsides.reverse();
            prop_assert_eq!(ruleset(&Wants::of(&outsides)), transaction);
        }

        #[test]
        fn all_is_in_our_table_and_all_that_is_named_is_there(outsides in vec(any_outside(), 1..20)) {
            let json = serde_json::to_value(ruleset(&Wants::of(&outsides))).unwrap();
            let mut there = BTreeSet::new();
            for object in json["nftables"].as_array().unwrap() {
                let (_, object) = object.as_object().unwrap().iter().next().unwrap();
                let (kind, object) = object.as_object().unwrap().iter().next().unwrap();
                prop_assert_eq!(&object["family"], "inet");
                let table = if kind == "table" { "name" } else { "table" };
                prop_assert_eq!(&object[table], TABLE);
                if let Some(name) = object["name"].as_str() {
                    there.insert(name.to_owned());
                }
                // In the order of a transaction: nothing is used before it is created.
                let text = object.to_string();
                for (start, _) in text.match_indices('@') {
                    let name = text[start + 1..].split('"').next().unwrap();
                    prop_assert!(there.contains(name), "{} in {}", name, text);
                }
            }
        }
    }
}
