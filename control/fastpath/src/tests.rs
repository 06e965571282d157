//! The programs against the switch itself: what the kernel's own test run says of a frame, and what a trace of the switch does.

#![expect(unsafe_code, reason = "BPF_PROG_TEST_RUN and unshare have no safe wrapper")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
    process::Command,
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;
use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp},
    counters::{PortCounters, PortTotals},
    device::mem::MemDevice,
    fdb::{Fdb, Learned, Origin, Settings},
    forward::Action,
    guard::Guard,
    offload::{Capabilities, Offload},
    plan::{Plan, Port},
    storm::FloodMeters,
    topology::{Network, PortMode, PortRules, Topology},
    trace::{Hypothesis, trace},
};

use super::*;

/// Number of ports; each has a veth pair.
const PORTS: u16 = 6;
/// More stations than ports: some are nowhere.
const STATIONS: u8 = 9;

fn mac(station: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, station])
}

/// Runs the program over a frame that comes in by `ifindex`, and returns what it answers.
fn run(program: i32, ifindex: u32, gso_size: u32, frame: &[u8]) -> i32 {
    const BPF_PROG_TEST_RUN: libc::c_long = 10;
    const IFINDEX: usize = 10;
    const GSO_SIZE: usize = 44;
    // struct __sk_buff
    let mut context = [0_u32; 48];
    context[IFINDEX] = ifindex;
    context[GSO_SIZE] = gso_size;
    let mut out = vec![0_u8; frame.len() + 256];
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        program: u32,
        answer: u32,
        sizes: [u32; 2],
        frames: [u64; 2],
        repeat: u32,
        duration: u32,
        context_sizes: [u32; 2],
        contexts: [u64; 2],
        flags: u32,
        cpu: u32,
        batch: u32,
        pad: u32,
    }
    let mut attributes = Attributes {
        program: u32::try_from(program).unwrap(),
        sizes: [frame.len(), out.len()].map(|size| u32::try_from(size).unwrap()),
        frames: [frame.as_ptr() as u64, out.as_mut_ptr() as u64],
        context_sizes: [192, 0],
        contexts: [context.as_ptr() as u64, 0],
        ..Attributes::default()
    };
    // SAFETY: the structure has the form of the kernel's for this command, and its pointers are valid for the sizes beside them.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attributes, size_of::<Attributes>())
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    attributes.answer.cast_signed()
}

const REDIRECT: i32 = 7; // TC_ACT_REDIRECT
const NEXT: i32 = -1; // TCX_NEXT

/// A switch whose ports are veth pairs in a namespace of this thread.
struct Bench {
    fast: FastPath,
    fdb: Arc<Fdb>,
    ports: Vec<Arc<FastPort>>,
    counters: Vec<Arc<[PortCounters]>>,
    program: OwnedFd,
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

impl Bench {
    fn new(home: Option<&Path>) -> Self {
        // SAFETY: only this thread changes its namespace.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", io::Error::last_os_error());
        ip("link set lo up");
        for port in 0..PORTS {
            ip(&format!("link add v{port} type veth peer name w{port}"));
        }
        Self::over(home)
    }

    /// The same over the interfaces that are there.
    fn over(home: Option<&Path>) -> Self {
        let fdb = Arc::new(Fdb::new(Settings::default()));
        let fast = FastPath::start(home, Arc::clone(&fdb), || Timestamp::from_millis(1_000_000)).unwrap();
        fast.set_ageing(Duration::from_secs(300));
        let counters: Vec<_> = (0..PORTS).map(|_| PortCounters::of_workers(2)).collect();
        let open = |port: u16| {
            let ifname = format!("v{port}");
            let interface = Interface { ifname: &ifname, ifindex: index(&ifname), own: None };
            let opened =
                fast.open(PortId(port), &interface, Arc::clone(&counters[usize::from(port)])).unwrap();
            opened.attach(&ifname).unwrap();
            opened
        };
        let ports = (0..PORTS).map(open).collect();
        let program = {
            let mut kernel = fast.common.kernel();
            kernel.program().try_clone_to_owned().unwrap()
        };
        Self { fast, fdb, ports, counters, program }
    }

