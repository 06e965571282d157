//! Every call of Docker's plugin protocol, over a real socket, against a daemon that is none.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

#[allow(dead_code, reason = "each test binary uses its own part of this module")]
#[path = "common/fake.rs"]
mod fake;

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use fake::Fake;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use vswitch_daemon::{
    api::{Answer, Backend},
    docker::{Plumbing, serve},
};
use vswitch_model::{
    Connect, Driver, Error, Family, Id, Name, Netns, SubnetSpec, api::Endpoint, publish::Publish,
};

fn ready<T: Send + 'static>(value: Result<T, Error>) -> Answer<'static, T> {
    async { value }.boxed()
}

impl Plumbing for Fake {
    fn endpoint(&self, id: Id) -> Answer<'_, Endpoint> {
        let found = self.endpoints.lock().unwrap().iter().find(|it| it.spec.id == id).cloned();
        ready(found.ok_or_else(|| Error::not_found(format!("there is no endpoint {id}"))))
    }

    fn make_room<'a>(&'a self, _: &'a Name, _: &'a Connect) -> Answer<'a, ()> {
        ready(Ok(()))
    }

    fn clear<'a>(&'a self, network: &'a Name) -> Answer<'a, ()> {
        self.told.cleared.lock().unwrap().push(network.clone());
        ready(Ok(()))
    }

    fn moved(&self, _: Id, to: Netns) -> Answer<'_, ()> {
        self.told.moved.lock().unwrap().push(to);
        ready(Ok(()))
    }

    fn publish(&self, _: Id, publish: Vec<Publish>) -> Answer<'_, ()> {
        if self.told.stuck.load(Relaxed) {
            return std::future::pending().boxed();
        }
        *self.told.published.lock().unwrap() = publish;
        ready(Ok(()))
    }

    fn choose_subnet(&self, _: Driver, _: Family, held: Vec<IpNet>) -> Answer<'_, IpNet> {
        let subnets = (0..=255_u8).map(|number| IpNet::new_assert([10, number, 0, 0].into(), 16));
        ready(subnets.into_iter().find(|it| !held.contains(it)).ok_or_else(|| Error::invalid("no pool")))
    }

    fn choose_address(&self, subnet: SubnetSpec, held: Vec<IpAddr>) -> Answer<'_, IpAddr> {
        let range = subnet.ip_range.unwrap_or(subnet.subnet);
        ready(range.hosts().find(|it| !held.contains(it)).ok_or_else(|| Error::invalid("no address")))
    }

    fn adopted(&self, id: Id) -> Answer<'_, Option<Name>> {
        ready(Ok(self.told.adopted.lock().unwrap().get(&id).cloned()))
    }

    fn adopt(&self, id: Id, network: Option<Name>) -> Answer<'_, ()> {
        let mut adopted = self.told.adopted.lock().unwrap();
        match network {
            Some(network) => drop(adopted.insert(id, network)),
            None => drop(adopted.remove(&id)),
        }
        ready(Ok(()))
    }
}

