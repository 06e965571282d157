//! Pseudo-random payload that can be generated and checked at any offset.

/// An endless stream of bytes, different for each seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern(pub u64);

impl Pattern {
    /// Writes the bytes from `offset` on.
    pub fn fill(self, offset: u64, bytes: &mut [u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let word = self.word(at / 8);
            let skip = (at % 8) as usize;
            let len = rest.len().min(8 - skip);
            let (part, after) = rest.split_at_mut(len);
            part.copy_from_slice(&word[skip..skip + len]);
            (at, rest) = (at + len as u64, after);
        }
    }

    /// `len` bytes from `offset` on.
    pub fn make(self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(offset, &mut bytes);
        bytes
    }

    /// Offset, from the start of the stream, of the first byte that differs.
    pub fn first_difference(self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let expected = self.make(offset, bytes.len());
        let place = expected.iter().zip(bytes).position(|(a, b)| a != b)?;
        Some(offset + place as u64)
    }

    /// SplitMix64 (Steele, Lea, Flood 2014) of the word's index.
    fn word(self, number: u64) -> [u8; 8] {
        let mut z = self.0.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_is_the_same_as_in_the_whole() {
        let whole = Pattern(7).make(0, 100);
        for (from, to) in [(0, 100), (3, 5), (8, 16), (1, 100), (99, 100), (50, 50)] {
            let part = Pattern(7).make(from as u64, to - from);
            assert_eq!(part, whole[from..to]);
            assert_eq!(Pattern(7).first_difference(from as u64, &part), None);
        }
        let mut wrong = whole.clone();
        wrong[42] ^= 1;
        assert_eq!(Pattern(7).first_difference(0, &wrong), Some(42));
        assert_ne!(Pattern(8).make(0, 100), whole);
    }
}
