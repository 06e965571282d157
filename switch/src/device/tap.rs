//! A TAP interface: the switch's end of a container's network interface.
//!
//! Each read and write is one frame after an offload header (`IFF_VNET_HDR`), so 64 KB super-frames pass
//! from one TAP to another unchanged; since Linux 6.17 also those that a container encapsulates in UDP itself. The header is the
//! long one whatever the kernel: it says zero in fields that it does not know. Facts relied on (drivers/net/tun.c): the descriptor works in any
//! namespace once it is created; a frame written is received by the container within the write; without
//! waiting and with the default send buffer small frames take the fast path (`tun_can_build_skb`), so
//! `TUNSETSNDBUF` is never called; one queue, because several queues reorder frames.
//!
//! A TAP from a tap helper shares its open file description with the helper, who may clear `O_NONBLOCK` at any
//! time. Each call therefore says itself that it does not wait (`RWF_NOWAIT`, honoured since Linux 5.11).
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

use arrayvec::ArrayVec;
use rustix::{
    fs::{AtFlags, FileType, StatxFlags, statx},
    io::{Errno, ReadWriteFlags, preadv2, pwritev2},
    ioctl::opcode,
};

use super::{Device, DeviceError, Refuse};
use crate::{
    addr::PortId,
    batch::{Batch, GULP, HEADROOM},
    datagrams::MAX_MERGED,
    drops::DropReason,
    transmit::{Form, Scratch, Transmit},
    wire::{
        frame::MAX_FRAME,
        offload::{Capabilities, LONG_HEADER, Offload},
    },
};

/// An open TAP interface with offload headers.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    capabilities: Capabilities,
    merges: bool,
    /// `RWF_NOWAIT`, or nothing where the kernel does not know it for TAPs; see [`never_waits`].
    nowait: ReadWriteFlags,
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
const IFF_NAPI_FRAGS: c_int = 0x20;
const TUN_F_USO: u32 = 0x20 | 0x40;
/// With and without outer checksum.
const TUN_F_UDP_TUNNEL: u32 = 0x80 | 0x100;
const TUNGETDEVNETNS: libc::Ioctl = opcode::none(b'T', 227) as libc::Ioctl;

/// Device number of /dev/net/tun: MISC_MAJOR and TUN_MINOR (include/uapi/linux/major.h, include/linux/miscdevice.h).
const TUN_DEVICE: (u32, u32) = (10, 200);

