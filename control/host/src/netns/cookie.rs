//! The number that the kernel gives to one namespace and to no other until the next boot.
//!
//! An inode's number is given out again at once (`proc_alloc_inum`), so it tells namespaces apart only while both exist. The
//! cookie does over time. Linux 6.18 answers `NS_GET_ID` on the namespace's file; Linux 5.14 answers `SO_NETNS_COOKIE` on a
//! socket inside, with the same number where both exist. Older kernels have none.
#![expect(unsafe_code, reason = "the ioctl and the socket option have no safe wrapper")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "small constants in the types of the kernel\'s interface"
)]

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use nix::libc;
use rustix::{
    io::Errno,
    ioctl::opcode,
    net::{AddressFamily, SocketType, socket},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

// include/uapi/linux/nsfs.h, include/uapi/asm-generic/socket.h.
const NS_GET_ID: libc::Ioctl = opcode::read::<u64>(0xb7, 13) as libc::Ioctl;
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of the namespace that `file` is open on; `None` before Linux 6.18.
pub(super) fn by_file(file: &File) -> Option<u64> {
    let mut cookie = 0_u64;
    // SAFETY: NS_GET_ID writes one u64, which lives across the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_ID, &raw mut cookie) };
    (result == 0).then_some(cookie)
}

/// The same by entering the namespace; `None` before Linux 5.14. Leaves the thread inside: call it on one that ends.
pub(super) fn by_entering(file: &File) -> io::Result<Option<u64>> {
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
    inside(&socket(AddressFamily::UNIX, SocketType::DGRAM, None)?)
}

/// The cookie of the namespace that `socket` is in.
fn inside(socket: &OwnedFd) -> io::Result<Option<u64>> {
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `cookie`; both live across the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    match result {
        0 => Ok(Some(cookie)),
        _ => match io::Error::last_os_error() {
            error if Errno::from_io_error(&error) == Some(Errno::NOPROTOOPT) => Ok(None),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_give_the_same_number() {
        let file = File::open("/proc/self/ns/net").unwrap();
        let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
        let by_socket = inside(&socket).unwrap();
        if let Some(by_file) = by_file(&file) {
            assert_eq!(by_socket, Some(by_file));
        }
    }
}
