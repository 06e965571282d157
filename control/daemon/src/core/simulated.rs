//! A real core over devices in memory, for tests of all that asks and reads it.

use std::ops::Deref;

use tempfile::TempDir;
use vswitch::counters::PortCounters;

use super::{Handle, Running, actor};
use crate::{config, machine::Machine, state::State, store::Store};
use vswitch_model::{Error, Name, NetworkSpec, api::Network};

/// The core; everything ends with the value.
pub(crate) struct Simulated {
    pub(crate) running: Running,
    folder: TempDir,
}

impl Simulated {
    /// A switch called `host1` with one worker, and whatever `config` declares besides.
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
        let running = actor::launch(file, plan, store, Machine::InMemory).await.unwrap();
        Self { running, folder }
    }

    /// A handle to what is here, whose requests are never served.
    pub(crate) fn stuck(&self) -> Handle {
        let (requests, queue) = tokio::sync::mpsc::channel(8);
        std::mem::forget(queue);
        Handle { requests, ..(**self).clone() }
    }

    /// Where the test may keep sockets.
    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Lets the file declare `text` as well.
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

    /// Makes a network.
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

/// A name.
pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}
