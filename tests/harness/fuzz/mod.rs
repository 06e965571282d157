//! What the fuzz targets do with an input. Each function takes any bytes and panics if a law is broken: the fuzzer calls it
//! (`tests/fuzz/targets/`), and an ordinary test calls it with the inputs that are kept (`tests/fuzz/replay.rs`).

mod config;
mod decap;
mod encap;
mod frame;
mod offload;
mod operations;
mod ports;

pub use self::{
    config::config, decap::decap, encap::encap, frame::frame, offload::offload, operations::operations,
};

use arbitrary::{Arbitrary, Unstructured};

/// What a fuzz target does with an input.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: [(&str, Target); 6] = [
    ("config", config),
    ("decap", decap),
    ("encap", encap),
    ("frame", frame),
    ("offload", offload),
    ("operations", operations),
];

/// What `data` stands for, if it is long enough for anything.
fn structured<'a, T: Arbitrary<'a>>(data: &'a [u8]) -> Option<T> {
    T::arbitrary_take_rest(Unstructured::new(data)).ok()
}
