//! The store as lines of text: the form of its copy, and of the output of the process that reads the database.
//!
//! ```text
//! 9b1f4c02d3a86e57 {"store":3,"id":811212,"revision":17,"rows":2}
//! 5d0e77c1ab90ff13 {"revision":17,"changes":[["networks","blue",{"name":"blue"}]]}
//! 0c41d6e28f5b7a94 {"revision":17,"changes":[["ports","web",{"name":"web", …}]]}
//! e2a95b3806c7d41f {"revision":18,"changes":[["ports","web",null]]}
//! ```
//! The first line announces the rows of one revision; after these comes one line per further change. Each line begins with the
//! first 16 hexadecimal digits of its SHA-256, so every line can be verified by itself: damage to one does not affect the
//! others. No input makes the reader panic, and it allocates no more than the input's length.

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};

use super::content::{Change, Content, Table};

/// Length of the checksum and the space after it, in bytes.
const CHECKSUM: usize = 17;

/// The first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// Version of the store's format.
    pub(super) store: u64,
    /// Identity of the store; `None` before version 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<u64>,
    /// Number of changes made.
    pub(super) revision: u64,
    /// Number of lines of this revision that follow.
    pub(super) rows: usize,
}

/// Any other line: the changes of a revision.
#[derive(Debug, Serialize, Deserialize)]
struct Entry<K> {
    revision: u64,
    changes: Vec<(Table, K, Option<Box<RawValue>>)>,
}

/// The content of lines, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    pub(super) header: Option<Header>,
    /// In the order of the lines.
    pub(super) entries: Vec<(u64, Vec<Change>)>,
    /// Number of invalid lines, except an unterminated last one.
    pub(super) damaged: usize,
    /// Whether the last line is unterminated: it was being written, or was cut off.
    pub(super) is_torn: bool,
    /// Length of all terminated lines in bytes.
    pub(super) len: usize,
}

/// All rows at one revision, as lines.
pub(super) fn of_content(id: u64, revision: u64, content: &Content) -> String {
    let rows = content.changes();
    let mut text = header(Header { store: super::VERSION, id: Some(id), revision, rows: rows.len() });
    rows.for_each(|row| text.push_str(&change(revision, &[row])));
    text
}

pub(super) fn header(header: Header) -> String {
    line(&header)
}

/// One change as a line, which is valid as a whole or not at all.
pub(super) fn change(revision: u64, changes: &[Change]) -> String {
    // Text that is not JSON, which the store never writes, is written as a string: its reader will find that it is not a
    // record.
    let raw = |text: &String| RawValue::from_string(text.clone()).or_else(|_| to_raw_value(text)).ok();
    let changes = changes.iter().map(|it| (it.table, &*it.key, it.text.as_ref().and_then(raw)));
    line(&Entry { revision, changes: changes.collect() })
}

fn line(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).expect("numbers, text and JSON have a form in JSON");
    format!("{} {json}\n", checksum(json.as_bytes()))
}

fn checksum(json: &[u8]) -> String {
    Sha256::digest(json)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads lines of any content.
pub(super) fn read(bytes: &[u8]) -> Lines {
    let mut lines = Lines::default();
    let ended = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    (lines.len, lines.is_torn) = (ended, ended < bytes.len());
    let Some(text) = bytes[..ended].strip_suffix(b"\n") else { return lines };
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if index == 0 {
            lines.header = verified(line).and_then(|json| serde_json::from_str(json).ok());
            if lines.header.is_some() {
                continue;
            }
        }
        match verified(line).and_then(entry) {
            Some(entry) => lines.entries.push(entry),
            None => lines.damaged += 1,
        }
    }
    lines
}

/// The JSON of a valid line.
fn verified(line: &[u8]) -> Option<&str> {
    let (sum, json) = line.split_at_checked(CHECKSUM)?;
    let is_right = sum.strip_suffix(b" ").is_some_and(|sum| sum == checksum(json).as_bytes());
    std::str::from_utf8(json).ok().filter(|_| is_right)
}

fn entry(json: &str) -> Option<(u64, Vec<Change>)> {
    let Entry::<String> { revision, changes } = serde_json::from_str(json).ok()?;
    let change = |(table, key, text): (Table, String, Option<Box<RawValue>>)| Change {
        table,
        key,
        text: text.map(|text| Box::<str>::from(text).into_string()),
    };
    Some((revision, changes.into_iter().map(change).collect()))
}

