//! Random numbers from the kernel.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};
use vswitch_model::Id;

/// `N` random bytes.
///
/// # Errors
/// The kernel has no getrandom(2).
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

/// A random id, unique in practice.
///
/// # Errors
/// As of [`bytes`].
pub fn id() -> io::Result<Id> {
    bytes().map(Id::from_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ids_are_two() {
        assert_ne!(id().unwrap(), id().unwrap());
    }
}
