//! Frames as text: `arp who-has 10.9.0.1` to bytes, and bytes to one line.
//!
//! Only what an operator asks about has a name; anything else can be given in hexadecimal.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::{FromStr, SplitWhitespace},
};

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpNumber, LaxNetSlice, LaxSlicedPacket, PacketBuilder, PacketBuilderStep,
    TransportSlice, icmpv4, icmpv6,
};
use vswitch::{
    addr::{MacAddr, VlanId},
    frame::Tag,
};

/// The language of [`parse`], for its error messages.
pub(crate) const GRAMMAR: &str = "write [from MAC] [to MAC] [vlan ID] and one of: arp who-has IP [tell IP] | arp reply IP is-at MAC | \
    icmp [IP >] IP | tcp|udp [IP[:PORT] >] IP:PORT | ether 0xTYPE; then [len BYTES]";

/// Address book for what a text leaves out.
pub trait Book {
    /// The sender's MAC address.
    fn own_mac(&self) -> Option<MacAddr>;
    /// The sender's IP address of the family of `of`.
    fn own_ip(&self, of: IpAddr) -> Option<IpAddr>;
    /// The MAC address of the station with `ip`.
    fn mac_of(&self, ip: IpAddr) -> Option<MacAddr>;
}

/// Default source address, from the locally administered range (IEEE Std 802-2014, 8.4).
const SOMEBODY: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 1]);

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// Builds the frame described by `text`; see `GRAMMAR`. What is left out is looked up in `book`.
///
/// # Errors
/// A sentence that says what is wrong or missing.
pub fn parse(text: &str, book: &dyn Book) -> Result<Vec<u8>, String> {
    let mut words = Words(text.split_whitespace());
    let (mut from, mut to, mut tag) = (None, None, None);
    let kind = loop {
        match words.next("what kind of frame it is")? {
            "from" => from = Some(words.parse::<MacAddr>("a MAC address after from")?),
            "to" => to = Some(words.parse::<MacAddr>("a MAC address after to")?),
            "vlan" => {
                let number: u16 = words.parse("a VLAN id after vlan")?;
                tag = Some(Tag::new(VlanId::try_from(number).map_err(|error| error.to_string())?));
            }
            kind => break kind,
        }
    };
    let from = from.or_else(|| book.own_mac()).unwrap_or(SOMEBODY);
    let mut draft = Draft { from, book, len: None };
    let body = match kind {
        "arp" => draft.arp(&mut words)?,
        "icmp" => draft.icmp(&mut words)?,
        "tcp" => draft.transport(&mut words, true)?,
        "udp" => draft.transport(&mut words, false)?,
        "ether" => {
            let text = words.next("a type after ether, such as 0x88b5")?;
            let number = u16::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16);
            let ethertype = number.map_err(|_| format!("{text} is not an EtherType: write it as 0x88b5"))?;
            let payload = vec![0; draft.len(&mut words)?.unwrap_or(46)];
            Body { to: None, ethertype, payload }
        }
        other => return Err(format!("{other:?} is not a kind of frame: {GRAMMAR}")),
    };
    if let Some(word) = words.0.next() {
        return Err(format!("{word:?} is one word too many: {GRAMMAR}"));
    }
    let missing = "no station is known to have that address: say where the frame goes with `to MAC`";
    let to = to.or(body.to).ok_or(missing)?;
    let tag = tag.map(Tag::to_bytes);
    let header =
        [&to.0[..], &from.0, tag.as_ref().map_or(&[], |tag| &tag[..]), &body.ethertype.to_be_bytes()];
    Ok([&header.concat()[..], &body.payload].concat())
}

/// Words not read yet.
struct Words<'a>(SplitWhitespace<'a>);

impl<'a> Words<'a> {
    fn next(&mut self, what: &str) -> Result<&'a str, String> {
        self.0.next().ok_or_else(|| format!("{what} is missing: {GRAMMAR}"))
    }

    fn parse<T: FromStr>(&mut self, what: &str) -> Result<T, String> {
        let word = self.next(what)?;
        word.parse().map_err(|_| format!("{word:?} is not {what}"))
    }

    /// Reads `word` if it is the next.
    fn skip(&mut self, word: &str) -> bool {
        let found = self.0.clone().next() == Some(word);
        if found {
            self.0.next();
        }
        found
    }
}

