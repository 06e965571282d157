//! Forwarding, ordering, and the accounting of frames.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use vswitch_tests::{
    PATIENCE, eventually,
    raw::{BROADCAST, EXPERIMENT, frame},
};

use super::{Quiet, station};

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
    // Right after the start the bucket is not full yet.
    eventually("the bucket is full", || {
        (quiet.switch.ctl(&["stats"])["at_ms"].as_u64() > Some(200)).then_some(())
    });
    let start = Instant::now();
    quiet.pour("p0", &ports[0], &vec![storm.clone(); 2000]);
    ports[0].send(&frame(station(9), station(0), EXPERIMENT, b"to nobody known"));
    // Multicast is not limited here.
    ports[0].send(&frame([1, 0, 0x5e, 1, 1, 1], station(0), EXPERIMENT, b"the end"));
    let passed = ports[1].until(PATIENCE, b"the end");
    let seconds = start.elapsed().as_secs_f64();
    // A burst of 100 ms, then 100 frames per second.
    let most = 10.0 + 100.0 * seconds + 1.0;
    assert!(passed.iter().all(|frame| *frame == storm));
    assert!(passed.len() >= 10 && (passed.len() as f64) <= most, "{} in {seconds} s", passed.len());
    assert_eq!(quiet.switch.dropped("p0", "STORM_BROADCAST"), 2000 - passed.len() as u64);
    assert_eq!(quiet.switch.dropped("p0", "STORM_UNKNOWN"), 1);
}

/// Every frame received was sent, flooded, or dropped for a reason: over all ports, whatever the traffic.
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
        // Fewer than a TAP's queue holds; the kernel would drop the rest before the switch sees them.
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

        // Of the 8 frames of a round, those to the two groups and to the unknown station are flooded: to 2 ports from an
        // isolated one, else to 3.
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
        // Every forwarded frame left by one port, or by each port it was flooded to: from the ports' own counters.
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
        // The two invariants, on each port.
        for port in all {
            let met = |way: &str| -> u64 {
                let drops = port["drops"].as_array().unwrap().iter().filter(|drop| drop["direction"] == way);
                drops.map(|drop| drop["frames"].as_u64().unwrap()).sum()
            };
            let fate = |name: &str| port["fates"][name].as_u64().unwrap();
            assert_eq!(frames(port, "rx"), fate("unicast") + fate("flooded") + met("rx"), "{port}");
            assert_eq!(fate("offered"), frames(port, "tx") + met("tx"), "{port}");
        }
        // All frames are counted for the network, except those dropped before classification.
        let stats = quiet.switch.ctl(&["stats"]);
        let network = |name: &str| stats["networks"][0][name].as_u64().unwrap();
        let refused = drops("rx", "MAC_INVALID_SOURCE") + drops("rx", "LINK_LOCAL_GROUP");
        assert_eq!(network("frames"), received - refused);
        let fates = |name: &str| all.iter().map(|port| port["fates"][name].as_u64().unwrap()).sum::<u64>();
        assert_eq!((network("unicast"), network("flooded")), (fates("unicast"), fates("flooded")));
        assert_eq!(network("dropped"), drops("rx", "") - refused);
        assert_eq!(network("learned"), senders);
        // Each frame was received in a turn of some worker.
        let loads = stats["loads"].as_array().unwrap();
        let batched: u64 = loads.iter().map(|load| load["batches"]["sum"].as_u64().unwrap()).sum();
        assert_eq!(batched, received);
        for load in loads {
            let places = load["busy_ns"]["places"].as_array().unwrap();
            let counted: u64 = places.iter().map(|place| place["count"].as_u64().unwrap()).sum();
            // Each wake-up has at least one turn; one more may have occurred between the two readings.
            assert!(load["wakeups"].as_u64().unwrap() <= counted + 1, "{load}");
        }
        assert_eq!(drops("tx", ""), 0, "nobody was too slow");
        // The containers' kernel counters match our transmit counters.
        for (number, container) in quiet.containers.iter().enumerate() {
            let links: Value = serde_json::from_str(&container.ip("-j -s link show dev eth0")).unwrap();
            let heard = links[0]["stats64"]["rx"]["packets"].as_u64().unwrap();
            assert_eq!(heard, quiet.count(&format!("p{number}"), "tx"), "p{number}");
        }
    }
}

/// Frames of a port arrive in the order sent, whatever else is going on.
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
                    // The queue of a TAP is full: frames are lost, possibly this one.
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
