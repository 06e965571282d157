//! What people and programs ask of the running daemon, by command line and by HTTP.

mod alone;
mod http;
mod objects;
mod views;

use serde_json::Value;
use vswitch_tests::{Netns, Vswitchd, daemon::tap};

/// A daemon with the network `blue` and the TAP ports `web` and `db` in their namespaces.
struct Example {
    switch: Vswitchd,
    web: Netns,
    db: Netns,
}

impl Example {
    fn start() -> Self {
        let (web, db) = (Netns::new("web"), Netns::new("db"));
        let mut rest = "[[network]]\nname = \"blue\"\nvlan = 10\nmtu = 1450\n".to_owned();
        for (last, (name, netns)) in [("web", &web), ("db", &db)].into_iter().enumerate() {
            let keys = format!("mac = \"02:42:0a:09:00:0{last}\"\naddress = \"10.9.0.{}/24\"", last + 1);
            rest += &tap(name, "blue", netns, &keys);
        }
        Self { switch: Vswitchd::start("name = \"host1\"", &rest), web, db }
    }

    /// Lets both ports speak.
    fn talk(&self) {
        self.web.reaches("10.9.0.2");
    }
}

fn texts(list: &Value, key: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
}
