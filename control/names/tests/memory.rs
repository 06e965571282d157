//! What a table of many names takes.
#![expect(unsafe_code, reason = "a global allocator is unsafe to implement")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use vswitch_names::{Network, Record, Table};

struct Counting;

/// Bytes in use, of the whole process.
static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's; counting touches no memory it manages.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn record(number: u32) -> Record {
    Record {
        name: format!("project-service-{number}"),
        addresses: vec![IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))],
        ..Record::default()
    }
}

#[test]
fn a_hundred_thousand_names_take_forty_megabytes_at_most() {
    let records: Vec<_> = (0..100_000).map(record).collect();
    let before = IN_USE.load(Relaxed);
    let network = Arc::new(Network::new("blue", ["10.0.0.0/8".parse().unwrap()], &records));
    let stations = records.iter().map(|it| (it.addresses[0], vec!["blue".to_owned()]));
    let table = Table::new("vswitch.internal", 5, [network], stations);
    let taken = IN_USE.load(Relaxed) - before;
    println!("{taken} bytes for {} names", table.networks()[0].len());
    assert_eq!(table.networks()[0].len(), 100_000);
    assert!(taken <= 40_000_000, "{taken} bytes");
}
