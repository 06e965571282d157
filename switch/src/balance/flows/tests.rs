use std::{collections::HashMap, sync::Arc};

use proptest::prelude::*;

use super::*;

const TCP: u8 = 6;
const UDP: u8 = 17;

fn ip(last: u8) -> IpAddr {
    if last.is_multiple_of(2) {
        IpAddr::from([10, 9, 0, last])
    } else {
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)])
    }
}

fn key(client_port: u16, service: u8, protocol: u8) -> Key {
    Key { network: Mark(0xabcd), client: ip(2), client_port, service: ip(service), port: 80, protocol }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

#[test]
fn both_directions_find_a_flow() {
    let flows = Flows::of_process(4, 7);
    let key = key(4000, 10, TCP);
    assert_eq!(flows.insert(&key, ip(20), Progress::BEGUN, at(1)), None);
    assert_eq!(flows.find(&key).unwrap().flow.backend, ip(20));
    let back = flows.find_back(&Key { service: ip(99), ..key }, ip(20)).unwrap();
    assert_eq!(back.flow.key, key);
    assert!(flows.find_back(&key, ip(22)).is_none(), "of another station");
    assert!(flows.find(&Key { service: ip(12), ..key }).is_none());
    for other in [0x0bcd, 0xa0cd, 0xab0d, 0xabc0].map(|network| Key { network: Mark(network), ..key }) {
        assert!(flows.find(&other).is_none() && flows.find_back(&other, ip(20)).is_none(), "{other:?}");
    }
    flows.remove(&back);
    assert!(flows.find(&key).is_none() && flows.is_empty());
}

#[test]
fn a_table_without_room_remembers_nothing() {
    let flows = Flows::of_process(0, 7);
    flows.insert(&key(4000, 10, TCP), ip(20), Progress::BEGUN, at(1));
    assert!(flows.find(&key(4000, 10, TCP)).is_none() && flows.is_empty() && flows.list(at(1)).is_empty());
}

#[test]
fn an_established_connection_stays_idle_for_ever_and_all_else_ends() {
    let flows = Flows::of_process(64, 7);
    let established = key(1, 10, TCP);
    let closed = key(2, 10, TCP);
    let asked = key(3, 10, UDP);
    for key in [&established, &closed, &asked] {
        flows.insert(key, ip(20), Progress::BEGUN, at(0));
        flows.advance(&flows.find(key).unwrap(), Progress::ANSWERED);
    }
    for step in [Progress::CLIENT_DONE, Progress::BACKEND_DONE] {
        flows.advance(&flows.find(&closed).unwrap(), step);
    }
    // Each new flow looks at a few old ones.
    for turn in 0..64 {
        flows.insert(&key(1_000 + turn, 10, UDP), ip(20), Progress::BEGUN, at(20));
    }
    assert!(flows.find(&closed).is_none());
    let week = 7 * 86_400;
    for turn in 0..128 {
        flows.insert(&key(2_000 + turn, 10, UDP), ip(20), Progress::BEGUN, at(week));
    }
    assert!(flows.find(&asked).is_none());
    assert_eq!(flows.find(&established).unwrap().flow.idle_at(at(week)), 7 * 86_400);
}

#[test]
fn what_is_missed_least_makes_room() {
    let flows = Flows::of_process(4, 7);
    let [over, begun, datagrams, open] = [key(1, 10, TCP), key(2, 10, TCP), key(3, 10, UDP), key(4, 10, TCP)];
    for key in [&over, &begun, &datagrams, &open] {
        flows.insert(key, ip(20), Progress::BEGUN, at(0));
        if *key != begun {
            flows.advance(&flows.find(key).unwrap(), Progress::ANSWERED);
        }
    }
    flows.advance(&flows.find(&over).unwrap(), Progress::RESET);
    let new = |turn: u16| {
        let key = key(100 + turn, 10, TCP);
        let evicted = flows.insert(&key, ip(20), Progress::BEGUN, at(1));
        flows.advance(&flows.find(&key).unwrap(), Progress::ANSWERED);
        evicted.map(|flow| flow.key)
    };
    assert_eq!([new(0), new(1), new(2), new(3)], [Some(over), Some(begun), Some(datagrams), Some(open)]);
    assert_eq!((flows.len(), flows.evicted()), (4, 4));
}

#[test]
fn a_flow_needs_72_bytes() {
    assert!(Flows::words(100_000) * 8 <= 8_000_000);
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u16, u8, u8),
    Answer(u16, u8),
    Reset(u16, u8),
    Remove(u16, u8),
    Wait(u64),
    Restart,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let flow = || (0..12_u16, 10..13_u8);
    let op = prop_oneof![
        6 => (flow(), 20..24_u8).prop_map(|((port, service), backend)| Op::Insert(port, service, backend)),
        2 => flow().prop_map(|(port, service)| Op::Answer(port, service)),
        1 => flow().prop_map(|(port, service)| Op::Reset(port, service)),
        1 => flow().prop_map(|(port, service)| Op::Remove(port, service)),
        1 => (0..100_u64).prop_map(Op::Wait),
        1 => Just(Op::Restart),
    ];
    prop::collection::vec(op, 1..200)
}

