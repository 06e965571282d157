//! A daemon that is none: it answers like one, from a list of networks and ports.

use std::{
    collections::HashMap,
    sync::{Mutex, atomic::AtomicBool},
};

use futures_util::{FutureExt, StreamExt, stream};
use vswitch_daemon::api::{Answer, Backend, EventStream, inspect::CaptureStream};
use vswitch_model::{
    Carries, Connect, DeviceSpec, EndpointSpec, Error, Id, Mtu, Name, Netns, NetworkSpec, NetworkUpdate,
    PortSpec, Reference,
    api::{
        Action, Change, Direction, Drop, Endpoint, Fates, FdbEntry, FdbFilter, FdbKey, Flush, Flushed,
        Network, Origin, Port, PortState, PortStats, Prune, Pruned, Reload, StaticEntry, Stats, Status,
        Traffic, Worker,
        capture::{Capture, CaptureRequest},
        events::{Event, EventsFilter, What},
        trace::{Trace, TraceRequest, Verdict, Why, WhyFilter},
        tunnel::{Probe, Tunnel},
    },
    publish::Publish,
};

/// What the fake daemon has.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    networks: Mutex<Vec<NetworkSpec>>,
    pub(crate) endpoints: Mutex<Vec<Endpoint>>,
    ports: Mutex<Vec<Port>>,
    fdb: Mutex<Vec<FdbEntry>>,
    #[allow(dead_code, reason = "each test binary uses its own part of this module")]
    pub(crate) told: Told,
}

/// What Docker's plugin told the fake daemon.
#[allow(dead_code, reason = "each test binary uses its own part of this module")]
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) adopted: Mutex<HashMap<Id, Name>>,
    pub(crate) cleared: Mutex<Vec<Name>>,
    pub(crate) moved: Mutex<Vec<Netns>>,
    pub(crate) published: Mutex<Vec<Publish>>,
    /// Publishing never ends.
    pub(crate) stuck: AtomicBool,
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn drop_of(port: &str) -> Drop {
    Drop {
        port: name(port),
        direction: Direction::Rx,
        reason: "NO_RECEIVER".into(),
        frames: 3,
        hint: "the network has no other port: attach one".into(),
    }
}

/// The port that a daemon would make of `spec`.
pub(crate) fn port_of(spec: &PortSpec) -> Port {
    let (kind, device) = match &spec.device {
        DeviceSpec::Tap(interface) => ("tap", interface.ifname.clone().map(String::from)),
        DeviceSpec::Veth(interface) => ("veth", interface.ifname.clone().map(String::from)),
        DeviceSpec::Packet { device } => ("packet", Some(device.to_string())),
        DeviceSpec::Vxlan(endpoint) => ("vxlan", Some(endpoint.local.to_string())),
        DeviceSpec::Peer(peer) => ("peer", Some(peer.remote.to_string())),
        DeviceSpec::Collector(collector) => ("collector", Some(collector.remote.to_string())),
    };
    let (network, trunk) = match &spec.carries {
        Carries::Access { network } => (Some(network.clone()), vec![]),
        Carries::Trunk { trunk, native } => (native.clone(), trunk.clone()),
        Carries::Tunnel { .. } | Carries::Mirror { .. } => (None, vec![]),
    };
    Port {
        name: spec.name.clone(),
        id: 0,
        declared: false,
        network,
        trunk,
        mirror: None,
        kind: kind.into(),
        device: device.unwrap_or_else(|| spec.name.to_string()),
        netns: None,
        state: PortState::Up,
        reason: None,
        warnings: vec![],
        mtu: Mtu::DEFAULT,
        offload: spec.offload,
        limit: spec.limit,
        worker: 0,
        macs: 0,
        rx: Traffic { frames: 7, bytes: 700, super_frames: 1 },
        tx: Traffic::default(),
        fates: Fates::default(),
        drops: vec![drop_of(spec.name.as_str())],
    }
}

