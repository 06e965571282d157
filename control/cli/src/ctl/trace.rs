//! `vswitchctl trace` and `vswitchctl why`: what the switch would do with a frame, what it does, and what it knows
//! about an address.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs::File,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;
use pcap_file::{
    pcap::PcapReader,
    pcapng::{Block, PcapNgParser, PcapNgReader},
};
use serde_json::{Value, json};
use vswitch::addr::MacAddr;

use super::{
    capture::{self, QUIET, Seen, Sink},
    filter, print, render,
    show::{self, table},
};
use crate::client::{Client, ClientError};
use vswitch_model::{
    Error, Name,
    api::{
        NamesFilter,
        capture::CaptureRequest,
        trace::{Supposed, Trace, TraceRequest, Verdict, Why, WhyFilter},
    },
    text::to_hex,
};

/// `vswitchctl trace`
#[derive(Debug, Args)]
#[command(
    long_about = "Follow a frame through the switch.\n\n\
        A hypothetical frame passes through the real tables, by the same steps as forwarding, and each decision is printed. \
        Nothing is sent, learned or counted. With --live, real frames are followed: where each was received, the decision, where it \
        was sent.",
    after_help = "Examples:\n  \
        vswitchctl trace --port web 'arp who-has 10.9.0.1'\n  \
        vswitchctl trace --port web 'to 02:42:0a:09:00:03 tcp 10.9.0.2:1234 > 10.9.0.3:80 len 1000'\n  \
        vswitchctl trace --port web --hex ffffffffffff02420a09000208060001\n  \
        vswitchctl trace --port web --pcap strange.pcapng\n  \
        vswitchctl trace --live --filter icmp -n 5\n\n\
        A frame is written as: [from MAC] [to MAC] [vlan ID], then one of\n  \
        arp who-has IP [tell IP] | arp reply IP is-at MAC | icmp [IP >] IP |\n  \
        tcp|udp [IP[:PORT] >] IP:PORT | ether 0xTYPE, then [len BYTES].\n\
        Omitted fields are taken from the declarations of the ports."
)]
pub struct TraceArguments {
    /// The frame, in words.
    #[arg(value_name = "FRAME", required_unless_present_any = ["hex", "pcap", "live"], conflicts_with_all = ["hex", "pcap", "live"])]
    frame: Option<String>,
    /// The port that receives it; with --live, only frames received there.
    #[arg(long, value_name = "PORT", required_unless_present = "live")]
    port: Option<Name>,
    /// The network of a frame from a peer; with --live, only frames in this network.
    #[arg(long, value_name = "NETWORK")]
    network: Option<Name>,
    /// The frame in hexadecimal digits, from its destination address on.
    #[arg(long, value_name = "DIGITS", conflicts_with_all = ["pcap", "live"])]
    hex: Option<String>,
    /// Frames of a pcap or pcapng file; the first -n of them.
    #[arg(long, value_name = "FILE", conflicts_with = "live")]
    pcap: Option<PathBuf>,
    /// Follow real frames.
    #[arg(long)]
    live: bool,
    /// Only real frames that match this expression, pcap-filter(7), where they are received.
    #[arg(long, value_name = "EXPRESSION", requires = "live")]
    filter: Option<String>,
    /// Number of frames; default: one from a file, real ones until interrupted.
    #[arg(short = 'n', long, value_name = "FRAMES", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// `vswitchctl why`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  vswitchctl why --ip 10.9.0.3\n  vswitchctl why --mac 02:42:0a:09:00:03\n  vswitchctl why --name db.blue"
)]
pub struct WhyArguments {
    /// The MAC address.
    #[arg(long, required_unless_present_any = ["ip", "name"], conflicts_with_all = ["ip", "name"])]
    mac: Option<MacAddr>,
    /// The IP address.
    #[arg(long, conflicts_with = "name")]
    ip: Option<IpAddr>,
    /// The name, as a container asks for it; every address that it has.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

pub(super) async fn why(
    client: &Client,
    arguments: &WhyArguments,
    json: bool,
) -> Result<String, ClientError> {
    let Some(name) = arguments.name.clone() else {
        let why = client.why(&WhyFilter { mac: arguments.mac, ip: arguments.ip }).await?;
        return render(json, &why, why_text);
    };
    let entries = client.names(&NamesFilter { name: Some(name), ..NamesFilter::default() }).await?;
    let mut all = Vec::new();
    for address in entries.iter().flat_map(|entry| &entry.addresses) {
        all.push(client.why(&WhyFilter { mac: None, ip: Some(*address) }).await?);
    }
    let found = show::names(&entries);
    render(json, &all, |all| all.iter().fold(found.clone(), |text, why| format!("{text}\n{}", why_text(why))))
}

pub(super) async fn trace(
    client: &Client,
    arguments: &TraceArguments,
    json: bool,
) -> Result<String, ClientError> {
    let Some(port) = arguments.port.clone().filter(|_| !arguments.live) else {
        return live(client, arguments, json).await;
    };
    let frames = match (&arguments.frame, &arguments.hex, &arguments.pcap) {
        (Some(text), ..) => vec![Supposed::Text(text.clone())],
        (None, Some(hex), _) => vec![Supposed::Hex(hex.clone())],
        (None, None, Some(path)) => from_file(path, arguments.count.unwrap_or(1))?,
        (None, None, None) => Vec::new(),
    };
    let mut traces = Vec::new();
    for frame in frames {
        let request = TraceRequest { port: port.clone(), network: arguments.network.clone(), frame };
        traces.push(client.trace(&request).await?);
    }
    match &traces[..] {
        [trace] => render(json, trace, trace_text),
        traces => {
            render(json, &traces, |traces| traces.iter().map(trace_text).collect::<Vec<_>>().join("\n"))
        }
    }
}

/// The first `count` frames of a capture file of either format.
fn from_file(path: &Path, count: u64) -> Result<Vec<Supposed>, ClientError> {
    let wrong = |error: &dyn std::fmt::Display| Error::invalid(format!("{}: {error}", path.display()));
    let open = || File::open(path).map(io::BufReader::new).map_err(|error| wrong(&error));
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let mut frames = Vec::new();
    if let Ok(mut reader) = PcapNgReader::new(open()?) {
        while let Some(block) = reader.next_block().filter(|_| frames.len() < count) {
            match block.map_err(|error| wrong(&error))? {
                Block::EnhancedPacket(packet) => frames.push(Supposed::Hex(to_hex(&packet.data))),
                Block::SimplePacket(packet) => frames.push(Supposed::Hex(to_hex(&packet.data))),
                _ => {}
            }
        }
    } else {
        let reader = PcapReader::new(open()?);
        let mut reader = reader.map_err(|_| wrong(&"the file is neither pcap nor pcapng"))?;
        while let Some(packet) = reader.next_packet().filter(|_| frames.len() < count) {
            frames.push(Supposed::Hex(to_hex(&packet.map_err(|error| wrong(&error))?.data)));
        }
    }
    if frames.is_empty() {
        return Err(wrong(&"the file has no frames").into());
    }
    Ok(frames)
}

async fn live(client: &Client, arguments: &TraceArguments, json: bool) -> Result<String, ClientError> {
    let request = CaptureRequest {
        ports: arguments.port.iter().cloned().collect(),
        networks: arguments.network.iter().cloned().collect(),
        filter: arguments.filter.as_deref().map(filter::compile).transpose()?.unwrap_or_default(),
        expression: arguments.filter.clone(),
        follow: true,
        direction: None,
        snaplen: 256,
        ..CaptureRequest::default()
    };
    let mut stories = Stories { left: arguments.count.unwrap_or(u64::MAX), open: BTreeMap::new(), json };
    capture::run(client, &request, &mut stories).await?;
    Ok(String::new())
}

/// Frames that are followed, with the records of each until they are complete.
struct Stories {
    left: u64,
    /// By the number of the frame, hence in the order of reception.
    open: BTreeMap<u64, Story>,
    json: bool,
}

/// The records of one frame.
struct Story {
    began: Instant,
    text: String,
    value: Value,
}

impl Stories {
    /// Prints the frames received before `before`.
    fn tell(&mut self, before: Instant) -> io::Result<()> {
        let finished = self.open.extract_if(.., |_, story| story.began <= before);
        let text: String = finished
            .map(|(_, story)| if self.json { format!("{}\n", story.value) } else { story.text })
            .collect();
        print(&text).map_err(io::Error::other)
    }
}

impl Sink for Stories {
    fn take(&mut self, _: &[u8], block: &Block<'_>, parser: &PcapNgParser) -> io::Result<bool> {
        let Block::EnhancedPacket(packet) = block else { return Ok(true) };
        let seen = Seen::of(packet, parser);
        if !seen.inbound {
            if let Some(Story { text, value, .. }) = self.open.get_mut(&seen.id) {
                let _ = writeln!(text, "    -> {}: {}", seen.port, seen.comment.unwrap_or_default());
                if let Some(exits) = value["exits"].as_array_mut() {
                    exits.push(json!({ "port": seen.port, "outcome": seen.comment }));
                }
            }
        } else if self.left > 0 {
            self.left -= 1;
            let mut value = seen.json();
            value["exits"] = json!([]);
            self.open.insert(seen.id, Story { began: Instant::now(), text: seen.line() + "\n", value });
        }
        Ok(self.left > 0 || !self.open.is_empty())
    }

