//! A swarm of two engines with the managed plugin: its networks and its services.

use std::{process::Stdio, time::Duration};

use vswitch_tests::{Engine, Netns, Vswitchd, eventually, net, within};

/// How long a swarm may take to do what it was asked for, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Two hosts on one link, 10.8.0.1 and 10.8.0.2, with an engine each: a manager and a worker.
struct Swarm {
    // Engines end before the switches whose mounts they share.
    engines: [Engine; 2],
    switches: [Vswitchd; 2],
}

impl Swarm {
    fn start() -> Self {
        let (a, b) = (Netns::new("host"), Netns::new("host"));
        a.ip(&format!("link add under type veth peer name under netns {}", b.name()));
        let hosts = [(a, "10.8.0.1", "10.8.0.2"), (b, "10.8.0.2", "10.8.0.1")];
        let switches = hosts.map(|(host, own, other)| {
            host.ip(&format!("addr add {own}/24 dev under"));
            host.ip("link set under up");
            Vswitchd::start_apart(host, &net().vxlan(own).peer(other).keys("[dns]\nenabled = true"))
        });
        let engines = [Engine::start(&switches[0]), Engine::start(&switches[1])];
        let swarm = Self { engines, switches };
        swarm.engines[0].docker(&["swarm", "init", "--advertise-addr", "10.8.0.1"]);
        let token = swarm.engines[0].docker(&["swarm", "join-token", "-q", "worker"]);
        let join = ["swarm", "join", "--advertise-addr", "10.8.0.2", "--token", &token, "10.8.0.1:2377"];
        swarm.engines[1].docker(&join);
        for (engine, switch) in swarm.engines.iter().zip(&swarm.switches) {
            let socket = engine.socket();
            let command = ["docker", "plugin", "--engine", socket.to_str().unwrap()];
            let made = engine.try_ctl(switch, &command);
            assert_eq!(made.code, 0, "{}", made.stderr);
            assert!(made.stdout.contains("made and enabled"), "{}", made.stdout);
            let again = engine.try_ctl(switch, &command);
            assert!(again.stdout.contains("there already"), "{again:?}");
        }
        swarm
    }

    fn docker(&self, line: &str) -> String {
        self.engines[0].docker(&line.split(' ').collect::<Vec<_>>())
    }

    /// The containers of a service that run on a host.
    fn containers(&self, host: usize, service: &str) -> Vec<String> {
        let label = format!("label=com.docker.swarm.service.name={service}");
        let list = self.engines[host].docker(&["ps", "-q", "--filter", &label]);
        list.lines().map(str::to_owned).collect()
    }

    /// Changes the number of a service's tasks, and waits until exactly these run, on both hosts together.
    fn scale(&self, service: &str, count: usize) {
        self.docker(&format!("service scale --detach {service}={count}"));
        within(PATIENCE, &format!("{count} tasks of {service} run"), || {
            let running = self.containers(0, service).len() + self.containers(1, service).len();
            (running == count).then_some(())
        });
    }
}

/// What a look-up in a container says: an address for each line.
fn look_up(engine: &Engine, container: &str, name: &str, server: &str) -> Vec<String> {
    let said = engine.try_docker(&["exec", container, "nslookup", "-type=a", name, server]);
    let answer = said.stdout.split("Name:").skip(1);
    let addresses = answer.filter_map(|part| part.split("Address:").nth(1)?.split_whitespace().next());
    let mut addresses: Vec<_> = addresses.map(str::to_owned).collect();
    addresses.sort();
    addresses
}

