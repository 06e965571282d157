//! `vswitchctl capture`: frames as the switch sees them, into a file or a pipe, or as lines on the terminal.
//!
//! The daemon produces the file block by block; the client writes it with the caller's privileges, split into several
//! on request, or decodes it into lines.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use pcap_file::{
    PcapError,
    pcapng::{
        Block, PcapNgParser,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::InterfaceDescriptionOption,
            interface_statistics::InterfaceStatisticsOption,
        },
    },
};

use super::{
    arguments::direction,
    filter, print, render,
    show::{duration, or_dash, short, table},
};
use crate::client::{Client, ClientError};
use vswitch_model::{
    Error, Name,
    api::{
        Direction,
        capture::{Capture, CaptureRequest},
    },
    text::describe,
};

/// `vswitchctl capture`
#[derive(Debug, Args)]
#[command(
    long_about = "Capture frames as the switch sees them: where they are received, and where they are sent.\n\n\
        Without -w, one line per frame. With -w, pcapng: an interface per port, the direction of each frame, and \
        for dropped frames the reason as comment. A super-frame is one frame. Forwarding never waits: frames that arrive \
        faster than they are written are lost and counted.",
    after_help = "Examples:\n  \
        vswitchctl capture --port web\n  \
        vswitchctl capture --filter 'tcp port 80' -w web.pcapng\n  \
        vswitchctl capture --drops -w - | tshark -r -\n  \
        vswitchctl capture -w ring.pcapng --rotate 100,5"
)]
pub struct CaptureArguments {
    /// Only at this port; may be repeated.
    #[arg(long, value_name = "PORT")]
    port: Vec<Name>,
    /// Only in this network; may be repeated.
    #[arg(long, value_name = "NETWORK")]
    network: Vec<Name>,
    /// Only to and from this peer: its name or address.
    #[arg(long, value_name = "PEER", value_parser = super::tunnel::peer_name)]
    peer: Vec<Name>,
    /// Only received frames (rx), or sent frames (tx).
    #[arg(long, value_parser = direction())]
    direction: Option<Direction>,
    /// Only frames that were not delivered.
    #[arg(long)]
    drops: bool,
    /// Only frames that match this expression in tcpdump's syntax, pcap-filter(7).
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Bytes kept of each frame; default: all.
    #[arg(long, value_name = "BYTES", default_value_t = CaptureRequest::WHOLE, hide_default_value = true)]
    snaplen: u32,
    /// End after this number of frames.
    #[arg(long, short = 'c', value_name = "FRAMES", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Start another file after MB megabytes (10^6), and keep FILES files: FILE.0, FILE.1, and so on.
    #[arg(long, value_name = "MB,FILES", value_parser = rotation, requires = "write")]
    rotate: Option<Rotation>,
    /// Buffer per worker, in mebibytes.
    #[arg(long, value_name = "MiB", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    buffer: u16,
    /// Write pcapng to this file; - is standard output.
    #[arg(long, short = 'w', value_name = "FILE")]
    write: Option<PathBuf>,
    /// List the active captures and their losses instead.
    #[arg(long, conflicts_with_all = ["write", "filter", "drops"])]
    ls: bool,
}

/// Size of a file, and the number of files kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rotation {
    bytes: u64,
    files: u32,
}

fn rotation(text: &str) -> Result<Rotation, String> {
    let parts =
        text.split_once(',').and_then(|(size, files)| Some((size.parse::<u32>().ok()?, files.parse().ok()?)));
    match parts {
        Some((size, files)) if size > 0 && files > 0 => {
            Ok(Rotation { bytes: u64::from(size) * 1_000_000, files })
        }
        _ => Err("write megabytes and number of files, such as 100,5".into()),
    }
}

impl CaptureArguments {
    fn request(&self) -> Result<CaptureRequest, ClientError> {
        Ok(CaptureRequest {
            ports: self.port.iter().chain(&self.peer).cloned().collect(),
            networks: self.network.clone(),
            direction: self.direction,
            drops: self.drops,
            follow: false,
            filter: self.filter.as_deref().map(filter::compile).transpose()?.unwrap_or_default(),
            expression: self.filter.clone(),
            snaplen: self.snaplen,
            count: self.count,
            buffer: self.buffer,
        })
    }
}

pub(super) async fn capture(
    client: &Client,
    arguments: &CaptureArguments,
    json: bool,
) -> Result<String, ClientError> {
    if arguments.ls {
        return render(json, &client.captures().await?, |captures| captures_table(captures));
    }
    let request = arguments.request()?;
    let mut sink: Box<dyn Sink> = match &arguments.write {
        None => Box::new(Lines { json, text: String::new() }),
        Some(path) if path == Path::new("-") => {
            if io::stdout().is_terminal() {
                return Err(Error::invalid("pcapng is not for a terminal: pipe it, or omit -w").into());
            }
            Box::new(Raw(io::stdout()))
        }
        Some(path) => {
            Box::new(Files::create(path, arguments.rotate).map_err(|error| cannot_write(path, &error))?)
        }
    };
    let totals = run(client, &request, &mut *sink).await?;
    eprintln!("{} frames captured, {} lost", totals.frames, totals.lost);
    Ok(String::new())
}

