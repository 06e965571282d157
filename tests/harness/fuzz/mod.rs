//! Bodies of the fuzz targets. Each function takes arbitrary bytes and panics if an invariant is violated. The fuzzer
//! calls them (`tests/fuzz/targets/`), and so does an ordinary test, on the inputs that are kept (`tests/fuzz/replay.rs`).

mod config;
mod decap;
mod encap;
mod frame;
mod names;
mod offload;
mod operations;
mod ports;
mod replies;

pub use self::{
    config::config, decap::decap, encap::encap, frame::frame, names::names, offload::offload,
    operations::operations, replies::replies,
};

use arbitrary::{Arbitrary, Unstructured};

/// The body of a fuzz target.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: [(&str, Target); 8] = [
    ("config", config),
    ("decap", decap),
    ("encap", encap),
    ("frame", frame),
    ("names", names),
    ("offload", offload),
    ("operations", operations),
    ("replies", replies),
];

/// Decodes `data`; `None` if it is too short.
fn structured<'a, T: Arbitrary<'a>>(data: &'a [u8]) -> Option<T> {
    T::arbitrary_take_rest(Unstructured::new(data)).ok()
}
