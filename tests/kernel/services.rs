//! Services: real clients reach several endpoints by one address, and see nothing of what is in between.

mod elsewhere;
mod ingress;

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use vswitch_tests::{Netns, PATIENCE, Vswitchd, eventually, net, tcp};

const SERVICE: &str = "10.9.0.100";
const SERVICE6: &str = "fd09::100";

fn switch() -> Vswitchd {
    let switch = Vswitchd::start(&net().keys("[dns]\nenabled = true\n"));
    ctl(&switch, "network create --subnet 10.9.0.0/24 --subnet fd09::/64 blue");
    ctl(&switch, &format!("service create --network blue --ip {SERVICE} --ip {SERVICE6} web"));
    switch
}

fn ctl(switch: &Vswitchd, arguments: &str) -> String {
    let output = switch.try_ctl(&arguments.split(' ').collect::<Vec<_>>());
    assert_eq!(output.code, 0, "{arguments}: {}", output.stderr);
    output.stdout
}

fn connect(switch: &Vswitchd, netns: &Netns, name: &str, more: &str) {
    ctl(switch, &format!("network connect --name {name} {more}blue netns:{}", netns.name()));
    // Addresses of IPv6 are tried out first.
    eventually("its addresses are usable", || {
        (!netns.ip("-6 address show").contains("tentative")).then_some(())
    });
}

/// A web server that says its name, and remembers its clients.
struct Server {
    clients: Arc<Mutex<BTreeSet<String>>>,
}

impl Server {
    fn start(netns: &Netns, name: &'static str) -> Self {
        let clients: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        for address in ["0.0.0.0:80", "[::]:80"] {
            let listener = netns.run(|| listen(address));
            let clients = Arc::clone(&clients);
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let Ok(mut stream) = stream else { return };
                    clients
                        .lock()
                        .unwrap()
                        .insert(stream.peer_addr().unwrap().ip().to_canonical().to_string());
                    let _ = stream.set_read_timeout(Some(PATIENCE));
                    let _ = stream.read(&mut [0; 4096]);
                    let _ = stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{name}").as_bytes());
                }
            });
        }
        Self { clients }
    }

    fn clients(&self) -> Vec<String> {
        self.clients.lock().unwrap().iter().cloned().collect()
    }
}

/// Both families have a socket of their own.
fn listen(address: &str) -> TcpListener {
    let address: SocketAddr = address.parse().unwrap();
    let domain = if address.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.bind(&address.into()).unwrap();
    socket.listen(128).unwrap();
    socket.into()
}

