//! Names and paths of namespaces that are not what they seem.

use std::{fs, process::Command};

use rustix::fs::{CWD, Mode, mkfifoat};
use vswitch_tests::{Netns, PATIENCE, Vswitchd, eventually, net, within};

/// Deletes `netns` and makes it again until the kernel gives out the same inode number; on a busy machine others may get it.
fn make_again_with_its_number(netns: &mut Netns) {
    let inode = netns.inode();
    netns.delete();
    for _ in 0..200 {
        netns.make_again();
        if netns.inode() == inode {
            return;
        }
        netns.delete();
    }
    netns.make_again();
    eprintln!("others have got the number meanwhile: it is another namespace all the same");
}

/// Whether a namespace with the same name and the same number as the container's inherits anything. A TAP keeps the old
/// namespace alive, and with it its number; a veth pair goes with it.
#[test]
fn a_container_does_not_inherit_the_interface_of_one_before() {
    let other = Netns::new("other");
    let mut web = Netns::new("web");
    let mut switch = Vswitchd::start(&net());
    switch.ctl(&["network", "create", "--internal", "--subnet", "10.66.0.0/24", "secret"]);
    let connect = |switch: &Vswitchd, netns: &Netns, name: &str| {
        let netns = format!("netns:{}", netns.name());
        switch.ctl(&["network", "connect", "--name", name, "--driver-opt", "kind=veth", "secret", &netns]);
    };
    connect(&switch, &other, "other");
    connect(&switch, &web, "web");
    assert!(web.has_link("eth0"));
    make_again_with_its_number(&mut web);
    eventually("the endpoint is reaped", || switch.log().contains("reaped").then_some(()));
    assert!(!web.has_link("eth0"), "{}", web.ip("addr"));

    // While the daemon is away as well.
    connect(&switch, &web, "web");
    switch.stop();
    make_again_with_its_number(&mut web);
    switch.run();
    let networks = switch.ctl(&["network", "inspect", "secret"]);
    let endpoints = networks[0]["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 1, "{networks}");
    assert!(!web.has_link("eth0"));
    assert!(other.has_link("eth0"), "the one that is still there keeps its interface");
}

#[test]
fn a_fifo_as_a_sandbox_is_refused_at_once() {
    let web = Netns::new("web");
    let mut switch = Vswitchd::start(&net());
    let fifo = switch.folder().join("fifo");
    mkfifoat(CWD, &fifo, Mode::from_raw_mode(0o600)).unwrap();
    let fifo = fifo.to_str().unwrap().to_owned();
    switch.ctl(&["network", "create", "--subnet", "10.66.0.0/24", "blue"]);
    let (_, refusal) = switch.refusal(&["network", "connect", "blue", &fifo]);
    assert!(refusal.contains("is not a network namespace"), "{refusal}");
    // A port of a file waits for its namespace, as for any other.
    let config = net().network("red").interface("p", "tap", &fifo, "eth0").tap("web", &web);
    switch.configure(&config);
    let reload = switch.ctl(&["reload"]);
    assert!(!reload["changes"].as_array().unwrap().is_empty());
    assert_eq!(switch.port("web")["state"], "up");
    assert!(switch.port("p")["reason"].as_str().unwrap().contains("is not a network namespace"));
    assert!(switch.stop().success());
}

/// A file system that does not answer: the server of a FUSE mount that never reads its requests.
#[test]
fn a_path_that_hangs_delays_no_other_command() {
    let mut switch = Vswitchd::start(&net());
    switch.ctl(&["network", "create", "--subnet", "10.66.0.0/24", "blue"]);
    let mount = switch.folder().join("dead");
    fs::create_dir(&mount).unwrap();
    let fuse = fs::File::options().read(true).write(true).open("/dev/fuse");
    let Ok(fuse) = fuse else {
        eprintln!("skipped: there is no /dev/fuse");
        return;
    };
    let _mounted = Mounted::new(&mount, &fuse);
    let path = mount.join("ns");
    let path = path.to_str().unwrap();
    for _ in 0..3 {
        let (_, refusal) = switch.refusal(&["network", "connect", "blue", path]);
        assert!(refusal.contains("does not answer"), "{refusal}");
        switch.ctl(&["port", "ls"]);
    }
    switch.ctl(&["network", "create", "red"]);
    within(PATIENCE, "SIGTERM ends it", || {
        assert!(switch.stop().success());
        Some(())
    });
}

/// A FUSE mount, aborted on drop.
struct Mounted<'f>(&'f std::path::Path);

impl<'f> Mounted<'f> {
    fn new(at: &'f std::path::Path, fuse: &fs::File) -> Self {
        use std::os::fd::AsRawFd;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", fuse.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount("dead", at, "fuse", rustix::mount::MountFlags::empty(), options.as_c_str())
            .unwrap();
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-f", "-l"]).arg(self.0).status();
    }
}
