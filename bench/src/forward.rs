//! Forwarding in memory: the performance of the core without a kernel.
//!
//! A frame that was just received is in the cache, so the same few batches are refilled with the next addresses of a
//! long list, outside of the measured time. The measured steps are parse, classify, learn, look up, reach and egress:
//! [`Forwarder::forward`] and [`Egress::drain`]. `turn` is the same through [`Engine::turn`] with a device that writes
//! 64 bytes and discards what is sent.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, BuildHasherDefault, Hasher},
    hint::black_box,
    io,
    net::IpAddr,
    num::NonZeroU16,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use dashmap::DashMap;
use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp},
    batch::{BATCH, Batch, HEADROOM},
    counters::{NetworkCounters, PortCounters},
    device::{Device, Refuse},
    engine::Engine,
    fdb::{Fdb, Settings},
    forward::Forwarder,
    guard::Guard,
    offload::{Capabilities, Csum, Gso, GsoKind, Offload},
    plan::{Plan, Port, Receiver},
    topology::{Network, PortRules, Topology},
    transmit::{Egress, Scratch, Transmit},
};

use crate::memory::{Clock, Figures, Lazy, pin};

const BLUE: NetworkId = NetworkId(0);

/// Batches filled before the clock runs: their frames stay in the cache, and the clock is read rarely.
const PREPARED: usize = 2;

/// Measures all figures of forwarding.
pub fn run(figures: &mut Figures<'_>) {
    let clock = figures.clock();
    let mut take = |name: String, unit, measure: &mut dyn FnMut() -> f64| figures.take(name, unit, measure);

    for (ports, macs) in
        [(2, 1_000), (100, 1_000), (1000, 1_000), (100, 100_000), (100, 1_000_000), (1000, 1_000_000)]
    {
        let mut bench = Lazy::new(move || Bench::new(ports, macs));
        let name = format!("unicast, {ports} ports, {macs} MACs");
        take(name, "Mframe/s", &mut || bench.get().unicast(&clock, BATCH, 60));
    }
    for batch in [1, 8, 64] {
        let mut bench = Lazy::new(|| Bench::new(100, 1_000));
        let name = format!("unicast, batch of {batch}");
        take(name, "Mframe/s", &mut || bench.get().unicast(&clock, batch, 60));
    }
    let mut bench = Lazy::new(|| Bench::new(100, 1_000));
    take("unicast, super-frames of 65,226 bytes".into(), "Mframe/s", &mut || {
        bench.get().unicast(&clock, BATCH, 65_226)
    });
    for ports in [10, 100, 1000] {
        let mut bench = Lazy::new(move || Bench::new(ports + 1, 1_000));
        take(format!("flood to {ports} ports, copies"), "Mcopy/s", &mut || {
            bench.get().flood(&clock) * f64::from(ports)
        });
    }
    take("learn into a table with room".into(), "Mframe/s", &mut || learn(&clock, false));
    take("learn into a full table (evicting)".into(), "Mframe/s", &mut || learn(&clock, true));
    for (ports, macs) in [(2, 1_000), (100, 1_000), (100, 1_000_000)] {
        let mut bench = Lazy::new(move || Bench::new(ports, macs));
        take(format!("turn, {ports} ports, {macs} MACs"), "Mframe/s", &mut || bench.get().turn(&clock));
    }

    for macs in [1_000, 1_000_000] {
        for threads in [1, 2] {
            let pairs = Lazy::new(move || Pairs::new(macs));
            tables(&clock, macs, threads, pairs, &mut take);
        }
    }
}

