//! The sockets of a tunnel endpoint.
//!
//! *Inlets* are bound to the tunnel's port, one for each worker; the kernel spreads flows over them
//! (SO_REUSEPORT). *Outlets* are bound to the source ports that distinguish flows; another one, for copies,
//! may send fragments. `quinn-udp` receives: many datagrams in one message, with their congestion mark. It
//! does not send, because it takes a single slice, where trains are gathered from many, and sets the
//! congestion mark but no DSCP; `socket2` sends.

use std::{
    hash::{BuildHasher, RandomState},
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use quinn_udp::{EcnCodepoint, RecvMeta, UdpSocketState};
use socket2::{Domain, InterfaceIndexOrAddress, MsgHdr, Protocol, SockAddr, Socket, Type};
use tracing::warn;

use crate::{
    ecn::Ecn,
    encap::Train,
    losses::{Losses, Lost, checksum_errors},
    sockopt,
    strangers::Strangers,
};

/// Number of source ports of an endpoint: enough to spread flows over the queues of a network card.
pub const SOURCES: u8 = 16;

/// The range of source ports: dynamic ports (RFC 7348 section 5).
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// Receive buffer of an inlet in bytes: a quarter of a second at 1 Gbit/s; a 64 KB train counts up to twice
/// its size.
const RECEIVE_BUFFER: usize = 32 << 20;
/// Send buffer of an outlet in bytes.
const SEND_BUFFER: usize = 8 << 20;

/// Options of an endpoint, fixed while it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The address it receives on and sends from; a link-local one with its scope. Not the unspecified address: a kernel's endpoint drops
    /// datagrams from an unexpected address.
    pub local: SocketAddr,
    /// Number of inlets: one for each worker.
    pub inlets: usize,
    /// Whether datagrams are sent with checksums. RFC 7348 section 5 advises against it, but only datagrams
    /// with checksums can be sent many at a time.
    pub checksum: bool,
    /// The underlay's multicast group, to receive flooded frames.
    pub group: Option<Group>,
}

/// A multicast group of the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its address.
    pub address: IpAddr,
    /// Index of the interface where it is joined and sent to.
    pub interface: u32,
}

/// Capabilities of the endpoint's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Maximum number of datagrams per send (UDP_SEGMENT); 1: not supported, or checksums are off.
    pub datagrams: usize,
    /// Whether many datagrams may be received in one message (UDP_GRO).
    pub gro: bool,
    /// Receive buffer of each inlet in bytes, as accounted by the kernel.
    pub receive_buffer: usize,
    /// Send buffer of each outlet in bytes, as accounted by the kernel.
    pub send_buffer: usize,
}

/// Open sockets. See the [module](self).
#[derive(Debug)]
pub struct Vtep {
    options: Options,
    local: SocketAddr,
    inlets: Vec<InletSocket>,
    outlets: Vec<Socket>,
    /// Sockets of the same source ports that may send fragments, once they are needed.
    fragmenting: OnceLock<Vec<Socket>>,
    /// Copies have one source port, so that they arrive in order.
    copies: Socket,
    datagrams: AtomicUsize,
    /// Not used when forwarding.
    losses: Mutex<Losses>,
    /// Unknown senders.
    pub strangers: Strangers,
}

#[derive(Debug)]
struct InletSocket {
    socket: Socket,
    state: UdpSocketState,
}

/// Metadata of a received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its source address.
    pub source: SocketAddr,
    /// The outer header's congestion mark.
    pub ecn: Ecn,
    /// Total length of its datagrams, in bytes.
    pub len: usize,
    /// Length of each datagram in bytes; the last may be shorter.
    pub stride: usize,
}

