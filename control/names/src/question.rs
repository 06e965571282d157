//! A name as it was asked: a name of ours, an address, a service, or nothing of ours.
//!
//! | asked | meaning |
//! |---|---|
//! | `NAME`, `NAME.DOMAIN` | that name in the asker's networks, the first that has it |
//! | `NAME.NETWORK`, `NAME.NETWORK.DOMAIN` | that name in one network of the asker's |
//! | `tasks.` before any of these | the tasks of a service, not the service's own address |
//! | `_PORT._PROTOCOL.` before any of these | a port of what has the name |
//! | `….in-addr.arpa`, `….ip6.arpa` | who has the address |
//!
//! Names of containers may have dots, so each form is tried with the longest name first.

use std::{net::IpAddr, sync::Arc};

use hickory_proto::rr::Name;

use crate::table::{Asker, Found, Network, Table};

/// What a name means to one who asks.
#[derive(Debug)]
pub enum Meaning<'t> {
    /// Stations of a network.
    Stations(&'t Network, Found),
    /// A port of stations of a network, by name and protocol.
    Port(&'t Network, Found, Service),
    /// The names of who has an address, as they are answered.
    Reverse(Vec<String>),
    /// Our zone itself.
    Apex,
    /// It would be ours, but there is no such name.
    Nothing,
    /// Not ours: other servers may know it.
    Foreign,
}

/// A port by name, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name, or its number as text.
    pub port: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
}

/// The meaning of `name` to `asker`.
pub fn meaning<'t>(table: &'t Table, asker: Asker, name: &Name) -> Meaning<'t> {
    if let Some(address) = reverse(name) {
        return holders(table, asker, address);
    }
    match text(name) {
        Some(text) => meaning_of(table, asker, &text),
        None if is_below(name, &table.domain) => Meaning::Nothing,
        None => Meaning::Foreign,
    }
}

/// The meaning of a name as text, with or without its last dot, to `asker`.
pub fn meaning_of<'t>(table: &'t Table, asker: Asker, text: &str) -> Meaning<'t> {
    let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let (text, is_ours) = match text.strip_suffix(&*table.domain) {
        Some("") => return Meaning::Apex,
        Some(rest) if rest.ends_with('.') => (&rest[..rest.len() - 1], true),
        _ => (&*text, false),
    };
    let (text, service) = split_service(text);
    // The root has other servers; a single label has none.
    let is_ours = is_ours || !text.is_empty() && !text.contains('.');
    match find(table, asker, text) {
        Some((network, found)) => match service {
            Some(service) => Meaning::Port(network, found, service),
            None => Meaning::Stations(network, found),
        },
        None if is_ours => Meaning::Nothing,
        None => Meaning::Foreign,
    }
}

/// The stations called `text`, in the first network of the asker's that has any.
fn find<'t>(table: &'t Table, asker: Asker, text: &str) -> Option<(&'t Network, Found)> {
    let scope = table.scope(asker);
    let in_one = |text: &str, tasks| {
        let bare = scope.iter().find_map(|network| Some((&***network, network.find(text, tasks)?)));
        bare.or_else(|| {
            scope.iter().find_map(|network: &&Arc<Network>| {
                let name = text.strip_suffix(network.name())?.strip_suffix('.')?;
                Some((&***network, network.find(name, tasks)?))
            })
        })
    };
    in_one(text, false).or_else(|| in_one(text.strip_prefix("tasks.")?, true))
}

fn holders<'t>(table: &'t Table, asker: Asker, address: IpAddr) -> Meaning<'t> {
    let of = |network: &&Arc<Network>| -> Vec<String> {
        network.at(address).map(|name| format!("{name}.{}.{}", network.name(), table.domain)).collect()
    };
    let names = table.scope(asker).iter().map(of).find(|names| !names.is_empty());
    match names {
        Some(names) => Meaning::Reverse(names),
        // Addresses of ours have no names elsewhere, and an asker without access learns no more.
        None if table.is_inside(address) => Meaning::Nothing,
        None => Meaning::Foreign,
    }
}

/// The address of which a name is the reverse (RFC 1035 section 3.5, RFC 3596 section 2.5), if it is that of a single one.
fn reverse(name: &Name) -> Option<IpAddr> {
    // The library's reader takes names that are nearly of this form.
    let is_whole = matches!(name.num_labels(), 6 | 34);
    let net = name.parse_arpa_name().ok().filter(|_| is_whole)?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

/// The name in lower case, without its last dot; `None` if a byte of it is not part of any name of ours.
fn text(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            if !byte.is_ascii_graphic() || *byte == b'.' {
                return None;
            }
            text.push(char::from(byte.to_ascii_lowercase()));
        }
    }
    Some(text)
}

/// Whether a name that is not all text is below `domain`.
fn is_below(name: &Name, domain: &str) -> bool {
    let labels: Vec<_> = name.iter().collect();
    let own: Vec<_> = domain.split('.').collect();
    labels.len() <= 1
        || labels.len() > own.len()
            && labels.iter().rev().zip(own.iter().rev()).all(|(a, b)| a.eq_ignore_ascii_case(b.as_bytes()))
}

/// Takes `_PORT._PROTOCOL.` off the front (RFC 2782).
fn split_service(text: &str) -> (&str, Option<Service>) {
    let split = || {
        let (port, rest) = text.strip_prefix('_')?.split_once("._")?;
        let (protocol, rest) = rest.split_once('.')?;
        let is_one = !port.contains('.') && matches!(protocol, "tcp" | "udp" | "sctp");
        is_one.then(|| (rest, Some(Service { port: port.into(), protocol: protocol.into() })))
    };
    split().unwrap_or((text, None))
}
