//! The example of many tests: two containers on one network.

use vswitch_tests::{Config, Netns, Vswitchd};

/// A switch with the TAP ports `web`, 10.9.0.1, and `db`, 10.9.0.2, in containers. Their MAC addresses end in 00 and 01.
pub(crate) struct Pair {
    pub(crate) switch: Vswitchd,
    pub(crate) web: Netns,
    pub(crate) db: Netns,
}

impl Pair {
    /// Starts the switch. The ports are in the last network of `config`.
    pub(crate) fn start(config: &Config) -> Self {
        let (web, db) = (Netns::new("web"), Netns::new("db"));
        Self { switch: Vswitchd::start(&with_ports(config, &web, &db)), web, db }
    }

    /// Rewrites net.toml. The ports are in the last network of `config`.
    pub(crate) fn configure(&self, config: &Config) {
        self.switch.configure(&with_ports(config, &self.web, &self.db));
    }

    /// Sends traffic both ways.
    pub(crate) fn talk(&self) {
        self.web.reaches("10.9.0.2");
    }
}

fn with_ports(config: &Config, web: &Netns, db: &Netns) -> Config {
    let web = config.clone().tap("web", web).mac("02:42:0a:09:00:00").address("10.9.0.1/24");
    web.tap("db", db).mac("02:42:0a:09:00:01").address("10.9.0.2/24")
}
