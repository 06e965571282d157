//! What the API asks, answered.

use std::io;

use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::{Daemon, Missing, core::Manner};
use crate::{
    api::{Answer, Backend, EventStream, inspect::CaptureStream},
    config, sight,
    state::{Command, NetworkError},
    trace, tunnel, view,
};
use vswitch_host::{probe, random};
use vswitch_model::{
    Connect, Error, Name, NetworkSpec, NetworkUpdate, PortSpec, Reference,
    api::{
        Drop, Endpoint, FdbEntry, FdbFilter, FdbKey, Flush, Flushed, Network, Port, Prune, Pruned, Reload,
        StaticEntry, Stats, Status,
        capture::{Capture, CaptureRequest},
        events::{EventsFilter, What},
        trace::{Trace, TraceRequest, Why, WhyFilter},
        tunnel::{Probe, Tunnel},
    },
    is_predefined, options,
};

impl Backend for Daemon {
    fn status(&self) -> Answer<'_, Status> {
        async {
            let core = self.core.lock().await;
            let mut status = view::status(&core.state, &core.edge, &self.config, self.started.elapsed());
            status.warnings.extend(core.store.warnings());
            Ok(status)
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
                spec.id = Some(random::id()?);
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
            let core = self.counted().await;
            Ok(core.state.ports().map(|port| view::port(&core.state, &core.edge, &port)).collect())
        }
        .boxed()
    }

    fn port(&self, name: Name) -> Answer<'_, Port> {
        async move { self.counted().await.port(&name) }.boxed()
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
            let (local, remote, most) = way
                .ok_or_else(|| Error::not_found(format!("port {peer} is no peer, or the tunnel is down")))?;
            // Without the lock: it takes seconds where packets get lost.
            let way = spawn_blocking(move || probe::measure(local, remote, most)).await;
            let way = way.map_err(|error| Error::internal(error.to_string()))?;
            let way = way.map_err(|error| match error.kind() {
                io::ErrorKind::TimedOut => Error::unavailable(format!(
                    "{remote} does not answer pings: is it up, and does nothing on the way drop ICMP?"
                )),
                _ => Error::unavailable(format!("cannot ping {remote}: {error}")),
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
                Err(Error::not_found(format!("{} is not known in network {}", key.mac, key.network)))
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
            let core = self.counted().await;
            Ok(view::stats(&core.state, &core.edge, self.started.elapsed()))
        }
        .boxed()
    }

    fn drops(&self, port: Option<Name>) -> Answer<'_, Vec<Drop>> {
        async move {
            let core = self.counted().await;
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
                Err(Error::not_found(format!("there is no capture {id}: it has ended")))
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
            let core = self.counted().await;
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
            let mut wanted = config::load(&self.config).map_err(|errors| Error::invalid(errors.to_string()));
            if let Ok(config) = &mut wanted {
                tunnel::settle(config).await;
            }
            let plan = match wanted.and_then(|config| Ok(core.state.plan(Command::Reload(config))?)) {
                Ok(plan) => plan,
                Err(error) => {
                    warn!("reload refused, nothing was changed: {}", error.sentence);
                    return Err(error);
                }
            };
            let reload = Reload { dry_run, changes: plan.changes.iter().map(view::change).collect() };
            if !dry_run {
                for change in &plan.changes {
                    info!("reload: {change}");
                }
                core.carry_out(plan, Manner { missing: Missing::Retry, handed: None }).await?;
                core.note_declared()?;
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
