//! Many containers at once, refused commands, and both daemons killed at any moment.

use std::{thread, time::Duration};

use vswitch_tests::{Engine, Netns, Vswitchd, eventually, net, process};

use super::{endpoints, nothing_is_left};

#[test]
fn many_containers_at_once_and_what_is_refused() {
    let switch = Vswitchd::start_apart(Netns::new("host"), &net());
    let engine = Engine::start(&switch);
    switch.ctl(&["network", "create", "--subnet", "10.9.0.0/24", "blue"]);
    let refusal =
        engine.refusal(&["network", "create", "-d", "vswitch", "-o", "vswitch.network=blue", "blue"]);
    assert!(refusal.contains("add --ipam-driver vswitch --subnet 10.9.0.0/24"), "{refusal}");
    let refusal = engine.refusal(&["network", "create", "-d", "vswitch", "-o", "vlna=7", "red"]);
    assert!(refusal.contains("option vlna: is unknown"), "{refusal}");
    // A network created here is adopted by Docker, with its addresses.
    engine.create("blue", "10.9.0.0/24");
    let descriptors = process::descriptors(switch.pid());
    thread::scope(|scope| {
        for number in 0..50 {
            let engine = &engine;
            scope.spawn(move || {
                let name = format!("box{number}");
                engine.docker(&["run", "-d", "--name", &name, "--network", "blue", "box", "sleep", "1000"])
            });
        }
    });
    assert_eq!(endpoints(&switch), 50);
    let endpoints = switch.ctl(&["network", "inspect", "blue"])[0]["endpoints"].as_array().unwrap().len();
    assert_eq!(endpoints, 50);
    engine.reaches("box3", "box47");
    let taken = engine.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.blue.IPAddress}}", "box3"]);
    let refusal = engine.refusal(&["run", "--rm", "--network", "blue", "--ip", &taken, "box", "true"]);
    assert!(refusal.contains("ddress already in use"), "{refusal}");
    let names: Vec<String> = (0..50).map(|number| format!("box{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    engine.docker(&[&["rm", "-f"], &names[..]].concat());
    nothing_is_left(&switch);
    // dockerd keeps a few idle connections to the plugin.
    eventually("no descriptor is left", || {
        (process::descriptors(switch.pid()) <= descriptors + 10).then_some(())
    });
    // Docker forgets the network; it stays here.
    engine.docker(&["network", "rm", "blue"]);
    switch.ctl(&["network", "inspect", "blue"]);
}

/// dockerd gives up a container whose network's plugin does not answer; when it does, the container is started again.
#[test]
fn what_waits_for_the_switch_is_started_with_it() {
    let mut switch = Vswitchd::start_apart(Netns::new("host"), &net());
    let mut engine = Engine::start(&switch);
    engine.docker(&["network", "create", "-d", "vswitch", "--subnet", "10.9.0.0/24", "blue"]);
    for (name, policy) in [("web", "always"), ("stopped", "unless-stopped"), ("job", "no")] {
        let run =
            ["run", "-d", "--network", "blue", "--restart", policy, "--name", name, "box", "sleep", "1000"];
        engine.docker(&run);
    }
    engine.docker(&["stop", "-t", "0", "stopped"]);
    engine.stop();
    switch.stop();
    engine.run();
    assert_eq!(engine.docker(&["ps", "-q"]), "", "dockerd has given it up");
    switch.run();
    eventually("it is up", || (engine.docker(&["ps", "--format", "{{.Names}}"]) == "web").then_some(()));
    engine.reaches("web", "10.9.0.1");
    switch.logs(&[
        "INFO",
        "started again: it had failed while vswitchd was not running",
        "container=\"web\"",
    ]);
}

#[test]
fn killed_at_awkward_moments() {
    let mut switch = Vswitchd::start_apart(Netns::new("host"), &net());
    let mut engine = Engine::start(&switch);
    let create = ["network", "create", "-d", "vswitch", "--subnet"];
    engine.docker(&[&create[..], &["10.9.0.0/24", "blue"]].concat());
    engine.docker(&[&create[..], &["10.10.0.0/24", "red"]].concat());
    let run = ["run", "-d", "--network", "blue", "--ip", "10.9.0.66", "-p", "8080:80", "--name"];
    let new = |name| [&run[..], &[name, "box", "sleep", "1000"]].concat();

    // Moments during `docker run`, from before the first plugin call to after the last.
    for moment in [30, 90, 200].map(Duration::from_millis) {
        let running = engine.in_background(&new("first"));
        thread::sleep(moment);
        switch.kill();
        switch.run();
        let done = running.join().unwrap();
        // dockerd retries until the switch is back. A request without a response fails, and may be repeated.
        if done.code != 0 {
            assert!(done.stderr.contains("try again"), "{}", done.stderr);
            engine.docker(&["start", "first"]);
        }
        engine.reaches("first", "10.9.0.1");
        engine.docker(&["rm", "-f", "first"]);
        nothing_is_left_but_what_is_forgotten(&switch);
    }
    for moment in [60, 150].map(Duration::from_millis) {
        let running = engine.in_background(&new("first"));
        thread::sleep(moment);
        engine.kill();
        engine.run();
        let _ = running.join().unwrap();
        // The same address and port can be allocated again, whatever the first container left behind.
        let _ = engine.try_docker(&["rm", "-f", "first"]);
        engine.docker(&new("second"));
        engine.reaches("second", "10.9.0.1");
        engine.docker(&["rm", "-f", "second"]);
        nothing_is_left_but_what_is_forgotten(&switch);
    }

    // A network whose endpoint was forgotten by the engine can be removed at once.
    engine.docker(&[&create[..], &["10.11.0.0/24", "green"]].concat());
    let running =
        engine.in_background(&["run", "-d", "--name", "third", "--network", "green", "box", "true"]);
    thread::sleep(Duration::from_millis(130));
    engine.kill();
    engine.run();
    let _ = running.join().unwrap();
    let _ = engine.try_docker(&["rm", "-f", "third"]);
    engine.docker(&["network", "rm", "green"]);
    engine.docker(&["run", "-d", "--name", "job", "--network", "blue", "box", "sleep", "1000"]);
    for (verb, moment, kills_switch) in
        [("connect", 10, true), ("connect", 30, false), ("disconnect", 10, false), ("disconnect", 30, true)]
    {
        let before = if verb == "connect" { "disconnect" } else { "connect" };
        let _ = engine.try_docker(&["network", before, "red", "job"]);
        let running = engine.in_background(&["network", verb, "red", "job"]);
        thread::sleep(Duration::from_millis(moment));
        if kills_switch {
            switch.kill();
            switch.run();
        } else {
            engine.kill();
            engine.run();
        }
        let _ = running.join().unwrap();
        engine.docker(&["start", "job"]);
        let _ = engine.try_docker(&["network", "disconnect", "red", "job"]);
        engine.docker(&["network", "connect", "red", "job"]);
        engine.reaches("job", "10.10.0.1");
        engine.reaches("job", "10.9.0.1");
    }
    engine.docker(&["rm", "-f", "job"]);
    engine.docker(&["network", "rm", "red"]);
    engine.docker(&["network", "rm", "blue"]);
    nothing_is_left(&switch);
}

/// An endpoint whose removal the engine could not report stays for a minute, without consequences.
fn nothing_is_left_but_what_is_forgotten(switch: &Vswitchd) {
    eventually("at most one endpoint is left", || (endpoints(switch) <= 1).then_some(()));
}
