//! Classic BPF: the filter of a capture.
//!
//! The language of libpcap and of the kernel's socket filters (McCanne and Jacobson, "The BSD Packet Filter",
//! 1993; `bpf_check_classic` in net/core/filter.c). A program is checked once, when a capture begins; it only
//! jumps forward, so a frame costs at most one step per instruction. It reads nothing but the frame and its
//! own 16 words of memory.
//!
//! Left out: the kernel's ancillary data (negative offsets). libpcap does not use it for programs that are
//! not bound to a device; here, such a load is beyond the end of the frame and rejects it.

use std::fmt;

use super::FrameBytes;

/// Maximum number of instructions: the kernel's `BPF_MAXINSNS`.
const MAX_INSTRUCTIONS: usize = 4096;

/// Words of scratch memory (`BPF_MEMWORDS`).
const WORDS: usize = 16;

/// An instruction, as in `struct bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Class, size, mode or operation, and source.
    pub code: u16,
    /// Number of instructions to skip if the condition holds.
    pub jt: u8,
    /// Number of instructions to skip otherwise.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// A checked program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(Box<[Op]>);

/// Why a filter program is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// It has no instruction, or more than 4,096.
    Length(usize),
    /// Not an instruction, or it divides by zero or addresses memory out of range.
    Instruction(usize),
    /// A jump leaves the program.
    Jump(usize),
    /// The last instruction does not return.
    NoReturn,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => {
                write!(f, "it has {length} instructions: 1 to {MAX_INSTRUCTIONS} are possible")
            }
            Self::Instruction(at) => write!(f, "instruction {at} is not classic BPF"),
            Self::Jump(at) => write!(f, "instruction {at} jumps out of the program"),
            Self::NoReturn => f.write_str("its last instruction does not return"),
        }
    }
}

impl std::error::Error for FilterError {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Load(Size, Mode),
    /// Four times the low nibble of this byte: the length of an IPv4 header.
    LoadHeaderLength(u32),
    LoadX(Word),
    Store(usize),
    StoreX(usize),
    Compute(Alu, Operand),
    Negate,
    Jump(u32),
    Branch {
        test: Test,
        with: Operand,
        yes: u8,
        no: u8,
    },
    ToX,
    ToA,
    Return(Verdict),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Word,
    Half,
    Byte,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Absolute(u32),
    Indirect(u32),
    Word(Word),
}

/// A value that is not in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Constant(u32),
    Memory(usize),
    Length,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alu {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Or,
    And,
    Xor,
    Left,
    Right,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operand {
    Constant(u32),
    X,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Constant(u32),
    A,
}

impl Filter {
    /// Checks a program.
    ///
    /// # Errors
    /// The program is invalid; see [`FilterError`].
    pub fn new(program: &[Instruction]) -> Result<Self, FilterError> {
        if program.is_empty() || program.len() > MAX_INSTRUCTIONS {
            return Err(FilterError::Length(program.len()));
        }
        let ops: Option<Vec<Op>> = program.iter().map(decode).collect();
        let Some(ops) = ops else {
            let at = program.iter().position(|instruction| decode(instruction).is_none());
            return Err(FilterError::Instruction(at.unwrap_or_default()));
        };
        for (at, op) in ops.iter().enumerate() {
            let furthest = match *op {
                Op::Jump(by) => by as usize,
                Op::Branch { yes, no, .. } => usize::from(yes.max(no)),
                _ => continue,
            };
            if furthest >= ops.len() - at - 1 {
                return Err(FilterError::Jump(at));
            }
        }
        match ops.last() {
            Some(Op::Return(_)) => Ok(Self(ops.into())),
            _ => Err(FilterError::NoReturn),
        }
    }

    /// Whether `frame` matches.
    pub fn matches(&self, frame: FrameBytes<'_>) -> bool {
        self.run(frame).is_some_and(|verdict| verdict != 0)
    }

    /// The program's return value; `None` if it reads beyond the end of the frame or divides by zero.
    fn run(&self, frame: FrameBytes<'_>) -> Option<u32> {
        let (mut a, mut x, mut memory) = (0_u32, 0_u32, [0_u32; WORDS]);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a frame is not longer than 64 KB and some bytes"
        )]
        let length = frame.len() as u32;
        let mut at = 0;
        while let Some(op) = self.0.get(at) {
            at += 1;
            let word = |word, memory: &[u32; WORDS]| match word {
                Word::Constant(k) => k,
                Word::Memory(place) => memory[place],
                Word::Length => length,
            };
            let operand = |operand| match operand {
                Operand::Constant(k) => k,
                Operand::X => x,
            };
            match *op {
                Op::Load(size, Mode::Absolute(k)) => a = load(frame, size, k)?,
                Op::Load(size, Mode::Indirect(k)) => a = load(frame, size, x.checked_add(k)?)?,
                Op::Load(_, Mode::Word(source)) => a = word(source, &memory),
                Op::LoadHeaderLength(k) => x = (load(frame, Size::Byte, k)? & 0xf) << 2,
                Op::LoadX(source) => x = word(source, &memory),
                Op::Store(place) => memory[place] = a,
                Op::StoreX(place) => memory[place] = x,
                Op::Compute(alu, with) => a = compute(alu, a, operand(with))?,
                Op::Negate => a = a.wrapping_neg(),
                Op::Jump(by) => at += by as usize,
                Op::Branch { test, with, yes, no } => {
                    let holds = check(test, a, operand(with));
                    at += usize::from(if holds { yes } else { no });
                }
                Op::ToX => x = a,
                Op::ToA => a = x,
                Op::Return(Verdict::Constant(k)) => return Some(k),
                Op::Return(Verdict::A) => return Some(a),
            }
        }
        None
    }
}

