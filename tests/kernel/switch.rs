//! The switch's own behaviour, frame by frame, in a real kernel.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use vswitch_tests::{
    Netns, PATIENCE, Raw, Vswitchd, eventually, process,
    raw::{BROADCAST, EXPERIMENT, frame},
    tcp::{self, Flow},
    udp::Echo,
};

/// A switch with silent TAPs `p0`, `p1`, …, each the eth0 of a container: only what a test sends is heard.
struct Quiet {
    switch: Vswitchd,
    containers: Vec<Netns>,
}

impl Quiet {
    /// `keys` are those of `[switch]`, and of each port.
    fn start(switch: &str, ports: &[&str]) -> Self {
        let containers: Vec<_> = (0..ports.len()).map(|number| Netns::new(&format!("p{number}"))).collect();
        let mut rest = "[[network]]\nname = \"blue\"\n".to_owned();
        for (number, (keys, container)) in ports.iter().zip(&containers).enumerate() {
            container.silence();
            rest += &format!(
                "[[port]]\nname = \"p{number}\"\nnetwork = \"blue\"\nkind = \"tap\"\nnetns = \"{}\"\nifname = \"eth0\"\n{keys}\n",
                container.name()
            );
        }
        Self { switch: Vswitchd::start(switch, &rest), containers }
    }

    fn raw(&self) -> Vec<Raw> {
        self.containers.iter().map(|container| container.raw("eth0")).collect()
    }

    /// Sends frames by a port no faster than the switch takes them: a TAP's queue has room for 1000, and the kernel drops
    /// what does not fit before anybody sees it.
    fn pour(&self, port: &str, raw: &Raw, frames: &[Vec<u8>]) {
        let mut taken = self.count(port, "rx");
        for part in frames.chunks(500) {
            part.iter().for_each(|frame| raw.send(frame));
            taken += part.len() as u64;
            self.received(port, taken);
        }
    }

    /// The MAC table, as `mac@port`.
    fn table(&self) -> Vec<String> {
        let entries = self.switch.ctl(&["fdb", "ls"]);
        let text =
            |entry: &Value| format!("{}@{}", entry["mac"].as_str().unwrap(), entry["port"].as_str().unwrap());
        entries.as_array().unwrap().iter().map(text).collect()
    }

    fn knows(&self, what: &str) -> bool {
        self.table().iter().any(|entry| entry == what)
    }

    fn count(&self, port: &str, way: &str) -> u64 {
        self.switch.port(port)[way]["frames"].as_u64().unwrap()
    }

    /// Waits until `frames` were received by `port`.
    fn received(&self, port: &str, frames: u64) {
        eventually(&format!("{port} has received {frames} frames"), || {
            (self.count(port, "rx") >= frames).then_some(())
        });
    }
}

fn station(number: u16) -> [u8; 6] {
    let [high, low] = number.to_be_bytes();
    [2, 0, 0, 0, high, low]
}

fn mac(number: u16) -> String {
    let [high, low] = number.to_be_bytes();
    format!("02:00:00:00:{high:02x}:{low:02x}")
}

const NOTHING: Duration = Duration::from_millis(30);

#[test]
fn a_station_is_learned_and_forgotten_when_it_is_silent() {
    let quiet = Quiet::start("ageing = 1", &["", "", ""]);
    let ports = quiet.raw();
    let (a, b) = (station(1), station(2));
    ports[0].send(&frame(b, a, EXPERIMENT, b"where is b?"));
    for other in &ports[1..] {
        assert_eq!(
            other.until(PATIENCE, b"where is b?").len(),
            0,
            "an unknown station is looked for everywhere"
        );
    }
    ports[1].send(&frame(a, b, EXPERIMENT, b"here"));
    assert_eq!(ports[0].until(PATIENCE, b"here").len(), 0);
    ports[0].send(&frame(b, a, EXPERIMENT, b"to b alone"));
    assert_eq!(ports[1].until(PATIENCE, b"to b alone").len(), 0);
    assert_eq!(ports[2].receive(NOTHING), None, "a known station's frames go nowhere else");

    let silent = Instant::now();
    eventually("both are forgotten", || quiet.table().is_empty().then_some(()));
    assert!(silent.elapsed() >= Duration::from_millis(800), "too early: {:?}", silent.elapsed());
    assert!(silent.elapsed() < Duration::from_secs(4), "too late: {:?}", silent.elapsed());
    ports[0].send(&frame(b, a, EXPERIMENT, b"where is b now?"));
    assert_eq!(ports[2].until(PATIENCE, b"where is b now?").len(), 0);
}

