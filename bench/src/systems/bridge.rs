//! The kernel's bridge with veth ports: what containers use today, and what all others are measured by.

use crate::{
    error::Result,
    lab::Lab,
    process::run_line,
    systems::{Running, System},
};

/// Kernel bridge and veth pairs, without spanning tree.
#[derive(Clone, Copy, Debug)]
pub struct Bridge;

impl System for Bridge {
    fn name(&self) -> String {
        super::BASELINE.to_owned()
    }

    fn missing(&self) -> Option<String> {
        None
    }

    fn version(&self) -> Result<String> {
        Ok(format!("Linux {}", run_line("uname -r")?.trim()))
    }

    fn setup(&self, lab: &Lab) -> Result<Running> {
        lab.switch.ip("link add br0 type bridge stp_state 0 forward_delay 0")?;
        lab.switch.ip("link set br0 up")?;
        lab.veths()?;
        for (port, _) in lab.ends() {
            lab.switch.ip(&format!("link set {port} master br0"))?;
        }
        Ok(Running::default())
    }
}
