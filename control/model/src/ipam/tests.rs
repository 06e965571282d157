use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use proptest::{collection::vec, prelude::*};

use super::{Holder, IpamError, REST, Subnet, Turns, free_subnet, overlap, ranges::Ranges, unique_local};
use crate::{PoolSpec, PoolsSpec, SubnetSpec};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn subnet(text: &str) -> Subnet {
    Subnet::new(&net(text).into()).unwrap()
}

#[test]
fn the_lowest_free_address() {
    let mut spec = SubnetSpec::from(net("10.9.0.0/29"));
    spec.gateway = Some(ip("10.9.0.1"));
    spec.aux.insert("router".into(), ip("10.9.0.3"));
    let mut subnet = Subnet::new(&spec).unwrap();
    let given: Vec<_> = std::iter::from_fn(|| subnet.allocate().ok()).collect();
    assert_eq!(given, ["10.9.0.2", "10.9.0.4", "10.9.0.5", "10.9.0.6"].map(ip));
    assert_eq!(subnet.allocate().unwrap_err().to_string(), "no available addresses on this pool");
    assert_eq!(subnet.usage(), (8, 0));
    assert_eq!(subnet.claim(ip("10.9.0.4")), Err(IpamError::Taken(ip("10.9.0.4"))));
}

#[test]
fn a_range_is_given_out_and_the_rest_can_be_asked_for() {
    let mut spec = SubnetSpec::from(net("10.9.0.0/16"));
    spec.ip_range = Some(net("10.9.5.0/31"));
    let mut subnet = Subnet::new(&spec).unwrap();
    assert_eq!(subnet.claim(ip("10.9.7.7")), Ok(()));
    assert_eq!(subnet.allocate(), Ok(ip("10.9.5.0")));
    assert_eq!(subnet.allocate(), Ok(ip("10.9.5.1")));
    assert_eq!(subnet.allocate(), Err(IpamError::NoAddress));
}

#[test]
fn point_to_point_links_and_ipv6() {
    let mut pair = subnet("10.9.0.0/31");
    assert_eq!([pair.allocate(), pair.allocate()], [Ok(ip("10.9.0.0")), Ok(ip("10.9.0.1"))]);
    let mut wide = subnet("fd09::/64");
    assert_eq!(wide.allocate(), Ok(ip("fd09::1")), "fd09:: is the routers' (RFC 4291 section 2.6.1)");
    assert_eq!(wide.claim(ip("fd09::ffff:ffff:ffff:ffff")), Ok(()), "there is no broadcast");
    assert_eq!(wide.usage().0, 3);
}

#[test]
fn every_sentence() {
    let error = |change: fn(&mut SubnetSpec)| {
        let mut spec = SubnetSpec::from(net("10.9.0.0/24"));
        change(&mut spec);
        Subnet::new(&spec).unwrap_err().to_string()
    };
    for (found, expected) in [
        (error(|it| it.subnet = net("10.9.0.1/24")), "invalid subnet 10.9.0.1/24: it should be 10.9.0.0/24"),
        (
            error(|it| it.subnet = net("10.9.0.0/32")),
            "invalid subnet 10.9.0.0/32: use a prefix length of 1 to 31",
        ),
        (error(|it| it.subnet = net("::/0")), "invalid subnet ::/0: use a prefix length of 1 to 127"),
        (
            error(|it| it.ip_range = Some(net("10.9.1.0/25"))),
            "invalid ip-range 10.9.1.0/25: parent subnet 10.9.0.0/24 doesn't contain ip-range",
        ),
        (
            error(|it| it.gateway = Some(ip("10.9.1.1"))),
            "invalid gateway 10.9.1.1: parent subnet 10.9.0.0/24 doesn't contain this address",
        ),
        (
            error(|it| it.aux = [("a".into(), ip("10.9.1.1"))].into()),
            "invalid auxiliary address 10.9.1.1: parent subnet 10.9.0.0/24 doesn't contain this address",
        ),
        (error(|it| it.gateway = Some(ip("10.9.0.255"))), "Address already in use"),
        (
            subnet("10.9.0.0/24").claim(ip("10.8.0.1")).unwrap_err().to_string(),
            "requested address is out of range",
        ),
        (
            IpamError::Overlap(
                net("10.9.0.0/24"),
                Holder::Network("blue".parse().unwrap(), net("10.9.0.0/16")),
            )
            .to_string(),
            "Pool overlaps with other one on this address space: 10.9.0.0/24 overlaps network blue (10.9.0.0/16)",
        ),
        (IpamError::NoPool.to_string(), "all predefined address pools have been fully subnetted"),
    ] {
        assert_eq!(found, expected);
    }
}

