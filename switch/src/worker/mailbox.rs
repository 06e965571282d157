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

use crate::{
    addr::PortId,
    plan::{Plan, Receiver},
    storm::FloodMeters,
};

/// A queue of messages from control to a worker.
#[derive(Debug)]
pub(super) struct Mailbox {
    wake: OwnedFd,
    pending: AtomicBool,
    messages: Mutex<Vec<Message>>,
}

#[derive(Debug)]
pub(super) enum Message {
    /// Switch to this plan and confirm.
    Adopt(Arc<Plan>, SyncSender<()>),
    /// Report the state of the flood limits of a port.
    Storm(PortId, SyncSender<FloodMeters>),
    /// Give this receiver, which is none of the plan, one turn.
    Turn(Receiver),
    /// End the thread.
    Stop,
}

impl Mailbox {
    /// An empty mailbox.
    ///
    /// # Errors
    /// No descriptors available.
    pub(super) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { wake, pending: AtomicBool::new(false), messages: Mutex::default() })
    }

    /// Posts a message and wakes the worker.
    pub(super) fn post(&self, message: Message) {
        self.messages().push(message);
        self.pending.store(true, Ordering::Release);
        // If the event counter is full, the worker is awake already.
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

    /// Readable from a post until [`Mailbox::quiet`].
    pub(super) fn readiness(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Makes the descriptor unreadable again.
    pub(super) fn quiet(&self) {
        // It fails if the counter is zero already.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    fn messages(&self) -> MutexGuard<'_, Vec<Message>> {
        self.messages.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