/// The endpoint that a daemon would make of `connect`.
fn endpoint_of(network: &Network, connect: Connect) -> Endpoint {
    let name = connect.name.unwrap_or_else(|| name("web"));
    let spec = EndpointSpec {
        id: connect.id.unwrap_or_else(|| Id::of(name.as_str())),
        network: network.spec.name.clone(),
        port: format!("{name}.{}", network.spec.name).parse().unwrap(),
        name,
        sandbox: connect.sandbox,
        moved: None,
        identity: None,
        container: connect.container,
        aliases: connect.aliases,
        ifname: connect.ifname.unwrap_or_else(|| "eth0".parse().expect("a name")),
        mac: connect.mac.unwrap_or_else(|| "02:42:0a:09:00:02".parse().unwrap()),
        addresses: vec!["10.9.0.2/24".parse().unwrap()],
        link_local: vec![],
        gateways: vec![],
        options: connect.options.try_into().expect("known options"),
        published: vec![],
        created: "2026-01-02T03:04:05.5Z".parse().unwrap(),
    };
    Endpoint { spec, network_id: network.id(), state: PortState::Up, reason: None }
}

impl Fake {
    fn network_of(&self, spec: NetworkSpec) -> Network {
        let on = |port: &&Port| port.network.as_ref() == Some(&spec.name);
        let ports = self.ports.lock().unwrap().iter().filter(on).map(|port| port.name.clone()).collect();
        let endpoints = self.endpoints.lock().unwrap().clone();
        Network {
            scope: spec.driver().scope(),
            endpoints: endpoints.into_iter().filter(|it| it.spec.network == spec.name).collect(),
            spec,
            declared: false,
            ports,
            macs: 0,
            usage: vec![],
            warnings: vec![],
        }
    }

    fn find_network(&self, name: &str) -> Result<Network, Error> {
        let networks = self.networks.lock().unwrap().clone();
        let is_called = |it: &NetworkSpec| it.name.as_str() == name || it.id().as_str().starts_with(name);
        let found = networks.into_iter().find(is_called);
        let spec = found.ok_or_else(|| Error::not_found(format!("network {name} not found")))?;
        Ok(self.network_of(spec))
    }

    fn find_port(&self, name: &Name) -> Result<Port, Error> {
        let found = self.ports.lock().unwrap().iter().find(|port| port.name == *name).cloned();
        found.ok_or_else(|| Error::not_found(format!("there is no port {name}")))
    }

    /// Makes a port, as `add_port` and the attach socket do.
    pub(crate) fn make_port(&self, spec: &PortSpec) -> Result<Port, Error> {
        if self.find_port(&spec.name).is_ok() {
            return Err(Error::conflict(format!("there is a port {} already", spec.name)));
        }
        if let Carries::Access { network } = &spec.carries {
            self.find_network(network.as_str())?;
        }
        let port = port_of(spec);
        self.ports.lock().unwrap().push(port.clone());
        Ok(port)
    }
}

fn ready<T: Send + 'static>(value: Result<T, Error>) -> Answer<'static, T> {
    async { value }.boxed()
}