fn load(frame: FrameBytes<'_>, size: Size, at: u32) -> Option<u32> {
    let at = at as usize;
    match size {
        Size::Word => frame.read(at).map(u32::from_be_bytes),
        Size::Half => frame.read(at).map(|bytes| u16::from_be_bytes(bytes).into()),
        Size::Byte => frame.read(at).map(|[byte]| byte.into()),
    }
}

fn compute(alu: Alu, a: u32, with: u32) -> Option<u32> {
    Some(match alu {
        Alu::Add => a.wrapping_add(with),
        Alu::Subtract => a.wrapping_sub(with),
        Alu::Multiply => a.wrapping_mul(with),
        Alu::Divide => a.checked_div(with)?,
        Alu::Remainder => a.checked_rem(with)?,
        Alu::Or => a | with,
        Alu::And => a & with,
        Alu::Xor => a ^ with,
        Alu::Left => a.checked_shl(with).unwrap_or(0),
        Alu::Right => a.checked_shr(with).unwrap_or(0),
    })
}

fn check(test: Test, a: u32, with: u32) -> bool {
    match test {
        Test::Equal => a == with,
        Test::Greater => a > with,
        Test::GreaterOrEqual => a >= with,
        Test::Set => a & with != 0,
    }
}

/// The numbers of include/uapi/linux/bpf_common.h.
fn decode(&Instruction { code, jt, jf, k }: &Instruction) -> Option<Op> {
    let memory = || usize::try_from(k).ok().filter(|place| *place < WORDS);
    let operand = if code & 0x08 == 0 { Operand::Constant(k) } else { Operand::X };
    Some(match code & 0x07 {
        // BPF_LD
        0 => {
            let size = match code & 0x18 {
                0x00 => Size::Word,
                0x08 => Size::Half,
                0x10 => Size::Byte,
                _ => return None,
            };
            let mode = match (code & 0xe0, size) {
                (0x20, _) => Mode::Absolute(k),
                (0x40, _) => Mode::Indirect(k),
                (0x00, Size::Word) => Mode::Word(Word::Constant(k)),
                (0x60, Size::Word) => Mode::Word(Word::Memory(memory()?)),
                (0x80, Size::Word) => Mode::Word(Word::Length),
                _ => return None,
            };
            Op::Load(size, mode)
        }
        // BPF_LDX
        1 => match code & 0xf8 {
            0x00 => Op::LoadX(Word::Constant(k)),
            0x60 => Op::LoadX(Word::Memory(memory()?)),
            0x80 => Op::LoadX(Word::Length),
            0xb0 => Op::LoadHeaderLength(k),
            _ => return None,
        },
        2 if code == 0x02 => Op::Store(memory()?),
        3 if code == 0x03 => Op::StoreX(memory()?),
        // BPF_ALU
        4 => {
            let alu = match code & 0xf0 {
                0x00 => Alu::Add,
                0x10 => Alu::Subtract,
                0x20 => Alu::Multiply,
                0x30 => Alu::Divide,
                0x40 => Alu::Or,
                0x50 => Alu::And,
                0x60 => Alu::Left,
                0x70 => Alu::Right,
                0x80 => return Some(Op::Negate),
                0x90 => Alu::Remainder,
                0xa0 => Alu::Xor,
                _ => return None,
            };
            if matches!(alu, Alu::Divide | Alu::Remainder) && operand == Operand::Constant(0) {
                return None;
            }
            Op::Compute(alu, operand)
        }
        // BPF_JMP
        5 => {
            let test = match code & 0xf0 {
                0x00 => return Some(Op::Jump(k)),
                0x10 => Test::Equal,
                0x20 => Test::Greater,
                0x30 => Test::GreaterOrEqual,
                0x40 => Test::Set,
                _ => return None,
            };
            Op::Branch { test, with: operand, yes: jt, no: jf }
        }
        // BPF_RET
        6 => match code & 0x18 {
            0x00 => Op::Return(Verdict::Constant(k)),
            0x10 => Op::Return(Verdict::A),
            _ => return None,
        },
        // BPF_MISC
        7 => match code & 0xf8 {
            0x00 => Op::ToX,
            0x80 => Op::ToA,
            _ => return None,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(lines: &[(u16, u8, u8, u32)]) -> Vec<Instruction> {
        lines.iter().map(|&(code, jt, jf, k)| Instruction { code, jt, jf, k }).collect()
    }

    /// `tcpdump -dd arp`
    fn arp() -> Vec<Instruction> {
        program(&[(0x28, 0, 0, 12), (0x15, 0, 1, 0x806), (0x06, 0, 0, 262_144), (0x06, 0, 0, 0)])
    }

    /// `tcpdump -dd 'tcp port 80'`, as compiled by libpcap 1.10.
    fn web() -> Vec<Instruction> {
        program(&[
            (0x28, 0, 0, 12),
            (0x15, 0, 6, 0x86dd),
            (0x30, 0, 0, 20),
            (0x15, 0, 15, 6),
            (0x28, 0, 0, 54),
            (0x15, 12, 0, 80),
            (0x28, 0, 0, 56),
            (0x15, 10, 11, 80),
            (0x15, 0, 10, 0x800),
            (0x30, 0, 0, 23),
            (0x15, 0, 8, 6),
            (0x28, 0, 0, 20),
            (0x45, 6, 0, 0x1fff),
            (0xb1, 0, 0, 14),
            (0x48, 0, 0, 14),
            (0x15, 2, 0, 80),
            (0x48, 0, 0, 16),
            (0x15, 0, 1, 80),
            (0x06, 0, 0, 262_144),
            (0x06, 0, 0, 0),
        ])
    }

    fn tcp(port: u16) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2]);
        frame.extend([0x12, 0x34]);
        frame.extend(port.to_be_bytes());
        frame.resize(54, 0);
        frame
    }

    #[test]
    fn programs_of_libpcap_pick_what_they_say() {
        let arp = Filter::new(&arp()).unwrap();
        let request = [&[0xff; 6][..], &[2; 6], &[8, 6], &[0; 28]].concat();
        assert!(arp.matches(FrameBytes::new(&request)));
        assert!(!arp.matches(FrameBytes::new(&tcp(80))));
        assert!(!arp.matches(FrameBytes::new(&request[..13])), "it ends before its type");
        let web = Filter::new(&web()).unwrap();
        assert!(web.matches(FrameBytes::new(&tcp(80))));
        assert!(!web.matches(FrameBytes::new(&tcp(81))));
        assert!(!web.matches(FrameBytes::new(&request)));
    }

    #[test]
    fn a_frame_in_two_parts_is_one() {
        let (frame, web) = (tcp(80), Filter::new(&web()).unwrap());
        for at in 0..frame.len() {
            let (head, rest) = frame.split_at(at);
            assert!(web.matches(FrameBytes { head, rest }), "{at}");
        }
    }

    #[test]
    fn what_could_not_run_to_an_end_is_no_program() {
        let returns = (0x06, 0, 0, 0);
        let table = [
            (vec![], FilterError::Length(0)),
            (vec![(0x28, 0, 0, 12)], FilterError::NoReturn),
            (vec![(0x15, 1, 0, 0), returns], FilterError::Jump(0)),
            (vec![returns, (0x05, 0, 0, u32::MAX), returns], FilterError::Jump(1)),
            (vec![(0x34, 0, 0, 0), returns], FilterError::Instruction(0)),
            (vec![(0x60, 0, 0, 16), returns], FilterError::Instruction(0)),
            (vec![returns, (0x02, 0, 0, 16), returns], FilterError::Instruction(1)),
            (vec![(0x18, 0, 0, 0), returns], FilterError::Instruction(0)),
        ];
        for (lines, error) in table {
            assert_eq!(Filter::new(&program(&lines)), Err(error), "{lines:?}");
        }
        assert!(Filter::new(&vec![arp()[2]; MAX_INSTRUCTIONS]).is_ok());
        assert!(Filter::new(&vec![arp()[2]; MAX_INSTRUCTIONS + 1]).is_err());
    }

    proptest::proptest! {
        /// Any accepted program ends on any frame without a panic.
        #[test]
        fn anything_accepted_ends(
            lines in proptest::collection::vec((0_u16..0x100, 0_u8..4, 0_u8..4, 0_u32..40), 1..20),
            frame in proptest::collection::vec(0_u8.., 0..80),
        ) {
            if let Ok(filter) = Filter::new(&program(&lines)) {
                filter.matches(FrameBytes::new(&frame));
            }
        }
    }
}
