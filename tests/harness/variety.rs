//! Frames as various as those of public captures: types, encapsulations, tags, lengths, checksums, truncations.
//!
//! Made from a seed, so that a failure can be repeated. Each frame is a list of layers chosen at random, then possibly given
//! wrong checksums, cut, or padded.

/// A seeded source of frames.
#[derive(Clone, Debug)]
pub struct Variety {
    state: u64,
    mtu: usize,
}

/// The tags of frames.
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// Types without layers of their own here: Wake-on-LAN, AARP, IPX, EAPOL, PROFINET, EtherCAT, LLDP, MACsec, PBB, PTP, CFM, FCoE, RoCE,
/// loopback, TRILL, HomePlug, an experiment, and those between lengths and types.
const TYPES: [u16; 20] = [
    0x0842, 0x80f3, 0x8137, 0x888e, 0x8892, 0x88a4, 0x88cc, 0x88e5, 0x88e7, 0x88f7, 0x8902, 0x8906, 0x8915,
    0x9000, 0x22f3, 0x88e1, 0x88b5, 0x05dd, 0x05ff, 0xffff,
];

impl Variety {
    /// Frames that an interface with this MTU sends.
    pub fn new(seed: u64, mtu: usize) -> Self {
        Self { state: seed, mtu }
    }

    /// The next number: SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }

    /// True once in `times`.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// The next frame, of at least an Ethernet header and at most the MTU behind it and a tag.
    pub fn frame(&mut self) -> Vec<u8> {
        let mut frame = self.destination().to_vec();
        frame.extend(self.source());
        for _ in 0..self.pick(&[0, 0, 0, 0, 1, 1, 2, 3]) {
            let tci = self.pick(&[0, 0x6000, 1, 10, 0x600a, 0xfff, 0x1064]);
            frame.extend(self.pick(&TAGS).to_be_bytes());
            frame.extend(u16::to_be_bytes(tci));
        }
        let (kind, payload) = self.payload();
        frame.extend(kind.to_be_bytes());
        frame.extend(payload);
        let longest = self.mtu + 14;
        match self.below(20) {
            0 | 1 => {
                let len = 14 + self.below(frame.len() - 13);
                frame.truncate(len);
            }
            2 => frame.truncate(14 + self.below(46)),
            3 => {
                let padding = self.below(64);
                frame.extend(self.bytes(padding));
            }
            4 => {
                let missing = longest.saturating_sub(frame.len());
                frame.extend(self.bytes(missing));
            }
            _ if frame.len() < 60 => frame.resize(60, 0),
            _ => {}
        }
        frame.truncate(longest);
        frame
    }

    fn destination(&mut self) -> [u8; 6] {
        let last = self.byte();
        match self.below(12) {
            0 | 1 => [0xff; 6],
            2 => [1, 0, 0x5e, 0, 0, last],
            3 => [0x33, 0x33, 0, 0, 0, last],
            4 => [1, 0x80, 0xc2, 0, 0, last % 32],
            5 => [1, 0, 0x0c, 0xcc, 0xcc, 0xcc],
            _ => [2, 0, 0, 0, 0xbb, last],
        }
    }

    fn source(&mut self) -> [u8; 6] {
        let last = self.byte();
        match self.below(40) {
            0 => [0; 6],
            1 => [1, 0, 0x5e, 0, 0, last],
            2 => [0xff; 6],
            3 => [0, 0, 0x5e, 0, 1, last],
            _ => [2, 0, 0, 0, 0xaa, last % 50],
        }
    }