struct Draft<'a> {
    from: MacAddr,
    book: &'a dyn Book,
    /// Bytes of payload.
    len: Option<usize>,
}

struct Body {
    to: Option<MacAddr>,
    ethertype: u16,
    payload: Vec<u8>,
}

impl Draft<'_> {
    fn len(&mut self, words: &mut Words<'_>) -> Result<Option<usize>, String> {
        if words.skip("len") {
            let len: usize = words.parse("a number of bytes after len")?;
            if len > 9000 {
                return Err(format!("a payload of {len} bytes is too long: write at most 9000"));
            }
            self.len = Some(len);
        }
        Ok(self.len)
    }

    fn arp(&mut self, words: &mut Words<'_>) -> Result<Body, String> {
        let (operation, sender, sender_mac, target, target_mac, to) = match words
            .next("who-has or reply after arp")?
        {
            "who-has" => {
                let target: Ipv4Addr = words.parse("an IPv4 address after who-has")?;
                let sender = match words.skip("tell") {
                    true => words.parse("an IPv4 address after tell")?,
                    false => self.own_v4(target.into())?,
                };
                (1_u16, sender, self.from, target, MacAddr::ZERO, MacAddr::BROADCAST)
            }
            "reply" => {
                let sender: Ipv4Addr = words.parse("an IPv4 address after reply")?;
                let mac =
                    if words.skip("is-at") { words.parse("a MAC address after is-at")? } else { self.from };
                (2, sender, mac, sender, MacAddr::BROADCAST, MacAddr::BROADCAST)
            }
            other => {
                return Err(format!(
                    "arp {other:?}: write arp who-has IP [tell IP], or arp reply IP is-at MAC"
                ));
            }
        };
        // RFC 826: Ethernet, IPv4, lengths 6 and 4.
        let head = [0, 1, 8, 0, 6, 4];
        let payload = [
            &head[..],
            &operation.to_be_bytes(),
            &sender_mac.0,
            &sender.octets(),
            &target_mac.0,
            &target.octets(),
        ];
        Ok(Body { to: Some(to), ethertype: ARP, payload: payload.concat() })
    }

    fn own_v4(&self, of: IpAddr) -> Result<Ipv4Addr, String> {
        match self.own_ip(of)? {
            IpAddr::V4(own) => Ok(own),
            IpAddr::V6(_) => Err("ARP asks for IPv4 addresses alone".into()),
        }
    }

    fn own_ip(&self, of: IpAddr) -> Result<IpAddr, String> {
        let missing = || {
            format!(
                "the port is not declared to have an address like {of}: say who sends, such as `IP > {of}`"
            )
        };
        self.book.own_ip(of).ok_or_else(missing)
    }

    fn icmp(&mut self, words: &mut Words<'_>) -> Result<Body, String> {
        let first: IpAddr = words.parse("an IP address after icmp")?;
        let (source, target) = match words.skip(">") {
            true => (first, words.parse("an IP address after >")?),
            false => (self.own_ip(first)?, first),
        };
        let payload = vec![0; self.len(words)?.unwrap_or(56)];
        let echo = etherparse::IcmpEchoHeader { id: 1, seq: 1 };
        match (source, target) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let packet = PacketBuilder::ipv4(source.octets(), target.octets(), 64);
                self.ip(target.into(), packet.icmpv4(Icmpv4Type::EchoRequest(echo)), &payload)
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                let packet = PacketBuilder::ipv6(source.octets(), target.octets(), 64);
                self.ip(target.into(), packet.icmpv6(Icmpv6Type::EchoRequest(echo)), &payload)
            }
            _ => Err(format!("{source} > {target}: both must be of one family")),
        }
    }

    fn transport(&mut self, words: &mut Words<'_>, tcp: bool) -> Result<Body, String> {
        let first = endpoint(words.next("an address with port, such as 10.9.0.3:80,")?)?;
        let (source, target) = match words.skip(">") {
            true => (first, endpoint(words.next("an address with port after >")?)?),
            false => ((self.own_ip(first.0)?, None), first),
        };
        let (target, Some(port)) = target else {
            return Err(format!("the port is missing: write {}", SocketAddr::new(target.0, 80)));
        };
        let (source, from) = (source.0, source.1.unwrap_or(40_000));
        let payload = vec![0; self.len(words)?.unwrap_or(0)];
        let packet = match (source, target) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                PacketBuilder::ipv4(source.octets(), target.octets(), 64)
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                PacketBuilder::ipv6(source.octets(), target.octets(), 64)
            }
            _ => return Err(format!("{source} > {target}: both must be of one family")),
        };
        match tcp {
            true => self.ip(target, packet.tcp(from, port, 1, 64_240).syn(), &payload),
            false => self.ip(target, packet.udp(from, port), &payload),
        }
    }

    fn ip<S>(&self, target: IpAddr, packet: PacketBuilderStep<S>, payload: &[u8]) -> Result<Body, String>
    where
        PacketBuilderStep<S>: Finish,
    {
        let ethertype = if target.is_ipv4() { IPV4 } else { IPV6 };
        Ok(Body {
            to: group(target).or_else(|| self.book.mac_of(target)),
            ethertype,
            payload: packet.finish(payload)?,
        })
    }
}