#[test]
fn a_pinned_station_neither_moves_nor_ages() {
    let quiet = Quiet::start("ageing = 1", &["", "", ""]);
    let ports = quiet.raw();
    quiet.switch.ctl(&["fdb", "add", "blue", &mac(7), "p1"]);
    ports[0].send(&frame(BROADCAST, station(7), EXPERIMENT, b"I am seven"));
    assert_eq!(ports[2].until(PATIENCE, b"I am seven").len(), 0);
    assert_eq!(quiet.table(), [format!("{}@p1", mac(7))]);
    ports[0].send(&frame(BROADCAST, station(8), EXPERIMENT, b"I am eight"));
    eventually("a learned one ages meanwhile", || (quiet.table().len() == 1).then_some(()));
    ports[0].send(&frame(station(7), station(8), EXPERIMENT, b"to seven"));
    let heard = ports[1].until(PATIENCE, b"to seven");
    assert_eq!(heard.len(), 2, "what was broadcast before");
    assert_eq!(ports[2].find(NOTHING, |frame| frame.ends_with(b"to seven")), None);
}

#[test]
fn isolated_ports_reach_the_others_but_not_each_other() {
    let quiet = Quiet::start("", &["isolated = true", "isolated = true", ""]);
    let ports = quiet.raw();
    for (number, port) in (0..).zip(&ports[..2]) {
        port.send(&frame(BROADCAST, station(number), EXPERIMENT, b"hello"));
        assert_eq!(ports[2].until(PATIENCE, b"hello").len(), 0);
    }
    ports[0].send(&frame(station(1), station(0), EXPERIMENT, b"to my neighbour"));
    ports[2].send(&frame(station(0), station(2), EXPERIMENT, b"the end"));
    ports[2].send(&frame(station(1), station(2), EXPERIMENT, b"the end"));
    assert_eq!(ports[0].until(PATIENCE, b"the end").len(), 0);
    assert_eq!(ports[1].until(PATIENCE, b"the end").len(), 0);
    eventually("the drop is counted", || (quiet.switch.dropped("p0", "PORT_ISOLATED") == 1).then_some(()));
}

#[test]
fn a_storm_is_held_to_its_limit() {
    let quiet = Quiet::start("", &["storm = { broadcast = 100, unknown = 0 }", ""]);
    let ports = quiet.raw();
    let storm = frame(BROADCAST, station(0), EXPERIMENT, &[0; 46]);
    // The bucket of a young daemon is not full yet.
    eventually("the bucket is full", || {
        (quiet.switch.ctl(&["stats"])["at_ms"].as_u64() > Some(200)).then_some(())
    });
    let start = Instant::now();
    quiet.pour("p0", &ports[0], &vec![storm.clone(); 2000]);
    ports[0].send(&frame(station(9), station(0), EXPERIMENT, b"to nobody known"));
    // Multicast has no limit here.
    ports[0].send(&frame([1, 0, 0x5e, 1, 1, 1], station(0), EXPERIMENT, b"the end"));
    let passed = ports[1].until(PATIENCE, b"the end");
    let seconds = start.elapsed().as_secs_f64();
    // A tenth of a second's frames at once, and then 100 in a second.
    let most = 10.0 + 100.0 * seconds + 1.0;
    assert!(passed.iter().all(|frame| *frame == storm));
    assert!(passed.len() >= 10 && (passed.len() as f64) <= most, "{} in {seconds} s", passed.len());
    assert_eq!(quiet.switch.dropped("p0", "STORM_BROADCAST"), 2000 - passed.len() as u64);
    assert_eq!(quiet.switch.dropped("p0", "STORM_UNKNOWN"), 1);
}

#[test]
fn an_address_in_two_places_is_held_and_reported() {
    let quiet = Quiet::start("damping = { moves = 3, window = 60, hold = 2 }", &["", "", ""]);
    let ports = quiet.raw();
    let mut sent = [0, 0];
    for _ in 0..6 {
        for side in 0..2 {
            sent[side] += 1;
            ports[side].send(&frame(BROADCAST, station(5), EXPERIMENT, b"I am five"));
            quiet.received(&format!("p{side}"), sent[side]);
        }
    }
    let entries = quiet.switch.ctl(&["fdb", "ls", "--mac", &mac(5)]);
    assert_eq!(entries[0]["held"], true, "{entries}");
    let place = entries[0]["port"].as_str().unwrap().to_owned();
    quiet.switch.logs(&["moves too often and is held", &mac(5), &place]);
    let held = Instant::now();
    quiet.switch.logs(&["a held address may move again", &mac(5), &place]);
    let held = held.elapsed();
    assert!(held > Duration::from_secs(1) && held < Duration::from_secs(5), "held for 2 s: {held:?}");
    let other = usize::from(place == "p0");
    ports[other].send(&frame(BROADCAST, station(5), EXPERIMENT, b"I am still five"));
    eventually("it moves", || quiet.knows(&format!("{}@p{other}", mac(5))).then_some(()));
}

