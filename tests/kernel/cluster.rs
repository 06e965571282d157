//! Clusters: hosts with a real etcd, from nothing to networks over all of them, and through the loss of the store.

mod secure;

use std::{
    fs,
    io::{Read, Write},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use vswitch_tests::{Netns, Vswitchd, eventually, net, process::Running, within};

/// Hosts on one link: 10.8.0.1 and so on.
pub(crate) struct Hosts {
    pub(crate) hosts: Vec<Vswitchd>,
    pub(crate) link: Netns,
}

impl Hosts {
    /// Starts `count` hosts that know nothing of each other.
    fn start(count: usize) -> Self {
        let link = Netns::new("link");
        link.ip("link add br0 type bridge");
        link.ip("link set br0 up");
        let host = |number: usize| {
            let host = Netns::new(&format!("host{number}"));
            host.ip(&format!("link add eth0 type veth peer name h{number} netns {}", link.name()));
            link.ip(&format!("link set h{number} master br0 up"));
            host.ip(&format!("addr add 10.8.0.{number}/24 dev eth0"));
            host.ip("link set eth0 up");
            Vswitchd::start_in(host, &net().switch(&format!("name = \"host{number}\"")))
        };
        Self { hosts: (1..=count).map(host).collect(), link }
    }

    /// The same, all in a cluster that the first one has begun.
    pub(crate) fn joined(count: usize) -> Self {
        let hosts = Self::start(count);
        hosts.init();
        (2..=count).for_each(|number| hosts.join(number));
        hosts
    }

    /// The host of that number, from 1 on.
    pub(crate) fn host(&self, number: usize) -> &Vswitchd {
        &self.hosts[number - 1]
    }

    pub(crate) fn ctl(&self, number: usize, line: &str) -> Value {
        self.host(number).ctl(&line.split(' ').collect::<Vec<_>>())
    }

    pub(crate) fn refused(&self, number: usize, line: &str) -> String {
        self.host(number).refusal(&line.split(' ').collect::<Vec<_>>()).1
    }

    fn init(&self) {
        self.ctl(1, "cluster init --advertise 10.8.0.1");
    }

    fn token(&self) -> String {
        self.ctl(1, "cluster token")["token"].as_str().unwrap().to_owned()
    }

    fn join(&self, number: usize) {
        self.ctl(number, &format!("cluster join --token {} 10.8.0.1", self.token()));
    }

    /// Connects a container of a host; returns its address.
    pub(crate) fn connect(&self, number: usize, network: &str, container: &Netns) -> String {
        let endpoint = self.ctl(number, &format!("network connect {network} netns:{}", container.name()));
        let address = endpoint["addresses"][0].as_str().unwrap();
        address.split('/').next().unwrap().to_owned()
    }

    /// The store, which runs below the first host's daemon.
    fn store(&self) -> Pid {
        eventually("the store runs", || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.host(1).pid())).ok()?;
            let children =
                tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
            let pids: Vec<i32> = children
                .flat_map(|line| line.split_whitespace().flat_map(str::parse).collect::<Vec<_>>())
                .collect();
            let is_etcd = |pid: &i32| {
                fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "etcd")
            };
            pids.into_iter().find(is_etcd).and_then(Pid::from_raw)
        })
    }

    /// Waits until a host follows the store, or does not.
    fn follows(&self, number: usize, up: bool) {
        eventually(&format!("host{number} follows the store: {up}"), || {
            (self.ctl(number, "cluster status")["store"]["up"] == up).then_some(())
        });
    }

    /// Waits until all hosts tell the same of all endpoints, and returns it.
    fn agree(&self) -> Value {
        eventually("all hosts tell the same", || {
            let all: Vec<_> =
                (1..=self.hosts.len()).map(|host| self.ctl(host, "endpoint ls --all")).collect();
            all.iter().all(|it| *it == all[0]).then(|| all[0].clone())
        })
    }
}

/// Names in a column of a listing.
fn names(list: &Value, key: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|it| it[key].as_str().unwrap().to_owned()).collect()
}

