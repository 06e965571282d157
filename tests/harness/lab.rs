//! A switch in memory, shared by the simulated fabric and the fuzz targets. The caller owns the clock.

use std::{collections::BTreeMap, fmt::Display, iter, sync::Arc};

use vswitch::{
    addr::{PortId, Timestamp},
    counters::{PortCounters, PortTotals},
    device::{
        Device,
        mem::{MemDevice, OwnedFrame},
    },
    engine::Engine,
    fdb::{Fdb, Settings},
    plan::{Plan, Port, Receiver},
    topology::{Network, PortRules, Topology},
};

/// A switch with one worker.
#[derive(Debug)]
pub struct Lab {
    /// The MAC table.
    pub fdb: Arc<Fdb>,
    engine: Engine,
    /// Counters of every port that ever existed, by port number.
    counters: BTreeMap<u16, Arc<[PortCounters]>>,
}

impl Lab {
    /// A switch without ports.
    pub fn new(settings: Settings) -> Self {
        let fdb = Arc::new(Fdb::new(settings));
        let engine = Engine::new(0, Arc::new(Plan::empty(Arc::clone(&fdb))));
        Self { fdb, engine, counters: BTreeMap::new() }
    }

    /// Replaces all ports and networks. A port that existed before keeps its counters. Bit n of `reserved` forwards the
    /// group 01-80-C2-00-00-0n.
    pub fn configure(
        &mut self,
        networks: &[Network],
        reserved: u16,
        ports: Vec<(PortRules, Arc<dyn Device>)>,
    ) {
        let rules: Vec<_> = ports.iter().map(|(rules, _)| rules.clone()).collect();
        let topology = Topology::build(networks, &rules, reserved).expect("the topology is consistent");
        let mut plan = Plan { topology, ..Plan::empty(Arc::clone(&self.fdb)) };
        let count = rules.iter().map(|rules| rules.id.index() + 1).max().unwrap_or(0);
        plan.ports.resize(count, None);
        for (PortRules { id: port, .. }, device) in ports {
            let counters = self.counters.entry(port.0).or_insert_with(|| PortCounters::of_workers(1));
            let key = u64::from(port.0);
            plan.receivers.push(Receiver { key, device: Arc::clone(&device), port, worker: 0 });
            plan.ports[port.index()] = Some(Arc::new(Port::new(port, device, Arc::clone(counters))));
        }
        self.engine.adopt(Arc::new(plan));
    }

    /// Forwards all that waits at `port`, if the port exists.
    pub fn turn(&mut self, port: PortId, now: Timestamp) {
        let plan = Arc::clone(self.engine.plan());
        let Some(receiver) = plan.receivers.iter().find(|receiver| receiver.port == port) else { return };
        while self.engine.turn(receiver, 64, now).expect("a device in memory works").more {}
    }

    /// Checks that every frame received was forwarded or dropped, and every frame offered for sending was sent or dropped.
    /// `whose` names the switch in the failure.
    ///
    /// # Panics
    /// A frame is not accounted for.
    pub fn check_books(&self, whose: impl Display) {
        for (port, counters) in &self.counters {
            let totals = PortTotals::sum(counters);
            let drops = |egress| {
                let drops = totals.drops().filter(move |(reason, _)| reason.is_egress() == egress);
                drops.map(|(_, count)| count).sum::<u64>()
            };
            let fates = [
                totals.unicast + totals.flooded + totals.answered + totals.waiting + drops(false),
                totals.tx_frames + drops(true),
            ];
            assert_eq!([totals.rx_frames, totals.offered], fates, "{whose}, port {port}: {totals:?}");
        }
    }
}

/// Frames sent by `devices` since the last call, each with the index of its device.
pub fn sent(devices: &[Arc<MemDevice>]) -> Vec<(u16, OwnedFrame)> {
    let devices = (0..).zip(devices);
    devices.flat_map(|(place, device)| iter::from_fn(move || Some((place, device.take()?)))).collect()
}
