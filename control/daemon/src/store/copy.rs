//! The copy: all rows a second time, in a form so simple that damage cannot mislead its reader.
//!
//! It has the form of [`lines`]. A change is appended, and the file is rewritten when it has grown long; both return when the
//! data is on the disk. One copy is beside the database. Another is beside the API's socket, normally in memory: it lives as
//! long as the interfaces that the kernel keeps for us, so running endpoints are known even if the disk is lost as a whole.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::{
    content::{Change, Content},
    file,
    lines::{self, Lines},
};

/// Its name beside the database.
pub(super) const NAME: &str = "store.copy";

/// Length in bytes up to which it is not rewritten, and the factor by which it may grow.
const LONG: (u64, u64) = (64 * 1024, 4);

/// The copy, open for writing.
#[derive(Debug)]
pub(super) struct Copy {
    file: File,
    /// Length in bytes up to the last complete change; what follows was interrupted.
    len: u64,
    /// Length in bytes when it was last rewritten.
    begun: u64,
    path: PathBuf,
    /// Identity of its file.
    identity: (u64, u64),
}

/// Reads the copy; `None` if there is none.
///
/// # Errors
/// It exists, but this process may not read it.
pub(super) fn read(path: &Path) -> io::Result<Option<Lines>> {
    let bytes = match file::open(path) {
        Ok(Some(mut file)) => file::read(&mut file),
        Ok(None) => return Ok(None),
        Err(error) => Err(error),
    };
    match bytes {
        Ok(bytes) => Ok(Some(lines::read(&bytes))),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        // An unreadable disk, or a folder in its place.
        Err(_) => Ok(Some(Lines { damaged: 1, ..Lines::default() })),
    }
}

impl Copy {
    /// Continues with an existing copy.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let len = lines::read(&file::read(&mut file)?).len as u64;
        Self::begin(path, file, len)
    }

    /// Creates a copy or rewrites it. An existing file is moved to `aside`, or replaced.
    pub(super) fn write(
        path: &Path,
        aside: Option<&str>,
        id: u64,
        revision: u64,
        content: &Content,
    ) -> io::Result<Self> {
        let text = lines::of_content(id, revision, content);
        let file = file::replace(path, aside, |path| {
            fs::write(path, &text)?;
            OpenOptions::new().write(true).open(path)
        })?;
        Self::begin(path, file, text.len() as u64)
    }

    fn begin(path: &Path, file: File, len: u64) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let identity = (metadata.dev(), metadata.ino());
        Ok(Self { file, len, begun: len, path: path.to_owned(), identity })
    }

    /// Appends a change. It is on the disk when this returns; on failure the copy is unchanged.
    pub(super) fn append(&mut self, revision: u64, changes: &[Change]) -> io::Result<()> {
        let line = lines::change(revision, changes);
        if self.file.metadata()?.len() != self.len {
            self.file.set_len(self.len)?;
        }
        let written = self.file.write_all_at(line.as_bytes(), self.len).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.len += line.len() as u64,
            Err(_) => self.take_back(self.len),
        }
        written
    }

    /// Length in bytes up to the last complete change.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Reverts what was appended since it had `len` bytes.
    pub(super) fn take_back(&mut self, len: u64) {
        self.len = len;
        // If this fails, it is repeated before the next change is appended.
        let _ = self.file.set_len(len).and_then(|()| self.file.sync_data());
    }

    /// Whether the file is still in its place.
    pub(super) fn is_there(&self) -> bool {
        file::identity(&self.path).is_some_and(|identity| identity == self.identity)
    }

    /// Whether it should be rewritten.
    pub(super) fn is_long(&self) -> bool {
        let (bytes, factor) = LONG;
        self.len > bytes && self.len > factor * self.begun
    }
}
