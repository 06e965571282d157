//! Captures in progress: from the workers' rings to a stream of pcapng.
//!
//! ```text
//! worker ─ ring ─> thread of the capture ─ chunks ─> body of an answer ─> client
//! ```
//! Each capture has a thread that polls the rings every few milliseconds, so no worker has to wake a thread. Few chunks wait
//! for the client; if it is slower than the switch, the rings fill, and what does not fit is lost and counted, in the rings and
//! so in the file.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use axum::body::Bytes;
use pcap_file::{
    DataLink, Endianness, PcapError,
    pcapng::{
        PcapNgWriter,
        blocks::{
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
            interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption},
            section_header::{SectionHeaderBlock, SectionHeaderOption},
        },
    },
};
use tokio::sync::{Notify, mpsc};
use vswitch::{
    addr::{NetworkId, PortId},
    capture::{Fate, Filter, Instruction, Reader, Record, Session, Wanted},
    fdb::Learned,
    storm::Flood,
};

use super::view::Names;
use crate::state::State;
use vswitch_host::memory;
use vswitch_model::{
    Error,
    api::{
        Direction,
        capture::{Capture, CaptureRequest},
    },
};

/// Maximum number of captures at a time.
const CAPTURES: usize = 8;

/// Length in bytes at which a chunk is handed over; an idle thread hands over what it has.
const CHUNK: usize = 256 << 10;

/// Maximum number of chunks that wait for the client.
const CHUNKS: usize = 8;

/// How long a thread sleeps when the rings are empty.
const PAUSE: Duration = Duration::from_millis(2);

// Numbers of draft-ietf-opsawg-pcapng: a block, and its options.
const ENHANCED_PACKET: u32 = 6;
const OPT_ENDOFOPT: u16 = 0;
const OPT_COMMENT: u16 = 1;
const EPB_FLAGS: u16 = 2;
const EPB_DROPCOUNT: u16 = 4;
const EPB_PACKETID: u16 = 5;

/// A new capture.
#[derive(Debug)]
pub(crate) struct CaptureStream {
    /// Its number.
    pub(crate) id: u64,
    /// Its frames, as pcapng; the capture ends when this is dropped.
    pub(crate) chunks: mpsc::Receiver<Bytes>,
}

/// The daemon's captures.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    running: Vec<Arc<Running>>,
    next: u64,
}

/// A capture in progress.
#[derive(Debug)]
pub(crate) struct Running {
    id: u64,
    request: CaptureRequest,
    since: Instant,
    session: Arc<Session>,
    shared: Arc<Shared>,
}

/// State shared between a capture's thread and the daemon.
#[derive(Debug)]
struct Shared {
    /// The present names of ports and networks.
    names: Mutex<Arc<Names>>,
    /// Number of frames handed over.
    frames: AtomicU64,
    /// Whether the thread has ended.
    over: AtomicBool,
    /// Notified when it has.
    ended: Arc<Notify>,
}

impl Captures {
    /// Begins a capture, which the workers serve from the next plan on. `ended` is notified when the client is gone or has all
    /// frames it asked for.
    pub(crate) fn begin(
        &mut self,
        request: CaptureRequest,
        state: &State,
        workers: usize,
        ended: &Arc<Notify>,
    ) -> Result<CaptureStream, Error> {
        if self.running.len() >= CAPTURES {
            let why = format!(
                "{CAPTURES} captures are in progress, the maximum: end one, `vswitchctl capture --ls` lists them"
            );
            return Err(Error::conflict(why));
        }
        let wanted = wanted(&request, state)?;
        let bytes = usize::from(request.buffer.clamp(1, 1024)) << 20;
        let all = bytes as u64 * workers as u64;
        let what = format!("a capture with a buffer of {} MiB for each of {workers} workers", bytes >> 20);
        memory::check_room(&what, all)
            .map_err(|why| Error::unavailable(format!("{why}: ask for a smaller buffer")))?;
        let (session, readers) = Session::new(wanted, workers, bytes, now);
        let session = Arc::new(session);
        let shared = Arc::new(Shared {
            names: Mutex::new(Arc::new(Names::of(state))),
            frames: AtomicU64::new(0),
            over: AtomicBool::new(false),
            ended: Arc::clone(ended),
        });
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let id = self.next;
        let reader = Drain {
            session: Arc::clone(&session),
            shared: Arc::clone(&shared),
            readers,
            file: File::begin(Chunks { buffer: Vec::new(), sender }, &request)?,
            left: request.count.unwrap_or(u64::MAX),
        };
        thread::Builder::new().name(format!("capture-{id}")).spawn(move || reader.run())?;
        self.next += 1;
        self.running.push(Arc::new(Running { id, request, since: Instant::now(), session, shared }));
        Ok(CaptureStream { id, chunks })
    }

