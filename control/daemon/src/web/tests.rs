//! The web page's server: it shows, to those who may see it, and does nothing else.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};
use vswitch_cli::client::Client;
use vswitch_model::NetworkSpec;

use crate::{
    api,
    core::simulated::{Simulated, name},
    state::Command,
    web,
};

/// A page served over a core in memory; everything ends with the test's runtime.
struct Page {
    address: SocketAddr,
    core: Simulated,
}

/// An answer: status, head and body.
struct Answer(u16, String, String);

impl Page {
    async fn start() -> Self {
        Self::start_as(&[]).await
    }

    /// The same, for browsers that ask by one of these names too.
    async fn start_as(hosts: &[&str]) -> Self {
        let core = Simulated::start("").await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
        tokio::spawn(web::serve(listener, hosts, core.clone()));
        Self { address, core }
    }

    async fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        answer(&mut stream).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "Host: 127.0.0.1\r\n").await
    }
}

async fn answer(stream: &mut (impl AsyncReadExt + Unpin)) -> Answer {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer(head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
}

#[tokio::test]
async fn the_page_and_what_it_reads() {
    let page = Page::start().await;
    page.core.add_network(serde_json::from_str(r#"{"name": "blue"}"#).unwrap()).await.unwrap();
    let web = r#"{"name": "web", "network": "blue", "kind": "tap"}"#;
    page.core.execute(Command::AddPort(serde_json::from_str(web).unwrap())).await.unwrap();
    for (path, kind, part) in [
        ("/", "text/html; charset=utf-8", "<title>vswitchd</title>"),
        ("/main.js", "text/javascript; charset=utf-8", "import"),
        ("/style.css", "text/css; charset=utf-8", "prefers-color-scheme: dark"),
        ("/icon.svg", "image/svg+xml", "<svg"),
        ("/v1/status", "application/json", r#""name":"host1""#),
        ("/v1/networks", "application/json", r#""name":"blue""#),
        ("/v1/networks/blue", "application/json", r#""name":"blue""#),
        ("/v1/ports", "application/json", r#""name":"web""#),
        ("/v1/tunnel", "application/json", r#""peers":"#),
        ("/v1/fdb?network=blue", "application/json", "[]"),
        ("/v1/stats", "application/json", r#""at_ms":"#),
        ("/v1/drops?port=web", "application/json", "[]"),
        ("/names.js", "text/javascript; charset=utf-8", "/v1/names"),
        ("/v1/names?words=blue&limit=1", "application/json", "[]"),
        ("/v1/dns", "application/json", r#""enabled":false"#),
        ("/events.js", "text/javascript; charset=utf-8", "export class Events"),
        ("/v1/events", "application/x-ndjson", r#""text":"port web created""#),
    ] {
        let Answer(status, head, body) = page.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        assert!(head.contains(&format!("content-type: {kind}")), "{path}: {head}");
        assert!(body.contains(part), "{path}: {body}");
        let Answer(status, _, body) = page.ask("HEAD", path, "Host: localhost\r\n").await;
        assert_eq!((status, body.as_str()), (200, ""), "HEAD {path}");
    }
    let Answer(status, _, body) = page.get("/v1/openapi.json").await;
    assert!(status == 404 && body.contains("the page is at /"), "{body}");
    assert_eq!(page.get("/v1/ports/db").await.0, 404, "a refusal keeps its status");
}

/// Every answer, whatever became of the request.
#[tokio::test]
async fn the_browser_is_told_to_trust_nobody_else() {
    let page = Page::start().await;
    let requests = [
        ("GET", "/", "Host: 127.0.0.1\r\n"),
        ("GET", "/none", "Host: [::1]:1\r\n"),
        ("PUT", "/", ""),
        ("GET", "/v1/status", "Host: evil.example\r\nOrigin: http://evil.example\r\n"),
    ];
    for (method, path, headers) in requests {
        let Answer(_, head, _) = page.ask(method, path, headers).await;
        for line in [
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self';",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(head.contains(line), "{method} {path} lacks {line}: {head}");
        }
        assert!(!head.contains("unsafe") && !head.contains("access-control"), "{method} {path}: {head}");
    }
}

/// Everything that the API can do to the switch, tried here; the list is the API's own.
#[tokio::test]
async fn nothing_can_be_changed_from_here() {
    let page = Page::start().await;
    let spec: NetworkSpec = serde_json::from_str(r#"{"name": "blue"}"#).unwrap();
    page.core.add_network(spec).await.unwrap();
    let document = openapi(&page.core).await;
    let mut tried = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let path =
            path.replace("{name}", "blue").replace("{network}", "blue").replace("{mac}", "02:00:00:00:00:01");
        let methods = operations.as_object().unwrap().keys().map(|method| method.to_uppercase());
        for method in methods.filter(|method| method != "GET") {
            let headers = "Host: 127.0.0.1\r\nContent-Length: 2\r\nContent-Type: application/json\r\n";
            let Answer(status, _, body) = page.ask(&method, &path, headers).await;
            assert!(status == 405 && body.contains("is read-only"), "{method} {path}: {status} {body}");
            tried += 1;
        }
    }
    assert!(tried >= 9, "{tried}: the document names what changes the switch");
    for method in ["OPTIONS", "PATCH", "TRACE", "BREW", "get"] {
        assert_eq!(page.ask(method, "/v1/networks", "Host: 127.0.0.1\r\n").await.0, 405, "{method}");
    }
    let kept = page.core.snapshot().networks();
    let kept: Vec<_> = kept.iter().filter(|it| !it.declared).map(|it| &it.spec.name).collect();
    assert_eq!(kept, [&name("blue")]);
}

/// The API's own document, from the API's own socket.
async fn openapi(core: &Simulated) -> serde_json::Value {
    let socket = core.path("api.sock");
    tokio::spawn(api::serve(UnixListener::bind(&socket).unwrap(), (**core).clone(), std::future::pending()));
    assert!(Client::new(&socket).status().await.is_ok());
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    let request = b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    serde_json::from_str(&answer(&mut stream).await.2).unwrap()
}

#[tokio::test]
async fn names_that_could_be_pointed_here_are_refused() {
    let page = Page::start().await;
    for (headers, status) in [
        ("Host: 127.0.0.1:9478\r\n", 200),
        ("Host: localhost:8080\r\n", 200),
        ("Host: [::1]\r\n", 200),
        ("Host: evil.example:9478\r\n", 403),
        ("Host: 127.0.0.1.evil.example\r\n", 403),
        ("Host: user@127.0.0.1\r\n", 403),
        ("Host:\r\n", 403),
        ("", 403),
    ] {
        let Answer(got, _, body) = page.ask("GET", "/v1/ports", headers).await;
        assert_eq!(got, status, "{headers:?}: {body}");
        assert!(status == 200 || body.contains("use the address or localhost"), "{headers:?}: {body}");
    }
}

#[tokio::test]
async fn names_that_the_operator_gave_are_answered() {
    let page = Page::start_as(&["switch.example.org"]).await;
    for (host, status) in [
        ("switch.example.org", 200),
        ("SWITCH.example.org:443", 200),
        ("localhost", 200),
        ("evil.switch.example.org", 403),
        ("example.org", 403),
        ("user@switch.example.org", 403),
    ] {
        let Answer(got, _, body) = page.ask("GET", "/v1/ports", &format!("Host: {host}\r\n")).await;
        assert_eq!(got, status, "{host}: {body}");
    }
}

#[tokio::test]
async fn silent_connections_make_room_for_a_new_one() {
    let page = Page::start().await;
    let mut crowd = Vec::new();
    for _ in 0..web::LIMITS.connections {
        crowd.push(TcpStream::connect(page.address).await.unwrap());
    }
    let mut late = TcpStream::connect(page.address).await.unwrap();
    late.write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut late).await.0, 200);
}
