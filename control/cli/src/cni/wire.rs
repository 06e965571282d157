//! The types of the specification.

use std::{collections::BTreeMap, io};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::VERSIONS;
use crate::client::ClientError;
use vswitch_model::{ErrorKind, LimitSpec, Rate};

/// The commands of a runtime: `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Verb {
    pub(super) fn of_environment() -> Result<Self, Failure> {
        match std::env::var("CNI_COMMAND").unwrap_or_default().as_str() {
            "ADD" => Ok(Self::Add),
            "DEL" => Ok(Self::Del),
            "CHECK" => Ok(Self::Check),
            "GC" => Ok(Self::Gc),
            "STATUS" => Ok(Self::Status),
            "VERSION" => Ok(Self::Version),
            other => Err(Failure::new(
                Code::Environment,
                format!(
                    "CNI_COMMAND {other:?} is unknown: this is a CNI plugin, run by podman, containerd or CRI-O"
                ),
            )),
        }
    }
}

/// The used fields of a network's configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Config {
    pub(super) cni_version: String,
    pub(super) name: String,
    /// The network in the daemon; by default the configuration's name.
    pub(super) network: Option<String>,
    /// The daemon's socket.
    pub(super) socket: Option<std::path::PathBuf>,
    pub(super) ipam: Option<Ipam>,
    pub(super) dns: Value,
    pub(super) options: BTreeMap<String, String>,
    pub(super) args: Option<Arguments>,
    pub(super) runtime_config: RuntimeConfig,
    pub(super) prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<Attachment>>,
    /// The same, as the specification called it until containernetworking/cni#1103; libcni sends both.
    #[serde(rename = "cni.dev/attachments")]
    formerly_valid: Option<Vec<Attachment>>,
}

impl Config {
    /// The attachments that are still valid, for GC: those of either list. Without a list nothing is known of them.
    pub(super) fn valid(&self) -> Result<Vec<&Attachment>, Failure> {
        if self.valid.is_none() && self.formerly_valid.is_none() {
            let what = "cni.dev/valid-attachments is missing: nothing is disconnected; list the attachments that are still \
                        valid, or [] if there are none";
            return Err(Failure::new(Code::Config, what));
        }
        Ok([&self.valid, &self.formerly_valid].into_iter().flatten().flatten().collect())
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Ipam {
    pub(super) r#type: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Arguments {
    pub(super) cni: OwnArguments,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OwnArguments {
    pub(super) ips: Vec<String>,
}

/// Values from the runtime for the capabilities of the configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RuntimeConfig {
    pub(super) port_mappings: Vec<PortMapping>,
    pub(super) ips: Vec<String>,
    pub(super) mac: Option<String>,
    /// A list; podman writes a map of lists by network.
    pub(super) aliases: Value,
    pub(super) dns: Option<Value>,
    pub(super) bandwidth: Option<Bandwidth>,
}

/// Rates in bits per second and bursts in bits, from the container's view; zero means no limit.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Bandwidth {
    ingress_rate: u64,
    ingress_burst: u64,
    egress_rate: u64,
    egress_burst: u64,
}

/// Bursts from here on are treated as unset: pods can only request a rate, and kubelet, containerd and CRI-O then pass
/// the largest possible number.
const NO_BURST: u64 = i32::MAX as u64;

impl Bandwidth {
    /// The same from the switch's view: what the container receives leaves by its port.
    pub(super) fn limit(&self) -> Result<LimitSpec, Failure> {
        let (tx, tx_burst) = one("ingress", self.ingress_rate, self.ingress_burst)?;
        let (rx, rx_burst) = one("egress", self.egress_rate, self.egress_burst)?;
        Ok(LimitSpec { rx, rx_burst, tx, tx_burst })
    }
}

fn one(way: &str, rate: u64, burst: u64) -> Result<(Option<Rate>, Option<u32>), Failure> {
    let wrong = |what: String| Failure::new(Code::Config, format!("bandwidth: {way}{what}"));
    match (rate, burst) {
        (0, 0) => Ok((None, None)),
        (0, _) => Err(wrong(format!("Burst is {burst}, but there is no {way}Rate: add it, or remove both"))),
        (rate, burst) => {
            let rate = Rate::try_from(rate).map_err(|error| wrong(format!("Rate: {error}")))?;
            let bytes = u32::try_from(burst / 8).ok().filter(|bytes| *bytes > 0 && burst < NO_BURST);
            Ok((Some(rate), bytes))
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PortMapping {
    pub(super) host_port: u16,
    pub(super) container_port: u16,
    pub(super) protocol: String,
    #[serde(rename = "hostIP")]
    pub(super) host_ip: String,
}

/// Identifies a container's interface.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Attachment {
    #[serde(rename = "containerID")]
    pub(super) container: String,
    pub(super) ifname: String,
}

/// The result of ADD.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Outcome {
    pub(super) cni_version: String,
    pub(super) interfaces: Vec<Value>,
    pub(super) ips: Vec<Ip>,
    pub(super) routes: Vec<Value>,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub(super) dns: Value,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ip {
    /// `4` or `6`, in versions of the result that have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
    pub(super) address: ipnet::IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) gateway: Option<std::net::IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) interface: Option<usize>,
}

/// The version of a configuration; the newest if it has none, because a result must have one.
pub(super) fn version_of(config: &str) -> String {
    let version = serde_json::from_str::<Value>(config).ok();
    let version = version.and_then(|config| config["cniVersion"].as_str().map(str::to_owned));
    version.unwrap_or_else(|| VERSIONS[VERSIONS.len() - 1].into())
}

/// An error result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    code: u32,
    message: String,
}

