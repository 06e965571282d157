//! The forwarding threads: waiting for frames, taking turns, adopting plans.
//!
//! A worker waits (`poll.rs`) until one of the devices it receives on has frames, gives each ready one a turn,
//! and looks for a new plan in between. It takes no lock that another may hold for long: control leaves the
//! plan in a mailbox and wakes it.

mod poll;

use std::{
    fmt, io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, epoll, eventfd},
    io::Errno,
};

use poll::BusyPoll;

use crate::{
    addr::{PortId, Timestamp},
    batch::BATCH,
    counters::{Counter, Histogram},
    engine::{Engine, Turn},
    plan::{Plan, Receiver},
    storm::Storm,
};

/// Ready devices fetched at once.
const READY: usize = 64;

/// Turns in which a device reports an error but yields neither frames nor an error to `recv`, after which it is given
/// up: it would keep the worker awake for nothing.
const EMPTY_ERRORS: u32 = 64;

/// The epoll token of the mailbox; no receiver has it.
const MAILBOX: u64 = u64::MAX;

/// What a worker has done since it was started.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Times it was woken, or found more to do without sleeping.
    pub wakeups: Counter,
    /// Turns that received something.
    pub turns: Counter,
    /// Frames received.
    pub frames: Counter,
    /// Frames that each of these turns received: up to 1, 2, 4 … 64, and more.
    pub batches: Histogram<0, 8>,
    /// Nanoseconds that each turn took: up to 2^10 (a microsecond), 2^11 … 2^24 (17 ms), and more. A receiver that had
    /// nothing after all, or a look into the mailbox, is a turn as well, so all together are the time at work.
    pub busy: Histogram<10, 16>,
}

/// The workers of a switch.
#[derive(Debug)]
pub struct Workers {
    handles: Vec<Handle>,
    plan: Arc<Plan>,
    start: Instant,
}

/// What can be read of workers without owning them: their clock, their counters, how far limits are used up.
///
/// Keeps neither the threads nor a plan alive.
#[derive(Clone, Debug)]
pub struct Readings {
    workers: Arc<[Reading]>,
    start: Instant,
}

#[derive(Debug)]
struct Reading {
    mailbox: Arc<Mailbox>,
    counters: Arc<WorkerCounters>,
}

/// Called by a worker when a port has stopped receiving; see [`Port::fault`](crate::plan::Port::fault). Must not wait.
pub type OnFault = Arc<dyn Fn() + Send + Sync>;

#[derive(Debug)]
struct Handle {
    mailbox: Arc<Mailbox>,
    counters: Arc<WorkerCounters>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

/// Where control leaves what a worker is to do next.
#[derive(Debug)]
struct Mailbox {
    wake: OwnedFd,
    pending: AtomicBool,
    messages: Mutex<Vec<Message>>,
}

#[derive(Debug)]
enum Message {
    /// Work by this plan, and say so.
    Adopt(Arc<Plan>, SyncSender<()>),
    /// Tell how far the limits of what a port may flood are used up.
    Storm(PortId, SyncSender<Storm>),
    /// End the thread.
    Stop,
}

impl Workers {
    /// Starts `count` workers with `plan`.
    ///
    /// # Errors
    /// No descriptors or threads are to be had.
    pub fn start(count: usize, plan: Arc<Plan>, on_fault: OnFault) -> io::Result<Self> {
        let mut workers = Self { handles: Vec::new(), plan: Arc::clone(&plan), start: Instant::now() };
        for number in 0..count {
            let handle = workers.spawn(number, OnFaultOf(Arc::clone(&on_fault)))?;
            workers.handles.push(handle);
        }
        workers.adopt(plan);
        Ok(workers)
    }

    fn spawn(&self, number: usize, on_fault: OnFaultOf) -> io::Result<Handle> {
        let mailbox = Arc::new(Mailbox {
            wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            pending: AtomicBool::new(false),
            messages: Mutex::default(),
        });
        let counters = Arc::new(WorkerCounters::default());
        let worker = Worker::new(
            number,
            Arc::clone(&self.plan),
            Arc::clone(&mailbox),
            Arc::clone(&counters),
            on_fault,
            self.start,
        )?;
        let thread =
            std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || worker.run())?;
        Ok(Handle { mailbox, counters, thread: Some(thread) })
    }

    /// Lets all workers work by `plan`. When this returns, all do, and none touches the plan before.
    pub fn adopt(&mut self, plan: Arc<Plan>) {
        let (done, all_done) = sync_channel(self.handles.len());
        for handle in &self.handles {
            handle.mailbox.post(Message::Adopt(Arc::clone(&plan), done.clone()));
        }
        let mut waiting = self.handles.len();
        while waiting > 0 {
            match all_done.recv_timeout(Duration::from_millis(100)) {
                Ok(()) => waiting -= 1,
                // A worker that could not go on will never answer; it has said why.
                Err(_) if self.handles.iter().any(Handle::is_finished) => break,
                Err(_) => {}
            }
        }
        // The last reference to the old plan is ours: devices are closed here, not on a forwarding thread.
        self.plan = plan;
    }

