//! A store with TLS, certificates of hosts and roles: what it refuses, and what is said then.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use tempfile::TempDir;
use vswitch_tests::{Netns, eventually, process::Running};

use super::{Hosts, names};

/// An authority, and what it has signed, as files.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// Years in which a certificate is valid, from January to January.
type Years = (i32, i32);

/// For as long as this test may be run.
const VALID: Years = (2020, 2090);

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Signs a certificate for the user or server `name`, as `NAME.crt` with `NAME.key`.
    fn sign(&self, name: &str, addresses: &[&str], (from, to): Years) {
        let key = KeyPair::generate().unwrap();
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(addresses).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(&format!("{name}.crt")), certificate.pem()).unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// The options by which a host reaches the store as a user.
    fn options(&self, user: &str) -> String {
        let [cacert, cert, key] =
            ["ca.crt".into(), format!("{user}.crt"), format!("{user}.key")].map(|file| self.path(&file));
        format!("--cacert {} --cert {} --key {}", cacert.display(), cert.display(), key.display())
    }
}

const URL: &str = "https://10.8.0.1:2379";

/// An etcd that knows its clients by their certificates.
struct Etcd {
    _running: Running,
    _folder: TempDir,
}

impl Etcd {
    /// Starts one on the first host, which shows the certificate `server`.
    fn start(hosts: &Hosts, authority: &Authority, server: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut etcd = Command::new("etcd");
        etcd.args(["--name", "one", "--listen-client-urls", URL, "--advertise-client-urls", URL]);
        etcd.args(["--listen-peer-urls", "http://10.8.0.1:2380", "--logger", "zap", "--log-level", "fatal"]);
        etcd.args(["--auth-token", "simple", "--client-cert-auth", "--trusted-ca-file"]);
        etcd.arg(authority.path("ca.crt"));
        etcd.arg("--cert-file").arg(authority.path(&format!("{server}.crt")));
        etcd.arg("--key-file").arg(authority.path(&format!("{server}.key")));
        etcd.arg("--data-dir").arg(folder.path().join("data"));
        // It tells of each connection that ends.
        etcd.stdout(Stdio::null()).stderr(Stdio::null());
        let host = &hosts.host(1).host;
        let etcd = host.run(|| etcd.spawn().expect("etcd is installed: `make test-kernel` does it"));
        Self { _running: Running(etcd), _folder: folder }
    }
}

/// Runs etcdctl on the first host as a user.
fn etcdctl(hosts: &Hosts, authority: &Authority, user: &str, line: &str) -> Output {
    let mut etcdctl = Command::new("etcdctl");
    etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", URL, "--command-timeout", "3s"]);
    etcdctl.arg("--cacert").arg(authority.path("ca.crt"));
    etcdctl.arg("--cert").arg(authority.path(&format!("{user}.crt")));
    etcdctl.arg("--key").arg(authority.path(&format!("{user}.key")));
    etcdctl.args(line.split(' '));
    hosts.host(1).host.run(|| etcdctl.output().expect("etcdctl is installed: `make test-kernel` does it"))
}

/// The lines of docs/cluster.md that give a host its rights, for `host`.
fn roles(host: &str) -> Vec<String> {
    let manual =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cluster.md")).unwrap();
    let block = manual.split("<!-- roles -->").nth(1).expect("the manual has them");
    let variables = |line: &str| line.replace("$HOST", host).replace("$key", "KEY");
    let mut lines = Vec::new();
    let mut keys = Vec::new();
    for line in block.lines().map(str::trim) {
        if let Some(list) = line.strip_prefix("for key in ") {
            keys = variables(list.trim_end_matches("; do")).split(' ').map(str::to_owned).collect();
        } else if let Some(command) = line.strip_prefix("etcdctl ") {
            let command = variables(command);
            match command.contains("KEY") {
                true => lines.extend(keys.iter().map(|key| command.replace("KEY", key))),
                false => lines.push(command),
            }
        }
    }
    lines
}

#[test]
fn a_host_has_the_rights_of_its_certificate_and_no_others() {
    let hosts = Hosts::start(2);
    let authority = Authority::new("an authority");
    authority.sign("server", &["10.8.0.1"], VALID);
    ["root", "host1", "host2", "nobody"].iter().for_each(|user| authority.sign(user, &[], VALID));
    let _etcd = Etcd::start(&hosts, &authority, "server");
    let root = |line: &str| {
        let done = etcdctl(&hosts, &authority, "root", line);
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    };
    eventually("the store answers", || {
        etcdctl(&hosts, &authority, "root", "get x").status.success().then_some(())
    });
    root("user add root --no-password");
    for host in ["host1", "host2"] {
        let lines = roles(host);
        assert!(lines.len() > 12, "{lines:?}");
        lines.iter().for_each(|line| root(line));
    }
    root("auth enable");

    let line = |host: u32, user: &str| {
        format!("--advertise 10.8.0.{host} --store {URL} {}", authority.options(user))
    };
    let why = hosts.refused(1, &format!("cluster init {}", line(1, "nobody")));
    assert!(why.contains("in this host's certificate") || why.contains("lacks a right"), "{why}");
    hosts.ctl(1, &format!("cluster init {}", line(1, "host1")));
    // By the certificate of another host it would take that one's place.
    let why = hosts.refused(2, &format!("cluster join {}", line(2, "host1")));
    assert!(why.contains("permission denied") && why.contains("lacks a right"), "{why}");
    hosts.ctl(2, &format!("cluster join {}", line(2, "host2")));
    hosts.ctl(2, "network create -d overlay blue");
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    let at = hosts.connect(1, "blue", &web);
    hosts.connect(2, "blue", &db);
    db.reaches(&at);
    assert_eq!(names(&hosts.ctl(1, "cluster ls"), "status"), ["ready", "ready"]);

    // Another host's sign of life, and its record.
    for key in ["alive/host2", "node/host2", "gone/host2"] {
        let done = etcdctl(&hosts, &authority, "host1", &format!("put /vswitch/v1/{key} x"));
        let why = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && why.contains("permission denied"), "{key}: {why}");
    }
    // What a host may not remove is no trouble with the store.
    let why = hosts.refused(1, "cluster rm host2");
    assert!(why.contains("lacks a right"), "{why}");
    eventually("the store is used as before", || {
        (hosts.ctl(1, "cluster status")["store"]["up"] == true).then_some(())
    });
    hosts.ctl(2, &format!("network disconnect blue {}", db.name()));
    hosts.ctl(2, "cluster leave");
    eventually("it is gone", || (names(&hosts.ctl(1, "cluster ls"), "name") == ["host1"]).then_some(()));
}

