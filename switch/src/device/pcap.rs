//! A device over capture files: what is in one is received, what is sent is written to another.

use std::{
    fmt,
    io::{self, Read, Write},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use pcap_file::{
    DataLink,
    pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter},
};

use super::{Device, Refuse};
use crate::{
    addr::PortId,
    batch::Batch,
    drops::DropReason,
    transmit::{Scratch, Transmit},
    wire::{
        frame::MAX_FRAME,
        offload::{Capabilities, Offload},
    },
};

/// Octets of the longest frame in a capture: no frame is cut short.
const SNAPLEN: u32 = 1 << 17;
const _: () = assert!(MAX_FRAME <= SNAPLEN as usize);

/// Replays the frames of one capture as fast as they are asked for, and writes what it is sent to another.
///
/// Frames in a file are wire frames: super-frames are cut before they are written. Time stamps written count
/// frames, not time: the core knows no clock.
pub struct PcapDevice<R: Read, W: Write> {
    files: Mutex<Files<R, W>>,
}

struct Files<R: Read, W: Write> {
    /// `None` once the capture has been read.
    from: Option<PcapReader<R>>,
    to: PcapWriter<W>,
    written: u32,
}

impl<R: Read, W: Write> PcapDevice<R, W> {
    /// Reads frames from the capture `from` (none if `None`) and writes a new capture to `to`.
    ///
    /// # Errors
    /// `from` is no pcap file of Ethernet frames, or `to` cannot be written.
    pub fn new(from: Option<R>, to: W) -> io::Result<Self> {
        let from = from.map(PcapReader::new).transpose().map_err(io::Error::other)?;
        if from.as_ref().is_some_and(|from| from.header().datalink != DataLink::ETHERNET) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the capture holds no Ethernet frames"));
        }
        let header = PcapHeader { snaplen: SNAPLEN, datalink: DataLink::ETHERNET, ..PcapHeader::default() };
        let to = PcapWriter::with_header(to, header).map_err(io::Error::other)?;
        Ok(Self { files: Mutex::new(Files { from, to, written: 0 }) })
    }

    /// Gives the file back that was written.
    pub fn into_written(self) -> W {
        self.files.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).to.into_writer()
    }

    fn files(&self) -> MutexGuard<'_, Files<R, W>> {
        self.files.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<R: Read, W: Write> fmt::Debug for PcapDevice<R, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PcapDevice").finish_non_exhaustive()
    }
}

impl<R: Read + Send, W: Write + Send> Device for PcapDevice<R, W> {
    fn recv(&self, port: PortId, batch: &mut Batch, max: usize, refuse: &mut Refuse<'_>) -> io::Result<bool> {
        let mut files = self.files();
        for _ in 0..max {
            let Some(reader) = &mut files.from else { return Ok(false) };
            let Some(packet) = reader.next_packet() else {
                files.from = None;
                return Ok(false);
            };
            let bytes = packet.map_err(io::Error::other)?.data;
            if !batch.push_copy(port, Offload::NONE, &bytes) {
                refuse(port, DropReason::PktTooBig, &bytes);
            }
        }
        Ok(true)
    }

    fn send(&self, frames: &Transmit<'_>, scratch: &mut Scratch) {
        let mut files = self.files();
        frames.each(Capabilities::NONE, scratch, |form| {
            let (_, bytes) = form.to_packet();
            files.written += 1;
            let at = Duration::from_micros(files.written.into());
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let packet = PcapPacket::new_owned(at, len, bytes);
            files.to.write_packet(&packet).map(drop).map_err(|_| DropReason::DevTxError)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: &[u8] = b"\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x02\x08\x06hello";

    #[test]
    fn what_was_captured_can_be_replayed() {
        let mut file = PcapWriter::new(Vec::new()).unwrap();
        file.write_packet(&PcapPacket::new(Duration::ZERO, 19, FRAME)).unwrap();
        let device = PcapDevice::new(Some(io::Cursor::new(file.into_writer())), Vec::new()).unwrap();
        let mut batch = Batch::new();
        let mut refuse = |_, _, _: &[u8]| panic!("the frame is valid");
        assert!(!device.recv(PortId(1), &mut batch, 8, &mut refuse).unwrap());
        assert_eq!(batch.bytes(0), FRAME);
        assert!(!device.recv(PortId(1), &mut batch, 8, &mut refuse).unwrap());
        assert_eq!(batch.len(), 1);
    }

    #[test]
    fn a_file_that_is_no_capture_is_refused() {
        assert!(PcapDevice::new(Some(io::Cursor::new(b"not a capture at all, sorry")), Vec::new()).is_err());
    }
}
