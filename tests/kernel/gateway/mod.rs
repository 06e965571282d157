//! The outside world: what containers reach, what reaches them, and what is out of reach.
//!
//! ```text
//!  outside ----wan--- host ----gw-blue---- blue: bridge ---- web, client
//! 192.0.2.2     192.0.2.1   \---gw-red---- red:  bridge ---- other
//! ```
//!
//! A network is a namespace with a kernel bridge in place of the switch; the gateway acts in `host`.

mod publish;
mod reach;
mod table;
mod tracked;

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use vswitch_tests::control::{
    gateway::{Gateway, Outside},
    publish::{Publish, Published},
};
use vswitch_tests::{Netns, PATIENCE, eventually};

/// Timeout for what must not happen: everything is a few hops within one kernel.
const SILENCE: Duration = Duration::from_millis(400);

/// The host, a station outside, and two networks.
struct World {
    gateway: Gateway,
    host: Netns,
    outside: Netns,
    blue: Network,
    red: Network,
}

/// A network with two containers.
struct Network {
    number: u8,
    ifname: String,
    web: Netns,
    client: Netns,
    _bridge: Netns,
}

impl Network {
    fn new(host: &Netns, name: &str, number: u8) -> Self {
        let bridge = Netns::new(name);
        bridge.ip("link add bridge type bridge");
        bridge.ip("link set bridge up");
        let join = |inside: &Netns, ifname: &str, port: &str, own: u8| {
            let peer = inside.name();
            bridge.ip(&format!("link add {port} type veth peer name {ifname} netns {peer}"));
            bridge.ip(&format!("link set {port} master bridge up"));
            inside.ip(&format!("address add 10.9.{number}.{own}/24 dev {ifname}"));
            inside.ip(&format!("address add fd00:9:{number}::{own}/64 dev {ifname} nodad"));
            inside.ip(&format!("link set {ifname} up"));
        };
        let ifname = format!("gw-{name}");
        join(host, &ifname, "port0", 1);
        let container = |own: u8| {
            let container = Netns::new(name);
            join(&container, "eth0", &format!("port{own}"), own);
            container.ip(&format!("route add default via 10.9.{number}.1"));
            container.ip(&format!("-6 route add default via fd00:9:{number}::1"));
            container
        };
        let (web, client) = (container(2), container(3));
        Self { number, ifname, web, client, _bridge: bridge }
    }

    fn ip(&self, own: u8) -> IpAddr {
        format!("10.9.{}.{own}", self.number).parse().unwrap()
    }

    fn ip6(&self, own: u8) -> IpAddr {
        format!("fd00:9:{}::{own}", self.number).parse().unwrap()
    }

    fn outside(&self, published: Vec<Published>) -> Outside {
        let subnets = [format!("10.9.{}.0/24", self.number), format!("fd00:9:{}::/64", self.number)];
        let subnets = subnets.iter().map(|net| net.parse().unwrap()).collect();
        Outside {
            ifname: self.ifname.clone(),
            internal: false,
            subnets,
            masquerade: true,
            published,
            tunnels: Arc::default(),
        }
    }

    /// As the outside knows the way, it sees who comes.
    fn routed(&self) -> Outside {
        Outside { masquerade: false, ..self.outside(Vec::new()) }
    }
}

impl World {
    fn new() -> Self {
        let (host, outside) = (Netns::new("host"), Netns::new("outside"));
        host.ip(&format!("link add wan type veth peer name wan netns {}", outside.name()));
        for (netns, own) in [(&host, 1), (&outside, 2)] {
            netns.ip(&format!("address add 192.0.2.{own}/24 dev wan"));
            netns.ip(&format!("address add 2001:db8::{own}/64 dev wan nodad"));
            netns.ip("link set wan up");
        }
        let (blue, red) = (Network::new(&host, "blue", 1), Network::new(&host, "red", 2));
        Self { gateway: Gateway::new(), host, outside, blue, red }
    }

    /// Runs `act` on the gateway in the host's namespace.
    fn at_host<T: Send>(&mut self, act: impl FnOnce(&mut Gateway) -> T + Send) -> T {
        let gateway = &mut self.gateway;
        self.host.run(|| act(gateway))
    }

