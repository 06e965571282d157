//! Work in many namespaces, by a few threads.
//!
//! A thousand containers are a thousand namespaces to enter several times each. A thread for each entering ([`run_in`](super::run_in))
//! and a task of the runtime for each netlink socket cost more than the work itself: the helpers here enter and leave by themselves,
//! and drive their own sockets. Measured (2026-11-28, AMD EPYC, 2 CPUs, Linux 6.18): to adopt the interfaces of 1,100 containers took
//! 1.0 s one by one.

use std::{
    cell::RefCell,
    io,
    os::fd::AsFd,
    sync::{
        Mutex, PoisonError,
        atomic::{
            AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use tokio::runtime;

use super::{Namespace, NetnsError, Traveller};

/// Helpers at most: the kernel does most of the work under one lock (`rtnl_mutex`).
const HELPERS: usize = 4;

/// So many items are worked on without helpers.
const FEW: usize = 4;

/// Time between two calls of `told`.
const TELL: Duration = Duration::from_secs(1);

thread_local! {
    /// The namespace that a helper returns to; no other thread has one.
    static HOME: RefCell<Option<Namespace>> = const { RefCell::new(None) };
}

/// Awaits `work` on each of `items`, several at a time, and returns the results in their order. Meanwhile `told` hears every second
/// how many are done. With more than a few items it occupies the calling thread until all are done.
///
/// Each helper has a runtime of its own: what `work` leaves behind may not depend on it.
///
/// # Errors
/// There is no thread or no descriptor for the first helper; nothing was begun then.
///
/// # Panics
/// As `work` does.
pub async fn together<T: Send, R: Send>(
    items: Vec<T>,
    work: impl AsyncFn(T) -> R + Sync,
    told: impl Fn(usize),
) -> io::Result<Vec<R>> {
    let total = items.len();
    if total <= FEW {
        let mut results = Vec::with_capacity(total);
        for item in items {
            results.push(work(item).await);
        }
        return Ok(results);
    }
    let (queue, done) = (Mutex::new(items.into_iter().enumerate()), AtomicUsize::new(0));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let help = |runtime: runtime::Runtime| {
        roam();
        runtime.block_on(async {
            let mut results = Vec::new();
            while let Some((index, item)) = next() {
                results.push((index, work(item).await));
                done.fetch_add(1, Relaxed);
            }
            results
        })
    };
    let (caller, running) = (thread::current(), AtomicUsize::new(0));
    let mut results = thread::scope(|scope| {
        let begin = || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            // Until it ends, also by a panic.
            let runs = Runs::begin(&running, &caller);
            thread::Builder::new().name("netns".into()).spawn_scoped(scope, move || {
                let _runs = runs;
                help(runtime)
            })
        };
        let mut helpers = vec![begin()?];
        let wanted = thread::available_parallelism().map_or(2, |cpus| cpus.get().clamp(2, HELPERS));
        // Fewer helpers take longer, no more.
        helpers.extend((1..wanted).map_while(|_| begin().ok()));
        let mut then = Instant::now() + TELL;
        while running.load(Acquire) > 0 {
            thread::park_timeout(then.saturating_duration_since(Instant::now()));
            if Instant::now() >= then {
                then += TELL;
                told(done.load(Relaxed));
            }
        }
        let mut results = Vec::with_capacity(total);
        for helper in helpers {
            results.extend(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        Ok::<_, io::Error>(results)
    })?;
    results.sort_unstable_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// Counts a helper, and wakes the caller when it ends.
struct Runs<'a>(&'a AtomicUsize, &'a thread::Thread);

impl<'a> Runs<'a> {
    fn begin(running: &'a AtomicUsize, caller: &'a thread::Thread) -> Self {
        running.fetch_add(1, Relaxed);
        Self(running, caller)
    }
}

impl Drop for Runs<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Release);
        self.1.unpark();
    }
}

/// Lets this thread enter namespaces by itself, if it may come back: the kernel wants CAP_SYS_ADMIN over the one it came from, too.
fn roam() {
    let home = Namespace::current().ok();
    let home =
        home.filter(|it| move_into_link_name_space(it.as_fd(), Some(LinkNameSpaceType::Network)).is_ok());
    HOME.with_borrow_mut(|mine| *mine = home);
}

/// Runs `closure` inside `namespace` on this thread, if it is a helper's; else returns the closure.
pub(super) fn inside<T, F: FnOnce() -> T>(
    namespace: &Namespace,
    closure: F,
) -> Result<Result<T, NetnsError>, F> {
    HOME.with_borrow(|home| {
        let Some(home) = home else { return Err(closure) };
        if let Err(error) = Traveller::on_this_thread().enter(namespace) {
            return Ok(Err(error));
        }
        let result = closure();
        let back = move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network));
        // `roam` has tried: the rights do not change, and the namespace is held open.
        assert_eq!(back, Ok::<(), Errno>(()), "a thread cannot return to the daemon's namespace");
        Ok(Ok(result))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
    };

    use super::*;

    #[tokio::test]
    async fn results_come_in_the_order_of_the_items() {
        for count in [0, 1, FEW, FEW + 1, 100] {
            let items: Vec<_> = (0..count).collect();
            let twice = together(items, async |it| it * 2, |_| {}).await.unwrap();
            assert_eq!(twice, (0..count).map(|it| it * 2).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn helpers_drive_their_own_sockets() {
        let work = async |it: u64| {
            let (mut one, mut other) = UnixStream::pair().unwrap();
            one.write_u64(it).await.unwrap();
            other.read_u64().await.unwrap()
        };
        let items: Vec<_> = (0..64).collect();
        assert_eq!(together(items.clone(), work, |_| {}).await.unwrap(), items);
    }

    #[tokio::test]
    async fn progress_is_told_while_it_runs() {
        let was_told = AtomicBool::new(false);
        let work = async |it: usize| {
            while it == 0 && !was_told.load(Relaxed) {
                tokio::task::yield_now().await;
            }
        };
        together((0..=FEW).collect(), work, |done| was_told.store(done < FEW + 1, Relaxed)).await.unwrap();
    }
}
