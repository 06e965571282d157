//! A TAP interface: the switch's end of a container's network interface.
//!
//! Each read and write is one frame after a `virtio_net_hdr` (`IFF_VNET_HDR`), so 64 KB super-frames pass
//! from one TAP to another unchanged. Facts relied on (drivers/net/tun.c): the descriptor works in any
//! namespace once it is created; a frame written is received by the container within the write; with
//! `O_NONBLOCK` and the default send buffer small frames take the fast path (`tun_can_build_skb`), so
//! `TUNSETSNDBUF` is never called; one queue, because several queues reorder frames.
#![expect(unsafe_code, reason = "the TUN ioctls have no safe wrapper")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "small constants in the types of the kernel\'s interface"
)]

use std::{
    ffi::{CStr, c_char, c_int, c_short},
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use rustix::{io::Errno, ioctl::opcode};

use super::{Device, DeviceError, Refuse};
use crate::{
    addr::PortId,
    batch::{Batch, GULP, HEADROOM},
    drops::DropReason,
    transmit::{Form, Scratch, Transmit},
    wire::{
        frame::MAX_FRAME,
        offload::{Capabilities, Offload, VNET_HEADER},
    },
};

/// An open TAP interface with offload headers.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    capabilities: Capabilities,
}

/// Options of [`Tap::open`].
#[derive(Clone, Copy, Debug)]
pub struct TapOptions {
    /// Fail if the interface exists. Otherwise, a persistent interface of that name is adopted.
    pub exclusive: bool,
    /// Let the interface outlive the descriptor.
    pub persist: bool,
}

// include/uapi/linux/if_tun.h, where libc lacks it for some targets.
const TUN_F_USO: u32 = 0x20 | 0x40;
const TUNGETDEVNETNS: libc::Ioctl = opcode::none(b'T', 227) as libc::Ioctl;

impl Tap {
    /// Creates (or adopts) the TAP interface `name` in the calling thread's network namespace.
    ///
    /// # Errors
    /// `EBUSY`: the name is taken, by another kind of interface or another process. `EPERM`: no
    /// CAP_NET_ADMIN. `ENOENT`, `ENXIO`: no /dev/net/tun. `EINVAL`: not a valid interface name.
    pub fn open(name: &str, options: TapOptions) -> io::Result<Self> {
        let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file: File = std::os::unix::fs::OpenOptionsExt::custom_flags(
            std::fs::OpenOptions::new().read(true).write(true),
            flags,
        )
        .open("/dev/net/tun")?;
        let mut request = request(name)?;
        let exclusive = if options.exclusive { libc::IFF_TUN_EXCL } else { 0 };
        request.ifr_ifru.ifru_flags =
            (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | exclusive) as c_short;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which lives across the call.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
        let tap = Self { fd: file.into(), capabilities: Capabilities::NONE };
        tap.set_persist(options.persist)?;
        Ok(tap)
    }

    /// Sets whether the interface outlives the descriptor.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn set_persist(&self, persist: bool) -> io::Result<()> {
        // SAFETY: TUNSETPERSIST takes its argument by value.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETPERSIST, c_int::from(persist)) })
    }

    /// Adopts an open descriptor, after checking that it is equivalent to one of [`Tap::open`].
    ///
    /// # Errors
    /// `InvalidInput`: not a TAP interface with offload headers and without packet information.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let mut request = request("")?;
        // SAFETY: TUNGETIFF writes one ifreq, which lives across the call.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
        // SAFETY: TUNGETIFF sets the flags, and every bit pattern is a valid short.
        let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        let needed = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if flags & needed != needed || flags & libc::IFF_MULTI_QUEUE != 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the descriptor is not a single-queue TAP interface with IFF_NO_PI and IFF_VNET_HDR",
            ));
        }
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd, capabilities: Capabilities::NONE })
    }

    /// Sets the size of the offload header and the offloads that the kernel may leave to the switch: all that
    /// it can pass on, or none. Always called, because a persistent interface keeps its last setting.
    ///
    /// # Errors
    /// The kernel refuses: the interface is gone.
    pub fn set_offload(&mut self, offload: bool) -> io::Result<()> {
        let size = VNET_HEADER as c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one int, which lives across the call.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) })?;
        if !offload {
            self.capabilities = Capabilities::NONE;
            return self.ask(0);
        }
        let tso = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        // USO came with Linux 6.2; an older kernel rejects the whole set.
        let uso = self.ask(tso | TUN_F_USO).is_ok();
        if !uso {
            self.ask(tso)?;
        }
        self.capabilities = Capabilities { csum: true, tso: true, uso };
        Ok(())
    }

    fn ask(&self, offloads: u32) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) })
    }

    /// The current name of the interface: a container may rename it.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn name(&self) -> io::Result<String> {
        let mut request = request("")?;
        // SAFETY: TUNGETIFF writes one ifreq, which lives across the call.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
        let bytes = request.ifr_name.map(|byte: c_char| byte.to_ne_bytes()[0]);
        let name = CStr::from_bytes_until_nul(&bytes).map_err(io::Error::other)?;
        Ok(name.to_string_lossy().into_owned())
    }

    /// The current network namespace of the interface: it may have been moved.
    ///
    /// # Errors
    /// The interface is gone. `EPERM`: no CAP_NET_ADMIN there. `EINVAL`: Linux before 5.8.
    pub fn namespace(&self) -> io::Result<OwnedFd> {
        // SAFETY: TUNGETDEVNETNS has no argument.
        let fd = unsafe { libc::ioctl(self.fd.as_raw_fd(), TUNGETDEVNETNS) };
        check(fd)?;
        // SAFETY: it has succeeded, so this is a new descriptor without another owner.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// The descriptor, for passing it on.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl Device for Tap {
    fn recv(&self, port: PortId, batch: &mut Batch, max: usize, refuse: &mut Refuse<'_>) -> io::Result<bool> {
        let mut bytes = 0;
        for _ in 0..max {
            if bytes >= GULP {
                break;
            }
            let Some(buffer) = batch.spare().next() else { break };
            let buffer = &mut buffer[HEADROOM - VNET_HEADER..HEADROOM + MAX_FRAME];
            let len = match rustix::io::read(&self.fd, &mut *buffer) {
                Ok(len) => len,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            bytes += len;
            let Some((header, frame)) = buffer[..len].split_first_chunk() else {
                refuse(port, DropReason::DevHdr, &buffer[..len]);
                continue;
            };
            match Offload::parse(header, frame) {
                Ok(offload) => batch.push(port, None, offload, len - VNET_HEADER),
                Err(reason) => refuse(port, reason, frame),
            }
        }
        Ok(true)
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn send(&self, frames: &Transmit<'_>, scratch: &mut Scratch) {
        frames.each(self.capabilities, scratch, |form| {
            let written = match form {
                Form::Whole(bytes) => rustix::io::write(&self.fd, bytes),
                Form::Retagged(head, rest) | Form::Uncut(head, rest, _) => {
                    self.write_parts([head.with_header(), rest])
                }
                Form::Wire(bytes) => self.write_parts([&Offload::NONE.emit(), bytes]),
            };
            written.map(drop).map_err(|error| DeviceError::of(&error.into()).drop_reason())
        });
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }
}

impl Tap {
    fn write_parts(&self, parts: [&[u8]; 2]) -> rustix::io::Result<usize> {
        rustix::io::writev(&self.fd, &parts.map(io::IoSlice::new))
    }
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    // SAFETY: an ifreq is a name and a union of plain data; all zeros is one of its values.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() || name.bytes().any(|byte| byte == 0) {
        return Err(invalid());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