/// A station that invents addresses fills its own share of the table, not that of others.
#[test]
fn a_flood_of_addresses_evicts_the_flooders_own() {
    let quiet = Quiet::start("mac_limit = 64", &["", "", "mac_limit = 8"]);
    let ports = quiet.raw();
    let honest: Vec<_> = (0..8).map(|number| 0x1000 + number).collect();
    for number in &honest {
        ports[0].send(&frame(BROADCAST, station(*number), EXPERIMENT, b"honest"));
    }
    quiet.received("p0", 8);
    let flood: Vec<_> =
        (0..5000).map(|number| frame(BROADCAST, station(number % 0x1000), EXPERIMENT, b"flood")).collect();
    quiet.pour("p1", &ports[1], &flood);
    for number in 0x2000..0x2100 {
        ports[2].send(&frame(BROADCAST, station(number), EXPERIMENT, b"limited"));
    }
    quiet.received("p2", 256);
    let table = quiet.table();
    let behind = |port: &str| table.iter().filter(|entry| entry.ends_with(port)).count();
    assert!(table.len() <= 64, "{}", table.len());
    for number in honest {
        assert!(quiet.knows(&format!("{}@p0", mac(number))), "{number:x} is still known");
    }
    assert_eq!(behind("@p2"), 8, "a port's own limit");
    assert!(behind("@p1") >= 40, "the flooder has what is left: {}", behind("@p1"));
}