#[test]
fn from_nothing_to_a_ping_across_hosts() {
    let hosts = Hosts::start(3);
    let (web, db, job) = (Netns::new("web"), Netns::new("db"), Netns::new("job"));
    hosts.init();
    hosts.join(2);
    hosts.ctl(1, "network create -d overlay blue");
    hosts.connect(1, "blue", &web);
    let at = hosts.connect(2, "blue", &db);
    web.reaches(&at);

    // A host that comes later has it at once, and nothing was said about peers, VNIs or addresses.
    hosts.join(3);
    let networks = hosts.ctl(3, "network ls");
    assert!(names(&networks, "name").contains(&"blue".to_owned()), "{networks}");
    let third = hosts.connect(3, "blue", &job);
    job.reaches(&at);
    web.reaches(&third);
    let placed = hosts.agree();
    assert_eq!(names(&placed, "host"), ["host1", "host2", "host3"]);
    // What the directory knows is not flooded for: it is in the table before a frame was seen.
    let mac = placed[2]["mac"].as_str().unwrap();
    eventually("the directory is in the table", || {
        let table = hosts.ctl(2, "fdb ls --network blue");
        table.as_array().unwrap().iter().any(|it| it["mac"] == mac && it["port"] == "host3").then_some(())
    });
    // And what it says of an address, from any host.
    let why = hosts.ctl(1, &format!("why --ip {third}"));
    let findings = why["findings"].to_string();
    assert!(
        findings.contains("the cluster has it as endpoint") && findings.contains("on host host3"),
        "{why}"
    );
    assert!(findings.contains("in network blue since 20") && findings.contains("by revision"), "{why}");
    let hosts_listed = hosts.ctl(2, "cluster ls");
    assert_eq!(names(&hosts_listed, "name"), ["host1", "host2", "host3"]);
    assert_eq!(names(&hosts_listed, "status"), ["ready", "ready", "ready"]);

    // One name, and no removal while any host has endpoints.
    assert!(
        hosts.refused(3, "network create -d overlay blue").contains("network with name blue already exists")
    );
    let why = hosts.refused(1, "network rm blue");
    assert!(why.contains("network blue has active endpoints"), "{why}");
    hosts.ctl(1, &format!("network disconnect blue {}", web.name()));
    let why = hosts.refused(1, "network rm blue");
    assert!(why.contains("on host2") && why.contains("on host3"), "{why}");
    hosts.ctl(1, "network prune --force");
    assert!(names(&hosts.ctl(1, "network ls"), "name").contains(&"blue".to_owned()));
    hosts.ctl(2, &format!("network disconnect blue {}", db.name()));
    hosts.ctl(3, &format!("network disconnect blue {}", job.name()));
    eventually("the network can be removed", || {
        (hosts.host(1).try_ctl(&["network", "rm", "blue"]).code == 0).then_some(())
    });
    for host in 1..=3 {
        eventually("it is gone everywhere", || {
            (!names(&hosts.ctl(host, "network ls"), "name").contains(&"blue".to_owned())).then_some(())
        });
    }
}

#[test]
fn without_the_store_traffic_goes_on_and_containers_start() {
    let mut hosts = Hosts::joined(3);
    hosts.ctl(1, "network create -d overlay blue");
    let (web, db, late) = (Netns::new("web"), Netns::new("db"), Netns::new("late"));
    let at = hosts.connect(1, "blue", &web);
    hosts.connect(2, "blue", &db);
    db.reaches(&at);
    eventually("the third host has addresses to assign", || {
        let keys = hosts.ctl(3, "cluster status")["store"]["keys"].as_u64().unwrap();
        // meta, pools, 3 x node, alive, block, 3 of the network, 2 endpoints.
        (keys >= 16).then_some(())
    });

    // A connection that lives through all of it.
    let listener = web.listen(&at);
    let mut client = db.connect(listener.local_addr().unwrap());
    let (mut server, _) = listener.accept().unwrap();
    let mut echo = move || {
        client.write_all(b"are you there?").unwrap();
        let mut heard = [0; 14];
        server.read_exact(&mut heard).unwrap();
        server.write_all(&heard).unwrap();
        client.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"are you there?");
    };
    echo();

    // Longer than the leases are: when it goes on, all hosts are gone for it.
    let store = hosts.store();
    kill_process(store, Signal::STOP).unwrap();
    (1..=3).for_each(|host| hosts.follows(host, false));
    echo();
    // Without asking: what asks is refused now.
    let new = hosts.connect(3, "blue", &late);
    db.reaches(&new);
    late.reaches(&at);
    let why = hosts.refused(3, "network create -d overlay red");
    assert!(
        why.contains("the store does not answer") && why.contains("running containers are not affected"),
        "{why}"
    );

    // A restart, while there is no store: the host comes up with all it had.
    hosts.hosts[1].stop();
    hosts.hosts[1].run();
    echo();
    assert!(names(&hosts.ctl(2, "network ls"), "name").contains(&"blue".to_owned()));
    db.reaches(&new);

    kill_process(store, Signal::CONT).unwrap();
    (1..=3).for_each(|host| hosts.follows(host, true));
    echo();
    assert_eq!(names(&hosts.agree(), "host"), ["host1", "host2", "host3"]);
    let events = hosts.host(1).try_ctl(&["events"]).stdout;
    assert!(events.contains("the cluster's store is lost") && events.contains("the cluster's store is back"));
    assert!(!events.contains("is down"), "a store that stood still ends no host: {events}");

    // Killed: it is started again, and nothing is lost.
    kill_process(store, Signal::KILL).unwrap();
    eventually("another store runs", || (hosts.store() != store).then_some(()));
    (1..=3).for_each(|host| hosts.follows(host, true));
    echo();
    hosts.ctl(3, "network create -d overlay red");
    assert_eq!(names(&hosts.agree(), "host"), ["host1", "host2", "host3"]);
}

