//! Socket options that no library provides: the only place that knows their numbers.
#![expect(unsafe_code, reason = "getsockopt and setsockopt with options that have no safe wrapper")]
#![expect(clippy::cast_possible_truncation, reason = "lengths of a few bytes")]

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd},
};

use libc::{c_int, c_void, socklen_t};

/// An option with an integer value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number {
    level: c_int,
    name: c_int,
}

/// IPv4: send without UDP checksum.
pub(crate) const NO_CHECK: Number = Number { level: libc::SOL_SOCKET, name: libc::SO_NO_CHECK };
/// IPv6: send without UDP checksum (RFC 6935).
pub(crate) const NO_CHECK6_TX: Number = Number { level: libc::SOL_UDP, name: 101 };
/// IPv6: receive datagrams without UDP checksum.
pub(crate) const NO_CHECK6_RX: Number = Number { level: libc::SOL_UDP, name: 102 };
/// IPv4: set "don't fragment", and reject datagrams that exceed the known path MTU.
pub(crate) const MTU_DISCOVER: (Number, c_int) =
    (Number { level: libc::IPPROTO_IP, name: libc::IP_MTU_DISCOVER }, libc::IP_PMTUDISC_DO);
/// The same for IPv6.
pub(crate) const MTU_DISCOVER6: (Number, c_int) =
    (Number { level: libc::IPPROTO_IPV6, name: libc::IPV6_MTU_DISCOVER }, libc::IPV6_PMTUDISC_DO);
/// IPv4: fragment datagrams that exceed the path MTU, and let routers fragment further.
pub(crate) const MTU_IGNORE: (Number, c_int) = (MTU_DISCOVER.0, libc::IP_PMTUDISC_DONT);
/// The same for IPv6, where only senders fragment.
pub(crate) const MTU_IGNORE6: (Number, c_int) = (MTU_DISCOVER6.0, libc::IPV6_PMTUDISC_DONT);
/// IPv4: set "don't fragment", and send any datagram that fits the first link.
pub(crate) const MTU_PROBE: (Number, c_int) =
    (Number { level: libc::IPPROTO_IP, name: libc::IP_MTU_DISCOVER }, libc::IP_PMTUDISC_PROBE);
/// The same for IPv6.
pub(crate) const MTU_PROBE6: (Number, c_int) =
    (Number { level: libc::IPPROTO_IPV6, name: libc::IPV6_MTU_DISCOVER }, libc::IPV6_PMTUDISC_PROBE);
/// IPv4: the known path MTU of a connected socket.
pub(crate) const PATH_MTU: Number = Number { level: libc::IPPROTO_IP, name: libc::IP_MTU };
/// The same for IPv6.
pub(crate) const PATH_MTU6: Number = Number { level: libc::IPPROTO_IPV6, name: libc::IPV6_MTU };
/// Whether datagrams are received with a timestamp.
pub(crate) const TIMESTAMP: Number = Number { level: libc::SOL_SOCKET, name: libc::SO_TIMESTAMPNS };

pub(crate) fn set(socket: impl AsFd, option: Number, value: c_int) -> io::Result<()> {
    let len = size_of::<c_int>() as socklen_t;
    // SAFETY: the kernel reads `len` bytes of `value`, which lives across the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            option.level,
            option.name,
            (&raw const value).cast::<c_void>(),
            len,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(crate) fn get(socket: impl AsFd, option: Number) -> io::Result<c_int> {
    let mut value = [0];
    read(socket, option, &mut value)?;
    Ok(value[0])
}

/// Number of datagrams that the kernel dropped because the socket's buffer was full.
pub(crate) fn drops(socket: impl AsFd) -> u64 {
    // SK_MEMINFO_DROPS of SK_MEMINFO_VARS, include/uapi/linux/sock_diag.h
    let mut values = [0; 9];
    let option = Number { level: libc::SOL_SOCKET, name: libc::SO_MEMINFO };
    match read(socket, option, &mut values) {
        Ok(()) => u64::from(values[8].cast_unsigned()),
        Err(_) => 0,
    }
}

fn read(socket: impl AsFd, option: Number, values: &mut [c_int]) -> io::Result<()> {
    let mut len = size_of_val(values) as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `values`; both live across the call, and every bit
    // pattern is a number.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            option.level,
            option.name,
            values.as_mut_ptr().cast::<c_void>(),
            &raw mut len,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
