//! Open vSwitch with its userspace datapath, on veth ports.
//!
//! Both of its daemons run in the foreground with database, sockets and logs in the lab's folder, so a
//! system-wide Open vSwitch is neither needed nor touched.

use std::{process::Command, time::Duration};

use crate::{
    error::Result,
    interrupt,
    lab::{INTERFACE, Lab},
    process::{Process, installed, run},
    systems::{Running, System, first_line},
};

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// `other_config:userspace-tso-enable`, which is off by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tso {
    /// As shipped: frames of at most one MTU.
    Off,
    /// Frames of up to 64 KiB, called experimental by its manual.
    On,
}

/// `ovs-vswitchd` with a bridge of `datapath_type=netdev`.
#[derive(Clone, Copy, Debug)]
pub struct OpenVswitch {
    /// Whether super-frames pass whole.
    pub tso: Tso,
}

impl System for OpenVswitch {
    fn name(&self) -> String {
        match self.tso {
            Tso::Off => "ovs".to_owned(),
            Tso::On => "ovs-tso".to_owned(),
        }
    }

    fn missing(&self) -> Option<String> {
        let programs = ["ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl"];
        let absent = programs.into_iter().find(|program| !installed(program))?;
        Some(format!("{absent}: install openvswitch-switch"))
    }

    fn version(&self) -> Result<String> {
        first_line("ovs-vswitchd", "--version")
    }

    fn setup(&self, lab: &Lab) -> Result<Running> {
        lab.veths()?;
        let mut running = Running::default();
        if self.tso == Tso::Off {
            // AF_PACKET without a virtio-net header shows it super-frames and unfinished checksums; it drops the
            // first and passes on the second, and no TCP connection comes about. Its FAQ says to do this.
            for (_, container) in lab.ends() {
                run(container.namespace.command("ethtool").args(["-K", INTERFACE, "tx", "off"]))?;
            }
            running.remark = Some("tx offloads of the containers are off: TCP does not connect otherwise");
        }
        let folder = lab.folder();
        let database = folder.join("conf.db");
        run(local(Command::new("ovsdb-tool"), lab).arg("create").arg(&database).arg(SCHEMA))?;
        let mut server = daemon(lab, "ovsdb-server");
        server.arg(&database).arg(format!("--remote=punix:{}", socket(lab)));
        running.processes.push(Process::serve(&mut server, &folder.join("ovsdb-server.log"))?);
        let limit = Duration::from_secs(5);
        let created = || folder.join("db.sock").exists().then_some(());
        interrupt::wait_for("the database of Open vSwitch", limit, created)?;

        let tso = format!("other_config:userspace-tso-enable={}", self.tso == Tso::On);
        control(lab, &["--no-wait", "init", "--", "set", "Open_vSwitch", ".", &tso])?;
        let mut switch = daemon(lab, "ovs-vswitchd");
        switch.arg(format!("unix:{}", socket(lab)));
        running.processes.push(Process::serve(&mut switch, &folder.join("ovs-vswitchd.log"))?);
        // Without --no-wait it returns once the daemon has done what the database says.
        control(lab, &["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"])?;
        control(lab, &["add-port", "br0", "porta", "--", "add-port", "br0", "portb"])?;
        Ok(running)
    }
}

/// One of the daemons in the switch's namespace, in the foreground.
fn daemon(lab: &Lab, program: &str) -> Command {
    let mut command = local(lab.switch.command(program), lab);
    let unixctl = lab.folder().join(format!("{program}.ctl"));
    command.arg(format!("--unixctl={}", unixctl.display())).args(["-vconsole:warn", "-vsyslog:off"]);
    command
}

fn control(lab: &Lab, arguments: &[&str]) -> Result<()> {
    let mut command = local(Command::new("ovs-vsctl"), lab);
    run(command.arg(format!("--db=unix:{}", socket(lab))).args(["--timeout=8"]).args(arguments))?;
    Ok(())
}

fn socket(lab: &Lab) -> String {
    lab.folder().join("db.sock").display().to_string()
}

/// Keeps a program of Open vSwitch away from the folders of an installed one.
fn local(mut command: Command, lab: &Lab) -> Command {
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
        command.env(variable, lab.folder());
    }
    command
}