#[test]
fn joins_that_are_refused_say_why() {
    let hosts = Hosts::joined(2);
    let other = Hosts::start(1);
    other.init();
    let lone = Hosts::start(3);
    let token = hosts.token();
    // On the link of the first cluster: the second host leaves, and tries again.
    hosts.ctl(2, "cluster leave");
    eventually("the host is gone", || (hosts.ctl(1, "cluster ls").as_array()?.len() == 1).then_some(()));
    let refused = |line: &str| hosts.refused(2, line);
    for (line, why) in [
        ("cluster join --token SWMTKN-1-2-3 10.8.0.1".to_owned(), "that is no join token"),
        (format!("cluster join --token {} 10.8.0.1", other.token()), "is of another cluster"),
        (
            format!("cluster join --token {}{} 10.8.0.1", &token[..token.len() - 32], "0".repeat(32)),
            "not valid",
        ),
        (
            format!("cluster join --token {token} --name host1 10.8.0.1"),
            "there is a host host1 in the cluster",
        ),
        (format!("cluster join --token {token} 10.8.0.77"), "cannot join at 10.8.0.77:2377"),
        (format!("cluster join --token {token} nowhere"), "is not the address of a manager"),
        ("cluster status".to_owned(), "this host is in no cluster"),
    ] {
        let said = refused(&line);
        assert!(said.contains(why), "{line}: {said}");
        assert_eq!(names(&hosts.ctl(1, "cluster ls"), "name"), ["host1"], "{line}");
    }
    // What was refused leaves nothing behind.
    hosts.join(2);
    assert_eq!(names(&hosts.ctl(2, "cluster ls"), "name"), ["host1", "host2"]);
    assert!(refused("cluster init --advertise 10.8.0.2").contains("in cluster"));
    // An old token ends.
    hosts.ctl(1, "cluster token --rotate");
    hosts.ctl(2, "cluster leave");
    assert!(refused(&format!("cluster join --token {token} 10.8.0.1")).contains("not valid"));
    drop(lone);
}

#[test]
fn a_removed_host_is_fenced_and_its_addresses_are_free() {
    let mut hosts = Hosts::joined(3);
    hosts.ctl(1, "network create -d overlay --subnet 10.66.0.0/28 small");
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    let at = hosts.connect(3, "small", &web);
    hosts.agree();
    hosts.hosts[2].kill();
    hosts.ctl(1, "cluster rm host3");
    eventually("its records go", || {
        let left = hosts.ctl(1, "endpoint ls --all").as_array().unwrap().len();
        (left == 0 && names(&hosts.ctl(2, "cluster ls"), "name") == ["host1", "host2"]).then_some(())
    });
    // Its addresses are given out again when they are needed.
    let why = |line: &str| hosts.host(2).try_ctl(&line.split(' ').collect::<Vec<_>>());
    let taken = why(&format!("network connect small netns:{} --ip {at}", db.name()));
    assert_eq!(taken.code, 0, "{}", taken.stderr);
    // It comes back, and changes nothing.
    hosts.hosts[2].run();
    let fenced = eventually("it notices", || {
        let status = hosts.ctl(3, "cluster status");
        status["fenced"].as_str().map(str::to_owned)
    });
    assert!(fenced.contains("was removed from the cluster: leave it, and join again"), "{fenced}");
    assert_eq!(names(&hosts.ctl(1, "endpoint ls --all"), "host"), ["host2"]);
    hosts.ctl(3, "cluster leave --force");
    hosts.join(3);
    assert_eq!(names(&hosts.ctl(3, "cluster ls"), "name"), ["host1", "host2", "host3"]);
}