/// The forwarding database against the obvious alternative, a concurrent map. Both do the same for a frame: refresh its
/// source (without a write if nothing changes), and look up its destination.
///
/// The reason for our own: readers without a lock scale. With 1,000 stations one thread reaches 30 M frames/s and two
/// reach 48; on dashmap 27 and 14, because each lookup writes to its shard's lock (Xeon, 2 virtual cores, 2026-11;
/// shared, so within a fifth). With a million stations both are bound by memory, at 7 to 10. Ours also has a bound, an
/// O(1) flush and fair eviction.
fn tables(
    clock: &Clock,
    macs: u32,
    threads: usize,
    mut pairs: Lazy<Pairs>,
    take: &mut impl FnMut(String, &'static str, &mut dyn FnMut() -> f64),
) {
    let mut table = Lazy::new(move || table(macs, macs, 100));
    let name = |what: &str| format!("{what}, {macs} MACs, {threads} thread(s)");
    take(name("table: ours, one by one"), "Mframe/s", &mut || {
        let (table, pairs) = (table.get(), pairs.get());
        in_threads(clock, threads, pairs, |batch| batch.iter().filter(|pair| pair.is_known_to(table)).count())
    });
    take(name("table: ours, prefetched by batch"), "Mframe/s", &mut || {
        let (table, pairs) = (table.get(), pairs.get());
        in_threads(clock, threads, pairs, |batch| {
            let places = |pair: &Pair| [table.station(BLUE, pair.src), table.station(BLUE, pair.dst)];
            batch.iter().flat_map(places).for_each(|place| table.prefetch(place));
            batch.iter().filter(|pair| pair.is_known_to(table)).count()
        })
    });
    let mut map = Lazy::new(move || dashmap(macs, BuildHasherDefault::<Mixing>::default()));
    take(name("table: dashmap, same hash"), "Mframe/s", &mut || {
        let (map, pairs) = (map.get(), pairs.get());
        in_threads(clock, threads, pairs, |batch| {
            batch.iter().filter(|pair| pair.is_known_to_map(map)).count()
        })
    });
    let mut map = Lazy::new(move || dashmap(macs, RandomState::new()));
    take(name("table: dashmap, SipHash"), "Mframe/s", &mut || {
        let (map, pairs) = (map.get(), pairs.get());
        in_threads(clock, threads, pairs, |batch| {
            batch.iter().filter(|pair| pair.is_known_to_map(map)).count()
        })
    });
}

/// A switch with stations behind all of its ports, and frames between them.
struct Bench {
    plan: Arc<Plan>,
    forwarder: Forwarder,
    egress: Egress,
    batches: Vec<Batch>,
    pairs: Pairs,
    ports: u16,
    /// The same topology with devices that generate frames, for `turn`.
    engine: Engine,
}

impl Bench {
    fn new(ports: u16, macs: u32) -> Self {
        let fdb = Arc::new(table(macs.max(65_536), macs, ports));
        let device = Arc::new(Source::<false>::new(Pairs::new(macs), ports));
        let plan = Arc::new(plan(ports, fdb, device));
        let mut forwarder = Forwarder::new(0);
        forwarder.reserve(usize::from(ports));
        let mut egress = Egress::default();
        egress.reserve(usize::from(ports));
        let batches = (0..PREPARED).map(|_| Batch::new()).collect();
        let engine = Engine::new(0, Arc::clone(&plan));
        Self { plan, forwarder, egress, batches, pairs: Pairs::new(macs), ports, engine }
    }

    fn unicast(&mut self, clock: &Clock, size: usize, len: usize) -> f64 {
        self.frames(clock, size, len, false)
    }

    fn flood(&mut self, clock: &Clock) -> f64 {
        self.frames(clock, BATCH, 60, true)
    }

    fn frames(&mut self, clock: &Clock, size: usize, len: usize, flood: bool) -> f64 {
        let Self { plan, forwarder, egress, batches, pairs, ports, .. } = self;
        // As on Linux: TCP segments of 1448 bytes.
        let gso = NonZeroU16::new(1448).map(|size| Gso {
            kind: GsoKind::Tcp4,
            size,
            header_len: 66,
            ecn: false,
            tunnel: None,
        });
        let offload = match len {
            0..1515 => Offload::NONE,
            _ => Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso },
        };
        clock.rate(|| {
            for batch in batches.iter_mut() {
                batch.clear();
                for pair in pairs.next(size) {
                    let dst = if flood { MacAddr::BROADCAST } else { pair.dst };
                    fill(batch, port(pair.src_id, *ports), dst, pair.src, offload, len);
                }
            }
            let begin = Instant::now();
            for batch in batches.iter() {
                forwarder.forward(Timestamp::default(), plan, batch, egress);
                egress.drain(|port, outs| {
                    black_box((port, outs));
                });
            }
            (PREPARED * size, begin.elapsed())
        })
    }

    fn turn(&mut self, clock: &Clock) -> f64 {
        let receiver = &self.plan.receivers[0];
        clock.rate(|| {
            let begin = Instant::now();
            for _ in 0..PREPARED {
                let turn = self.engine.turn(receiver, BATCH, Timestamp::default());
                assert!(turn.is_ok_and(|turn| turn.frames == BATCH), "the source never ends");
            }
            (PREPARED * BATCH, begin.elapsed())
        })
    }
}

/// Learns new stations continuously, from 100 ports, with frames to a known one.
fn learn(clock: &Clock, full: bool) -> f64 {
    let limit = 1 << 20;
    let fresh = || {
        let fdb = Arc::new(table(limit, if full { limit } else { 0 }, 100));
        plan(100, fdb, Arc::new(Source::<false>::new(Pairs::new(2), 100)))
    };
    let mut switch = fresh();
    let (mut forwarder, mut egress, mut batch) = (Forwarder::new(0), Egress::default(), Batch::new());
    forwarder.reserve(100);
    egress.reserve(100);
    let mut next = if full { limit } else { 0 };
    clock.rate(|| {
        if !full && next + 64 > limit {
            switch = fresh();
            next = 0;
        }
        batch.clear();
        for id in next..next + 64 {
            fill(&mut batch, port(id, 100), MacAddr::BROADCAST, mac(id), Offload::NONE, 60);
        }
        next += 64;
        let begin = Instant::now();
        forwarder.forward(Timestamp::default(), &switch, &batch, &mut egress);
        let elapsed = begin.elapsed();
        egress.drain(|_, _| {});
        (64, elapsed)
    })
}