/// The plugin behind a socket.
struct Plugin {
    daemon: Arc<Fake>,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Plugin {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("vswitch.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let daemon = Arc::new(Fake::default());
        tokio::spawn(serve(listener, Arc::clone(&daemon) as _, std::future::pending()));
        Self { daemon, socket, _folder: folder }
    }

    /// As dockerd asks: without a content type, and with an empty body for nothing.
    async fn send(&self, call: &str, body: &str) -> (u16, Value) {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post(format!("/{call}"))
            .header("Host", "plugin.moby.localhost")
            .header("Accept", "application/vnd.docker.plugins.v1.2+json")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn ask(&self, call: &str, body: Value) -> Value {
        let (status, answer) = self.send(call, &body.to_string()).await;
        assert_eq!(status, 200, "{call}: {answer}");
        answer
    }

    /// The sentence of a refusal, which stands under both keys of the protocol.
    async fn refusal(&self, call: &str, body: &str) -> String {
        let (status, answer) = self.send(call, body).await;
        assert!(status >= 400 && status != 404, "{call}: {status} {answer}");
        assert_eq!(answer["Err"], answer["Error"]);
        answer["Err"].as_str().unwrap().to_owned()
    }
}

fn id(text: &str) -> String {
    Id::of(text).to_string()
}

fn network() -> Value {
    json!({
        "NetworkID": id("net"),
        "Options": {
            "com.docker.network.enable_ipv6": false,
            "com.docker.network.generic": { "vswitch.network": "blue", "com.docker.network.driver.mtu": "1400" },
        },
        "IPv4Data": [{ "AddressSpace": "LocalDefault", "Pool": "10.9.0.0/24", "Gateway": "10.9.0.1/24",
                       "AuxAddresses": { "DefaultGatewayIPv4": "10.9.0.9/24", "printer": "10.9.0.7/24" } }],
        "IPv6Data": null,
    })
}

#[tokio::test]
async fn the_life_of_a_container_in_the_order_of_docker() {
    let plugin = Plugin::start();
    let (status, activation) = plugin.send("Plugin.Activate", "").await;
    assert_eq!((status, activation), (200, json!({ "Implements": ["NetworkDriver", "IpamDriver"] })));
    let (_, capabilities) = plugin.send("NetworkDriver.GetCapabilities", "").await;
    assert_eq!(capabilities, json!({ "Scope": "local", "ConnectivityScope": "global" }));

    for _ in 0..2 {
        // The second time the answer to the first was lost.
        assert_eq!(plugin.ask("NetworkDriver.CreateNetwork", network()).await, json!({}));
    }
    let made = plugin.daemon.network("blue".parse().unwrap()).await.unwrap().spec;
    assert_eq!(made.id(), Id::of("net"));
    assert_eq!(made.options["com.docker.network.driver.mtu"], "1400");
    let subnet = &made.subnets[0];
    assert_eq!(subnet.gateway, Some("10.9.0.1".parse().unwrap()));
    assert_eq!(subnet.aux.keys().collect::<Vec<_>>(), ["printer"]);

    let endpoint = json!({
        "NetworkID": id("net"), "EndpointID": id("ep"),
        "Interface": { "Address": "10.9.0.2/24", "AddressIPv6": "", "MacAddress": "" },
        "Options": { "com.docker.network.portmap": null, "kind": "veth" },
    });
    let known =
        json!({ "Interface": { "Address": "", "AddressIPv6": "", "MacAddress": "02:42:0a:09:00:02" } });
    for _ in 0..2 {
        assert_eq!(plugin.ask("NetworkDriver.CreateEndpoint", endpoint.clone()).await, known);
    }
    let made = plugin.daemon.endpoint(Id::of("ep")).await.unwrap().spec;
    assert_eq!(made.options.into_iter().collect::<Vec<_>>(), [("kind".to_owned(), "veth".to_owned())]);
    assert_eq!(made.sandbox, None);

    let of_endpoint = json!({ "NetworkID": id("net"), "EndpointID": id("ep") });
    let mut join = of_endpoint.clone();
    join["SandboxKey"] = "/var/run/docker/netns/0123456789ab".into();
    let joined = plugin.ask("NetworkDriver.Join", join).await;
    let name = format!("vse{}", &id("ep")[..12]);
    assert_eq!(joined["InterfaceName"], json!({ "SrcName": name, "DstPrefix": "eth" }));
    assert_eq!(joined["DisableGatewayService"], true);
    let there = Netns::Path("/var/run/docker/netns/0123456789ab".into());
    assert_eq!(*plugin.daemon.told.moved.lock().unwrap(), [there]);

    let mut program = of_endpoint.clone();
    program["Options"] = json!({ "com.docker.network.portmap": [
        { "Proto": 6, "IP": "", "Port": 80, "HostIP": "127.0.0.1", "HostPort": 8080, "HostPortEnd": 8080 },
        { "Proto": 17, "IP": "", "Port": 53, "HostIP": "", "HostPort": 0, "HostPortEnd": 0 },
        { "Proto": 6, "IP": "", "Port": 81, "HostIP": "::1", "HostPort": 9000, "HostPortEnd": 9010 },
    ]});
    plugin.ask("NetworkDriver.ProgramExternalConnectivity", program).await;
    let published: Vec<_> =
        plugin.daemon.told.published.lock().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(published, ["127.0.0.1:8080:80/tcp", "53/udp", "[::1]:9000-9010:81/tcp"]);

    let info = plugin.ask("NetworkDriver.EndpointOperInfo", of_endpoint.clone()).await;
    assert_eq!(info["Value"]["vswitch.network"], "blue");
    for _ in 0..2 {
        for call in ["RevokeExternalConnectivity", "Leave", "DeleteEndpoint"] {
            let call = format!("NetworkDriver.{call}");
            assert_eq!(plugin.ask(&call, of_endpoint.clone()).await, json!({}), "{call}");
        }
    }
    for _ in 0..2 {
        assert_eq!(
            plugin.ask("NetworkDriver.DeleteNetwork", json!({ "NetworkID": id("net") })).await,
            json!({})
        );
    }
    assert!(plugin.daemon.network("blue".parse().unwrap()).await.is_err());
    assert_eq!(*plugin.daemon.told.cleared.lock().unwrap(), ["blue".parse().unwrap()]);
}

#[tokio::test]
async fn networks_that_are_there_are_adopted_and_stay() {
    let plugin = Plugin::start();
    plugin.ask("NetworkDriver.CreateNetwork", network()).await;
    let mut other = network();
    other["NetworkID"] = id("other").into();
    let refusal = plugin.refusal("NetworkDriver.CreateNetwork", &other.to_string()).await;
    assert!(
        refusal.starts_with("network blue exists and is adopted as it is: leave the option com."),
        "{refusal}"
    );
    other["Options"]["com.docker.network.generic"] = json!({ "vswitch.network": "blue" });
    let mut elsewhere = other.clone();
    elsewhere["IPv4Data"][0]["Pool"] = "10.8.0.0/24".into();
    let refusal = plugin.refusal("NetworkDriver.CreateNetwork", &elsewhere.to_string()).await;
    assert_eq!(
        refusal,
        "network blue exists with other subnets: add --ipam-driver vswitch --subnet 10.9.0.0/24"
    );
    plugin.ask("NetworkDriver.CreateNetwork", other).await;
    plugin.ask("NetworkDriver.DeleteNetwork", json!({ "NetworkID": id("other") })).await;
    assert!(plugin.daemon.network("blue".parse().unwrap()).await.is_ok());
}

#[tokio::test]
async fn pools_and_addresses_are_held_until_they_are_used() {
    let plugin = Plugin::start();
    let (_, spaces) = plugin.send("IpamDriver.GetDefaultAddressSpaces", "").await;
    assert_eq!(spaces["LocalDefaultAddressSpace"], "vswitch-local");
    let (_, capabilities) = plugin.send("IpamDriver.GetCapabilities", "").await;
    assert_eq!(capabilities, json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false }));
    let pool = |pool: &str, sub: &str| json!({ "AddressSpace": "vswitch-local", "Pool": pool, "SubPool": sub, "V6": false });
    // Docker asks again for as long as it does not like what it is offered.
    for expected in ["10.0.0.0/16", "10.1.0.0/16"] {
        let offer = plugin.ask("IpamDriver.RequestPool", pool("", "")).await;
        assert_eq!((&offer["PoolID"], &offer["Pool"]), (&expected.into(), &expected.into()));
    }
    plugin.ask("IpamDriver.ReleasePool", json!({ "PoolID": "10.0.0.0/16" })).await;
    assert_eq!(plugin.ask("IpamDriver.RequestPool", pool("", "")).await["Pool"], "10.0.0.0/16");

