//! The thread of one worker: waits for frames, gives turns, adopts plans.

use std::{
    fmt, io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};

use super::{
    OnFault, WorkerCounters,
    mailbox::{Mailbox, Message},
    poll::BusyPoll,
};
use crate::{
    addr::Timestamp,
    batch::BATCH,
    engine::{Engine, Turn},
    plan::{Plan, Receiver},
};

/// Number of ready devices fetched at once.
const READY: usize = 64;

/// Number of turns in which a device signals an error but `recv` returns neither frames nor an error, after
/// which it is given up: it would keep the worker awake in vain.
const EMPTY_ERRORS: u32 = 64;

/// The epoll token of the mailbox; no receiver has it.
const MAILBOX: u64 = u64::MAX;

/// The callback, printable.
struct OnFaultOf(OnFault);

impl fmt::Debug for OnFaultOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnFault")
    }
}

/// A receiver that this worker reads, and its recent behaviour.
#[derive(Debug)]
struct Source {
    receiver: Receiver,
    /// Frames to request in its next turn.
    quantum: usize,
    empty_errors: u32,
}

#[derive(Debug)]
pub(super) struct Worker {
    number: usize,
    engine: Engine,
    mailbox: Arc<Mailbox>,
    counters: Arc<WorkerCounters>,
    on_fault: OnFaultOf,
    epoll: OwnedFd,
    poll: BusyPoll,
    /// Sorted by key.
    sources: Vec<Source>,
    start: Instant,
}

