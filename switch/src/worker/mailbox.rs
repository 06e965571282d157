//! The mailbox between control and one worker.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
        mpsc::SyncSender,
    },
};

use rustix::event::{EventfdFlags, eventfd};

use crate::{addr::PortId, plan::Plan, storm::FloodMeters};

/// Where control leaves what a worker is to do next.
#[derive(Debug)]
pub(super) struct Mailbox {
    wake: OwnedFd,
    pending: AtomicBool,
    messages: Mutex<Vec<Message>>,
}

#[derive(Debug)]
pub(super) enum Message {
    /// Work by this plan, and say so.
    Adopt(Arc<Plan>, SyncSender<()>),
    /// Tell how far the limits of what a port may flood are used up.
    Storm(PortId, SyncSender<FloodMeters>),
    /// End the thread.
    Stop,
}

impl Mailbox {
    /// An empty mailbox.
    ///
    /// # Errors
    /// No descriptors are to be had.
    pub(super) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { wake, pending: AtomicBool::new(false), messages: Mutex::default() })
    }

    /// Leaves a message and wakes the worker.
    pub(super) fn post(&self, message: Message) {
        self.messages().push(message);
        self.pending.store(true, Ordering::Release);
        // An event counter that is full is awake already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Whether there are messages.
    pub(super) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Relaxed)
    }

    /// Takes all messages.
    pub(super) fn fetch(&self) -> Vec<Message> {
        if !self.pending.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut self.messages())
    }

    /// Becomes readable when a message is posted, until [`Mailbox::quiet`].
    pub(super) fn readiness(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Makes the descriptor quiet again.
    pub(super) fn quiet(&self) {
        // Nothing to read: quiet already.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    fn messages(&self) -> MutexGuard<'_, Vec<Message>> {
        self.messages.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
