//! The daemon as its clients see it: one command at a time, done wholly or not at all.

mod engines;

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::Instant,
};

use futures_util::FutureExt;
use ipnet::IpNet;
use jiff::Timestamp;
use tokio::{
    sync::{Mutex, Notify},
    task::spawn_blocking,
};
use tracing::{error, info, warn};
use vswitch::{device::tap::Tap, fdb::Origin};

use super::{
    Failure, capture,
    edge::{Edge, Missing},
    journal::{Journal, Observer},
    probe, sight, trace, tunnel, view,
};
use crate::{
    api::{
        Answer, ApiError, Backend, EventStream,
        inspect::CaptureStream,
        types::{
            Drop, Endpoint, FdbEntry, FdbFilter, FdbKey, Flush, Flushed, Network, Port, Prune, Pruned,
            Reload, StaticEntry, Stats, Status,
            capture::{Capture, CaptureRequest},
            events::{EventsFilter, What},
            trace::{Trace, TraceRequest, Why, WhyFilter},
            tunnel::{Probe, Tunnel},
        },
    },
    attach::server::Attachment,
    config,
    gateway::{Gateway, Outside, Publish, Published},
    model::{
        Connect, DeviceSpec, DockerSpec, Driver, Id, Name, NetworkSpec, NetworkUpdate, PortSpec, Reference,
    },
    options,
    state::{self, Command, Effect, NetworkError, Plan, Refusal, State, is_predefined},
    store::{Store, StoreError},
};

/// The running daemon.
pub(super) struct Daemon {
    core: Mutex<Core>,
    faults: Arc<Notify>,
    strangers: Arc<Notify>,
    captures_over: Arc<Notify>,
    journal: Arc<Journal>,
    config: PathBuf,
    started: Instant,
}

/// What is wanted, what is real, and what is kept; changed together.
struct Core {
    state: State,
    edge: Edge,
    store: Store,
    observer: Observer,
    gateway: Arc<std::sync::Mutex<Gateway>>,
    /// Whether something of the host's rules could not be made, and is tried again.
    outside_is_due: bool,
    /// Bare interfaces that nobody has fetched yet, and since when.
    unfetched: HashMap<Id, Instant>,
}

/// How a command is carried out.
struct Manner {
    missing: Missing,
    /// The TAP of the port that the command adds, made by a helper.
    handed: Option<Tap>,
}

impl Daemon {
    /// Opens what `plan` wants and starts forwarding. Ports that cannot be opened are down, and tried again.
    pub(super) async fn start(config: PathBuf, plan: Plan, store: Store) -> Result<Self, Failure> {
        let faults = Arc::new(Notify::new());
        let notify = Arc::clone(&faults);
        let strangers = Arc::new(Notify::new());
        let notify_stranger = Arc::clone(&strangers);
        let edge = Edge::start(
            plan.next.switch(),
            Arc::new(move || notify.notify_one()),
            Arc::new(move || notify_stranger.notify_one()),
        )?;
        let journal = Journal::new();
        let observer = Observer::new(Arc::clone(&journal));
        observer.note(What::Started);
        let gateway = Arc::default();
        let mut core = Core {
            state: State::default(),
            edge,
            store,
            observer,
            gateway,
            outside_is_due: false,
            unfetched: HashMap::new(),
        };
        core.carry_out(plan, Manner { missing: Missing::Retry, handed: None })
            .await
            .map_err(|error| error.error)?;
        core.edge.remove_orphans().await;
        let (networks, ports) = (core.state.networks().count(), core.state.ports().count());
        info!(networks, ports, workers = core.edge.workers.count(), "switch started");
        let captures_over = Arc::default();
        Ok(Self {
            core: Mutex::new(core),
            faults,
            strangers,
            captures_over,
            journal,
            config,
            started: Instant::now(),
        })
    }

    /// Whether, and where, Docker finds us.
    pub(super) async fn docker(&self) -> DockerSpec {
        self.core.lock().await.state.docker().clone()
    }

    /// Makes a port of an interface that a helper has made.
    pub(super) async fn attach(&self, attachment: Attachment) -> Result<Port, ApiError> {
        let Attachment { request, tap, .. } = attachment;
        let manner = Manner { missing: Missing::Refuse, handed: tap };
        let mut core = self.core.lock().await;
        let name = request.port.name.clone();
        core.execute(Command::AddPort(request.port), manner).await?;
        core.port(&name)
    }

