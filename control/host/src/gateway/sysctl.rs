//! Kernel settings that forwarding needs, in the network namespace of the calling thread.
//!
//! Only settings that differ are written, and each write is logged: a host that forwards is a router for all its
//! interfaces. Nothing is reverted, since others may have come to rely on it. What others set back is set [again](restore).

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use tracing::info;

use super::{GatewayError, Outside};
use vswitch_model::Family;

/// A setting that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    /// Its path below /proc/sys.
    name: String,
    value: &'static str,
    /// What does not work without it.
    lost: &'static str,
}

/// Applies all settings that `outsides` need; after the rules are set, so that nothing is open in between.
pub(super) fn prepare(outsides: &[Outside]) -> Result<(), GatewayError> {
    for (setting, _) in apply(outsides)? {
        info!("set {} to {}: the gateway needs it", setting.name, setting.value);
    }
    Ok(())
}

/// Applies the settings that others have changed since. Returns a sentence for each.
pub(super) fn restore(outsides: &[Outside]) -> Result<Vec<String>, GatewayError> {
    let told = apply(outsides)?.into_iter().map(|(Setting { name, value, lost }, found)| {
        format!("{name} was set to {found} by another program and is {value} again: without it {lost}")
    });
    Ok(told.collect())
}

/// The settings that were changed, with what they were before.
fn apply(outsides: &[Outside]) -> Result<Vec<(Setting, String)>, GatewayError> {
    let mut changed = Vec::new();
    for setting in settings(outsides) {
        if setting.name == FORWARDING_IPV6 {
            keep_router_advertisements()?;
        }
        changed.extend(setting.apply()?.map(|found| (setting, found)));
    }
    Ok(changed)
}

const FORWARDING: &str = "net/ipv4/ip_forward";
const FORWARDING_IPV6: &str = "net/ipv6/conf/all/forwarding";

/// What `outsides` need: those of all interfaces first, since they change those of each.
fn settings(outsides: &[Outside]) -> Vec<Setting> {
    const CUT_OFF: &str = "containers do not reach the outside";
    let setting = |name: String, value, lost| Setting { name, value, lost };
    let mut settings = Vec::new();
    let has = |outside: &Outside, family| outside.subnets.iter().any(|net| Family::of(*net) == family);
    for (family, name) in [(Family::V4, FORWARDING), (Family::V6, FORWARDING_IPV6)] {
        if outsides.iter().any(|outside| has(outside, family)) {
            settings.push(setting(name.into(), "1", CUT_OFF));
        }
    }
    for outside in outsides {
        let ifname = &outside.ifname;
        for (family, name) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
            if has(outside, family) {
                settings.push(setting(format!("net/{name}/conf/{ifname}/forwarding"), "1", CUT_OFF));
            }
        }
        if outside.internal {
            // The host's addresses on other interfaces are outside.
            let answers = "the host answers for its other addresses";
            settings.push(setting(format!("net/ipv4/conf/{ifname}/arp_ignore"), "1", answers));
        }
        // Containers are not routers: the host must not accept their advertisements.
        let takes = "the host takes a container for its router";
        settings.push(setting(format!("net/ipv6/conf/{ifname}/accept_ra"), "0", takes));
        // Ports published at 127.0.0.1 are reachable from the host only if the kernel routes loopback addresses out of this
        // interface (net/ipv4/route.c, __mkroute_output). Our chain `guard` drops what comes in by it.
        let by_loopback = |ip: IpAddr| ip.is_ipv4() && (ip.is_unspecified() || ip.is_loopback());
        if outside.published.iter().any(|published| by_loopback(published.at().ip())) {
            let unheard = "published ports are not reached at 127.0.0.1";
            settings.push(setting(format!("net/ipv4/conf/{ifname}/route_localnet"), "1", unheard));
        }
    }
    settings
}

/// IPv6 is forwarded on all interfaces or none (net/ipv6/ip6_output.c, ip6_forward).
///
/// A forwarding interface ignores router advertisements unless `accept_ra` is 2: an uplink that has its default route
/// from them would lose it.
fn keep_router_advertisements() -> Result<(), GatewayError> {
    if read(FORWARDING_IPV6).is_some_and(|value| value == "1") {
        return Ok(());
    }
    let unread = |source| GatewayError::Sysctl { name: FORWARDING_IPV6.to_owned(), value: "1", source };
    for entry in fs::read_dir(path("net/ipv6/conf")).map_err(unread)? {
        let name = entry.map_err(unread)?.file_name();
        let Some(name) = name.to_str().filter(|name| !["all", "default", "lo"].contains(name)) else {
            continue;
        };
        let accept_ra = format!("net/ipv6/conf/{name}/accept_ra");
        if read(&accept_ra).is_some_and(|value| value == "1") {
            let setting = Setting { name: accept_ra, value: "2", lost: "" };
            if setting.apply()?.is_some() {
                info!("set {} to 2: the host forwards now", setting.name);
            }
        }
    }
    Ok(())
}

impl Setting {
    /// Writes it if it differs; returns the value that was there. One of an interface that was removed meanwhile, or has no
    /// IPv6, is skipped.
    fn apply(&self) -> Result<Option<String>, GatewayError> {
        let found = read(&self.name);
        if found.as_deref() == Some(self.value) {
            return Ok(None);
        }
        match fs::write(path(&self.name), self.value) {
            Ok(()) => Ok(Some(found.unwrap_or_default())),
            Err(source) if source.kind() == io::ErrorKind::NotFound && self.name.contains("/conf/") => {
                Ok(None)
            }
            Err(source) => Err(GatewayError::Sysctl { name: self.name.clone(), value: self.value, source }),
        }
    }
}

fn read(name: &str) -> Option<String> {
    Some(fs::read_to_string(path(name)).ok()?.trim_end().to_owned())
}

fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}
