//! Who sends to the tunnel's port without being a peer: what an operator needs to know, and `learn_peers` asks for.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use arrayvec::ArrayVec;

/// Strangers remembered until they are [taken](Strangers::take); further ones are not.
const REMEMBERED: usize = 16;

/// A sender that is no peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Where its datagrams come from.
    pub address: IpAddr,
    /// Messages from there.
    pub messages: u64,
}

/// Called by a worker when a stranger was heard for the first time. Must not wait.
pub type OnStranger = Arc<dyn Fn() + Send + Sync>;

/// The last strangers.
#[derive(Default)]
pub struct Strangers {
    known: Mutex<ArrayVec<Stranger, REMEMBERED>>,
    on_stranger: OnceLock<OnStranger>,
}

impl Strangers {
    /// Lets `notify` be called for each new stranger. The first such call counts.
    pub fn on_stranger(&self, notify: OnStranger) {
        // A second one would come from a second owner, which there is not.
        let _ = self.on_stranger.set(notify);
    }

    /// Notes a message from `address`. Does not wait: if somebody looks just now, it is not noted.
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

    /// Those remembered, in the order in which they were first heard.
    pub fn list(&self) -> Vec<Stranger> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).to_vec()
    }

    /// The same, and forgets them.
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