    /// Ready when a port has failed since the last time.
    pub(super) async fn fault(&self) {
        self.faults.notified().await;
    }

    /// Takes ports that failed out of forwarding.
    pub(super) async fn collect_faults(&self) {
        let core = &mut *self.core.lock().await;
        if core.edge.collect_faults() {
            core.edge.rebuild(&core.state).await;
            core.look();
        }
    }

    /// Ready when a capture's client has gone or has enough.
    pub(super) async fn capture_over(&self) {
        self.captures_over.notified().await;
    }

    /// Ends the captures that `gone` picks, and those that are over. True: there were some.
    pub(super) async fn end_captures(&self, gone: impl Fn(u64) -> bool + Send) -> bool {
        let core = &mut *self.core.lock().await;
        let ends = core.edge.captures.take(gone);
        let any = !ends.is_empty();
        if any {
            core.edge.rebuild(&core.state).await;
        }
        ends.into_iter().for_each(capture::End::end);
        any
    }

    /// Ready when somebody sent to the tunnel who is no peer, for the first time of late.
    pub(super) async fn stranger(&self) {
        self.strangers.notified().await;
    }

    /// Takes strangers in as peers where that is wanted, and tells of them where it is not.
    pub(super) async fn meet_strangers(&self) {
        let core = &mut *self.core.lock().await;
        let Some(spec) = core.state.endpoint() else { return };
        let (DeviceSpec::Vxlan(vxlan), Some(endpoint)) = (&spec.device, core.edge.endpoint()) else { return };
        if !vxlan.learn_peers {
            if let Some(last) = endpoint.strangers.list().last() {
                warn!("{}", core.state.about_stranger(last.address));
            }
            return;
        }
        for stranger in endpoint.strangers.take() {
            let command = Command::LearnPeer(stranger.address);
            match core.execute(command, Manner { missing: Missing::Retry, handed: None }).await {
                Ok(_) => info!(address = %stranger.address, "taken in as a peer"),
                Err(error) => warn!("{}", error.error),
            }
        }
    }

    /// What is done every second: ageing, and another try for ports that are down.
    pub(super) async fn heartbeat(&self) {
        let core = &mut *self.core.lock().await;
        core.edge.listen();
        core.edge.sweep();
        core.reap().await;
        if core.outside_is_due {
            // Its errors are told the first time.
            let _ = core.set_outside(core.state.outside(), Missing::Retry).await;
        }
        if core.edge.collect_abandoned() | core.edge.retry().await {
            core.edge.rebuild(&core.state).await;
        }
        core.look();
    }

    /// Ends the streams of events, so that nobody is waited for who follows them.
    pub(super) fn farewell(&self) {
        self.journal.close();
    }

    /// Stops forwarding, and leaves nothing behind but what persists.
    pub(super) async fn close(&self) {
        let core = &mut *self.core.lock().await;
        core.edge.stop().await;
    }
}

impl Core {
    /// Obeys a command, wholly or not at all.
    async fn execute(&mut self, command: Command, manner: Manner) -> Result<Vec<state::Change>, ApiError> {
        let plan = self.state.plan(command)?;
        self.carry_out(plan, manner).await
    }

    async fn carry_out(&mut self, plan: Plan, mut manner: Manner) -> Result<Vec<state::Change>, ApiError> {
        let Plan { next, changes, effects } = plan;
        self.observer.look_at_table(&self.state, &self.edge);
        for (index, effect) in effects.iter().enumerate() {
            if let Err(error) = self.perform(effect, &next, &mut manner).await {
                self.take_back(&effects[..=index]).await;
                return Err(error);
            }
        }
        if let Err(error) = self.edge.set_up(manner.missing).await {
            self.take_back(&effects).await;
            return Err(error);
        }
        self.edge.keep();
        self.state = next;
        self.edge.rebuild(&self.state).await;
        self.observer.note_changes(&changes);
        self.look();
        self.pin_again()?;
        if !changes.is_empty() {
            self.state.warnings().iter().for_each(|warning| warn!("{warning}"));
        }
        Ok(changes)
    }

    /// Notes what has happened.
    fn look(&mut self) {
        self.observer.look(&self.state, &self.edge);
    }

