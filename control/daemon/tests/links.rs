//! Namespaces and interfaces in a real kernel.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

mod common;

use std::{fs, io, os::unix::fs::MetadataExt, time::Instant};

use common::Scratch;
use rustix::net::{AddressFamily, SocketType, socket};
use vswitch_host::{
    link::{LinkError, Links, Wanted},
    netns::{Namespace, run_in},
};
use vswitch_model::{InterfaceSpec, Netns};

fn own_inode() -> u64 {
    fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
}

fn spec(address: &[&str], gateway: &[&str]) -> InterfaceSpec {
    InterfaceSpec {
        address: address.iter().map(|net| net.parse().unwrap()).collect(),
        gateway: gateway.iter().map(|hop| hop.parse().unwrap()).collect(),
        ..InterfaceSpec::default()
    }
}

fn wanted(ifname: &str, spec: InterfaceSpec) -> Wanted {
    Wanted { ifname: ifname.into(), spec, mtu: Some(1450), super_frame: Some(61_833), ..Wanted::default() }
}

#[test]
#[ignore = "needs root"]
fn a_closure_runs_inside_and_the_caller_stays_outside() {
    let scratch = Scratch::new("run");
    let outside = own_inode();
    let inside = run_in(&scratch.open(), own_inode).unwrap();
    assert_ne!(inside, outside);
    assert_eq!(own_inode(), outside);

    let by_path = Namespace::open(&Netns::Path(format!("/var/run/netns/{}", scratch.0).into())).unwrap();
    assert_eq!(by_path.inode(), scratch.open().inode());
    assert_ne!(by_path.inode(), Namespace::current().unwrap().inode());

    let failed =
        run_in(&scratch.open(), || socket(AddressFamily::from_raw(0xffff), SocketType::DGRAM, None)).unwrap();
    assert_eq!(
        io::Error::from(failed.unwrap_err()).raw_os_error(),
        Some(97),
        "EAFNOSUPPORT comes out unchanged"
    );
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_veth_pair_is_made_set_up_twice_and_deleted() {
    let (host, web) = (Scratch::new("veth-host"), Scratch::new("veth-web"));
    let (host_links, web_links) = (Links::open(host.open()).unwrap(), Links::open(web.open()).unwrap());
    host_links.create_veth("vp-web", &web_links, "eth0", 1450).await.unwrap();

    let mut wanted = wanted("eth0", spec(&["10.9.0.2/24", "fd09::2/64"], &["10.9.0.1", "fd09::1"]));
    wanted.spec.mac = Some("02:42:0a:09:00:02".parse().unwrap());
    web_links.configure(&wanted).await.unwrap();
    let shown = || web.ip("-o address show") + &web.ip("route show") + &web.ip("-6 route show default");
    let first = shown();
    for part in ["10.9.0.2/24 brd 10.9.0.255", "fd09::2/64 scope global nodad", "127.0.0.1/8"] {
        assert!(first.contains(part), "{part} missing in\n{first}");
    }
    assert!(first.contains("default via 10.9.0.1 dev eth0 proto static"), "{first}");
    assert!(first.contains("default via fd09::1 dev eth0 proto static"), "{first}");
    web_links.configure(&wanted).await.unwrap();
    assert_eq!(
        web.ip("route show") + &web.ip("-6 route show default"),
        first[first.find("default via").unwrap()..]
    );

    let eth0 = web_links.link("eth0").await.unwrap();
    assert_eq!((eth0.mac, eth0.mtu), (wanted.spec.mac, 1450));
    assert_eq!(eth0.super_frame, 61_833);
    assert!(eth0.up && eth0.running);
    let host_end = host_links.link("vp-web").await.unwrap();
    assert!(host_end.up && host_end.running);
    assert_eq!(host.ip("-o address show dev vp-web"), "", "the host's end has no address of its own");

    let before = std::mem::replace(&mut wanted.spec.address, vec!["10.9.0.3/24".parse().unwrap()]);
    wanted.before = Some(InterfaceSpec { address: before, ..wanted.spec.clone() });
    web_links.configure(&wanted).await.unwrap();
    let changed = web.ip("-o address show dev eth0 scope global");
    assert!(
        changed.contains("10.9.0.3/24") && !changed.contains("10.9.0.2/24") && !changed.contains("fd09::2")
    );
    assert!(
        web.ip("route show").contains("default via 10.9.0.1"),
        "the route outlives the change of address"
    );

    assert!(host_links.delete("vp-web").await.unwrap());
    assert!(!web_links.exists("eth0").await.unwrap());
    assert!(!host_links.delete("vp-web").await.unwrap());
}

#[tokio::test]
#[ignore = "needs root"]
async fn refusals_are_sentences_and_leave_nothing_behind() {
    let (host, web) = (Scratch::new("no-host"), Scratch::new("no-web"));
    let (host_links, web_links) = (Links::open(host.open()).unwrap(), Links::open(web.open()).unwrap());
    host_links.create_veth("vp-web", &web_links, "eth0", 1500).await.unwrap();
    let taken = host_links.create_veth("vp-two", &web_links, "eth0", 1500).await.unwrap_err().to_string();
    let label = &web.0;
    assert_eq!(
        taken,
        format!("eth0 already exists in namespace {label}: choose another --ifname or delete it")
    );
    assert!(!host_links.exists("vp-two").await.unwrap());

    let bad_mtu = host_links.create_veth("vp-two", &web_links, "eth1", 20).await.unwrap_err().to_string();
    assert!(bad_mtu.starts_with("cannot make the veth pair in namespace"), "{bad_mtu}");
    assert!(!host_links.exists("vp-two").await.unwrap());

    let far = web_links.configure(&wanted("eth0", spec(&["10.9.0.2/24"], &["192.0.2.1"]))).await.unwrap_err();
    let sentence = "gateway 192.0.2.1 is in no subnet of eth0: give eth0 an address in the gateway's subnet";
    assert_eq!(far.to_string(), sentence);

    let small = Wanted { mtu: Some(1000), ..wanted("eth0", spec(&["fd09::2/64"], &[])) };
    let error = web_links.configure(&small).await.unwrap_err();
    assert!(matches!(error, LinkError::Ipv6Off { .. }), "{error}");
    assert!(matches!(web_links.link("eth9").await, Err(LinkError::NoInterface(..))));
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_thousand_interfaces_take_seconds() {
    let (host, web) = (Scratch::new("many-host"), Scratch::new("many-web"));
    let (host_links, web_links) = (Links::open(host.open()).unwrap(), Links::open(web.open()).unwrap());
    let start = Instant::now();
    for port in 0..1000 {
        host_links.create_veth(&format!("vp-{port}"), &web_links, &format!("eth{port}"), 1450).await.unwrap();
    }
    let made = start.elapsed();
    let wanted = |port: usize| {
        let address = format!("10.{}.{}.2/24", port / 250, port % 250);
        wanted(&format!("eth{port}"), spec(&[&address], &[]))
    };
    let wanted: Vec<_> = (0..1000).map(wanted).collect();
    for result in web_links.configure_all(&wanted, || {}).await.unwrap() {
        result.unwrap();
    }
    let configured = start.elapsed() - made;
    for result in web_links.configure_all(&wanted, || {}).await.unwrap() {
        result.unwrap();
    }
    let again = start.elapsed() - made - configured;
    println!("1000 veth pairs: made in {made:?}, set up in {configured:?}, checked in {again:?}");
    assert!(made.as_secs() < 20 && configured.as_secs() < 10 && again.as_secs() < 2);
}
