//! The ring from a worker to the reader of a capture: records of variable length in a ring of bytes.
//!
//! One thread writes and one reads; neither waits for the other (`rtrb`). Records that do not fit are lost
//! and counted, and the next record carries their number.

use rtrb::{Consumer, Producer, RingBuffer};

use super::{FrameBytes, Record, record::HEADER};

/// The writing end.
#[derive(Debug)]
pub(super) struct Writer {
    producer: Producer<u8>,
    /// Records lost since the last one written.
    lost: u32,
}

/// The reading end.
#[derive(Debug)]
pub struct Reader {
    consumer: Consumer<u8>,
    /// A record that was peeked at and not taken yet.
    next: Option<(Record, usize)>,
}

/// A ring of `bytes`, all touched once so that the worker causes no page faults.
pub(super) fn ring(bytes: usize) -> (Writer, Reader) {
    let (mut producer, mut consumer) = RingBuffer::new(bytes);
    let mut page = [0; 4096];
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(page.len());
        // It fits because the ring is empty.
        let _ = producer.push_entire_slice(&page[..piece]);
        let _ = consumer.pop_entire_slice(&mut page[..piece]);
        left -= piece;
    }
    (Writer { producer, lost: 0 }, Reader { consumer, next: None })
}

impl Writer {
    /// Writes a record with the first `captured` bytes of its frame. False: the ring is full.
    pub(super) fn push(&mut self, record: &Record, bytes: FrameBytes<'_>, captured: usize) -> bool {
        let bytes = bytes.first(captured);
        if self.producer.slots() < HEADER + bytes.len() {
            self.lost = self.lost.saturating_add(1);
            return false;
        }
        let header = Record { lost: std::mem::take(&mut self.lost), ..*record }.to_bytes(bytes.len());
        for part in [&header[..], bytes.head, bytes.rest] {
            // There is room for all of it, and no other writer.
            let _ = self.producer.push_entire_slice(part);
        }
        true
    }
}

impl Reader {
    /// The time of the next record, if there is one.
    pub fn peek(&mut self) -> Option<u64> {
        if self.next.is_none() && self.consumer.slots() >= HEADER {
            let mut header = [0; HEADER];
            self.consumer.pop_entire_slice(&mut header).ok()?;
            self.next = Some(Record::from_bytes(&header));
        }
        let (record, captured) = self.next.as_ref()?;
        // The bytes are written after the header.
        (self.consumer.slots() >= *captured).then_some(record.at)
    }

    /// Takes the next record, and replaces the content of `bytes` with the captured bytes of its frame.
    pub fn take(&mut self, bytes: &mut Vec<u8>) -> Option<Record> {
        self.peek()?;
        let (record, captured) = self.next.take()?;
        bytes.resize(captured, 0);
        self.consumer.pop_entire_slice(bytes).ok()?;
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(at: u64) -> Record {
        Record { at, ..Record::default() }
    }

    #[test]
    fn what_is_written_is_read_in_order_and_what_does_not_fit_is_counted() {
        let (mut writer, mut reader) = ring(2 * HEADER + 30);
        let frame: Vec<u8> = (0..20).collect();
        assert!(writer.push(&record(1), FrameBytes::new(&frame), 20));
        assert!(writer.push(&record(2), FrameBytes { head: &frame[..12], rest: &frame[12..] }, 10));
        assert!(!writer.push(&record(3), FrameBytes::new(&frame), 1));
        assert!(!writer.push(&record(4), FrameBytes::new(&frame), 1));
        let mut bytes = Vec::new();
        assert_eq!(reader.take(&mut bytes).map(|record| (record.at, record.lost)), Some((1, 0)));
        assert_eq!(bytes, frame);
        assert!(writer.push(&record(5), FrameBytes::new(&frame), 20), "there is room again");
        assert_eq!(reader.take(&mut bytes).map(|record| (record.at, record.lost)), Some((2, 0)));
        assert_eq!(bytes, frame[..10]);
        assert_eq!(reader.peek(), Some(5));
        assert_eq!(reader.take(&mut bytes).map(|record| (record.at, record.lost)), Some((5, 2)));
        assert_eq!(reader.take(&mut bytes), None);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "two threads are what it is about")]
    fn two_threads_agree_on_every_record_or_its_loss() {
        const RECORDS: u64 = 100_000;
        let (mut writer, mut reader) = ring(4096);
        let frame: Vec<u8> = (0..=255).collect();
        let sender = std::thread::spawn(move || {
            (0..RECORDS)
                .filter(|at| writer.push(&record(*at), FrameBytes::new(&frame), (at % 256) as usize))
                .count()
        });
        let (mut taken, mut lost, mut bytes) = (0, 0, Vec::new());
        loop {
            let ended = sender.is_finished();
            while let Some(record) = reader.take(&mut bytes) {
                lost += u64::from(record.lost);
                assert_eq!(record.at, taken + lost);
                assert!(bytes.iter().enumerate().all(|(place, byte)| usize::from(*byte) == place));
                assert_eq!(bytes.len() as u64, record.at % 256);
                taken += 1;
            }
            if ended {
                break;
            }
        }
        assert_eq!(sender.join().unwrap() as u64, taken);
        assert!(taken + lost <= RECORDS);
    }
}