    /// Holds ports of the host for an endpoint that is about to be.
    async fn reserve(&self, network: &Name, connect: &Connect) -> Result<Vec<Published>, ApiError> {
        let Some(network) = self.state.network(network).filter(|_| !connect.publish.is_empty()) else {
            return Ok(Vec::new());
        };
        let addresses = self.state.choose_addresses(&network.spec, connect.ip, connect.ip6)?;
        self.reserve_for(&network.spec, &addresses, connect.publish.clone()).await
    }

    /// Holds ports of the host for an endpoint of a network that has `addresses`, or will have them.
    async fn reserve_for(
        &self,
        network: &NetworkSpec,
        addresses: &[IpNet],
        mut publish: Vec<Publish>,
    ) -> Result<Vec<Published>, ApiError> {
        self.state.check_publishable(network)?;
        let addresses: Vec<_> = addresses.iter().map(IpNet::addr).collect();
        let binding = options::of_network(network).map_err(NetworkError::from)?.binding;
        publish.iter_mut().for_each(|it| it.host_ip = it.host_ip.or(binding));
        Ok(self.gate(move |gateway| gateway.reserve(&publish, &addresses)).await??)
    }

    /// Does something with the gateway, which may take a while, where it keeps nobody waiting.
    async fn gate<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Gateway) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let gateway = Arc::clone(&self.gateway);
        let done = spawn_blocking(move || job(&mut gateway.lock().unwrap_or_else(PoisonError::into_inner)));
        done.await.map_err(|error| ApiError::internal(format!("the gateway failed: {error}")))
    }

    /// Makes the host's rules what they should be. With [`Missing::Retry`] as much as can be had, now and later.
    async fn set_outside(&mut self, outsides: Vec<Outside>, missing: Missing) -> Result<(), ApiError> {
        if missing == Missing::Refuse {
            self.gate(move |gateway| gateway.set(&outsides)).await??;
            self.outside_is_due = false;
            return Ok(());
        }
        let was_due = std::mem::replace(&mut self.outside_is_due, true);
        match self.gate(move |gateway| gateway.restore(&outsides)).await? {
            Ok(left_out) => {
                self.outside_is_due = !left_out.is_empty();
                for (_, why) in left_out.iter().filter(|_| !was_due) {
                    warn!("not published for now: {why}");
                }
            }
            Err(why) if !was_due => warn!("networks do not reach the outside for now: {why}"),
            Err(_) => {}
        }
        if was_due && !self.outside_is_due {
            info!("networks reach the outside again");
        }
        Ok(())
    }

    /// Disconnects endpoints whose sandboxes have ended.
    async fn reap(&mut self) {
        let mut orphans: Vec<_> = self.state.endpoints().filter(|it| sight::is_orphan(it)).cloned().collect();
        match self.strays().await {
            Ok(strays) => orphans.extend(strays),
            Err(error) => warn!("cannot look for interfaces that nobody has: {}", error.error),
        }
        if orphans.is_empty() {
            return;
        }
        let ids = orphans.iter().map(|it| it.id.clone()).collect();
        let manner = Manner { missing: Missing::Retry, handed: None };
        match self.execute(Command::Disconnect(ids), manner).await {
            Ok(_) => {
                for endpoint in orphans {
                    warn!(endpoint = %endpoint.name, network = %endpoint.network, "reaped: its namespace is gone");
                }
            }
            Err(error) => error!("endpoints without a namespace cannot be reaped: {}", error.error),
        }
    }

    /// Pins every address that is kept to its port: a port that was opened anew has none. A pin whose network or port is
    /// gone is kept no longer.
    fn pin_again(&mut self) -> Result<(), StoreError> {
        for pin in self.store.pins()? {
            if self.pin(&pin).is_err() {
                info!(mac = %pin.mac, network = %pin.network, port = %pin.port, "a pinned address goes with its port");
                self.store.remove_pin(&pin.network, pin.mac)?;
            }
        }
        Ok(())
    }

    /// Pins an address in the table.
    fn pin(&self, pin: &StaticEntry) -> Result<(), ApiError> {
        let (network, port) = (self.network_id(&pin.network)?, self.port_id(&pin.port)?);
        if !pin.mac.is_station() {
            return Err(ApiError::invalid(format!(
                "{} is a group or zero address: no station has it",
                pin.mac
            )));
        }
        let (spec, carried) = (self.state.port(&pin.port), self.state.network(&pin.network));
        if !spec.zip(carried).is_some_and(|(port, network)| port.spec.carries.holds(&network.spec)) {
            let why = format!("port {} does not carry network {}", pin.port, pin.network);
            return Err(ApiError::invalid(why));
        }
        if !self.edge.fdb.pin(network, pin.mac, port, Origin::Static, self.edge.workers.now()) {
            let why = "the table is full of pinned addresses: remove some, or raise switch.mac_limit";
            return Err(ApiError::conflict(why));
        }
        Ok(())
    }

    async fn perform(&mut self, effect: &Effect, next: &State, manner: &mut Manner) -> Result<(), ApiError> {
        match effect {
            Effect::SetSwitch { new, .. } => self.edge.set_switch(new),
            Effect::ClosePort(port) => self.edge.close(port.id),
            // The plan that the workers get in the end is made from the state as a whole.
            Effect::SetTopology { .. } => {}
            Effect::UpdatePort { old, new } => {
                // It may be given what a closed port's interface still has: a default route, an address.
                if self.edge.is_letting_go() && old.spec.interface() != new.spec.interface() {
                    self.edge.rebuild(next).await;
                }
                self.edge.update(old, new).await?;
            }
            Effect::OpenPort(port) => {
                if self.edge.is_letting_go() {
                    self.edge.rebuild(next).await;
                }
                self.edge.open(port, manner.handed.take(), manner.missing).await?;
            }
            Effect::Store(record) => {
                // What is kept must be real.
                self.edge.set_up(manner.missing).await?;
                self.store.put(record)?;
            }
            Effect::Unstore(record) => self.store.remove(record.kind(), record.key())?,
            Effect::SetOutside { new, .. } => {
                // The gateways' interfaces must be there, with their addresses.
                self.edge.set_up(manner.missing).await?;
                self.set_outside(new.clone(), manner.missing).await?;
            }
            Effect::Restore { new, .. } => self.store.put(new)?,
        }
        Ok(())
    }

    /// Undoes `effects`, of which the last may have been done in part.
    async fn take_back(&mut self, effects: &[Effect]) {
        let state = self.state.clone();
        let mut manner = Manner { missing: Missing::Retry, handed: None };
        for effect in effects.iter().rev() {
            let undone = effect.clone().undo();
            if let Err(error) = self.perform(&undone, &state, &mut manner).await {
                error!("cannot undo a change that failed: {}", error.error);
            }
        }
        if let Err(error) = self.edge.set_up(Missing::Retry).await {
            error!("cannot undo a change that failed: {}", error.error);
        }
        self.edge.rebuild(&state).await;
    }

    fn port(&self, name: &Name) -> Result<Port, ApiError> {
        let port = self.state.port(name).ok_or_else(|| missing(state::Kind::Port, name))?;
        Ok(view::port(&self.state, &self.edge, &port))
    }

    /// The network as the API shows it, one that was there from the start too.
    fn network(&self, reference: &Reference) -> Result<Network, ApiError> {
        match self.state.find_network(reference) {
            Ok(network) => Ok(view::network(&self.state, &self.edge, &network)),
            Err(refusal) => {
                let text = reference.as_str();
                let is_called =
                    |it: &Network| it.spec.name.as_str() == text || it.id().as_str().starts_with(text);
                view::predefined().find(is_called).ok_or_else(|| refusal.into())
            }
        }
    }

    /// The name of a network that may be changed.
    fn changeable(&self, reference: &Reference) -> Result<Name, ApiError> {
        match self.state.find_network(reference) {
            Ok(network) => Ok(network.spec.name.clone()),
            Err(_) if self.network(reference).is_ok() => {
                Err(NetworkError::Predefined(reference.to_string()).into())
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// The name of a network that sandboxes can be in.
    fn connectable(&self, reference: &Reference) -> Result<Name, ApiError> {
        match (self.state.find_network(reference), self.network(reference)) {
            (Ok(network), _) => Ok(network.spec.name.clone()),
            (Err(_), Ok(network)) if network.spec.driver() == Driver::Host => {
                Err(NetworkError::HostNetwork.into())
            }
            (Err(_), Ok(_)) => Err(NetworkError::NoNetwork.into()),
            (Err(refusal), Err(_)) => Err(refusal.into()),
        }
    }

    fn endpoint(&self, id: &Id) -> Result<Endpoint, ApiError> {
        let endpoint = self.state.endpoints().find(|it| it.id == *id);
        let endpoint = endpoint.ok_or_else(|| ApiError::not_found(format!("there is no endpoint {id}")))?;
        Ok(view::endpoint(&self.state, &self.edge, endpoint))
    }

    fn port_id(&self, name: &Name) -> Result<vswitch::addr::PortId, ApiError> {
        self.state.port(name).map(|port| port.id).ok_or_else(|| missing(state::Kind::Port, name))
    }

    fn network_id(&self, name: &Name) -> Result<vswitch::addr::NetworkId, ApiError> {
        self.state.network(name).map(|network| network.id).ok_or_else(|| missing(state::Kind::Network, name))
    }
}

fn missing(kind: state::Kind, name: &Name) -> ApiError {
    Refusal::Missing { kind, name: name.clone() }.into()
}

impl Backend for Daemon {
    fn status(&self) -> Answer<'_, Status> {
        async {
            let core = self.core.lock().await;
            Ok(view::status(&core.state, &core.edge, &self.config, self.started.elapsed()))
        }
        .boxed()
    }

    fn networks(&self) -> Answer<'_, Vec<Network>> {
        async {
            let core = self.core.lock().await;
            Ok(view::networks(&core.state, &core.edge))
        }
        .boxed()
    }

    fn network(&self, network: Reference) -> Answer<'_, Network> {
        async move { self.core.lock().await.network(&network) }.boxed()
    }

    fn add_network(&self, spec: NetworkSpec) -> Answer<'_, Network> {
        async move {
            let mut core = self.core.lock().await;
            let mut spec = spec;
            if spec.id.is_none() {
                spec.id = Some(Id::random()?);
            }
            spec.created = Some(Timestamp::now());
            let host = sight::host(&core.state).await?;
            core.state.observe(host);
            let name = spec.name.clone();
            core.execute(Command::AddNetwork(spec), Manner { missing: Missing::Refuse, handed: None })
                .await?;
            let mut network = core.network(&name.into())?;
            network.warnings = options::warnings(&network.spec);
            Ok(network)
        }
        .boxed()
    }

    fn update_network(&self, network: Reference, update: NetworkUpdate) -> Answer<'_, Network> {
        async move {
            let mut core = self.core.lock().await;
            let name = core.changeable(&network)?;
            let command = Command::UpdateNetwork { name: name.clone(), update };
            core.execute(command, Manner { missing: Missing::Refuse, handed: None }).await?;
            core.network(&name.into())
        }
        .boxed()
    }

    fn delete_network(&self, network: Reference) -> Answer<'_, ()> {
        async move {
            let mut core = self.core.lock().await;
            if is_predefined(network.as_str()) {
                return Err(NetworkError::NotRemovable(network.into()).into());
            }
            let name = core.state.find_network(&network)?.spec.name.clone();
            let manner = Manner { missing: Missing::Refuse, handed: None };
            core.execute(Command::RemoveNetwork(name), manner).await.map(drop)
        }
        .boxed()
    }

    fn prune_networks(&self, prune: Prune) -> Answer<'_, Pruned> {
        async move {
            let mut core = self.core.lock().await;
            let mut pruned = Pruned::default();
            for name in core
                .state
                .unused_networks()
                .into_iter()
                .filter(|it| prune.wants(it))
                .map(|it| it.name.clone())
            {
                let manner = Manner { missing: Missing::Refuse, handed: None };
                core.execute(Command::RemoveNetwork(name.clone()), manner).await?;
                pruned.networks.push(name);
            }
            Ok(pruned)
        }
        .boxed()
    }

    fn endpoints(&self) -> Answer<'_, Vec<Endpoint>> {
        async {
            let core = self.core.lock().await;
            let mut endpoints: Vec<_> =
                core.state.endpoints().map(|it| view::endpoint(&core.state, &core.edge, it)).collect();
            endpoints.sort_by(|a, b| (&a.spec.network, &a.spec.name).cmp(&(&b.spec.network, &b.spec.name)));
            Ok(endpoints)
        }
        .boxed()
    }

    fn connect(&self, network: Reference, connect: Connect) -> Answer<'_, Endpoint> {
        async move {
            let mut core = self.core.lock().await;
            let network = core.connectable(&network)?;
            let mut sandbox = sight::sandbox(connect.sandbox.as_ref()).await?;
            let id = connect.id.clone().unwrap_or_else(|| sandbox.id.clone());
            sandbox.published = core.reserve(&network, &connect).await?;
            let published = sandbox.published.clone();
            let command =
                Command::Connect { network, connect: Box::new(connect), sandbox: Box::new(sandbox) };
            let done = core.execute(command, Manner { missing: Missing::Refuse, handed: None }).await;
            if done.is_err() && !published.is_empty() {
                core.gate(move |gateway| gateway.release(&published)).await?;
            }
            done?;
            core.endpoint(&id)
        }
        .boxed()
    }

    fn disconnect(&self, network: Reference, endpoint: Reference) -> Answer<'_, ()> {
        async move {
            let mut core = self.core.lock().await;
            let network = core.connectable(&network)?;
            let id = core.state.find_endpoint(&network, &endpoint)?.id.clone();
            let manner = Manner { missing: Missing::Refuse, handed: None };
            core.execute(Command::Disconnect(vec![id]), manner).await.map(drop)
        }
        .boxed()
    }

    fn ports(&self) -> Answer<'_, Vec<Port>> {
        async {
            let core = self.core.lock().await;
            Ok(core.state.ports().map(|port| view::port(&core.state, &core.edge, &port)).collect())
        }
        .boxed()
    }

    fn port(&self, name: Name) -> Answer<'_, Port> {
        async move { self.core.lock().await.port(&name) }.boxed()
    }

    fn add_port(&self, spec: PortSpec) -> Answer<'_, Port> {
        async move {
            let mut core = self.core.lock().await;
            let name = spec.name.clone();
            core.execute(Command::AddPort(spec), Manner { missing: Missing::Refuse, handed: None }).await?;
            core.port(&name)
        }
        .boxed()
    }

    fn delete_port(&self, name: Name) -> Answer<'_, ()> {
        async move {
            let mut core = self.core.lock().await;
            let manner = Manner { missing: Missing::Refuse, handed: None };
            core.execute(Command::RemovePort(name), manner).await.map(drop)
        }
        .boxed()
    }

    fn tunnel(&self) -> Answer<'_, Tunnel> {
        async {
            let core = &mut *self.core.lock().await;
            core.edge.listen();
            Ok(view::tunnel(&core.state, &core.edge))
        }
        .boxed()
    }

    fn probe(&self, peer: Name) -> Answer<'_, Probe> {
        async move {
            let (id, way) = {
                let core = self.core.lock().await;
                let id = core.port_id(&peer)?;
                (id, core.edge.way_to(id))
            };
            let (local, remote, most) = way.ok_or_else(|| {
                ApiError::not_found(format!("port {peer} is no peer, or the tunnel is down"))
            })?;
            // Without the lock: it takes seconds where packets get lost.
            let way = spawn_blocking(move || probe::measure(local, remote, most)).await;
            let way = way.map_err(|error| ApiError::internal(error.to_string()))?;
            let way = way.map_err(|error| match error.kind() {
                io::ErrorKind::TimedOut => ApiError::unavailable(format!(
                    "{remote} does not answer pings: is it up, and does nothing on the way drop ICMP?"
                )),
                _ => ApiError::unavailable(format!("cannot ping {remote}: {error}")),
            })?;
            let core = &mut *self.core.lock().await;
            core.edge.measured(id, way.mtu);
            Ok(Probe {
                peer,
                path_mtu: way.mtu,
                overlay_mtu: way.mtu.saturating_sub(vswitch_vxlan::device::overhead(local)),
                rtt_us: u64::try_from(way.rtt.as_micros()).unwrap_or(u64::MAX),
            })
        }
        .boxed()
    }

    fn fdb(&self, filter: FdbFilter) -> Answer<'_, Vec<FdbEntry>> {
        async move {
            let core = self.core.lock().await;
            filter.network.as_ref().map(|name| core.network_id(name)).transpose()?;
            filter.port.as_ref().map(|name| core.port_id(name)).transpose()?;
            Ok(view::fdb(&core.state, &core.edge, &filter))
        }
        .boxed()
    }

    fn add_fdb(&self, entry: StaticEntry) -> Answer<'_, FdbEntry> {
        async move {
            let core = self.core.lock().await;
            core.pin(&entry)?;
            if let Err(error) = core.store.put_pin(&entry) {
                core.edge.fdb.forget(core.network_id(&entry.network)?, entry.mac);
                return Err(error.into());
            }
            Ok(view::pinned(entry))
        }
        .boxed()
    }

    fn delete_fdb(&self, key: FdbKey) -> Answer<'_, ()> {
        async move {
            let core = self.core.lock().await;
            let network = core.network_id(&key.network)?;
            core.store.remove_pin(&key.network, key.mac)?;
            if core.edge.fdb.forget(network, key.mac) {
                Ok(())
            } else {
                Err(ApiError::not_found(format!("{} is not known in network {}", key.mac, key.network)))
            }
        }
        .boxed()
    }

    fn flush_fdb(&self, flush: Flush) -> Answer<'_, Flushed> {
        async move {
            let core = self.core.lock().await;
            let before = view::learned(&core.edge);
            match flush {
                Flush::All => {
                    core.state.networks().for_each(|network| core.edge.fdb.flush_network(network.id))
                }
                Flush::Port(name) => core.edge.fdb.flush_port(core.port_id(&name)?),
                Flush::Network(name) => core.edge.fdb.flush_network(core.network_id(&name)?),
            }
            let entries = before.saturating_sub(view::learned(&core.edge));
            Ok(Flushed { entries: u32::try_from(entries).unwrap_or(u32::MAX) })
        }
        .boxed()
    }

    fn stats(&self) -> Answer<'_, Stats> {
        async {
            let core = self.core.lock().await;
            Ok(view::stats(&core.state, &core.edge, self.started.elapsed()))
        }
        .boxed()
    }

    fn drops(&self, port: Option<Name>) -> Answer<'_, Vec<Drop>> {
        async move {
            let core = self.core.lock().await;
            match port {
                Some(name) => Ok(core.port(&name)?.drops),
                None => Ok(core
                    .state
                    .ports()
                    .flat_map(|port| view::drops(&core.state, &core.edge, &port))
                    .collect()),
            }
        }
        .boxed()
    }

    fn capture(&self, request: CaptureRequest) -> Answer<'_, CaptureStream> {
        async move {
            let core = &mut *self.core.lock().await;
            let workers = core.edge.workers.count();
            let stream = core.edge.captures.begin(request, &core.state, workers, &self.captures_over)?;
            core.edge.rebuild(&core.state).await;
            Ok(stream)
        }
        .boxed()
    }

    fn captures(&self) -> Answer<'_, Vec<Capture>> {
        async { Ok(self.core.lock().await.edge.captures.list()) }.boxed()
    }

    fn end_capture(&self, id: u64) -> Answer<'_, ()> {
        async move {
            if self.end_captures(|running| running == id).await {
                Ok(())
            } else {
                Err(ApiError::not_found(format!("there is no capture {id}: it has ended")))
            }
        }
        .boxed()
    }

    fn trace(&self, request: TraceRequest) -> Answer<'_, Trace> {
        async move {
            let core = self.core.lock().await;
            trace::trace(&core.state, &core.edge, &request)
        }
        .boxed()
    }

    fn why(&self, filter: WhyFilter) -> Answer<'_, Why> {
        async move {
            let core = self.core.lock().await;
            trace::why(&core.state, &core.edge, &filter)
        }
        .boxed()
    }

    fn events(&self, filter: EventsFilter) -> Answer<'_, EventStream> {
        async move {
            // What the table has seen since the last heartbeat is a part of the answer.
            self.core.lock().await.look();
            Ok(self.journal.read(filter))
        }
        .boxed()
    }

    fn reload(&self, dry_run: bool) -> Answer<'_, Reload> {
        async move {
            let mut core = self.core.lock().await;
            let mut wanted =
                config::load(&self.config).map_err(|errors| ApiError::invalid(errors.to_string()));
            if let Ok(config) = &mut wanted {
                tunnel::settle(config).await;
            }
            let plan = match wanted.and_then(|config| Ok(core.state.plan(Command::Reload(config))?)) {
                Ok(plan) => plan,
                Err(error) => {
                    warn!("reload refused, nothing was changed: {}", error.error);
                    return Err(error);
                }
            };
            let reload = Reload { dry_run, changes: plan.changes.iter().map(view::change).collect() };
            if !dry_run {
                for change in &plan.changes {
                    info!("reload: {change}");
                }
                core.carry_out(plan, Manner { missing: Missing::Retry, handed: None }).await?;
                info!(changes = reload.changes.len(), "reloaded");
                // Those known by now may be welcome from now on.
                self.strangers.notify_one();
                core.observer.note(What::Reloaded { changes: reload.changes.len() });
            }
            Ok(reload)
        }
        .boxed()
    }
}
