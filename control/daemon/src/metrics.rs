//! The counters in Prometheus' format: `[api] metrics` serves them at `/metrics`.
//!
//! All values are those of the API, computed for each scrape: there is no second set of counters. Labels are ports, networks,
//! workers and the closed list of drop reasons, never an address, so the number of series is bounded by the configuration.
//! Names and units follow <https://prometheus.io/docs/practices/naming/>.

mod services;

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, prometheus_text},
    metrics::MetricType,
    registry::{Registry, Unit},
};
use tokio::net::TcpListener;

use self::services::Services;
use crate::{
    api::reply::Refused,
    cluster::Call,
    core::Handle,
    http::{self, Limits},
};
use vswitch_model::{
    Error,
    api::{
        Direction, Network, Port, PortState, Stats, Status,
        cluster::Cluster,
        counters::{Histogram, Load, NetworkStats},
    },
};
use vswitch_names::{
    Transport, Verdict,
    server::{Bucket, Server},
};

/// Limits of scrapers: there is one, or a few.
const LIMITS: Limits = Limits {
    connections: 16,
    answers: 2,
    idle: Some(Duration::from_secs(10)),
    answer: Some(Duration::from_secs(30)),
};

/// Serves `/metrics` as long as it is polled.
pub(crate) async fn serve(listener: TcpListener, core: Handle) {
    let router = Router::new().route("/metrics", get(metrics)).with_state(core);
    http::serve(listener, router, LIMITS, |_| (), std::future::pending()).await;
}

async fn metrics(State(core): State<Handle>) -> Response {
    match scrape(&core).await {
        Ok(text) => ([(CONTENT_TYPE, prometheus_text::CONTENT_TYPE)], text).into_response(),
        Err(error) => Refused(error).into_response(),
    }
}

/// All metrics in the text format of Prometheus, version 0.0.4.
///
/// # Errors
/// They cannot be formatted.
pub(crate) async fn scrape(core: &Handle) -> Result<String, Error> {
    let snapshot = core.counted().await;
    let scrape = Scrape {
        status: snapshot.status(),
        networks: snapshot.networks(),
        ports: snapshot.ports(),
        stats: snapshot.stats(),
        services: Services::of(&snapshot),
        refused: core.refused(),
        cluster: if core.cluster().is_member() { core.cluster().call(Call::Show).await.ok() } else { None },
        names: Arc::clone(&core.names),
    };
    let mut registry = Registry::with_prefix("vswitch");
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry).map_err(|error| Error::internal(error.to_string()))?;
    Ok(text)
}

/// The values of one scrape.
#[derive(Debug)]
struct Scrape {
    status: Status,
    networks: Vec<Network>,
    ports: Vec<Port>,
    stats: Stats,
    services: Services,
    /// Number of requests refused because the queue was full.
    refused: u64,
    /// The cluster, if this host is in one.
    cluster: Option<Cluster>,
    /// The DNS server.
    names: Arc<Server>,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        self.switch(&mut families)?;
        self.of_ports(&mut families)?;
        self.of_networks(&mut families)?;
        self.of_table(&mut families)?;
        self.of_cluster(&mut families)?;
        self.of_names(&mut families)?;
        self.services.encode(&mut families)?;
        self.of_workers(&mut families)
    }
}

impl Scrape {
    fn switch(&self, families: &mut Families<'_>) -> fmt::Result {
        let status = &self.status;
        let version = [("version", status.version.as_str())];
        families.gauge("build_info", "The version, as a label; always 1", None, [(version, 1)])?;
        let up = [([("state", "up")], u64::from(status.ports_up))];
        let down = [([("state", "down")], u64::from(status.ports - status.ports_up))];
        families.gauge("ports", "Ports by state", None, up.into_iter().chain(down))?;
        let networks = [(ALONE, u64::from(status.networks))];
        families.gauge("networks", "Networks", None, networks)?;
        let help = "Requests refused because too many waited";
        families.counter("refused_requests", help, None, [(ALONE, self.refused)])?;
        let uptime = [(ALONE, status.uptime_s)];
        families.gauge("uptime", "Since the daemon has started", Some(&Unit::Seconds), uptime)
    }

