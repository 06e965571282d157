//! A process in an unnamed network namespace, as containers have.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use crate::eventually;

/// A process that sleeps in a network namespace of its own. Both end on drop.
#[derive(Debug)]
pub struct Container(Child);

impl Container {
    /// Starts the process and waits until it is in its namespace.
    pub fn start() -> Self {
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let mut unshare = Command::new("unshare");
        let child = unshare.args(["--net", "sleep", "1000"]).stdin(Stdio::null()).spawn().unwrap();
        let container = Self(child);
        eventually("the process has its namespace", || {
            let theirs = fs::read_link(format!("/proc/{}/ns/net", container.pid())).ok()?;
            (theirs != own).then_some(())
        });
        container
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Output of `ip` in the namespace. `arguments` are separated by blanks.
    pub fn ip(&self, arguments: &str) -> String {
        let pid = self.pid().to_string();
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--net", "--target", &pid, "ip"]).args(arguments.split(' '));
        String::from_utf8(nsenter.output().unwrap().stdout).unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
