//! An existing interface (a veth end, a NIC), accessed through AF_PACKET.
//!
//! `PACKET_VNET_HDR` puts the short offload header before each frame, with which a TAP's long one begins, so super-frames
//! pass whole between both, except those in UDP tunnels. Frames are received and sent in batches (`recvmmsg`, `sendmmsg`). The kernel
//! strips the VLAN tag of a frame and passes it as metadata (`PACKET_AUXDATA`), from which it is restored.
//! Outgoing frames of the interface are not received (`PACKET_IGNORE_OUTGOING`): they would include the
//! switch's own.
#![expect(unsafe_code, reason = "AF_PACKET addresses, recvmmsg and sendmmsg have no safe wrapper")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "small constants in the types of the kernel\'s interface"
)]

use std::{
    fmt, io,
    mem::{MaybeUninit, size_of, zeroed},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    ptr::null_mut,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use etherparse::EtherType;
use libc::{c_int, c_uint, c_void, cmsghdr, iovec, mmsghdr, socklen_t, tpacket_auxdata};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Device, DeviceError, Refuse};
use crate::{
    addr::PortId,
    batch::{BATCH, Batch, GIANTS, GULP, HEADROOM},
    drops::DropReason,
    transmit::{Answers, Form, Head, Out, Scratch, Transmit, cut},
    wire::{
        bytes::put_u16,
        frame::{ETHERNET_HEADER, MAX_FRAME, TAG},
        giant::Giant,
        offload::{Capabilities, LONG_HEADER, Offload, VNET_HEADER},
    },
};

/// Size of the socket's receive and send buffers in bytes. A 64 KB super-frame counts up to twice its size.
const QUEUE: c_int = 8 << 20;

// include/uapi/linux/if_packet.h, where libc lacks it.
const PACKET_IGNORE_OUTGOING: c_int = 23;
const ETH_P_ALL: u16 = 3;

/// The offload header of a wire frame.
const NONE: [u8; VNET_HEADER] = [0; VNET_HEADER];
/// Maximum number of parts of a message: offload header, head of a frame whose tag changed, and the rest.
const PARTS: usize = 3;

/// A program in the kernel that forwards some frames of an interface in place of the switch.
pub trait Bypass: fmt::Debug + Send + Sync {
    /// The socket filter that lets pass all frames but those that the program forwards.
    fn filter(&self) -> BorrowedFd<'_>;
    /// Number of frames so far that were left to the switch, in its socket by now or lost there.
    fn queued(&self) -> u32;
    /// The switch takes frames from its socket: the program need not do without it.
    fn taken(&self);
    /// The switch has forwarded all of the first `queued` frames: the program can overtake none of them.
    fn drained(&self, queued: u32);
}

/// An interface opened through AF_PACKET.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
    ifindex: c_int,
    capabilities: Capabilities,
    /// Length of the longest frame that the interface sends, in bytes, as of the last [measurement](Self::measure).
    longest: AtomicUsize,
    /// Moving average of the length of received frames.
    mean: AtomicUsize,
    /// Whether super-frames longer than 64 KB come. Those of the first reading are lost.
    has_giants: AtomicBool,
    overflow: AtomicU64,
    bypass: Option<Arc<dyn Bypass>>,
    /// What [`Bypass::queued`] was before the last call of `recv`, if that found the end of the queue; or [`NOT_EMPTY`].
    emptied: AtomicU64,
}

const NOT_EMPTY: u64 = u64::MAX;

