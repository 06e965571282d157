//! The tap helper in a real kernel: interfaces in namespaces, handed to a core over devices in memory.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::path::PathBuf;

use common::Scratch;
use tokio::{net::UnixListener, sync::mpsc};
use vswitch_cli::{
    attach::{
        helper::{Kind, Order, attach},
        target::Target,
    },
    client::ClientError,
};
use vswitch_host::netns::run_in;
use vswitch_model::{ErrorKind, InterfaceSpec, LimitSpec, Netns, attach::socket_path};

use super::{Attachment, Listener, serve as serve_attach};
use crate::{
    api::serve,
    core::simulated::{Simulated, name},
    state::Command,
};

/// A daemon with the network `blue`, and what helpers handed to it.
struct Daemon {
    _core: Simulated,
    socket: PathBuf,
    attached: mpsc::UnboundedReceiver<Attachment>,
}

impl Daemon {
    async fn start() -> Self {
        let core = Simulated::start("").await;
        let socket = core.path("api.sock");
        core.add_network(serde_json::from_str(r#"{"name": "blue", "mtu": 1450}"#).unwrap()).await.unwrap();
        tokio::spawn(serve(UnixListener::bind(&socket).unwrap(), core.clone(), std::future::pending()));
        let (sender, attached) = mpsc::unbounded_channel();
        let helpers = Listener::bind(&socket_path(&socket), None).unwrap();
        let handle = core.clone();
        tokio::spawn(serve_attach(helpers, move |attachment| {
            let (core, sender) = (handle.clone(), sender.clone());
            async move {
                let spec = attachment.request.port.clone();
                let port = core.execute(Command::AddPort(spec.clone())).await?.snapshot.port(&spec.name)?;
                sender.send(attachment).unwrap();
                Ok(port)
            }
        }));
        Self { _core: core, socket, attached }
    }
}

fn order(kind: Kind, port: &str, ifname: &str, netns: Netns) -> Order {
    let interface = InterfaceSpec {
        ifname: Some(ifname.parse().unwrap()),
        mac: Some("02:42:0a:09:00:02".parse().unwrap()),
        address: vec!["10.9.0.2/24".parse().unwrap()],
        gateway: vec!["10.9.0.1".parse().unwrap()],
        ..InterfaceSpec::default()
    };
    Order {
        network: name("blue"),
        name: name(port),
        target: Target::Netns(netns),
        kind,
        interface,
        mtu: None,
        limit: LimitSpec::default(),
    }
}

/// Runs a test inside a namespace that stands for the host, so that the machine's own stays as it is.
fn in_host<F: Future<Output = ()>>(host: &Scratch, test: impl FnOnce() -> F + Send) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    run_in(&host.open(), || runtime.block_on(test())).unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_tap_is_made_set_up_and_handed_over() {
    let (host, web) = (Scratch::new("tap-host"), Scratch::new("tap-web"));
    in_host(&host, async || {
        let mut daemon = Daemon::start().await;
        let order = order(Kind::Tap, "web", "eth0", web.netns());
        let port = attach(daemon.socket.clone(), order.clone()).await.unwrap();
        assert_eq!((port.name.as_str(), port.device.as_str()), ("web", "eth0"));

        let attachment = daemon.attached.recv().await.unwrap();
        assert_eq!(attachment.caller.pid, i32::try_from(std::process::id()).ok());
        let tap = attachment.tap.unwrap();
        assert_eq!(tap.name().unwrap(), "eth0");
        let spec = attachment.request.port.interface().unwrap().clone();
        assert_eq!(spec, InterfaceSpec { netns: Some(web.netns()), ..order.interface.clone() });
        let shown = web.ip("-d address show eth0");
        for part in [
            "mtu 1450",
            "02:42:0a:09:00:02",
            "10.9.0.2/24",
            "tun type tap",
            "vnet_hdr on",
            "persist off",
            "UP",
        ] {
            assert!(shown.contains(part), "{part} missing in\n{shown}");
        }
        assert!(web.ip("route show").starts_with("default via 10.9.0.1 dev eth0"));

        let again = attach(daemon.socket.clone(), order).await.unwrap_err();
        let label = &web.0;
        let sentence =
            format!("eth0 already exists in namespace {label}: choose another --ifname or delete it");
        assert_eq!(again.to_string(), sentence);
        drop(tap);
        assert!(!web.ip("link show").contains("eth0"), "it goes with its descriptor");
    });
}

#[test]
#[ignore = "needs root"]
fn of_a_veth_pair_the_daemon_gets_the_hosts_end() {
    let (host, web) = (Scratch::new("pair-host"), Scratch::new("pair-web"));
    in_host(&host, async || {
        let mut daemon = Daemon::start().await;
        attach(daemon.socket.clone(), order(Kind::Veth, "web", "eth0", web.netns())).await.unwrap();
        let attachment = daemon.attached.recv().await.unwrap();
        assert!(attachment.tap.is_none());
        assert_eq!(attachment.request.host_ifname.as_deref(), Some("vp-web"));
        assert!(host.ip("-o link show vp-web").contains("mtu 65535"));
        assert!(web.ip("-o address show eth0").contains("10.9.0.2/24"));
    });
}

#[test]
#[ignore = "needs root"]
fn a_refused_interface_is_taken_away_again() {
    let (host, web) = (Scratch::new("undo-host"), Scratch::new("undo-web"));
    in_host(&host, async || {
        let daemon = Daemon::start().await;
        attach(daemon.socket.clone(), order(Kind::Veth, "web", "eth0", web.netns())).await.unwrap();
        let other = |kind, port, ifname| {
            let mut order = order(kind, port, ifname, web.netns());
            order.interface.address = vec!["10.9.0.3/24".parse().unwrap()];
            order.interface.gateway.clear();
            order.interface.persist = true;
            order
        };
        let mut taken = other(Kind::Tap, "db", "eth1");
        taken.interface.address = vec!["10.9.0.2/24".parse().unwrap()];
        let mut unknown = other(Kind::Tap, "db", "eth1");
        unknown.network = name("red");
        let mut long = other(Kind::Tap, "longer-than-an-interface-s", "eth1");
        long.interface.ifname = None;
        for (order, code, part) in [
            (other(Kind::Tap, "web", "eth1"), ErrorKind::Conflict, "port web exists already"),
            (other(Kind::Veth, "web", "eth1"), ErrorKind::Conflict, "vp-web already exists"),
            (taken, ErrorKind::Conflict, "10.9.0.2 is already on eth0"),
            (unknown, ErrorKind::NotFound, "network red not found"),
            (long, ErrorKind::Invalid, "is not an interface name"),
        ] {
            match attach(daemon.socket.clone(), order).await.unwrap_err() {
                ClientError::Refused(error) => {
                    assert_eq!(error.kind, code, "{error}");
                    assert!(error.sentence.contains(part), "{error}");
                }
                other => panic!("{other}"),
            }
            assert!(!web.ip("link show").contains("eth1"), "{part}");
        }
        assert_eq!(host.ip("-o link show type veth").lines().count(), 1);
    });
}