impl Vtep {
    /// Opens all sockets in the calling thread's network namespace.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL`: no interface has the local address. `EADDRINUSE`: another endpoint, such as the
    /// kernel's VXLAN device, uses the port.
    pub fn open(options: &Options) -> io::Result<Self> {
        let shared = options.inlets > 1;
        let mut inlets = Vec::new();
        for _ in 0..options.inlets.max(1) {
            inlets.push(InletSocket::open(options.local, shared)?);
        }
        if let Some(group) = options.group {
            inlets.push(InletSocket::join(options.local, group)?);
        }
        let mut outlets = Vec::new();
        for _ in 0..SOURCES {
            outlets.push(outlet(options, TooLong::Refuse)?);
        }
        let copies = outlet(options, TooLong::Fragment)?;
        // The options that this sets besides probing affect only receiving sockets.
        let probe = UdpSocketState::new((&Socket::new(domain(options.local), Type::DGRAM, None)?).into())?;
        let datagrams = if options.checksum { probe.max_gso_segments() } else { 1 };
        Ok(Self {
            options: options.clone(),
            local: options.local,
            inlets,
            outlets,
            fragmenting: OnceLock::new(),
            copies,
            datagrams: AtomicUsize::new(datagrams),
            losses: Mutex::new(Losses::new(checksum_errors(options.local.ip()))),
            strangers: Strangers::default(),
        })
    }

    /// The address it receives on.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The multicast group it is a member of.
    pub fn group(&self) -> Option<Group> {
        self.options.group
    }

    /// The socket address of another host's `ip` and `port`: if `ip` is link-local, on the link of this endpoint.
    pub fn address(&self, ip: IpAddr, port: u16) -> SocketAddr {
        match (ip, self.local) {
            (IpAddr::V6(ip), SocketAddr::V6(local)) if ip.is_unicast_link_local() => {
                SocketAddrV6::new(ip, port, 0, local.scope_id()).into()
            }
            _ => SocketAddr::new(ip, port),
        }
    }

    /// The capabilities of its sockets.
    pub fn features(&self) -> Features {
        let (inlet, outlet) = (&self.inlets[0], &self.outlets[0]);
        Features {
            datagrams: self.datagrams(),
            gro: inlet.state.gro_segments() > 1,
            receive_buffer: inlet.socket.recv_buffer_size().unwrap_or(0),
            send_buffer: outlet.send_buffer_size().unwrap_or(0),
        }
    }

    /// Number of inlets, including that of the group.
    pub fn inlets(&self) -> usize {
        self.inlets.len()
    }

    /// Maximum number of datagrams per send.
    pub fn datagrams(&self) -> usize {
        self.datagrams.load(Relaxed)
    }

    /// Datagrams that the kernel dropped at the inlets. Reads a file of /proc: not for forwarding threads.
    pub fn lost(&self) -> Lost {
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = self.inlets.iter().map(|inlet| sockopt::drops(&inlet.socket)).sum();
        losses.update(dropped, checksum_errors(self.local.ip()))
    }

    /// Sets the outer time to live, or hop limit.
    ///
    /// # Errors
    /// The kernel rejects the value: 0.
    pub fn set_ttl(&self, ttl: u8) -> io::Result<()> {
        let fragmenting = self.fragmenting.get().into_iter().flatten();
        for outlet in self.outlets.iter().chain([&self.copies]).chain(fragmenting) {
            if self.local.is_ipv4() {
                outlet.set_ttl_v4(ttl.into())?;
                outlet.set_multicast_ttl_v4(ttl.into())?;
            } else {
                outlet.set_unicast_hops_v6(ttl.into())?;
                outlet.set_multicast_hops_v6(ttl.into())?;
            }
        }
        Ok(())
    }

    /// Prepares [`send_in_fragments`](Self::send_in_fragments), with this time to live, or hop limit. Idempotent.
    ///
    /// # Errors
    /// The sockets cannot be opened.
    pub fn allow_fragments(&self, ttl: u8) -> io::Result<()> {
        if self.fragmenting.get().is_some() {
            return Ok(());
        }
        let twins =
            self.outlets.iter().map(|outlet| twin(&self.options, outlet)).collect::<io::Result<_>>()?;
        // Configuration is changed by one thread.
        let _ = self.fragmenting.set(twins);
        self.set_ttl(ttl)
    }

