//! Control's end of the workers: starts and stops them, and hands them plans.

use std::{
    io,
    sync::{Arc, mpsc::sync_channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    OnFault, WorkerCounters,
    mailbox::{Mailbox, Message},
    thread::{Worker, timestamp},
};
use crate::{
    addr::{PortId, Timestamp},
    batch::BATCH,
    device::mem::{MemDevice, OwnedFrame},
    plan::{Plan, Receiver},
    storm::FloodMeters,
    wire::offload::Capabilities,
};

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

impl Workers {
    /// Starts `count` workers with `plan`.
    ///
    /// # Errors
    /// No descriptors or threads available.
    pub fn start(count: usize, plan: Arc<Plan>, on_fault: OnFault) -> io::Result<Self> {
        let mut workers = Self { handles: Vec::new(), plan: Arc::clone(&plan), start: Instant::now() };
        for number in 0..count {
            let handle = workers.spawn(number, Arc::clone(&on_fault))?;
            workers.handles.push(handle);
        }
        workers.adopt(plan);
        Ok(workers)
    }

    fn spawn(&self, number: usize, on_fault: OnFault) -> io::Result<Handle> {
        let mailbox = Arc::new(Mailbox::new()?);
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

    /// Switches all workers to `plan`. When this returns, none uses the previous plan.
    pub fn adopt(&mut self, plan: Arc<Plan>) {
        let (done, all_done) = sync_channel(self.handles.len());
        for handle in &self.handles {
            handle.mailbox.post(Message::Adopt(Arc::clone(&plan), done.clone()));
        }
        let mut waiting = self.handles.len();
        while waiting > 0 {
            match all_done.recv_timeout(Duration::from_millis(100)) {
                Ok(()) => waiting -= 1,
                // A worker that has ended never answers; it has logged the reason.
                Err(_) if self.handles.iter().any(Handle::is_finished) => break,
                Err(_) => {}
            }
        }
        // This drops the last reference to the old plan: devices are closed here, not on a forwarding thread.
        self.plan = plan;
    }

    /// Lets `worker` treat `frames` (wire frames, 64 at most) as if they had just been received on `port`.
    pub fn receive(&self, worker: usize, port: PortId, frames: impl IntoIterator<Item = Vec<u8>>) {
        let device = MemDevice::new(Capabilities::NONE, BATCH);
        for frame in frames {
            device.put(OwnedFrame::plain(frame));
        }
        if let Some(handle) = self.handles.get(worker) {
            // Not among the keys of the plan, which are looked up when a descriptor is ready.
            let receiver = Receiver { key: u64::MAX, device: Arc::new(device), port, worker };
            handle.mailbox.post(Message::Turn(receiver));
        }
    }

    /// The current plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// A handle for reading their clock, counters and flood meters, which owns none of them.
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

    /// Number of workers.
    pub fn count(&self) -> usize {
        self.handles.len()
    }
}

impl Readings {
    /// State of the flood limits of `port`, as far as `worker` received from it. Waits for the end of its
    /// turn.
    pub fn storm(&self, worker: usize, port: PortId) -> FloodMeters {
        let (answer, told) = sync_channel(1);
        let Some(reading) = self.workers.get(worker) else { return FloodMeters::default() };
        reading.mailbox.post(Message::Storm(port, answer));
        // A worker that has ended floods nothing.
        told.recv_timeout(Duration::from_secs(1)).unwrap_or_default()
    }

    /// The current time of the workers' clock.
    pub fn now(&self) -> Timestamp {
        timestamp(self.start.elapsed())
    }

    /// Statistics of each worker.
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
