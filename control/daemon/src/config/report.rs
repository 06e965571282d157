//! Errors of a file, with their positions.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
};

/// One error of a configuration file: `net.toml:12: port[2].vlan: 4095 is reserved: use 1 to 4094`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as given by the caller.
    pub file: PathBuf,
    /// The line, from 1; `None` for an error of the whole file.
    pub line: Option<usize>,
    /// The key, list items counted from 0; empty if the text is not TOML.
    pub path: String,
    /// What is wrong and how to correct it.
    pub what: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if !self.path.is_empty() {
            write!(f, " {}:", self.path)?;
        }
        write!(f, " {}", self.what)
    }
}

impl std::error::Error for ConfigError {}

/// All errors of a configuration file, in the order of lines; displayed one per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects errors while a text is read, and knows the position of each key.
#[derive(Debug)]
pub(super) struct Report<'s> {
    source: &'s str,
    /// Byte offset of each value that was read.
    offsets: HashMap<String, usize>,
    /// (path, byte offset, what)
    faults: Vec<(String, usize, String)>,
}

impl<'s> Report<'s> {
    pub(super) fn new(source: &'s str) -> Self {
        Self { source, offsets: HashMap::new(), faults: Vec::new() }
    }

    /// Notes the position of the value `path`.
    pub(super) fn note(&mut self, path: String, offset: usize) {
        self.offsets.insert(path, offset);
    }

    /// Reports a value. Only its first fault is kept: further ones may follow from it.
    pub(super) fn fault(&mut self, path: String, what: impl Into<String>) {
        let offset = self.offset(&path);
        self.fault_at(path, offset, what);
    }

    /// Like [`Report::fault`], at a known offset.
    pub(super) fn fault_at(&mut self, path: String, offset: usize, what: impl Into<String>) {
        if path.is_empty() || !self.faults.iter().any(|(known, ..)| *known == path) {
            self.faults.push((path, offset, what.into()));
        }
    }

    /// Whether a fault of the value itself, of one around it or of one within it was reported.
    pub(super) fn is_faulty(&self, path: &str) -> bool {
        self.faults.iter().any(|(known, ..)| *known == path || within(known, path) || within(path, known))
    }

    /// The value, or the errors found.
    pub(super) fn finish<T>(mut self, file: &Path, value: T) -> Result<T, ConfigErrors> {
        if self.faults.is_empty() {
            return Ok(value);
        }
        self.faults.sort_by_key(|(_, offset, _)| *offset);
        let line =
            |offset| 1 + self.source.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count();
        let error =
            |(path, offset, what)| ConfigError { file: file.into(), line: Some(line(offset)), path, what };
        Err(ConfigErrors(self.faults.into_iter().map(error).collect()))
    }

    /// The offset of `path`; for a missing key, that of the table around it.
    fn offset(&self, path: &str) -> usize {
        let mut path = path;
        loop {
            if let Some(offset) = self.offsets.get(path) {
                return *offset;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return 0,
            }
        }
    }
}

fn within(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with(['.', '[']))
}
