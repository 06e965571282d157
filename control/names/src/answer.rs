//! From the bytes of a query to those of a response.
//!
//! Obeys RFC 1035 (messages), RFC 2308 (negative answers), RFC 2782 (SRV), RFC 4343 (case), RFC 6891 (EDNS), and what RFC 8906
//! section 8 tests: an unknown type, opcode, flag, version or option gets an answer of its own, never silence.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, PTR, SOA, SRV},
    },
};

use crate::{
    question::{Meaning, Service, meaning},
    table::{Asker, Found, Network, Table},
};

/// How long it may be remembered that there is no such name, in seconds: containers start at any time.
pub const NEGATIVE_TTL: u32 = 1;

/// What we say to take by UDP, and the most we send by it: no path fragments that (RFC 9715).
pub const UDP_PAYLOAD: u16 = 1232;

/// The least that each client takes by UDP (RFC 1035 section 2.3.4).
const UDP_LEAST: u16 = 512;

/// Bytes of a header.
const HEADER: usize = 12;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram. A response that is too long is cut, and says so.
    Udp,
    /// In a stream. A response has up to 65,535 bytes.
    Tcp,
}

/// What to do with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send these bytes.
    Respond(Vec<u8>, Verdict),
    /// It is not for us: ask another server, with the same bytes, and pass its response on.
    Upstream,
    /// Nothing: it is no query.
    Ignore,
}

/// The kind of a response, for counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// There is such a name.
    Answered,
    /// There is such a name, without records of that type.
    NoData,
    /// There is no such name.
    NoName,
    /// Who asks is not served.
    Refused,
    /// It is not a query that we understand.
    Malformed,
    /// No other server answered in time, or too many queries wait for one.
    Failed,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Answered, Self::NoData, Self::NoName, Self::Refused, Self::Malformed, Self::Failed];

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::NoData => "nodata",
            Self::NoName => "nxdomain",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Failed => "servfail",
        }
    }
}

/// The answer to a query of `asker`. `turn` rotates the order of several addresses.
pub fn answer(table: &Table, query: &[u8], asker: Asker, transport: Transport, turn: usize) -> Outcome {
    let is_response = query.get(2).is_none_or(|flags| flags & 0x80 != 0);
    if is_response || query.len() < HEADER {
        return Outcome::Ignore;
    }
    let opcode = OpCode::from_u8((query[2] >> 3) & 0xf);
    if opcode != OpCode::Query {
        return refuse(query, ResponseCode::NotImp, Verdict::Malformed);
    }
    let Ok(message) = Message::from_vec(query) else {
        return refuse(query, ResponseCode::FormErr, Verdict::Malformed);
    };
    let draft = Draft::of(&message, transport);
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return draft.finish(ResponseCode::BADVERS, Verdict::Malformed);
    }
    let [question] = &*message.queries else {
        return draft.finish(ResponseCode::FormErr, Verdict::Malformed);
    };
    let is_transfer = matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR);
    if asker == Asker::Stranger || question.query_class() != DNSClass::IN || is_transfer {
        return draft.finish(ResponseCode::Refused, Verdict::Refused);
    }
    let own = Own { table, question, turn };
    match meaning(table, asker, question.name()) {
        Meaning::Stations(_, found) => own.stations(draft, &found),
        Meaning::Port(network, found, service) => own.port(draft, network, &found, &service),
        Meaning::Reverse(names) => own.reverse(draft, &names),
        Meaning::Apex => own.apex(draft),
        Meaning::Nothing => own.nothing(draft, ResponseCode::NXDomain, Verdict::NoName),
        // It has servers of its own, and may be what asks us on behalf of another.
        Meaning::Foreign if asker == Asker::Host => draft.finish(ResponseCode::Refused, Verdict::Refused),
        Meaning::Foreign => Outcome::Upstream,
    }
}

/// The response to a query that no other server has answered.
pub fn failure(query: &[u8]) -> Vec<u8> {
    let Ok(message) = Message::from_vec(query) else { return bare(query, ResponseCode::ServFail) };
    let draft = Draft::of(&message, Transport::Udp);
    match draft.finish(ResponseCode::ServFail, Verdict::Failed) {
        Outcome::Respond(bytes, _) => bytes,
        Outcome::Upstream | Outcome::Ignore => bare(query, ResponseCode::ServFail),
    }
}

/// A response of a header alone, to what cannot be read as a whole.
fn refuse(query: &[u8], code: ResponseCode, verdict: Verdict) -> Outcome {
    Outcome::Respond(bare(query, code), verdict)
}

/// The header of a query, turned into that of a response without sections.
fn bare(query: &[u8], code: ResponseCode) -> Vec<u8> {
    let mut header = vec![0; HEADER];
    header[..2].copy_from_slice(&query[..2]);
    // Opcode and "recursion desired" are those of the query (RFC 1035 section 4.1.1).
    header[2] = 0x80 | (query[2] & 0x79);
    header[3] = 0x80 | code.low();
    header
}

/// An answer out of our own zone.
struct Own<'a> {
    table: &'a Table,
    question: &'a Query,
    turn: usize,
}

