//! Every call of Docker's plugin protocol, over a real socket, to a core over devices in memory.

use std::{path::PathBuf, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use vswitch_model::{Id, Netns};

use super::{driver::wish, serve, wire::PortBinding};
use crate::core::{Handle, simulated::Simulated};

/// The plugin behind a socket.
struct Plugin {
    core: Arc<Simulated>,
    socket: PathBuf,
}

impl Plugin {
    async fn start() -> Self {
        let core = Simulated::start("[ipam]\nlocal = [{ base = \"10.0.0.0/8\", size = 16 }]\n").await;
        Self::of(core.into(), "vswitch.sock", |core| core.clone())
    }

    fn of(core: Arc<Simulated>, name: &str, handle: impl FnOnce(&Handle) -> Handle) -> Self {
        let socket = core.path(name);
        let listener = UnixListener::bind(&socket).unwrap();
        let plugin = super::Plugin::new(handle(&core), Arc::default());
        tokio::spawn(serve(listener, plugin, std::future::pending()));
        Self { core, socket }
    }

    /// What a managed plugin asks, of the same host.
    fn of_swarm(&self) -> Self {
        let socket = self.core.path("swarm.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let plugin = super::Plugin::new((*self.core).clone(), Arc::default()).of_swarm();
        tokio::spawn(serve(listener, plugin, std::future::pending()));
        Self { core: Arc::clone(&self.core), socket }
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
    let plugin = Plugin::start().await;
    let (status, activation) = plugin.send("Plugin.Activate", "").await;
    assert_eq!((status, activation), (200, json!({ "Implements": ["NetworkDriver", "IpamDriver"] })));
    let (_, capabilities) = plugin.send("NetworkDriver.GetCapabilities", "").await;
    assert_eq!(capabilities, json!({ "Scope": "local", "ConnectivityScope": "global" }));

    for _ in 0..2 {
        // The second time the answer to the first was lost.
        assert_eq!(plugin.ask("NetworkDriver.CreateNetwork", network()).await, json!({}));
    }
    let blue = || plugin.core.snapshot().network(&"blue".parse().unwrap());
    let made = blue().unwrap().spec;
    assert_eq!(made.id(), Id::of("net"));
    assert_eq!(json!(made.mtu), 1400);
    let subnet = &made.subnets[0];
    assert_eq!(subnet.gateway, Some("10.9.0.1".parse().unwrap()));
    assert_eq!(subnet.aux.keys().collect::<Vec<_>>(), ["DefaultGatewayIPv4", "printer"]);

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
    let endpoint = || plugin.core.snapshot().endpoint(&Id::of("ep")).unwrap().spec;
    let made = endpoint();
    assert_eq!(serde_json::to_value(&made.options).unwrap(), json!({ "kind": "veth" }));
    assert_eq!(made.sandbox, None);

    let of_endpoint = json!({ "NetworkID": id("net"), "EndpointID": id("ep") });
    let mut join = of_endpoint.clone();
    join["SandboxKey"] = "/var/run/docker/netns/0123456789ab".into();
    let joined = plugin.ask("NetworkDriver.Join", join).await;
    let name = format!("vse{}", &id("ep")[..12]);
    assert_eq!(joined["InterfaceName"], json!({ "SrcName": name, "DstPrefix": "eth" }));
    assert_eq!((&joined["Gateway"], &joined["DisableGatewayService"]), (&"10.9.0.9".into(), &false.into()));
    assert_eq!(endpoint().moved, Some(Netns::Path("/var/run/docker/netns/0123456789ab".into())));

    let mut program = of_endpoint.clone();
    program["Options"] = json!({ "com.docker.network.portmap": [
        { "Proto": 6, "IP": "", "Port": 80, "HostIP": "127.0.0.1", "HostPort": 0, "HostPortEnd": 0 },
    ]});
    plugin.ask("NetworkDriver.ProgramExternalConnectivity", program).await;
    let published = endpoint().published;
    assert_eq!(published.len(), 1);
    assert!(published[0].to().to_string() == "10.9.0.2:80" && published[0].at().port() != 0, "{published:?}");

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
    assert!(blue().is_err());
}

#[test]
fn ports_of_docker_are_ports_of_ours() {
    let bindings = json!([
        { "Proto": 6, "IP": "", "Port": 80, "HostIP": "127.0.0.1", "HostPort": 8080, "HostPortEnd": 8080 },
        { "Proto": 17, "IP": "", "Port": 53, "HostIP": "", "HostPort": 0, "HostPortEnd": 0 },
        { "Proto": 6, "IP": "", "Port": 81, "HostIP": "::1", "HostPort": 9000, "HostPortEnd": 9010 },
    ]);
    let bindings: Vec<PortBinding> = serde_json::from_value(bindings).unwrap();
    let published: Vec<_> = bindings.iter().map(|it| wish(it).unwrap().to_string()).collect();
    assert_eq!(published, ["127.0.0.1:8080:80/tcp", "53/udp", "[::1]:9000-9010:81/tcp"]);
}

#[tokio::test]
async fn networks_that_are_there_are_adopted_and_stay() {
    let plugin = Plugin::start().await;
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
    assert!(plugin.core.snapshot().network(&"blue".parse().unwrap()).is_ok());
}

#[tokio::test]
async fn pools_and_addresses_are_held_until_they_are_used() {
    let plugin = Plugin::start().await;
    let (_, spaces) = plugin.send("IpamDriver.GetDefaultAddressSpaces", "").await;
    assert_eq!(spaces["LocalDefaultAddressSpace"], "vswitch-local");
    let (_, capabilities) = plugin.send("IpamDriver.GetCapabilities", "").await;
    assert_eq!(capabilities, json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false }));
    let pool = |pool: &str, sub: &str| json!({ "AddressSpace": "vswitch-local", "Pool": pool, "SubPool": sub, "V6": false });
    // Docker asks again for as long as it does not like what it is offered.
    let mut offers = Vec::new();
    for _ in 0..2 {
        let offer = plugin.ask("IpamDriver.RequestPool", pool("", "")).await;
        assert_eq!(offer["PoolID"], offer["Pool"]);
        offers.push(offer["Pool"].clone());
    }
    assert!(offers[0] != offers[1] && offers.iter().all(|it| it.as_str().unwrap().starts_with("10.")));
    plugin.ask("IpamDriver.ReleasePool", json!({ "PoolID": offers[0] })).await;
    assert_eq!(plugin.ask("IpamDriver.RequestPool", pool("", "")).await["Pool"], offers[0]);

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
    let plugin = Plugin::start().await;
    let ghost = json!({ "NetworkID": id("ghost"), "EndpointID": id("ep"), "Interface": null }).to_string();
    for (call, body, part) in [
        ("NetworkDriver.CreateNetwork", "", "the request is empty"),
        ("NetworkDriver.CreateNetwork", "{", "the request makes no sense here"),
        ("NetworkDriver.CreateNetwork", "[1]", "the request makes no sense here"),
        ("NetworkDriver.DeleteNetwork", r#"{"NetworkID": "a/b"}"#, "is not an id"),
        ("NetworkDriver.CreateEndpoint", &ghost, "has no network"),
        ("NetworkDriver.Join", &ghost, "has no network"),
        ("NetworkDriver.EndpointOperInfo", &ghost, "there is no endpoint"),
        ("IpamDriver.RequestPool", r#"{"Pool": "10.9.0.1/24"}"#, "it should be 10.9.0.0/24"),
        ("IpamDriver.RequestAddress", r#"{"PoolID": "?"}"#, "is not a subnet"),
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
    for call in ["FreeNetwork", "DiscoverNew", "DiscoverDelete"] {
        assert_eq!(plugin.send(&format!("NetworkDriver.{call}"), "{}").await, (200, json!({})), "{call}");
    }
    // Docker knows by this that there is no such call.
    assert_eq!(plugin.send("NetworkDriver.GwAllocCheck", "{}").await.0, 404);
}

/// dockerd waits for an answer for ever, and holds others up meanwhile.
#[tokio::test]
async fn a_call_that_gets_stuck_is_answered_and_holds_nothing_up() {
    let plugin = Plugin::start().await;
    plugin.ask("NetworkDriver.CreateNetwork", network()).await;
    let of_endpoint = json!({ "NetworkID": id("net"), "EndpointID": id("ep") });
    let mut endpoint = of_endpoint.clone();
    endpoint["Interface"] = json!({ "Address": "10.9.0.2/24" });
    plugin.ask("NetworkDriver.CreateEndpoint", endpoint).await;
    let plugin = Plugin::of(Arc::clone(&plugin.core), "stuck.sock", |_| plugin.core.stuck());
    // Only from here on: the core has a thread of its own, which the clock of the test does not wait for.
    tokio::time::pause();
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

/// The options of a network that a swarm's manager and its nodes are told.
fn of_swarm(options: &Value) -> Value {
    json!({ "com.docker.network.generic": options })
}

#[tokio::test]
async fn a_network_of_a_swarm_is_agreed_upon_once_and_made_on_each_host() {
    let own = Simulated::start("[vxlan]\nlocal = \"127.0.0.1\"\n").await;
    let plugin = Plugin::of(own.into(), "vswitch.sock", Handle::clone).of_swarm();
    let (_, capabilities) = plugin.send("NetworkDriver.GetCapabilities", "").await;
    assert_eq!(capabilities, json!({ "Scope": "global", "ConnectivityScope": "global" }));
    let swarm_id = "ptb06l5fzmxx6aj4emg5ez1gp";
    let data = json!([{ "AddressSpace": "", "Pool": "10.0.1.0/24", "Gateway": "10.0.1.1/24" }]);
    let allocate = |options: &Value| json!({ "NetworkID": swarm_id, "Options": options, "IPv4Data": data });
    let asked = json!({ "vswitch.network": "blue" });
    let told = plugin.ask("NetworkDriver.AllocateNetwork", allocate(&asked)).await["Options"].clone();
    assert_eq!(told["vswitch.network"], "blue");
    assert!(told["vni"].as_str().unwrap().parse::<u32>().unwrap() >= 1 << 23, "{told}");
    // Another manager asks again, with what the first one was told.
    assert_eq!(plugin.ask("NetworkDriver.AllocateNetwork", allocate(&told)).await["Options"], told);
    let bridge = json!({ "driver": "bridge" });
    assert_eq!(plugin.ask("NetworkDriver.AllocateNetwork", allocate(&bridge)).await["Options"], bridge);

    let create = json!({ "NetworkID": swarm_id, "Options": of_swarm(&told), "IPv4Data": data });
    for _ in 0..2 {
        plugin.ask("NetworkDriver.CreateNetwork", create.clone()).await;
    }
    let blue = plugin.core.snapshot().network(&"blue".parse().unwrap()).unwrap().spec;
    assert!(blue.swarm && blue.vni.is_some());
    assert_eq!(blue.id(), Id::of(swarm_id));
    let endpoint = json!({
        "NetworkID": swarm_id, "EndpointID": id("ep"), "Interface": { "Address": "10.0.1.5/24" }, "Options": {},
    });
    plugin.ask("NetworkDriver.CreateEndpoint", endpoint).await;
    plugin
        .ask("NetworkDriver.DeleteEndpoint", json!({ "NetworkID": swarm_id, "EndpointID": id("ep") }))
        .await;
    plugin.ask("NetworkDriver.DeleteNetwork", json!({ "NetworkID": swarm_id })).await;
    plugin.ask("NetworkDriver.FreeNetwork", json!({ "NetworkID": swarm_id })).await;
    assert!(plugin.core.snapshot().network(&"blue".parse().unwrap()).is_err());
}

#[tokio::test]
async fn a_swarm_needs_tunnels() {
    let plugin = Plugin::start().await.of_swarm();
    let body = json!({ "NetworkID": "ptb06l5fzmxx6aj4emg5ez1gp", "Options": {}, "IPv4Data": [] }).to_string();
    let refusal = plugin.refusal("NetworkDriver.AllocateNetwork", &body).await;
    assert!(refusal.contains("set local below [vxlan]"), "{refusal}");
}

/// The manager asks for all hosts, and each node, its own among them, for the same once more.
#[tokio::test]
async fn what_a_node_asks_for_again_is_a_repetition() {
    let plugin = Plugin::start().await;
    let plugin = plugin.of_swarm();
    let pool =
        |space: &str| json!({ "AddressSpace": space, "Pool": "10.0.1.0/24", "SubPool": "", "V6": false });
    let global = plugin.ask("IpamDriver.RequestPool", pool("vswitch-global")).await["PoolID"].clone();
    let address = |pool: &Value, address: &str| json!({ "PoolID": pool, "Address": address, "Options": {} });
    let mut gateway = address(&global, "");
    gateway["Options"] = json!({ "RequestAddressType": "com.docker.network.gateway" });
    let request = "IpamDriver.RequestAddress";
    assert_eq!(plugin.ask(request, gateway).await["Address"], "10.0.1.1/24");
    assert_eq!(plugin.ask(request, address(&global, "")).await["Address"], "10.0.1.2/24");
    let again = plugin.refusal(request, &address(&global, "10.0.1.2").to_string()).await;
    assert_eq!(again, "Address already in use", "the manager gives each address once");

    let local = plugin.ask("IpamDriver.RequestPool", pool("vswitch-local")).await["PoolID"].clone();
    assert_ne!(local, global);
    for _ in 0..2 {
        for known in ["10.0.1.1", "10.0.1.2"] {
            let answer = plugin.ask(request, address(&local, known)).await;
            assert_eq!(answer["Address"], format!("{known}/24"));
        }
    }
    // Given back by the node, the address is still the manager's to give.
    plugin.ask("IpamDriver.ReleaseAddress", address(&local, "10.0.1.2")).await;
    plugin.ask("IpamDriver.ReleasePool", json!({ "PoolID": local })).await;
    assert_eq!(plugin.ask(request, address(&global, "")).await["Address"], "10.0.1.3/24");
    plugin.ask("IpamDriver.ReleaseAddress", address(&global, "10.0.1.2")).await;
    plugin.ask(request, address(&global, "10.0.1.2")).await;
}