/// A table with stations behind `ports` ports.
pub(crate) fn table(limit: u32, macs: u32, ports: u16) -> Fdb {
    let fdb = Fdb::new(Settings { limit, seed: 1, ..Settings::default() });
    for id in 0..macs {
        fdb.learn(fdb.station(BLUE, mac(id)), port(id, ports), None, Timestamp::default());
    }
    fdb
}

/// The same behind 100 ports in the other kind of table: port and time last heard by address.
fn dashmap<S: BuildHasher + Clone>(macs: u32, hasher: S) -> DashMap<u64, (PortId, u32), S> {
    let map = DashMap::with_capacity_and_hasher(macs as usize, hasher);
    for id in 0..macs {
        map.insert(mac(id).to_bits(), (port(id, 100), 0));
    }
    map
}

/// The hash that [`Fdb`] uses (the finaliser of MurmurHash3), for the fairest comparison.
#[derive(Default)]
struct Mixing(u64);

impl Hasher for Mixing {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(self.0 << 8 | u64::from(*byte)));
    }

    fn write_u64(&mut self, mut bits: u64) {
        bits = (bits ^ bits >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        bits = (bits ^ bits >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        self.0 = bits ^ bits >> 33;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Ports of one network that all have `device`, which receives for all of them.
pub(crate) fn plan(ports: u16, fdb: Arc<Fdb>, device: Arc<dyn Device>) -> Plan {
    plan_of(&(0..ports).map(|id| PortRules::access(PortId(id), BLUE)).collect::<Vec<_>>(), fdb, device)
}

/// The same, and each port guards the one station behind it.
pub(crate) fn guarded(ports: u16, fdb: Arc<Fdb>, device: Arc<dyn Device>) -> Plan {
    let rules = |id| {
        let mac = mac(u32::from(id));
        let guard = Guard::new(mac, [IpAddr::from(ip(mac))], [], []);
        PortRules { guard: Some(guard.into()), ..PortRules::access(PortId(id), BLUE) }
    };
    plan_of(&(0..ports).map(rules).collect::<Vec<_>>(), fdb, device)
}

fn plan_of(rules: &[PortRules], fdb: Arc<Fdb>, device: Arc<dyn Device>) -> Plan {
    let networks = [Network::new(BLUE)];
    let ports = u16::try_from(rules.len()).expect("few ports");
    let topology = Topology::build(&networks, rules, 0).expect("access ports of one network");
    let port = |id| Some(Arc::new(Port::new(PortId(id), Arc::clone(&device), PortCounters::of_workers(1))));
    let receiver = Receiver { key: 0, device: Arc::clone(&device), port: PortId(0), worker: 0 };
    Plan {
        topology,
        ports: (0..ports).map(port).collect(),
        networks: vec![Some(NetworkCounters::of_workers(1))],
        receivers: vec![receiver],
        ..Plan::empty(fdb)
    }
}

fn fill(batch: &mut Batch, ingress: PortId, dst: MacAddr, src: MacAddr, offload: Offload, len: usize) {
    let Some(buffer) = batch.spare().next() else { return };
    let frame = &mut buffer[HEADROOM..HEADROOM + 14];
    frame[..6].copy_from_slice(&dst.0);
    frame[6..12].copy_from_slice(&src.0);
    frame[12..].copy_from_slice(&[0x08, 0x00]);
    batch.push(ingress, None, offload, len);
}

/// Receives an endless sequence of frames between stations, as if from all ports; sent frames are formed and discarded.
///
/// `TCP`: they are TCP segments from the stations' addresses, which guards let pass, and a batch is from one station, as it is
/// from a port with a guard.
pub(crate) struct Source<const TCP: bool> {
    pairs: Mutex<Pairs>,
    ports: u16,
}

impl<const TCP: bool> Source<TCP> {
    pub(crate) fn new(pairs: Pairs, ports: u16) -> Self {
        Self { pairs: Mutex::new(pairs), ports }
    }
}

impl<const TCP: bool> fmt::Debug for Source<TCP> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

impl<const TCP: bool> Device for Source<TCP> {
    fn recv(&self, _: PortId, batch: &mut Batch, max: usize, _: &mut Refuse<'_>) -> io::Result<bool> {
        let mut pairs = self.pairs.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut sender = None;
        for pair in pairs.next(max) {
            let pair = if TCP { Pair { dst: pair.dst, ..*sender.get_or_insert(pair) } } else { pair };
            if TCP && let Some(buffer) = batch.spare().next() {
                let [a, b, c, d] = ip(pair.src);
                let header = [0x45, 0, 0, 46, 0, 0, 0, 0, 64, 6, 0, 0, a, b, c, d];
                buffer[HEADROOM + 14..HEADROOM + 30].copy_from_slice(&header);
            }
            fill(batch, port(pair.src_id, self.ports), pair.dst, pair.src, Offload::NONE, 60);
        }
        Ok(true)
    }

    fn send(&self, frames: &Transmit<'_>, scratch: &mut Scratch) {
        frames.each(Capabilities::ALL, scratch, |form| {
            // A reference: a copy of the enumeration would wait for the stores that just made it.
            black_box(&form);
            Ok(())
        });
    }
}

/// A frame's addresses.
#[derive(Clone, Copy)]
struct Pair {
    src: MacAddr,
    dst: MacAddr,
    src_id: u32,
}

impl Pair {
    fn is_known_to(&self, table: &Fdb) -> bool {
        let now = Timestamp::default();
        black_box(table.learn(table.station(BLUE, self.src), port(self.src_id, 100), None, now));
        table.lookup(table.station(BLUE, self.dst), now).is_some()
    }

    fn is_known_to_map<S: BuildHasher + Clone>(&self, map: &DashMap<u64, (PortId, u32), S>) -> bool {
        let (now, from) = (black_box(0), port(self.src_id, 100));
        let key = self.src.to_bits();
        let known = map.get(&key).is_some_and(|entry| *entry == (from, now));
        if !known {
            map.insert(key, (from, now));
        }
        map.get(&self.dst.to_bits()).is_some_and(|entry| now - entry.1 < 1000)
    }
}

/// A long list of random pairs of stations, used cyclically. It contains every station many times or, with very many
/// stations, most of them.
pub(crate) struct Pairs {
    pairs: Box<[Pair]>,
    at: usize,
}

impl Pairs {
    pub(crate) fn new(macs: u32) -> Self {
        let mut random = Random(u64::from(macs));
        let pair = |_| {
            let src_id = random.below(macs);
            // Another port: stations are on `id % ports`, and the counts of ports are even.
            let dst_id = (src_id + 1 + 2 * random.below(macs / 2)) % macs;
            let dst_id = if (dst_id ^ src_id) & 1 == 0 { (dst_id + 1) % macs } else { dst_id };
            Pair { src: mac(src_id), dst: mac(dst_id), src_id }
        };
        let len = if macs > 100_000 { 1 << 20 } else { 1 << 16 };
        Self { pairs: (0..len).map(pair).collect(), at: 0 }
    }

    fn next(&mut self, count: usize) -> impl Iterator<Item = Pair> {
        if self.at + count > self.pairs.len() {
            self.at = 0;
        }
        self.at += count;
        self.pairs[self.at - count..self.at].iter().copied()
    }
}

/// A xorshift generator (Marsaglia, 2003): the same frames in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 32) % u64::from(limit.max(1))).unwrap_or(0)
    }
}

fn mac(id: u32) -> MacAddr {
    let [a, b, c, d] = id.to_be_bytes();
    MacAddr([2, 0, a, b, c, d])
}

/// The IPv4 address of the station with this MAC address.
fn ip(mac: MacAddr) -> [u8; 4] {
    [10, mac.0[3], mac.0[4], mac.0[5]]
}

fn port(id: u32, ports: u16) -> PortId {
    PortId(u16::try_from(id % u32::from(ports)).unwrap_or(0))
}

/// Lets `threads` threads, each on a core of its own, process the pairs batch by batch; returns the pairs per second of
/// all.
fn in_threads(clock: &Clock, threads: usize, pairs: &Pairs, known: impl Fn(&[Pair]) -> usize + Sync) -> f64 {
    let (stop, running) = (AtomicBool::new(false), AtomicUsize::new(0));
    let walk = |thread: usize| {
        pin(thread);
        // Each starts at a different place of the list.
        let mut batches = pairs.pairs.chunks_exact(BATCH).cycle().skip(thread * 1009);
        running.fetch_add(1, Relaxed);
        while running.load(Relaxed) < threads {
            std::hint::spin_loop();
        }
        let (mut work, begin) = (0, Instant::now());
        while !stop.load(Relaxed) {
            for batch in batches.by_ref().take(16) {
                assert_eq!(known(batch), BATCH, "all stations are in the table");
                work += BATCH;
            }
        }
        work as f64 / begin.elapsed().as_secs_f64()
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn({
                    let walk = &walk;
                    move || walk(thread)
                })
            })
            .collect();
        std::thread::sleep(clock.time);
        stop.store(true, Relaxed);
        handles.into_iter().map(|handle| handle.join().expect("no panic")).sum()
    })
}