/// What was received is what was sent, flooded, or dropped for a reason: over all ports and whatever is thrown in.
#[test]
fn every_frame_is_accounted_for() {
    for workers in [1, 2] {
        let quiet = Quiet::start(
            &format!("workers = {workers}"),
            &["isolated = true", "isolated = true", "", "storm = { multicast = 50 }"],
        );
        let ports = quiet.raw();
        for (number, port) in (0..).zip(&ports) {
            port.send(&frame(BROADCAST, station(number), EXPERIMENT, b"hello"));
        }
        // Fewer than the queue of a TAP has room for: the kernel drops the rest before anybody sees it.
        let (rounds, senders) = (400_u64, ports.len() as u64);
        thread::scope(|scope| {
            for (number, port) in (0_u16..).zip(&ports) {
                scope.spawn(move || {
                    for round in 0..rounds {
                        let to = match round % 8 {
                            0 => BROADCAST,
                            1 => [1, 0, 0x5e, 0, 0, 1],
                            2 => [1, 0x80, 0xc2, 0, 0, 2],
                            3 => station(0x7777),
                            4 => station(number),
                            round => station((number + u16::try_from(round).unwrap()) % 4),
                        };
                        let from = if round % 50 == 49 { [0; 6] } else { station(number) };
                        port.send(&frame(to, from, EXPERIMENT, &[7; 100]));
                    }
                });
            }
        });
        for number in 0..ports.len() {
            quiet.received(&format!("p{number}"), rounds + 1);
        }
        let all = quiet.switch.ctl(&["port", "ls"]);
        let all = all.as_array().unwrap();
        let frames = |port: &Value, way: &str| port[way]["frames"].as_u64().unwrap();
        let drops = |way: &str, reason: &str| -> u64 {
            let lists = all.iter().flat_map(|port| port["drops"].as_array().unwrap());
            let wanted = lists
                .filter(|drop| drop["direction"] == way && (reason.is_empty() || drop["reason"] == reason));
            wanted.map(|drop| drop["frames"].as_u64().unwrap()).sum()
        };
        let received: u64 = all.iter().map(|port| frames(port, "rx")).sum();
        let offered = all.iter().map(|port| frames(port, "tx")).sum::<u64>() + drops("tx", "");
        assert_eq!(received, senders * (rounds + 1), "each frame once");

        // Of 8 frames in a round two groups and the unknown are flooded: from an isolated port to 2 others, else to 3.
        let forwarded = received - drops("rx", "");
        assert_eq!(
            drops("rx", "LINK_LOCAL_GROUP")
                + drops("rx", "SAME_PORT")
                + drops("rx", "STORM_MULTICAST")
                + drops("rx", "PORT_ISOLATED")
                + drops("rx", "MAC_INVALID_SOURCE"),
            drops("rx", ""),
            "and no other reason"
        );
        // Every forwarded frame left once, or by each port it reached: from the ports' own numbers.
        let lists = all.iter().map(|port| {
            let own: u64 = port["drops"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|drop| drop["direction"] == "rx")
                .map(|drop| drop["frames"].as_u64().unwrap())
                .sum();
            let isolated = ["p0", "p1"].contains(&port["name"].as_str().unwrap());
            (frames(port, "rx") - own, if isolated { 2 } else { 3 })
        });
        let most: u64 = lists.map(|(forwarded, reach)| forwarded * reach).sum();
        assert!(offered >= forwarded && offered <= most, "{forwarded} <= {offered} <= {most}");
        // The two laws, on each port by itself.
        for port in all {
            let met = |way: &str| -> u64 {
                let drops = port["drops"].as_array().unwrap().iter().filter(|drop| drop["direction"] == way);
                drops.map(|drop| drop["frames"].as_u64().unwrap()).sum()
            };
            let fate = |name: &str| port["fates"][name].as_u64().unwrap();
            assert_eq!(frames(port, "rx"), fate("unicast") + fate("flooded") + met("rx"), "{port}");
            assert_eq!(fate("offered"), frames(port, "tx") + met("tx"), "{port}");
        }
        // All are of one network, but for those that are refused before it is asked for theirs.
        let stats = quiet.switch.ctl(&["stats"]);
        let network = |name: &str| stats["networks"][0][name].as_u64().unwrap();
        let refused = drops("rx", "MAC_INVALID_SOURCE") + drops("rx", "LINK_LOCAL_GROUP");
        assert_eq!(network("frames"), received - refused);
        let fates = |name: &str| all.iter().map(|port| port["fates"][name].as_u64().unwrap()).sum::<u64>();
        assert_eq!((network("unicast"), network("flooded")), (fates("unicast"), fates("flooded")));
        assert_eq!(network("dropped"), drops("rx", "") - refused);
        assert_eq!(network("learned"), senders);
        // And each was received by a turn of some worker.
        let loads = stats["loads"].as_array().unwrap();
        let batched: u64 = loads.iter().map(|load| load["batches"]["sum"].as_u64().unwrap()).sum();
        assert_eq!(batched, received);
        for load in loads {
            let places = load["busy_ns"]["places"].as_array().unwrap();
            let counted: u64 = places.iter().map(|place| place["count"].as_u64().unwrap()).sum();
            // Each wake-up has a turn or more; it may have been woken once more between the two readings.
            assert!(load["wakeups"].as_u64().unwrap() <= counted + 1, "{load}");
        }
        assert_eq!(drops("tx", ""), 0, "nobody was too slow");
        // What the kernel counted in the containers is what we say we sent.
        for (number, container) in quiet.containers.iter().enumerate() {
            let links: Value = serde_json::from_str(&container.ip("-j -s link show dev eth0")).unwrap();
            let heard = links[0]["stats64"]["rx"]["packets"].as_u64().unwrap();
            assert_eq!(heard, quiet.count(&format!("p{number}"), "tx"), "p{number}");
        }
    }
}

/// Frames of one port arrive in the order in which they were sent, whatever else goes on.
#[test]
fn frames_of_a_port_keep_their_order() {
    for workers in [1, 2] {
        let quiet = Quiet::start(&format!("workers = {workers}"), &["", "", ""]);
        let ports = quiet.raw();
        ports[2].send(&frame(BROADCAST, station(2), EXPERIMENT, b"here"));
        for port in &ports[..2] {
            assert_eq!(port.until(PATIENCE, b"here").len(), 0);
        }
        const FRAMES: u32 = 20_000;
        let told = &AtomicBool::new(false);
        thread::scope(|scope| {
            for (number, port) in (0..).zip(&ports[..2]) {
                scope.spawn(move || {
                    for sequence in 0..FRAMES {
                        port.send(&frame(station(2), station(number), EXPERIMENT, &sequence.to_be_bytes()));
                    }
                    // The queue of a TAP is full: frames are lost, this one perhaps too.
                    while !told.load(Relaxed) {
                        port.send(&frame(station(2), station(number), EXPERIMENT, b"the end of it"));
                        thread::sleep(Duration::from_millis(5));
                    }
                });
            }
            let (mut last, mut ended, mut count) = ([None, None], [false; 2], 0);
            while ended != [true; 2] {
                let frame = ports[2].receive(PATIENCE).expect("both come to their end");
                if frame[12..14] != EXPERIMENT.to_be_bytes() {
                    continue;
                }
                let (from, sequence) =
                    (usize::from(frame[11]), u32::from_be_bytes(frame[14..18].try_into().unwrap()));
                if frame.ends_with(b"the end of it") {
                    ended[from] = true;
                    continue;
                }
                assert!(
                    last[from] < Some(sequence),
                    "{workers} workers: {sequence} came after {:?}",
                    last[from]
                );
                last[from] = Some(sequence);
                count += 1;
            }
            told.store(true, Relaxed);
            println!("{count} of {} frames in order, {workers} workers", 2 * FRAMES);
            assert!(count > FRAMES / 4, "and enough of them: {count}");
        });
    }
}

