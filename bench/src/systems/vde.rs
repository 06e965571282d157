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
        let mut command = lab.switch.command("vde_switch");
        command.arg("--sock").arg(lab.folder().join("vde"));
        for (port, _) in lab.ends() {
            command.args(["--tap", port]);
        }
        let process = Process::serve(&mut command, &lab.folder().join("vde.log"))?;
        lab.adopt_taps()?;
        Ok(Running { processes: vec![process], remark: None })
    }
}