    fn flush(&mut self) -> io::Result<()> {
        match Instant::now().checked_sub(QUIET) {
            Some(before) => self.tell(before),
            None => Ok(()),
        }
    }

    fn idle(&mut self) -> io::Result<bool> {
        self.tell(Instant::now())?;
        Ok(self.left > 0)
    }
}

fn trace_text(trace: &Trace) -> String {
    let mut text = format!("{} at {}\n", trace.summary, trace.port);
    for step in &trace.steps {
        let _ = writeln!(text, "  {:<9} {}", step.step, step.outcome);
    }
    let exits = trace.exits.iter().map(|exit| ("send", exit));
    for (step, exit) in exits.chain(trace.copies.iter().map(|copy| ("copy", copy))) {
        let _ = writeln!(text, "  {step:<9} {}: {}", exit.port, exit.outcome);
        if let Some(dropped) = &exit.dropped {
            let _ = writeln!(text, "  {:<9} dropped: {dropped}", "");
        }
    }
    let verdict = match &trace.verdict {
        Verdict::Unicast => "unicast".to_owned(),
        Verdict::Flooded => format!("flooded to {} ports", trace.exits.len()),
        Verdict::Answered { mac } => format!("answered: {mac} has it"),
        Verdict::Dropped { reason, .. } => format!("dropped, {reason}"),
    };
    let _ = writeln!(text, "=> {verdict}");
    text
}

fn why_text(why: &Why) -> String {
    let mut text = String::new();
    if !why.declared.is_empty() {
        let rows = why.declared.iter().map(|port| {
            vec![
                port.port.to_string(),
                show::or_dash(port.network.clone()),
                show::or_dash(port.mac.clone()),
                port.addresses.join(", "),
                if port.up { "up" } else { "down" }.to_owned(),
            ]
        });
        text += &table(&["DECLARED AT", "NETWORK", "MAC", "ADDRESSES", "STATE"], "lllll", rows);
        text.push('\n');
    }
    if !why.entries.is_empty() {
        text += &show::fdb(&why.entries);
        text.push('\n');
    }
    for finding in &why.findings {
        let _ = writeln!(text, "- {finding}");
    }
    if why.findings.is_empty() {
        text.push_str("the switch finds nothing wrong with it\n");
    }
    text
}
