//! firewalld's zone for our interfaces.
//!
//! firewalld(1) rejects what is in no zone that accepts it: containers would reach neither the host nor, depending on its default
//! zone, the outside. So it gets a zone of ours, as it has one of Docker's and of libvirt's, with the interfaces of all gateways by
//! their prefix; what passes between networks and the outside stays the business of our own table. The zone is part of firewalld's
//! permanent configuration, and so outlives its reloads; an interface that a network has named is added each time.
//!
//! Spoken is D-Bus (firewalld.dbus(5)), by busctl(1), which every host with systemd has.

use std::{collections::BTreeSet, io, process::Command};

use serde_json::Value;
use vswitch_model::ifname::GATEWAY_PREFIX;

/// The table of firewalld in nftables, by which it is recognised.
pub(super) const TABLE: &str = "firewalld";

const ZONE: &str = "vswitch";

const OBJECT: &str = "/org/fedoraproject/FirewallD1";

/// How long an answer may take, in seconds: firewalld is slow to reload.
const PATIENCE: &str = "20";

/// Lets interfaces pass; wildcards are those of nft(8). Returns whether something was changed.
///
/// # Errors
/// Why it cannot, as a part of a sentence.
pub(super) fn admit(ifnames: &BTreeSet<String>) -> Result<bool, String> {
    let mut missing: BTreeSet<_> = ifnames.iter().map(|name| name.replace('*', "+")).collect();
    let mut changed = false;
    let there = match call("", "zone", "getInterfaces", &["s", ZONE]) {
        Err(error) if error.contains("INVALID_ZONE") => {
            make()?;
            changed = true;
            call("", "zone", "getInterfaces", &["s", ZONE])?
        }
        other => other?,
    };
    for interface in interfaces(&there)? {
        missing.remove(&interface);
    }
    for interface in missing {
        match call("", "zone", "addInterface", &["ss", ZONE, &interface]) {
            Ok(_) => changed = true,
            // The operator has decided otherwise.
            Err(error) if error.contains("ZONE_CONFLICT") => {}
            Err(error) => return Err(error),
        }
    }
    Ok(changed)
}

/// Makes the zone, permanently, and has firewalld read it.
fn make() -> Result<(), String> {
    let all = format!("{GATEWAY_PREFIX}+");
    let description =
        "The gateways of vswitchd's networks: what may pass is decided in its own table, inet vswitch.";
    let settings = [
        &["sa{sv}", ZONE, "4", "short", "s", ZONE, "description", "s", description][..],
        &["target", "s", "ACCEPT", "interfaces", "as", "1", &all],
    ];
    match call("/config", "config", "addZone2", &settings.concat()) {
        // It is there, but firewalld has not read it yet.
        Err(error) if error.contains("NAME_CONFLICT") => {}
        done => drop(done?),
    }
    call("", "", "reload", &[]).map(drop)
}

/// Removes the zone, if there is one.
///
/// # Errors
/// Why it cannot.
pub(super) fn remove() -> Result<(), String> {
    let found = match call("/config", "config", "getZoneByName", &["s", ZONE]) {
        Err(error) if error.contains("INVALID_ZONE") => return Ok(()),
        found => answer(&found?)?,
    };
    let path = found["data"][0].as_str().and_then(|path| path.strip_prefix(OBJECT));
    let path = path.ok_or_else(|| format!("busctl: {found} is no path"))?;
    call(path, "config.zone", "remove", &[])?;
    call("", "", "reload", &[]).map(drop)
}

/// Calls a method of the object at `path` below firewalld's, and returns the answer as JSON.
fn call(path: &str, interface: &str, method: &str, arguments: &[&str]) -> Result<Vec<u8>, String> {
    const NAME: &str = "org.fedoraproject.FirewallD1";
    let path = [OBJECT, path].concat();
    let interface = [NAME, interface].join(".");
    let mut busctl = Command::new("busctl");
    busctl.args(["--system", "--json=short", &format!("--timeout={PATIENCE}"), "call", NAME, &path]);
    busctl.args([interface.trim_end_matches('.'), method]).args(arguments);
    let output = busctl.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "busctl is missing".to_owned(),
        _ => format!("busctl: {error}"),
    })?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

fn answer(json: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(json).map_err(|error| format!("busctl: {error}"))
}

/// The list of texts that a method has answered.
fn interfaces(json: &[u8]) -> Result<Vec<String>, String> {
    let answer = answer(json)?;
    let all = answer["data"][0].as_array().ok_or_else(|| format!("busctl: {answer} has no list"))?;
    Ok(all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_busctl_prints() {
        let answer = br#"{"type":"as","data":[["vg-+","br0"]]}"#;
        assert_eq!(interfaces(answer).unwrap(), ["vg-+", "br0"]);
        assert!(interfaces(b"as 1 \"vg-+\"").unwrap_err().starts_with("busctl: "));
    }
}
