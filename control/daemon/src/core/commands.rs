//! Executes the requests of the API.

use std::sync::Arc;

use jiff::Timestamp;
use tracing::warn;

use super::Core;
use crate::{
    attach::Attachment,
    capture::CaptureStream,
    directory::DirectoryChange,
    edge::{Attempt, Consequence},
    sight,
    state::{Change, Command, Delta, Known, NetworkError},
};
use vswitch_host::random;
use vswitch_model::{
    Connect, Driver, EndpointSpec, Error, Id, Name, NetworkSpec, NetworkUpdate, Reference,
    api::{Prune, Pruned, StaticName, capture::CaptureRequest, directory::Directory, events::What},
    is_predefined,
};
use vswitch_names::Record;

impl Core {
    pub(super) async fn add_network(&mut self, mut spec: NetworkSpec) -> Result<Name, Error> {
        if spec.id.is_none() {
            spec.id = Some(random::id()?);
        }
        spec.created = Some(Timestamp::now());
        let host = sight::host(&self.state).await?;
        self.state.observe(host);
        let name = spec.name.clone();
        self.execute(Command::AddNetwork(spec), Attempt::now()).await?;
        Ok(name)
    }

    pub(super) async fn update_network(
        &mut self,
        network: Reference,
        update: NetworkUpdate,
    ) -> Result<Name, Error> {
        let name = self.changeable(&network)?;
        let command = Command::UpdateNetwork { name: name.clone(), update };
        self.execute(command, Attempt::now()).await?;
        Ok(name)
    }

    pub(super) async fn delete_network(&mut self, network: Reference) -> Result<(), Error> {
        if is_predefined(network.as_str()) {
            return Err(NetworkError::NotRemovable(network.into()).into());
        }
        let name = self.state.find_network(&network)?.spec.name.clone();
        self.execute(Command::RemoveNetwork(name), Attempt::now()).await.map(drop)
    }

    pub(super) async fn prune(&mut self, prune: Prune) -> Result<Pruned, Error> {
        let mut pruned = Pruned::default();
        for network in self.state.unused_networks().into_iter().filter(|it| prune.wants(it)) {
            let name = network.name.clone();
            self.execute(Command::RemoveNetwork(name.clone()), Attempt::now()).await?;
            pruned.networks.push(name);
        }
        Ok(pruned)
    }

    pub(super) async fn connect(&mut self, network: Reference, connect: Connect) -> Result<Id, Error> {
        let network = self.connectable(&network)?;
        let mut sandbox = sight::sandbox(connect.sandbox.as_ref()).await?;
        let id = connect.id.clone().unwrap_or_else(|| sandbox.id.clone());
        sandbox.published = self.reserve(&network, &connect, sandbox.now)?;
        let published = sandbox.published.clone();
        let command = Command::Connect { network, connect: Box::new(connect), sandbox: Box::new(sandbox) };
        let done = self.execute(command, Attempt::now()).await;
        if done.is_err() {
            self.rules.release(&published);
        }
        done?;
        Ok(id)
    }

    pub(super) async fn disconnect(&mut self, network: Reference, endpoint: Reference) -> Result<(), Error> {
        let network = self.connectable(&network)?;
        let endpoint = self.state.find_endpoint(&network, &endpoint)?;
        if endpoint.declared.is_some() {
            return Err(NetworkError::DeclaredEndpoint(endpoint.name.clone(), network).into());
        }
        let id = endpoint.id.clone();
        self.execute(Command::Disconnect { ids: vec![id], now: Timestamp::now() }, Attempt::now())
            .await
            .map(drop)
    }

    /// Creates a port from an interface that a helper has made.
    pub(super) async fn attach(&mut self, attachment: Attachment) -> Result<Name, Error> {
        let Attachment { request, tap, .. } = attachment;
        let name = request.port.name.clone();
        self.execute(Command::AddPort(request.port), Attempt::now().handing(name.clone(), tap)).await?;
        Ok(name)
    }

    /// Takes over the measured path MTU of a peer, if it still exists.
    pub(super) fn measured(&mut self, peer: &Name, mtu: u16) -> Result<(), Error> {
        if let Some(port) = self.state.port(peer) {
            self.edge.measured(port.id, mtu);
        }
        Ok(())
    }

    pub(super) async fn capture(&mut self, wanted: CaptureRequest) -> Result<CaptureStream, Error> {
        let workers = self.edge.workers.count();
        let ended = &self.signals.capture_over;
        let stream = self.edge.captures.begin(wanted, &self.state, workers, ended)?;
        self.rebuild().await;
        self.asker.log(format_args!("capture {} started", stream.id));
        Ok(stream)
    }

