//! The switch's counters in Prometheus: each query of the dashboard and of the alert rules, evaluated by a real Prometheus
//! that scrapes a real daemon with traffic.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;
use vswitch_tests::{
    PATIENCE, eventually, net,
    process::Running,
    raw::{BROADCAST, EXPERIMENT, frame},
};

use crate::pair::Pair;

/// A pair with a metrics endpoint.
struct Metered(Pair);

impl Metered {
    fn start() -> Self {
        let pair = Pair::start(&net().api("metrics = \"127.0.0.1:9477\"").network("blue"));
        pair.talk();
        Self(pair)
    }

    /// Status and body of a GET from a server on the switch's host.
    fn get(&self, port: u16, path: &str) -> Option<(u16, String)> {
        let mut stream = self.0.switch.host.run(|| TcpStream::connect(("127.0.0.1", port))).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Starts Prometheus on the switch's host with the shipped configuration, scraping every second.
    fn prometheus(&self) -> Running {
        let folder = self.0.switch.folder();
        fs::copy(packaging("prometheus/vswitch.rules.yml"), folder.join("vswitch.rules.yml")).unwrap();
        let config = fs::read_to_string(packaging("prometheus/prometheus.yml")).unwrap();
        let config = config.replace("scrape_interval: 15s", "scrape_interval: 1s");
        fs::write(folder.join("prometheus.yml"), format!("global: {{ evaluation_interval: 1s }}\n{config}"))
            .unwrap();
        let mut prometheus = Command::new("prometheus");
        prometheus.arg(format!("--config.file={}", folder.join("prometheus.yml").display()));
        prometheus.arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()));
        prometheus.arg("--web.listen-address=127.0.0.1:9090").stdin(Stdio::null());
        prometheus.stderr(File::create(folder.join("prometheus.log")).unwrap());
        let running = Running(self.0.switch.host.run(|| prometheus.spawn().unwrap()));
        eventually("Prometheus has the port", || {
            self.number("vswitch_port_receive_frames_total{port=\"web\"}")
        });
        running
    }

    /// Data that Prometheus returns for `path`; `None` while it is unavailable.
    ///
    /// # Panics
    /// It rejects the query.
    fn ask(&self, path: &str) -> Option<Value> {
        let (status, body) = self.get(9090, path)?;
        let answer: Value = serde_json::from_str(&body).ok()?;
        assert!(status != 400 && status != 422, "{path}: {answer}");
        (answer["status"] == "success").then(|| answer["data"].clone())
    }

    /// The series that an expression evaluates to.
    fn query(&self, expression: &str) -> Option<Vec<Value>> {
        let data = self.ask(&format!("/api/v1/query?query={}", escaped(expression)))?;
        data["result"].as_array().cloned()
    }

    /// The value of the only series that an expression evaluates to.
    fn number(&self, expression: &str) -> Option<u64> {
        match &self.query(expression)?[..] {
            [series] => series["value"][1].as_str()?.parse().ok(),
            _ => None,
        }
    }
}

/// Percent-encodes a query parameter.
fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

fn packaging(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(file)
}

fn promtool(arguments: &[&str], input: &str) {
    let mut promtool = Command::new("promtool");
    promtool.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("Debian's prometheus is installed");
    promtool.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {text}");
}

#[test]
fn prometheus_has_what_the_switch_counts() {
    let metered = Metered::start();
    let (_, text) = metered.get(9477, "/metrics").expect("metrics are served");
    promtool(&["check", "metrics"], &text);
    let _prometheus = metered.prometheus();
    assert_eq!(metered.number("vswitch_port_up{port=\"db\"}"), Some(1));
    for _ in 0..5 {
        assert!(metered.0.web.pings("10.9.0.2"));
    }
    eventually("Prometheus has every frame", || {
        let counted = metered.0.switch.port("web")["rx"]["frames"].as_u64().unwrap();
        let scraped = metered.number("vswitch_port_receive_frames_total{job=\"vswitch\",port=\"web\"}")?;
        (scraped == counted && counted >= 5).then_some(())
    });
    let turns = eventually("the histogram", || metered.number("sum(vswitch_worker_batch_frames_count)"));
    assert!(turns > 0);
}

