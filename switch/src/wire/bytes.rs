//! Numbers in network byte order, read from bytes and written to them.
//!
//! The plain functions are for measured offsets, and panic if these are out of range; those with `try_`
//! return `None`.

/// The 16-bit number at `at`.
#[inline]
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The 32-bit number at `at`.
#[inline]
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) << 16 | u32::from(u16_at(bytes, at + 2))
}

/// Writes a 16-bit number at `at`.
#[inline]
pub fn put_u16(bytes: &mut [u8], at: usize, number: u16) {
    bytes[at..at + 2].copy_from_slice(&number.to_be_bytes());
}

/// Writes a 32-bit number at `at`.
#[inline]
pub(crate) fn put_u32(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
}

/// The 16-bit number at `at`, if `bytes` holds it.
#[inline]
pub fn try_u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    try_at(bytes, at).map(u16::from_be_bytes)
}

/// The 32-bit number at `at`, if `bytes` holds it.
#[inline]
pub fn try_u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    try_at(bytes, at).map(u32::from_be_bytes)
}

/// The 64-bit number at `at`, if `bytes` holds it.
#[inline]
pub fn try_u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    try_at(bytes, at).map(u64::from_be_bytes)
}

/// The length of a part of an IP packet, which is at most 65535 bytes, as a header field.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "part of an IP packet")]
pub fn length(len: usize) -> u16 {
    debug_assert!(u16::try_from(len).is_ok());
    len as u16
}

#[inline]
fn try_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_big_endian_and_bounded() {
        let mut bytes = [0; 10];
        put_u16(&mut bytes, 1, 0x1234);
        put_u32(&mut bytes, 3, 0x5678_9abc);
        assert_eq!((u16_at(&bytes, 1), u32_at(&bytes, 3)), (0x1234, 0x5678_9abc));
        assert_eq!(try_u64_at(&bytes, 1), Some(0x1234_5678_9abc_0000));
        assert_eq!(try_u32_at(&bytes, 6), Some(0xbc00_0000));
        assert_eq!((try_u16_at(&bytes, 8), try_u16_at(&bytes, 9)), (Some(0), None));
        for at in [7, 10, usize::MAX] {
            assert_eq!((try_u32_at(&bytes, at), try_u64_at(&bytes, at)), (None, None), "{at}");
        }
    }
}