    fn adopt(&self, networks: &[Network], rules: &[PortRules]) -> Plan {
        let topology = Topology::build(networks, rules, 0).unwrap();
        let device = Arc::new(MemDevice::new(Capabilities::ALL, 1));
        let port = |id: u16| Port::new(PortId(id), Arc::clone(&device) as _, PortCounters::of_workers(1));
        let ports = (0..PORTS).map(|id| Some(Arc::new(port(id)))).collect();
        let plan = Plan { topology, ports, ..Plan::empty(Arc::clone(&self.fdb)) };
        let ports: BTreeMap<_, _> = rules.iter().map(|rules| (rules.id, rules)).collect();
        let told = Rules { ports, barred: BTreeMap::new(), plan: &plan };
        self.fast.prepare(&self.ports, &told);
        self.fast.adopt(&self.ports, &told);
        assert!(self.fast.settle());
        plan
    }

    /// The port that the kernel forwards a frame to; `None`: it leaves it to the switch.
    fn forward(&self, from: PortId, gso_size: u32, frame: &[u8]) -> Option<PortId> {
        let sent = |port: &usize| PortTotals::sum(&self.counters[*port]).tx_frames;
        let before: Vec<_> = (0..self.ports.len()).map(|port| sent(&port)).collect();
        let ifindex = index(&format!("v{}", from.0));
        let answer = run(self.program.as_raw_fd(), ifindex, gso_size, frame);
        self.ports.iter().for_each(|port| port.count());
        let to: Vec<_> = (0..self.ports.len()).filter(|port| sent(port) > before[*port]).collect();
        match (answer, &to[..]) {
            (NEXT, []) => None,
            (REDIRECT, [to]) => Some(PortId(u16::try_from(*to).unwrap())),
            odd => panic!("{odd:?}"),
        }
    }
}

fn index(ifname: &str) -> u32 {
    let name = std::ffi::CString::new(ifname).unwrap();
    // SAFETY: a string that ends with a zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "{ifname}");
    index
}

/// Mostly what belongs there, sometimes another station.
fn stray() -> impl Strategy<Value = Option<u8>> {
    proptest::option::weighted(0.15, 0..STATIONS)
}

/// The station that is behind a port, unless it strays.
fn at_home(port: u16, stray: Option<u8>) -> u8 {
    stray.unwrap_or_else(|| u8::try_from(port).unwrap())
}

/// A packet of a kind that guards look into; its source is that of the frame, unless it strays.
#[derive(Clone, Copy, Debug)]
enum Payload {
    V4 { from: Option<u8>, protocol: u8, ports: [u8; 4], fragment: u16, head: u8 },
    V6 { from: Option<u8>, next: u8, first: [u8; 4], link_local: bool },
    Other(u16),
    Tagged(u16),
}

#[derive(Clone, Debug)]
struct Sent {
    from: u16,
    source: u8,
    to: u8,
    len: usize,
    payload: Payload,
}

impl Sent {
    fn frame(&self) -> Vec<u8> {
        let to = match self.to {
            250 => MacAddr::BROADCAST,
            251 => MacAddr([1, 0, 0x5e, 0, 0, 1]),
            to => mac(to),
        };
        let mut frame = [to.0, mac(self.source).0].concat();
        match self.payload {
            Payload::V4 { from, protocol, ports, fragment, head } => {
                frame.extend([0x08, 0x00, head, 0, 0, 60, 0, 0]);
                frame.extend(fragment.to_be_bytes());
                let from = at_home(self.from, from);
                frame.extend([64, protocol, 0, 0, 10, 9, 0, from, 10, 9, 0, 99]);
                frame.extend(ports);
            }
            Payload::V6 { from, next, first, link_local } => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 40, next, 64]);
                let from = at_home(self.from, from);
                let first_word = if link_local { 0xfe80 } else { 0xfd00 };
                frame.extend(Ipv6Addr::new(first_word, 0, 0, 0, 0, 0, 0, from.into()).octets());
                frame.extend(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 99).octets());
                frame.extend(first);
            }
            Payload::Other(kind) => frame.extend(kind.to_be_bytes()),
            Payload::Tagged(kind) => frame.extend([kind.to_be_bytes(), [0, 5], [8, 0]].concat()),
        }
        frame.resize(self.len.max(frame.len()), 0);
        frame
    }
}