impl Own<'_> {
    fn record(&self, ttl: u32, data: RData) -> Record {
        Record::from_rdata(self.question.name().clone(), ttl, data)
    }

    fn wants(&self, kind: RecordType) -> bool {
        self.question.query_type() == kind || self.question.query_type() == RecordType::ANY
    }

    fn stations(&self, mut draft: Draft, found: &Found) -> Outcome {
        let ttl = if found.is_service { 0 } else { self.table.ttl };
        let wanted = |address: &&IpAddr| match address {
            IpAddr::V4(_) => self.wants(RecordType::A),
            IpAddr::V6(_) => self.wants(RecordType::AAAA),
        };
        let records = found.addresses.iter().filter(wanted).map(|address| self.record(ttl, data(address)));
        draft.response.answers = records.collect();
        draft.rotate(self.turn);
        self.given(draft)
    }

    fn port(&self, mut draft: Draft, network: &Network, found: &Found, service: &Service) -> Outcome {
        let ttl = if found.is_service { 0 } else { self.table.ttl };
        let mut known = false;
        for station in &found.stations {
            let target = format!("{}.{}.{}.", network.name_of(*station), network.name(), self.table.domain);
            let Ok(target) = Name::from_ascii(target) else { continue };
            for port in network.ports(*station, &service.port, &service.protocol) {
                known = true;
                if self.wants(RecordType::SRV) {
                    let served = RData::SRV(SRV::new(0, 0, port, target.clone()));
                    draft.response.answers.push(self.record(ttl, served));
                    // Saves the client a second question (RFC 2782, "Additional").
                    let addresses = network.addresses_of(*station).iter();
                    let records = addresses.map(|it| Record::from_rdata(target.clone(), ttl, data(it)));
                    draft.response.additionals.extend(records);
                }
            }
        }
        draft.rotate(self.turn);
        if known { self.given(draft) } else { self.nothing(draft, ResponseCode::NXDomain, Verdict::NoName) }
    }

    fn reverse(&self, mut draft: Draft, names: &[String]) -> Outcome {
        if self.wants(RecordType::PTR) {
            let names = names.iter().filter_map(|name| Name::from_ascii(format!("{name}.")).ok());
            let records = names.map(|name| self.record(self.table.ttl, RData::PTR(PTR(name))));
            draft.response.answers = records.collect();
        }
        self.given(draft)
    }

    fn apex(&self, mut draft: Draft) -> Outcome {
        if self.wants(RecordType::SOA) {
            draft.response.answers.extend(self.authority());
        }
        self.given(draft)
    }

    /// The answers, or that there are none of this type (RFC 2308 section 2.2).
    fn given(&self, mut draft: Draft) -> Outcome {
        if draft.response.answers.is_empty() {
            return self.nothing(draft, ResponseCode::NoError, Verdict::NoData);
        }
        draft.response.metadata.authoritative = true;
        draft.finish(ResponseCode::NoError, Verdict::Answered)
    }

    /// A negative answer: it says how long it may be remembered (RFC 2308 section 3).
    fn nothing(&self, mut draft: Draft, code: ResponseCode, verdict: Verdict) -> Outcome {
        draft.response.metadata.authoritative = true;
        draft.response.authorities.extend(self.authority());
        draft.finish(code, verdict)
    }

    /// The SOA record of our zone; for a name outside of it, of that name's last label.
    ///
    /// A resolver takes a negative answer only from a zone that the question is in (RFC 2308 section 5), and `db` is in no zone of
    /// `vswitch.internal`.
    fn authority(&self) -> Option<Record> {
        let domain = Name::from_ascii(format!("{}.", self.table.domain)).ok()?;
        let name = self.question.name();
        let owner = if domain.zone_of(name) { domain.clone() } else { name.trim_to(1) };
        let mail = Name::from_ascii("hostmaster").ok()?.append_name(&domain).ok()?;
        // Serial and times are for secondaries; there are none.
        let soa = SOA::new(domain, mail, 1, 3600, 600, 86_400, NEGATIVE_TTL);
        Some(Record::from_rdata(owner, NEGATIVE_TTL, RData::SOA(soa)))
    }
}

fn data(address: &IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(*address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
    }
}

/// A response as it grows.
struct Draft {
    response: Message,
    /// The most bytes it may have.
    limit: usize,
}

impl Draft {
    /// The beginning of a response: the question, and EDNS if the query has it.
    fn of(query: &Message, transport: Transport) -> Self {
        let mut metadata = Metadata::response_from_request(&query.metadata);
        metadata.recursion_available = true;
        let mut response = Message::new(0, MessageType::Response, OpCode::Query);
        response.metadata = metadata;
        response.queries.clone_from(&query.queries);
        let limit = match transport {
            Transport::Udp => query.max_payload().clamp(UDP_LEAST, UDP_PAYLOAD).into(),
            Transport::Tcp => u16::MAX.into(),
        };
        if let Some(asked) = &query.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD).set_version(0);
            // RFC 3225 section 3: copied.
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            response.set_edns(edns);
        }
        Self { response, limit }
    }

    /// Begins the answers with another one each time.
    fn rotate(&mut self, turn: usize) {
        let answers = &mut self.response.answers;
        if !answers.is_empty() {
            let by = turn % answers.len();
            answers.rotate_left(by);
        }
    }

    /// The bytes, with as many answers as fit. RFC 2181 section 9: TC says that some do not.
    fn finish(mut self, code: ResponseCode, verdict: Verdict) -> Outcome {
        self.response.metadata.response_code = code;
        let respond = |bytes| Outcome::Respond(bytes, verdict);
        let Ok(whole) = self.response.to_vec() else { return Outcome::Ignore };
        if whole.len() <= self.limit {
            return respond(whole);
        }
        // Additional records may be left out without a word.
        self.response.additionals.clear();
        let Ok(mut bytes) = self.response.to_vec() else { return Outcome::Ignore };
        while bytes.len() > self.limit && !self.response.answers.is_empty() {
            let answers = &mut self.response.answers;
            // Records of one question have one length, nearly: the first guess is right, or the second.
            let keep = answers.len() * self.limit / bytes.len();
            answers.truncate(keep.min(answers.len() - 1));
            self.response.metadata.truncation = true;
            match self.response.to_vec() {
                Ok(shorter) => bytes = shorter,
                Err(_) => return Outcome::Ignore,
            }
        }
        respond(bytes)
    }
}
