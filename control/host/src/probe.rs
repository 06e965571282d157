//! Path MTU discovery to a peer, by echo requests that must not be fragmented.
//!
//! The kernel knows only what routers report ("fragmentation needed"), and some report nothing. So ICMP echo requests of
//! several lengths are sent with DF set, whatever the kernel's estimate (`IP_PMTUDISC_PROBE`), and the longest that is
//! answered is the path's (RFC 4821 does the same with the payload itself). The peer's kernel answers; it need not support
//! VXLAN.

use std::{
    io::{self, Read},
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::random;
use socket2::{Domain, Protocol, Socket, Type};
use vswitch::{checksum::Sum, device::DeviceError};
use vswitch_model::{Family, Mtu};
use vswitch_vxlan::endpoint::never_fragment;

/// How long to wait for an answer. A path with a longer round trip is not an underlay.
const PATIENCE: Duration = Duration::from_millis(400);
/// Requests of one length before it counts as too long, since one may be lost.
const TRIES: u32 = 2;
/// Bytes of the ICMP header.
const ICMP: usize = 8;

/// A measured path to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathReport {
    /// Longest packet that was answered, in bytes.
    pub mtu: u16,
    /// Shortest round-trip time.
    pub rtt: Duration,
}

/// Measures the path from `local` to `remote`, whose ports mean nothing, with packets of at most `most` bytes. Blocks for at most ten seconds.
///
/// # Errors
/// `TimedOut`: not even the shortest packet was answered. Others: no right to send, or no route.
pub fn measure(local: SocketAddr, remote: SocketAddr, most: u16) -> io::Result<PathReport> {
    let mut echo = Echo::open(local, remote)?;
    let mut rtt = Duration::MAX;
    let mut reaches = |mtu| {
        let answer = echo.ask(mtu)?;
        rtt = answer.map_or(rtt, |answer| answer.min(rtt));
        io::Result::Ok(answer.is_some())
    };
    let least = match Family::of(remote.ip()) {
        Family::V4 => Mtu::MIN.get(),
        Family::V6 => Mtu::IPV6.get(),
    };
    if !reaches(least)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mtu = longest(least, most.max(least), &mut reaches)?;
    Ok(PathReport { mtu, rtt })
}

/// The largest value of `least..=most` for which `reaches` holds, as it does for `least`.
fn longest(least: u16, most: u16, reaches: &mut dyn FnMut(u16) -> io::Result<bool>) -> io::Result<u16> {
    // Most paths carry what the first link carries.
    if reaches(most)? {
        return Ok(most);
    }
    let (mut reached, mut lost) = (least, most);
    while lost - reached > 1 {
        let middle = reached + (lost - reached) / 2;
        if reaches(middle)? {
            reached = middle;
        } else {
            lost = middle;
        }
    }
    Ok(reached)
}

/// A socket that sends echo requests to one host.
struct Echo {
    socket: Socket,
    family: Family,
    identifier: u16,
    sequence: u16,
}

impl Echo {
    fn open(mut local: SocketAddr, mut remote: SocketAddr) -> io::Result<Self> {
        let family = Family::of(remote.ip());
        // A raw socket takes a port for a protocol.
        local.set_port(0);
        remote.set_port(0);
        let (domain, protocol) = match family {
            Family::V4 => (Domain::IPV4, Protocol::ICMPV4),
            Family::V6 => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.bind(&local.into())?;
        socket.connect(&remote.into())?;
        never_fragment(&socket, family == Family::V4)?;
        // To tell its replies from those of another probe.
        let identifier = u16::from_ne_bytes(random::bytes()?);
        Ok(Self { socket, family, identifier, sequence: 0 })
    }

    /// Sends packets of `mtu` bytes until one is answered: its round-trip time, or `None`.
    fn ask(&mut self, mtu: u16) -> io::Result<Option<Duration>> {
        let header = match self.family {
            Family::V4 => 20,
            Family::V6 => 40,
        };
        for _ in 0..TRIES {
            self.sequence = self.sequence.wrapping_add(1);
            let request = self.request(usize::from(mtu) - header);
            let start = Instant::now();
            match self.socket.send(&request) {
                Ok(_) => {}
                // Longer than the first link carries.
                Err(error) if DeviceError::of(&error) == DeviceError::TooLong => return Ok(None),
                Err(error) => return Err(error),
            }
            while let Some(left) = PATIENCE.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
                self.socket.set_read_timeout(Some(left))?;
                let mut answer = [0; 128];
                // A router's report about the packet is an error of the socket: then no answer comes.
                if let Ok(len) = (&self.socket).read(&mut answer)
                    && self.is_answer(&answer[..len])
                {
                    return Ok(Some(start.elapsed()));
                }
            }
        }
        Ok(None)
    }

    /// An echo request of `len` bytes (RFC 792, RFC 4443 section 4.1). The kernel computes the checksum of ICMPv6.
    fn request(&self, len: usize) -> Vec<u8> {
        let mut request = vec![0; len.max(ICMP)];
        request[0] = match self.family {
            Family::V4 => 8,
            Family::V6 => 128,
        };
        request[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        request[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        if self.family == Family::V4 {
            let checksum = Sum::of(&request).checksum();
            request[2..4].copy_from_slice(&checksum.to_be_bytes());
        }
        request
    }

    /// Whether `packet` is the reply to the last request. A raw IPv4 socket receives the IP header as well.
    fn is_answer(&self, packet: &[u8]) -> bool {
        let (start, reply) = match self.family {
            Family::V4 => (usize::from(packet.first().copied().unwrap_or(0) & 0x0f) * 4, 0),
            Family::V6 => (0, 129),
        };
        let Some([kind, 0, _, _, id0, id1, seq0, seq1]) = packet.get(start..).and_then(|it| it.first_chunk())
        else {
            return false;
        };
        *kind == reply
            && u16::from_be_bytes([*id0, *id1]) == self.identifier
            && u16::from_be_bytes([*seq0, *seq1]) == self.sequence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_is_found_wherever_it_is() {
        for limit in [1280, 1281, 1400, 1499, 1500, 8999, 9000] {
            let mut asked = 0;
            let found = longest(1280, 9000, &mut |mtu| {
                asked += 1;
                Ok(mtu <= limit)
            });
            assert_eq!(found.unwrap(), limit);
            assert!(asked <= 15, "{asked} questions for {limit}");
        }
    }
}
