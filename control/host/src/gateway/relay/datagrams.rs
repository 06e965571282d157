//! Relay of UDP: each sender has a socket towards the container until it is idle.
//!
//! Replies are sent from the address that the sender used, or it would not accept them (IPV6_PKTINFO, RFC 3542 section 6).

use std::{
    collections::{HashMap, hash_map::Entry},
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::AsRawFd,
    sync::Arc,
    time::Duration,
};

use nix::{
    cmsg_space,
    libc::{in6_addr, in6_pktinfo},
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt, sockopt,
    },
};
use rustix::net::{RecvFlags, SendFlags};
use socket2::Socket;
use tokio::{io::Interest, net::UdpSocket, select, task::JoinSet, time::timeout};

use super::places::{Place, Places};

/// Idle time, in both directions, after which a session ends.
const SILENCE: Duration = Duration::from_secs(90);

/// One byte more than the longest datagram.
const LONGEST: usize = 1 << 16;

/// A sender, and the address of the host that it sends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Sender {
    from: SocketAddrV6,
    at: Ipv6Addr,
    /// Interface index; replies to link-local addresses are sent by it.
    interface: u32,
}

/// A session between one sender and the container.
struct Session {
    far: Arc<UdpSocket>,
    place: Arc<Place>,
}

/// Makes the kernel report the destination address of each datagram.
pub(super) fn prepare(socket: &Socket) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?)
}

/// Relays datagrams to `to`, and replies back.
pub(super) async fn carry(near: &Arc<UdpSocket>, to: SocketAddr, places: Arc<Places>) {
    let mut sessions: HashMap<Sender, Session> = HashMap::new();
    let mut answers = JoinSet::new();
    let mut buffer = vec![0; LONGEST];
    loop {
        select! {
            heard = near.async_io(Interest::READABLE, || receive(near, &mut buffer)) => {
                let Ok((sender, len)) = heard else { continue };
                let session = match sessions.entry(sender) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        let place = Arc::new(places.take((*sender.from.ip()).into()));
                        let Ok(far) = open(to) else { continue };
                        let far = Arc::new(far);
                        let back = answer(Arc::clone(near), sender, Arc::clone(&far), Arc::clone(&place));
                        answers.spawn(async move { back.await; sender });
                        new.insert(Session { far, place })
                    }
                };
                session.place.note();
                // By the system call itself: the runtime learns only later that a new socket is writable. What does not fit is
                // lost, as on any path of datagrams.
                let _ = rustix::net::send(&session.far, &buffer[..len], SendFlags::DONTWAIT);
            }
            Some(Ok(silent)) = answers.join_next() => drop(sessions.remove(&silent)),
        }
    }
}

fn open(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let far = std::net::UdpSocket::bind(SocketAddr::new(any, 0))?;
    far.connect(to)?;
    far.set_nonblocking(true)?;
    UdpSocket::from_std(far)
}

/// Relays replies until the session is idle, or has lost its place.
async fn answer(near: Arc<UdpSocket>, to: Sender, far: Arc<UdpSocket>, place: Arc<Place>) {
    // The buffer lives within the call, not as long as the session: all relays share one thread.
    let relay = || {
        let mut buffer = [0; LONGEST];
        let (len, _) = rustix::net::recv(&far, &mut buffer, RecvFlags::DONTWAIT)?;
        place.note();
        // What does not fit is lost, as above.
        let _ = send(&near, &buffer[..len], to);
        Ok(())
    };
    loop {
        let left = SILENCE.saturating_sub(place.silent());
        select! {
            // An error: nothing listens there now; that may change in a moment.
            relayed = timeout(left, far.async_io(Interest::READABLE, relay)) => {
                if relayed.is_err() && place.silent() >= SILENCE {
                    return;
                }
            }
            () = place.evicted() => return,
        }
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(Sender, usize)> {
    let mut space = cmsg_space!(in6_pktinfo);
    let mut pieces = [IoSliceMut::new(buffer)];
    let heard = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut pieces, Some(&mut space), MsgFlags::empty())?;
    let at = heard.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
        _ => None,
    });
    let (Some(from), Some(at)) = (heard.address, at) else { return Err(io::ErrorKind::InvalidData.into()) };
    let sender = Sender { from: from.into(), at: at.ipi6_addr.s6_addr.into(), interface: at.ipi6_ifindex };
    Ok((sender, heard.bytes))
}

fn send(socket: &UdpSocket, datagram: &[u8], to: Sender) -> io::Result<usize> {
    let info = in6_pktinfo {
        ipi6_addr: in6_addr { s6_addr: to.at.octets() },
        ipi6_ifindex: if to.at.is_unicast_link_local() { to.interface } else { 0 },
    };
    let sent = sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(datagram)],
        &[ControlMessage::Ipv6PacketInfo(&info)],
        MsgFlags::empty(),
        Some(&SockaddrIn6::from(to.from)),
    )?;
    Ok(sent)
}