/// A host that is let in and cannot use the store is not in the cluster after that, and can try again by the same name.
#[test]
fn a_join_that_fails_leaves_no_record() {
    let hosts = Hosts::start(2);
    hosts.init();
    let cut = "add table inet cut; add chain inet cut out { type filter hook output priority 0; }; \
        add rule inet cut out tcp dport 2379 drop";
    let nft = |line: &str| hosts.host(2).host.run(|| Command::new("nft").arg(line).status().unwrap());
    assert!(nft(cut).success(), "nftables is installed");
    let why = hosts.refused(2, &format!("cluster join --token {} 10.8.0.1", hosts.token()));
    assert!(why.contains("the cluster's store cannot be used"), "{why}");
    assert_eq!(names(&hosts.ctl(1, "cluster ls"), "name"), ["host1"]);
    assert!(nft("delete table inet cut").success());
    hosts.join(2);
    assert_eq!(names(&hosts.ctl(1, "cluster ls"), "name"), ["host1", "host2"]);
}

/// What was acknowledged is on the disk: a host that dies right after it comes up with it, also without the store.
#[test]
fn a_killed_host_comes_up_with_the_network_it_was_just_told_of() {
    let mut hosts = Hosts::joined(2);
    let web = Netns::new("web");
    hosts.ctl(2, "network create -d overlay blue");
    let at = hosts.connect(2, "blue", &web);
    let network = hosts.ctl(2, "network inspect blue");
    let index = |hosts: &Hosts| {
        let ifname = hosts.host(2).port("gw.blue")["device"].as_str().unwrap().to_owned();
        let shown = hosts.host(2).host.ip(&format!("-j link show {ifname}"));
        serde_json::from_str::<Value>(&shown).unwrap()[0]["ifindex"].clone()
    };
    let before = index(&hosts);
    let store = hosts.store();
    hosts.hosts[1].kill();
    kill_process(store, Signal::STOP).unwrap();
    hosts.hosts[1].run();
    assert_eq!(hosts.ctl(2, "network inspect blue")[0]["id"], network[0]["id"]);
    assert!(network[0]["id"].is_string(), "{network}");
    assert_eq!(index(&hosts), before, "the same interface");
    // It still assigns from its block.
    let db = Netns::new("db");
    let second = hosts.connect(2, "blue", &db);
    assert_ne!(second, at);
    db.reaches(&at);
    kill_process(store, Signal::CONT).unwrap();
    hosts.follows(2, true);
}

/// An etcd of others, without TLS, found by its address alone.
struct Etcd {
    running: Running,
    _folder: TempDir,
}

impl Etcd {
    const URL: &str = "http://10.8.0.1:2379";

    /// Starts an empty one on the first host.
    fn spawn(hosts: &Hosts) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut etcd = Command::new("etcd");
        etcd.args(["--name", "one", "--listen-client-urls", Self::URL, "--advertise-client-urls", Self::URL]);
        etcd.args(["--listen-peer-urls", "http://10.8.0.1:2380", "--logger", "zap", "--log-level", "error"]);
        etcd.arg("--data-dir").arg(folder.path().join("data"));
        let host = &hosts.host(1).host;
        let etcd = host.run(|| etcd.spawn().expect("etcd is installed: `make test-kernel` does it"));
        Self { running: Running(etcd), _folder: folder }
    }

    /// Starts it, and waits until it answers hosts that are in no cluster.
    fn start(hosts: &Hosts) -> Self {
        let etcd = Self::spawn(hosts);
        let line = format!("cluster join --advertise 10.8.0.2 --store {}", Self::URL);
        eventually("the store is there, and has no cluster", || {
            hosts.refused(2, &line).contains("there is no cluster below /vswitch/v1/").then_some(())
        });
        etcd
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.running.0), signal).unwrap();
    }

    /// Does something while the store stands still, for longer than a call waits for its answer.
    fn stalled<T>(&self, what: impl FnOnce() -> T) -> T {
        self.signal(Signal::STOP);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_secs(6));
                self.signal(Signal::CONT);
            });
            what()
        })
    }
}

