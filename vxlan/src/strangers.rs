//! Unknown senders to the tunnel's port: for the operator, and for `learn_peers`.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use arrayvec::ArrayVec;

/// Maximum number of senders recorded until they are [taken](Strangers::take); further ones are ignored.
const REMEMBERED: usize = 16;

/// A sender that is not a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Its source address.
    pub address: IpAddr,
    /// Number of messages from it.
    pub messages: u64,
}

/// Called by a worker when a new unknown sender is recorded. Must not block.
pub type OnStranger = Arc<dyn Fn() + Send + Sync>;

/// Recently seen unknown senders.
#[derive(Default)]
pub struct Strangers {
    known: Mutex<ArrayVec<Stranger, REMEMBERED>>,
    on_stranger: OnceLock<OnStranger>,
}

impl Strangers {
    /// Registers `notify` for new unknown senders. Only the first call has an effect.
    pub fn on_stranger(&self, notify: OnStranger) {
        // A second call would come from a second owner, which does not exist.
        let _ = self.on_stranger.set(notify);
    }

    /// Records a message from `address`. Does not block: if the list is locked, the message is not recorded.
    pub fn note(&self, address: IpAddr) {
        let Ok(mut known) = self.known.try_lock() else { return };
        if let Some(stranger) = known.iter_mut().find(|stranger| stranger.address == address) {
            stranger.messages += 1;
            return;
        }
        if known.try_push(Stranger { address, messages: 1 }).is_err() {
            return;
        }
        drop(known);
        if let Some(notify) = self.on_stranger.get() {
            notify();
        }
    }

    /// The recorded senders, in order of their first message.
    pub fn list(&self) -> Vec<Stranger> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).to_vec()
    }

    /// The same, and clears the list.
    pub fn take(&self) -> Vec<Stranger> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

impl fmt::Debug for Strangers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    #[test]
    fn the_first_sixteen_are_remembered_and_told_once() {
        let (strangers, told) = (Strangers::default(), Arc::new(AtomicUsize::new(0)));
        let counter = Arc::clone(&told);
        strangers.on_stranger(Arc::new(move || {
            counter.fetch_add(1, Relaxed);
        }));
        for address in (0..20).cycle().take(60) {
            strangers.note(IpAddr::from([10, 0, 0, address]));
        }
        assert_eq!((strangers.list().len(), told.load(Relaxed)), (REMEMBERED, REMEMBERED));
        assert_eq!(strangers.take()[3], Stranger { address: IpAddr::from([10, 0, 0, 3]), messages: 3 });
        strangers.note(IpAddr::from([10, 0, 0, 19]));
        assert_eq!(strangers.list().len(), 1);
    }
}
