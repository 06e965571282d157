//! Who uses a port of the host, where the kernel says that it is in use.
//!
//! A server that has ended leaves connections behind: open ones of its children, and closed ones that linger for a minute
//! (TIME_WAIT, RFC 9293 section 3.6.1). Without SO_REUSEADDR on both sides they keep others from binding its port, and no socket listens
//! there. Asked is sock_diag(7).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::ControlFlow,
};

use netlink_packet_core::NLM_F_DUMP;
use rustix::net::netlink;

use crate::netlink::Socket;

// include/uapi/linux/sock_diag.h, inet_diag.h; include/net/tcp_states.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const FAMILIES: [u8; 2] = [2, 10];
const TCP: u8 = 6;
const LISTEN: u8 = 10;

/// Who uses a port of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Users {
    /// A process listens there, or has bound it.
    Process,
    /// Connections of a server that listens no longer.
    Connections,
}

/// A socket as sock_diag lists it: its state, and its own address.
type Listed = (u8, IpAddr);

/// Who uses the TCP port at `at`, in the calling thread's network namespace.
///
/// # Errors
/// The kernel does not list its sockets.
pub(super) fn of(at: SocketAddr) -> io::Result<Users> {
    let mut listed = Vec::new();
    for family in FAMILIES {
        let socket = Socket::open(netlink::SOCK_DIAG)?;
        socket.send(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, [family, TCP, 0, 0], &request(at.port()))?;
        socket.answers(|_, body| {
            listed.extend(read(body));
            ControlFlow::Continue(())
        })?;
    }
    Ok(judge(at.ip(), &listed))
}

/// `struct inet_diag_req_v2` after its first four bytes: all states, and a source port.
fn request(port: u16) -> [u8; 52] {
    let mut request = [0; 52];
    request[..4].fill(0xff);
    request[4..6].copy_from_slice(&port.to_be_bytes());
    request
}

/// `struct inet_diag_msg`: family, state, timer, retrans, and the addresses.
fn read(body: &[u8]) -> Option<Listed> {
    let (family, state) = (*body.first()?, *body.get(1)?);
    let source = body.get(8..24)?;
    let address = match family {
        2 => Ipv4Addr::from(*source.first_chunk::<4>()?).into(),
        _ => Ipv6Addr::from(*source.first_chunk::<16>()?).to_canonical(),
    };
    Some((state, address))
}

/// A socket that is bound and does nothing is not listed: where nothing else explains it, a process has the port.
fn judge(at: IpAddr, listed: &[Listed]) -> Users {
    let meets = |own: IpAddr| own == at || own.is_unspecified() || at.is_unspecified();
    let listens = listed.iter().any(|&(state, own)| state == LISTEN && meets(own));
    if listens || listed.is_empty() { Users::Process } else { Users::Connections }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn listeners_are_told_from_what_they_leave() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        assert_eq!(of(at).unwrap(), Users::Process);
        let client = TcpStream::connect(at).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(of(at).unwrap(), Users::Process);
        drop(listener);
        assert_eq!(of(at).unwrap(), Users::Connections);
        // The one that closes first lingers.
        drop(accepted);
        drop(client);
        assert_eq!(of(at).unwrap(), Users::Connections);
    }

    #[test]
    fn a_listener_at_another_address_is_not_in_the_way() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let listed = [(LISTEN, ip("127.0.0.1")), (6, ip("192.0.2.1"))];
        assert_eq!(judge(ip("192.0.2.1"), &listed), Users::Connections);
        for at in ["127.0.0.1", "0.0.0.0", "::"] {
            assert_eq!(judge(ip(at), &listed), Users::Process, "{at}");
        }
        assert_eq!(judge(ip("192.0.2.1"), &[(LISTEN, ip("::"))]), Users::Process);
        assert_eq!(judge(ip("192.0.2.1"), &[]), Users::Process, "bound, and not listed");
    }
}