impl PacketSocket {
    /// Opens the interface `name` of the calling thread's network namespace in promiscuous mode.
    ///
    /// Without `offload`, only complete wire frames are sent. Received frames may carry offloads in either
    /// case. Frames that `bypass` forwards are not received.
    ///
    /// # Errors
    /// `ENODEV`: no such interface. `ENETDOWN`: it is down. `EPERM`: no CAP_NET_RAW.
    pub fn open(name: &str, offload: bool, bypass: Option<Arc<dyn Bypass>>) -> io::Result<Self> {
        let ifindex = index_of(name)?;
        // Protocol 0: nothing is received before the socket is bound to the interface.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        let on: c_int = 1;
        set(&socket, libc::PACKET_AUXDATA, &on)?;
        set(&socket, PACKET_IGNORE_OUTGOING, &on)?;
        // Needed for receiving even without `offload`: the sender at the other end may leave checksums and
        // segmentation to the receiver, and only this header says so.
        set(&socket, libc::PACKET_VNET_HDR, &on)?;
        for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
            set_level(&socket, libc::SOL_SOCKET, option, &QUEUE)?;
        }
        // SAFETY: plain data of which all zeros is a value.
        let mut membership: libc::packet_mreq = unsafe { zeroed() };
        membership.mr_ifindex = ifindex;
        membership.mr_type = libc::PACKET_MR_PROMISC as u16;
        set(&socket, libc::PACKET_ADD_MEMBERSHIP, &membership)?;
        if let Some(bypass) = &bypass {
            // Before it is bound: a socket without the filter would get frames that are forwarded already.
            let filter: c_int = bypass.filter().as_raw_fd();
            set_level(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, &filter)?;
        }
        // SAFETY: as above.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ETH_P_ALL.to_be();
        address.sll_ifindex = ifindex;
        let len = size_of::<libc::sockaddr_ll>() as socklen_t;
        // SAFETY: the address is a sockaddr_ll of the given length, alive across the call.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
        // Binding to an interface that is down succeeds and leaves a pending error on the socket.
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        // A short header tells of no tunnel, and a long one is refused (`packet_setsockopt`, net/packet/af_packet.c).
        let all = Capabilities { tunnel: false, ..Capabilities::ALL };
        let capabilities = if offload { all } else { Capabilities::NONE };
        let (longest, mean, has_giants, overflow) = Default::default();
        let emptied = AtomicU64::new(NOT_EMPTY);
        let opened =
            Self { socket, ifindex, capabilities, longest, mean, has_giants, overflow, bypass, emptied };
        opened.measure();
        Ok(opened)
    }

    /// Notes the current MTU of the interface, which may change at any time. A super-frame is not compared with it by the
    /// kernel, which would send segments that are too long.
    pub fn measure(&self) {
        let mtu = self.mtu().map_or(usize::MAX >> 1, usize::from);
        // As everywhere, one tag does not count.
        self.longest.store(mtu + ETHERNET_HEADER + TAG, Relaxed);
    }

    /// The MTU of the interface, in bytes.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn mtu(&self) -> io::Result<u16> {
        let mut request = self.named_request()?;
        // SAFETY: SIOCGIFMTU reads the name and writes the MTU of one ifreq.
        check(unsafe {
            libc::ioctl(self.socket.as_raw_fd(), libc::SIOCGIFMTU as libc::Ioctl, &raw mut request)
        })?;
        // SAFETY: SIOCGIFMTU has set it.
        Ok(u16::try_from(unsafe { request.ifr_ifru.ifru_mtu }).unwrap_or(u16::MAX))
    }

    /// Whether the interface is up and has a carrier: of a veth pair, whether the other end is up too.
    pub fn is_running(&self) -> bool {
        let running = || -> io::Result<bool> {
            let mut request = self.named_request()?;
            // SAFETY: SIOCGIFFLAGS reads the name and writes the flags of one ifreq.
            check(unsafe {
                libc::ioctl(self.socket.as_raw_fd(), libc::SIOCGIFFLAGS as libc::Ioctl, &raw mut request)
            })?;
            // SAFETY: SIOCGIFFLAGS has set it.
            let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags });
            Ok(flags & libc::IFF_UP != 0 && flags & libc::IFF_RUNNING != 0)
        };
        running().unwrap_or(false)
    }

    /// The current name of the interface, in the socket's namespace.
    fn named_request(&self) -> io::Result<libc::ifreq> {
        // SAFETY: plain data of which all zeros is a value.
        let mut request: libc::ifreq = unsafe { zeroed() };
        request.ifr_ifru.ifru_ifindex = self.ifindex;
        // SAFETY: SIOCGIFNAME reads the index and writes the name of one ifreq.
        check(unsafe {
            libc::ioctl(self.socket.as_raw_fd(), libc::SIOCGIFNAME as libc::Ioctl, &raw mut request)
        })?;
        Ok(request)
    }

    /// Number of frames to receive at once: up to `max`, but fewer long ones, so that they fit the cache.
    fn gulp(&self, max: usize) -> usize {
        max.min(GULP / self.mean.load(Relaxed).max(1)).clamp(self.least(), BATCH)
    }

    /// The least number of frames to ask for. With a bypass one more, to see the end of the queue: it forwards nothing before.
    fn least(&self) -> usize {
        if self.bypass.is_some() { 2 } else { 1 }
    }

    /// Sends `messages` in order, and reports the outcome of each.
    fn send_all(&self, messages: &mut [mmsghdr], mut done: impl FnMut(usize, Result<usize, DropReason>)) {
        let mut next = 0;
        while next < messages.len() {
            let rest = &mut messages[next..];
            // By its number, as musl's function of that name makes a call of each message.
            // SAFETY: the messages' names, iovecs and what these point to outlive the call (see `send`).
            let sent = unsafe {
                libc::syscall(
                    libc::SYS_sendmmsg,
                    self.socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as c_uint,
                    libc::MSG_DONTWAIT,
                )
            };
            match usize::try_from(sent) {
                Ok(sent) if sent > 0 => {
                    (next..next + sent).for_each(|index| done(index, Ok(1)));
                    next += sent;
                }
                _ => {
                    // The error belongs to the first message; the others are tried.
                    done(next, Err(DeviceError::of(&io::Error::last_os_error()).drop_reason()));
                    next += 1;
                }
            }
        }
    }
}