#[test]
fn a_service_is_scaled_and_no_look_up_fails() {
    let swarm = Swarm::start();
    swarm.docker("network create -d vswitch:latest --attachable --subnet 10.77.0.0/24 blue");
    let base = "service create --detach --no-resolve-image --network blue --endpoint-mode dnsrr";
    swarm.docker(&format!("{base} --name api --stop-grace-period 1s box sleep 100000"));
    swarm.docker(&format!("{base} --name client --mode global --stop-grace-period 1s box sleep 100000"));
    let clients = [0, 1].map(|host| {
        within(PATIENCE, "a client runs on each host", || swarm.containers(host, "client").pop())
    });
    swarm.scale("api", 1);

    // Over the tunnel: the clients are on different hosts.
    let at_second = swarm.engines[1].docker(&[
        "inspect",
        "-f",
        "{{.NetworkSettings.Networks.blue.IPAddress}}",
        &clients[1],
    ]);
    swarm.engines[0].reaches(&clients[0], &at_second);
    for host in [0, 1] {
        eventually("the service's name is known", || {
            (look_up(&swarm.engines[host], &clients[host], "api", "127.0.0.11").len() == 1).then_some(())
        });
    }

    // A client on each host asks without a pause, while tasks come and go; each answer has a task.
    let folder = swarm.switches[0].folder().join("asked");
    let asking: Vec<_> = [0, 1]
        .map(|host| {
            let script = "while :; do if ping -c 1 -W 1 api >/dev/null 2>&1; then echo ok; \
                          elif nslookup -type=a api 127.0.0.11 2>/dev/null | grep -q Name:; then echo slow; \
                          else echo lost; fi; done";
            let log = std::fs::File::create(folder.with_extension(host.to_string())).unwrap();
            let mut command = swarm.engines[host].command_of(&["exec", &clients[host], "sh", "-c", script]);
            command.stdin(Stdio::null()).stdout(log);
            swarm.switches[host].host.run(|| command.spawn().unwrap())
        })
        .into();
    let said = |host: usize| std::fs::read_to_string(folder.with_extension(host.to_string())).unwrap();
    let asks_on = || {
        let before = [0, 1].map(|host| said(host).lines().count());
        for host in [0, 1] {
            eventually("it asks on", || (said(host).lines().count() > before[host] + 5).then_some(()));
        }
    };
    asks_on();
    swarm.scale("api", 10);
    asks_on();
    for host in [0, 1] {
        eventually("the service has all its tasks", || {
            (look_up(&swarm.engines[host], &clients[host], "api", "127.0.0.11").len() == 10).then_some(())
        });
    }
    swarm.scale("api", 1);
    asks_on();
    for mut child in asking {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    for host in [0, 1] {
        let said = said(host);
        let count = |word: &str| said.lines().filter(|line| *line == word).count();
        let (ok, slow, lost) = (count("ok"), count("slow"), count("lost"));
        eprintln!("host {host}: {ok} answered and reached, {slow} answered, {lost} not answered");
        assert_eq!(lost, 0, "a name of a service is always answered");
    }
    // After the drain every answer is one that serves.
    let alone = within(PATIENCE, "one task is left", || {
        let found = look_up(&swarm.engines[0], &clients[0], "api", "127.0.0.11");
        (found.len() == 1).then(|| found[0].clone())
    });
    for _ in 0..20 {
        assert_eq!(look_up(&swarm.engines[1], &clients[1], "api", "127.0.0.11"), [alone.as_str()]);
    }
    swarm.engines[1].reaches(&clients[1], "api");

    // Our own server knows the task on both hosts, whichever has it.
    for host in [0, 1] {
        eventually("our server knows the task", || {
            let found = look_up(&swarm.engines[host], &clients[host], "api", "169.254.53.53");
            (found == [alone.as_str()]).then_some(())
        });
    }
    // An address of a service's own is told of, and our server answers with the task's.
    swarm.docker("service create --detach --no-resolve-image --network blue --name front box sleep 100000");
    swarm.scale("front", 1);
    let host = usize::from(swarm.containers(0, "front").is_empty());
    eventually("it is told that nothing answers at its address", || {
        swarm.switches[host]
            .log()
            .contains("service front of the swarm has the address 10.77.0.")
            .then_some(())
    });
    let front = swarm.containers(host, "front").pop().unwrap();
    let address = "{{.NetworkSettings.Networks.blue.IPAddress}}";
    let at_front = swarm.engines[host].docker(&["inspect", "-f", address, &front]);
    for host in [0, 1] {
        eventually("our server has the task's address", || {
            let found = look_up(&swarm.engines[host], &clients[host], "front", "169.254.53.53");
            (found == [at_front.as_str()]).then_some(())
        });
    }

    swarm.docker("service rm api client front");
    eventually("nothing of it is left on either host", || {
        let none = |host: usize| swarm.containers(host, "client").is_empty();
        (none(0) && none(1)).then_some(())
    });
    within(PATIENCE, "the network can be removed", || {
        (swarm.engines[0].try_docker(&["network", "rm", "blue"]).code == 0).then_some(())
    });
    for (engine, switch) in swarm.engines.iter().zip(&swarm.switches) {
        eventually("the switch has no network of the swarm", || {
            let networks = switch.ctl(&["network", "ls", "--filter", "driver=overlay"]);
            networks.as_array().unwrap().is_empty().then_some(())
        });
        let socket = engine.socket();
        let remove = ["docker", "plugin", "--engine", socket.to_str().unwrap(), "--remove"];
        let removed = engine.try_ctl(switch, &remove);
        assert_eq!(removed.code, 0, "{}", removed.stderr);
    }
}
