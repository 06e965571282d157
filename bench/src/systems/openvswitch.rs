//! Open vSwitch with its userspace datapath, on veth ports.
//!
//! Both of its daemons run in the foreground with database, sockets and logs in the host's folder, so a system-wide
//! Open vSwitch is neither needed nor affected. Between hosts it needs a second bridge that owns the underlay's
//! interface: the userspace datapath sends its tunnels' packets itself, and uses the kernel only for routes.

use std::{process::Command, time::Duration};

use crate::{
    error::Result,
    interrupt,
    lab::{End, Host, INTERFACE, Lab, MTU},
    process::{Process, installed, run},
    systems::{Running, System, VNI, VXLAN_PORT, first_line},
    underlay::{self, Uplink},
};

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// `other_config:userspace-tso-enable`, which is off by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tso {
    /// Default settings: frames of at most one MTU.
    Off,
    /// Frames of up to 64 KiB, experimental according to its manual.
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
            // AF_PACKET without a virtio-net header delivers super-frames and unfinished checksums; it drops the first
            // and forwards the second, and TCP does not connect. Its FAQ recommends this.
            for End { container, .. } in lab.ends() {
                run(container.namespace.command("ethtool").args(["-K", INTERFACE, "tx", "off"]))?;
            }
            running.remark = Some("tx offloads of the containers are off: TCP does not connect otherwise");
        }
        for host in lab.hosts() {
            running.processes.extend(self.start(host)?);
            // Without --no-wait it returns once the daemon has applied the database.
            control(host, &["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"])?;
            for End { port, .. } in lab.ends_at(host) {
                control(host, &["add-port", "br0", port])?;
            }
            if let Some(uplink) = host.uplink {
                tunnel(host, uplink)?;
            }
        }
        Ok(running)
    }
}

impl OpenVswitch {
    /// Starts its two daemons on a host, with nothing configured.
    fn start(self, host: &Host) -> Result<[Process; 2]> {
        let folder = &host.folder;
        let database = folder.join("conf.db");
        run(local(Command::new("ovsdb-tool"), host).arg("create").arg(&database).arg(SCHEMA))?;
        let mut server = daemon(host, "ovsdb-server");
        server.arg(&database).arg(format!("--remote=punix:{}", socket(host)));
        let server = Process::serve(&mut server, &folder.join("ovsdb-server.log"))?;
        let limit = Duration::from_secs(5);
        let created = || folder.join("db.sock").exists().then_some(());
        interrupt::wait_for("the database of Open vSwitch", limit, created)?;

        let tso = format!("other_config:userspace-tso-enable={}", self.tso == Tso::On);
        control(host, &["--no-wait", "init", "--", "set", "Open_vSwitch", ".", &tso])?;
        let mut switch = daemon(host, "ovs-vswitchd");
        switch.arg(format!("unix:{}", socket(host)));
        Ok([server, Process::serve(&mut switch, &folder.join("ovs-vswitchd.log"))?])
    }
}

/// Moves the underlay's interface and its address to a bridge of their own, and makes a tunnel to the other host.
fn tunnel(host: &Host, uplink: Uplink) -> Result<()> {
    control(host, &["add-br", "brphy", "--", "set", "bridge", "brphy", "datapath_type=netdev"])?;
    control(host, &["add-port", "brphy", underlay::INTERFACE])?;
    host.namespace.ip(&format!("address flush dev {}", underlay::INTERFACE))?;
    host.namespace.ip(&format!("link set brphy mtu {MTU} up"))?;
    uplink.configure(&host.namespace, "brphy")?;
    let options = [
        format!("options:remote_ip={}", uplink.remote),
        format!("options:local_ip={}", uplink.local),
        format!("options:key={VNI}"),
        format!("options:dst_port={VXLAN_PORT}"),
    ];
    let mut arguments = vec!["add-port", "br0", "vxlan0", "--", "set", "interface", "vxlan0", "type=vxlan"];
    arguments.extend(options.iter().map(String::as_str));
    control(host, &arguments)
}

/// One of the daemons in the host's namespace, in the foreground.
fn daemon(host: &Host, program: &str) -> Command {
    let mut command = local(host.namespace.command(program), host);
    let unixctl = host.folder.join(format!("{program}.ctl"));
    command.arg(format!("--unixctl={}", unixctl.display())).args(["-vconsole:warn", "-vsyslog:off"]);
    command
}

fn control(host: &Host, arguments: &[&str]) -> Result<()> {
    let mut command = local(Command::new("ovs-vsctl"), host);
    run(command.arg(format!("--db=unix:{}", socket(host))).args(["--timeout=8"]).args(arguments))?;
    Ok(())
}

fn socket(host: &Host) -> String {
    host.folder.join("db.sock").display().to_string()
}

/// Makes a program of Open vSwitch avoid the folders of an installed one.
fn local(mut command: Command, host: &Host) -> Command {
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
        command.env(variable, &host.folder);
    }
    command
}