/// Two containers that talk, and one that floods as fast as it can.
#[test]
fn a_port_that_floods_does_not_starve_others() {
    for workers in [1, 2] {
        let (a, b, loud) = (Netns::new("a"), Netns::new("b"), Netns::new("loud"));
        loud.silence();
        let port = |name: &str, netns: &Netns, keys: &str| {
            format!(
                "[[port]]\nname = \"{name}\"\nnetwork = \"blue\"\nkind = \"tap\"\nnetns = \"{}\"\nifname = \"eth0\"\n{keys}\n",
                netns.name()
            )
        };
        let rest = "[[network]]\nname = \"blue\"\n".to_owned()
            + &port("a", &a, "address = \"10.9.0.1/24\"")
            + &port("b", &b, "address = \"10.9.0.2/24\"")
            + &port("loud", &loud, "");
        let switch = Vswitchd::start(&format!("workers = {workers}"), &rest);
        let echo = Echo::start(&b, "10.9.0.2");
        let client = a.udp("10.9.0.1");
        assert!(echo.round_trip(&client, 64, PATIENCE).is_some());

        let stop = Arc::new(AtomicBool::new(false));
        let (told, shouter) = (Arc::clone(&stop), loud.raw("eth0"));
        let shouting = thread::spawn(move || {
            let shout = frame(BROADCAST, station(0), EXPERIMENT, &[0; 46]);
            let mut refused = 0_u64;
            while !told.load(Relaxed) {
                refused += u64::from(shouter.try_send(&shout).is_err());
            }
            refused
        });
        eventually("the flood is on", || {
            (switch.port("loud")["rx"]["frames"].as_u64() > Some(10_000)).then_some(())
        });
        let mut times: Vec<_> =
            (0..200).map(|_| echo.round_trip(&client, 64, PATIENCE).expect("an answer")).collect();
        times.sort();
        let flow = Flow::start(&a, &b, "10.9.0.2");
        let start = Instant::now();
        flow.flows(20_000_000);
        let seconds = start.elapsed().as_secs_f64();
        stop.store(true, Relaxed);
        shouting.join().unwrap();
        flow.stop();
        let flooded = switch.port("loud")["rx"]["frames"].as_u64().unwrap();
        println!(
            "{workers} workers, {flooded} frames flooded: round trips {:?} median, {:?} worst; TCP {:.0} Mbit/s",
            times[100],
            times[199],
            160.0 / seconds
        );
        assert!(times[100] < Duration::from_millis(20), "{:?}", times[100]);
        assert!(times[199] < Duration::from_millis(500), "{:?}", times[199]);
        assert!(seconds < 10.0, "20 MB took {seconds} s");
    }
}

#[test]
fn with_nothing_to_do_it_does_nothing() {
    let containers: Vec<_> = (0..16).map(|number| Netns::new(&format!("idle{number}"))).collect();
    let mut rest = "[[network]]\nname = \"blue\"\n".to_owned();
    for (number, netns) in containers.iter().enumerate() {
        let kind = if number % 2 == 0 { "tap" } else { "veth" };
        rest += &format!(
            "[[port]]\nname = \"p{number}\"\nnetwork = \"blue\"\nkind = \"{kind}\"\nnetns = \"{}\"\nifname = \"eth0\"\n\
             address = \"10.9.0.{}/24\"\n",
            netns.name(),
            number + 1
        );
    }
    for workers in [1, 2] {
        let switch = Vswitchd::start(&format!("workers = {workers}"), &rest);
        tcp::exchange(&containers[0], &containers[1], "10.9.0.2", 1_000_000, 64 << 10);
        let load = process::load(switch.pid(), Duration::from_secs(2));
        println!("16 ports, {workers} workers: {:.2} % of a CPU", load * 100.0);
        assert!(load < 0.01, "{load}");
    }
}