/// Substitutes the dashboard's variables: everything selected, and ranges that suit a scrape interval of a second.
fn filled_in(expression: &str) -> String {
    expression.replace("$instance", ".*").replace("$port", ".*").replace("$__rate_interval", "10s")
}

#[test]
fn each_panel_of_the_dashboard_shows_something() {
    let metered = Metered::start();
    let mut ping = Command::new("ping");
    ping.args(["-q", "-i", "0.01", "10.9.0.2"]).stdout(Stdio::null());
    let _traffic = Running(metered.0.web.run(|| ping.spawn().unwrap()));
    metered.0.web.raw("eth0").send(&frame(BROADCAST, [1, 0, 0, 0, 0, 1], EXPERIMENT, b"from a group"));
    let switch = &metered.0.switch;
    let web = format!("netns:{}", metered.0.web.name());
    for line in [
        "network create --subnet 10.7.0.0/24 shop",
        "service create --network shop shop",
        &format!("network connect --service shop --name shop-1 shop {web}"),
    ] {
        let output = switch.try_ctl(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(output.code, 0, "{line}: {}", output.stderr);
    }
    let _prometheus = metered.prometheus();
    let dashboard = fs::read_to_string(packaging("grafana/vswitch.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();

    let mut queries = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().unwrap() {
            let expression = filled_in(target["expr"].as_str().unwrap());
            let is_number = |series: &&Value| series["value"][1].as_str().is_some_and(|it| it != "NaN");
            let series = eventually(&format!("{title:?} shows {expression}"), || {
                metered.query(&expression)?.iter().find(is_number).cloned()
            });
            // The labels of the legend exist.
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            for label in legend.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap().trim()) {
                assert!(series["metric"][label].is_string(), "{title:?}: {series} has no {label}");
            }
            queries += 1;
        }
    }
    assert!(queries > 10, "the dashboard was read");
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let query = variable["query"].as_str().unwrap();
        let Some(arguments) = query.strip_prefix("label_values(") else { continue };
        let (selector, label) = arguments.trim_end_matches(')').rsplit_once(',').unwrap();
        let selector = escaped(&filled_in(selector));
        let values =
            metered.ask(&format!("/api/v1/label/{}/values?match[]={selector}", label.trim())).unwrap();
        assert!(values.as_array().is_some_and(|values| !values.is_empty()), "{query}");
    }
}

#[test]
fn each_alert_is_quiet_on_a_host_that_is_well_and_loud_when_it_should() {
    promtool(&["check", "rules", packaging("prometheus/vswitch.rules.yml").to_str().unwrap()], "");
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernel/alerts.yml");
    promtool(&["test", "rules", cases.to_str().unwrap()], "");

    let metered = Metered::start();
    // Some of what is watched is of clusters.
    metered.0.switch.ctl(&["cluster", "init", "--advertise", "127.0.0.1"]);
    let _prometheus = metered.prometheus();
    let rules = eventually("every rule was evaluated", || {
        let rules = metered.ask("/api/v1/rules")?["groups"][0]["rules"].as_array()?.clone();
        rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
    });
    let cases = fs::read_to_string(cases).unwrap();
    let names: BTreeSet<_> = rules.iter().map(|rule| rule["name"].as_str().unwrap()).collect();
    assert!(names.len() > 5, "{names:?}");
    for rule in &rules {
        assert_eq!((&rule["health"], &rule["state"]), (&"ok".into(), &"inactive".into()), "{rule}");
        // The watched metric exists: otherwise the alert would never fire.
        for name in rule["query"].as_str().unwrap().split(|it: char| !(it.is_alphanumeric() || it == '_')) {
            let is_rare = name == "vswitch_port_dropped_frames_total";
            if name.starts_with("vswitch_") && !is_rare {
                assert!(metered.query(name).is_some_and(|series| !series.is_empty()), "there is no {name}");
            }
        }
        let loud = format!(
            "alertname: {}\n        exp_alerts:\n          - exp_labels",
            rule["name"].as_str().unwrap()
        );
        assert!(cases.contains(&loud), "there is no case in which {} is loud", rule["name"]);
    }
}
