//! Captures, traces and what is known of an address, on a running switch with real traffic.

use std::{
    fs::{self, File},
    io::BufReader,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use pcap_file::pcapng::{Block, PcapNgReader};
use rustix::process::{Pid, Signal, kill_process};
use vswitch_tests::{
    Netns, PATIENCE, Vswitchd,
    daemon::{binary, tap},
    eventually,
    raw::{BROADCAST, EXPERIMENT, frame},
    tcp, within,
};

const WEB: [u8; 6] = [2, 0x42, 10, 9, 0, 2];
const DB: [u8; 6] = [2, 0x42, 10, 9, 0, 3];

/// Containers `web` and `db` in network blue, `alone` in red, and a trunk `uplink` that nobody has opened.
struct Office {
    switch: Vswitchd,
    web: Netns,
    db: Netns,
    alone: Netns,
}

impl Office {
    fn start() -> Self {
        Self::start_with("")
    }

    /// The same, and more tables of net.toml.
    fn start_with(more: &str) -> Self {
        let [web, db, alone] = ["web", "db", "alone"].map(Netns::new);
        for netns in [&web, &db, &alone] {
            netns.silence();
        }
        let port = |name: &str, network: &str, netns: &Netns, last: u8| {
            let keys = format!("mac = \"02:42:0a:09:00:0{last}\"\naddress = \"10.9.0.{last}/24\"");
            tap(name, network, netns, &keys)
        };
        let rest = [
            "[[network]]\nname = \"blue\"\nvlan = 10\n[[network]]\nname = \"red\"\n".to_owned(),
            port("web", "blue", &web, 2),
            port("db", "blue", &db, 3),
            port("alone", "red", &alone, 4),
            more.to_owned(),
        ];
        Self { switch: Vswitchd::start("", &rest.concat()), web, db, alone }
    }

    /// Starts vswitchctl and waits until its capture goes on.
    fn capture(&self, arguments: &[&str]) -> Capturing {
        let known = self.switch.ctl(&["capture", "--ls"]).as_array().unwrap().len();
        let mut command = Command::new(binary("vswitchctl"));
        command.arg("--socket").arg(self.switch.socket()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.switch.host.run(|| command.spawn().unwrap());
        eventually("the capture goes on", || {
            (self.switch.ctl(&["capture", "--ls"]).as_array().unwrap().len() > known).then_some(())
        });
        Capturing(child)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.switch.folder().join(name)
    }
}

/// A vswitchctl that captures.
struct Capturing(Child);

impl Capturing {
    /// Interrupts it as a person would, and returns what it printed and what it said in the end.
    fn stop(self) -> (String, String) {
        kill_process(Pid::from_child(&self.0), Signal::INT).unwrap();
        self.wait()
    }

    /// Waits until it has enough.
    fn wait(self) -> (String, String) {
        let output = self.0.wait_with_output().unwrap();
        let text = |octets: Vec<u8>| String::from_utf8_lossy(&octets).into_owned();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        assert!(output.status.success(), "{stdout}{stderr}");
        (stdout, stderr)
    }
}

/// What tshark reads of a file: these fields of every frame.
fn tshark(file: &Path, fields: &[&str]) -> Vec<Vec<String>> {
    fields_of(reading(file, fields).spawn().expect("tshark is installed"))
}

/// A tshark that will read these fields of every frame of a file; `-` is its input.
fn reading(file: &Path, fields: &[&str]) -> Command {
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(file).args(["-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a tshark has read in the end.
fn fields_of(tshark: Child) -> Vec<Vec<String>> {
    let output = tshark.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

#[test]
fn wireshark_reads_interfaces_directions_and_why_a_frame_died() {
    let office = Office::start();
    let file = office.file("all.pcapng");
    let capture = office.capture(&["capture", "-w", file.to_str().unwrap()]);
    let [web, alone] = [&office.web, &office.alone].map(|netns| netns.raw("eth0"));
    web.send(&frame(BROADCAST, WEB, EXPERIMENT, b"to everybody"));
    alone.send(&frame(BROADCAST, [2, 0x42, 10, 9, 0, 4], EXPERIMENT, b"to nobody"));
    eventually("all was captured", || {
        (office.switch.ctl(&["capture", "--ls"])[0]["frames"] == 3).then_some(())
    });
    let (_, said) = capture.stop();
    assert!(said.contains("3 frames captured, 0 lost"), "{said}");
    let fields = ["frame.interface_name", "frame.packet_flags_direction", "frame.comment", "eth.type"];
    let mut frames = tshark(&file, &fields);
    frames.sort();
    let hint = "dropped: NO_RECEIVER: the network has no other port: attach one";
    let expected = [
        ["alone", "0x00000001", hint, "0x88b5"],
        ["db", "0x00000002", "", "0x88b5"],
        ["web", "0x00000001", "", "0x88b5"],
    ];
    assert_eq!(frames, expected.map(|frame| frame.map(str::to_owned).to_vec()));
    assert_eq!(office.switch.ctl(&["capture", "--ls"]).as_array().unwrap().len(), 0, "it has ended");
}

#[test]
fn what_is_wanted_is_picked_and_told_in_lines() {
    let office = Office::start();
    let arp =
        office.capture(&["capture", "--filter", "arp", "--port", "web", "--direction", "rx", "-c", "1"]);
    let drops = office.capture(&["capture", "--drops", "-c", "1"]);
    let red = office.capture(&["capture", "--network", "red", "-c", "1"]);
    office.web.reaches("10.9.0.3");
    let (lines, _) = arp.wait();
    assert!(
        lines.contains(
            " web rx 02:42:0a:09:00:02 > ff:ff:ff:ff:ff:ff, ARP who-has 10.9.0.3 tell 10.9.0.2, 42 octets"
        ),
        "{lines}"
    );
    office.alone.raw("eth0").send(&frame(BROADCAST, DB, EXPERIMENT, b"to nobody"));
    for capture in [drops, red] {
        let (lines, _) = capture.wait();
        assert!(lines.contains(" alone rx ") && lines.contains("\n    dropped: NO_RECEIVER: "), "{lines}");
    }
    let (code, why) = office.switch.refusal(&["capture", "--filter", "tcp prot 80"]);
    assert_eq!(code, 1);
    assert!(why.contains("the filter \"tcp prot 80\" makes no sense"), "{why}");
    assert_eq!(office.switch.refusal(&["capture", "--port", "nobody"]).0, 4);
}

#[test]
fn a_pipe_and_a_ring_of_files() {
    let office = Office::start();
    let ring = office.file("ring.pcapng");
    let files = office.capture(&["capture", "-w", ring.to_str().unwrap(), "--rotate", "1,2"]);
    let mut pipe = office.capture(&["capture", "-w", "-", "--snaplen", "60", "--filter", "tcp", "-c", "100"]);
    let mut reader = reading(Path::new("-"), &["frame.cap_len", "frame.len"]);
    let reader = reader.stdin(pipe.0.stdout.take().unwrap()).spawn().unwrap();
    tcp::exchange(&office.web, &office.db, "10.9.0.3", 4_000_000, 1 << 16);
    pipe.wait();
    let frames = fields_of(reader);
    assert_eq!(frames.len(), 100);
    assert!(frames.iter().all(|frame| frame[0] == "60" && frame[1] != "60"), "{frames:?}");
    files.stop();
    let names = fs::read_dir(office.switch.folder()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut numbers: Vec<u32> =
        names.filter_map(|name| name.to_str()?.strip_prefix("ring.pcapng.")?.parse().ok()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers.len(), 2, "{numbers:?}");
    assert!(numbers[0] > 0, "the first is gone");
    for number in numbers {
        let part = office.file(&format!("ring.pcapng.{number}"));
        let ports: Vec<_> = tshark(&part, &["frame.interface_name"]).concat();
        assert!(!ports.is_empty() && ports.iter().all(|port| port == "web" || port == "db"));
    }
}

/// None of a million frames is lost while the disk keeps up: all that the switch received is in the file.
#[test]
fn a_million_frames() {
    const FRAMES: u64 = 1_000_000;
    let office = Office::start();
    let file = office.file("million.pcapng");
    let arguments = ["capture", "--port", "web", "--direction", "rx", "--filter", "ether proto 0x88b5"];
    let to = ["--snaplen", "64", "--buffer", "64", "-w", file.to_str().unwrap()];
    let capture = office.capture(&[&arguments[..], &to].concat());
    let received = || office.switch.port("web")["rx"]["frames"].as_u64().unwrap();
    let (web, enough) = (office.web.raw("eth0"), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            // What the interface does not take is no matter: the numbers grow.
            for number in (0_u64..).take_while(|_| !enough.load(Relaxed)) {
                let _ = web.try_send(&frame(DB, WEB, EXPERIMENT, &number.to_be_bytes()));
            }
        });
        within(Duration::from_secs(120), "the switch has received a million", || {
            (received() >= FRAMES).then_some(())
        });
        enough.store(true, Relaxed);
    });
    let all = eventually("the switch has seen the last", || {
        let frames = office.switch.ctl(&["capture", "--ls"])[0]["frames"].as_u64().unwrap();
        (frames == received()).then_some(frames)
    });
    let (_, said) = capture.stop();
    assert!(said.contains(&format!("{all} frames captured, 0 lost")), "{said}");
    assert_eq!(count(&file), all);
}

/// Frames in a pcapng file, each of which has a higher number than the one before.
fn count(file: &Path) -> u64 {
    let mut reader = PcapNgReader::new(BufReader::new(File::open(file).unwrap())).unwrap();
    let (mut count, mut last) = (0, None);
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.unwrap() {
            let number = packet.data[14..22].first_chunk().copied().map(u64::from_be_bytes);
            assert!(number > last, "{number:?} after {last:?}");
            (count, last) = (count + 1, number);
        }
    }
    count
}

#[test]
fn a_trace_tells_every_decision_and_changes_nothing() {
    let office = Office::start();
    let switch = &office.switch;
    let trace = switch.ctl(&["trace", "--port", "web", "arp who-has 10.9.0.3"]);
    assert_eq!(trace["verdict"]["fate"], "flooded");
    assert_eq!(trace["exits"][0]["port"], "db");
    let steps: Vec<_> =
        trace["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["parse", "classify", "learn", "look up", "reach"]);
    assert_eq!(switch.ctl(&["fdb", "ls"]).as_array().unwrap().len(), 0, "nothing was learned");
    assert_eq!(switch.port("web")["rx"]["frames"], 0, "nothing was counted");

    office.web.reaches("10.9.0.3");
    let text = switch.try_ctl(&["trace", "--port", "web", "icmp 10.9.0.3 len 3000"]).stdout;
    for part in [
        "02:42:0a:09:00:02 > 02:42:0a:09:00:03, ICMP 10.9.0.2 > 10.9.0.3 echo request, 3042 octets at web",
        "its source is known on web",
        "02:42:0a:09:00:03 is behind db",
        "dropped: PKT_TOO_BIG",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let hex = "ffffffffffff 024200000009 8100000a 0806 0001";
    let trace = switch.ctl(&["trace", "--port", "web", "--hex", hex]);
    assert_eq!(trace["verdict"]["reason"], "VLAN_NOT_ALLOWED");
    let (code, why) = switch.refusal(&["trace", "--port", "web", "arp whohas 10.9.0.1"]);
    assert!(code == 1 && why.contains("arp who-has IP [tell IP]"), "{why}");

    // A file that a capture made.
    let file = office.file("one.pcapng");
    let capture = office.capture(&[
        "capture",
        "--port",
        "web",
        "--direction",
        "rx",
        "-c",
        "1",
        "-w",
        file.to_str().unwrap(),
    ]);
    office.web.reaches("10.9.0.3");
    capture.wait();
    let trace = switch.ctl(&["trace", "--port", "web", "--pcap", file.to_str().unwrap()]);
    assert!(trace["exits"].as_array().is_some_and(|exits| exits.len() == 1), "{trace}");
}

#[test]
fn a_trace_tells_storm_limits_as_they_stand() {
    let loud = Netns::new("loud");
    let more = tap("loud", "blue", &loud, "storm = { broadcast = 0, unknown = 100 }");
    let office = Office::start_with(&more);
    let trace = |frame| office.switch.ctl(&["trace", "--port", "loud", frame]);
    let storm = |trace: &serde_json::Value| {
        let steps = trace["steps"].as_array().unwrap();
        let step = steps.iter().find(|step| step["step"] == "storm").unwrap();
        step["outcome"].as_str().unwrap().to_owned()
    };
    let flooded = trace("from 02:00:00:00:00:09 arp who-has 10.9.0.3 tell 10.9.0.9");
    assert_eq!(flooded["verdict"]["reason"], "STORM_BROADCAST");
    assert!(storm(&flooded).starts_with("dropped: STORM_BROADCAST: "), "{flooded}");
    for _ in 0..2 {
        let unknown = trace("from 02:00:00:00:00:09 to 02:00:00:00:00:10 ether 0x88b5");
        assert_eq!(storm(&unknown), "10 more may be flooded from here at this moment, 100 a second");
        assert_eq!(unknown["verdict"]["fate"], "flooded");
    }
}

#[test]
fn real_frames_are_followed() {
    let office = Office::start();
    let live = office.capture(&["trace", "--live", "--filter", "icmp", "-n", "2"]);
    office.web.reaches("10.9.0.3");
    let (told, _) = live.wait();
    let parts = [
        " web rx 02:42:0a:09:00:02 > 02:42:0a:09:00:03, ICMP 10.9.0.2 > 10.9.0.3 echo request, 98 octets\n    network blue: its destination is behind db\n    -> db: sent\n",
        " db rx 02:42:0a:09:00:03 > 02:42:0a:09:00:02, ICMP 10.9.0.3 > 10.9.0.2 echo reply, 98 octets\n    network blue: its destination is behind web\n    -> web: sent\n",
    ];
    for part in parts {
        assert!(told.contains(part), "{told}");
    }
    let live = office.capture(&["trace", "--live", "--filter", "icmp", "-n", "1", "--json"]);
    office.web.reaches("10.9.0.3");
    let (told, _) = live.wait();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["port"], &told["exits"][0]["port"]), (&"web".into(), &"db".into()), "{told}");
}

#[test]
fn what_is_known_of_an_address() {
    let office = Office::start();
    let switch = &office.switch;
    let why = switch.try_ctl(&["why", "--ip", "10.9.0.3"]).stdout;
    assert!(why.contains("nobody was heard with it"), "{why}");
    office.web.reaches("10.9.0.3");
    let why = switch.ctl(&["why", "--ip", "10.9.0.3"]);
    assert_eq!(why["declared"][0]["port"], "db");
    assert_eq!(why["entries"][0]["mac"], "02:42:0a:09:00:03");
    assert_eq!(why["findings"].as_array().unwrap().len(), 0, "{why}");
    // Somebody else uses its address.
    office.web.raw("eth0").send(&frame(BROADCAST, DB, EXPERIMENT, b"it is me"));
    let found = eventually("the address is heard elsewhere", || {
        let why = switch.try_ctl(&["why", "--mac", "02:42:0a:09:00:03"]).stdout;
        why.contains("declared for another port than web, where it was heard").then_some(why)
    });
    assert!(found.contains("DECLARED AT"), "{found}");
    assert_eq!(switch.refusal(&["why"]).0, 2);
}

/// A reader that goes away, and a daemon that does, end a capture without anybody's help.
#[test]
fn captures_end_with_their_readers_and_with_the_daemon() {
    let mut office = Office::start();
    let mut gone = office.capture(&["capture", "-w", "-"]);
    gone.0.kill().unwrap();
    gone.0.wait().unwrap();
    eventually("the capture has ended", || {
        office.switch.ctl(&["capture", "--ls"]).as_array().unwrap().is_empty().then_some(())
    });
    let capture = office.capture(&["capture", "-w", "-"]);
    assert!(office.switch.stop().success());
    capture.wait();
}

/// Somebody watches web, declared in the file; somebody else blue, by command; and nobody else notices.
#[test]
fn mirrors_are_declared_or_made_and_get_what_they_ask_for() {
    let [watch, more] = ["watch", "more"].map(Netns::new);
    watch.silence();
    more.silence();
    let office = Office::start_with(&format!(
        "[[port]]\nname = \"ids\"\nkind = \"tap\"\nnetns = \"{}\"\nifname = \"eth0\"\nmirror = {{ ports = [\"web\"] }}\n",
        watch.name()
    ));
    let switch = &office.switch;
    let add = ["mirror", "add", "blues", "--network", "blue", "--netns", more.name(), "--ifname", "eth0"];
    assert_eq!(switch.try_ctl(&add).code, 0);
    let listed = switch.try_ctl(&["mirror", "ls"]).stdout;
    assert!(listed.contains("mirrors web") && listed.contains("mirrors blue"), "{listed}");
    let (watched, all) = (watch.raw("eth0"), more.raw("eth0"));
    office.web.reaches("10.9.0.3");
    for raw in [&watched, &all] {
        for (from, to) in [(WEB, DB), (DB, WEB)] {
            let echo = |frame: &[u8]| frame[..6] == to && frame[6..12] == from && frame[12..14] == [8, 0];
            assert!(raw.find(PATIENCE, echo).is_some(), "both ways");
        }
    }
    // What it sends is not taken in, and its port is in no network.
    watched.send(&frame(BROADCAST, [2, 0, 0, 0, 0, 9], EXPERIMENT, b"hello?"));
    eventually("it died", || (switch.dropped("ids", "MIRROR_ONLY") == 1).then_some(()));
    for port in ["web", "db", "ids", "blues"] {
        let port = switch.port(port);
        let (fates, count) = (&port["fates"], |value: &serde_json::Value| value.as_u64().unwrap());
        let dropped = |way: &str| -> u64 {
            let drops = port["drops"].as_array().unwrap().iter();
            drops.filter(|drop| drop["direction"] == way).map(|drop| count(&drop["frames"])).sum()
        };
        let received = count(&fates["unicast"]) + count(&fates["flooded"]) + dropped("rx");
        assert_eq!(count(&port["rx"]["frames"]), received, "{port}");
        assert_eq!(count(&fates["offered"]), count(&port["tx"]["frames"]) + dropped("tx"), "{port}");
    }
    let (_, why) = switch.refusal(&["mirror", "add", "x", "--port", "ids"]);
    assert!(why.contains("ids gets copies itself"), "{why}");
    let (_, why) = switch.refusal(&["mirror", "rm", "web"]);
    assert!(why.contains("port web is no mirror"), "{why}");
    // It is kept, and goes when it is told to.
    let mut office = office;
    office.switch.stop();
    office.switch.run();
    assert_eq!(office.switch.ctl(&["mirror", "ls"]).as_array().unwrap().len(), 2);
    assert_eq!(office.switch.try_ctl(&["mirror", "rm", "blues"]).code, 0);
    assert!(!more.has_link("eth0"));
}