/// Room for the one requested control message, with the kernel's alignment.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

// SAFETY: pure arithmetic on its argument.
const CONTROL: usize = unsafe { libc::CMSG_SPACE(size_of::<tpacket_auxdata>() as c_uint) } as usize;

/// What one `recvmmsg` needs besides buffers.
struct Messages {
    controls: [MaybeUninit<Control>; BATCH],
    vectors: [iovec; BATCH],
    headers: [mmsghdr; BATCH],
}

impl Messages {
    fn new() -> Self {
        Self {
            controls: [const { MaybeUninit::uninit() }; BATCH],
            vectors: [const { iovec { iov_base: null_mut(), iov_len: 0 } }; BATCH],
            // SAFETY: plain data of which all zeros is a value.
            headers: unsafe { zeroed() },
        }
    }

    /// Receives one message into each of at most [`BATCH`] `buffers`, as far as there are any, and returns their headers.
    #[inline]
    fn receive<'b>(
        &mut self,
        socket: &Socket,
        buffers: impl Iterator<Item = &'b mut [u8]>,
    ) -> io::Result<&[mmsghdr]> {
        let mut want = 0;
        for (index, buffer) in buffers.take(BATCH).enumerate() {
            self.vectors[index] = iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            let message = &mut self.headers[index].msg_hdr;
            message.msg_iov = &raw mut self.vectors[index];
            message.msg_iovlen = 1;
            message.msg_control = self.controls[index].as_mut_ptr().cast();
            message.msg_controllen = CONTROL as _;
            want += 1;
        }
        // SAFETY: each message names one iovec over a buffer of its own, which is borrowed mutably for longer than this
        // call, and a control buffer of CONTROL bytes; `self` does not move between here and the reading of the headers.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                want,
                libc::MSG_DONTWAIT as _,
                null_mut(),
            )
        };
        match usize::try_from(received) {
            Ok(received) => Ok(&self.headers[..received]),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }
}

