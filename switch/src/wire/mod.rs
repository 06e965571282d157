//! Wire formats: link layer, headers, checksums, offload metadata and segmentation.
//!
//! Nothing here knows of ports, networks or tables.

pub mod bytes;
pub mod checksum;
pub mod frame;
pub mod giant;
pub mod headers;
pub mod offload;
pub mod segment;
pub mod tunnel;