/// The last step of building a packet, common to all transports.
trait Finish {
    fn finish(self, payload: &[u8]) -> Result<Vec<u8>, String>;
}

macro_rules! finish {
    ($($transport:ty),*) => {$(
        impl Finish for PacketBuilderStep<$transport> {
            fn finish(self, payload: &[u8]) -> Result<Vec<u8>, String> {
                let mut bytes = Vec::new();
                self.write(&mut bytes, payload).map_err(|error| error.to_string())?;
                Ok(bytes)
            }
        }
    )*};
}

finish!(etherparse::Icmpv4Header, etherparse::Icmpv6Header, etherparse::TcpHeader, etherparse::UdpHeader);

/// An address with or without a port.
fn endpoint(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((address.ip(), Some(address.port())));
    }
    let address = text
        .parse()
        .map_err(|_| format!("{text:?} is not an address with port: write 10.9.0.3:80 or [fd09::3]:80"))?;
    Ok((address, None))
}

/// The MAC address of a multicast group or of broadcast (RFC 1112 section 6.4, RFC 2464 section 7).
fn group(ip: IpAddr) -> Option<MacAddr> {
    match ip {
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some(MacAddr::BROADCAST),
        IpAddr::V4(ip) if ip.is_multicast() => {
            let [_, b, c, d] = ip.octets();
            Some(MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d]))
        }
        IpAddr::V6(ip) if ip.is_multicast() => {
            let [.., a, b, c, d] = ip.octets();
            Some(MacAddr([0x33, 0x33, a, b, c, d]))
        }
        _ => None,
    }
}

/// Describes `frame` in one line; `len` is its length in bytes before truncation.
pub fn describe(frame: &[u8], len: usize) -> String {
    let mut line = match frame.first_chunk::<12>() {
        Some([d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5]) => {
            let (to, from) =
                (MacAddr([*d0, *d1, *d2, *d3, *d4, *d5]), MacAddr([*s0, *s1, *s2, *s3, *s4, *s5]));
            format!("{from} > {to}")
        }
        None => return format!("{len} bytes"),
    };
    if let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) {
        for tag in packet.vlan_ids() {
            let _ = write!(line, ", vlan {}", tag.value());
        }
        let _ = write!(line, ", {}", content(&packet, frame));
    }
    let _ = write!(line, ", {len} bytes");
    line
}