/// The offset that means "none": preadv2(2).
const NO_OFFSET: u64 = u64::MAX;

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
        let fd = OwnedFd::from(file);
        // On older kernels O_NONBLOCK suffices: the description is not shared.
        let nowait = if never_waits(&fd) { ReadWriteFlags::NOWAIT } else { ReadWriteFlags::empty() };
        let tap = Self { fd, capabilities: Capabilities::NONE, merges: false, nowait };
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

    /// Adopts an open descriptor of another process, after checking that it is equivalent to one of [`Tap::open`] and that
    /// nothing the other process does to it can make a call here wait.
    ///
    /// # Errors
    /// `InvalidInput`: not a TAP interface with offload headers and without packet information. `Unsupported`: Linux before
    /// 5.11.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        // First of all, and without asking the file system: a FUSE server may let any call on its files wait.
        let stat = statx(&fd, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE)?;
        let device = (stat.stx_rdev_major, stat.stx_rdev_minor);
        if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::CharacterDevice || device != TUN_DEVICE
        {
            return Err(invalid("the descriptor is not one of /dev/net/tun"));
        }
        let mut request = request("")?;
        // SAFETY: TUNGETIFF writes one ifreq, which lives across the call.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
        // SAFETY: TUNGETIFF sets the flags, and every bit pattern is a valid short.
        let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        let needed = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        // With IFF_NAPI_FRAGS a write waits for another one's, however long the memory of that takes to be read
        // (`napi_mutex` in `tun_get_user`).
        let unwanted = libc::IFF_MULTI_QUEUE | IFF_NAPI_FRAGS;
        if flags & needed != needed || flags & unwanted != 0 {
            return Err(invalid(
                "the descriptor is not a single-queue TAP interface with IFF_NO_PI and IFF_VNET_HDR and without IFF_NAPI_FRAGS",
            ));
        }
        if !never_waits(&fd) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a TAP of another process needs Linux 5.11 or newer, where it cannot be made blocking for us",
            ));
        }
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd, capabilities: Capabilities::NONE, merges: false, nowait: ReadWriteFlags::NOWAIT })
    }

    /// Sets the size of the offload header and the offloads that the kernel may leave to the switch: all that
    /// it can pass on, or none. Always called, because a persistent interface keeps its last setting.
    ///
    /// # Errors
    /// The kernel refuses: the interface is gone.
    pub fn set_offload(&mut self, offload: bool) -> io::Result<()> {
        let size = LONG_HEADER as c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one int, which lives across the call.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) })?;
        if !offload {
            self.capabilities = Capabilities::NONE;
            return self.ask(0);
        }
        let tso = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        // USO came with Linux 6.2, tunnels with 6.17; an older kernel rejects the whole set.
        let tunnel = self.ask(tso | TUN_F_USO | TUN_F_UDP_TUNNEL).is_ok();
        let uso = tunnel || self.ask(tso | TUN_F_USO).is_ok();
        if !uso {
            self.ask(tso)?;
        }
        self.capabilities = Capabilities { csum: true, tso: true, uso, tunnel };
        Ok(())
    }

    /// Sets whether datagrams of one flow are sent as a super-frame, which raw sockets of the container see. Without effect
    /// before Linux 6.2 (USO).
    pub fn set_merging(&mut self, merges: bool) {
        self.merges = merges;
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
            let buffer = &mut buffer[HEADROOM - LONG_HEADER..HEADROOM + MAX_FRAME];
            let vector = &mut [io::IoSliceMut::new(buffer)];
            let len = match preadv2(&self.fd, vector, NO_OFFSET, self.nowait) {
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
            match Offload::parse_long(header, frame) {
                Ok(offload) => batch.push(port, None, offload, len - LONG_HEADER),
                Err(reason) => refuse(port, reason, frame),
            }
        }
        Ok(true)
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn send(&self, frames: &Transmit<'_>, scratch: &mut Scratch) {
        if self.merges && self.capabilities.uso && frames.outs.len() > 1 {
            self.send_merged(frames, scratch);
        } else {
            self.send_each(frames, scratch);
        }
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }
}

impl Tap {
    fn send_each(&self, frames: &Transmit<'_>, scratch: &mut Scratch) {
        frames.each(self.capabilities, scratch, |form| {
            let written = match form {
                Form::Whole(bytes) => self.write([bytes]),
                Form::Retagged(head, rest) | Form::Uncut(head, rest, _) => {
                    self.write([head.with_header(), rest])
                }
                Form::Wire(bytes) => self.write([&Offload::NONE.emit_long(), bytes]),
            };
            written.map(drop).map_err(|error| DeviceError::of(&error.into()).drop_reason())
        });
    }

    /// The same, with datagrams of one flow as a super-frame.
    fn send_merged(&self, frames: &Transmit<'_>, scratch: &mut Scratch) {
        let mut at = 0;
        while at < frames.outs.len() {
            let Some(merged) = frames.merged(at) else {
                self.send_each(&Transmit { outs: &frames.outs[at..=at], ..*frames }, scratch);
                at += 1;
                continue;
            };
            let parts: ArrayVec<_, { 1 + MAX_MERGED }> = merged.parts().map(io::IoSlice::new).collect();
            let written = pwritev2(&self.fd, &parts, NO_OFFSET, self.nowait);
            let result = written.map(|_| 1).map_err(|error| DeviceError::of(&error.into()).drop_reason());
            for out in &frames.outs[at..at + merged.count()] {
                frames.count(*out, result);
            }
            at += merged.count();
        }
    }

    fn write<const N: usize>(&self, parts: [&[u8]; N]) -> rustix::io::Result<usize> {
        pwritev2(&self.fd, &parts.map(io::IoSlice::new), NO_OFFSET, self.nowait)
    }
}

/// Whether the kernel knows `RWF_NOWAIT` for TAPs: it refuses the flag before it looks at the frame, which is one byte here
/// and thus refused in any case.
fn never_waits(tap: &OwnedFd) -> bool {
    let too_short = [io::IoSlice::new(&[0])];
    pwritev2(tap, &too_short, NO_OFFSET, ReadWriteFlags::NOWAIT) != Err(Errno::OPNOTSUPP)
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
