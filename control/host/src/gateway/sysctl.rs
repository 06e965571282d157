//! Kernel settings that forwarding needs, in the network namespace of the calling thread.
//!
//! Only settings that differ are written, and each write is logged: a host that forwards is a router for all its
//! interfaces. Nothing is reverted, since others may have come to rely on it.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use tracing::info;

use super::{GatewayError, Outside};
use vswitch_model::Family;

/// Applies all settings that `outsides` need; after the rules are set, so that nothing is open in between.
pub(super) fn prepare(outsides: &[Outside]) -> Result<(), GatewayError> {
    let subnets = outsides.iter().flat_map(|outside| &outside.subnets);
    let any = |family| subnets.clone().any(|net| Family::of(*net) == family);
    for outside in outsides {
        of_interface(outside)?;
    }
    if any(Family::V4) {
        set("net/ipv4/ip_forward", "1")?;
    }
    if any(Family::V6) {
        forward_ipv6()?;
    }
    Ok(())
}

/// Settings of a gateway's own interface.
fn of_interface(outside: &Outside) -> Result<(), GatewayError> {
    let name = &outside.ifname;
    // Containers are not routers: the host must not accept their advertisements.
    unless_absent(set(&format!("net/ipv6/conf/{name}/accept_ra"), "0"))?;
    // Ports published at 127.0.0.1 are reachable from the host only if the kernel routes loopback addresses out of this
    // interface (net/ipv4/route.c, __mkroute_output). Our chain `guard` drops what comes in by it.
    let by_loopback = |ip: IpAddr| ip.is_ipv4() && (ip.is_unspecified() || ip.is_loopback());
    if outside.published.iter().any(|published| by_loopback(published.at().ip())) {
        unless_absent(set(&format!("net/ipv4/conf/{name}/route_localnet"), "1"))?;
    }
    Ok(())
}

/// IPv6 is forwarded on all interfaces or none (net/ipv6/ip6_output.c, ip6_forward).
///
/// A forwarding interface ignores router advertisements unless `accept_ra` is 2: an uplink that has its default route
/// from them would lose it.
fn forward_ipv6() -> Result<(), GatewayError> {
    const FORWARDING: &str = "net/ipv6/conf/all/forwarding";
    if read(FORWARDING).is_some_and(|value| value == "1") {
        return Ok(());
    }
    let unread = |source| GatewayError::Sysctl { name: FORWARDING.to_owned(), value: "1", source };
    for entry in fs::read_dir(path("net/ipv6/conf")).map_err(unread)? {
        let name = entry.map_err(unread)?.file_name();
        let Some(name) = name.to_str().filter(|name| !["all", "default", "lo"].contains(name)) else {
            continue;
        };
        let accept_ra = format!("net/ipv6/conf/{name}/accept_ra");
        if read(&accept_ra).is_some_and(|value| value == "1") {
            unless_absent(set(&accept_ra, "2"))?;
        }
    }
    set(FORWARDING, "1")
}

fn set(name: &str, value: &'static str) -> Result<(), GatewayError> {
    if read(name).is_some_and(|old| old == value) {
        return Ok(());
    }
    fs::write(path(name), value).map_err(|source| GatewayError::Sysctl {
        name: name.to_owned(),
        value,
        source,
    })?;
    info!("set {name} to {value}: the gateway needs it");
    Ok(())
}

/// The interface may have been removed meanwhile, or have no IPv6.
fn unless_absent(result: Result<(), GatewayError>) -> Result<(), GatewayError> {
    match result {
        Err(GatewayError::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read(name: &str) -> Option<String> {
    Some(fs::read_to_string(path(name)).ok()?.trim_end().to_owned())
}

fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}
