//! The switch of Virtual Distributed Ethernet with two TAPs: userspace, frame by frame, no offloads.

use crate::{
    error::Result,
    lab::Lab,
    process::{Process, installed},
    systems::{Running, System, first_line},
};

/// `vde_switch --tap porta --tap portb`.
#[derive(Clone, Copy, Debug)]
pub struct Vde;

impl System for Vde {
    fn name(&self) -> String {
        "vde".to_owned()
    }

    fn missing(&self) -> Option<String> {
        (!installed("vde_switch")).then(|| "vde_switch: install vde2".to_owned())
    }

    fn version(&self) -> Result<String> {
        first_line("vde_switch", "--version")
    }

    fn setup(&self, lab: &Lab) -> Result<Running> {
        let mut command = lab.host().namespace.command("vde_switch");
        command.arg("--sock").arg(lab.host().folder.join("vde"));
        for end in lab.ends() {
            command.args(["--tap", end.port]);
        }
        let process = Process::serve(&mut command, &lab.host().folder.join("vde.log"))?;
        lab.adopt_taps()?;
        Ok(Running { processes: vec![process], ..Running::default() })
    }
}