impl Device for PacketSocket {
    fn recv(&self, port: PortId, batch: &mut Batch, max: usize, refuse: &mut Refuse<'_>) -> io::Result<bool> {
        let Some(bypass) = &self.bypass else { return self.receive(port, batch, max, refuse) };
        let queued = bypass.queued();
        let more = self.receive(port, batch, max, refuse);
        if let Ok(false) = more {
            self.emptied.store(queued.into(), Relaxed);
        }
        more
    }

    fn turned(&self) {
        let Some(bypass) = &self.bypass else { return };
        bypass.taken();
        // Only the worker that receives writes it.
        if let Ok(queued) = u32::try_from(self.emptied.load(Relaxed)) {
            self.emptied.store(NOT_EMPTY, Relaxed);
            bypass.drained(queued);
        }
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn send(&self, frames: &Transmit<'_>, scratch: &mut Scratch) {
        let frames = self.within(frames);
        for outs in frames.outs.chunks(BATCH) {
            self.send_some(&Transmit { outs, ..frames }, scratch);
        }
    }

    fn longest(&self) -> Option<usize> {
        Some(self.longest.load(Relaxed))
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn overflow(&self) -> u64 {
        // SAFETY: plain data of which all zeros is a value.
        let mut stats: libc::tpacket_stats = unsafe { zeroed() };
        let mut len = size_of::<libc::tpacket_stats>() as socklen_t;
        // SAFETY: the kernel writes at most `len` bytes to `stats`; both live across the call.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            )
        };
        // Reading resets the kernel's count.
        let new = if result == 0 { u64::from(stats.tp_drops) } else { 0 };
        self.overflow.fetch_add(new, Relaxed) + new
    }
}

impl PacketSocket {
    /// [`Device::recv`], as if nothing else forwarded.
    fn receive(
        &self,
        port: PortId,
        batch: &mut Batch,
        max: usize,
        refuse: &mut Refuse<'_>,
    ) -> io::Result<bool> {
        if self.has_giants.load(Relaxed) && batch.is_empty() {
            return self.recv_giants(port, batch, max, refuse);
        }
        let want = self.gulp(max).min(batch.room());
        let mut messages = Messages::new();
        let buffers = batch.spare().take(want);
        let frames = buffers.map(|buffer| &mut buffer[HEADROOM - VNET_HEADER..HEADROOM + MAX_FRAME]);
        let received = match messages.receive(&self.socket, frames) {
            Ok(received) => received,
            Err(error) => return nothing(port, error, refuse),
        };
        let mut bytes = 0;
        // The buffer of an invalid frame is reused, so the frames after it are moved down to the next free
        // buffer.
        let mut skipped = 0;
        for message in received {
            let len = message.msg_len as usize;
            bytes += len;
            let taken = take(batch, port, len, skipped);
            match taken {
                Some(()) => {
                    if let Some(tag) = stripped_tag(message) {
                        batch.restore_tag(tag);
                    }
                }
                None => {
                    if message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                        self.has_giants.store(true, Relaxed);
                    }
                    let frame_len = len.saturating_sub(VNET_HEADER);
                    let frame = batch.spare().next().and_then(|it| it.get(HEADROOM..HEADROOM + frame_len));
                    refuse(port, DropReason::DevHdr, frame.unwrap_or_default());
                    skipped += 1;
                }
            }
        }
        if let Some(mean) = bytes.checked_div(received.len()) {
            self.mean.store((self.mean.load(Relaxed) * 3 + mean) / 4, Relaxed);
        }
        Ok(received.len() == want)
    }

    /// Receives while super-frames longer than 64 KB are among the frames: into buffers for those, and copies each frame.
    #[cold]
    fn recv_giants(
        &self,
        port: PortId,
        batch: &mut Batch,
        max: usize,
        refuse: &mut Refuse<'_>,
    ) -> io::Result<bool> {
        let want = max.clamp(self.least(), GIANTS);
        let mut messages = Messages::new();
        let received = match messages.receive(&self.socket, batch.giants().take(want)) {
            Ok(received) => received,
            Err(error) => return nothing(port, error, refuse),
        };
        for (index, message) in received.iter().enumerate() {
            let (len, tag) = (message.msg_len as usize, stripped_tag(message));
            let is_frame = len <= VNET_HEADER + MAX_FRAME && {
                batch.bring(index, 0..len, HEADROOM - VNET_HEADER);
                take(batch, port, len, 0).is_some()
            };
            if is_frame {
                tag.into_iter().for_each(|tag| batch.restore_tag(tag));
            } else if split(batch, port, index, len, tag).is_none() {
                let frame = &batch.giant(index)[VNET_HEADER.min(len)..len];
                refuse(port, DropReason::DevHdr, frame);
            }
        }
        Ok(received.len() == want)
    }

