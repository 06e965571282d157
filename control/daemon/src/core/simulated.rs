//! A real core over devices in memory, for tests of its clients and readers.

use std::ops::Deref;

use tempfile::TempDir;
use vswitch::counters::PortCounters;

use super::{Handle, Running, actor};
use crate::{config, machine::Machine, state::State, store::Store};
use vswitch_model::{Error, Name, NetworkSpec, api::Network};

/// The core; it is stopped when the value is dropped.
pub(crate) struct Simulated {
    pub(crate) running: Running,
    folder: TempDir,
}

impl Simulated {
    /// A switch called `host1` with one worker, and the declarations of `config`.
    pub(crate) async fn start(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("net.toml");
        let state = folder.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let text = format!("[switch]\nname = \"host1\"\nworkers = 1\nstate = {state:?}\n{config}");
        std::fs::write(&file, text).unwrap();
        let config = config::load(&file).unwrap();
        let store = Store::open(&state, &folder.path().join("live")).unwrap();
        let plan = State::start(config, []).unwrap();
        let running =
            actor::launch(file, plan, store, Machine::InMemory, crate::cluster::channel().0).await.unwrap();
        Self { running, folder }
    }

    /// A handle whose requests are never served.
    pub(crate) fn stuck(&self) -> Handle {
        let (requests, queue) = tokio::sync::mpsc::channel(8);
        std::mem::forget(queue);
        Handle { requests, ..(**self).clone() }
    }

    /// A folder for the test's sockets.
    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Adds `text` to the file.
    pub(crate) fn declare(&self, text: &str) {
        let file = self.path("net.toml");
        let before = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, before + text).unwrap();
    }

    /// Counts at a port, as its worker does.
    pub(crate) fn count(&self, port: &str, count: impl FnOnce(&PortCounters)) {
        let snapshot = self.snapshot();
        let port = snapshot.find_port(&port.parse().unwrap()).unwrap();
        count(&snapshot.live.ports[&port.id].counters[0]);
    }

    /// Creates a network.
    pub(crate) async fn add_network(&self, spec: NetworkSpec) -> Result<Network, Error> {
        let done = self.ask(|reply| super::Request::AddNetwork(Box::new(spec), reply)).await?;
        done.snapshot.network(&done.value.into())
    }
}

impl Deref for Simulated {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.running.handle
    }
}

/// Parses a name.
pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}
