//! The way from a worker to whoever reads the capture: records of any length in a ring of octets.
//!
//! One thread writes and one reads; neither waits for the other (`rtrb`). A record that does not fit is lost and
//! counted, and the next that does tells how many were.

use rtrb::{Consumer, Producer, RingBuffer};

use super::{Octets, Record, record::HEADER};

/// The worker's end.
#[derive(Debug)]
pub(super) struct Writer {
    producer: Producer<u8>,
    /// Records lost since the last that was not.
    lost: u32,
}

/// The other end.
#[derive(Debug)]
pub struct Reader {
    consumer: Consumer<u8>,
    /// A record that was looked at and is still to be taken.
    next: Option<(Record, usize)>,
}

/// A ring of `octets`, all of them touched once: the worker is to meet no page fault.
pub(super) fn ring(octets: usize) -> (Writer, Reader) {
    let (mut producer, mut consumer) = RingBuffer::new(octets);
    let mut page = [0; 4096];
    let mut left = octets;
    while left > 0 {
        let piece = left.min(page.len());
        // It fits, for the ring is empty.
        let _ = producer.push_entire_slice(&page[..piece]);
        let _ = consumer.pop_entire_slice(&mut page[..piece]);
        left -= piece;
    }
    (Writer { producer, lost: 0 }, Reader { consumer, next: None })
}

impl Writer {
    /// Writes a record with the first `captured` octets of its frame. False: there was no room for it.
    pub(super) fn push(&mut self, record: &Record, octets: Octets<'_>, captured: usize) -> bool {
        let octets = octets.first(captured);
        if self.producer.slots() < HEADER + octets.len() {
            self.lost = self.lost.saturating_add(1);
            return false;
        }
        let header = Record { lost: std::mem::take(&mut self.lost), ..*record }.to_bytes(octets.len());
        for part in [&header[..], octets.head, octets.rest] {
            // There is room for all of it, and nobody else writes.
            let _ = self.producer.push_entire_slice(part);
        }
        true
    }
}

impl Reader {
    /// When the next record was written, if there is one.
    pub fn peek(&mut self) -> Option<u64> {
        if self.next.is_none() && self.consumer.slots() >= HEADER {
            let mut header = [0; HEADER];
            self.consumer.pop_entire_slice(&mut header).ok()?;
            self.next = Some(Record::from_bytes(&header));
        }
        let (record, captured) = self.next.as_ref()?;
        // The octets are written after the header.
        (self.consumer.slots() >= *captured).then_some(record.at)
    }

    /// Takes the next record and puts its frame's octets, as far as they were captured, in the place of what is in
    /// `octets`.
    pub fn take(&mut self, octets: &mut Vec<u8>) -> Option<Record> {
        self.peek()?;
        let (record, captured) = self.next.take()?;
        octets.resize(captured, 0);
        self.consumer.pop_entire_slice(octets).ok()?;
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
        assert!(writer.push(&record(1), Octets::new(&frame), 20));
        assert!(writer.push(&record(2), Octets { head: &frame[..12], rest: &frame[12..] }, 10));
        assert!(!writer.push(&record(3), Octets::new(&frame), 1));
        assert!(!writer.push(&record(4), Octets::new(&frame), 1));
        let mut octets = Vec::new();
        assert_eq!(reader.take(&mut octets).map(|record| (record.at, record.lost)), Some((1, 0)));
        assert_eq!(octets, frame);
        assert!(writer.push(&record(5), Octets::new(&frame), 20), "there is room again");
        assert_eq!(reader.take(&mut octets).map(|record| (record.at, record.lost)), Some((2, 0)));
        assert_eq!(octets, frame[..10]);
        assert_eq!(reader.peek(), Some(5));
        assert_eq!(reader.take(&mut octets).map(|record| (record.at, record.lost)), Some((5, 2)));
        assert_eq!(reader.take(&mut octets), None);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "two threads are what it is about")]
    fn two_threads_agree_on_every_record_or_its_loss() {
        const RECORDS: u64 = 100_000;
        let (mut writer, mut reader) = ring(4096);
        let frame: Vec<u8> = (0..=255).collect();
        let sender = std::thread::spawn(move || {
            (0..RECORDS)
                .filter(|at| writer.push(&record(*at), Octets::new(&frame), (at % 256) as usize))
                .count()
        });
        let (mut taken, mut lost, mut octets) = (0, 0, Vec::new());
        loop {
            let ended = sender.is_finished();
            while let Some(record) = reader.take(&mut octets) {
                lost += u64::from(record.lost);
                assert_eq!(record.at, taken + lost);
                assert!(octets.iter().enumerate().all(|(place, octet)| usize::from(*octet) == place));
                assert_eq!(octets.len() as u64, record.at % 256);
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