    /// The path MTU to `peer` in bytes, as far as the kernel knows it.
    ///
    /// # Errors
    /// There is no route.
    pub fn path_mtu(&self, peer: SocketAddr) -> io::Result<u16> {
        let socket = Socket::new(domain(peer), Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind(&with_port(self.local, 0).into())?;
        socket.connect(&peer.into())?;
        let mtu = sockopt::get(&socket, if peer.is_ipv4() { sockopt::PATH_MTU } else { sockopt::PATH_MTU6 })?;
        Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
    }

    /// The descriptor to poll for messages of an inlet.
    pub fn readiness(&self, inlet: usize) -> BorrowedFd<'_> {
        self.inlets[inlet].socket.as_fd()
    }

    /// Receives one message: one datagram, or a train of them.
    ///
    /// # Errors
    /// `WouldBlock`: there is none.
    pub fn recv(&self, inlet: usize, buffer: &mut [u8]) -> io::Result<Received> {
        let InletSocket { socket, state } = &self.inlets[inlet];
        let mut meta = [RecvMeta::default()];
        state.recv(socket.into(), &mut [IoSliceMut::new(buffer)], &mut meta)?;
        let [RecvMeta { addr: source, len, stride, ecn, .. }] = meta;
        let ecn = match ecn {
            None => Ecn::NotEct,
            Some(EcnCodepoint::Ect0) => Ecn::Ect0,
            Some(EcnCodepoint::Ect1) => Ecn::Ect1,
            Some(EcnCodepoint::Ce) => Ecn::Ce,
        };
        Ok(Received { source, ecn, len, stride })
    }

    /// Sends a train to `peer`.
    ///
    /// # Errors
    /// `WouldBlock`: the buffer is full. `EMSGSIZE`: it exceeds the known path MTU.
    pub fn send(&self, peer: &SockAddr, train: &Train<'_>) -> io::Result<()> {
        self.send_by(&self.outlets[usize::from(train.source) % self.outlets.len()], peer, train)
    }

    /// Sends a train to `peer` whose datagrams exceed the path MTU, one by one: the kernel does not segment datagrams that it
    /// must fragment. The source port is the same, so that a flow keeps it whether its packets are fragmented or not.
    ///
    /// # Errors
    /// `WouldBlock`: the buffer is full. `EMSGSIZE`: fragments were not [allowed](Self::allow_fragments).
    pub fn send_in_fragments(&self, peer: &SockAddr, train: &Train<'_>) -> io::Result<()> {
        let outlet = self.fragmenting.get().and_then(|all| all.get(usize::from(train.source) % all.len()));
        let outlet = outlet.ok_or_else(|| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
        train.each(|parts| self.send_one(outlet, peer, train, parts, None))
    }

    /// Sends a train of copies to `peer`.
    ///
    /// # Errors
    /// Those of [`send`](Self::send). `EMSGSIZE`: its datagrams exceed the path MTU; use
    /// [`send_copies_in_fragments`](Self::send_copies_in_fragments).
    pub fn send_copies(&self, peer: &SockAddr, train: &Train<'_>) -> io::Result<()> {
        self.send_by(&self.copies, peer, train)
    }

    /// Sends a train of copies to `peer` whose datagrams exceed the path MTU, one by one: the kernel does not
    /// segment datagrams that it must fragment.
    ///
    /// # Errors
    /// `WouldBlock`: the buffer is full.
    pub fn send_copies_in_fragments(&self, peer: &SockAddr, train: &Train<'_>) -> io::Result<()> {
        train.each(|parts| self.send_one(&self.copies, peer, train, parts, None))
    }

    fn send_by(&self, outlet: &Socket, peer: &SockAddr, train: &Train<'_>) -> io::Result<()> {
        let v4 = self.local.is_ipv4();
        let send = |parts: &[io::IoSlice<'_>], segment| self.send_one(outlet, peer, train, parts, segment);
        if train.datagrams == 1 {
            return send(train.parts, None);
        }
        match send(train.parts, u16::try_from(train.size).ok()) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL)) => {
                // Older kernels report this for segments that exceed the path MTU.
                let headers = if v4 { 28 } else { 48 };
                let path = peer.as_socket().and_then(|peer| self.path_mtu(peer).ok());
                if path.is_some_and(|mtu| usize::from(mtu) < train.size + headers) {
                    return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
                }
                // The device or the kernel cannot segment, despite its earlier answer.
                if self.datagrams.swap(1, Relaxed) > 1 {
                    warn!(%error, "the kernel does not segment for us: datagrams are sent one by one from now on");
                }
                train.each(|parts| send(parts, None))
            }
            result => result,
        }
    }

    /// One `sendmsg` of a datagram, or of several with `segment` bytes each.
    fn send_one(
        &self,
        outlet: &Socket,
        peer: &SockAddr,
        train: &Train<'_>,
        parts: &[io::IoSlice<'_>],
        segment: Option<u16>,
    ) -> io::Result<()> {
        let control = Control::new(self.local.is_ipv4(), train, segment);
        let message = MsgHdr::new().with_addr(peer).with_buffers(parts);
        let message = if control.len > 0 { message.with_control(control.bytes()) } else { message };
        outlet.sendmsg(&message, 0).map(drop)
    }
}