    /// The plan they work by.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// What can be read of them without owning them.
    pub fn readings(&self) -> Readings {
        let reading = |handle: &Handle| Reading {
            mailbox: Arc::clone(&handle.mailbox),
            counters: Arc::clone(&handle.counters),
        };
        Readings { workers: self.handles.iter().map(reading).collect(), start: self.start }
    }

    /// The time of the workers' clock.
    pub fn now(&self) -> Timestamp {
        timestamp(self.start.elapsed())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.handles.len()
    }
}

impl Readings {
    /// How far the limits of what `port` may flood are used up by what `worker` received. Waits for the end of its turn.
    pub fn storm(&self, worker: usize, port: PortId) -> Storm {
        let (answer, told) = sync_channel(1);
        let Some(reading) = self.workers.get(worker) else { return Storm::default() };
        reading.mailbox.post(Message::Storm(port, answer));
        // A worker that has ended floods nothing.
        told.recv_timeout(Duration::from_secs(1)).unwrap_or_default()
    }

    /// The time of the workers' clock.
    pub fn now(&self) -> Timestamp {
        timestamp(self.start.elapsed())
    }

    /// What each worker has done.
    pub fn counters(&self) -> impl Iterator<Item = &WorkerCounters> {
        self.workers.iter().map(|reading| &*reading.counters)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for handle in &self.handles {
            handle.mailbox.post(Message::Stop);
        }
        for handle in &mut self.handles {
            if let Some(thread) = handle.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("a forwarding thread had panicked");
            }
        }
    }
}

impl Mailbox {
    fn post(&self, message: Message) {
        self.messages.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(message);
        self.pending.store(true, Ordering::Release);
        wake(&self.wake);
    }

    fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Relaxed)
    }

    fn fetch(&self) -> Vec<Message> {
        if !self.pending.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut self.messages.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

/// The callback, with a name for debugging.
struct OnFaultOf(OnFault);

impl fmt::Debug for OnFaultOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnFault")
    }
}

/// A receiver this worker reads, and how it behaved lately.
#[derive(Debug)]
struct Source {
    receiver: Receiver,
    /// Frames it may give in its next turn.
    quantum: usize,
    empty_errors: u32,
}

#[derive(Debug)]
struct Worker {
    number: usize,
    engine: Engine,
    mailbox: Arc<Mailbox>,
    counters: Arc<WorkerCounters>,
    on_fault: OnFaultOf,
    epoll: OwnedFd,
    poll: BusyPoll,
    /// In the order of their keys.
    sources: Vec<Source>,
    start: Instant,
}

impl Worker {
    fn new(
        number: usize,
        plan: Arc<Plan>,
        mailbox: Arc<Mailbox>,
        counters: Arc<WorkerCounters>,
        on_fault: OnFaultOf,
        start: Instant,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &mailbox.wake, epoll::EventData::new_u64(MAILBOX), epoll::EventFlags::IN)?;
        let engine = Engine::new(number, plan);
        Ok(Self {
            number,
            engine,
            mailbox,
            counters,
            on_fault,
            epoll,
            poll: BusyPoll::default(),
            sources: Vec::new(),
            start,
        })
    }

    fn run(mut self) {
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
                        // Control may have given up waiting; that is its affair.
                        let _ = done.send(());
                    }
                    Message::Storm(port, answer) => {
                        let _ = answer.send(self.engine.storm(port));
                    }
                    Message::Stop => return,
                }
            }
            let ready = match self.poll.wait(&self.epoll, &mut events, idle) {
                Ok(ready) => ready,
                Err(Errno::INTR) => continue,
                Err(error) => {
                    tracing::error!(worker = self.number, %error, "cannot wait for frames: the worker stops");
                    return;
                }
            };
            self.counters.wakeups.add(1);
            // The end of a turn is the beginning of the next, and of the wait in the end: one reading for each.
            idle = Instant::now();
            let now = timestamp(idle.duration_since(self.start));
            for event in &events[..ready] {
                let (flags, key) = (event.flags, event.data.u64());
                if key == MAILBOX {
                    drain(&self.mailbox.wake);
                } else {
                    self.turn(key, flags, now);
                }
                let began = std::mem::replace(&mut idle, Instant::now());
                let busy = idle.duration_since(began).as_nanos();
                self.counters.busy.record(u64::try_from(busy).unwrap_or(u64::MAX));
                // Control waits for one receiver's turn at most: who was not served is still ready.
                if self.mailbox.is_pending() {
                    break;
                }
            }
        }
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
                // A receiver that trickles is asked for one frame at a time, which saves it the question whether
                // there is another; one that does not gets ever larger batches.
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

    /// Stops waiting for a receiver that failed, and tells control.
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
            // It fails only if the descriptor is not waited for, which is what is wanted.
            let _ = epoll::delete(&self.epoll, fd);
        }
    }
}

fn timestamp(since_start: Duration) -> Timestamp {
    Timestamp::from_millis(u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX))
}

fn wake(event: impl AsFd) {
    // An event counter that is full is awake already.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

/// Makes an event descriptor quiet again.
fn drain(event: impl AsFd) {
    // Nothing to read: quiet already.
    let _ = rustix::io::read(event, &mut [0; 8]);
}
