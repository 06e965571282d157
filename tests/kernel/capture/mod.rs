//! Captures, traces and what is known of an address, on a running switch with real traffic.

mod files;
mod mirror;
mod trace;

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use vswitch_tests::{
    Netns, Vswitchd,
    daemon::{binary, tap},
    eventually,
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
