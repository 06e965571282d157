//! Options of drivers: `-o KEY=VALUE` of networks and endpoints.
//!
//! Docker's long names and our short ones are the same options. What has a key of its own in a [`NetworkSpec`] (the MTU,
//! the VNI, the VLAN) is moved there, so each fact has one place; the rest stays as it was written, under the short name.
//! A key of Docker's that means nothing here is kept and warned about; any other unknown key is refused.
//!
//! They are parsed once, where they come in: [`Options`] has the text, which is stored and shown, and what it means.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::IpAddr,
    ops::Deref,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{
    Accelerate, Also, BURST, Driver, Error, IfName, LimitSpec, Name, NetworkSpec, Rate, VlanId,
    rules::MAC_LIMIT, sentence::nearest,
};

/// Options as text, and parsed.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
#[serde(bound(serialize = "T: Clone", deserialize = "T: Meaning"))]
pub struct Options<T> {
    text: BTreeMap<String, String>,
    meaning: T,
}

/// Parsed options.
pub trait Meaning: Sized {
    /// Parses them, by their short names or Docker's.
    ///
    /// # Errors
    /// A value is invalid.
    fn read(text: &BTreeMap<String, String>) -> Result<Self, OptionError>;
}

impl<T> Options<T> {
    /// The text.
    pub fn text(&self) -> &BTreeMap<String, String> {
        &self.text
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

impl<T: Meaning> TryFrom<BTreeMap<String, String>> for Options<T> {
    type Error = OptionError;

    fn try_from(text: BTreeMap<String, String>) -> Result<Self, OptionError> {
        Ok(Self { meaning: T::read(&text)?, text })
    }
}

impl<T> From<Options<T>> for BTreeMap<String, String> {
    fn from(options: Options<T>) -> Self {
        options.text
    }
}

impl<T> Deref for Options<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.meaning
    }
}

/// Options of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkOptions {
    /// The host's interface to the LAN.
    pub parent: Option<Parent>,
    /// Whether the host has an interface in an uplink network, or, besides the gateway's, an address of its own in an overlay.
    pub host: bool,
    /// Whether containers of the network may talk to each other.
    pub icc: bool,
    /// Whether the outside sees the host's address instead of the container's.
    pub masquerade: bool,
    /// Default host address of published ports.
    pub binding: Option<IpAddr>,
    /// The name of the host's interface in the network.
    pub ifname: Option<IfName>,
    /// Prefix of the names of containers' interfaces.
    pub prefix: String,
    /// Whether containers get veth pairs instead of TAPs by default.
    pub veth: bool,
    /// Whether the kernel may forward for containers by default.
    pub accelerate: Accelerate,
    /// Peers to which tunnels carry it; by default all.
    pub peers: Option<BTreeSet<Name>>,
    /// Maximum number of addresses learned in the network.
    pub mac_limit: Option<u32>,
    /// Default limits of each container.
    pub limit: LimitSpec,
    /// Whether containers are guarded by default.
    pub guard: bool,
    /// What each container may claim to be besides.
    pub also: Vec<Also>,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self {
            parent: None,
            host: false,
            icc: true,
            masquerade: true,
            binding: None,
            ifname: None,
            prefix: "eth".into(),
            veth: false,
            accelerate: Accelerate::Auto,
            peers: None,
            mac_limit: None,
            limit: LimitSpec::default(),
            guard: true,
            also: Vec::new(),
        }
    }
}

impl NetworkOptions {
    /// Whether tunnels carry the network to `peer`.
    pub(crate) fn reaches(&self, peer: &Name) -> bool {
        self.peers.as_ref().is_none_or(|peers| peers.contains(peer))
    }
}

/// An interface, and the VLAN on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parent {
    /// The interface's name.
    pub device: IfName,
    /// The VLAN; without one frames are untagged.
    pub vlan: Option<VlanId>,
}

/// Options of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointOptions {
    /// Whether it is a veth pair instead of a TAP; by default as in the network's options.
    pub veth: Option<bool>,
    /// Whether the kernel may forward for it; by default as in the network's options.
    pub accelerate: Option<Accelerate>,
    /// The interface's name.
    pub ifname: Option<IfName>,
    /// Whether sockets of the daemon reserve its published ports.
    pub hold: bool,
    /// Its limits; by default those of the network.
    pub limit: LimitSpec,
    /// Whether it is guarded; by default as in the network's options.
    pub guard: Option<bool>,
    /// What it may claim to be besides, in addition to the network's.
    pub also: Vec<Also>,
}

