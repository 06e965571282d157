//! What the tests with real namespaces share.

use std::process::Command;

use vswitch_host::netns::Namespace;
use vswitch_model::Netns;

/// A namespace under /run/netns that is deleted with the value.
#[derive(Debug)]
pub(crate) struct Scratch(pub(crate) String);

impl Scratch {
    /// Makes `vt-control-<purpose>-<pid>`.
    pub(crate) fn new(purpose: &str) -> Self {
        let name = format!("vt-control-{purpose}-{}", std::process::id());
        run("ip", &["netns", "add", &name]);
        Self(name)
    }

    /// As a port's specification names it.
    pub(crate) fn netns(&self) -> Netns {
        Netns::Name(self.0.clone())
    }

    /// Held open.
    pub(crate) fn open(&self) -> Namespace {
        Namespace::open(&self.netns()).unwrap()
    }

    /// What `ip` prints in the namespace.
    #[allow(dead_code, reason = "each test binary uses its own part of this module")]
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let mut all = vec!["-n", &self.0];
        all.extend(arguments.split(' '));
        run("ip", &all)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