fn payloads() -> impl Strategy<Value = Payload> {
    let port = || prop_oneof![Just(67_u16), Just(68), Just(546), Just(547), Just(80)];
    let ports = (port(), port()).prop_map(|(from, to)| {
        let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
        [a, b, c, d]
    });
    let first = prop_oneof![
        ports,
        prop_oneof![Just(5_u8), Just(8), Just(9), Just(128), Just(133), Just(135), Just(136)]
            .prop_map(|kind| [kind, 0, 0, 0]),
    ];
    let protocol = prop_oneof![Just(6_u8), Just(17), Just(1), Just(58), Just(0), Just(44), Just(47)];
    let head = prop_oneof![8 => Just(0x45_u8), 1 => Just(0x46), 1 => Just(0x44), 1 => Just(0x65)];
    let fragment = prop_oneof![6 => Just(0_u16), 1 => Just(0x2000), 1 => Just(0x2001), 1 => Just(0x00ff)];
    let v4 = (stray(), protocol.clone(), first.clone(), fragment, head);
    let v6 = (stray(), protocol, first, proptest::bool::weighted(0.1));
    prop_oneof![
        4 => v4.prop_map(|(from, protocol, ports, fragment, head)| Payload::V4 { from, protocol, ports, fragment, head }),
        4 => v6.prop_map(|(from, next, first, link_local)| Payload::V6 { from, next, first, link_local }),
        1 => prop_oneof![Just(0x0806_u16), Just(0x88cc), Just(0x0100), Just(0x9000)].prop_map(Payload::Other),
        1 => prop_oneof![Just(0x8100_u16), Just(0x88a8), Just(0x9100)].prop_map(Payload::Tagged),
    ]
}

fn sent() -> impl Strategy<Value = Sent> {
    let to = prop_oneof![8 => 0..STATIONS, 1 => Just(250), 1 => Just(251)];
    let len =
        prop_oneof![6 => Just(60_usize), 1 => Just(1514), 1 => Just(1518), 1 => Just(1519), 1 => Just(14)];
    (0..PORTS, stray(), to, len, payloads()).prop_map(|(from, source, to, len, payload)| Sent {
        from,
        source: at_home(from, source),
        to,
        len,
        payload,
    })
}

/// What differs from port to port.
#[derive(Clone, Debug)]
struct Wish {
    network: u16,
    isolated: bool,
    horizon: bool,
    hairpin: bool,
    mtu: u16,
    guard: Option<(Option<u8>, bool)>,
    is_trunk: bool,
    learning: bool,
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let often = |what: bool| prop_oneof![9 => Just(!what), 1 => Just(what)];
    let guard = proptest::option::of((stray(), any::<bool>()));
    let mtu = prop_oneof![3 => Just(1500_u16), 1 => Just(1400)];
    let network = prop_oneof![5 => Just(0_u16), 1 => Just(1)];
    let wish = (network, often(true), often(true), often(true), mtu, guard, often(true), often(false));
    let wish = wish.prop_map(|(network, isolated, horizon, hairpin, mtu, guard, is_trunk, learning)| Wish {
        network,
        isolated,
        horizon,
        hairpin,
        mtu,
        guard,
        is_trunk,
        learning,
    });
    proptest::collection::vec(wish, usize::from(PORTS))
}

fn rules_of(port: u16, wish: &Wish) -> PortRules {
    let network = NetworkId(wish.network);
    let is_trunk = wish.is_trunk && wish.guard.is_none();
    let guard = wish.guard.map(|(station, has_addresses)| {
        let station = at_home(port, station);
        let addresses = [
            IpAddr::from(Ipv4Addr::new(10, 9, 0, station)),
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, station.into()).into(),
        ];
        Arc::new(Guard::new(mac(station), addresses.into_iter().filter(|_| has_addresses), [], []))
    });
    PortRules {
        mode: if is_trunk {
            PortMode::Trunk { tagged: vec![], native: Some(network) }
        } else {
            PortMode::Access(network)
        },
        isolated: wish.isolated,
        horizon: wish.horizon.then_some(std::num::NonZeroU16::MIN),
        hairpin: wish.hairpin,
        mtu: wish.mtu,
        learning: wish.learning,
        guard,
        ..PortRules::access(PortId(port), network)
    }
}