impl Default for EndpointOptions {
    fn default() -> Self {
        let limit = LimitSpec::default();
        Self { veth: None, accelerate: None, ifname: None, hold: true, limit, guard: None, also: Vec::new() }
    }
}

/// Why an option is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("option {key}: {what}")]
pub struct OptionError {
    /// As it was written.
    pub key: String,
    /// What is wrong and what to do.
    pub what: String,
}

impl From<OptionError> for Error {
    fn from(error: OptionError) -> Self {
        Self::invalid(error.to_string())
    }
}

/// A short name, Docker's name for the same, and the drivers that know it.
struct Known(&'static str, &'static str, &'static [Driver]);

const GATED: &[Driver] = &[Driver::Bridge, Driver::Overlay];
const ALL: &[Driver] = &[Driver::Bridge, Driver::Overlay, Driver::Uplink];

const OF_NETWORKS: &[Known] = &[
    Known("mtu", "com.docker.network.driver.mtu", ALL),
    Known("vni", "com.docker.network.driver.overlay.vxlanid_list", &[Driver::Overlay]),
    Known("vlan", "", GATED),
    Known("peers", "", &[Driver::Overlay]),
    Known("fragment", "", &[Driver::Overlay]),
    Known("parent", "", &[Driver::Uplink]),
    Known("host", "", &[Driver::Overlay, Driver::Uplink]),
    Known("icc", "com.docker.network.bridge.enable_icc", ALL),
    Known("masquerade", "com.docker.network.bridge.enable_ip_masquerade", GATED),
    Known("binding", "com.docker.network.bridge.host_binding_ipv4", GATED),
    Known("ifname", "com.docker.network.bridge.name", ALL),
    Known("prefix", "com.docker.network.container_iface_prefix", ALL),
    Known("kind", "", ALL),
    Known("mac_limit", "", ALL),
];

const OF_ENDPOINTS: &[Known] = &[
    Known("kind", "", ALL),
    Known("ifname", "com.docker.network.endpoint.ifname", ALL),
    Known("hold", "", ALL),
];

/// What a guarded station may claim to be besides.
pub const ALSO: &str = "guard.also";

const OF_BOTH: &[Known] = &[
    Known("limit.rx", "", ALL),
    Known("limit.rx_burst", "", ALL),
    Known("limit.tx", "", ALL),
    Known("limit.tx_burst", "", ALL),
    Known("accelerate", "", ALL),
    Known("guard", "", ALL),
    Known(ALSO, "", ALL),
];

/// Known options of networks, and of endpoints.
const NETWORK: [&[Known]; 2] = [OF_NETWORKS, OF_BOTH];
const ENDPOINT: [&[Known]; 2] = [OF_ENDPOINTS, OF_BOTH];

/// Docker's keys that have no effect here.
fn is_dockers(key: &str) -> bool {
    key.starts_with("com.docker.") || matches!(key, "macvlan_mode" | "ipvlan_mode" | "ipvlan_flag")
}

/// The short name of one of Docker's options, if it has one.
pub fn short_name(key: &str) -> &str {
    find(NETWORK, key).map_or(key, |known| known.0)
}

/// Docker's name of an option, if it has one.
pub fn dockers_name(key: &str) -> &str {
    NETWORK
        .into_iter()
        .flatten()
        .find(|known| known.0 == key && !known.1.is_empty())
        .map_or(key, |known| known.1)
}

/// Gives options their short names, and moves those that have a key of their own there. Idempotent.
///
/// # Errors
/// An option is unknown, invalid, or contradicts a key.
pub fn absorb(spec: &mut NetworkSpec) -> Result<(), OptionError> {
    let driver = spec.driver();
    let mut kept = BTreeMap::new();
    for (key, value) in std::mem::take(&mut spec.options).text {
        let wrong = |what: String| OptionError { key: key.clone(), what };
        let Some(Known(short, _, drivers)) = find(NETWORK, &key) else {
            if !is_dockers(&key) {
                return Err(unknown(NETWORK, &key, Some(driver)));
            }
            kept.insert(key, value);
            continue;
        };
        if !drivers.contains(&driver) {
            let known: Vec<_> = drivers.iter().map(|driver| driver.as_str()).collect();
            return Err(wrong(format!("belongs to driver {}: leave it out", known.join(" or "))));
        }
        match *short {
            "mtu" => merge(&mut spec.mtu, parsed(&value).map_err(wrong)?).map_err(wrong)?,
            "vni" => merge(&mut spec.vni, parsed(&value).map_err(wrong)?).map_err(wrong)?,
            "vlan" => merge(&mut spec.vlan, parsed(&value).map_err(wrong)?).map_err(wrong)?,
            "fragment" => spec.fragment |= boolean(&value).map_err(wrong)?,
            short => drop(kept.insert(short.to_owned(), value)),
        }
    }
    spec.options = kept.try_into()?;
    if let Some(tag) = spec.options.parent.as_ref().and_then(|parent| parent.vlan) {
        let wrong = |what| OptionError { key: "parent".into(), what };
        merge(&mut spec.vlan, tag).map_err(wrong)?;
    }
    if driver == Driver::Uplink && spec.options.parent.is_none() {
        let what = "missing: name the host's interface to the LAN, like -o parent=eth1 or parent=eth1.10";
        return Err(OptionError { key: "parent".into(), what: what.into() });
    }
    Ok(())
}

/// One sentence for each option that is kept without effect.
pub fn warnings(spec: &NetworkSpec) -> Vec<String> {
    let idle = spec.options.text.keys().filter(|key| find(NETWORK, key).is_none());
    idle.map(|key| format!("option {key} does nothing here")).collect()
}

impl Meaning for NetworkOptions {
    /// Unknown keys are not refused here: which there are depends on the driver, and [`absorb`] checks that.
    fn read(text: &BTreeMap<String, String>) -> Result<Self, OptionError> {
        let options = &shortened(NETWORK, text);
        let default = Self::default();
        let binding = |text: &str| text.parse().map_err(|_| format!("{text:?} is not an IP address"));
        // Ten bytes leave room for the number.
        let prefix = |text: &str| match text.parse::<IfName>() {
            Ok(prefix) if prefix.len() <= 10 => Ok(prefix.into()),
            _ => Err(format!("{text:?} cannot begin an interface name: use 1 to 10 letters")),
        };
        Ok(Self {
            parent: read(options, "parent", parent)?,
            host: flag(options, "host")?.unwrap_or(default.host),
            icc: flag(options, "icc")?.unwrap_or(default.icc),
            masquerade: flag(options, "masquerade")?.unwrap_or(default.masquerade),
            binding: read(options, "binding", binding)?,
            ifname: read(options, "ifname", parsed)?,
            prefix: read(options, "prefix", prefix)?.unwrap_or(default.prefix),
            veth: read(options, "kind", veth)?.unwrap_or(default.veth),
            accelerate: read(options, "accelerate", parsed)?.unwrap_or(default.accelerate),
            peers: read(options, "peers", peers)?,
            mac_limit: read(options, "mac_limit", |text| number(text, MAC_LIMIT))?,
            limit: limit(options)?,
            guard: flag(options, "guard")?.unwrap_or(default.guard),
            also: also(options)?,
        })
    }
}

impl Meaning for EndpointOptions {
    /// Unknown keys are refused.
    fn read(text: &BTreeMap<String, String>) -> Result<Self, OptionError> {
        if let Some(key) = text.keys().find(|key| find(ENDPOINT, key).is_none() && !is_dockers(key)) {
            return Err(unknown(ENDPOINT, key, None));
        }
        let options = &shortened(ENDPOINT, text);
        Ok(Self {
            veth: read(options, "kind", veth)?,
            accelerate: read(options, "accelerate", parsed)?,
            ifname: read(options, "ifname", parsed)?,
            hold: flag(options, "hold")?.unwrap_or_else(|| Self::default().hold),
            limit: limit(options)?,
            guard: flag(options, "guard")?,
            also: also(options)?,
        })
    }
}

/// The known options of `text`, by short name.
fn shortened<'t>(
    known: [&'static [Known]; 2],
    text: &'t BTreeMap<String, String>,
) -> BTreeMap<&'static str, &'t str> {
    text.iter().filter_map(|(key, value)| Some((find(known, key)?.0, value.as_str()))).collect()
}

/// `limit` as options, of a network or an endpoint.
pub fn written(limit: &LimitSpec) -> impl Iterator<Item = (String, String)> {
    let texts = [
        ("limit.rx", limit.rx.map(|it| it.to_string())),
        ("limit.rx_burst", limit.rx_burst.map(|it| it.to_string())),
        ("limit.tx", limit.tx.map(|it| it.to_string())),
        ("limit.tx_burst", limit.tx_burst.map(|it| it.to_string())),
    ];
    texts.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text?)))
}

