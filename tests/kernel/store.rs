//! A bad day for the disk: it is full, or what was kept on it is damaged. Containers do not notice, and status and log say it.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use vswitch_tests::{Netns, Vswitchd, eventually, net};

/// A small file system of its own; unmounted with the value.
struct Disk(PathBuf);

impl Disk {
    fn at(path: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&path).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&path)
            .status();
        assert!(mount.unwrap().success());
        Self(path)
    }

    /// Leaves no room.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("fill")).unwrap();
        while file.write_all(&[0x5a; 512]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("fill")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a daemon that a failed test leaves may have files open there for a moment.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A host with a network `blue` and two containers in it.
struct World {
    switch: Vswitchd,
    containers: [Netns; 2],
}

impl World {
    fn connect(switch: Vswitchd) -> Self {
        let containers = [Netns::new("web"), Netns::new("db")];
        switch.ctl(&["network", "create", "--subnet", "10.9.0.0/24", "--label", "team=a", "blue"]);
        for (container, kind) in containers.iter().zip(["tap", "veth"]) {
            let place = format!("netns:{}", container.name());
            let kind = format!("kind={kind}");
            switch.ctl(&["network", "connect", "--driver-opt", &kind, "blue", &place]);
        }
        Self { switch, containers }
    }

    /// The containers reach each other and the gateway.
    fn goes_on(&self) {
        let [web, db] = &self.containers;
        web.reaches("10.9.0.3");
        db.reaches("10.9.0.1");
    }

    /// What `status` warns of, as one text.
    fn warnings(&self) -> String {
        let status = self.switch.ctl(&["status"]);
        let warnings = status["warnings"].as_array().into_iter().flatten();
        warnings.map(|it| it.as_str().unwrap()).collect::<Vec<_>>().join("\n")
    }

    fn network(&self) -> Value {
        let mut network = self.switch.ctl(&["network", "inspect", "blue"])[0].take();
        // What changes by itself.
        network["macs"] = Value::Null;
        network
    }
}

#[test]
fn a_full_disk_refuses_changes_and_keeps_what_is_there_going() {
    let switch = Vswitchd::prepare(Netns::new("host"), &net());
    let disk = Disk::at(switch.folder().join("state"), "600k");
    let mut switch = switch;
    switch.run();
    let mut world = World::connect(switch);
    let container = world.containers[0].name().to_owned();
    let pinned = || world.switch.ctl(&["fdb", "ls", "--mac", "02:42:00:00:00:99"])[0]["origin"] == "static";
    world.switch.ctl(&["fdb", "add", "blue", "02:42:00:00:00:99", &format!("{container}.blue")]);
    assert!(pinned());
    disk.fill();
    // The file systems of the world have room in a block that is begun: one of the next few is refused.
    let create = |world: &World, number: usize| {
        world.switch.try_ctl(&["network", "create", "--internal", &format!("n{number}")])
    };
    let (number, refused) =
        (0..100).map(|number| (number, create(&world, number))).find(|(_, it)| it.code != 0).unwrap();
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("is full (No space left on device"), "{}", refused.stderr);
    let networks = world.switch.ctl(&["network", "ls"]);
    let is_there = |number| networks.as_array().unwrap().iter().any(|it| it["name"] == format!("n{number}"));
    assert!(!is_there(number) && (0..number).all(is_there));
    assert!(!world.switch.host.ip("-o link show").contains(&format!("n{number}")), "nothing of it is left");
    assert!(world.warnings().contains("nothing can be changed: the disk with"), "{}", world.warnings());
    world.goes_on();
    let place = format!("netns:{}", world.containers[0].name());
    let (_, sentence) =
        world.switch.refusal(&["network", "disconnect", "blue", place.trim_start_matches("netns:")]);
    assert!(sentence.contains("No space left"), "{sentence}");
    assert!(pinned(), "the port was closed and opened again on the way");
    world.goes_on();

    // It comes up with what it knows.
    let before = world.network();
    world.switch.kill();
    world.switch.run();
    assert_eq!(world.network(), before);
    world.goes_on();
    assert_ne!(create(&world, number).code, 0);

    disk.make_room();
    assert_eq!(create(&world, number).code, 0);
    assert_eq!(world.warnings(), "");
    disk.fill();
    (number + 1..number + 100).find(|number| create(&world, *number).code != 0).unwrap();
    disk.make_room();
    eventually("it is noticed without a change that there is room", || {
        world.warnings().is_empty().then_some(())
    });
    world.switch.kill();
    world.switch.run();
    assert_eq!((world.network(), world.warnings()), (before, String::new()));
}

/// What becomes of a file.
type Damage<'a> = &'a dyn Fn(&Path);

#[test]
fn a_damaged_store_is_told_and_containers_do_not_notice() {
    let mut world = World::connect(Vswitchd::start(&net()));
    let state = world.switch.folder().join("state");
    let before = world.network();
    let cut = |path: &Path| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    };
    let empty = |path: &Path| fs::write(path, "").unwrap();
    let cases: [(&[&str], Damage<'_>, &str); 4] = [
        (&["store.redb"], &cut, "store.redb is damaged"),
        (&["store.redb"], &empty, "the file is empty"),
        (&["store.copy"], &cut, "store.copy is damaged"),
        (&["store.redb", "store.copy"], &empty, "nothing is lost: everything was restored from"),
    ];
    for (files, damage, word) in cases {
        world.switch.kill();
        files.iter().for_each(|name| damage(&state.join(name)));
        world.switch.run();
        assert!(world.warnings().contains(word), "{word}: {}", world.warnings());
        world.switch.logs(&["WARN", word]);
        let events = world.switch.try_ctl(&["events"]).stdout;
        assert!(events.contains(word), "{word}: {events}");
        assert_eq!(world.network(), before, "{word}");
        world.goes_on();
        for name in files {
            let is_kept = |entry: fs::DirEntry| {
                entry.file_name().to_str().unwrap().starts_with(&format!("{name}.damaged-"))
            };
            assert!(fs::read_dir(&state).unwrap().any(|entry| is_kept(entry.unwrap())), "{word}");
        }
    }
    // With all copies lost, what was connected is left as it is, for the operator, and reported.
    world.switch.kill();
    let live = world.switch.folder().join("api.sock.store");
    [state.join("store.redb"), state.join("store.copy"), live].iter().for_each(|path| empty(path));
    world.switch.run();
    assert!(world.warnings().contains("are lost"), "{}", world.warnings());
    world.switch.logs(&["WARN", "an interface without a port is left as it is"]);
    assert!(world.containers.iter().all(|container| container.has_link("eth0")));
    world.switch.ctl(&["network", "create", "--subnet", "10.10.0.0/24", "red"]);
}