fn content(packet: &LaxSlicedPacket<'_>, frame: &[u8]) -> String {
    let (source, target, protocol) = match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            (IpAddr::V4(header.source_addr()), IpAddr::V4(header.destination_addr()), ip.payload_ip_number())
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let (source, target) = (header.source_addr(), header.destination_addr());
            (IpAddr::V6(source), IpAddr::V6(target), ip.payload().ip_number)
        }
        Some(LaxNetSlice::Arp(arp)) => return describe_arp(arp.slice()),
        None => {
            let at = vswitch::headers::link(frame).map(|(_, ethertype)| ethertype.0);
            return at.map_or_else(|| "cut short".into(), |ethertype| format!("type 0x{ethertype:04x}"));
        }
    };
    let ends = |source_port: u16, target_port: u16| {
        format!("{} > {}", SocketAddr::new(source, source_port), SocketAddr::new(target, target_port))
    };
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let flags = [(tcp.syn(), "SYN"), (tcp.fin(), "FIN"), (tcp.rst(), "RST"), (tcp.ack(), "ACK")];
            let flags: Vec<_> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
            format!("TCP {} {}", ends(tcp.source_port(), tcp.destination_port()), flags.join("+"))
        }
        Some(TransportSlice::Udp(udp)) => format!("UDP {}", ends(udp.source_port(), udp.destination_port())),
        Some(TransportSlice::Icmpv4(icmp)) => {
            format!("ICMP {source} > {target} {}", icmpv4_name(icmp.type_u8(), icmp.code_u8()))
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            format!("ICMPv6 {source} > {target} {}", icmpv6_name(icmp.type_u8(), icmp.code_u8()))
        }
        _ => format!("{} {source} > {target}", protocol_name(protocol)),
    }
}

fn protocol_name(protocol: IpNumber) -> String {
    protocol.keyword_str().map_or_else(|| format!("IP protocol {}", protocol.0), str::to_owned)
}

fn icmpv4_name(kind: u8, code: u8) -> String {
    match kind {
        icmpv4::TYPE_ECHO_REQUEST => "echo request".into(),
        icmpv4::TYPE_ECHO_REPLY => "echo reply".into(),
        icmpv4::TYPE_DEST_UNREACH if code == icmpv4::CODE_DST_UNREACH_NEED_FRAG => {
            "fragmentation needed".into()
        }
        icmpv4::TYPE_DEST_UNREACH => format!("unreachable ({code})"),
        kind => format!("type {kind}, code {code}"),
    }
}

fn icmpv6_name(kind: u8, code: u8) -> String {
    match kind {
        icmpv6::TYPE_ECHO_REQUEST => "echo request".into(),
        icmpv6::TYPE_ECHO_REPLY => "echo reply".into(),
        icmpv6::TYPE_PACKET_TOO_BIG => "packet too big".into(),
        // RFC 4861 section 4.
        133 => "router solicitation".into(),
        134 => "router advertisement".into(),
        135 => "neighbour solicitation".into(),
        136 => "neighbour advertisement".into(),
        kind => format!("type {kind}, code {code}"),
    }
}

fn describe_arp(packet: &[u8]) -> String {
    let address =
        |at: usize| packet.get(at..).and_then(<[u8]>::first_chunk::<4>).map(|bytes| Ipv4Addr::from(*bytes));
    let mac = packet.get(8..).and_then(<[u8]>::first_chunk::<6>).map(|bytes| MacAddr(*bytes));
    let operation = packet.get(6..8).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    match (operation, mac, address(14), address(24)) {
        (Some(1), _, Some(sender), Some(target)) => format!("ARP who-has {target} tell {sender}"),
        (Some(2), Some(mac), Some(sender), _) => format!("ARP reply {sender} is-at {mac}"),
        _ => "ARP".into(),
    }
}