fn limit(options: &BTreeMap<&str, &str>) -> Result<LimitSpec, OptionError> {
    let rate = parsed::<Rate>;
    let burst = |text: &str| number(text, BURST);
    let limit = LimitSpec {
        rx: read(options, "limit.rx", rate)?,
        rx_burst: read(options, "limit.rx_burst", burst)?,
        tx: read(options, "limit.tx", rate)?,
        tx_burst: read(options, "limit.tx_burst", burst)?,
    };
    match limit.misfit() {
        Some((key, what)) => Err(OptionError { key: key.into(), what }),
        None => Ok(limit),
    }
}

/// `10.9.0.100,00:00:5e:00:01:0a`, for a guard that is not switched off beside it.
fn also(options: &BTreeMap<&str, &str>) -> Result<Vec<Also>, OptionError> {
    let also =
        read(options, ALSO, |text| text.split(',').filter(|_| !text.is_empty()).map(parsed).collect())?;
    let also: Vec<Also> = also.unwrap_or_default();
    if !also.is_empty() && flag(options, "guard")? == Some(false) {
        let what = "there is no guard that it belongs to: remove it, or guard=off";
        return Err(OptionError { key: ALSO.into(), what: what.into() });
    }
    Ok(also)
}

fn veth(text: &str) -> Result<bool, String> {
    match text {
        "tap" => Ok(false),
        "veth" => Ok(true),
        _ => Err(format!("{text:?} is not a kind of interface: use tap or veth")),
    }
}