    fn of_cluster(&self, families: &mut Families<'_>) -> fmt::Result {
        let Some(Cluster { store, hosts, .. }) = &self.cluster else { return Ok(()) };
        let up = [(ALONE, u64::from(store.up))];
        families.gauge("store_up", "Whether the cluster's store is followed: 1 or 0", None, up)?;
        let contact = [(ALONE, store.contact_ms / 1000)];
        families.gauge(
            "store_lag",
            "Since the last sign of the cluster's store",
            Some(&Unit::Seconds),
            contact,
        )?;
        let revision = [(ALONE, u64::try_from(store.revision).unwrap_or(0))];
        families.gauge(
            "store_revision",
            "The revision of the copy of the cluster's store",
            None,
            revision,
        )?;
        let differences = [(ALONE, store.differences)];
        let help = "Audits that found the copy of the cluster's store different, and mended it";
        families.counter("store_audit_differences", help, None, differences)?;
        let count = |state: &str| hosts.iter().filter(|host| host.status == state).count() as u64;
        let states = ["ready", "suspect", "down", "drained"].map(|state| ([("state", state)], count(state)));
        families.gauge("cluster_nodes", "Hosts of the cluster by state", None, states)
    }

    fn of_ports(&self, families: &mut Families<'_>) -> fmt::Result {
        let mut gauge = |name, help, value: fn(&Port) -> u64| {
            families.gauge(name, help, None, self.ports.iter().map(|port| (of(port), value(port))))
        };
        gauge("port_up", "Whether the port carries frames: 1 or 0", |port| {
            u64::from(port.state == PortState::Up)
        })?;
        gauge("port_accelerated", "Whether the kernel forwards for the port: 1 or 0", |port| {
            u64::from(port.acceleration.as_ref().is_some_and(|it| it.on))
        })?;
        gauge("port_fdb_entries", "Addresses learned on the port", |port| port.macs.into())?;
        let info = self.ports.iter().map(|port| {
            let network = port.network.as_ref().map_or("", |network| network.as_str());
            ([("port", port.name.as_str()), ("kind", port.kind.as_str()), ("network", network)], 1)
        });
        families.gauge("port_info", "What the port is, as labels; always 1", None, info)?;

        type Count = fn(&Port) -> u64;
        let bytes: [(_, _, Count); 2] = [
            ("port_receive", "Bytes received", |it| it.rx.bytes),
            ("port_transmit", "Bytes sent", |it| it.tx.bytes),
        ];
        let counts: [(_, _, Count); 16] = [
            ("port_receive_frames", "Frames received, a super-frame being one", |it| it.rx.frames),
            ("port_receive_accelerated_frames", "Received frames that the kernel forwarded", |it| {
                it.acceleration.as_ref().map_or(0, |it| it.rx_frames)
            }),
            ("port_transmit_accelerated_frames", "Sent frames that the kernel forwarded", |it| {
                it.acceleration.as_ref().map_or(0, |it| it.tx_frames)
            }),
            ("port_receive_super_frames", "Super-frames received", |it| it.rx.super_frames),
            ("port_transmit_frames", "Frames sent, a super-frame being one", |it| it.tx.frames),
            ("port_transmit_super_frames", "Super-frames sent whole", |it| it.tx.super_frames),
            ("port_transmit_segments", "Frames that super-frames were cut into", |it| it.fates.segments),
            ("port_unicast_frames", "Received frames sent to the one port of their destination", |it| {
                it.fates.unicast
            }),
            ("port_flooded_frames", "Received frames sent to every other port", |it| it.fates.flooded),
            ("port_answered_frames", "Questions for a neighbour that were answered, not flooded", |it| {
                it.fates.answered
            }),
            ("port_offered_frames", "Frames that were to leave by the port", |it| it.fates.offered),
            ("port_overflow_frames", "Frames the kernel dropped before they could be received", |it| {
                it.fates.overflow
            }),
            ("port_learned_addresses", "Addresses that were new on the port", |it| it.fates.learned),
            ("port_moved_addresses", "Addresses heard on another port before", |it| it.fates.moved),
            ("port_unlearned_frames", "Frames whose sender was not learned: a limit is reached", |it| {
                it.fates.unlearned
            }),
            ("port_evicted_addresses", "Addresses of the port that made room for others", |it| {
                it.fates.evicted
            }),
        ];
        let bytes = bytes.map(|it| (it, Some(&Unit::Bytes))).into_iter();
        for ((name, help, value), unit) in bytes.chain(counts.map(|it| (it, None))) {
            families.counter(name, help, unit, self.ports.iter().map(|port| (of(port), value(port))))?;
        }
        let drops = self.ports.iter().flat_map(|port| {
            port.drops.iter().map(|drop| {
                let direction = match drop.direction {
                    Direction::Rx => "receive",
                    Direction::Tx => "transmit",
                };
                let labels = [
                    ("port", port.name.as_str()),
                    ("direction", direction),
                    ("reason", drop.reason.as_str()),
                ];
                (labels, drop.frames)
            })
        });
        families.counter(
            "port_dropped_frames",
            "Frames not delivered; only reasons that occurred",
            None,
            drops,
        )
    }

