//! The hash that flows are spread by. It never changes, so that a restarted switch chooses the same backends.

use std::net::IpAddr;

/// Odd constants with as many ones as zeros, without a pattern.
const SECRETS: [u64; 3] = [0x2d35_8dcc_aa6c_78a5, 0x8bb8_4b93_962e_acc9, 0x4b33_a62e_d433_d4a3];

/// Mixes `value` into `hash`: a multiplication whose upper half is folded back.
#[inline]
pub(super) fn mix(hash: u64, value: u64) -> u64 {
    let product = u128::from(hash ^ SECRETS[0] ^ value) * u128::from(SECRETS[1] ^ value.rotate_left(32));
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is what is meant")]
    let (upper, lower) = ((product >> 64) as u64, product as u64);
    upper ^ lower ^ SECRETS[2]
}

/// The address as two words; IPv4 as mapped (RFC 4291 section 2.5.5.2).
#[inline]
pub(super) fn words(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    };
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is what is meant")]
    [(bits >> 64) as u64, bits as u64]
}

/// Mixes an address into `hash`.
#[inline]
pub(super) fn mix_address(hash: u64, address: IpAddr) -> u64 {
    let [upper, lower] = words(address);
    mix(mix(hash, upper), lower)
}