    /// A type, and what follows it.
    fn payload(&mut self) -> (u16, Vec<u8>) {
        match self.below(16) {
            0..=4 => (0x0800, self.ipv4(0)),
            5..=8 => (0x86dd, self.ipv6(0)),
            9 | 10 => (0x0806, self.arp()),
            11 => {
                let mut labels = Vec::new();
                for left in (0..=self.below(3)).rev() {
                    let [_, a, b, c] =
                        u32::try_from(self.next() % (1 << 20)).expect("20 bits").rotate_left(4).to_be_bytes();
                    labels.extend([a, b, c & 0xf0 | u8::from(left == 0), 64]);
                }
                let inner = if self.once_in(2) { self.ipv4(1) } else { self.ipv6(1) };
                (self.pick(&[0x8847, 0x8848]), [labels, inner].concat())
            }
            12 => {
                let (protocol, inner) =
                    if self.once_in(2) { (0x21, self.ipv4(1)) } else { (0x57, self.ipv6(1)) };
                let session = self.pick(&[0x8863, 0x8864]);
                let len = u16::try_from(inner.len() + 2).expect("short").to_be_bytes();
                (session, [&[0x11, 0, 0, 7], &len[..], &u16::to_be_bytes(protocol), &inner].concat())
            }
            13 => {
                // A length, and LLC: spanning tree, SNAP, IS-IS, NetBIOS, raw IPX.
                let llc: &[u8] = self.pick(&[
                    &[0x42, 0x42, 3, 0, 0, 0, 0, 0][..],
                    &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0],
                    &[0xaa, 0xaa, 3, 0, 0, 0x0c, 0x20, 0],
                    &[0xfe, 0xfe, 3, 0x83],
                    &[0xf0, 0xf0, 3],
                    &[0xff, 0xff, 0, 0x1e],
                ]);
                let rest = self.below(200);
                let payload = [llc, &self.bytes(rest)].concat();
                (u16::try_from(payload.len()).expect("short"), payload)
            }
            _ => {
                let len = self.below(300);
                (self.pick(&TYPES), self.bytes(len))
            }
        }
    }

    fn arp(&mut self) -> Vec<u8> {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, self.pick(&[1, 2, 3, 8])];
        arp.extend(self.bytes(20));
        if self.once_in(8) {
            let at = self.below(8);
            arp[at] = self.byte();
        }
        arp
    }

    /// A transport's protocol and content; the checksum, if it has one, is good, bad or absent.
    fn transport(&mut self, pseudo: &[u8], depth: usize) -> (u8, Vec<u8>) {
        let len = self.pick(&[0, 1, 20, 100, 512, 1000]);
        let mut data = self.bytes(len);
        let (protocol, header, checksum): (u8, Vec<u8>, Option<usize>) = match self.below(9) {
            0..=2 => {
                let mut header = self.bytes(20);
                header[12] = 0x50;
                (6, header, Some(16))
            }
            3..=5 => {
                let ports =
                    self.pick(&[[0, 53, 0xd4, 0x31], [0x12, 0xb5, 0x12, 0xb5], [0, 67, 0, 68], [1, 2, 3, 4]]);
                let total = u16::try_from(8 + data.len()).expect("short").to_be_bytes();
                (17, [&ports[..], &total, &[0, 0]].concat(), Some(6))
            }
            6 if depth == 0 => {
                data = if self.once_in(2) { self.ipv4(1) } else { self.ipv6(1) };
                (47, vec![0, 0, 8, 0], None)
            }
            6 => (4, Vec::new(), None),
            7 => (self.pick(&[1, 58]), vec![8, 0, 0, 0, 0, 7, 0, 1], Some(2)),
            _ => (self.pick(&[2, 50, 51, 89, 103, 112, 132, 253, 255]), self.bytes(8), None),
        };
        let mut content = [header, data].concat();
        if let Some(at) = checksum {
            content[at..at + 2].fill(0);
            let len = u32::try_from(content.len()).expect("short").to_be_bytes();
            let sum = sum(&[pseudo, &[0, 0, 0, protocol], &len, &content].concat());
            match self.below(4) {
                0 => content[at..at + 2].copy_from_slice(&(sum ^ 0x5555).to_be_bytes()),
                1 => {}
                _ => content[at..at + 2].copy_from_slice(&sum.to_be_bytes()),
            }
        }
        (protocol, content)
    }

    fn ipv4(&mut self, depth: usize) -> Vec<u8> {
        let addresses = [10, 9, 0, self.byte(), self.pick(&[10, 224, 255, 127, 0]), 9, 0, self.byte()];
        let options = 4 * self.pick(&[0, 0, 0, 0, 1, 10]);
        let (protocol, content) = self.transport(&addresses, depth);
        let total = u16::try_from(20 + options + content.len()).expect("short");
        // Whole, "don't fragment", a first, a middle and a last fragment, and the reserved bit.
        let fragment: u16 = self.pick(&[0, 0x4000, 0x4000, 0x2000, 0x2064, 0x0064, 0x8000]);
        let ttl = self.pick(&[64, 64, 1, 0, 255]);
        let tos = self.pick(&[0, 0, 0xb8, 1, 2]);
        let first = 0x45 + u8::try_from(options / 4).expect("at most ten");
        let mut header =
            [&[first, tos], &total.to_be_bytes()[..], &self.bytes(2), &fragment.to_be_bytes()].concat();
        header.extend([ttl, protocol, 0, 0]);
        header.extend(addresses);
        header.extend(std::iter::repeat_n(1, options));
        match self.below(16) {
            0 => header[0] = self.byte(),
            1 => header[2..4].copy_from_slice(&self.pick(&[0_u16, 19, 20, 9000, 65_535]).to_be_bytes()),
            _ => {}
        }
        if !self.once_in(8) {
            let checksum = sum(&header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        [header, content].concat()
    }

    fn ipv6(&mut self, depth: usize) -> Vec<u8> {
        let mut addresses = self.bytes(32);
        addresses[0] = 0xfd;
        addresses[16] = self.pick(&[0xfd, 0xff, 0xfe]);
        let (mut next, mut content) = self.transport(&addresses, depth);
        for extension in [60, 43, 44, 51, 0] {
            if self.once_in(8) {
                let rest = self.bytes(6);
                content =
                    [&[next, if extension == 51 { 0 } else { self.pick(&[0, 0, 3]) }], &rest[..], &content]
                        .concat();
                next = extension;
            }
        }
        let mut len = u16::try_from(content.len()).expect("short");
        match self.below(16) {
            0 => len = self.pick(&[0, 1, 9000, 65_535]),
            1 => next = 59,
            _ => {}
        }
        let [class, label @ ..] = self.pick(&[[0, 0, 0, 0], [0x6b, 0x80, 0, 1], [0, 0x10, 0x12, 0x34]]);
        let mut packet = vec![0x60 | class & 0x0f, label[0], label[1], label[2]];
        packet.extend(len.to_be_bytes());
        packet.extend([next, self.pick(&[64, 255, 1, 0])]);
        packet.extend(addresses);
        packet.extend(content);
        packet
    }
}

/// The Internet checksum of `bytes` (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let total: u32 = words.sum();
    let folded = (total & 0xffff) + (total >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn frames_are_legal_to_send_and_of_all_kinds() {
        let mut variety = Variety::new(1, 1500);
        let mut kinds = BTreeSet::new();
        for _ in 0..5000 {
            let frame = variety.frame();
            assert!((14..=1514).contains(&frame.len()));
            kinds.insert(u16::from_be_bytes([frame[12], frame[13]]));
        }
        for kind in [0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x8847, 0x8864].into_iter().chain(TYPES) {
            assert!(kinds.contains(&kind), "{kind:x}");
        }
        assert_eq!(Variety::new(7, 1500).frame(), Variety::new(7, 1500).frame(), "repeatable");
    }
}