    fn of_networks(&self, families: &mut Families<'_>) -> fmt::Result {
        let macs = self.networks.iter().map(|it| ([("network", it.spec.name.as_str())], u64::from(it.macs)));
        families.gauge("network_fdb_entries", "Addresses known in the network", None, macs)?;
        let ports =
            self.networks.iter().map(|it| ([("network", it.spec.name.as_str())], it.ports.len() as u64));
        families.gauge("network_ports", "Ports that carry the network", None, ports)?;
        let mut counter = |name, help, unit: Option<&Unit>, value: fn(&NetworkStats) -> u64| {
            let values = self.stats.networks.iter().map(|it| ([("network", it.network.as_str())], value(it)));
            families.counter(name, help, unit, values)
        };
        counter("network_frames", "Frames received that belong to the network", None, |it| it.frames)?;
        counter("network", "Bytes of the frames that belong to the network", Some(&Unit::Bytes), |it| {
            it.bytes
        })?;
        counter("network_super_frames", "Super-frames among them", None, |it| it.super_frames)?;
        counter("network_flooded_frames", "Frames sent to every other port", None, |it| it.flooded)?;
        let help = "Questions for a neighbour that were answered, not flooded";
        counter("network_answered_frames", help, None, |it| it.answered)?;
        counter("network_dropped_frames", "Frames that left by no port", None, |it| it.dropped)?;
        counter("network_learned_addresses", "Addresses that were new", None, |it| it.learned)?;
        counter("network_moved_addresses", "Addresses that changed port", None, |it| it.moved)?;
        let help = "Frames whose sender was not learned: a limit is reached";
        counter("network_unlearned_frames", help, None, |it| it.unlearned)
    }

    fn of_table(&self, families: &mut Families<'_>) -> fmt::Result {
        let table = &self.stats.table;
        let entries = [(ALONE, u64::from(self.status.macs))];
        families.gauge("fdb_entries", "Addresses in the MAC table", None, entries)?;
        families.gauge(
            "fdb_limit",
            "Addresses the table holds at most",
            None,
            [(ALONE, table.limit.into())],
        )?;
        for (name, help, value) in [
            ("fdb_learned_addresses", "Addresses that were new", table.learned),
            ("fdb_moved_addresses", "Addresses that changed port", table.moved),
            ("fdb_held_addresses", "Times an address was held for moving too often", table.held),
            ("fdb_expired_addresses", "Addresses not heard for the ageing time", table.expired),
            ("fdb_evicted_addresses", "Addresses that made room for others", table.evicted),
            ("fdb_refused_frames", "Frames whose sender was not learned: a limit is reached", table.refused),
            ("fdb_loops", "Loops found between two ports", table.loops),
            ("fdb_lost_events", "Events lost because too many came at once", table.events_lost),
        ] {
            families.counter(name, help, None, [(ALONE, value)])?;
        }
        let loops = self.stats.loops.iter().map(|it| {
            let [port, other] = &it.ports;
            ([("network", it.network.as_str()), ("port", port.as_str()), ("other", other.as_str())], 1)
        });
        families.gauge(
            "loop",
            "Two ports connected to each other outside of the switch; always 1",
            None,
            loops,
        )
    }

