//! Builds net.toml table by table, in the manual's order.

use std::path::Path;

use crate::Netns;

/// A configuration file. Keys are added to the table begun last, ports to the network begun last.
#[derive(Clone, Debug, Default)]
pub struct Config {
    switch: String,
    api: String,
    tables: String,
    network: String,
}

/// An empty configuration.
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

    /// Switches back to a network begun before, for further ports.
    pub fn within(mut self, network: &str) -> Self {
        network.clone_into(&mut self.network);
        self
    }

    /// Adds a subnet to the network.
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

    /// Begins a `tap` or `veth` port whose interface is `eth0` in `netns`.
    pub fn port(self, name: &str, kind: &str, netns: &Netns) -> Self {
        self.interface(name, kind, netns.name(), "eth0")
    }

    /// Begins a `tap` or `veth` port with another interface name, or another form of namespace (`pid:…`).
    pub fn interface(self, name: &str, kind: &str, netns: &str, ifname: &str) -> Self {
        self.member(name, kind).key("netns", netns).key("ifname", ifname)
    }

    /// Begins a port on an existing interface of the host.
    pub fn packet(self, name: &str, device: &str) -> Self {
        self.member(name, "packet").key("device", device)
    }

    /// Begins a trunk on an existing interface of the host; `keys` name its networks.
    pub fn trunk(self, name: &str, device: &str, keys: &str) -> Self {
        self.lone(name, "packet").key("device", device).keys(keys)
    }

    /// Begins a mirror port, `eth0` in `netns`. `of` is the source of its copies.
    pub fn mirror(self, name: &str, netns: &Netns, of: &str) -> Self {
        let place = self.lone(name, "tap").key("netns", netns.name()).key("ifname", "eth0");
        place.keys(&format!("mirror = {of}"))
    }

    /// Begins a mirror to the host `remote`. `of` is the source of its copies.
    pub fn collector(self, name: &str, remote: &str, vni: u32, of: &str) -> Self {
        let port = self.lone(name, "collector").key("remote", remote);
        port.keys(&format!("vni = {vni}\nmirror = {of}"))
    }

    /// Begins `[vxlan]` with the address of this host's tunnel endpoint.
    pub fn vxlan(self, local: &str) -> Self {
        self.keys("[vxlan]").key("local", local)
    }

    /// Begins a peer; must follow `[vxlan]`.
    pub fn peer(self, address: &str) -> Self {
        self.keys("[[vxlan.peer]]").key("address", address)
    }

    /// Sets the port's addresses, separated by whitespace.
    pub fn address(self, addresses: &str) -> Self {
        let addresses: Vec<_> = addresses.split_whitespace().collect();
        self.keys(&format!("address = {addresses:?}"))
    }

    /// Sets the port's MAC address.
    pub fn mac(self, mac: &str) -> Self {
        self.key("mac", mac)
    }

    /// Adds raw lines: further keys, or whole tables.
    pub fn keys(mut self, lines: &str) -> Self {
        line(&mut self.tables, lines);
        self
    }

    /// The text of the file, for a daemon whose state is kept in `folder`.
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
