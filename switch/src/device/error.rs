//! The meaning of device errors.
//!
//! The only place that knows Linux's error numbers (include/uapi/asm-generic/errno-base.h, errno.h): the pure
//! core has no libc.

use std::io;

use crate::drops::DropReason;

const EIO: i32 = 5;
const ENXIO: i32 = 6;
const ENODEV: i32 = 19;
const EBADFD: i32 = 77;
const EMSGSIZE: i32 = 90;
const ENETDOWN: i32 = 100;
const ENETUNREACH: i32 = 101;
const ENOBUFS: i32 = 105;
const EHOSTUNREACH: i32 = 113;

/// The meaning of an error that a device reports when it sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// Its queue is full: `EAGAIN`, `ENOBUFS`.
    QueueFull,
    /// The frame is longer than it, or the path behind it, carries: `EMSGSIZE`.
    TooLong,
    /// There is no route: `ENETUNREACH`, `EHOSTUNREACH`.
    NoRoute,
    /// Its interface is down: `ENETDOWN`.
    Down,
    /// Its interface is gone: `ENODEV`, `ENXIO`, `EBADFD`.
    Gone,
    /// It fails: `EIO`. Also reported when writing to a TAP whose interface is down.
    Io,
    /// Any other error.
    Other,
}

impl DeviceError {
    /// Classifies `error`.
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            _ if error.kind() == io::ErrorKind::WouldBlock => Self::QueueFull,
            Some(ENOBUFS) => Self::QueueFull,
            Some(EMSGSIZE) => Self::TooLong,
            Some(ENETUNREACH | EHOSTUNREACH) => Self::NoRoute,
            Some(ENETDOWN) => Self::Down,
            Some(ENODEV | ENXIO | EBADFD) => Self::Gone,
            Some(EIO) => Self::Io,
            _ => Self::Other,
        }
    }

    /// The drop reason for an outgoing frame.
    pub fn drop_reason(self) -> DropReason {
        match self {
            Self::QueueFull => DropReason::FullRing,
            Self::TooLong => DropReason::PktTooBig,
            Self::NoRoute => DropReason::IpOutNoRoutes,
            Self::Down | Self::Gone | Self::Io => DropReason::DevReady,
            Self::Other => DropReason::DevTxError,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_linux_have_meanings() {
        for (errno, error, reason) in [
            (11, DeviceError::QueueFull, DropReason::FullRing),
            (105, DeviceError::QueueFull, DropReason::FullRing),
            (90, DeviceError::TooLong, DropReason::PktTooBig),
            (101, DeviceError::NoRoute, DropReason::IpOutNoRoutes),
            (113, DeviceError::NoRoute, DropReason::IpOutNoRoutes),
            (100, DeviceError::Down, DropReason::DevReady),
            (19, DeviceError::Gone, DropReason::DevReady),
            (5, DeviceError::Io, DropReason::DevReady),
            (1, DeviceError::Other, DropReason::DevTxError),
        ] {
            let meaning = DeviceError::of(&io::Error::from_raw_os_error(errno));
            assert_eq!((meaning, meaning.drop_reason()), (error, reason), "{errno}");
        }
    }
}