/// The handling of datagrams that exceed the known path MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TooLong {
    /// Reject with `EMSGSIZE`, so that the sender can be informed. Routers do not fragment it.
    Refuse,
    /// Send in fragments, which routers may fragment further.
    Fragment,
}

impl InletSocket {
    fn open(local: SocketAddr, shared: bool) -> io::Result<Self> {
        let socket = Socket::new(domain(local), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_port(shared)?;
        Self::bind(socket, local)
    }

    /// An inlet for datagrams to the group.
    fn join(local: SocketAddr, group: Group) -> io::Result<Self> {
        let socket = Socket::new(domain(local), Type::DGRAM, Some(Protocol::UDP))?;
        // Other members on this host use the same address and port.
        socket.set_reuse_address(true)?;
        match (group.address, local.ip()) {
            (IpAddr::V4(address), IpAddr::V4(_)) => {
                socket.set_multicast_all_v4(false)?;
                socket.join_multicast_v4_n(&address, &InterfaceIndexOrAddress::Index(group.interface))?;
            }
            (IpAddr::V6(address), _) => {
                socket.set_multicast_all_v6(false)?;
                socket.join_multicast_v6(&address, group.interface)?;
            }
            (IpAddr::V4(_), IpAddr::V6(_)) => return Err(io::ErrorKind::InvalidInput.into()),
        }
        let scope = match group.address {
            // Scopes up to link-local (RFC 4291 section 2.7) are bound with their interface.
            IpAddr::V6(address) if address.octets()[1] & 0x0f <= 2 => group.interface,
            _ => 0,
        };
        Self::bind(socket, with_scope(SocketAddr::new(group.address, local.port()), scope))
    }

    fn bind(socket: Socket, address: SocketAddr) -> io::Result<Self> {
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
            sockopt::set(&socket, sockopt::NO_CHECK6_RX, 1)?;
        }
        socket.bind(&address.into())?;
        let state = UdpSocketState::new((&socket).into())?;
        // Timestamps would make the kernel read the clock for every datagram of the host, and are not used
        // here.
        sockopt::set(&socket, sockopt::TIMESTAMP, 0)?;
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        Ok(Self { socket, state })
    }
}

/// Makes `socket` send datagrams unfragmented or not at all, independent of the known path MTU: for probes.
///
/// # Errors
/// The socket belongs to the other address family.
pub fn never_fragment(socket: impl AsFd, v4: bool) -> io::Result<()> {
    let (option, value) = if v4 { sockopt::MTU_PROBE } else { sockopt::MTU_PROBE6 };
    sockopt::set(socket, option, value)
}

fn outlet(options: &Options, too_long: TooLong) -> io::Result<Socket> {
    let socket = unbound(options, too_long)?;
    bind_source(&socket, options.local)?;
    Ok(socket)
}

