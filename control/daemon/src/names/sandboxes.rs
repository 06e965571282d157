//! The resolv.conf of named sandboxes: /etc/netns/NAME/resolv.conf, which `ip netns exec` puts in the place of the host's
//! (ip-netns(8)). A file that is not ours is the operator's, and left as it is.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use tracing::warn;

use super::servers;
use crate::state::State;
use vswitch_model::Netns;

/// Where iproute2 looks.
const FOLDER: &str = "/etc/netns";

/// The first line of our files.
const MARK: &str = "# Written by vswitchd. Without this line it leaves the file as it is.\n";

/// Servers that resolv.conf(5) takes.
const MOST: usize = 3;

/// The files of named sandboxes: names, and contents.
pub(super) fn wanted(state: &State) -> BTreeMap<String, String> {
    let mut servers_of: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for endpoint in state.endpoints() {
        let Some(Netns::Name(name)) = &endpoint.sandbox else { continue };
        let own = servers_of.entry(name.clone()).or_default();
        own.extend(servers(state, endpoint));
    }
    let domain = &state.dns().domain;
    let file = |(name, mut servers): (String, Vec<IpAddr>)| {
        // The address of all networks first: the others know no more.
        servers.sort_by_key(|server| (*server != state.dns().address, *server));
        servers.dedup();
        if servers.is_empty() {
            return None;
        }
        let mut text = MARK.to_owned();
        for server in servers.iter().take(MOST) {
            let _ = writeln!(text, "nameserver {server}");
        }
        // A single label is asked for as it is, and the host's own domain is not tried.
        let _ = writeln!(text, "search {domain}\noptions ndots:0");
        Some((name, text))
    };
    servers_of.into_iter().filter_map(file).collect()
}

/// The files as they were written.
#[derive(Debug, Default)]
pub(super) struct Sandboxes(BTreeMap<String, String>);

impl Sandboxes {
    /// Writes what differs from `wanted`, and removes what is not in it.
    pub(super) fn follow(&mut self, wanted: BTreeMap<String, String>) {
        for name in self.0.keys().filter(|name| !wanted.contains_key(*name)) {
            tell(name, remove(name));
        }
        for (name, text) in wanted.iter().filter(|(name, text)| self.0.get(*name) != Some(text)) {
            tell(name, write(name, text));
        }
        self.0 = wanted;
    }
}

fn tell(name: &str, done: io::Result<()>) {
    if let Err(error) = done {
        warn!("sandbox {name}: {FOLDER}/{name}/resolv.conf is not as it should be: {error}");
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// Whether there is a file at `path` that is not ours.
fn is_foreign(path: &Path) -> io::Result<bool> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(!text.starts_with(MARK)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn write(name: &str, text: &str) -> io::Result<()> {
    let folder = folder(name);
    let path = folder.join("resolv.conf");
    if is_foreign(&path)? {
        return Ok(());
    }
    fs::create_dir_all(&folder)?;
    // Bind mounts of the file in running sandboxes follow only if it stays the same file.
    fs::write(path, text)
}

fn remove(name: &str) -> io::Result<()> {
    let folder = folder(name);
    let path = folder.join("resolv.conf");
    if !path.exists() || is_foreign(&path)? {
        return Ok(());
    }
    fs::remove_file(path)?;
    // Other files in it are the operator's.
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}