impl Backend for Fake {
    fn status(&self) -> Answer<'_, Status> {
        ready(Ok(Status {
            name: "host1".into(),
            version: "0.1.0".into(),
            pid: 42,
            uptime_s: 60,
            config: Some("/etc/vswitch/net.toml".into()),
            networks: self.networks.lock().unwrap().len().try_into().unwrap(),
            ports: 0,
            ports_up: 0,
            macs: 0,
            mac_limit: 65536,
            warnings: vec![],
            workers: vec![Worker { id: 0, ports: 0, turns: 1, frames: 2 }],
        }))
    }

    fn networks(&self) -> Answer<'_, Vec<Network>> {
        let specs = self.networks.lock().unwrap().clone();
        ready(Ok(specs.into_iter().map(|spec| self.network_of(spec)).collect()))
    }

    fn network(&self, network: Reference) -> Answer<'_, Network> {
        ready(self.find_network(network.as_str()))
    }

    fn add_network(&self, spec: NetworkSpec) -> Answer<'_, Network> {
        if self.find_network(spec.name.as_str()).is_ok() {
            return ready(Err(Error::conflict(format!("network with name {} already exists", spec.name))));
        }
        self.networks.lock().unwrap().push(spec.clone());
        ready(Ok(self.network_of(spec)))
    }

    fn update_network(&self, network: Reference, update: NetworkUpdate) -> Answer<'_, Network> {
        ready(self.find_network(network.as_str()).map(|found| {
            let mut networks = self.networks.lock().unwrap();
            let spec = networks.iter_mut().find(|it| it.name == found.spec.name).unwrap();
            spec.mtu = update.mtu.or(spec.mtu);
            Network { spec: spec.clone(), ..found }
        }))
    }

    fn delete_network(&self, network: Reference) -> Answer<'_, ()> {
        let found = self.find_network(network.as_str());
        if let Ok(found) = &found {
            self.networks.lock().unwrap().retain(|network| network.name != found.spec.name);
        }
        ready(found.map(|_| ()))
    }

    fn prune_networks(&self, prune: Prune) -> Answer<'_, Pruned> {
        let mut networks = self.networks.lock().unwrap();
        let (gone, kept) = networks.drain(..).partition(|it| prune.wants(it));
        *networks = kept;
        let names: fn(Vec<NetworkSpec>) -> _ = |gone| gone.into_iter().map(|it| it.name).collect();
        ready(Ok(Pruned { networks: names(gone) }))
    }

    fn endpoints(&self) -> Answer<'_, Vec<Endpoint>> {
        ready(Ok(self.endpoints.lock().unwrap().clone()))
    }

    fn connect(&self, network: Reference, connect: Connect) -> Answer<'_, Endpoint> {
        ready(self.find_network(network.as_str()).map(|network| {
            let endpoint = endpoint_of(&network, connect);
            self.endpoints.lock().unwrap().push(endpoint.clone());
            endpoint
        }))
    }

    fn disconnect(&self, network: Reference, endpoint: Reference) -> Answer<'_, ()> {
        let mut endpoints = self.endpoints.lock().unwrap();
        let before = endpoints.len();
        let is_it = |it: &Endpoint| [it.spec.name.as_str(), it.spec.id.as_str()].contains(&endpoint.as_str());
        endpoints.retain(|it| !is_it(it));
        let why = format!("container {endpoint} is not connected to network {network}");
        ready(if endpoints.len() == before { Err(Error::not_found(why)) } else { Ok(()) })
    }

    fn ports(&self) -> Answer<'_, Vec<Port>> {
        ready(Ok(self.ports.lock().unwrap().clone()))
    }

    fn port(&self, name: Name) -> Answer<'_, Port> {
        ready(self.find_port(&name))
    }

    fn add_port(&self, spec: PortSpec) -> Answer<'_, Port> {
        ready(self.make_port(&spec))
    }

    fn delete_port(&self, name: Name) -> Answer<'_, ()> {
        let found = self.find_port(&name).map(|_| ());
        self.ports.lock().unwrap().retain(|port| port.name != name);
        ready(found)
    }

    fn tunnel(&self) -> Answer<'_, Tunnel> {
        ready(Ok(Tunnel::default()))
    }

    fn probe(&self, peer: Name) -> Answer<'_, Probe> {
        ready(Err(Error::not_found(format!("port {peer} is no peer"))))
    }

    fn fdb(&self, filter: FdbFilter) -> Answer<'_, Vec<FdbEntry>> {
        let fits = |entry: &&FdbEntry| {
            filter.network.as_ref().is_none_or(|network| *network == entry.network)
                && filter.port.as_ref().is_none_or(|port| *port == entry.port)
                && filter.mac.is_none_or(|mac| mac == entry.mac)
        };
        ready(Ok(self.fdb.lock().unwrap().iter().filter(fits).cloned().collect()))
    }

    fn add_fdb(&self, StaticEntry { network, mac, port }: StaticEntry) -> Answer<'_, FdbEntry> {
        let entry = FdbEntry { network, mac, port, origin: Origin::Static, age_ms: None, held: false };
        self.fdb.lock().unwrap().push(entry.clone());
        ready(Ok(entry))
    }

    fn delete_fdb(&self, key: FdbKey) -> Answer<'_, ()> {
        let mut fdb = self.fdb.lock().unwrap();
        let before = fdb.len();
        fdb.retain(|entry| (&entry.network, entry.mac) != (&key.network, key.mac));
        let gone = before != fdb.len();
        ready(if gone { Ok(()) } else { Err(Error::not_found(format!("{} is not known", key.mac))) })
    }

    fn flush_fdb(&self, flush: Flush) -> Answer<'_, Flushed> {
        let entries = match flush {
            Flush::All => 3,
            Flush::Port(_) => 2,
            Flush::Network(_) => 1,
        };
        ready(Ok(Flushed { entries }))
    }

    fn stats(&self) -> Answer<'_, Stats> {
        let stats_of =
            |port: &Port| PortStats { port: port.name.clone(), rx: port.rx, tx: port.tx, drops: 3 };
        let ports = self.ports.lock().unwrap().iter().map(stats_of).collect();
        ready(Ok(Stats { at_ms: 1000, ports, ..Stats::default() }))
    }

    fn drops(&self, port: Option<Name>) -> Answer<'_, Vec<Drop>> {
        let drops = ["web", "db"].map(drop_of).into_iter();
        ready(Ok(drops.filter(|drop| port.as_ref().is_none_or(|port| *port == drop.port)).collect()))
    }

    fn capture(&self, _: CaptureRequest) -> Answer<'_, CaptureStream> {
        async {
            let (sender, chunks) = tokio::sync::mpsc::channel(2);
            for chunk in ["one ", "two"] {
                sender.send(chunk.into()).await.unwrap();
            }
            Ok(CaptureStream { id: 7, chunks })
        }
        .boxed()
    }

    fn captures(&self) -> Answer<'_, Vec<Capture>> {
        async { Ok(vec![]) }.boxed()
    }

    fn end_capture(&self, id: u64) -> Answer<'_, ()> {
        async move { Err(Error::not_found(format!("there is no capture {id}"))) }.boxed()
    }

    fn trace(&self, request: TraceRequest) -> Answer<'_, Trace> {
        async {
            Ok(Trace {
                port: request.port,
                summary: String::new(),
                hex: String::new(),
                steps: vec![],
                verdict: Verdict::Flooded,
                exits: vec![],
                copies: vec![],
            })
        }
        .boxed()
    }

    fn why(&self, _: WhyFilter) -> Answer<'_, Why> {
        async { Ok(Why { declared: vec![], entries: vec![], drops: vec![], findings: vec![] }) }.boxed()
    }

    fn events(&self, filter: EventsFilter) -> Answer<'_, EventStream> {
        let event = |seq| Event { seq, time_ms: seq * 1000, what: What::PortUp { port: name("web") } };
        let wanted = (1..=3).map(event).filter(|it| filter.since_ms.is_none_or(|since| it.time_ms >= since));
        ready(Ok(stream::iter(wanted.collect::<Vec<_>>()).boxed()))
    }

    fn reload(&self, dry_run: bool) -> Answer<'_, Reload> {
        let change = Change {
            action: Action::Add,
            object: "network".into(),
            name: "blue".into(),
            detail: String::new(),
        };
        ready(Ok(Reload { dry_run, changes: vec![change] }))
    }
}