fn unbound(options: &Options, too_long: TooLong) -> io::Result<Socket> {
    let local = options.local;
    let socket = Socket::new(domain(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // Nothing is received here.
    socket.set_recv_buffer_size(0)?;
    if rustix::net::sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER).is_err() {
        socket.set_send_buffer_size(SEND_BUFFER)?;
    }
    let (refuse, fragment, no_check) = if local.is_ipv4() {
        (sockopt::MTU_DISCOVER, sockopt::MTU_IGNORE, sockopt::NO_CHECK)
    } else {
        socket.set_only_v6(true)?;
        (sockopt::MTU_DISCOVER6, sockopt::MTU_IGNORE6, sockopt::NO_CHECK6_TX)
    };
    let (option, value) = if too_long == TooLong::Refuse { refuse } else { fragment };
    sockopt::set(&socket, option, value)?;
    if !options.checksum {
        sockopt::set(&socket, no_check, 1)?;
    }
    match (local.ip(), options.group) {
        (IpAddr::V4(local), Some(group)) => {
            let any = Ipv4Addr::UNSPECIFIED;
            rustix::net::sockopt::set_ip_multicast_if_with_ifindex(&socket, &any, &local, group.interface)?;
            socket.set_multicast_loop_v4(false)?;
        }
        (IpAddr::V6(_), Some(group)) => {
            socket.set_multicast_if_v6(group.interface)?;
            socket.set_multicast_loop_v6(false)?;
        }
        _ => {}
    }
    Ok(socket)
}

/// A socket with the source port of `outlet` that may send fragments.
fn twin(options: &Options, outlet: &Socket) -> io::Result<Socket> {
    let twin = unbound(options, TooLong::Fragment)?;
    // Two sockets may have one port if both agree at the time of binding. Nothing is received there.
    outlet.set_reuse_address(true)?;
    twin.set_reuse_address(true)?;
    let bound = twin.bind(&outlet.local_addr()?);
    outlet.set_reuse_address(false)?;
    twin.set_reuse_address(false)?;
    bound.map(|()| twin)
}

/// Binds to a free port among [`SOURCE_PORTS`], starting from a random one.
fn bind_source(socket: &Socket, local: SocketAddr) -> io::Result<()> {
    let ports = SOURCE_PORTS.end() - SOURCE_PORTS.start() + 1;
    #[expect(clippy::cast_possible_truncation, reason = "any 16 bits will do")]
    let random = RandomState::new().hash_one(ports) as u16;
    let mut result = Ok(());
    for step in 0..ports {
        let port = SOURCE_PORTS.start() + random.wrapping_add(step) % ports;
        result = socket.bind(&with_port(local, port).into());
        if !result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
            break;
        }
    }
    result
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

/// The same address on the link `scope`, if that is not 0.
pub fn with_scope(mut address: SocketAddr, scope: u32) -> SocketAddr {
    if let SocketAddr::V6(address) = &mut address {
        address.set_scope_id(scope);
    }
    address
}

fn domain(address: SocketAddr) -> Domain {
    Domain::for_address(address)
}

/// Control messages for `sendmsg`.
struct Control {
    bytes: [u8; 96],
    len: usize,
}

impl Control {
    /// Sets the traffic class and the time to live, unless they are zero, which is the default, and the segment size.
    fn new(v4: bool, train: &Train<'_>, segment: Option<u16>) -> Self {
        let mut control = Self { bytes: [0; 96], len: 0 };
        let &Train { traffic_class, ttl, .. } = train;
        if traffic_class != 0 {
            let (level, kind) =
                if v4 { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
            control.push(level, kind, &libc::c_int::from(traffic_class).to_ne_bytes());
        }
        if ttl != 0 {
            let (level, kind) =
                if v4 { (libc::IPPROTO_IP, libc::IP_TTL) } else { (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) };
            control.push(level, kind, &libc::c_int::from(ttl).to_ne_bytes());
        }
        if let Some(segment) = segment {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        control
    }

    /// Appends a `cmsghdr` (length, level, type) and its data, both aligned to `size_t`.
    fn push(&mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        const ALIGN: usize = size_of::<usize>();
        let header = (ALIGN + 8).next_multiple_of(ALIGN);
        let message = &mut self.bytes[self.len..];
        message[..ALIGN].copy_from_slice(&(header + data.len()).to_ne_bytes());
        message[ALIGN..ALIGN + 4].copy_from_slice(&level.to_ne_bytes());
        message[ALIGN + 4..ALIGN + 8].copy_from_slice(&kind.to_ne_bytes());
        message[header..header + data.len()].copy_from_slice(data);
        self.len += (header + data.len()).next_multiple_of(ALIGN);
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