#[test]
fn a_store_that_is_there_is_used() {
    let hosts = Hosts::start(2);
    let _etcd = Etcd::start(&hosts);
    let url = Etcd::URL;
    let line = format!("cluster join --advertise 10.8.0.2 --store {url}");
    let begun = hosts.ctl(1, &format!("cluster init --advertise 10.8.0.1 --store {url}"));
    assert!(
        begun["command"].as_str().unwrap().contains("cluster join --store http://10.8.0.1:2379"),
        "{begun}"
    );
    assert!(
        hosts.refused(2, &format!("cluster init --advertise 10.8.0.2 --store {url}")).contains("already")
    );
    assert!(hosts.refused(2, &format!("{line} --name host1")).contains("there is a host host1"));
    hosts.ctl(2, &line);
    hosts.ctl(2, "network create --scope global blue");
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    let at = hosts.connect(1, "blue", &web);
    hosts.connect(2, "blue", &db);
    db.reaches(&at);
}

/// Another cluster's etcd at the address of ours is not followed.
#[test]
fn an_etcd_of_another_cluster_is_refused() {
    let hosts = Hosts::start(3);
    let url = Etcd::URL;
    let etcd = Etcd::start(&hosts);
    hosts.ctl(2, &format!("cluster init --advertise 10.8.0.2 --store {url}"));
    hosts.ctl(2, "network create -d overlay blue");
    drop(etcd);
    let _other = Etcd::spawn(&hosts);
    let line = format!("cluster init --advertise 10.8.0.3 --store {url}");
    eventually("another cluster is begun there", || {
        (hosts.host(3).try_ctl(&line.split(' ').collect::<Vec<_>>()).code == 0).then_some(())
    });
    eventually("it is told", || {
        let status = hosts.ctl(2, "cluster status");
        status["store"]["reason"].as_str()?.contains("it belongs to another cluster").then_some(())
    });
    assert!(names(&hosts.ctl(2, "network ls"), "name").contains(&"blue".to_owned()));
}

/// What is not answered may have been executed: a host is not told that its own cluster, or its own name, is taken.
#[test]
fn a_store_that_stands_still_only_takes_longer() {
    let hosts = Hosts::start(2);
    let etcd = Etcd::start(&hosts);
    let url = Etcd::URL;
    etcd.stalled(|| hosts.ctl(1, &format!("cluster init --advertise 10.8.0.1 --store {url}")));
    etcd.stalled(|| hosts.ctl(2, &format!("cluster join --advertise 10.8.0.2 --store {url}")));
    etcd.stalled(|| hosts.ctl(2, "network create -d overlay blue"));
    assert_eq!(names(&hosts.ctl(1, "cluster ls"), "name"), ["host1", "host2"]);
}

/// A network whose creation was acknowledged on one host is there for the next command on another one, however late the news are.
#[test]
fn what_one_host_has_created_another_can_use_at_once() {
    let hosts = Hosts::joined(2);
    hosts.follows(2, true);
    let db = Netns::new("db");
    hosts.link.ip("link set h2 down");
    hosts.ctl(1, "network create -d overlay blue");
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_secs(1));
            hosts.link.ip("link set h2 up");
        });
        hosts.connect(2, "blue", &db);
    });
    assert!(hosts.refused(2, "network rm red").contains("network red not found"));
}