/// Parses bytes in hexadecimal; blanks, colons and dashes between them are ignored.
///
/// # Errors
/// There is another character, or an odd number of digits.
pub fn parse_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|character| !character.is_whitespace() && !":-".contains(*character))
        .map(|character| character.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.ok_or("the frame is not written in hexadecimal digits")?;
    if digits.len() % 2 != 0 {
        return Err("the frame ends with half a byte: write two hexadecimal digits for each".into());
    }
    Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// `bytes` as hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    struct Here;

    const WEB: MacAddr = MacAddr([2, 0x42, 10, 9, 0, 2]);
    const DB: MacAddr = MacAddr([2, 0x42, 10, 9, 0, 3]);

    impl Book for Here {
        fn own_mac(&self) -> Option<MacAddr> {
            Some(WEB)
        }

        fn own_ip(&self, of: IpAddr) -> Option<IpAddr> {
            Some(if of.is_ipv4() { Ipv4Addr::new(10, 9, 0, 2).into() } else { Ipv6Addr::LOCALHOST.into() })
        }

        fn mac_of(&self, ip: IpAddr) -> Option<MacAddr> {
            (ip == IpAddr::from([10, 9, 0, 3]) || ip.is_ipv6()).then_some(DB)
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let table = [
            (
                "arp who-has 10.9.0.1",
                "02:42:0a:09:00:02 > ff:ff:ff:ff:ff:ff, ARP who-has 10.9.0.1 tell 10.9.0.2, 42 bytes",
            ),
            (
                "from 02:00:00:00:00:09 vlan 10 arp reply 10.9.0.1 is-at 02:00:00:00:00:08",
                "02:00:00:00:00:09 > ff:ff:ff:ff:ff:ff, vlan 10, ARP reply 10.9.0.1 is-at 02:00:00:00:00:08, 46 bytes",
            ),
            (
                "icmp 10.9.0.3",
                "02:42:0a:09:00:02 > 02:42:0a:09:00:03, ICMP 10.9.0.2 > 10.9.0.3 echo request, 98 bytes",
            ),
            (
                "icmp fd09::2 > fd09::3 len 8",
                "02:42:0a:09:00:02 > 02:42:0a:09:00:03, ICMPv6 fd09::2 > fd09::3 echo request, 70 bytes",
            ),
            (
                "tcp 10.9.0.3:80",
                "02:42:0a:09:00:02 > 02:42:0a:09:00:03, TCP 10.9.0.2:40000 > 10.9.0.3:80 SYN, 54 bytes",
            ),
            (
                "to 02:00:00:00:00:07 udp 10.1.1.1:53 > 10.1.1.2:5353 len 100",
                "02:42:0a:09:00:02 > 02:00:00:00:00:07, UDP 10.1.1.1:53 > 10.1.1.2:5353, 142 bytes",
            ),
            (
                "udp 224.0.0.251:5353",
                "02:42:0a:09:00:02 > 01:00:5e:00:00:fb, UDP 10.9.0.2:40000 > 224.0.0.251:5353, 42 bytes",
            ),
            (
                "to ff:ff:ff:ff:ff:ff ether 0x88b5 len 50",
                "02:42:0a:09:00:02 > ff:ff:ff:ff:ff:ff, type 0x88b5, 64 bytes",
            ),
        ];
        for (text, line) in table {
            let frame = parse(text, &Here).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(describe(&frame, frame.len()), line, "{text}");
            assert_eq!(parse_hex(&to_hex(&frame)), Ok(frame));
        }
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        let table = [
            ("", "what kind of frame it is is missing"),
            ("arp", "who-has or reply after arp is missing"),
            ("arp whohas 1.2.3.4", "arp who-has IP [tell IP]"),
            ("arp who-has nobody", "\"nobody\" is not an IPv4 address after who-has"),
            ("ipx 1", "\"ipx\" is not a kind of frame: write [from MAC]"),
            ("tcp 10.9.0.3", "the port is missing: write 10.9.0.3:80"),
            ("udp 10.9.0.77:1", "say where the frame goes with `to MAC`"),
            ("icmp 10.9.0.2 > fd09::3", "both must be of one family"),
            ("vlan 4095 arp who-has 10.9.0.1", "4095"),
            ("icmp 10.9.0.3 len 99999", "write at most 9000"),
            ("icmp 10.9.0.3 please", "\"please\" is one word too many"),
        ];
        for (text, part) in table {
            let error = parse(text, &Here).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(parse_hex("02 4").is_err() && parse_hex("xy").is_err());
        assert_eq!(parse_hex("02:42-0A 09"), Ok(vec![2, 0x42, 10, 9]));
    }

    #[test]
    fn any_bytes_can_be_described() {
        for len in 0..80 {
            describe(&vec![0x08; len], len);
            let frame = parse("tcp 10.9.0.3:80 len 40", &Here).unwrap();
            describe(&frame[..len.min(frame.len())], frame.len());
        }
    }
}