#[test]
fn a_certificate_that_does_not_do_is_told() {
    let hosts = Hosts::start(2);
    let (authority, other) = (Authority::new("an authority"), Authority::new("another"));
    for (server, addresses, years) in [
        ("server", &["10.8.0.1"][..], VALID),
        ("old", &["10.8.0.1"], (2020, 2021)),
        ("young", &["10.8.0.1"], (2089, 2090)),
        ("elsewhere", &["10.9.0.1"], VALID),
    ] {
        authority.sign(server, addresses, years);
    }
    authority.sign("host2", &[], VALID);
    authority.sign("late", &[], (2020, 2021));
    other.sign("host2", &[], VALID);
    let with = |options: String| format!("cluster join --advertise 10.8.0.2 --store {URL} {options}");
    let foreign = {
        let [cert, key] = ["host2.crt", "host2.key"].map(|file| other.path(file));
        let cacert = authority.path("ca.crt");
        format!("--cacert {} --cert {} --key {}", cacert.display(), cert.display(), key.display())
    };
    for (server, options, sentence) in [
        ("server", authority.options("host2"), "there is no cluster below /vswitch/v1/"),
        ("server", other.options("host2"), "is not signed by the authority of --cacert"),
        ("server", authority.options("late"), "has expired"),
        ("server", foreign, "signed by the authority that the store trusts"),
        ("server", "--cacert /none --cert /none --key /none".into(), "cannot read /none"),
        ("server", "--cacert /none".into(), "--cert is missing"),
        (
            "old",
            authority.options("host2"),
            "the store's certificate has expired, or the clock of this host is wrong",
        ),
        ("young", authority.options("host2"), "the store's certificate is not valid yet"),
        ("elsewhere", authority.options("host2"), "is not valid for the address in --store"),
    ] {
        let _etcd = Etcd::start(&hosts, &authority, server);
        let line = with(options);
        eventually(&format!("{server}, {line}: {sentence}"), || {
            let said = hosts.refused(2, &line);
            // While it starts, it does not answer.
            if !said.contains(sentence) {
                eprintln!("{said}");
            }
            said.contains(sentence).then_some(())
        });
    }
}

/// The certificates that a manager signs: a host gets the next one long before the end, and shows it without a restart.
#[test]
fn certificates_are_renewed() {
    let mut hosts = Hosts::joined(2);
    let folder = |hosts: &Hosts, host: usize| hosts.host(host).folder().join("state/cluster");
    // As if almost a year were over: signed again for a day, by the cluster's own authority.
    let key = fs::read_to_string(folder(&hosts, 1).join("ca.key")).unwrap();
    let cluster = hosts.ctl(1, "cluster status")["id"].as_str().unwrap()[..12].to_owned();
    for host in [1, 2] {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, format!("vswitch cluster {cluster}"));
        let issuer = Issuer::new(params, KeyPair::from_pem(&key).unwrap());
        let own =
            KeyPair::from_pem(&fs::read_to_string(folder(&hosts, host).join("host.key")).unwrap()).unwrap();
        let name = format!("host{host}");
        let mut params =
            CertificateParams::new(vec![name.clone(), format!("10.8.0.{host}"), "127.0.0.1".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now =
            date_time_ymd(1970, 1, 1) + SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let days = |days: u64| Duration::from_hours(24 * days);
        (params.not_before, params.not_after) = (now - days(330), now + days(30));
        let old = params.signed_by(&own, &issuer).unwrap().pem();
        hosts.hosts[host - 1].stop();
        fs::write(folder(&hosts, host).join("host.crt"), &old).unwrap();
    }
    let before = [1, 2].map(|host| fs::read_to_string(folder(&hosts, host).join("host.crt")).unwrap());
    hosts.hosts[0].run();
    hosts.hosts[1].run();
    for host in [1, 2] {
        eventually(&format!("host{host} has another certificate"), || {
            let now = fs::read_to_string(folder(&hosts, host).join("host.crt")).ok()?;
            (now != before[host - 1]).then_some(())
        });
        hosts.follows(host, true);
    }
    hosts.ctl(2, "network create -d overlay blue");
    // And a host can join by what the manager shows now.
    hosts.ctl(2, "network rm blue");
    hosts.ctl(2, "cluster leave");
    hosts.join(2);
}