/// Memory that outlives a table.
#[derive(Clone)]
struct Kept(Arc<Vec<AtomicU64>>);

impl AsRef<[AtomicU64]> for Kept {
    fn as_ref(&self) -> &[AtomicU64] {
        &self.0
    }
}

proptest! {
    /// A map that forgets what the table says it evicts, and may have forgotten what is expired.
    #[test]
    fn it_is_a_bounded_map(ops in ops(), capacity in 1..40_usize) {
        let kept = Kept(Arc::new((0..Flows::words(capacity)).map(|_| AtomicU64::new(0)).collect()));
        let mut flows = Flows::new(Box::new(kept.clone()), 1, at(0));
        let mut model: HashMap<Key, Flow> = HashMap::new();
        let mut now = 0_u64;
        for op in ops {
            match op {
                Op::Insert(port, service, backend) => {
                    let key = key(port, service, TCP);
                    let evicted = flows.insert(&key, ip(backend), Progress::BEGUN, at(now));
                    if let Some(evicted) = evicted {
                        prop_assert_eq!(model.remove(&evicted.key).map(|flow| flow.backend), Some(evicted.backend));
                        prop_assert!(model.len() >= capacity - 1 || model.len() + 1 >= flows.len());
                    }
                    let seen = u32::try_from(now).unwrap();
                    model.insert(key, Flow { key, backend: ip(backend), progress: Progress::BEGUN, seen });
                }
                Op::Answer(port, service) | Op::Reset(port, service) => {
                    let step = if matches!(op, Op::Answer(..)) { Progress::ANSWERED } else { Progress::RESET };
                    let key = key(port, service, TCP);
                    if let (Some(found), Some(flow)) = (flows.find(&key), model.get_mut(&key)) {
                        flows.touch(&found, at(now));
                        flows.advance(&found, step);
                        flow.progress = flow.progress.and(step);
                        flow.seen = u32::try_from(now).unwrap();
                    }
                }
                Op::Remove(port, service) => {
                    let key = key(port, service, TCP);
                    if let Some(found) = flows.find(&key) {
                        flows.remove(&found);
                    }
                    model.remove(&key);
                }
                Op::Wait(seconds) => now += seconds,
                Op::Restart => {
                    flows = Flows::new(Box::new(kept.clone()), now, at(now));
                    model.retain(|key, _| flows.find(key).is_some());
                    model.values_mut().for_each(|flow| flow.seen = u32::try_from(now).unwrap());
                }
            }
            prop_assert!(flows.len() <= capacity);
            model.retain(|key, flow| {
                flows.find(key).is_some() || !flow.is_expired(u32::try_from(now).unwrap())
            });
            prop_assert_eq!(flows.len(), model.len());
            for (key, flow) in &model {
                prop_assert_eq!(flows.find(key).map(|found| found.flow), Some(*flow));
                let back = flows.find_back(&Key { service: ip(0), ..*key }, flow.backend);
                prop_assert_eq!(back.map(|found| found.flow.backend), Some(flow.backend));
            }
        }
    }
}

/// Readers see a record whole or not at all, while flows come and go.
#[test]
fn readers_see_whole_records() {
    let flows = Flows::of_process(32, 7);
    let backend = |port: u16| ip(u8::try_from(port % 64).unwrap() * 2);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for turn in 0..20_000_u16 {
                let port = turn.wrapping_mul(31) % 64;
                flows.insert(&key(port, 10, TCP), backend(port), Progress::ANSWERED, at(0));
            }
        });
        while !writer.is_finished() {
            for port in 0..64 {
                let found = flows.find(&key(port, 10, TCP));
                assert!(found.is_none_or(|found| found.flow.backend == backend(port)));
            }
        }
    });
}
