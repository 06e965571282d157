//! What a server has done, for metrics.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::answer::{Transport, Verdict};

/// Upper bounds of the histogram's buckets in microseconds; the last bucket has none.
pub const LATENCIES: [u64; 11] =
    [50, 100, 250, 500, 1_000, 2_500, 10_000, 50_000, 250_000, 1_000_000, 5_000_000];

/// A bucket of the histogram: upper bound in microseconds, and the number of answers up to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// `None` in the last.
    pub up_to_us: Option<u64>,
    /// Answers that took no longer than this.
    pub count: u64,
}

/// Numbers of queries. They only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// By kind of response, in the order of [`Verdict::ALL`].
    verdicts: [AtomicU64; Verdict::ALL.len()],
    datagrams: AtomicU64,
    streams: AtomicU64,
    /// Passed on to other servers.
    pub forwarded: AtomicU64,
    /// Answered by no other server in time.
    pub unanswered: AtomicU64,
    /// Not passed on, because too many waited.
    pub crowded: AtomicU64,
    /// Streams that were closed at once, because there were too many.
    pub shut_out: AtomicU64,
    /// Responses that could not be sent.
    pub unsent: AtomicU64,
    latencies: [AtomicU64; LATENCIES.len() + 1],
    waited_us: AtomicU64,
}

impl Counters {
    pub(super) fn note(&self, verdict: Verdict) {
        self.verdicts[verdict as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn came(&self, transport: Transport) {
        let counter = match transport {
            Transport::Udp => &self.datagrams,
            Transport::Tcp => &self.streams,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn took(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCIES.iter().position(|bound| us <= *bound).unwrap_or(LATENCIES.len());
        self.latencies[bucket].fetch_add(1, Relaxed);
        self.waited_us.fetch_add(us, Relaxed);
    }

    /// Responses of a kind.
    pub fn responses(&self, verdict: Verdict) -> u64 {
        self.verdicts[verdict as usize].load(Relaxed)
    }

    /// Queries by transport.
    pub fn queries(&self, transport: Transport) -> u64 {
        match transport {
            Transport::Udp => self.datagrams.load(Relaxed),
            Transport::Tcp => self.streams.load(Relaxed),
        }
    }

    /// The time from query to response, cumulated, and the sum in microseconds.
    pub fn latency(&self) -> (Vec<Bucket>, u64) {
        let mut count = 0;
        let bounds = LATENCIES.iter().copied().map(Some).chain([None]);
        let buckets = bounds.zip(&self.latencies).map(|(up_to_us, own)| {
            count += own.load(Relaxed);
            Bucket { up_to_us, count }
        });
        (buckets.collect(), self.waited_us.load(Relaxed))
    }
}
