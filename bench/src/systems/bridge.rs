//! The kernel's bridge with veth ports, and between hosts its VXLAN device: what containers use today, and the baseline
//! of all others.

use crate::{
    error::Result,
    lab::{End, Lab},
    process::run_line,
    systems::{Running, System, VNI, VXLAN_PORT},
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
        lab.veths()?;
        for host in lab.hosts() {
            let ip = |arguments: String| host.namespace.ip(&arguments);
            ip("link add br0 type bridge stp_state 0 forward_delay 0".to_owned())?;
            ip("link set br0 up".to_owned())?;
            if let Some(uplink) = host.uplink {
                let (local, remote) = (uplink.local, uplink.remote);
                let between = format!("local {local} remote {remote} dstport {VXLAN_PORT}");
                ip(format!("link add vxlan0 type vxlan id {VNI} {between}"))?;
                let mtu = lab.a.mtu;
                ip(format!("link set vxlan0 mtu {mtu} master br0 up"))?;
            }
            for End { port, .. } in lab.ends_at(host) {
                ip(format!("link set {port} master br0"))?;
            }
        }
        Ok(Running::default())
    }
}
