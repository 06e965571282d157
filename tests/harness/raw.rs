//! Raw frames: exactly what a container sends and receives.
#![expect(unsafe_code, reason = "AF_PACKET addresses and control messages have no safe wrapper")]

use std::{
    io,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd, RawFd},
    time::{Duration, Instant},
};

use libc::{c_int, c_void, socklen_t};
use socket2::{Domain, Protocol, Socket, Type};

/// IEEE Std 802: local experimental EtherType 1.
pub const EXPERIMENT: u16 = 0x88b5;

/// The broadcast address.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// An AF_PACKET socket on one interface. Tags are as on the wire.
#[derive(Debug)]
pub struct Raw {
    socket: Socket,
}

/// An untagged frame.
pub fn frame(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// A frame with an 802.1Q tag.
pub fn tagged(to: [u8; 6], from: [u8; 6], tci: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &[0x81, 0], &tci.to_be_bytes(), &kind.to_be_bytes(), payload].concat()
}

impl Raw {
    /// Opens the interface `ifname` of the current thread's namespace in promiscuous mode. Outgoing frames of this host
    /// are not received.
    ///
    /// # Errors
    /// The interface does not exist, or permission is denied.
    pub fn open(ifname: &str) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        let index = rustix::net::netdevice::name_to_index(&socket, ifname)?;
        let index = c_int::try_from(index).map_err(io::Error::other)?;
        let fd = socket.as_raw_fd();
        set_option(fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, &1)?;
        set_option(fd, libc::SOL_PACKET, IGNORE_OUTGOING, &1)?;
        set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(64 << 20))?;
        // SAFETY: plain old data, for which all zeros is valid.
        let mut membership: libc::packet_mreq = unsafe { zeroed() };
        membership.mr_ifindex = index;
        membership.mr_type = 1; // PACKET_MR_PROMISC, include/uapi/linux/if_packet.h
        set_option(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)?;
        bind(fd, index)?;
        Ok(Self { socket })
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) {
        self.try_send(frame).unwrap();
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The interface is gone or down, or its queue is full.
    pub fn try_send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(frame).map(drop)
    }

    /// The next frame, or `None` after `limit`.
    pub fn receive(&self, limit: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left)).unwrap();
            match self.receive_once() {
                Ok(frame) => return Some(frame),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next frame that matches `wanted`, or `None` after `limit`.
    pub fn find(&self, limit: Duration, mut wanted: impl FnMut(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + limit;
        loop {
            let frame = self.receive(deadline.saturating_duration_since(Instant::now()))?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// All frames until one ends with `last`, which is not included.
    pub fn until(&self, limit: Duration, last: &[u8]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let end = self.find(limit, |frame| {
            let end = frame.ends_with(last);
            if !end {
                frames.push(frame.to_vec());
            }
            end
        });
        assert!(end.is_some(), "the last frame did not come; {} others did", frames.len());
        frames
    }

    fn receive_once(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0_u8; (1 << 16) + 64];
        let mut control = [0_u64; 16];
        let mut vector =
            libc::iovec { iov_base: buffer.as_mut_ptr().cast::<c_void>(), iov_len: buffer.len() };
        // SAFETY: plain old data, for which all zeros is valid.
        let mut message: libc::msghdr = unsafe { zeroed() };
        (message.msg_iov, message.msg_iovlen) = (&raw mut vector, 1);
        (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control));
        // SAFETY: the message names one buffer and one control buffer, each with its length; both live across the call.
        let len = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0) };
        let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
        buffer.truncate(len);
        if let Some(tag) = stripped_tag(&message) {
            buffer.splice(12..12, tag);
        }
        Ok(buffer)
    }
}

// include/uapi/linux/if_packet.h: missing in libc.
const IGNORE_OUTGOING: c_int = 23;

/// The tag that the kernel stripped from the frame, as on the wire.
fn stripped_tag(message: &libc::msghdr) -> Option<[u8; 4]> {
    // SAFETY: the kernel has filled in the control buffer, which outlives this call, and its length.
    let control = unsafe { libc::CMSG_FIRSTHDR(message) };
    if control.is_null() {
        return None;
    }
    // SAFETY: not null, hence a header within the control buffer.
    let header = unsafe { control.read() };
    if (header.cmsg_level, header.cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
        return None;
    }
    // SAFETY: a PACKET_AUXDATA message holds a tpacket_auxdata, possibly unaligned.
    let aux: libc::tpacket_auxdata =
        unsafe { libc::CMSG_DATA(control).cast::<libc::tpacket_auxdata>().read_unaligned() };
    if aux.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let ([a, b], [c, d]) = (aux.tp_vlan_tpid.to_be_bytes(), aux.tp_vlan_tci.to_be_bytes());
    Some([a, b, c, d])
}

fn bind(fd: RawFd, index: c_int) -> io::Result<()> {
    // SAFETY: plain old data, for which all zeros is valid.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = 17; // AF_PACKET
    address.sll_protocol = 3_u16.to_be(); // ETH_P_ALL
    address.sll_ifindex = index;
    let len = length::<libc::sockaddr_ll>();
    // SAFETY: the address is a sockaddr_ll of the given length and outlives the call.
    check(unsafe { libc::bind(fd, (&raw const address).cast(), len) })
}

/// Sets a socket option for which rustix and socket2 have no function.
///
/// # Errors
/// The kernel rejects the option or its value.
pub fn set_option<T>(fd: RawFd, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    let len = length::<T>();
    // SAFETY: the kernel reads the bytes of `value`, which outlives the call.
    check(unsafe { libc::setsockopt(fd, level, option, std::ptr::from_ref(value).cast::<c_void>(), len) })
}

fn length<T>() -> socklen_t {
    socklen_t::try_from(size_of::<T>()).expect("no option or address is so long")
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