/// The error codes of the specification.
#[derive(Clone, Copy, Debug)]
pub(super) enum Code {
    Version = 1,
    Environment = 4,
    Io = 5,
    Decode = 6,
    Config = 7,
    TryAgain = 11,
    Unavailable = 50,
    /// The first plugin-specific code: the daemon refused.
    Refused = 100,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code: code as u32, message: message.into() }
    }

    pub(super) fn io(error: &io::Error) -> Self {
        Self::new(Code::Io, error.to_string())
    }

    /// Another plugin's error, unchanged.
    pub(super) fn of_plugin(written: &Value) -> Option<Self> {
        let code = u32::try_from(written["code"].as_u64()?).ok()?;
        let details = written["details"].as_str().filter(|it| !it.is_empty());
        let message = written["msg"].as_str().unwrap_or_default();
        Some(Self { code, message: details.map_or_else(|| message.into(), |it| format!("{message}: {it}")) })
    }

    pub(super) fn written(&self, version: &str) -> Value {
        json!({ "cniVersion": version, "code": self.code, "msg": self.message })
    }
}

impl From<ErrorKind> for Code {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Invalid => Self::Config,
            ErrorKind::Forbidden | ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::Internal => {
                Self::Refused
            }
            ErrorKind::Unavailable => Self::TryAgain,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::NotRunning(_) | ClientError::Died(_) => Code::TryAgain,
            ClientError::NoRights(_)
            | ClientError::Ended(_)
            | ClientError::Broken(..)
            | ClientError::Unknown(..) => Code::Io,
            ClientError::Refused(refusal) => refusal.kind.into(),
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(bandwidth: Value) -> Result<String, String> {
        let bandwidth: Bandwidth = serde_json::from_value(bandwidth).unwrap();
        let limit = bandwidth.limit();
        limit
            .map(|limit| limit.to_string())
            .map_err(|failure| format!("{}: {}", failure.code, failure.message))
    }

    #[test]
    fn attachments_are_valid_by_either_key_and_never_without_one() {
        let valid = |config: Value| {
            let config: Config = serde_json::from_value(config).unwrap();
            let valid = config.valid().map_err(|failure| failure.code);
            valid.map(|valid| valid.into_iter().map(|it| it.container.clone()).collect::<Vec<_>>().join(" "))
        };
        let list = |container: &str| json!([{ "containerID": container, "ifname": "eth0" }]);
        let (new, old) = ("cni.dev/valid-attachments", "cni.dev/attachments");
        assert_eq!(valid(json!({ new: list("a") })), Ok("a".into()));
        assert_eq!(valid(json!({ old: list("a") })), Ok("a".into()));
        assert_eq!(valid(json!({ old: list("a"), new: list("b") })), Ok("b a".into()));
        assert_eq!(valid(json!({ new: [], old: null })), Ok(String::new()));
        assert_eq!(valid(json!({})), Err(Code::Config as u32));
        assert_eq!(valid(json!({ new: null, old: null })), Err(Code::Config as u32));
    }

    #[test]
    fn a_daemon_that_is_busy_is_asked_again() {
        assert_eq!(Failure::from(ClientError::Refused(vswitch_model::Error::unavailable("busy"))).code, 11);
        assert_eq!(Failure::from(ClientError::NotRunning("/x".into())).code, 11);
        assert_eq!(Failure::from(ClientError::Refused(vswitch_model::Error::conflict("taken"))).code, 100);
    }

    #[test]
    fn a_containers_ingress_is_what_its_port_sends() {
        for (bandwidth, expected) in [
            (
                json!({ "ingressRate": 100_000_000, "ingressBurst": 8_000_000, "egressRate": 2_000_000 }),
                Ok("rx 2 Mbit/s, tx 100 Mbit/s (burst 1000000)"),
            ),
            (json!({ "ingressRate": 0, "egressRate": 0, "egressBurst": 0 }), Ok("")),
            // What kubelet, containerd and CRI-O pass for a pod with only a rate.
            (json!({ "egressRate": 1000, "egressBurst": i32::MAX }), Ok("rx 1 kbit/s")),
            (json!({ "egressRate": 1000, "egressBurst": u32::MAX }), Ok("rx 1 kbit/s")),
            (json!({ "egressRate": 1000, "egressBurst": u64::from(u32::MAX) * 8 }), Ok("rx 1 kbit/s")),
            (json!({ "egressRate": 1000, "egressBurst": 7 }), Ok("rx 1 kbit/s")),
            (
                json!({ "egressBurst": 1000 }),
                Err("7: bandwidth: egressBurst is 1000, but there is no egressRate: add it, or remove both"),
            ),
            (
                json!({ "ingressRate": 1_000_000_000_001_u64 }),
                Err(
                    "7: bandwidth: ingressRate: \"1000000000001 bit/s\" is not a rate: use a whole number and bit/s, kbit/s, Mbit/s or Gbit/s, up to 1000 Gbit/s, like \"100 Mbit/s\"",
                ),
            ),
        ] {
            let written = bandwidth.to_string();
            assert_eq!(limit(bandwidth).as_deref().map_err(String::as_str), expected, "{written}");
        }
    }
}