    fn of_names(&self, families: &mut Families<'_>) -> fmt::Result {
        let counters = self.names.counters();
        let by_transport = [("udp", Transport::Udp), ("tcp", Transport::Tcp)];
        let queries = by_transport.map(|(name, it)| ([("transport", name)], counters.queries(it)));
        families.counter("dns_queries", "Queries received", None, queries)?;
        let results = Verdict::ALL.map(|it| ([("result", it.as_str())], counters.responses(it)));
        families.counter("dns_responses", "Responses of our own, by result", None, results)?;
        for (name, help, value) in [
            ("dns_upstream_queries", "Queries passed on to other servers", &counters.forwarded),
            ("dns_upstream_failures", "Queries that no other server answered in time", &counters.unanswered),
            ("dns_upstream_refused", "Queries not passed on: too many waited", &counters.crowded),
            (
                "dns_refused_streams",
                "TCP connections closed at once: there were too many",
                &counters.shut_out,
            ),
            ("dns_unsent_responses", "Responses that could not be sent", &counters.unsent),
        ] {
            families.counter(name, help, None, [(ALONE, value.load(Relaxed))])?;
        }
        let waiting = [(ALONE, self.names.in_flight() as u64)];
        families.gauge("dns_upstream_in_flight", "Queries that wait for other servers", None, waiting)?;
        let table = self.names.table();
        let names = table.networks().iter().map(|it| ([("network", it.name())], it.len() as u64));
        families.gauge("dns_names", "Names of the network", None, names)?;
        let (buckets, sum_us) = counters.latency();
        let seconds = Some(&Unit::Seconds);
        let help = "Time from a query to its response";
        families.durations("dns_response", help, seconds, &buckets, sum_us)
    }

    fn of_workers(&self, families: &mut Families<'_>) -> fmt::Result {
        let workers = &self.stats.workers;
        let frames = workers.iter().map(|it| ([("worker", u64::from(it.id))], it.frames));
        families.counter("worker_frames", "Frames received", None, frames)?;
        let turns = workers.iter().map(|it| ([("worker", u64::from(it.id))], it.turns));
        families.counter("worker_turns", "Turns that received something", None, turns)?;
        let loads = &self.stats.loads;
        let wakeups = loads.iter().map(|it| ([("worker", u64::from(it.worker))], it.wakeups));
        families.counter("worker_wakeups", "Times it was woken, or found more to do", None, wakeups)?;
        families.histogram(
            "worker_batch_frames",
            "Frames that each turn received",
            None,
            1.0,
            loads,
            |it| &it.batches,
        )?;
        let seconds = Some(&Unit::Seconds);
        let help = "Time that each turn took, those that received nothing too";
        families.histogram("worker_busy", help, seconds, 1e-9, loads, |it| &it.busy_ns)
    }
}

/// The labels of a metric with a single value.
const ALONE: [(&str, &str); 0] = [];

fn of(port: &Port) -> [(&'static str, &str); 1] {
    [("port", port.name.as_str())]
}

/// The output for families of metrics.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    /// A counter for each of `values`; `_total` is added to its name.
    fn counter<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }

    /// A gauge for each of `values`.
    fn gauge<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// A histogram of durations with cumulated buckets.
    fn durations(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        buckets: &[Bucket],
        sum_us: u64,
    ) -> fmt::Result {
        const SECOND: f64 = 1e6;
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Histogram)?;
        let bound = |bucket: &Bucket| bucket.up_to_us.map_or(f64::INFINITY, |us| us as f64 / SECOND);
        let count = buckets.last().map_or(0, |bucket| bucket.count);
        let before = [0].into_iter().chain(buckets.iter().map(|bucket| bucket.count));
        // The encoder cumulates by itself.
        let own: Vec<_> = buckets
            .iter()
            .zip(before)
            .map(|(bucket, before)| (bound(bucket), bucket.count - before))
            .collect();
        family.encode_family(&ALONE)?.encode_histogram::<NoLabelSet>(
            sum_us as f64 / SECOND,
            count,
            &own,
            None,
        )
    }

    /// A histogram for each worker, with values multiplied by `scale`.
    fn histogram(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        scale: f64,
        loads: &[Load],
        histogram: fn(&Load) -> &Histogram,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Histogram)?;
        for load in loads {
            let Histogram { buckets, sum } = histogram(load);
            let bound = |at_most: Option<u64>| at_most.map_or(f64::INFINITY, |bound| bound as f64 * scale);
            let count = buckets.iter().map(|it| it.count).sum();
            let buckets: Vec<_> = buckets.iter().map(|it| (bound(it.at_most), it.count)).collect();
            family.encode_family(&[("worker", u64::from(load.worker))])?.encode_histogram::<NoLabelSet>(
                *sum as f64 * scale,
                count,
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}