/// What `curl` gets, and its exit code.
fn curl(netns: &Netns, address: &str) -> (i32, String) {
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--max-time", "5", &format!("http://{host}/")]);
    let output = netns.run(|| curl.output().expect("curl is installed"));
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

fn ps(switch: &Vswitchd) -> Vec<(String, String, u64)> {
    let services = switch.ctl(&["service", "ps", "web"]);
    let row = |it: &Value| {
        let text = |key: &str| it[key].as_str().unwrap().to_owned();
        (text("name"), text("state"), it["flows"].as_u64().unwrap())
    };
    services[0]["backends"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn clients_reach_endpoints_by_one_address_and_endpoints_see_their_clients() {
    let switch = switch();
    let (client, one, two) = (Netns::new("client"), Netns::new("one"), Netns::new("two"));
    connect(&switch, &client, "client", "--ip 10.9.0.50 --ip6 fd09::50 ");
    // Refused, not silent.
    let begin = Instant::now();
    for address in [SERVICE, SERVICE6] {
        assert_eq!(curl(&client, address).0, 7, "refused");
    }
    assert!(begin.elapsed() < Duration::from_secs(4));
    assert_eq!(switch.dropped("client.blue", "SERVICE_NO_BACKEND"), 2);

    connect(&switch, &one, "one", "--service web ");
    connect(&switch, &two, "two", "--service web --driver-opt kind=veth ");
    let servers = [Server::start(&one, "one"), Server::start(&two, "two")];
    for address in [SERVICE, SERVICE6] {
        let seen: BTreeSet<String> = (0..30).map(|_| curl(&client, address).1).collect();
        assert_eq!(seen, ["one", "two"].map(str::to_owned).into(), "{address}");
        client.reaches(address);
    }
    for server in &servers {
        assert_eq!(server.clients(), ["10.9.0.50", "fd09::50"]);
    }
    // A backend reaches the service that it is itself, and the host does too.
    for address in [SERVICE, SERVICE6] {
        let seen: BTreeSet<String> = (0..30).map(|_| curl(&one, address).1).collect();
        assert_eq!(seen.len(), 2, "{address}");
    }
    assert!(["one", "two"].contains(&&*curl(&switch.host, SERVICE).1));

    // One is drained.
    ctl(&switch, "service update --drain one web");
    assert!((0..20).all(|_| curl(&client, SERVICE).1 == "two"));
    assert_eq!(ps(&switch)[0].1, "draining");
    ctl(&switch, "service update --resume one --drain two web");
    assert!((0..20).all(|_| curl(&client, SERVICE6).1 == "one"));
    ctl(&switch, "service update --resume two web");

    // One leaves: nothing more goes there.
    ctl(&switch, "network disconnect blue one");
    assert!((0..20).all(|_| curl(&client, SERVICE).1 == "two"));
    ctl(&switch, "service rm web");
    assert_eq!(switch.ctl(&["service", "ls"]), serde_json::json!([]));
}

#[test]
fn an_endpoint_that_fails_its_check_gets_nothing_while_another_passes() {
    let switch = switch();
    let (client, one, two) = (Netns::new("client"), Netns::new("one"), Netns::new("two"));
    connect(&switch, &client, "client", "");
    connect(&switch, &one, "one", "--service web ");
    connect(&switch, &two, "two", "--service web ");
    let _one = Server::start(&one, "one");
    let state = |which: usize, wanted: &str| {
        eventually(&format!("{wanted}: {which}"), || (ps(&switch)[which].1 == wanted).then_some(()));
    };
    ctl(&switch, "service update --health http:80/ --health-interval 1 --health-retries 2 web");
    state(0, "ready");
    assert_eq!(ps(&switch)[1].1, "unready", "nothing listens there");
    assert!((0..20).all(|_| curl(&client, SERVICE).1 == "one"));
    let _two = Server::start(&two, "two");
    state(1, "ready");
    let seen: BTreeSet<String> = (0..30).map(|_| curl(&client, SERVICE).1).collect();
    assert_eq!(seen.len(), 2);
    switch.logs(&["it serves", "endpoint=two"]);
    // None passes: all get connections.
    ctl(&switch, "service update --health tcp:81 --health-interval 1 --health-retries 1 web");
    state(0, "unready");
    state(1, "unready");
    let seen: BTreeSet<String> = (0..30).map(|_| curl(&client, SERVICE).1).collect();
    assert_eq!(seen.len(), 2);
}

#[test]
fn it_is_explained_and_has_a_name() {
    let switch = switch();
    let (client, one) = (Netns::new("client"), Netns::new("one"));
    connect(&switch, &client, "client", "");
    connect(&switch, &one, "one", "--label app=web ");
    ctl(&switch, "service update --selector-add app=web web");
    ctl(&switch, "service create --network blue --endpoint-mode dnsrr --selector app=web all");
    let server = Server::start(&one, "one");
    assert_eq!(curl(&client, SERVICE).1, "one");
    assert_eq!(server.clients().len(), 1);
    let trace =
        switch.try_ctl(&["trace", "--port", "client.blue", &format!("tcp 10.9.0.2:4711 > {SERVICE}:80")]);
    assert!(trace.stdout.contains("service web (10.9.0.100): endpoint one (10.9.0."), "{}", trace.stdout);
    let why = switch.try_ctl(&["why", "--ip", SERVICE]).stdout;
    assert!(why.contains("it is service web of network blue, served by one (ready"), "{why}");

    let dig = |name: &str| {
        let mut dig = Command::new("dig");
        dig.args(["+tries=1", "+time=5", "+short", "@169.254.53.53", name]);
        let output = client.run(|| dig.output().expect("bind9-dnsutils is installed"));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let own = switch.ctl(&["endpoint", "ls"]);
    let one = own.as_array().unwrap().iter().find(|it| it["name"] == "one").unwrap();
    let one = one["addresses"][0].as_str().unwrap().split('/').next().unwrap().to_owned();
    assert_eq!(dig("web"), SERVICE);
    assert_eq!([dig("tasks.web"), dig("all"), dig("tasks.all.blue")], [one.clone(), one.clone(), one]);
}

#[test]
fn open_connections_go_on_when_the_daemon_is_killed_and_one_of_a_backend_that_goes_is_reset() {
    let mut switch = switch();
    let (client, one, two) = (Netns::new("client"), Netns::new("one"), Netns::new("two"));
    connect(&switch, &client, "client", "");
    connect(&switch, &one, "one", "--service web ");
    let listener = one.listen("0.0.0.0");
    let port = listener.local_addr().unwrap().port();
    let open = || {
        let near = client.connect(SocketAddr::new(SERVICE.parse().unwrap(), port));
        let (far, _) = listener.accept().unwrap();
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
        }
        (near, far)
    };
    let busy = open();
    let quiet = open();
    // With another backend, the hash alone would not tell where they were.
    connect(&switch, &two, "two", "--service web ");
    let flow = tcp::Flow::of(busy.0, busy.1);
    flow.flows(1_000_000);
    assert_eq!(ps(&switch)[0].2, 2);
    switch.kill();
    switch.run();
    flow.flows(1_000_000);
    flow.stop();
    // The backend speaks first.
    let (mut near, mut far) = quiet;
    far.write_all(b"hello").unwrap();
    let mut buffer = [0; 5];
    near.read_exact(&mut buffer).unwrap();
    near.write_all(b"there").unwrap();
    far.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"there");

    ctl(&switch, "network disconnect blue one");
    let reset = eventually("its client is told", || near.write_all(b"more").err().map(|error| error.kind()));
    assert!([ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&reset), "{reset:?}");
}

#[test]
fn streams_and_datagrams_of_iperf3_in_one_piece_and_in_fragments() {
    let switch = switch();
    let (client, one) = (Netns::new("client"), Netns::new("one"));
    connect(&switch, &client, "client", "");
    connect(&switch, &one, "one", "--service web ");
    let start = || Command::new("iperf3").arg("-s").stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let _server = Ended(one.run(|| start().expect("iperf3 is installed")));
    eventually("it listens", || {
        client.run(|| TcpStream::connect_timeout(&format!("{SERVICE}:5201").parse().unwrap(), PATIENCE)).ok()
    });
    for (address, more) in [
        (SERVICE, "-t 1"),
        (SERVICE6, "-t 1 -R"),
        (SERVICE, "-t 1 -u -b 50M -l 1400"),
        (SERVICE, "-t 1 -u -b 50M -l 4000"),
        (SERVICE6, "-t 1 -u -b 50M -l 4000 -R"),
    ] {
        let mut iperf = Command::new("iperf3");
        iperf.args(["-c", address, "-J"]).args(more.split(' '));
        // The server takes one client at a time, and has one that is gone for a while.
        let report = eventually("the server is free", || {
            let output = client.run(|| iperf.output().unwrap());
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            report["error"].is_null().then_some(report)
        });
        let end = &report["end"];
        let sum = if more.contains("-u") { &end["sum"] } else { &end["sum_received"] };
        assert!(sum["bytes"].as_f64().unwrap_or(0.0) > 1e6, "{address} {more}: {report}");
        if more.contains("-u") {
            assert!(sum["lost_percent"].as_f64().unwrap() < 5.0, "{address} {more}: {sum}");
        }
    }
}

/// A process that ends with the test, whatever becomes of that.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