/// `a,b`; empty text means none.
fn peers(text: &str) -> Result<BTreeSet<Name>, String> {
    let names = text.split(',').filter(|_| !text.is_empty());
    names.map(parsed).collect()
}

fn find(known: [&'static [Known]; 2], key: &str) -> Option<&'static Known> {
    known.into_iter().flatten().find(|known| known.0 == key || known.1 == key)
}

fn unknown(known: [&[Known]; 2], key: &str, driver: Option<Driver>) -> OptionError {
    let fits = |known: &&Known| driver.is_none_or(|driver| known.2.contains(&driver));
    let names: Vec<_> =
        known.into_iter().flatten().filter(fits).flat_map(|known| [known.0, known.1]).collect();
    let hint = nearest(key, names.iter().copied().filter(|name| !name.is_empty())).map_or_else(
        || {
            let short: Vec<_> = known.into_iter().flatten().filter(fits).map(|known| known.0).collect();
            format!("there are {}", short.join(", "))
        },
        |name| format!("did you mean {name}?"),
    );
    OptionError { key: key.into(), what: format!("is unknown: {hint}") }
}

fn merge<T: PartialEq + Display + Copy>(place: &mut Option<T>, value: T) -> Result<(), String> {
    match *place {
        Some(other) if other != value => {
            Err(format!("{value} contradicts {other}, which is given as well: keep one"))
        }
        _ => {
            *place = Some(value);
            Ok(())
        }
    }
}

fn number<T>(text: &str, range: std::ops::RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let found = text.parse().ok().filter(|number| range.contains(number));
    found.ok_or_else(|| format!("{text:?} is out of range: use {} to {}", range.start(), range.end()))
}

fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// `eth1`, or `eth1.10`. An interface whose own name ends in a number is written with its VLAN, as in `eth1.10.20`.
fn parent(text: &str) -> Result<Parent, String> {
    let (device, tag) = match text.rsplit_once('.') {
        Some((device, tag)) if tag.bytes().all(|byte| byte.is_ascii_digit()) => (device, Some(parsed(tag)?)),
        _ => (text, None),
    };
    Ok(Parent { device: parsed(device)?, vlan: tag })
}

fn flag(options: &BTreeMap<&str, &str>, key: &str) -> Result<Option<bool>, OptionError> {
    read(options, key, boolean)
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "on" | "1" | "" => Ok(true),
        "false" | "off" | "0" => Ok(false),
        _ => Err(format!("{text:?} is not valid: use true or false")),
    }
}

fn read<T>(
    options: &BTreeMap<&str, &str>,
    key: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, OptionError> {
    let value = options.get(key).map(|text| parse(text)).transpose();
    value.map_err(|what| OptionError { key: key.into(), what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mtu;

    fn network(driver: Driver, options: &[(&str, &str)]) -> NetworkSpec {
        let mut spec = NetworkSpec::plain("blue".parse().unwrap());
        spec.driver = Some(driver);
        spec.options = texts(options).try_into().unwrap();
        spec
    }

    fn texts(options: &[(&str, &str)]) -> BTreeMap<String, String> {
        options.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    #[test]
    fn dockers_names_and_ours_are_the_same() {
        let mut ours = network(Driver::Overlay, &[("mtu", "1400"), ("vni", "5000"), ("icc", "false")]);
        let mut dockers = network(
            Driver::Overlay,
            &[
                ("com.docker.network.driver.mtu", "1400"),
                ("com.docker.network.driver.overlay.vxlanid_list", "5000"),
                ("com.docker.network.bridge.enable_icc", "false"),
            ],
        );
        absorb(&mut ours).unwrap();
        absorb(&mut dockers).unwrap();
        assert_eq!(ours, dockers);
        assert_eq!((ours.mtu, ours.vni), ("1400".parse().ok(), "5000".parse().ok()));
        assert!(!ours.options.icc && ours.options.masquerade);
        let once = ours.clone();
        absorb(&mut ours).unwrap();
        assert_eq!(ours, once);
        assert_eq!(dockers_name("icc"), "com.docker.network.bridge.enable_icc");
        assert_eq!(dockers_name("parent"), "parent");
    }

    #[test]
    fn options_are_kept_as_they_are_written() {
        let none = BTreeMap::new();
        assert_eq!(Options::<NetworkOptions>::try_from(none.clone()), Ok(Options::default()));
        assert_eq!(Options::<EndpointOptions>::try_from(none), Ok(Options::default()));
        let written = serde_json::json!({
            "com.docker.network.bridge.enable_icc": "0", "com.docker.network.bridge.inhibit_ipv4": "true",
            "limit.rx": "1gbit", "peers": "a,b",
        });
        let options: Options<NetworkOptions> = serde_json::from_value(written.clone()).unwrap();
        assert!(!options.icc && options.limit.rx.is_some());
        let reached = ["a", "b", "c"].map(|peer| options.reaches(&peer.parse().unwrap()));
        assert_eq!(reached, [true, true, false]);
        assert_eq!(serde_json::to_value(&options).unwrap(), written);
        let error = serde_json::from_value::<Options<NetworkOptions>>(serde_json::json!({ "icc": "maybe" }));
        assert_eq!(error.unwrap_err().to_string(), "option icc: \"maybe\" is not valid: use true or false");
    }

    #[test]
    fn a_parent_may_have_a_vlan() {
        let mut spec = network(Driver::Uplink, &[("parent", "eth1.10"), ("host", "true")]);
        absorb(&mut spec).unwrap();
        assert_eq!(
            spec.options.parent,
            Some(Parent { device: "eth1".parse().unwrap(), vlan: "10".parse().ok() })
        );
        assert_eq!(spec.vlan.map(VlanId::as_u16), Some(10));
        assert!(spec.options.host);
    }

    #[test]
    fn what_is_unknown_is_told() {
        for (driver, option, expected) in [
            (Driver::Bridge, ("mtuu", "1"), "option mtuu: is unknown: did you mean mtu?"),
            (
                Driver::Bridge,
                ("colour", "red"),
                "option colour: is unknown: there are mtu, vlan, icc, masquerade, binding, ifname, prefix, kind, mac_limit, limit.rx, limit.rx_burst, limit.tx, limit.tx_burst, accelerate, guard, guard.also",
            ),
            (Driver::Bridge, ("vni", "7"), "option vni: belongs to driver overlay: leave it out"),
            (Driver::Overlay, ("vni", "16777216"), "option vni: 16777216 is not a VNI: use 0 to 16777215"),
            (Driver::Bridge, ("icc", "maybe"), "option icc: \"maybe\" is not valid: use true or false"),
            (Driver::Uplink, ("parent", "eth1.4095"), "option parent: 4095 is reserved: use 1 to 4094"),
            (
                Driver::Uplink,
                ("mtu", "1500"),
                "option parent: missing: name the host's interface to the LAN, like -o parent=eth1 or parent=eth1.10",
            ),
            (Driver::Bridge, ("binding", "x"), "option binding: \"x\" is not an IP address"),
        ] {
            let mut spec = network(driver, &[]);
            let found = texts(&[option]).try_into().and_then(|options| {
                spec.options = options;
                absorb(&mut spec)
            });
            assert_eq!(found.unwrap_err().to_string(), expected);
        }
        let mut spec = network(Driver::Bridge, &[("com.docker.network.bridge.inhibit_ipv4", "true")]);
        absorb(&mut spec).unwrap();
        assert_eq!(warnings(&spec), ["option com.docker.network.bridge.inhibit_ipv4 does nothing here"]);
        let mut twice = network(Driver::Bridge, &[("mtu", "1400")]);
        twice.mtu = Some(Mtu::DEFAULT);
        let error = absorb(&mut twice).unwrap_err().to_string();
        assert_eq!(error, "option mtu: 1400 contradicts 1500, which is given as well: keep one");
    }

    #[test]
    fn an_endpoint_has_options_of_its_own() {
        let read = |key: &str, value: &str| EndpointOptions::read(&texts(&[(key, value)]));
        assert_eq!(read("kind", "veth").unwrap().veth, Some(true));
        let limit = LimitSpec { rx: "1 Gbit/s".parse().ok(), rx_burst: Some(7), ..LimitSpec::default() };
        assert_eq!(EndpointOptions::read(&written(&limit).collect()).unwrap().limit, limit);
        let named = read("com.docker.network.endpoint.ifname", "lan0").unwrap();
        assert_eq!((named.ifname.as_deref(), named.hold), (Some("lan0"), true));
        assert!(!read("hold", "false").unwrap().hold);
        let guard = |texts: &[(&str, &str)]| {
            let options = EndpointOptions::read(&self::texts(texts)).unwrap();
            (options.guard, options.also.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(guard(&[]), (None, String::new()));
        assert_eq!(guard(&[("guard", "off")]), (Some(false), String::new()));
        let also = "10.9.0.100,10.9.1.0/28,00:00:5e:00:01:0a";
        assert_eq!(guard(&[("guard.also", also)]), (None, also.replace(',', " ")));
        assert_eq!(guard(&[("guard.also", also), ("guard", "on")]).0, Some(true));
        let contrary = EndpointOptions::read(&texts(&[("guard", "off"), ("guard.also", also)]));
        let expected = "option guard.also: there is no guard that it belongs to: remove it, or guard=off";
        assert_eq!(contrary.unwrap_err().to_string(), expected);
        for (key, value, expected) in [
            ("guard", "maybe", "option guard: \"maybe\" is not valid: use true or false"),
            (
                "guard.also",
                "web",
                "option guard.also: \"web\" is no address of a station: write an IP address, a subnet like 10.9.0.0/28, or a MAC address like 00:00:5e:00:01:0a",
            ),
            ("kind", "bridge", "option kind: \"bridge\" is not a kind of interface: use tap or veth"),
            ("kid", "tap", "option kid: is unknown: did you mean kind?"),
            ("limit.rxburst", "7", "option limit.rxburst: is unknown: did you mean limit.rx_burst?"),
            ("limit.tx_burst", "0", "option limit.tx_burst: \"0\" is out of range: use 1 to 4294967295"),
            (
                "limit.rx_burst",
                "7",
                "option limit.rx_burst: there is no limit.rx that it belongs to: add it, or remove this",
            ),
            (
                "limit.tx",
                "fast",
                "option limit.tx: \"fast\" is not a rate: use a whole number and bit/s, kbit/s, Mbit/s or Gbit/s, up to 1000 Gbit/s, like \"100 Mbit/s\"",
            ),
        ] {
            assert_eq!(read(key, value).unwrap_err().to_string(), expected);
        }
    }
}