impl Worker {
    pub(super) fn new(
        number: usize,
        plan: Arc<Plan>,
        mailbox: Arc<Mailbox>,
        counters: Arc<WorkerCounters>,
        on_fault: OnFault,
        start: Instant,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, mailbox.readiness(), epoll::EventData::new_u64(MAILBOX), epoll::EventFlags::IN)?;
        let engine = Engine::new(number, plan);
        Ok(Self {
            number,
            engine,
            mailbox,
            counters,
            on_fault: OnFaultOf(on_fault),
            epoll,
            poll: BusyPoll::default(),
            sources: Vec::new(),
            start,
        })
    }

    pub(super) fn run(mut self) {
        let mut events = [const {
            epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }
        }; READY];
        let mut idle = Instant::now();
        loop {
            for message in self.mailbox.fetch() {
                match message {
                    Message::Adopt(plan, done) => {
                        self.adopt(plan);
                        idle = Instant::now();
                        // Control may have given up waiting.
                        let _ = done.send(());
                    }
                    Message::Storm(port, answer) => {
                        let _ = answer.send(self.engine.storm(port));
                    }
                    Message::Turn(receiver) => {
                        let now = timestamp(self.start.elapsed());
                        // It has no more than a batch, and cannot fail.
                        let _ = self.engine.turn(&receiver, BATCH, now);
                    }
                    Message::Stop => return,
                }
            }
            let ready = if self.engine.is_spreading() {
                // There is something to do; who is ready goes first.
                epoll::wait(&self.epoll, &mut events, Some(&Timespec::default()))
            } else {
                self.poll.wait(&self.epoll, &mut events, idle)
            };
            let ready = match ready {
                Ok(ready) => ready,
                Err(Errno::INTR) => continue,
                Err(error) => {
                    tracing::error!(worker = self.number, %error, "cannot wait for frames: the worker stops");
                    return;
                }
            };
            self.counters.wakeups.add(1);
            // The end of a turn is the start of the next one, or of the wait: one clock reading for each.
            idle = Instant::now();
            let now = timestamp(idle.duration_since(self.start));
            for event in &events[..ready] {
                let (flags, key) = (event.flags, event.data.u64());
                if key == MAILBOX {
                    self.mailbox.quiet();
                } else {
                    self.turn(key, flags, now);
                }
                self.count_busy(&mut idle);
                // Control waits for at most one turn; receivers that were not served are still ready.
                if self.mailbox.is_pending() {
                    break;
                }
            }
            if self.engine.is_spreading() {
                self.engine.spread(timestamp(idle.duration_since(self.start)));
                self.count_busy(&mut idle);
            }
        }
    }

    /// Counts the time since `idle`, the end of the previous turn, which is now.
    fn count_busy(&self, idle: &mut Instant) {
        let began = std::mem::replace(idle, Instant::now());
        let busy = idle.duration_since(began).as_nanos();
        self.counters.busy.record(u64::try_from(busy).unwrap_or(u64::MAX));
    }

    /// Gives one ready receiver its turn.
    fn turn(&mut self, key: u64, flags: epoll::EventFlags, now: Timestamp) {
        let Ok(index) = self.sources.binary_search_by_key(&key, |source| source.receiver.key) else { return };
        let source = &mut self.sources[index];
        let result = self.engine.turn(&source.receiver, source.quantum, now);
        match result {
            Ok(Turn { frames: 0, .. })
                if flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP) =>
            {
                source.empty_errors += 1;
                if source.empty_errors > EMPTY_ERRORS {
                    self.give_up(index, &io::Error::from(Errno::IO));
                }
            }
            Ok(Turn { frames, more }) => {
                source.empty_errors = 0;
                // A receiver with few frames is asked for one at a time, which saves a second read; a busy
                // one gets larger batches.
                source.quantum = if more { (source.quantum * 2).min(BATCH) } else { frames.clamp(1, BATCH) };
                if frames > 0 {
                    self.counters.turns.add(1);
                    self.counters.frames.add(frames as u64);
                    self.counters.batches.record(frames as u64);
                }
            }
            Err(error) => self.give_up(index, &error),
        }
    }

    /// Stops waiting for a failed receiver, and notifies control.
    fn give_up(&mut self, index: usize, error: &io::Error) {
        let Source { receiver, .. } = self.sources.remove(index);
        self.forget(&receiver);
        if let Some(port) = self.engine.plan().port(receiver.port) {
            port.fail(error);
        }
        (self.on_fault.0)();
    }

    fn adopt(&mut self, plan: Arc<Plan>) {
        let mut old = std::mem::take(&mut self.sources);
        let known = |sources: &[Source], key| {
            sources.binary_search_by_key(&key, |source: &Source| source.receiver.key)
        };
        let mine = plan.receivers.iter().filter(|receiver| receiver.worker == self.number);
        let mut receivers: Vec<&Receiver> = mine.collect();
        receivers.sort_by_key(|receiver| receiver.key);
        for source in &old {
            if receivers.binary_search_by_key(&source.receiver.key, |receiver| receiver.key).is_err() {
                self.forget(&source.receiver);
            }
        }
        self.engine.adopt(Arc::clone(&plan));
        self.poll.limit(plan.busy_poll);
        for receiver in receivers {
            if let Ok(index) = known(&old, receiver.key) {
                self.sources.push(Source { receiver: receiver.clone(), ..old.remove(index) });
                continue;
            }
            let failed = plan.port(receiver.port).is_some_and(|port| port.fault().is_some());
            if !failed && self.wait_for(receiver) {
                self.sources.push(Source { receiver: receiver.clone(), quantum: 1, empty_errors: 0 });
            }
        }
    }

    fn wait_for(&self, receiver: &Receiver) -> bool {
        let Some(fd) = receiver.device.readiness() else { return false };
        let data = epoll::EventData::new_u64(receiver.key);
        match epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN) {
            Ok(()) => true,
            Err(error) => {
                if let Some(port) = self.engine.plan().port(receiver.port) {
                    port.fail(&error.into());
                }
                (self.on_fault.0)();
                false
            }
        }
    }

    fn forget(&self, receiver: &Receiver) {
        if let Some(fd) = receiver.device.readiness() {
            // It fails only if the descriptor is not registered, which is the desired state.
            let _ = epoll::delete(&self.epoll, fd);
        }
    }
}

pub(super) fn timestamp(since_start: Duration) -> Timestamp {
    Timestamp::from_millis(u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX))
}
