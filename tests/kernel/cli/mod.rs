//! Commands and HTTP requests to the running daemon.

mod alone;
mod http;
mod objects;
mod views;

use serde_json::Value;
use vswitch_tests::net;

use crate::pair::Pair;

/// A daemon with the network `blue` and the ports `web` and `db`.
fn start() -> Pair {
    Pair::start(&net().switch("name = \"host1\"").network("blue").keys("vlan = 10\nmtu = 1450"))
}

fn texts(list: &Value, key: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
}
