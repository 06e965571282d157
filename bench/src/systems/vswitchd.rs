//! vswitchd, run like by a user: with a `net.toml`.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
    time::Duration,
};

use crate::{
    error::{Doing, Error, Result},
    interrupt,
    lab::{End, Host, INTERFACE, Lab},
    process::{Process, tail},
    systems::{Running, System, VNI, VXLAN_PORT, first_line},
    underlay::Uplink,
};

/// Time limit until the daemon's API answers.
const READY: Duration = Duration::from_secs(10);

/// The kind of port of the containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// A TAP in the container's namespace.
    Tap,
    /// A veth pair, read by AF_PACKET on the switch's end.
    Veth,
    /// A veth pair whose frames the kernel forwards as the switch has decided.
    Fast,
}

impl Port {
    /// Its name here.
    fn name(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Veth => "veth",
            Self::Fast => "fast",
        }
    }

    /// Its kind in `net.toml`.
    pub(crate) fn kind(self) -> &'static str {
        if self == Self::Tap { "tap" } else { "veth" }
    }

    /// Whether the kernel forwards in place of the switch, as `net.toml` has it.
    fn accelerate(self) -> &'static str {
        if self == Self::Fast { "auto" } else { "off" }
    }
}

impl FromStr for Port {
    type Err = String;

    fn from_str(kind: &str) -> std::result::Result<Self, String> {
        let known = [Self::Tap, Self::Veth, Self::Fast].into_iter().find(|port| port.name() == kind);
        known.ok_or_else(|| format!("`{kind}` is neither tap, veth nor fast"))
    }
}

/// `vswitchd --config net.toml` with ports of one kind, one daemon on each host.
#[derive(Clone, Debug)]
pub struct Vswitchd {
    /// The daemon's binary.
    pub binary: PathBuf,
    /// The kind of both ports.
    pub port: Port,
    /// A line for the `[switch]` section, such as `workers = 1`.
    pub extra: Option<String>,
}

impl System for Vswitchd {
    fn name(&self) -> String {
        let kind = self.port.name();
        match &self.extra {
            None => format!("vswitchd-{kind}"),
            Some(line) => format!("vswitchd-{kind} {}", line.replace(' ', "")),
        }
    }

    fn missing(&self) -> Option<String> {
        let built = self.binary.is_file();
        (!built).then(|| format!("{}: run `cargo build --release` first", self.binary.display()))
    }

    fn version(&self) -> Result<String> {
        first_line(&self.binary.to_string_lossy(), "--version")
    }

    fn setup(&self, lab: &Lab) -> Result<Running> {
        let start = |host: &Host| {
            let mtu = lab.a.mtu;
            let ports: String = lab.ends_at(host).map(|end| self.port(end)).collect();
            let network = format!("[[network]]\nname = \"bench\"\nvni = {VNI}\nmtu = {mtu}\n{ports}");
            self.start(host, |command| host.namespace.inside(command), &network)
        };
        let processes = lab.hosts().iter().map(start).collect::<Result<_>>()?;
        Ok(Running { processes, ..Running::default() })
    }
}

impl Vswitchd {
    /// Starts the daemon of a host, with the tables `rest` in its configuration, and waits until its API answers.
    ///
    /// `placed` chooses where the command runs.
    pub(crate) fn start(
        &self,
        host: &Host,
        placed: impl FnOnce(&Command) -> Command,
        rest: &str,
    ) -> Result<Process> {
        let config = host.folder.join("net.toml");
        std::fs::write(&config, self.config(host, rest)).doing("write net.toml")?;
        let mut command = Command::new(self.binary.canonicalize().doing("find vswitchd")?);
        command.arg("--config").arg(&config);
        let log = host.folder.join("vswitchd.log");
        let mut process = Process::serve(&mut placed(&command), &log)?;
        let socket = host.folder.join("api.sock");
        let ready = || (process.has_ended() || answers(&socket)).then(|| !process.has_ended());
        let status = match interrupt::wait_for("the API of vswitchd", READY, ready) {
            Ok(true) => return Ok(process),
            Ok(false) => "it ended".to_owned(),
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => error.to_string(),
        };
        // The folder with the log is removed with the lab, so the error includes its content.
        let message = tail(&std::fs::read_to_string(&log).unwrap_or_default());
        Err(Error::Command { command: "vswitchd --config net.toml".to_owned(), status, message })
    }

    fn config(&self, host: &Host, rest: &str) -> String {
        let folder = host.folder.display();
        let extra = self.extra.as_deref().unwrap_or_default();
        let tunnel = host.uplink.map(tunnel).unwrap_or_default();
        let accelerate = self.port.accelerate();
        format!(
            "[switch]\nstate = \"{folder}/state\"\naccelerate = \"{accelerate}\"\n{extra}\n\n[api]\nsocket = \"{folder}/api.sock\"\n\n{tunnel}{rest}"
        )
    }

    fn port(&self, End { port, container, .. }: End<'_>) -> String {
        format!(
            "\n[[port]]\nname = \"{port}\"\nnetwork = \"bench\"\nkind = \"{}\"\nnetns = \"{}\"\n\
             ifname = \"{INTERFACE}\"\naddress = [\"{}/24\"]\n",
            self.port.kind(),
            container.namespace.name(),
            container.address
        )
    }
}

fn tunnel(Uplink { local, remote, .. }: Uplink) -> String {
    format!("[vxlan]\nlocal = \"{local}\"\nport = {VXLAN_PORT}\n\n[[vxlan.peer]]\naddress = \"{remote}\"\n\n")
}

/// Whether an HTTP server answers on the socket, with any status.
fn answers(socket: &Path) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut start = [0; 5];
        stream.read_exact(&mut start)?;
        Ok(&start == b"HTTP/")
    };
    ask().unwrap_or(false)
}