    /// The sessions that the workers serve.
    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        self.running.iter().map(|running| Arc::clone(&running.session)).collect()
    }

    /// Applies a change of names.
    pub(crate) fn rename(&self, state: &State) {
        if self.running.is_empty() {
            return;
        }
        let names = Arc::new(Names::of(state));
        for running in &self.running {
            *running.shared.names() = Arc::clone(&names);
        }
    }

    /// Removes captures: those that `gone` selects, and those whose thread has ended. They must be [ended](End::end) when the
    /// workers have adopted a plan without them.
    pub(crate) fn take(&mut self, gone: impl Fn(u64) -> bool) -> Vec<End> {
        let over = |running: &mut Arc<Running>| gone(running.id) || running.shared.over.load(Relaxed);
        self.running.extract_if(.., over).map(|running| End(Arc::clone(&running.session))).collect()
    }

    /// The captures in progress.
    pub(crate) fn running(&self) -> &[Arc<Running>] {
        &self.running
    }
}

impl Running {
    /// Whether its client is gone or has all frames it asked for.
    pub(crate) fn is_over(&self) -> bool {
        self.shared.over.load(Relaxed)
    }

    /// The API's view of it.
    pub(crate) fn show(&self) -> Capture {
        Capture {
            id: self.id,
            since_s: self.since.elapsed().as_secs(),
            frames: self.shared.frames.load(Relaxed),
            lost: self.session.lost(),
            request: self.request.clone(),
        }
    }
}

/// A capture that is about to end.
#[derive(Debug)]
#[must_use]
pub(crate) struct End(Arc<Session>);

impl End {
    /// Ends it: no worker writes any more.
    pub(crate) fn end(self) {
        self.0.end();
    }
}

impl Shared {
    fn names(&self) -> std::sync::MutexGuard<'_, Arc<Names>> {
        self.names.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn wanted(request: &CaptureRequest, state: &State) -> Result<Wanted, Error> {
    let missing = |what: &str, name| Error::not_found(format!("there is no {what} {name}"));
    let port = |name| state.port(name).map(|port| port.id).ok_or_else(|| missing("port", name));
    let network =
        |name| state.network(name).map(|network| network.id).ok_or_else(|| missing("network", name));
    let program: Vec<_> =
        request.filter.iter().map(|&(code, jt, jf, k)| Instruction { code, jt, jf, k }).collect();
    let filter = if program.is_empty() { None } else { Some(Filter::new(&program)) };
    Ok(Wanted {
        ports: request.ports.iter().map(port).collect::<Result<BTreeSet<PortId>, _>>()?,
        networks: request.networks.iter().map(network).collect::<Result<BTreeSet<NetworkId>, _>>()?,
        direction: request.direction,
        drops: request.drops,
        follow: request.follow,
        filter: filter
            .transpose()
            .map_err(|error| Error::invalid(format!("the filter is not a program: {error}")))?,
        snaplen: request.snaplen.min(CaptureRequest::WHOLE) as usize,
    })
}

/// A capture's thread.
struct Drain {
    session: Arc<Session>,
    shared: Arc<Shared>,
    readers: Vec<Reader>,
    file: File,
    /// Number of frames still wanted.
    left: u64,
}

impl Drain {
    fn run(mut self) {
        // On any error nothing is left to do: the client has what there is, or is gone.
        let _ = self.drain();
        self.shared.over.store(true, Relaxed);
        self.shared.ended.notify_one();
    }

