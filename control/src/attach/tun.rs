//! TAP devices: making one, and making sure that a descriptor is one.
//!
//! Numbers are of include/uapi/linux/if_tun.h.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    ioctl::{IntegerSetter, Opcode, Updater, ioctl},
};

const TUNSETIFF: Opcode = 0x4004_54ca;
const TUNSETPERSIST: Opcode = 0x4004_54cb;
const TUNGETIFF: Opcode = 0x8004_54d2;

const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const IFF_TUN_EXCL: u16 = 0x8000;

/// `struct ifreq` as the TUN calls use it: the name, then the flags (include/uapi/linux/if.h).
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Makes the TAP `ifname` in the calling thread's namespace, with offload headers before its frames, and opens
/// it non-blocking. It goes when the last descriptor is closed, unless it shall `persist`.
///
/// # Errors
/// `InvalidInput` for a name that does not fit, else the kernel's: EBUSY when the name is taken, EPERM without
/// CAP_NET_ADMIN, ENOENT without /dev/net/tun.
pub fn create(ifname: &str, persist: bool) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let tap = open("/dev/net/tun", flags, Mode::empty())?;
    let mut request =
        Request { name: [0; 16], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL, rest: [0; 22] };
    let name = request.name.get_mut(..ifname.len()).filter(|_| ifname.len() < 16).ok_or(Errno::INVAL)?;
    name.copy_from_slice(ifname.as_bytes());
    interface_call::<TUNSETIFF>(&tap, &mut request)?;
    if persist {
        set_persist(&tap)?;
    }
    Ok(tap)
}

/// The name of the TAP behind a descriptor that somebody else opened.
///
/// # Errors
/// `InvalidInput` when it is no TAP, or one without offload headers.
pub fn inspect(descriptor: impl AsFd) -> io::Result<String> {
    let invalid = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
    let mut request = Request { name: [0; 16], flags: 0, rest: [0; 22] };
    interface_call::<TUNGETIFF>(descriptor, &mut request).map_err(|_| invalid("the descriptor is no TAP"))?;
    if request.flags & (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR) != IFF_TAP | IFF_NO_PI | IFF_VNET_HDR {
        return Err(invalid("the TAP was not opened with IFF_NO_PI and IFF_VNET_HDR"));
    }
    let name = CStr::from_bytes_until_nul(&request.name).map_err(|_| invalid("the TAP has no name"))?;
    Ok(name.to_string_lossy().into_owned())
}

#[expect(
    unsafe_code,
    reason = "the kernel knows TAP devices by ioctl alone, and rustix has no safe call for these"
)]
fn interface_call<const CALL: Opcode>(tap: impl AsFd, request: &mut Request) -> io::Result<()> {
    // SAFETY: both calls given here read and write one `struct ifreq`, 40 octets; `Request` has its layout and
    // any octets are valid in it. On another kind of descriptor the number means nothing and is refused
    // (ENOTTY): the type octet 'T' with numbers from 200 on belongs to TUN alone
    // (Documentation/userspace-api/ioctl/ioctl-number.rst).
    Ok(unsafe { ioctl(tap, Updater::<CALL, Request>::new(request)) }?)
}

#[expect(unsafe_code, reason = "see interface_call")]
fn set_persist(tap: &OwnedFd) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument as a number, not as an address.
    Ok(unsafe { ioctl(tap, IntegerSetter::<TUNSETPERSIST>::new_usize(1)) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_descriptors_are_no_tap() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(inspect(&file).unwrap_err().to_string(), "the descriptor is no TAP");
        assert_eq!(size_of::<Request>(), 40);
    }
}
