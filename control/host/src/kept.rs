//! Memory that outlives the process: numbers in a file, which the next one finds again.

#![expect(unsafe_code, reason = "mmap")]

use std::{
    fs::File,
    io,
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
    ptr::{self, NonNull},
    slice,
    sync::atomic::AtomicU64,
};

use rustix::{
    fs::fstatvfs,
    mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap},
};

/// Unit of a file's blocks in bytes, whatever those of its file system are (stat(3type)).
const BLOCK: u64 = 512;

/// Numbers in memory that takes room as it is used.
#[derive(Debug)]
pub struct Kept {
    start: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: it is a slice of atomics, which others may have mapped as well.
unsafe impl Send for Kept {}
// SAFETY: as above.
unsafe impl Sync for Kept {}

impl Kept {
    /// The `len` numbers in the file at `path`, which is made if it is not there or has another length; new ones are zero. The
    /// file belongs to this user, and nothing else writes it.
    ///
    /// # Errors
    /// It cannot be made or mapped, or what it has yet to take is more than half of what the file system has free: a file that
    /// cannot grow ends the process that writes to its memory.
    pub fn open(path: &Path, len: usize) -> io::Result<Self> {
        let bytes = u64::try_from(len * size_of::<AtomicU64>()).map_err(io::Error::other)?;
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let (before, room) = (file.metadata()?, fstatvfs(&file)?);
        let is_new = before.len() != bytes;
        // An earlier one has holes as well: a process that was ended by a full file system must not end again at its start.
        let taken = if is_new { 0 } else { before.blocks().saturating_mul(BLOCK) };
        if bytes.saturating_sub(taken) > room.f_bavail.saturating_mul(room.f_frsize) / 2 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if is_new {
            file.set_len(0)?;
            file.set_len(bytes)?;
        }
        let (size, flags) = (len * size_of::<AtomicU64>(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: the kernel chooses the address; the file is as long, and any bits are a value of an atomic number.
        let start = unsafe { mmap(ptr::null_mut(), size, flags, MapFlags::SHARED, file.as_fd(), 0) }?;
        Self::of(start.cast(), len)
    }

    /// `len` numbers, all zero, that end with the process.
    ///
    /// # Errors
    /// There is no address space.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        let (size, flags) = (len * size_of::<AtomicU64>(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: the kernel chooses the address, and zero is a value of an atomic number.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), size, flags, MapFlags::PRIVATE) }?;
        Self::of(start.cast(), len)
    }

    fn of(start: *mut AtomicU64, len: usize) -> io::Result<Self> {
        Ok(Self { start: NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?, len })
    }
}

impl AsRef<[AtomicU64]> for Kept {
    fn as_ref(&self) -> &[AtomicU64] {
        // SAFETY: `len` numbers are mapped at `start` until this is dropped, page-aligned, and never borrowed mutably.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // SAFETY: mapped by one of the constructors; no reference outlives `self`.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len * size_of::<AtomicU64>()) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn numbers_are_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers");
        let kept = Kept::open(&path, 1_000).unwrap();
        assert!(kept.as_ref().iter().all(|number| number.load(Relaxed) == 0));
        kept.as_ref()[999].store(7, Relaxed);
        drop(kept);
        assert_eq!(Kept::open(&path, 1_000).unwrap().as_ref()[999].load(Relaxed), 7);
        let longer = Kept::open(&path, 2_000).unwrap();
        assert!(longer.as_ref().iter().all(|number| number.load(Relaxed) == 0), "of another length: new");
        assert_eq!(Kept::open(&path, 1 << 50).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(Kept::anonymous(10).unwrap().as_ref().len(), 10);
    }
}