    /// Sends at most [`BATCH`] frames.
    fn send_some(&self, frames: &Transmit<'_>, scratch: &mut Scratch) {
        let mut heads = [const { MaybeUninit::<Head>::uninit() }; BATCH];
        let mut vectors = [const { [iovec { iov_base: null_mut(), iov_len: 0 }; PARTS] }; BATCH];
        // SAFETY: plain data of which all zeros is a value.
        let mut messages: [mmsghdr; BATCH] = unsafe { zeroed() };
        let mut pending = [const { None::<Out> }; BATCH];
        let mut count = 0;
        for &out in frames.outs {
            let parts: [&[u8]; PARTS] = match frames.form(out, self.capabilities) {
                Ok(Form::Whole(bytes)) => [&bytes[..VNET_HEADER], &bytes[LONG_HEADER..], &[]],
                Ok(Form::Retagged(head, rest)) => {
                    let head = heads[count].write(head);
                    [head.short_header(), head.bytes(), rest]
                }
                Ok(Form::Uncut(head, rest, offload)) => {
                    // Preserve the order: flush earlier frames first.
                    self.flush(frames, &mut messages[..count], &pending[..count], &mut scratch.answers);
                    count = 0;
                    let result = cut(&head, rest, offload, scratch, |wire| self.send_one(wire));
                    self.count(frames, out, result, &mut scratch.answers);
                    continue;
                }
                Ok(Form::Wire(bytes)) => [&NONE, bytes, &[]],
                Err(reason) => {
                    self.count(frames, out, Err(reason), &mut scratch.answers);
                    continue;
                }
            };
            vectors[count] =
                parts.map(|part| iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
            messages[count].msg_hdr.msg_iov = vectors[count].as_mut_ptr();
            messages[count].msg_hdr.msg_iovlen = if parts[2].is_empty() { 2 } else { 3 };
            pending[count] = Some(out);
            count += 1;
        }
        self.flush(frames, &mut messages[..count], &pending[..count], &mut scratch.answers);
    }

    /// Sends `messages`, and counts the outcome of the frame of each.
    fn flush(
        &self,
        frames: &Transmit<'_>,
        messages: &mut [mmsghdr],
        pending: &[Option<Out>],
        answers: &mut Answers,
    ) {
        self.send_all(messages, |index, result| {
            if let Some(out) = pending[index] {
                self.count(frames, out, result, answers);
            }
        });
    }

    /// Counts the outcome of `out`, and tells the sender of a frame that is too long.
    #[inline]
    fn count(
        &self,
        frames: &Transmit<'_>,
        out: Out,
        result: Result<usize, DropReason>,
        answers: &mut Answers,
    ) {
        if result == Err(DropReason::PktTooBig) {
            // The kernel may know of an MTU that is new.
            self.measure();
            self.within(frames).answer_port(out, answers);
        }
        frames.count(out, result);
    }

    /// `frames`, limited to the length that the interface sends.
    fn within<'a>(&self, frames: &Transmit<'a>) -> Transmit<'a> {
        Transmit { max_frame: frames.max_frame.min(self.longest.load(Relaxed)), ..*frames }
    }

    /// Sends a wire frame without offload header.
    fn send_one(&self, wire: &[u8]) -> Result<(), DropReason> {
        let parts = [&NONE, wire].map(io::IoSlice::new);
        self.socket.send_vectored(&parts).map(drop).map_err(|error| DeviceError::of(&error).drop_reason())
    }
}