/// Totals of a capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    frames: u64,
    lost: u64,
}

/// Destination of a capture.
pub(super) trait Sink {
    /// Takes one block: its bytes and its meaning. Returns false when done.
    fn take(&mut self, bytes: &[u8], block: &Block<'_>, parser: &PcapNgParser) -> io::Result<bool>;

    /// Flushes the blocks taken so far.
    fn flush(&mut self) -> io::Result<()>;

    /// No block arrived for [`QUIET`]. Returns false when done.
    fn idle(&mut self) -> io::Result<bool> {
        Ok(true)
    }
}

/// A frame leaves in the turn in which it was received, and the blocks of a turn arrive within this time.
pub(super) const QUIET: Duration = Duration::from_millis(50);

/// Captures into `sink` until it is done, the daemon ends the capture, or the user interrupts.
pub(super) async fn run(
    client: &Client,
    request: &CaptureRequest,
    sink: &mut dyn Sink,
) -> Result<Totals, ClientError> {
    let mut body = client.capture(request).await?;
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut terminate =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(Error::from)?;
    let (mut pending, mut parser, mut totals, mut ending) = (Vec::new(), None, Totals::default(), false);
    loop {
        let chunk = tokio::select! {
            chunk = body.next() => chunk.map_err(Error::from)?,
            // Frames captured so far are still delivered; a second interrupt does not wait for them.
            _ = &mut interrupted, if !ending => {
                ending = true;
                client.end_capture(body.id).await?;
                continue;
            }
            _ = terminate.recv(), if !ending => {
                ending = true;
                client.end_capture(body.id).await?;
                continue;
            }
            () = tokio::time::sleep(QUIET) => {
                if sink.idle().map_err(Error::from)? {
                    continue;
                }
                break;
            }
        };
        let Some(chunk) = chunk else { break };
        pending.extend_from_slice(&chunk);
        let (read, more) = match blocks(&pending, &mut parser, &mut totals, sink) {
            Ok(read) => read,
            // `vswitchctl capture -w - | head` closed the pipe.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            Err(error) => return Err(Error::from(error).into()),
        };
        pending.drain(..read);
        if !more {
            break;
        }
    }
    sink.flush().and_then(|()| sink.idle()).map_err(Error::from)?;
    Ok(totals)
}

/// Passes every complete block of `bytes` to `sink`. Returns the bytes consumed, and whether it wants more.
fn blocks(
    bytes: &[u8],
    parser: &mut Option<PcapNgParser>,
    totals: &mut Totals,
    sink: &mut dyn Sink,
) -> io::Result<(usize, bool)> {
    let mut rest = bytes;
    let mut more = true;
    while more {
        let next = match parser {
            None => PcapNgParser::new(rest).map(|(after, new)| {
                let block = Block::SectionHeader(new.section().clone());
                *parser = Some(new);
                (after, block)
            }),
            Some(parser) => parser.next_block(rest),
        };
        let (after, block) = match next {
            Ok(next) => next,
            Err(PcapError::IncompleteBuffer) => break,
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        };
        match &block {
            Block::EnhancedPacket(_) => totals.frames += 1,
            Block::InterfaceStatistics(statistics) => {
                for option in &statistics.options {
                    if let InterfaceStatisticsOption::IsbOsDrop(lost) = option {
                        totals.lost = *lost;
                    }
                }
            }
            _ => {}
        }
        if let Some(parser) = parser.as_ref() {
            more = sink.take(&rest[..rest.len() - after.len()], &block, parser)?;
        }
        rest = after;
    }
    sink.flush()?;
    Ok((bytes.len() - rest.len(), more))
}

/// Writes into a pipe.
struct Raw<W>(W);

impl<W: Write> Sink for Raw<W> {
    fn take(&mut self, bytes: &[u8], _: &Block<'_>, _: &PcapNgParser) -> io::Result<bool> {
        self.0.write_all(bytes).map(|()| true)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Writes into a file, or several in rotation.
struct Files {
    path: PathBuf,
    rotation: Option<Rotation>,
    file: BufWriter<File>,
    /// Number of files before this one.
    number: u32,
    written: u64,
    /// The header of every file: the section and its interfaces.
    beginning: Vec<u8>,
}

impl Files {
    fn create(path: &Path, rotation: Option<Rotation>) -> io::Result<Self> {
        let first = if rotation.is_some() { numbered(path, 0) } else { path.to_owned() };
        let file = BufWriter::new(File::create(first)?);
        Ok(Self { path: path.to_owned(), rotation, file, number: 0, written: 0, beginning: Vec::new() })
    }
}

impl Sink for Files {
    fn take(&mut self, bytes: &[u8], block: &Block<'_>, _: &PcapNgParser) -> io::Result<bool> {
        if matches!(block, Block::SectionHeader(_) | Block::InterfaceDescription(_)) {
            self.beginning.extend_from_slice(bytes);
        }
        if let Some(Rotation { bytes: limit, files }) = self.rotation
            && self.written > 0
            && self.written + bytes.len() as u64 > limit
        {
            self.file.flush()?;
            self.number += 1;
            self.file = BufWriter::new(File::create(numbered(&self.path, self.number))?);
            if let Some(old) = self.number.checked_sub(files) {
                std::fs::remove_file(numbered(&self.path, old))?;
            }
            self.file.write_all(&self.beginning)?;
            self.written = self.beginning.len() as u64;
            if matches!(block, Block::InterfaceDescription(_)) {
                return Ok(true);
            }
        }
        self.written += bytes.len() as u64;
        self.file.write_all(bytes).map(|()| true)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// `ring.pcapng` as `ring.pcapng.7`.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn cannot_write(path: &Path, error: &io::Error) -> ClientError {
    Error::invalid(format!("cannot write {}: {error}", path.display())).into()
}

/// A frame of a capture, as printed.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub(super) port: &'a str,
    pub(super) inbound: bool,
    /// The same number wherever the frame was captured.
    pub(super) id: u64,
    pub(super) comment: Option<&'a str>,
    pub(super) at: Duration,
    pub(super) bytes: &'a [u8],
    pub(super) len: usize,
}

impl<'a> Seen<'a> {
    pub(super) fn of(packet: &'a EnhancedPacketBlock<'_>, parser: &'a PcapNgParser) -> Self {
        let interface = parser.packet_interface(packet);
        let name =
            interface.into_iter().flat_map(|interface| &interface.options).find_map(|option| match option {
                InterfaceDescriptionOption::IfName(name) => Some(&**name),
                _ => None,
            });
        let mut seen = Self {
            port: name.unwrap_or("?"),
            inbound: true,
            id: 0,
            comment: None,
            at: packet.timestamp,
            bytes: &packet.data,
            len: packet.original_len as usize,
        };
        for option in &packet.options {
            match option {
                EnhancedPacketOption::Flags(flags) => seen.inbound = flags & 0b11 == 0b01,
                EnhancedPacketOption::Comment(comment) => seen.comment = Some(comment),
                EnhancedPacketOption::Unknown(option) if option.code == 5 => {
                    seen.id = option.value.first_chunk().copied().map_or(0, u64::from_le_bytes);
                }
                _ => {}
            }
        }
        seen
    }

    /// The same as JSON.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "at_ns": u64::try_from(self.at.as_nanos()).unwrap_or(u64::MAX),
            "port": self.port,
            "direction": if self.inbound { Direction::Rx } else { Direction::Tx },
            "id": self.id,
            "summary": describe(self.bytes, self.len),
            "len": self.len,
            "comment": self.comment,
        })
    }

