//! The switch itself, frame by frame, on a real kernel.

mod frames;
mod load;
mod table;

use serde_json::Value;
use vswitch_tests::{Netns, Raw, Vswitchd, eventually, net};

/// A switch with silent TAP ports `p0`, `p1`, …, each eth0 of a container: only frames of the test are received.
struct Quiet {
    switch: Vswitchd,
    containers: Vec<Netns>,
}

impl Quiet {
    /// `switch` are keys of `[switch]`, `ports` the keys of each port.
    fn start(switch: &str, ports: &[&str]) -> Self {
        let containers: Vec<_> = (0..ports.len()).map(|number| Netns::new(&format!("p{number}"))).collect();
        let mut config = net().switch(switch).network("blue");
        for (number, (keys, container)) in ports.iter().zip(&containers).enumerate() {
            container.silence();
            config = config.tap(&format!("p{number}"), container).keys(keys);
        }
        Self { switch: Vswitchd::start(&config), containers }
    }

    fn raw(&self) -> Vec<Raw> {
        self.containers.iter().map(|container| container.raw("eth0")).collect()
    }

    /// Sends frames through a port no faster than the switch receives them: a TAP's queue holds 1000 frames, and the
    /// kernel drops the rest before the switch sees them.
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

    /// Waits until `port` has received `frames`.
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
