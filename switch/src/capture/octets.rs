//! The octets of a frame where it is captured.

/// A frame that may lie in two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Octets<'a> {
    /// The beginning.
    pub head: &'a [u8],
    /// The rest.
    pub rest: &'a [u8],
}

impl<'a> Octets<'a> {
    /// A frame in one part.
    pub fn new(frame: &'a [u8]) -> Self {
        Self { head: frame, rest: &[] }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.head.len() + self.rest.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first `count` of them, or all.
    pub(super) fn first(self, count: usize) -> Self {
        let head = &self.head[..count.min(self.head.len())];
        Self { head, rest: &self.rest[..(count - head.len()).min(self.rest.len())] }
    }

    /// `N` octets at `at`, if there are as many.
    #[inline]
    pub(super) fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        if let Some(octets) = self.head.get(at..).and_then(<[u8]>::first_chunk) {
            return Some(*octets);
        }
        if let Some(behind) = at.checked_sub(self.head.len()) {
            return self.rest.get(behind..)?.first_chunk().copied();
        }
        if at.checked_add(N)? > self.len() {
            return None;
        }
        let from_head = self.head.len() - at;
        Some(std::array::from_fn(|index| match index.checked_sub(from_head) {
            None => self.head[at + index],
            Some(behind) => self.rest[behind],
        }))
    }
}