impl Lines {
    /// The last revision that has a line.
    pub(super) fn revision(&self) -> Option<u64> {
        let last = self.entries.iter().map(|(revision, _)| *revision).max();
        last.max(self.header.map(|header| header.revision))
    }

    /// Whether all lines are present, up to the last one.
    pub(super) fn is_complete(&self) -> bool {
        let Some(header) = self.header else { return false };
        let is_row = |(revision, _): &&(u64, Vec<Change>)| *revision == header.revision;
        let rows = self.entries.iter().take_while(is_row).count();
        let mut later = self.entries[rows..].iter().map(|(revision, _)| *revision).zip(header.revision + 1..);
        self.damaged == 0 && rows == header.rows && later.all(|(found, expected)| found == expected)
    }

    /// The resulting rows.
    pub(super) fn content(&self) -> Content {
        let mut content = Content::default();
        self.entries.iter().for_each(|(_, changes)| content.apply(changes.iter().cloned()));
        content
    }

    /// The changes after `revision`, if there is a line for each.
    pub(super) fn since(&self, revision: u64) -> Option<Vec<Change>> {
        let is_row = |found: u64| self.header.is_some_and(|header| found <= header.revision);
        let later = self.entries.iter().filter(|(found, _)| *found > revision);
        let mut expected = revision;
        let mut all = Vec::new();
        for (found, changes) in later {
            expected += 1;
            if *found != expected || is_row(*found) {
                return None;
            }
            all.extend(changes.iter().cloned());
        }
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, text: &str) -> Change {
        Change { table: Table::Networks, key: key.to_owned(), text: Some(text.to_owned()) }
    }

    fn example() -> (String, Content) {
        let mut content = Content::default();
        content.apply([put("blue", r#"{"name":"blue"}"#), put("red", r#"{"b":1,"a":2.50}"#)]);
        let mut text = of_content(7, 17, &content);
        let later =
            [vec![put("green", "[]")], vec![Change { text: None, ..put("red", "") }, put("blue", "1")]];
        for (changes, revision) in later.into_iter().zip(18..) {
            text.push_str(&change(revision, &changes));
            content.apply(changes);
        }
        (text, content)
    }

    #[test]
    fn what_was_written_is_read() {
        let (text, content) = example();
        assert_eq!(
            text.lines().next().unwrap(),
            "bd57c216661a80da {\"store\":3,\"id\":7,\"revision\":17,\"rows\":2}",
            "what is on disks already must be read for ever"
        );
        let lines = read(text.as_bytes());
        assert_eq!(lines.content(), content);
        assert_eq!((lines.revision(), lines.len, lines.damaged), (Some(19), text.len(), 0));
        assert!(lines.is_complete() && !lines.is_torn);
        assert_eq!(lines.since(19), Some(vec![]));
        assert_eq!(lines.since(18).unwrap().len(), 2);
        assert_eq!(lines.since(17).unwrap().len(), 3);
        assert_eq!(lines.since(16), None, "rows are no changes");
    }

    /// Whatever is cut off: what was before it is read, and that the end is missing is seen where it was inside a line.
    #[test]
    fn lines_that_end_early() {
        let (text, _) = example();
        for len in 0..text.len() {
            let lines = read(&text.as_bytes()[..len]);
            let whole = text[..len].matches('\n').count();
            assert_eq!(lines.entries.len() + usize::from(lines.header.is_some()), whole, "{len}");
            assert_eq!(lines.is_torn, len > 0 && text.as_bytes()[len - 1] != b'\n', "{len}");
            assert_eq!(lines.is_complete(), whole >= 3, "{len}");
        }
    }

    #[test]
    fn a_damaged_line_is_seen_and_costs_itself_alone() {
        let (text, _) = example();
        for position in 0..text.len() {
            for flip in [0x01, 0x80, 0x0b] {
                let mut damaged = text.clone().into_bytes();
                damaged[position] ^= flip;
                let lines = read(&damaged);
                let found = lines.entries.len() + usize::from(lines.header.is_some());
                // An end that is gone makes one bad line of two; an end too many makes two of one.
                assert!(found >= 3, "{position}: {found}");
                assert!(!lines.is_complete() || lines.is_torn, "{position}");
            }
        }
    }

    #[test]
    fn anything_else_is_no_store() {
        for bytes in [&b""[..], b"\n", b"\n\n\n", b"{}\n", b"0123456789abcdef {}\n", &[0xff; 300], &[0; 300]]
        {
            let lines = read(bytes);
            assert_eq!(
                (lines.header, lines.entries.len(), lines.is_complete()),
                (None, 0, false),
                "{bytes:?}"
            );
        }
    }
}