    /// Announces one endpoint of each network whose port is open.
    pub(super) async fn announce(&self, networks: Vec<Name>) -> Result<(), Error> {
        let port_of = |endpoint: &EndpointSpec| self.state.port(&endpoint.port).map(|port| port.id);
        let first = |network: &Name| {
            let mut ports = self.state.endpoints_of(network).filter_map(|it| port_of(it));
            ports.find(|port| self.edge.is_open(*port))
        };
        self.edge.announce(networks.iter().filter_map(first).collect(), &self.state).await;
        Ok(())
    }

    /// Changes the directory of a network.
    pub(super) async fn direct(&mut self, network: Reference, change: DirectoryChange) -> Result<(), Error> {
        let network = self.state.find_network(&network)?;
        if self.edge.change_directory(&network.spec.name, network.id, change)? == Consequence::Plan {
            self.rebuild().await;
        }
        Ok(())
    }

    /// Replaces the names that other hosts' endpoints have in a network.
    pub(super) fn set_names(&mut self, network: Name, records: Arc<[Record]>) -> Result<(), Error> {
        if self.state.network(&network).is_none() {
            return Err(NetworkError::NotFound(network.into()).into());
        }
        self.naming.hear(network, records);
        Ok(())
    }

    /// Gives a name by hand, and stores it.
    pub(super) fn add_name(&mut self, name: StaticName) -> Result<(), Error> {
        if !self.state.dns().enabled {
            let why =
                "names are not served: set enabled = true below [dns] in net.toml, and restart vswitchd";
            return Err(Error::conflict(why));
        }
        if name.addresses.is_empty() {
            return Err(Error::invalid(format!("{} has no address: give it one", name.name)));
        }
        self.state.find_network(&name.network.clone().into())?;
        self.store.put_name(&name)?;
        let StaticName { network, name, .. } = name;
        self.asker.log(format_args!("name {name} added to network {network}"));
        self.observer.note(What::NameAdded { name, network });
        self.naming.give(self.store.names());
        Ok(())
    }

    /// Takes a name away that was given by hand.
    pub(super) fn remove_name(&mut self, network: Name, name: Name) -> Result<(), Error> {
        if !self.store.names().iter().any(|it| it.network == network && it.name == name) {
            return Err(Error::not_found(format!(
                "no {name} was added to network {network}: names of endpoints go with these"
            )));
        }
        self.store.remove_name(&network, &name)?;
        self.asker.log(format_args!("name {name} removed from network {network}"));
        self.observer.note(What::NameRemoved { name, network });
        self.naming.give(self.store.names());
        Ok(())
    }

    /// Deletes the names of networks that were removed.
    pub(super) fn forget_names(&mut self, changes: &[Change]) {
        let removed = |network: &Name| {
            changes.iter().any(|change| match change {
                Change::Network(Delta::Removed(it)) => it.spec.name == *network,
                _ => false,
            })
        };
        let over: Vec<_> = self.store.names().into_iter().filter(|it| removed(&it.network)).collect();
        let forgotten = !over.is_empty();
        for StaticName { network, name, .. } in over {
            // If it cannot be deleted now, it is not answered all the same.
            if let Err(error) = self.store.remove_name(&network, &name) {
                warn!(%name, %network, "cannot delete a name: {error}");
            }
        }
        if forgotten {
            self.naming.give(self.store.names());
        }
    }

    pub(super) fn directory(&self, network: &Reference) -> Result<Directory, Error> {
        Ok(self.edge.directory(&self.state.find_network(network)?.spec.name))
    }

    /// The name of a network that may be changed.
    fn changeable(&self, reference: &Reference) -> Result<Name, Error> {
        match self.state.resolve(reference)? {
            Known::Ours(network) => Ok(network.spec.name.clone()),
            Known::Predefined(_) => Err(NetworkError::Predefined(reference.to_string()).into()),
        }
    }

    /// The name of a network that can have endpoints.
    fn connectable(&self, reference: &Reference) -> Result<Name, Error> {
        match self.state.resolve(reference)? {
            Known::Ours(network) => Ok(network.spec.name.clone()),
            Known::Predefined(spec) if spec.driver() == Driver::Host => Err(NetworkError::HostNetwork.into()),
            Known::Predefined(_) => Err(NetworkError::NoNetwork.into()),
        }
    }
}