    fn set(&mut self, outsides: &[Outside]) {
        self.at_host(|gateway| gateway.set(outsides)).unwrap();
    }

    fn reserve(&mut self, publish: &[&str], addresses: &[IpAddr]) -> Result<Vec<Published>, String> {
        let publish: Vec<Publish> = publish.iter().map(|text| text.parse().unwrap()).collect();
        let reserved = self.at_host(|gateway| gateway.reserve(&publish, addresses, true));
        reserved.map_err(|error| error.to_string())
    }

    /// Publishes ports of blue's web server, and nothing else.
    fn publish(&mut self, publish: &[&str]) -> Vec<Published> {
        let published = self.reserve(publish, &[self.blue.ip(2), self.blue.ip6(2)]).unwrap();
        self.set(&[self.blue.outside(published.clone()), self.red.outside(Vec::new())]);
        published
    }

    /// Gives the outside routes to the networks, so that masquerading is not needed.
    fn route_inward(&self) {
        self.outside.ip("route add 10.9.0.0/16 via 192.0.2.1");
        self.outside.ip("-6 route add fd00:9::/32 via 2001:db8::1");
    }

    fn tables(&self) -> String {
        nft(&self.host, &["list", "tables"])
    }
}

fn nft(netns: &Netns, arguments: &[&str]) -> String {
    let output = netns.run(|| Command::new("nft").args(arguments).output().expect("nftables is installed"));
    assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn socket(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// A server that replies, over TCP and UDP, with the client's address. Stopped on drop.
pub(crate) struct Mirror {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Mirror {
    pub(crate) fn start(netns: &Netns, port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let at = socket("::", port);
        let (listener, datagrams) =
            netns.run(|| (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()));
        listener.set_nonblocking(true).unwrap();
        datagrams.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (tcp, udp) = (Arc::clone(&stop), Arc::clone(&stop));
        let tcp = thread::spawn(move || {
            while !tcp.load(Relaxed) {
                match listener.accept() {
                    // A client that has disconnected needs no reply.
                    Ok((mut stream, from)) => drop(stream.write_all(name(from).as_bytes())),
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        let udp = thread::spawn(move || {
            while !udp.load(Relaxed) {
                if let Ok((_, from)) = datagrams.recv_from(&mut [0; 16]) {
                    drop(datagrams.send_to(name(from).as_bytes(), from));
                }
            }
        });
        Self { stop, threads: vec![tcp, udp] }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn name(from: SocketAddr) -> String {
    from.ip().to_canonical().to_string()
}

/// The source address with which `from` arrives at the mirror at `to`.
pub(crate) fn seen(from: &Netns, to: SocketAddr) -> String {
    eventually(&format!("{} reaches {to}", from.name()), || ask(from, to, PATIENCE))
}

fn ask(from: &Netns, to: SocketAddr, limit: Duration) -> Option<String> {
    let mut stream = from.run(|| TcpStream::connect_timeout(&to, limit)).ok()?;
    stream.set_read_timeout(Some(limit)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

pub(crate) fn seen_udp(from: &Netns, to: SocketAddr) -> String {
    let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
    let socket = from.udp(any);
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    eventually(&format!("{} reaches {to}/udp", from.name()), || {
        let mut answer = [0; 64];
        socket.send_to(b"?", to).ok()?;
        let (len, _) = socket.recv_from(&mut answer).ok()?;
        Some(String::from_utf8(answer[..len].to_vec()).unwrap())
    })
}

/// Whether a datagram of so many bytes to `to` is answered.
fn is_answered(from: &Netns, to: SocketAddr, len: usize) -> bool {
    let socket = from.udp(if to.is_ipv4() { "0.0.0.0" } else { "::" });
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    // No route, or refused: not answered either.
    socket.send_to(&vec![b'?'; len], to).is_ok() && socket.recv_from(&mut [0; 64]).is_ok()
}

fn unreachable(from: &Netns, to: SocketAddr) {
    let answer = ask(from, to, SILENCE);
    assert_eq!(answer, None, "{} reaches {to}", from.name());
}
