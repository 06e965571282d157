//! Requests to the netlink families that rtnetlink does not speak: connection tracking, sockets and ethtool; and what the kernel
//! tells of changes.
//!
//! Messages and attributes are netlink-packet-core's. The requests are rare and short, so each is sent and its answer
//! awaited, without an executor. A [`Monitor`] is asked from time to time what it has heard.

use std::{
    io,
    ops::ControlFlow,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    time::Duration,
};

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_F_NESTED, NLA_HEADER_SIZE, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NetlinkBuffer, NetlinkHeader, NlasIterator,
};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
        netlink::SocketAddrNetlink,
        recv, send, socket_with,
        sockopt::{
            Timeout, set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, set_socket_timeout,
        },
    },
};

/// How long the kernel may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of the buffer of an answer; the kernel fills at most 32 KiB (`netlink_dump`, net/netlink/af_netlink.c).
const ANSWER: usize = 64 * 1024;

/// Bytes of changes that the kernel keeps for a [`Monitor`] at most: those of 20,000 elements of a table, as it accounts for them.
const HEARD: usize = 16 << 20;

/// A netlink socket.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Opens one in the calling thread's network namespace.
    pub(crate) fn open(protocol: Protocol) -> io::Result<Self> {
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// Sends a request of type `kind`. `head` is the header of the family: nfgenmsg, or genlmsghdr.
    pub(crate) fn send(&self, kind: u16, flags: u16, head: [u8; 4], attributes: &[u8]) -> io::Result<()> {
        send(&self.0, &message(kind, NLM_F_REQUEST | flags, head, attributes), SendFlags::empty())?;
        Ok(())
    }

    /// Passes the messages that answer a request to `each`, by type and without netlink's header, until the last one, an
    /// acknowledgement, or a break.
    ///
    /// # Errors
    /// The kernel refused the request, or did not answer within 2 s.
    pub(crate) fn answers(&self, mut each: impl FnMut(u16, &[u8]) -> ControlFlow<()>) -> io::Result<()> {
        let mut buffer = vec![0; ANSWER];
        loop {
            let (len, _) = recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            for Message { kind, body, .. } in messages(&buffer[..len]) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                        return if code == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(-code).into()) };
                    }
                    _ if each(kind, body).is_break() => return Ok(()),
                    _ => {}
                }
            }
        }
    }
}

/// A netlink socket that hears of changes.
#[derive(Debug)]
pub(crate) struct Monitor(OwnedFd);

impl Monitor {
    /// Hears what is told to `groups`, a mask, in the calling thread's network namespace. Without protocol it is rtnetlink's.
    ///
    /// # Errors
    /// The kernel refuses: for changes of the firewall it wants CAP_NET_ADMIN.
    pub(crate) fn open(protocol: Option<Protocol>, groups: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        if set_socket_recv_buffer_size_force(&socket, HEARD).is_err() {
            // In a user namespace of its own the limit of the host applies: net.core.rmem_max.
            set_socket_recv_buffer_size(&socket, HEARD)?;
        }
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self(socket))
    }

    /// Passes all messages since the last call to `each`. False: there were more than the kernel keeps.
    ///
    /// # Errors
    /// The kernel does not tell them.
    pub(crate) fn heard(&self, mut each: impl FnMut(Message<'_>)) -> io::Result<bool> {
        let mut buffer = vec![0; ANSWER];
        let mut all = true;
        loop {
            match recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
                Ok((len, _)) => messages(&buffer[..len]).for_each(&mut each),
                Err(Errno::NOBUFS) => all = false,
                Err(Errno::AGAIN) => return Ok(all),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A message, as it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    /// The number of the socket that caused it: by default the process id of who opened it; 0 is the kernel.
    pub(crate) port: u32,
    /// Its type.
    pub(crate) kind: u16,
    /// Its content, without netlink's header.
    pub(crate) body: &'a [u8],
}

/// A message without sequence number: there is one request at a time.
fn message(kind: u16, flags: u16, head: [u8; 4], attributes: &[u8]) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    let start = header.buffer_len();
    let len = start + head.len() + attributes.len();
    header.length = u32::try_from(len).expect("requests are short");
    (header.message_type, header.flags) = (kind, flags);
    let mut message = vec![0; len];
    header.emit(&mut message);
    message[start..start + head.len()].copy_from_slice(&head);
    message[start + head.len()..].copy_from_slice(attributes);
    message
}

/// The messages in `bytes`, up to the first that is cut short.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(bytes).ok()?;
        let read =
            Message { port: message.port_number(), kind: message.message_type(), body: message.payload() };
        let len = usize::try_from(message.length()).ok()?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(read)
    })
}

/// An attribute.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let attribute = DefaultNla::new(kind, value.to_vec());
    let mut bytes = vec![0; attribute.buffer_len()];
    attribute.emit(&mut bytes);
    bytes
}

/// An attribute of attributes.
pub(crate) fn nest(kind: u16, attributes: &[u8]) -> Vec<u8> {
    attribute(kind | NLA_F_NESTED, attributes)
}

/// The attributes in `bytes`: kind without flags, and value of each, up to the first that is cut short.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).filter_map(|attribute| {
        let (kind, len) = (attribute.kind(), usize::from(attribute.length()));
        Some((kind, attribute.into_inner().get(NLA_HEADER_SIZE..len)?))
    })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn attributes_are_padded_and_read_back() {
        let bytes =
            [attribute(2, b"ethtool\0"), attribute(1, &[7, 0]), nest(3, &attribute(9, b"x"))].concat();
        assert_eq!(bytes.len(), 12 + 8 + 12);
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read[..2], [(2, &b"ethtool\0"[..]), (1, &[7, 0])]);
        assert_eq!(attributes(read[2].1).collect::<Vec<_>>(), [(9, &b"x"[..])]);
        for len in 0..bytes.len() {
            assert!(attributes(&bytes[..len]).count() <= 3, "{len}");
        }
        assert_eq!(attributes(&[3, 0, 0, 0, 0]).count(), 0, "shorter than itself");
    }

    #[test]
    fn messages_are_read_back() {
        let one = message(7, NLM_F_REQUEST, [10, 0, 0, 0], &attribute(1, &[1, 2]));
        let two = message(8, NLM_F_REQUEST, [2, 0, 0, 0], &[]);
        let bytes = [one, two].concat();
        let read: Vec<_> = messages(&bytes).map(|it| (it.kind, it.body)).collect();
        assert_eq!(read, [(7, &[10, 0, 0, 0, 6, 0, 1, 0, 1, 2, 0, 0][..]), (8, &[2, 0, 0, 0])]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_their_end(bytes in vec(any::<u8>(), 0..200)) {
            prop_assert!(messages(&bytes).count() <= bytes.len());
            prop_assert!(attributes(&bytes).count() <= bytes.len());
        }
    }
}