#[test]
fn dockers_pools_in_dockers_order() {
    let pools = PoolsSpec::default().local;
    let mut used = vec![net("172.17.0.0/16"), net("172.19.5.0/24"), net("0.0.0.0/32")];
    let mut given = Vec::new();
    while let Ok(found) = free_subnet(&pools, used.iter().copied()) {
        used.push(found);
        given.push(found);
    }
    assert_eq!(given[..3], [net("172.18.0.0/16"), net("172.20.0.0/16"), net("172.21.0.0/16")]);
    assert_eq!(given.len(), 13 + 16, "172.18, 172.20 to 172.31, and 192.168 by /20");
    assert_eq!(given.last(), Some(&net("192.168.240.0/20")));
    let overlay = PoolsSpec::default().overlay;
    assert_eq!(free_subnet(&overlay, []), Ok(net("10.0.0.0/24")));
    assert_eq!(free_subnet(&overlay, [net("10.0.0.0/9")]), Ok(net("10.128.0.0/24")));
    assert_eq!(free_subnet(&overlay, [net("10.0.0.0/8")]), Err(IpamError::NoPool));
}

#[test]
fn every_host_has_an_ipv6_prefix_of_its_own() {
    let (a, b) = (unique_local("a"), unique_local("b"));
    assert!(a != b && a == unique_local("a"));
    assert!("fc00::/7".parse::<ipnet::Ipv6Net>().unwrap().contains(&a));
    let pool = [PoolSpec { base: a.into(), size: 64 }];
    let first = free_subnet(&pool, []).unwrap();
    assert_eq!((first.addr(), first.prefix_len()), (IpAddr::V6(a.addr()), 64));
    assert_ne!(free_subnet(&pool, [first]).unwrap(), first);
}

/// A million addresses of a /8, in ranges and in holes: a search through them would take hours.
#[test]
fn a_large_subnet_is_no_slower() {
    let start = Instant::now();
    let mut subnet = subnet("10.0.0.0/8");
    let host = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number));
    for number in (1..1_000_000).step_by(2) {
        subnet.claim(host(number)).unwrap();
    }
    for number in (2..1_000_000).step_by(2) {
        assert_eq!(subnet.allocate(), Ok(host(number)));
    }
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

proptest! {
    /// Against a set of numbers.
    #[test]
    fn ranges_are_a_set(steps in vec((any::<bool>(), 0..40_u128, 0..8_u128), 1..60)) {
        let (mut ranges, mut naive) = (Ranges::default(), BTreeSet::new());
        for (one, number, length) in steps {
            if one {
                prop_assert_eq!(ranges.insert(number), naive.insert(number));
            } else {
                ranges.insert_range(number, number + length);
                naive.extend(number..=number + length);
            }
            let expected = (number..).find(|it| !naive.contains(it));
            prop_assert_eq!(ranges.first_free(number), expected);
            let inside = naive.range(number..=number + length).count() as u128;
            prop_assert_eq!(ranges.within(number, number + length), inside);
            prop_assert_eq!(ranges.last_overlap(number, number + length).is_some(), inside > 0);
        }
    }

    /// What is allocated is in the range, free, and the lowest.
    #[test]
    fn addresses_are_given_once(prefix in 20..=31_u8, steps in vec((any::<bool>(), 0..64_usize), 1..80)) {
        let net = IpNet::new(ip("10.9.0.0"), prefix).unwrap();
        let mut subnet = Subnet::new(&net.into()).unwrap();
        let hosts: Vec<IpAddr> = net.hosts().collect();
        let mut naive = BTreeSet::new();
        for (asks, index) in steps {
            let chosen = hosts[index % hosts.len()];
            if asks {
                prop_assert_eq!(subnet.claim(chosen).is_ok(), naive.insert(chosen));
                continue;
            }
            match subnet.allocate() {
                Ok(address) => {
                    prop_assert_eq!(Some(&address), hosts.iter().find(|it| !naive.contains(*it)));
                    naive.insert(address);
                }
                Err(error) => {
                    prop_assert_eq!(error, IpamError::NoAddress);
                    prop_assert_eq!(naive.len(), hosts.len());
                }
            }
        }
    }

    /// The first block that overlaps nothing, as a search by hand finds it.
    #[test]
    fn subnets_overlap_nothing(used in vec((0..=255_u8, 0..=255_u8, 12..=32_u8), 0..12), size in 17..=24_u8) {
        let pool = [PoolSpec { base: net("10.9.0.0/16"), size }];
        let used: Vec<IpNet> = used
            .into_iter()
            .map(|(c, d, len)| IpNet::new(IpAddr::from([10, 9, c, d]), len).unwrap().trunc())
            .filter(|it| it.prefix_len() > 16)
            .collect();
        let free = |it: &IpNet| !used.iter().any(|used| overlap(*used, *it));
        let expected = net("10.9.0.0/16").subnets(size).unwrap().find(free);
        prop_assert_eq!(free_subnet(&pool, used.iter().copied()).ok(), expected);
    }
}

