//! The copy: everything kept a second time, in a form so simple that nothing in it can mislead its reader.
//!
//! The file `store.copy` has the form of [`lines`]. A change is appended, and the file is written anew when it has grown
//! long. Each way of writing ends with the data on the disk.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use super::{
    content::{Change, Content},
    file,
    lines::{self, Lines},
};

/// What it is called in the folder.
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
    /// Which file it is.
    identity: (u64, u64),
}

/// What the copy says; `None`: there is none.
///
/// # Errors
/// It is there, and this process may not read it.
pub(super) fn read(folder: &Path) -> io::Result<Option<Lines>> {
    let path = folder.join(NAME);
    let bytes = match file::open(&path) {
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
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).open(folder.join(NAME))?;
        let len = lines::read(&file::read(&mut file)?).len as u64;
        Self::begin(file, len)
    }

    /// Begins one, or writes it anew; a file that is there already is moved to `aside`, or replaced.
    pub(super) fn write(
        folder: &Path,
        aside: Option<&str>,
        id: u64,
        revision: u64,
        content: &Content,
    ) -> io::Result<Self> {
        let text = lines::of_content(id, revision, content);
        let file = file::replace(folder, NAME, aside, |path| {
            fs::write(path, &text)?;
            OpenOptions::new().write(true).open(path)
        })?;
        Self::begin(file, text.len() as u64)
    }

    fn begin(file: File, len: u64) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { file, len, begun: len, identity: (metadata.dev(), metadata.ino()) })
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

    /// Whether it is still the one in the folder.
    pub(super) fn is_in(&self, folder: &Path) -> bool {
        file::identity(&folder.join(NAME)).is_some_and(|identity| identity == self.identity)
    }

    /// Whether it has grown long.
    pub(super) fn is_long(&self) -> bool {
        let (bytes, factor) = LONG;
        self.len > bytes && self.len > factor * self.begun
    }
}
