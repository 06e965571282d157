//! Captures, traces and `why`, on a running switch with real traffic.

mod files;
mod mirror;
mod trace;

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use vswitch_tests::{Config, Netns, Vswitchd, daemon::binary, eventually, net};

const WEB: [u8; 6] = [2, 0x42, 10, 9, 0, 2];
const DB: [u8; 6] = [2, 0x42, 10, 9, 0, 3];

/// Containers `web` and `db` in network blue, and `alone` in red.
struct Office {
    switch: Vswitchd,
    web: Netns,
    db: Netns,
    alone: Netns,
}

impl Office {
    fn start() -> Self {
        Self::start_with(|config| config)
    }

    /// Like [`start`](Self::start), with further ports of network blue or further tables.
    fn start_with(more: impl FnOnce(Config) -> Config) -> Self {
        let [web, db, alone] = ["web", "db", "alone"].map(Netns::new);
        for netns in [&web, &db, &alone] {
            netns.silence();
        }
        let port = |config: Config, name: &str, netns: &Netns, last: u8| {
            let port = config.tap(name, netns).address(&format!("10.9.0.{last}/24"));
            port.mac(&format!("02:42:0a:09:00:0{last}"))
        };
        let red = net().network("blue").keys("vlan = 10").network("red");
        let blue = port(red, "alone", &alone, 4).within("blue");
        let blue = port(port(blue, "web", &web, 2), "db", &db, 3);
        Self { switch: Vswitchd::start(&more(blue)), web, db, alone }
    }

    /// Starts vswitchctl and waits until its capture is running.
    fn capture(&self, arguments: &[&str]) -> Capturing {
        let ids = || {
            let listed = self.switch.ctl(&["capture", "--ls"]);
            listed.as_array().unwrap().iter().map(|it| it["id"].as_u64().unwrap()).max()
        };
        let known = ids();
        let mut command = Command::new(binary("vswitchctl"));
        command.arg("--socket").arg(self.switch.socket()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.switch.host.run(|| command.spawn().unwrap());
        eventually("the capture goes on", || {
            // Ids grow. One that has just ended may still be listed, so their number says nothing.
            (ids() > known).then_some(())
        });
        Capturing(child)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.switch.folder().join(name)
    }
}

/// A vswitchctl that is capturing.
struct Capturing(Child);

impl Capturing {
    /// Interrupts it, and returns standard output and standard error.
    fn stop(self) -> (String, String) {
        kill_process(Pid::from_child(&self.0), Signal::INT).unwrap();
        self.wait()
    }

    /// Waits until it has captured enough.
    fn wait(self) -> (String, String) {
        let output = self.0.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        assert!(output.status.success(), "{stdout}{stderr}");
        (stdout, stderr)
    }
}
