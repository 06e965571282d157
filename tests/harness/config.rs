//! net.toml as tests write it, table by table.

use std::path::Path;

use crate::Netns;

/// A configuration file. What is added belongs to the table added last, a port to the network added last.
#[derive(Clone, Debug, Default)]
pub struct Config {
    switch: String,
    api: String,
    tables: String,
    network: String,
}

/// A configuration with nothing in it.
pub fn net() -> Config {
    Config::default()
}

impl Config {
    /// Adds lines to `[switch]`.
    pub fn switch(mut self, keys: &str) -> Self {
        line(&mut self.switch, keys);
        self
    }

    /// Adds lines to `[api]`.
    pub fn api(mut self, keys: &str) -> Self {
        line(&mut self.api, keys);
        self
    }

    /// Begins a network.
    pub fn network(mut self, name: &str) -> Self {
        name.clone_into(&mut self.network);
        self.keys("[[network]]").key("name", name)
    }

    /// Goes on with ports of a network that was begun before.
    pub fn within(mut self, network: &str) -> Self {
        network.clone_into(&mut self.network);
        self
    }

    /// Gives the network a subnet.
    pub fn subnet(self, subnet: &str) -> Self {
        self.keys("[[network.subnet]]").key("subnet", subnet)
    }

    /// Begins a TAP port whose interface is `eth0` in `netns`.
    pub fn tap(self, name: &str, netns: &Netns) -> Self {
        self.port(name, "tap", netns)
    }

    /// Begins a veth port whose far end is `eth0` in `netns`.
    pub fn veth(self, name: &str, netns: &Netns) -> Self {
        self.port(name, "veth", netns)
    }

    /// Begins a port of either kind, `tap` or `veth`, whose interface is `eth0` in `netns`.
    pub fn port(self, name: &str, kind: &str, netns: &Netns) -> Self {
        self.interface(name, kind, netns.name(), "eth0")
    }

    /// Begins a port of either kind whose interface has another name, or whose namespace another kind of name.
    pub fn interface(self, name: &str, kind: &str, netns: &str, ifname: &str) -> Self {
        self.member(name, kind).key("netns", netns).key("ifname", ifname)
    }

    /// Begins a port on an interface of the host.
    pub fn packet(self, name: &str, device: &str) -> Self {
        self.member(name, "packet").key("device", device)
    }

    /// Begins a trunk on an interface of the host; `keys` name its networks.
    pub fn trunk(self, name: &str, device: &str, keys: &str) -> Self {
        self.lone(name, "packet").key("device", device).keys(keys)
    }

    /// Begins a mirror into `eth0` of `netns`; `of` is what is mirrored.
    pub fn mirror(self, name: &str, netns: &Netns, of: &str) -> Self {
        let place = self.lone(name, "tap").key("netns", netns.name()).key("ifname", "eth0");
        place.keys(&format!("mirror = {of}"))
    }

    /// Begins a mirror to the host at `remote`; `of` is what is mirrored.
    pub fn collector(self, name: &str, remote: &str, vni: u32, of: &str) -> Self {
        let port = self.lone(name, "collector").key("remote", remote);
        port.keys(&format!("vni = {vni}\nmirror = {of}"))
    }

    /// Begins `[vxlan]`: this host's end of its tunnels.
    pub fn vxlan(self, local: &str) -> Self {
        self.keys("[vxlan]").key("local", local)
    }

    /// Begins a peer, after `[vxlan]`.
    pub fn peer(self, address: &str) -> Self {
        self.keys("[[vxlan.peer]]").key("address", address)
    }

    /// Gives the port an address, or several that blanks part.
    pub fn address(self, addresses: &str) -> Self {
        let addresses: Vec<_> = addresses.split_whitespace().collect();
        self.keys(&format!("address = {addresses:?}"))
    }

    /// Gives the port a MAC address.
    pub fn mac(self, mac: &str) -> Self {
        self.key("mac", mac)
    }

    /// Adds lines as they are: further keys, or whole tables.
    pub fn keys(mut self, lines: &str) -> Self {
        line(&mut self.tables, lines);
        self
    }

    /// The file, of a daemon that keeps what it has in `folder`.
    pub fn text(&self, folder: &Path) -> String {
        let (Self { switch, api, tables, .. }, folder) = (self, folder.display());
        format!(
            "[switch]\nstate = \"{folder}/state\"\n{switch}[api]\nsocket = \"{folder}/api.sock\"\n{api}{tables}"
        )
    }

    fn member(self, name: &str, kind: &str) -> Self {
        let network = self.network.clone();
        self.keys("[[port]]").key("name", name).key("network", &network).key("kind", kind)
    }

    fn lone(self, name: &str, kind: &str) -> Self {
        self.keys("[[port]]").key("name", name).key("kind", kind)
    }

    fn key(self, key: &str, text: &str) -> Self {
        self.keys(&format!("{key} = {text:?}"))
    }
}

fn line(text: &mut String, lines: &str) {
    if !lines.is_empty() {
        text.push_str(lines);
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_follow_each_other_as_in_the_manual() {
        let blue =
            net().switch("ageing = 60").api("web = \"127.0.0.1:9478\"").network("blue").keys("vlan = 10");
        let config = blue.subnet("10.9.0.0/24").packet("uplink", "eth1").address("10.9.0.1/24 fd09::1/64");
        let expected = r#"[switch]
state = "/var/lib/test/state"
ageing = 60
[api]
socket = "/var/lib/test/api.sock"
web = "127.0.0.1:9478"
[[network]]
name = "blue"
vlan = 10
[[network.subnet]]
subnet = "10.9.0.0/24"
[[port]]
name = "uplink"
network = "blue"
kind = "packet"
device = "eth1"
address = ["10.9.0.1/24", "fd09::1/64"]
"#;
        assert_eq!(config.text(Path::new("/var/lib/test")), expected);
    }
}
