//! The web page: topology, rates, MAC table and drops, for a browser.
//!
//! Plain files, compiled in, and the read-only routes of the API (`api::reading_router`), on a TCP address that the operator
//! chooses (`api.web`). There is no password, so nothing here can change the switch, and there are three guards: only GET and
//! HEAD pass; the `Host` header must be an address, `localhost` or a configured name (`api.web_hosts`), because a foreign page
//! could make any other name resolve to this host (DNS rebinding); and the browser is forbidden to load anything from elsewhere
//! and to embed this page in another (Content-Security-Policy). No other origin may read it (no CORS).

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, Method, Uri,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
        uri::Authority,
    },
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use crate::{
    api::{
        self,
        reply::{Refused, method_not_allowed},
    },
    core::Handle,
    http::{self, Limits},
};
use vswitch_model::{Error, ErrorKind, HostName};

/// Limits of browsers: each holds up to six connections, and an answer may have megabytes.
const LIMITS: Limits = Limits {
    connections: 64,
    answers: 8,
    idle: Some(Duration::from_secs(10)),
    answer: Some(Duration::from_secs(60)),
};

/// A file of the page: path, content type and content.
type Asset = (&'static str, &'static str, &'static str);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// The page; it refers to nothing outside.
const ASSETS: [Asset; 13] = [
    ("/", HTML, include_str!("web/index.html")),
    ("/style.css", CSS, include_str!("web/style.css")),
    ("/icon.svg", SVG, include_str!("web/icon.svg")),
    ("/main.js", JS, include_str!("web/main.js")),
    ("/dom.js", JS, include_str!("web/dom.js")),
    ("/model.js", JS, include_str!("web/model.js")),
    ("/topology.js", JS, include_str!("web/topology.js")),
    ("/plot.js", JS, include_str!("web/plot.js")),
    ("/ports.js", JS, include_str!("web/ports.js")),
    ("/fdb.js", JS, include_str!("web/fdb.js")),
    ("/drops.js", JS, include_str!("web/drops.js")),
    ("/names.js", JS, include_str!("web/names.js")),
    ("/events.js", JS, include_str!("web/events.js")),
];

/// Headers of every response.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// Serves the page until the future is dropped; connections end with it. `hosts` are accepted in addition to addresses.
pub(crate) async fn serve(listener: TcpListener, hosts: Vec<HostName>, core: Handle) {
    http::serve(listener, router(hosts, core), LIMITS, |_| (), std::future::pending()).await;
}

/// The page and its data, behind the guards.
fn router(hosts: Vec<HostName>, core: Handle) -> Router {
    let page = ASSETS.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        router.route(path, get(move || async move { ([(CONTENT_TYPE, kind)], text) }))
    });
    let hosts: Arc<[HostName]> = hosts.into();
    page.merge(api::reading_router().with_state(core))
        .fallback(no_such_path)
        .layer(from_fn_with_state(hosts, guard))
}

async fn no_such_path(uri: Uri) -> Refused {
    Error::not_found(format!("there is no {} here: the page is at /", uri.path())).into()
}

/// Passes permitted requests, and adds the headers to responses.
async fn guard(State(hosts): State<Arc<[HostName]>>, request: Request, next: Next) -> Response {
    let mut response = match refusal(&hosts, request.method(), request.headers()) {
        None => next.run(request).await,
        Some(refused) => refused,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Why a request is refused, whatever its path.
fn refusal(hosts: &[HostName], method: &Method, headers: &HeaderMap) -> Option<Response> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let why =
            format!("this address is read-only and refuses {method}: use vswitchctl, or the API's socket");
        return Some(method_not_allowed(&why));
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_ours(host, hosts) {
        let why = format!(
            "{host:?} is not an accepted host name: use the address or localhost, or add the name to api.web_hosts"
        );
        return Some(Refused(Error::new(ErrorKind::Forbidden, why)).into_response());
    }
    None
}

/// Whether `host`, a `Host` header, is one of `hosts`, or an address or `localhost`, which no DNS server can redirect. Any port
/// is accepted: a tunnel (`ssh -L`) has its own.
fn is_ours(host: &str, hosts: &[HostName]) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    if host.contains('@') {
        return false;
    }
    let name = authority.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok()
        || hosts.iter().any(|ours| ours == name)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod alone {
    use super::*;

    #[test]
    fn hosts_that_no_name_server_can_point_elsewhere() {
        for host in ["127.0.0.1:9478", "127.0.0.1", "localhost", "LOCALHOST:8080", "[::1]:9478", "10.8.0.1:1"]
        {
            assert!(is_ours(host, &[]), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "127.0.0.1.evil.example:9478",
            "localhost.evil.example",
            "::1",
            "a b",
            "0x7f.1",
        ] {
            assert!(!is_ours(host, &["switch.example".parse().unwrap()]), "{host}");
        }
    }

    /// What the files refer to is served, and nothing is referred to that is elsewhere.
    #[test]
    fn the_page_is_whole_and_alone() {
        let paths: Vec<_> = ASSETS.iter().map(|(path, ..)| path.trim_start_matches('/')).collect();
        let mut referred = 0;
        for (path, kind, text) in ASSETS {
            // The name of the SVG language is a name, no address.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("://") && !text.contains("url(") && !text.contains("@import"), "{path}");
            let before = match kind {
                HTML => &["href=\"/", "src=\"/"][..],
                JS => &["from \"./"],
                _ => &[],
            };
            for start in before.iter().flat_map(|before| text.split(before).skip(1)) {
                let name = start.split('"').next().unwrap();
                assert!(paths.contains(&name), "{path} refers to {name}");
                referred += 1;
            }
        }
        assert!(referred >= ASSETS.len() - 1, "each file but the first is referred to");
    }
}