    plugin.ask("IpamDriver.RequestPool", pool("10.9.0.0/24", "10.9.0.128/25")).await;
    let address = |address: &str| json!({ "PoolID": "10.9.0.0/24", "Address": address, "Options": {} });
    let mut gateway = address("10.9.0.1");
    gateway["Options"] = json!({ "RequestAddressType": "com.docker.network.gateway" });
    assert_eq!(plugin.ask("IpamDriver.RequestAddress", gateway).await["Address"], "10.9.0.1/24");
    let first = plugin.ask("IpamDriver.RequestAddress", address("")).await["Address"].clone();
    let second = plugin.ask("IpamDriver.RequestAddress", address("")).await["Address"].clone();
    assert!(first != second && first.as_str().unwrap().starts_with("10.9.0.12"), "{first} {second}");
    plugin.ask("IpamDriver.RequestAddress", address("10.9.0.77")).await;
    let again = plugin.refusal("IpamDriver.RequestAddress", &address("10.9.0.77").to_string()).await;
    assert_eq!(again, "Address already in use");
    plugin.ask("IpamDriver.ReleaseAddress", json!({ "PoolID": "10.9.0.0/24", "Address": "10.9.0.77" })).await;
    plugin.ask("IpamDriver.RequestAddress", address("10.9.0.77")).await;
    let outside = plugin.refusal("IpamDriver.RequestAddress", &address("10.8.0.1").to_string()).await;
    assert_eq!(outside, "requested address is out of range");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_in_a_sentence() {
    let plugin = Plugin::start();
    let ghost = json!({ "NetworkID": id("ghost"), "EndpointID": id("ep"), "Interface": null }).to_string();
    for (call, body, part) in [
        ("NetworkDriver.CreateNetwork", "", "the request is empty"),
        ("NetworkDriver.CreateNetwork", "{", "the request makes no sense here"),
        ("NetworkDriver.CreateNetwork", "[1]", "the request makes no sense here"),
        ("NetworkDriver.DeleteNetwork", r#"{"NetworkID": "x"}"#, "is no id"),
        ("NetworkDriver.CreateEndpoint", &ghost, "has no network"),
        ("NetworkDriver.Join", &ghost, "has no network"),
        ("NetworkDriver.EndpointOperInfo", &ghost, "there is no endpoint"),
        ("IpamDriver.RequestPool", r#"{"Pool": "10.9.0.1/24"}"#, "it should be 10.9.0.0/24"),
        ("IpamDriver.RequestAddress", r#"{"PoolID": "?"}"#, "is no subnet"),
    ] {
        let refusal = plugin.refusal(call, body).await;
        assert!(refusal.contains(part), "{call} {body}: {refusal}");
    }
    // Every call that says something, without its words and with others.
    for call in [
        "NetworkDriver.CreateNetwork",
        "NetworkDriver.DeleteNetwork",
        "NetworkDriver.CreateEndpoint",
        "NetworkDriver.DeleteEndpoint",
        "NetworkDriver.EndpointOperInfo",
        "NetworkDriver.Join",
        "NetworkDriver.Leave",
        "NetworkDriver.ProgramExternalConnectivity",
        "NetworkDriver.RevokeExternalConnectivity",
        "IpamDriver.RequestPool",
        "IpamDriver.ReleasePool",
        "IpamDriver.RequestAddress",
        "IpamDriver.ReleaseAddress",
    ] {
        for (body, part) in
            [("", "the request is empty"), ("{]", "makes no sense here"), ("7", "makes no sense here")]
        {
            let refusal = plugin.refusal(call, body).await;
            assert!(refusal.contains(part), "{call} {body}: {refusal}");
        }
    }
    // What is gone may go again, whatever it was.
    for call in ["RevokeExternalConnectivity", "Leave", "DeleteEndpoint", "DeleteNetwork"] {
        let ghost: Value = serde_json::from_str(&ghost).unwrap();
        assert_eq!(plugin.ask(&format!("NetworkDriver.{call}"), ghost).await, json!({}), "{call}");
    }
    // Swarm's, which ask nothing of us; and those that newer engines have.
    let (_, options) = plugin.send("NetworkDriver.AllocateNetwork", "{}").await;
    assert_eq!(options, json!({ "Options": {} }));
    for call in ["FreeNetwork", "DiscoverNew", "DiscoverDelete"] {
        assert_eq!(plugin.send(&format!("NetworkDriver.{call}"), "{}").await, (200, json!({})), "{call}");
    }
    // Docker knows by this that there is no such call.
    assert_eq!(plugin.send("NetworkDriver.GwAllocCheck", "{}").await.0, 404);
}

/// dockerd waits for an answer for ever, and holds others up meanwhile.
#[tokio::test(start_paused = true)]
async fn a_call_that_gets_stuck_is_answered_and_holds_nothing_up() {
    let plugin = Plugin::start();
    plugin.ask("NetworkDriver.CreateNetwork", network()).await;
    let of_endpoint = json!({ "NetworkID": id("net"), "EndpointID": id("ep") });
    let mut endpoint = of_endpoint.clone();
    endpoint["Interface"] = json!({ "Address": "10.9.0.2/24" });
    plugin.ask("NetworkDriver.CreateEndpoint", endpoint).await;
    plugin.daemon.told.stuck.store(true, Relaxed);
    let mut program = of_endpoint.clone();
    program["Options"] =
        json!({ "com.docker.network.portmap": [{ "Proto": 6, "Port": 80, "HostPort": 8080 }] });
    let program = program.to_string();
    let start = tokio::time::Instant::now();
    let stuck = plugin.refusal("NetworkDriver.ProgramExternalConnectivity", &program);
    let other = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        plugin.ask("NetworkDriver.EndpointOperInfo", of_endpoint).await;
        assert!(start.elapsed() < Duration::from_secs(10));
    };
    let (refusal, ()) = tokio::join!(stuck, other);
    assert_eq!(refusal, "vswitchd is busy: try again in a moment");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}