/// All data of the store are lost: an empty one in its place is refused, and gets back what a backup has. What changed after the
/// backup the hosts put again.
#[test]
fn a_backup_gives_an_emptied_store_what_it_has_lost() {
    let hosts = Hosts::start(2);
    let etcd = Etcd::start(&hosts);
    let url = Etcd::URL;
    hosts.ctl(1, &format!("cluster init --advertise 10.8.0.1 --store {url}"));
    hosts.ctl(2, &format!("cluster join --advertise 10.8.0.2 --store {url}"));
    hosts.ctl(1, "network create -d overlay blue");
    let [web, db, late] = ["web", "db", "late"].map(Netns::new);
    hosts.connect(1, "blue", &web);
    hosts.connect(2, "blue", &db);
    hosts.agree();
    let backup = hosts.host(2).try_ctl(&["cluster", "backup"]);
    let file = hosts.host(2).folder().join("cluster.json");
    fs::write(&file, &backup.stdout).unwrap();
    let file = file.to_str().unwrap();
    // After the backup.
    let third = hosts.connect(2, "blue", &late);
    let before = hosts.agree();

    drop(etcd);
    let _etcd = Etcd::spawn(&hosts);
    for host in 1..=2 {
        eventually("the host does not follow a store that is empty", || {
            let status = hosts.ctl(host, "cluster status");
            let why = status["store"]["reason"].as_str()?;
            why.contains("it has no cluster: was it emptied? Restore it from a backup").then_some(())
        });
    }
    web.reaches(&third);
    let restored = hosts.ctl(2, &format!("cluster restore {file}"));
    assert!(restored["keys"].as_u64().unwrap() >= 9, "{restored}");
    (1..=2).for_each(|host| hosts.follows(host, true));
    // The revisions are those of another history; everything else is as it was.
    let placed = |list: &Value| (names(list, "id"), names(list, "host"), names(list, "mac"));
    eventually("what came after the backup is there as well", || {
        (placed(&hosts.agree()) == placed(&before)).then_some(())
    });
    web.reaches(&third);
    let again = hosts.ctl(2, &format!("cluster restore {file}"));
    assert_eq!(again["keys"], 0, "what is there stays");
    // Which addresses hosts have that are not back yet is not known for half a minute.
    hosts.ctl(1, "network create -d overlay red");
    within(Duration::from_mins(1), "addresses are given out again", || {
        let connect = ["network", "connect", "red", &format!("netns:{}", late.name())];
        let done = hosts.host(2).try_ctl(&connect);
        assert!(
            done.code == 0 || done.stderr.contains("the store was restored from a backup"),
            "{}",
            done.stderr
        );
        (done.code == 0).then_some(())
    });

    let other = Hosts::start(1);
    other.init();
    let why = other.refused(1, &format!("cluster restore {file}"));
    assert!(why.contains("is of cluster"), "{why}");
    let why = hosts.refused(1, "cluster restore /etc/hostname");
    assert!(why.contains("/etc/hostname is no backup"), "{why}");
}

/// A host that does not reach the store, and whose containers say nothing, is suspect; one that is dead is down.
#[test]
fn an_idle_host_without_the_store_is_suspect_and_a_dead_one_is_down() {
    let mut hosts = Hosts::joined(3);
    hosts.ctl(1, "network create -d overlay blue");
    let [web, db, job] = ["web", "db", "job"].map(Netns::new);
    let at = hosts.connect(1, "blue", &web);
    for (host, container) in [(2, &db), (3, &job)] {
        container.silence();
        hosts.connect(host, "blue", container);
        container.reaches(&at);
    }
    hosts.agree();
    let cut = "add table inet cut; add chain inet cut out { type filter hook output priority 0; }; \
        add rule inet cut out tcp dport 2379 drop";
    let done = hosts.host(2).host.run(|| Command::new("nft").arg(cut).status().unwrap());
    assert!(done.success(), "nftables is installed");
    hosts.hosts[2].kill();
    let status = |host: &str| {
        let list = hosts.ctl(1, "cluster ls");
        let list = list.as_array().unwrap();
        list.iter().find(|it| it["name"] == host).unwrap()["status"].as_str().unwrap().to_owned()
    };
    within(Duration::from_mins(1), "the dead host is down", || (status("host3") == "down").then_some(()));
    within(Duration::from_mins(1), "the other one is suspect", || {
        assert_ne!(status("host2"), "down");
        (status("host2") == "suspect").then_some(())
    });
    // Longer than the silence by which a host is down.
    let until = Instant::now() + Duration::from_secs(15);
    while Instant::now() < until {
        assert_eq!(status("host2"), "suspect");
        thread::sleep(Duration::from_millis(200));
    }
}
