//! Endpoints that the file declares: a host is whole from its file.

use std::{io::Write, net::TcpListener, thread};

use vswitch_tests::{Config, Netns, Vswitchd, eventually, net};

/// A network with these endpoints: name, namespace, further keys.
fn with(endpoints: &[(&str, &Netns, &str)]) -> Config {
    let blue = net().network("blue").subnet("10.9.0.0/24");
    endpoints.iter().fold(blue, |config, (name, netns, keys)| {
        let (netns, head) = (netns.name(), "[[endpoint]]\nnetwork = \"blue\"");
        config.keys(&format!("{head}\nname = \"{name}\"\nnetns = \"{netns}\"\n{keys}"))
    })
}

/// The names of the connected endpoints.
fn connected(switch: &Vswitchd) -> Vec<String> {
    let network: serde_json::Value =
        serde_json::from_str(&switch.request("GET", "/v1/networks/blue", "").1).unwrap();
    let endpoints = network["endpoints"].as_array().into_iter().flatten();
    let mut names: Vec<_> = endpoints.map(|it| it["name"].as_str().unwrap().to_owned()).collect();
    names.sort_unstable();
    names
}

fn troubles(switch: &Vswitchd) -> Vec<String> {
    let status = switch.ctl(&["status"]);
    let told = status["troubles"].as_array().into_iter().flatten();
    told.map(|it| format!("{}: {}", it["of"].as_str().unwrap_or(""), it["detail"].as_str().unwrap()))
        .collect()
}

#[test]
fn declared_endpoints_come_and_go_with_their_file_and_their_namespaces() {
    let (web, mut db) = (Netns::new("web"), Netns::new("db"));
    db.delete();
    let web_keys = "ip = \"10.9.0.2\"\npublish = [\"8080:80\"]\noptions = { kind = \"veth\" }";
    let both = with(&[("web", &web, web_keys), ("db", &db, "ip = \"10.9.0.3\"")]);
    let mut switch = Vswitchd::start(&both);

    // What is there is connected before the daemon is ready; what is not is told.
    assert_eq!(connected(&switch), ["web"]);
    let told = troubles(&switch);
    assert!(told.iter().any(|it| it.starts_with("db.blue: ") && it.contains(db.name())), "{told:?}");
    let listener = web.run(|| TcpListener::bind("10.9.0.2:80").unwrap());
    thread::spawn(move || listener.incoming().for_each(|it| drop(it.unwrap().write_all(b"hello"))));
    let host = &switch.host;
    let reached = || host.run(|| std::net::TcpStream::connect("127.0.0.1:8080").is_ok());
    assert!(reached(), "the host's port leads to it");

    // A namespace that comes is connected within seconds; one that comes again, too.
    db.make_again();
    web.reaches("10.9.0.3");
    eventually("the trouble is over", || troubles(&switch).is_empty().then_some(()));
    db.delete();
    eventually("it is told again", || (!troubles(&switch).is_empty()).then_some(()));
    db.make_again();
    web.reaches("10.9.0.3");

    // The file decides.
    let (code, sentence) = switch.refusal(&["network", "disconnect", "blue", "web"]);
    assert_eq!(code, 1, "{sentence}");
    assert!(sentence.contains("declared in the configuration file"), "{sentence}");
    let lines = |reload: &serde_json::Value| {
        let line = |it: &serde_json::Value| {
            format!("{} {} {}", it["action"], it["object"], it["name"]).replace('"', "")
        };
        reload["changes"].as_array().unwrap().iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(lines(&switch.ctl(&["reload"])), [""; 0], "nothing differs yet");
    let more = Netns::new("more");
    switch.configure(&with(&[("web", &web, &web_keys.replace("8080", "8081")), ("more", &more, "")]));
    let dry = switch.ctl(&["reload", "--dry-run"]);
    assert_eq!(connected(&switch), ["db", "web"], "a dry run does nothing");
    let done = switch.ctl(&["reload"]);
    assert_eq!(lines(&dry), lines(&done));
    let mut done: Vec<_> = lines(&done).into_iter().filter(|line| line.contains("endpoint")).collect();
    done.sort_unstable();
    assert_eq!(done, ["add endpoint more", "add endpoint web", "remove endpoint db", "remove endpoint web"]);
    assert_eq!(connected(&switch), ["more", "web"]);
    assert!(!db.has_link("eth0") && !reached());
    more.reaches("10.9.0.2");
    host.run(|| std::net::TcpStream::connect("127.0.0.1:8081").unwrap());

    // A restart finds them as they are, and follows what the file has become meanwhile.
    let index = more.ip("-o link show dev eth0");
    switch.kill();
    switch.run();
    assert_eq!(connected(&switch), ["more", "web"]);
    assert_eq!(more.ip("-o link show dev eth0").split(':').next(), index.split(':').next());
    switch.kill();
    switch.configure(&with(&[("db", &db, "ip = \"10.9.0.3\"")]));
    switch.run();
    assert_eq!(connected(&switch), ["db"]);
    assert!(!web.has_link("eth0") && !more.has_link("eth0"), "nothing of the others is left");
}
