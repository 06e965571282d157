//! Arrays that this process and the programs in the kernel share.

#![expect(unsafe_code, reason = "mmap")]

use std::{io, marker::PhantomData, ops::Deref, os::fd::BorrowedFd, ptr::NonNull, slice};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The elements of an array map, as long as this lives. Both sides may write at any time, so `T` consists of atomics.
#[derive(Debug)]
pub(crate) struct Shared<T> {
    start: NonNull<T>,
    len: usize,
    kind: PhantomData<[T]>,
}

// SAFETY: it is a slice of `T`, which is shared with the kernel anyway.
unsafe impl<T: Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Maps the `len` elements of `array`, a map that allows it (`BPF_F_MMAPABLE`).
    pub(crate) fn map(array: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the address; the map is at least as long (it refuses more), and zero is a value of atomics.
        let start =
            unsafe { mmap(std::ptr::null_mut(), len * size_of::<T>(), flags, MapFlags::SHARED, array, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len, kind: PhantomData })
    }
}

impl<T> Deref for Shared<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements are mapped at `start` until this is dropped, page-aligned, and never borrowed mutably.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`; no reference outlives `self`.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len * size_of::<T>()) };
    }
}