/// A frame takes the same way by the kernel and by the switch: what the kernel forwards, the switch would have sent to the same port and no
/// other, learning nothing from it. And the kernel forwards what it can.
#[test]
#[ignore = "needs root: loads BPF programs"]
fn the_kernel_forwards_as_the_switch_decides() {
    let bench = Bench::new(None);
    let networks = [0, 1].map(|id| Network::new(NetworkId(id)));
    let now = Timestamp::from_millis(1_000_000);
    let (forwarded, left) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let known = proptest::collection::vec(
        (0..PORTS, stray(), prop_oneof![5 => Just(0_u16), 1 => Just(1)], 0..4_u8),
        10..40,
    );
    let case = (wishes(), known, proptest::collection::vec(sent(), 40));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    });
    runner
        .run(&case, |(wishes, known, frames)| {
            let rules: Vec<_> = (0..PORTS).zip(&wishes).map(|(port, wish)| rules_of(port, wish)).collect();
            bench.fdb.purge(|_, _| true);
            let plan = bench.adopt(&networks, &rules);
            for (port, station, network, how) in known {
                let station = at_home(port, station);
                let (network, port) = (NetworkId(network), PortId(port));
                match how {
                    0 => drop(bench.fdb.pin(network, mac(station), port, Origin::Control, now)),
                    1 => drop(bench.fdb.pin(network, mac(station), port, Origin::Static, now)),
                    _ => drop(bench.fdb.learn(bench.fdb.station(network, mac(station)), port, None, now)),
                }
            }
            if frames.len() % 3 == 0 {
                bench.fdb.flush_port(PortId(1));
            }
            prop_assert!(bench.fast.settle());
            for sent in frames {
                let (frame, ingress) = (sent.frame(), PortId(sent.from));
                let told = Hypothesis {
                    ingress,
                    network: None,
                    offload: Offload::NONE,
                    bytes: &frame,
                    storm: FloodMeters::default(),
                };
                let traced = trace(now, &plan, &told).unwrap();
                let to = bench.forward(ingress, 0, &frame);
                let decision = &traced.decision;
                if let Some(to) = to {
                    forwarded.set(forwarded.get() + 1);
                    let fate = decision.fate;
                    prop_assert!(
                        matches!(fate, Ok(Action::Send(member)) if member.port == to),
                        "to {to:?}, but {fate:?}"
                    );
                    prop_assert_eq!(decision.learned, Some(Learned::Known));
                    let [from, to_rules] = [ingress, to].map(|port| &rules[port.index()]);
                    prop_assert_eq!(odd(from.guard.as_deref(), to_rules.mtu, &frame), None);
                    prop_assert!(traced.exits.iter().all(|exit| exit.port == to && exit.result == Ok(1)));
                } else if let (Ok(Action::Send(member)), Some(Learned::Known)) =
                    (decision.fate, decision.learned)
                {
                    left.set(left.get() + 1);
                    let is_fast = |port: PortId| bench.ports[port.index()].slow().is_none();
                    let is_way = is_fast(ingress) && is_fast(member.port) && member.port != ingress;
                    let [from, to] = [ingress, member.port].map(|port| &rules[port.index()]);
                    let is_odd = odd(from.guard.as_deref(), to.mtu, &frame).is_some();
                    prop_assert!(is_odd || !is_way, "left to the switch without a reason: {sent:?}");
                }
            }
            Ok(())
        })
        .unwrap();
    let (forwarded, left) = (forwarded.get(), left.get());
    assert!(forwarded > 500, "only {forwarded} frames were forwarded: the test says little");
    eprintln!("{forwarded} frames forwarded by the kernel, {left} that it could have");
}
