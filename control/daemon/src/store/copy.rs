//! The copy: everything kept a second time, in a form so simple that nothing in it can mislead its reader.
//!
//! It has the form of [`lines`]. A change is appended, and the file is written anew when it has grown long. Each way of
//! writing ends with the data on the disk. One lies beside the database. Another lies where the API's socket does, in memory as a
//! rule: what it says lives as long as the interfaces that the kernel keeps for us, so with a disk that is lost as a whole, what
//! runs is still known.

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

/// What it is called beside the database.
pub(super) const NAME: &str = "store.copy";

/// Bytes that it may have before it is written anew, and by what factor it may grow.
const LONG: (u64, u64) = (64 * 1024, 4);

/// The copy, open to be written.
#[derive(Debug)]
pub(super) struct Copy {
    file: File,
    /// Bytes that count: what is behind them was begun and not finished.
    len: u64,
    /// Bytes when it was written anew last.
    begun: u64,
    path: PathBuf,
    /// Which file it is.
    identity: (u64, u64),
}

/// What the copy says; `None`: there is none.
///
/// # Errors
/// It is there, and this process may not read it.
pub(super) fn read(path: &Path) -> io::Result<Option<Lines>> {
    let bytes = match file::open(path) {
        Ok(Some(mut file)) => file::read(&mut file),
        Ok(None) => return Ok(None),
        Err(error) => Err(error),
    };
    match bytes {
        Ok(bytes) => Ok(Some(lines::read(&bytes))),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        // A disk that cannot be read, a folder in its place.
        Err(_) => Ok(Some(Lines { damaged: 1, ..Lines::default() })),
    }
}

impl Copy {
    /// Goes on with the copy that is there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let len = lines::read(&file::read(&mut file)?).len as u64;
        Self::begin(path, file, len)
    }

    /// Begins one, or writes it anew; a file that is there already is moved to `aside`, or replaced.
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

    /// Appends a change. On the disk when this returns; on failure as it was.
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

    /// Bytes that count.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Takes back what was appended since it had `len` bytes.
    pub(super) fn take_back(&mut self, len: u64) {
        self.len = len;
        // If it fails, it is done before the next change is appended.
        let _ = self.file.set_len(len).and_then(|()| self.file.sync_data());
    }

    /// Whether the file is still where it was.
    pub(super) fn is_there(&self) -> bool {
        file::identity(&self.path).is_some_and(|identity| identity == self.identity)
    }

    /// Whether it has grown long.
    pub(super) fn is_long(&self) -> bool {
        let (bytes, factor) = LONG;
        self.len > bytes && self.len > factor * self.begun
    }
}