    fn drain(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.file.chunks().flush()?;
        loop {
            // Read first: after the end the rings get no more records.
            let ended = self.session.has_ended();
            let names = Arc::clone(&self.shared.names());
            while let Some(record) = earliest(&mut self.readers).and_then(|reader| reader.take(&mut bytes)) {
                self.file.write(&record, &bytes, &names)?;
                self.shared.frames.fetch_add(1, Relaxed);
                self.left -= 1;
                if self.left == 0 {
                    break;
                }
            }
            if ended || self.left == 0 {
                return self.file.finish(self.session.lost());
            }
            self.file.chunks().flush()?;
            if self.file.chunks().sender.is_closed() {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
    }
}

/// The ring whose next record is the oldest.
fn earliest(readers: &mut [Reader]) -> Option<&mut Reader> {
    let ready = readers.iter_mut().filter_map(|reader| reader.peek().map(|at| (at, reader)));
    ready.min_by_key(|(at, _)| *at).map(|(_, reader)| reader)
}

/// Bytes for the client.
#[derive(Debug)]
struct Chunks {
    buffer: Vec<u8>,
    sender: mpsc::Sender<Bytes>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    /// Hands over what there is; waits while the client has enough to read.
    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK + (64 << 10)));
        self.sender.blocking_send(chunk.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A pcapng section.
struct File {
    writer: PcapNgWriter<Chunks>,
    expression: Option<String>,
    snaplen: u32,
    follow: bool,
    /// The interfaces in the file, and their names there.
    interfaces: BTreeMap<PortId, (u32, String)>,
    next: u32,
}

impl File {
    fn begin(chunks: Chunks, request: &CaptureRequest) -> io::Result<Self> {
        let program = concat!("vswitchd ", env!("CARGO_PKG_VERSION"));
        let section = SectionHeaderBlock {
            endianness: Endianness::Little,
            options: vec![SectionHeaderOption::UserApplication(program.into())],
            ..SectionHeaderBlock::default()
        };
        Ok(Self {
            writer: PcapNgWriter::with_section_header(chunks, section).map_err(failure)?,
            expression: request.expression.clone(),
            snaplen: request.snaplen,
            follow: request.follow,
            interfaces: BTreeMap::new(),
            next: 0,
        })
    }

    fn chunks(&mut self) -> &mut Chunks {
        self.writer.get_mut()
    }

    /// Writes an Enhanced Packet Block by hand: `pcap-file` has no packet numbers.
    fn write(&mut self, record: &Record, bytes: &[u8], names: &Names) -> io::Result<()> {
        let interface = self.interface(record.port, names)?;
        let inbound = record.direction == Direction::Rx;
        let comment = comment(record, names, self.follow);
        let mut body = Vec::with_capacity(bytes.len() + 256);
        let [high, low] =
            [record.at >> 32, record.at & 0xffff_ffff].map(|half| u32::try_from(half).unwrap_or(0));
        for word in [interface, high, low, length(bytes), record.len] {
            body.extend(word.to_le_bytes());
        }
        pad(&mut body, bytes);
        // Bits 0 and 1: inbound or outbound, as seen from the switch.
        option(&mut body, EPB_FLAGS, &u32::to_le_bytes(if inbound { 0b01 } else { 0b10 }));
        option(&mut body, EPB_PACKETID, &record.frame.to_le_bytes());
        if record.lost > 0 {
            option(&mut body, EPB_DROPCOUNT, &u64::from(record.lost).to_le_bytes());
        }
        if let Some(comment) = comment {
            option(&mut body, OPT_COMMENT, comment.as_bytes());
        }
        option(&mut body, OPT_ENDOFOPT, &[]);
        let total = (length(&body) + 12).to_le_bytes();
        let chunks = self.chunks();
        for part in [&ENHANCED_PACKET.to_le_bytes()[..], &total, &body, &total] {
            chunks.buffer.extend_from_slice(part);
        }
        if chunks.buffer.len() >= CHUNK { chunks.flush() } else { Ok(()) }
    }

    /// The interface of `port`, added to the file if it is not there under its present name.
    fn interface(&mut self, port: PortId, names: &Names) -> io::Result<u32> {
        let name = names.port(port);
        if let Some((id, known)) = self.interfaces.get(&port)
            && (known == name || name.is_empty())
        {
            return Ok(*id);
        }
        let name = if name.is_empty() { format!("port-{}", port.0) } else { name.to_owned() };
        let mut options = vec![
            InterfaceDescriptionOption::IfName(name.clone().into()),
            // Times are nanoseconds.
            InterfaceDescriptionOption::IfTsResol(9),
        ];
        if let Some(expression) = &self.expression {
            // 0: a filter in the language of libpcap.
            let filter = [&[0], expression.as_bytes()].concat();
            options.push(InterfaceDescriptionOption::IfFilter(filter.into()));
        }
        let block =
            InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: self.snaplen, options };
        self.writer.write_pcapng_block(block).map_err(failure)?;
        let id = self.next;
        self.next += 1;
        self.interfaces.insert(port, (id, name));
        Ok(id)
    }

    /// Ends the file with the number of `lost` frames. The rings do not count by port, so it is attributed to the first.
    fn finish(&mut self, lost: u64) -> io::Result<()> {
        if self.next > 0 {
            let block = InterfaceStatisticsBlock {
                interface_id: 0,
                timestamp: now(),
                options: vec![InterfaceStatisticsOption::IsbOsDrop(lost)],
            };
            self.writer.write_pcapng_block(block).map_err(failure)?;
        }
        self.chunks().flush()
    }
}

/// Appends `bytes`, padded to a multiple of four.
fn pad(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend_from_slice(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
    pad(body, value);
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn failure(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

/// The comment of a frame, if any: why it was dropped or, if it is followed, what was decided.
fn comment(record: &Record, names: &Names, follow: bool) -> Option<String> {
    if let Fate::Dropped(reason) = record.fate {
        return Some(format!("dropped: {reason}: {}", reason.hint()));
    }
    if !follow {
        return None;
    }
    let network = record.network.map_or("", |network| names.network(network));
    let source = match record.learned {
        None | Some(Learned::Known) => String::new(),
        Some(Learned::New) => ", its source is new".into(),
        Some(Learned::Moved { from }) => format!(", its source moved here from {}", names.port(from)),
        Some(Learned::Pinned(_)) => ", its source is pinned to another port".into(),
        Some(Learned::Held) => ", its source is held on another port".into(),
        Some(Learned::Full) => ", its source is not learned: a limit is reached".into(),
        Some(Learned::Busy) => ", its source is learned with its next frame".into(),
        Some(Learned::Off) => ", its port does not learn".into(),
    };
    Some(match record.fate {
        Fate::Unicast(port) => {
            format!("network {network}{source}: its destination is behind {}", names.port(port))
        }
        Fate::Flooded(flood) => format!("network {network}{source}: flooded, {}", flooded_for(flood)),
        Fate::Answered => {
            format!("network {network}{source}: answered, a directory knows who has the address")
        }
        Fate::Sent(1) => "sent".into(),
        Fate::Sent(pieces) => format!("sent, cut into {pieces} wire frames"),
        Fate::Dropped(_) => return None,
    })
}

/// The reason for flooding a frame, in words.
pub(crate) fn flooded_for(flood: Flood) -> &'static str {
    match flood {
        Flood::Broadcast => "it is a broadcast",
        Flood::Multicast => "it is a multicast",
        Flood::Unknown => "its destination is unknown",
    }
}
