//! One message with at most one descriptor, over a SOCK_SEQPACKET unix socket.
//!
//! tokio's `UnixStream` wraps the socket, for readiness and ownership only, which works for this type of socket as well.
//! Its stream calls are never used, so message boundaries are kept.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    cmsg_space,
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
        connect, recvmsg, sendmsg, socket_with, socketpair,
    },
};
use tokio::{io::Interest, net::UnixStream};

/// Maximum message length in bytes, in either direction.
pub(crate) const MESSAGE_LIMIT: usize = 64 * 1024;

/// Credentials of the peer process, from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its pid; `None` if it is in a pid namespace that is not visible here.
    pub pid: Option<i32>,
    /// Its user id.
    pub uid: u32,
}

impl Caller {
    /// The process at the other end of `socket`.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn of(socket: &UnixStream) -> io::Result<Self> {
        let credentials = socket.peer_cred()?;
        Ok(Self { pid: credentials.pid(), uid: credentials.uid() })
    }

    /// The name of its program, as proc_pid_comm(5) has it: at most 15 bytes, chosen by the process. `None` if it has ended.
    pub fn command(&self) -> Option<String> {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", self.pid?)).ok()?;
        Some(name.trim_end().escape_default().to_string())
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Channel(UnixStream);

impl Channel {
    /// Wraps a connected socket.
    pub fn new(socket: UnixStream) -> Self {
        Self(socket)
    }

    /// Connects to the daemon's side.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        UnixStream::from_std(socket.into()).map(Self)
    }

    /// A connected pair.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(UnixStream::from_std(one.into())?), Self(UnixStream::from_std(other.into())?)))
    }

    /// The peer process.
    pub fn peer(&self) -> io::Result<Caller> {
        Caller::of(&self.0)
    }

    /// Sends `text` with `descriptor`; the peer receives a duplicate.
    pub async fn send(&self, text: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let send = || {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let descriptors = descriptor.as_slice();
            if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(Errno::NOBUFS.into());
            }
            Ok(sendmsg(&self.0, &[IoSlice::new(text)], &mut ancillary, SendFlags::NOSIGNAL)?)
        };
        self.0.async_io(Interest::WRITABLE, send).await.map(drop)
    }

    /// Receives a message and its descriptor, close-on-exec and non-blocking.
    ///
    /// # Errors
    /// `UnexpectedEof` if the peer closed the socket, `InvalidData` for a message that is too long or has more than one
    /// descriptor; received descriptors are closed.
    pub async fn receive(&self) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
        self.0.async_io(Interest::READABLE, || receive(&self.0)).await
    }
}

fn receive(socket: &UnixStream) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let invalid = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    let mut text = vec![0; MESSAGE_LIMIT];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return invalid(format!("the message is longer than {} KiB", MESSAGE_LIMIT / 1024));
    }
    if received.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > 1 {
        return invalid("the message brings more than one descriptor".into());
    }
    text.truncate(received.bytes);
    let descriptor = descriptors.pop();
    if let Some(descriptor) = &descriptor {
        fcntl_setfl(descriptor, fcntl_getfl(descriptor)? | OFlags::NONBLOCK)?;
    }
    Ok((text, descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{FdFlags, fcntl_getfd, read, write};
    use std::{io::pipe, os::fd::AsFd};

    #[tokio::test]
    async fn a_descriptor_travels_with_its_message() {
        let (helper, daemon) = Channel::pair().unwrap();
        let (reader, writer) = pipe().unwrap();
        helper.send(b"here is a pipe", Some(reader.as_fd())).await.unwrap();
        drop(reader);
        let (text, descriptor) = daemon.receive().await.unwrap();
        let descriptor = descriptor.unwrap();
        assert_eq!(text, b"here is a pipe");
        assert!(fcntl_getfd(&descriptor).unwrap().contains(FdFlags::CLOEXEC));
        let mut byte = [0];
        assert_eq!(read(&descriptor, &mut byte), Err(Errno::AGAIN), "it is non-blocking");
        write(&writer, b"x").unwrap();
        assert_eq!(read(&descriptor, &mut byte), Ok(1));

        daemon.send(b"thanks", None).await.unwrap();
        assert_eq!(helper.receive().await.unwrap().0, b"thanks");
        assert_eq!(daemon.peer().unwrap().pid, i32::try_from(std::process::id()).ok());
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_whole() {
        let (helper, daemon) = Channel::pair().unwrap();
        helper.send(&[b' '; MESSAGE_LIMIT + 1], None).await.unwrap();
        assert_eq!(daemon.receive().await.unwrap_err().kind(), io::ErrorKind::InvalidData);

        let (reader, writer) = pipe().unwrap();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let both = [reader.as_fd(), writer.as_fd()];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&both)));
        sendmsg(&helper.0, &[IoSlice::new(b"two")], &mut ancillary, SendFlags::empty()).unwrap();
        assert_eq!(daemon.receive().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(writer);
        let mut byte = [0];
        assert_eq!(read(&reader, &mut byte), Ok(0), "the duplicates are closed");

        drop(helper);
        assert_eq!(daemon.receive().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
