//! The counters of every port, network and worker.

use vswitch::{counters::Distribution, worker::WorkerCounters};

use super::{
    Snapshot,
    port::{received, sent},
};
use crate::state;
use vswitch_model::api::{
    PortStats, Stats,
    counters::{Bucket, Histogram, Load, Loop, NetworkStats, TableStats},
};

impl Snapshot {
    pub(crate) fn stats(&self) -> Stats {
        let port = |port: state::Port| {
            let totals = self.totals(port.id);
            PortStats {
                port: port.spec.name.clone(),
                rx: received(&totals),
                tx: sent(&totals),
                drops: totals.drops().map(|(_, frames)| frames).sum::<u64>()
                    + self.overflow(port.id)
                    + self.damaged(port.id),
            }
        };
        let loads = (0..).zip(self.live.workers.counters());
        Stats {
            at_ms: u64::try_from(self.uptime().as_millis()).unwrap_or(u64::MAX),
            ports: self.state.ports().map(port).collect(),
            workers: self.workers(),
            networks: self.state.networks().map(|network| self.network_stats(&network)).collect(),
            table: self.table(),
            loops: self.loops(),
            loads: loads.map(|(worker, counters)| load(worker, counters)).collect(),
        }
    }

    fn network_stats(&self, network: &state::Network) -> NetworkStats {
        let (totals, taught) = self.network_totals(network.id);
        NetworkStats {
            network: network.spec.name.clone(),
            frames: totals.frames,
            bytes: totals.bytes,
            super_frames: totals.super_frames,
            unicast: totals.unicast(),
            flooded: totals.flooded,
            answered: totals.answered,
            waiting: totals.waiting,
            dropped: totals.dropped,
            learned: taught.learned,
            moved: taught.moved,
            unlearned: taught.refused,
        }
    }

    /// Pairs of ports that are connected to each other outside of the switch.
    pub(super) fn loops(&self) -> Vec<Loop> {
        let names = self.names();
        let now = self.now();
        let shown = |found: vswitch::fdb::Loop| {
            let [one, other] = found.ports.map(|port| names.port(port).parse().ok());
            Some(Loop {
                network: names.network(found.network).parse().ok()?,
                ports: [one?, other?],
                mac: found.mac.to_string(),
                since_s: now.as_millis().saturating_sub(found.since.as_millis()) / 1000,
            })
        };
        self.live.fdb.loops(now).into_iter().filter_map(shown).collect()
    }

    fn table(&self) -> TableStats {
        let totals = self.live.fdb.totals();
        TableStats {
            entries: self.live.fdb.len() as u64,
            limit: self.state.switch().mac_limit,
            learned: totals.learned,
            moved: totals.moved,
            held: totals.held,
            expired: totals.expired,
            evicted: totals.evicted,
            refused: totals.refused,
            loops: totals.loops,
            events_lost: totals.events_lost,
        }
    }
}

fn load(worker: u16, counters: &WorkerCounters) -> Load {
    Load {
        worker,
        wakeups: counters.wakeups.read(),
        batches: histogram(&counters.batches.read()),
        busy_ns: histogram(&counters.busy.read()),
    }
}

fn histogram(read: &Distribution) -> Histogram {
    let places = read.places.iter().map(|&(at_most, count)| Bucket { at_most, count });
    Histogram { buckets: places.collect(), sum: read.sum }
}
