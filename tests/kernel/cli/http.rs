//! The HTTP API and its socket.

use std::{fs, io::Write, os::unix::net::UnixStream};

use serde_json::{Value, json};
use vswitch_tests::{
    Vswitchd,
    http::{http, request},
    net,
};

use super::start;
use crate::pair::Pair;

#[test]
fn nonsense_over_http_is_refused_with_a_sentence() {
    let Pair { switch, web: _web, db: _db } = start();
    let socket = switch.socket();
    let ask = |method, path, body: &str| http(&socket, &request(method, path, body));
    let long = format!("{{\"name\": \"{}\"}}", "x".repeat(70_000));
    for (method, path, body, status, part) in [
        ("GET", "/v1/nothing", "", 404, "there is no /v1/nothing"),
        ("GET", "/", "", 404, "there is no /"),
        ("DELETE", "/v1/status", "", 405, "cannot be used with DELETE"),
        ("POST", "/v1/ports", "{", 400, "not what is expected"),
        ("POST", "/v1/ports", "[1, 2]", 400, "not what is expected"),
        ("POST", "/v1/ports", "{\"name\": \"x\", \"network\": 7, \"kind\": \"tap\"}", 400, "7"),
        (
            "POST",
            "/v1/ports",
            "{\"name\": \"x\", \"network\": \"blue\", \"kind\": \"tap\", \"colour\": 1}",
            400,
            "colour",
        ),
        ("POST", "/v1/ports", "{\"name\": \"x\", \"network\": \"blue\", \"kind\": \"tub\"}", 400, "tub"),
        (
            "POST",
            "/v1/ports",
            "{\"name\": \"../x\", \"network\": \"blue\", \"kind\": \"tap\"}",
            400,
            "is not a valid name",
        ),
        ("POST", "/v1/networks", "{\"name\": \"red\", \"vlan\": -1}", 400, "-1"),
        ("POST", "/v1/networks", &long, 413, "64 KiB"),
        ("POST", "/v1/fdb/flush", "\"some\"", 400, "some"),
        ("GET", "/v1/fdb?mac=zz", "", 400, "zz"),
        ("GET", "/v1/ports/%2e%2e", "", 400, "is not a valid name"),
    ] {
        let (got, text) = ask(method, path, body);
        assert_eq!(got, status, "{method} {path} {body:.60}: {text}");
        let refusal: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"));
        let sentence = refusal["error"].as_str().unwrap();
        assert!(sentence.contains(part), "{method} {path}: {sentence}");
    }
    assert_eq!(http(&socket, b"nonsense\r\n\r\n").0, 400);
    assert_eq!(http(&socket, &[0xff; 4096]).0, 400);
    // An idle client, and one that disconnects in the middle of a request, do not disturb others.
    let _mute = UnixStream::connect(&socket).unwrap();
    UnixStream::connect(&socket)
        .unwrap()
        .write_all(b"POST /v1/ports HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
        .unwrap();
    let (status, text) = ask("GET", "/v1/status", "");
    assert_eq!((status, serde_json::from_str::<Value>(&text).unwrap()["ports"].clone()), (200, json!(2)));
    let (status, text) = ask("GET", "/v1/openapi.json", "");
    assert!(status == 200 && serde_json::from_str::<Value>(&text).unwrap()["paths"]["/v1/ports"].is_object());
    assert!(!switch.log().contains("panicked"));
}

#[test]
fn the_socket_is_for_root_and_its_group_alone() {
    let switch = Vswitchd::start(&net());
    for name in ["api.sock", "api.sock.attach"] {
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(switch.folder().join(name)).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o660, "{name}");
    }
}