    /// `12:34:56.123456 web rx 02:… > ff:…, ARP …`, with the time of day in UTC.
    pub(super) fn line(&self) -> String {
        let day = self.at.as_secs() % 86_400;
        let (hours, minutes, seconds) = (day / 3600, day / 60 % 60, day % 60);
        let micros = self.at.subsec_micros();
        let way = if self.inbound { "rx" } else { "tx" };
        let what = describe(self.bytes, self.len);
        let mut line = format!("{hours:02}:{minutes:02}:{seconds:02}.{micros:06} {} {way} {what}", self.port);
        if let Some(comment) = self.comment {
            line.push_str("\n    ");
            line.push_str(comment);
        }
        line
    }
}

/// Prints lines for a reader.
struct Lines {
    json: bool,
    text: String,
}

impl Sink for Lines {
    fn take(&mut self, _: &[u8], block: &Block<'_>, parser: &PcapNgParser) -> io::Result<bool> {
        if let Block::EnhancedPacket(packet) = block {
            let seen = Seen::of(packet, parser);
            self.text += &if self.json { seen.json().to_string() } else { seen.line() };
            self.text.push('\n');
        }
        Ok(true)
    }

    fn flush(&mut self) -> io::Result<()> {
        print(&std::mem::take(&mut self.text)).map_err(io::Error::other)
    }
}

fn captures_table(captures: &[Capture]) -> String {
    if captures.is_empty() {
        return "no active captures\n".into();
    }
    let list = |names: &[Name]| names.iter().map(Name::as_str).collect::<Vec<_>>().join(",");
    let rows = captures.iter().map(|capture| {
        let of = [list(&capture.request.ports), list(&capture.request.networks)];
        let of: Vec<_> = of.into_iter().filter(|list| !list.is_empty()).collect();
        vec![
            capture.id.to_string(),
            duration(capture.since_s),
            if of.is_empty() { "all".into() } else { of.join(" ") },
            or_dash(capture.request.expression.clone()),
            short(capture.frames),
            short(capture.lost),
        ]
    });
    table(&["ID", "SINCE", "OF", "FILTER", "FRAMES", "LOST"], "lrllrr", rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_is_a_size_and_a_number() {
        assert_eq!(rotation("100,5"), Ok(Rotation { bytes: 100_000_000, files: 5 }));
        for text in ["", "5", "0,1", "1,0", "a,b"] {
            assert!(rotation(text).is_err(), "{text}");
        }
    }
}