#[test]
fn a_clock_that_was_set_back_keeps_no_address_for_long() {
    let (mut turns, now) = (Turns::default(), Timestamp::from_second(1_000_000).unwrap());
    turns.take_back(ip("10.9.0.1"), now);
    let next = |turns: &Turns, now| subnet("10.9.0.0/29").allocate_next(turns, None, now).unwrap();
    assert_eq!(next(&turns, now), ip("10.9.0.2"));
    assert_eq!(next(&turns, now - SignedDuration::from_hours(1)), ip("10.9.0.1"));
    assert_eq!(next(&turns, now + REST), ip("10.9.0.1"));
}

#[derive(Clone, Debug)]
enum Turn {
    Come,
    Go(usize),
    Pass(i64),
}

proptest! {
    /// Containers come and go in a small subnet: none gets an address that is in use, nor one that rests while another does
    /// not; and as long as one is free, it is given out.
    #[test]
    fn no_address_is_given_out_before_its_turn(
        turns in vec(prop_oneof![
            4 => Just(Turn::Come),
            3 => (0..8_usize).prop_map(Turn::Go),
            2 => (0..40_i64).prop_map(Turn::Pass),
        ], 0..80),
    ) {
        let mut ledger = Turns::default();
        let mut now = Timestamp::from_second(1_000_000).unwrap();
        let mut used: Vec<IpAddr> = Vec::new();
        let mut back: std::collections::BTreeMap<IpAddr, Timestamp> = Default::default();
        let mut last = None;
        for turn in turns {
            match turn {
                Turn::Pass(seconds) => now += SignedDuration::from_secs(seconds),
                Turn::Go(index) if index < used.len() => {
                    let address = used.remove(index);
                    ledger.take_back(address, now);
                    back.insert(address, now);
                }
                Turn::Go(_) => {}
                Turn::Come => {
                    let mut subnet = subnet("10.9.0.0/29");
                    used.iter().for_each(|address| subnet.claim(*address).unwrap());
                    let Ok(address) = subnet.allocate_next(&ledger, last, now) else {
                        prop_assert_eq!(used.len(), 6);
                        continue;
                    };
                    prop_assert!(!used.contains(&address));
                    let rests = |it: &IpAddr| back.get(it).is_some_and(|since| now.duration_since(*since) < REST);
                    let all = (1..=6).map(|host| IpAddr::from([10, 9, 0, host]));
                    let free: Vec<_> = all.filter(|it| !used.contains(it)).collect();
                    if rests(&address) {
                        prop_assert!(free.iter().all(rests), "{address} rests, and {free:?} do not");
                        prop_assert_eq!(free.iter().map(|it| back[it]).min(), Some(back[&address]));
                    }
                    ledger.give(net("10.9.0.0/29"), address);
                    prop_assert_eq!(ledger.last(net("10.9.0.0/29")), Some(address));
                    last = Some(address);
                    used.push(address);
                }
            }
        }
    }
}
