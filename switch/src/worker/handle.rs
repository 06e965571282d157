//! Control's end of the workers: starting and stopping them, handing them plans.

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
    plan::Plan,
    storm::FloodMeters,
};

/// The workers of a switch.
#[derive(Debug)]
pub struct Workers {
    handles: Vec<Handle>,
    plan: Arc<Plan>,
    start: Instant,
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
    /// No descriptors or threads are to be had.
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

    /// How far the limits of what `port` may flood are used up by what `worker` received. Waits for the end of its turn.
    pub fn storm(&self, worker: usize, port: PortId) -> FloodMeters {
        let (answer, told) = sync_channel(1);
        let Some(handle) = self.handles.get(worker) else { return FloodMeters::default() };
        handle.mailbox.post(Message::Storm(port, answer));
        // A worker that has ended floods nothing.
        told.recv_timeout(Duration::from_secs(1)).unwrap_or_default()
    }

    /// The time of the workers' clock.
    pub fn now(&self) -> Timestamp {
        timestamp(self.start.elapsed())
    }

    /// What each worker has done.
    pub fn counters(&self) -> impl Iterator<Item = &WorkerCounters> {
        self.handles.iter().map(|handle| &*handle.counters)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.handles.len()
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
