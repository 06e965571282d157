//! The bytes of a captured frame.

/// The bytes of a frame, which may be in two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameBytes<'a> {
    /// The first part.
    pub head: &'a [u8],
    /// The second part.
    pub rest: &'a [u8],
}

impl<'a> FrameBytes<'a> {
    /// A frame in one part.
    pub fn new(frame: &'a [u8]) -> Self {
        Self { head: frame, rest: &[] }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.head.len() + self.rest.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first `count` bytes, or all.
    pub(super) fn first(self, count: usize) -> Self {
        let head = &self.head[..count.min(self.head.len())];
        Self { head, rest: &self.rest[..(count - head.len()).min(self.rest.len())] }
    }

    /// The `N` bytes at `at`, if present.
    #[inline]
    pub(super) fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        if let Some(bytes) = self.head.get(at..).and_then(<[u8]>::first_chunk) {
            return Some(*bytes);
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
