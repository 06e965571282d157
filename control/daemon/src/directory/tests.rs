use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

fn mac(id: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, id])
}

fn ip(id: u8) -> IpAddr {
    IpAddr::from([10, 9, 0, id])
}

fn host(id: u8) -> IpAddr {
    IpAddr::from([10, 8, 0, id])
}

fn station(id: u8, addresses: &[u8], at: u8, sequence: u64) -> Station {
    Station {
        mac: mac(id),
        addresses: addresses.iter().map(|id| ip(*id)).collect(),
        host: host(at),
        sequence,
    }
}

fn set(stations: impl Into<Vec<Station>>) -> DirectoryChange {
    DirectoryChange::Update(DirectoryUpdate { set: stations.into(), ..DirectoryUpdate::default() })
}

fn withdraw(id: u8, sequence: u64) -> DirectoryChange {
    let withdraw = vec![Withdrawal { mac: mac(id), sequence }];
    DirectoryChange::Update(DirectoryUpdate { withdraw, ..DirectoryUpdate::default() })
}

#[test]
fn a_station_moves_by_its_number_and_goes_when_told() {
    let mut directory = Directory::default();
    directory.apply(set([station(1, &[1], 2, 1)])).unwrap();
    let moved = directory.apply(set([station(1, &[1], 3, 2)])).unwrap();
    assert_eq!((directory.host(mac(1)), moved.stations.len()), (Some(host(3)), 1));
    // Late news of the place before, and the old host's withdrawal.
    assert_eq!(directory.apply(set([station(1, &[1], 2, 1)])).unwrap(), Touched::default());
    assert_eq!(directory.apply(withdraw(1, 1)).unwrap(), Touched::default());
    assert_eq!(directory.host(mac(1)), Some(host(3)));
    let gone = directory.apply(withdraw(1, 2)).unwrap();
    assert_eq!(gone.addresses, [ip(1)].into());
    assert!(directory.is_empty());
}

#[test]
fn an_address_is_that_of_the_station_that_came_last() {
    let mut directory = Directory::default();
    directory.apply(set([station(9, &[1], 2, 1), station(1, &[1], 3, 2)])).unwrap();
    assert_eq!(directory.holder(ip(1)), Some(mac(1)));
    directory.apply(withdraw(1, u64::MAX)).unwrap();
    assert_eq!(directory.holder(ip(1)), Some(mac(9)), "the other record is still there");
}

#[test]
fn what_is_given_whole_replaces_all() {
    let mut directory = Directory::default();
    directory.apply(set([station(1, &[1], 2, 7), station(2, &[2], 2, 7), station(3, &[3], 2, 7)])).unwrap();
    // A restored backup has lower numbers, and is the truth all the same.
    let whole = directory::Directory {
        hosts: Some([host(2)].into()),
        stations: vec![station(2, &[2], 2, 7), station(3, &[3], 4, 1), station(3, &[3], 2, 0)],
    };
    let touched = directory.apply(DirectoryChange::Replace(whole)).unwrap();
    assert!(touched.hosts);
    assert_eq!(touched.stations, [mac(1), mac(3)].into(), "and touches only what differs");
    assert_eq!((directory.host(mac(3)), directory.len()), (Some(host(4)), 2));
    directory.apply(DirectoryChange::Remove).unwrap();
    assert!(directory.is_empty() && directory.holders.is_empty());
}

#[test]
fn what_no_station_can_have_is_refused() {
    let mut directory = Directory::default();
    let group = Station { mac: MacAddr::BROADCAST, ..station(1, &[], 2, 0) };
    assert!(directory.apply(set([group])).unwrap_err().sentence.contains("multicast"));
    let many = Station { addresses: vec![ip(1); MOST_ADDRESSES + 1], ..station(1, &[], 2, 0) };
    assert!(directory.apply(set([many])).unwrap_err().sentence.contains("65 addresses"));
    assert!(directory.is_empty());
}

#[derive(Clone, Debug)]
enum Op {
    Set(u8, Vec<u8>, u8, u64),
    Withdraw(u8, u64),
    Replace(Vec<(u8, Vec<u8>, u8, u64)>),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let one = (0..5_u8, prop::collection::vec(0..4_u8, 0..3), 0..3_u8, 0..4_u64);
    let op = prop_oneof![
        6 => one.clone().prop_map(|(id, addresses, at, sequence)| Op::Set(id, addresses, at, sequence)),
        3 => (0..5_u8, 0..4_u64).prop_map(|(id, sequence)| Op::Withdraw(id, sequence)),
        1 => prop::collection::vec(one, 0..5).prop_map(Op::Replace),
    ];
    prop::collection::vec(op, 0..40)
}

proptest! {
    /// Against a plain map: the same stations and holders, and everything that differs from before is named.
    #[test]
    fn any_changes_lead_where_a_plain_map_does(ops in ops()) {
        let mut directory = Directory::default();
        let mut model: BTreeMap<u8, (Vec<u8>, u8, u64)> = BTreeMap::new();
        for op in ops {
            let before: (HashMap<_, _>, HashMap<_, _>) = (
                (0..5).map(|id| (id, directory.host(mac(id)))).collect(),
                (0..4).map(|id| (id, directory.holder(ip(id)))).collect(),
            );
            let is_late = |model: &BTreeMap<u8, (Vec<u8>, u8, u64)>, id, sequence| {
                model.get(&id).is_some_and(|known| known.2 > sequence)
            };
            let touched = match op {
                Op::Set(id, addresses, at, sequence) => {
                    let change = set([station(id, &addresses, at, sequence)]);
                    if !is_late(&model, id, sequence) {
                        model.insert(id, (addresses, at, sequence));
                    }
                    directory.apply(change)
                }
                Op::Withdraw(id, sequence) => {
                    if !is_late(&model, id, sequence) {
                        model.remove(&id);
                    }
                    directory.apply(withdraw(id, sequence))
                }
                Op::Replace(all) => {
                    model.clear();
                    let mut stations = Vec::new();
                    for (id, addresses, at, sequence) in all {
                        stations.push(station(id, &addresses, at, sequence));
                        if !is_late(&model, id, sequence) {
                            model.insert(id, (addresses, at, sequence));
                        }
                    }
                    directory.apply(DirectoryChange::Replace(directory::Directory { hosts: None, stations }))
                }
            }
            .unwrap();
            for id in 0..5 {
                prop_assert_eq!(directory.host(mac(id)), model.get(&id).map(|known| host(known.1)));
                let is_same = before.0[&id] == directory.host(mac(id));
                prop_assert!(is_same || touched.stations.contains(&mac(id)));
            }
            for id in 0..4 {
                let holders = model.iter().filter(|(_, known)| known.0.contains(&id));
                let last = holders.max_by_key(|(station, known)| (known.2, **station));
                prop_assert_eq!(directory.holder(ip(id)), last.map(|(station, _)| mac(*station)));
                prop_assert!(before.1[&id] == directory.holder(ip(id)) || touched.addresses.contains(&ip(id)));
            }
            prop_assert_eq!(directory.spec().stations.len(), model.len());
        }
    }
}