/// Appends the frame that was received `skipped` buffers after the next one. `None`: it is invalid, and is in
/// the next buffer.
fn take(batch: &mut Batch, port: PortId, len: usize, skipped: usize) -> Option<()> {
    let frame_len = len.checked_sub(VNET_HEADER)?;
    if skipped > 0 {
        batch.shift_spare(skipped, HEADROOM - VNET_HEADER..HEADROOM + frame_len);
    }
    let buffer = batch.spare().next()?;
    let (front, frame) = buffer[..HEADROOM + frame_len].split_at(HEADROOM);
    let offload = Offload::parse(front.last_chunk()?, frame).ok()?;
    batch.push(port, None, offload, frame_len);
    Some(())
}

/// Appends the super-frames of the longer one that was received into the giant number `index`. `None`: it is none.
fn split(batch: &mut Batch, port: PortId, index: usize, len: usize, tag: Option<[u8; TAG]>) -> Option<()> {
    let (vnet, frame) = batch.giant(index)[..len].split_first_chunk()?;
    let giant = Giant::measure(vnet, frame).ok()?;
    for payload in giant.pieces() {
        let (header_len, begin) = (giant.header_len(), VNET_HEADER + payload.start);
        batch.bring(index, begin..begin + payload.len(), HEADROOM + header_len);
        let piece = &mut batch.spare().next()?[HEADROOM..HEADROOM + header_len + payload.len()];
        let offload = giant.finish(&payload, piece).ok()?;
        batch.push(port, None, offload, header_len + payload.len());
        tag.into_iter().for_each(|tag| batch.restore_tag(tag));
    }
    Some(())
}

/// The outcome of receiving nothing because of `error`.
#[cold]
fn nothing(port: PortId, error: io::Error, refuse: &mut Refuse<'_>) -> io::Result<bool> {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR) => Ok(false),
        // A super-frame of which a virtio header cannot tell (SCTP): the kernel has taken it from the queue.
        Some(libc::EINVAL) => {
            refuse(port, DropReason::DevHdr, &[]);
            Ok(true)
        }
        _ => Err(error),
    }
}

/// The VLAN tag that the kernel stripped from a frame, in wire format.
fn stripped_tag(message: &mmsghdr) -> Option<[u8; TAG]> {
    // SAFETY: the kernel has filled the message's control buffer and set its length.
    let control: *const cmsghdr = unsafe { libc::CMSG_FIRSTHDR(&raw const message.msg_hdr) };
    if control.is_null() {
        return None;
    }
    // SAFETY: not null, so it points to a header within the control buffer, which outlives this call.
    let (level, kind) = unsafe { ((*control).cmsg_level, (*control).cmsg_type) };
    if (level, kind) != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
        return None;
    }
    // SAFETY: a PACKET_AUXDATA message holds a tpacket_auxdata, possibly not aligned for it.
    let aux: tpacket_auxdata = unsafe { libc::CMSG_DATA(control).cast::<tpacket_auxdata>().read_unaligned() };
    if aux.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let told = aux.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    let mut tag = [0; TAG];
    put_u16(&mut tag, 0, if told { aux.tp_vlan_tpid } else { EtherType::VLAN_TAGGED_FRAME.0 });
    put_u16(&mut tag, 2, aux.tp_vlan_tci);
    Some(tag)
}

fn index_of(name: &str) -> io::Result<c_int> {
    let any = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    let index = rustix::net::netdevice::name_to_index(&any, name)?;
    c_int::try_from(index).map_err(io::Error::other)
}

fn set<T>(socket: &Socket, option: c_int, value: &T) -> io::Result<()> {
    set_level(socket, libc::SOL_PACKET, option, value)
}

fn set_level<T>(socket: &Socket, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    let (value, len): (*const T, _) = (value, size_of::<T>() as socklen_t);
    // SAFETY: the kernel reads `len` bytes of `value`, which lives across the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value.cast::<c_void>(), len) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
