//! The blocks that a network's subnets are divided into: each is assigned from by one host.
//!
//! Who holds a block assigns its addresses alone, without asking, with or without a store. So blocks are small enough that
//! many hosts have one, and large enough that few transactions are needed.

use std::net::IpAddr;

use ipnet::IpNet;

/// Number of blocks of a subnet, as a power of two, if its blocks are not longer than [`LONGEST`] then.
const MANY: u8 = 5;

/// Addresses of the longest block, as a power of two.
const LONGEST: u8 = 6;

/// The prefix length of the blocks of a subnet: 8 addresses each in a /24, 64 in a /16.
pub fn prefix_len(subnet: IpNet) -> u8 {
    let host_bits = subnet.max_prefix_len() - subnet.prefix_len();
    subnet.max_prefix_len() - host_bits.saturating_sub(MANY).min(LONGEST)
}

/// The block of a subnet that has this address.
pub fn of(subnet: IpNet, address: IpAddr) -> Option<IpNet> {
    if !subnet.contains(&address) {
        return None;
    }
    IpNet::new(address, prefix_len(subnet)).ok().map(|block| block.trunc())
}

/// Number of blocks of a subnet.
pub fn count(subnet: IpNet) -> u64 {
    1_u64.checked_shl((prefix_len(subnet) - subnet.prefix_len()).into()).unwrap_or(u64::MAX)
}

/// The block number `index` of a subnet.
pub fn nth(subnet: IpNet, index: u64) -> IpNet {
    let length = prefix_len(subnet);
    let address = match subnet {
        IpNet::V4(net) => {
            let offset = u32::try_from(index).unwrap_or(0) << (32 - length);
            IpAddr::V4((net.network().to_bits() | offset).into())
        }
        IpNet::V6(net) => {
            let offset = u128::from(index) << (128 - length);
            IpAddr::V6((net.network().to_bits() | offset).into())
        }
    };
    IpNet::new_assert(address, length)
}

/// Number of addresses of a block.
pub fn size(block: IpNet) -> u64 {
    1 << (block.max_prefix_len() - block.prefix_len()).min(63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_divided_into_blocks() {
        for (subnet, blocks, block, third) in [
            ("10.0.0.0/24", 32, 8, "10.0.0.24/29"),
            ("10.1.0.0/16", 1024, 64, "10.1.0.192/26"),
            ("10.0.0.0/29", 8, 1, "10.0.0.3/32"),
            ("fd00::/64", 1 << 58, 64, "fd00::c0/122"),
        ] {
            let subnet = subnet.parse().unwrap();
            let block_3 = nth(subnet, 3);
            assert_eq!((count(subnet), size(block_3), block_3), (blocks, block, third.parse().unwrap()));
            assert_eq!(of(subnet, block_3.addr()), Some(block_3));
        }
        assert_eq!(of("10.0.0.0/24".parse().unwrap(), "10.0.1.1".parse().unwrap()), None);
    }
}
