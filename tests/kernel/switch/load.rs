//! A flooding port, and an idle switch.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use vswitch_tests::{
    Netns, PATIENCE, Vswitchd, eventually, net, process,
    raw::{BROADCAST, EXPERIMENT, frame},
    tcp::{self, Flow},
    udp::Echo,
};

use super::station;

/// Two containers that communicate, and one that floods at full speed.
#[test]
fn a_port_that_floods_does_not_starve_others() {
    for workers in [1, 2] {
        let (a, b, loud) = (Netns::new("a"), Netns::new("b"), Netns::new("loud"));
        loud.silence();
        let config = net().switch(&format!("workers = {workers}")).network("blue");
        let config = config.tap("a", &a).address("10.9.0.1/24").tap("b", &b).address("10.9.0.2/24");
        let switch = Vswitchd::start(&config.tap("loud", &loud));
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
    for workers in [1, 2] {
        let mut config = net().switch(&format!("workers = {workers}")).network("blue");
        for (number, netns) in (1..).zip(&containers) {
            let kind = if number % 2 == 1 { "tap" } else { "veth" };
            config = config.port(&format!("p{number}"), kind, netns).address(&format!("10.9.0.{number}/24"));
        }
        let switch = Vswitchd::start(&config);
        tcp::exchange(&containers[0], &containers[1], "10.9.0.2", 1_000_000, 64 << 10);
        let load = process::load(switch.pid(), Duration::from_secs(2));
        println!("16 ports, {workers} workers: {:.2} % of a CPU", load * 100.0);
        assert!(load < 0.01, "{load}");
    }
}
