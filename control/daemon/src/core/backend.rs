//! What the API asks: reads from a snapshot, the rest by the queue.

use futures_util::FutureExt;

use super::{
    Handle,
    request::{Captures, Request},
};
use crate::{
    api::{Answer, Backend, EventStream, inspect::CaptureStream},
    state::Command,
    view,
};
use vswitch_model::{
    Connect, Error, Name, NetworkSpec, NetworkUpdate, PortSpec, Reference,
    api::{
        Drop, Endpoint, FdbEntry, FdbFilter, FdbKey, Flush, Flushed, Network, Port, Prune, Pruned, Reload,
        StaticEntry, Stats, Status,
        capture::{Capture, CaptureRequest},
        events::EventsFilter,
        trace::{Trace, TraceRequest, Why, WhyFilter},
        tunnel::{Probe, Tunnel},
    },
    options,
};

impl Backend for Handle {
    fn status(&self) -> Answer<'_, Status> {
        async { Ok(self.snapshot().status()) }.boxed()
    }

    fn networks(&self) -> Answer<'_, Vec<Network>> {
        async { Ok(self.snapshot().networks()) }.boxed()
    }

    fn network(&self, network: Reference) -> Answer<'_, Network> {
        async move { self.snapshot().network(&network) }.boxed()
    }

    fn add_network(&self, spec: NetworkSpec) -> Answer<'_, Network> {
        async move {
            let done = self.ask(|reply| Request::AddNetwork(Box::new(spec), reply)).await?;
            let mut network = done.snapshot.network(&done.value.into())?;
            network.warnings = options::warnings(&network.spec);
            Ok(network)
        }
        .boxed()
    }

    fn update_network(&self, network: Reference, update: NetworkUpdate) -> Answer<'_, Network> {
        async move {
            let done = self.ask(|reply| Request::UpdateNetwork(network, Box::new(update), reply)).await?;
            done.snapshot.network(&done.value.into())
        }
        .boxed()
    }

    fn delete_network(&self, network: Reference) -> Answer<'_, ()> {
        async move { Ok(self.ask(|reply| Request::DeleteNetwork(network, reply)).await?.value) }.boxed()
    }

    fn prune_networks(&self, prune: Prune) -> Answer<'_, Pruned> {
        async move { Ok(self.ask(|reply| Request::Prune(prune, reply)).await?.value) }.boxed()
    }

    fn endpoints(&self) -> Answer<'_, Vec<Endpoint>> {
        async { Ok(self.snapshot().endpoints()) }.boxed()
    }

    fn connect(&self, network: Reference, connect: Connect) -> Answer<'_, Endpoint> {
        async move {
            let done = self.ask(|reply| Request::Connect(network, Box::new(connect), reply)).await?;
            done.snapshot.endpoint(&done.value)
        }
        .boxed()
    }

    fn disconnect(&self, network: Reference, endpoint: Reference) -> Answer<'_, ()> {
        async move { Ok(self.ask(|reply| Request::Disconnect(network, endpoint, reply)).await?.value) }
            .boxed()
    }

    fn ports(&self) -> Answer<'_, Vec<Port>> {
        async { Ok(self.counted().await.ports()) }.boxed()
    }

    fn port(&self, name: Name) -> Answer<'_, Port> {
        async move { self.counted().await.port(&name) }.boxed()
    }

    fn add_port(&self, spec: PortSpec) -> Answer<'_, Port> {
        async move {
            let name = spec.name.clone();
            self.execute(Command::AddPort(spec)).await?.snapshot.port(&name)
        }
        .boxed()
    }

    fn delete_port(&self, name: Name) -> Answer<'_, ()> {
        async move { self.execute(Command::RemovePort(name)).await.map(drop) }.boxed()
    }

    fn tunnel(&self) -> Answer<'_, Tunnel> {
        async { Ok(self.snapshot().tunnel()) }.boxed()
    }

    fn probe(&self, peer: Name) -> Answer<'_, Probe> {
        async move { Self::probe(self, peer).await }.boxed()
    }

    fn fdb(&self, filter: FdbFilter) -> Answer<'_, Vec<FdbEntry>> {
        async move { self.snapshot().fdb(&filter) }.boxed()
    }

    fn add_fdb(&self, entry: StaticEntry) -> Answer<'_, FdbEntry> {
        async move {
            self.ask(|reply| Request::Pin(entry.clone(), reply)).await?;
            Ok(view::pinned(entry))
        }
        .boxed()
    }

    fn delete_fdb(&self, key: FdbKey) -> Answer<'_, ()> {
        async move { Ok(self.ask(|reply| Request::Forget(key, reply)).await?.value) }.boxed()
    }

    fn flush_fdb(&self, flush: Flush) -> Answer<'_, Flushed> {
        async move { Ok(self.ask(|reply| Request::Flush(flush, reply)).await?.value) }.boxed()
    }

    fn stats(&self) -> Answer<'_, Stats> {
        async { Ok(self.counted().await.stats()) }.boxed()
    }

    fn drops(&self, port: Option<Name>) -> Answer<'_, Vec<Drop>> {
        async move { self.counted().await.drops(port.as_ref()) }.boxed()
    }

    fn capture(&self, request: CaptureRequest) -> Answer<'_, CaptureStream> {
        async move { Ok(self.ask(|reply| Request::Capture(Box::new(request), reply)).await?.value) }.boxed()
    }

    fn captures(&self) -> Answer<'_, Vec<Capture>> {
        async { Ok(self.snapshot().captures()) }.boxed()
    }

    fn end_capture(&self, id: u64) -> Answer<'_, ()> {
        async move {
            if self.ask(|reply| Request::EndCaptures(Captures::One(id), reply)).await?.value {
                Ok(())
            } else {
                Err(Error::not_found(format!("there is no capture {id}: it has ended")))
            }
        }
        .boxed()
    }

    fn trace(&self, request: TraceRequest) -> Answer<'_, Trace> {
        async move { Self::trace(self, &request).await }.boxed()
    }

    fn why(&self, filter: WhyFilter) -> Answer<'_, Why> {
        async move { self.counted().await.why(&filter) }.boxed()
    }

    fn events(&self, filter: EventsFilter) -> Answer<'_, EventStream> {
        async move { Ok(Self::events(self, filter)) }.boxed()
    }

    fn reload(&self, dry_run: bool) -> Answer<'_, Reload> {
        async move { Ok(self.ask(|reply| Request::Reload { dry_run, reply }).await?.value) }.boxed()
    }
}
