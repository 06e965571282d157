//! The DNS server: sockets of our own, bounds on what a client can use, and other servers for other names.
//!
//! ```text
//! datagram, stream ─> answer(table) ─┬─ response
//!                                    └─ upstream: the same bytes to other servers, their bytes back
//! ```
//! The table is replaced as a whole while the sockets stay as they are, so no change loses a query. An address is served as long as
//! it is wanted: its sockets are bound before the address exists, and one that is taken is tried again.
//!
//! All of it runs on one thread of its own: an answer takes some ten microseconds, and should not wait for what else the process does.
//!
//! | file | contents |
//! |---|---|
//! | `listen` | datagrams and streams |
//! | `upstream` | other servers |
//! | `counters` | what has happened |

mod counters;
mod listen;
mod upstream;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use tokio::{
    runtime::{Builder, Handle},
    sync::{Semaphore, oneshot},
    task::AbortHandle,
    time::sleep,
};

pub use self::counters::{Bucket, Counters, LATENCIES};
use crate::table::{Asker, Table};

/// Maximum number of queries that wait for other servers.
const IN_FLIGHT: usize = 1024;

/// Maximum number of servers that are asked.
const SERVERS: usize = 3;

/// Interval of checks whether resolv.conf has changed, and of attempts to bind what is taken.
const CHECK: Duration = Duration::from_secs(1);

/// Which other servers are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// Those of a resolv.conf(5), read again when it has changed.
    File(PathBuf),
    /// These.
    Servers(Vec<SocketAddr>),
}

/// How to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Other servers, for other names.
    pub upstream: Upstream,
    /// Resolvers that may ask for the names of all networks: those to which our zone is delegated.
    pub allow: Vec<IpNet>,
}

/// A DNS server. It serves until it is dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    listeners: Mutex<BTreeMap<SocketAddr, Listener>>,
    runtime: Handle,
    /// Ends the thread when it is dropped.
    _thread: oneshot::Sender<()>,
}

/// What all tasks of a server use.
#[derive(Debug)]
struct Shared {
    table: Mutex<Arc<Table>>,
    settings: Mutex<Arc<Settings>>,
    /// Where we listen: what comes from there is this host, and it is never asked.
    own: Mutex<Arc<BTreeSet<SocketAddr>>>,
    servers: Mutex<Arc<[SocketAddr]>>,
    counters: Counters,
    in_flight: Arc<Semaphore>,
    /// Number of the next answer.
    turn: AtomicUsize,
}

/// An address that is wanted.
#[derive(Debug)]
enum Listener {
    Serving(Vec<AbortHandle>),
    /// Why not.
    Failed(io::Error),
}

/// Takes a lock for the moment of a copy. A panic under it leaves a value that is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Starts a server without addresses.
    ///
    /// # Errors
    /// There is no room for another thread.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            table: Mutex::default(),
            settings: Mutex::new(Arc::new(settings)),
            own: Mutex::default(),
            servers: Mutex::new(Arc::from([])),
            counters: Counters::default(),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
            turn: AtomicUsize::new(0),
        });
        shared.find_servers();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        handle.spawn(follow(Arc::clone(&shared)));
        let (thread, over) = oneshot::channel::<()>();
        // Its tasks, and with them the sockets, go with the runtime.
        std::thread::Builder::new().name("names".into()).spawn(move || drop(runtime.block_on(over)))?;
        Ok(Self { shared, listeners: Mutex::default(), runtime: handle, _thread: thread })
    }

    /// Answers from `table` from now on.
    pub fn set_table(&self, table: Table) {
        let table = Arc::new(table);
        // The one before is given up after the lock: that of many names takes a while.
        let before = std::mem::replace(&mut *lock(&self.shared.table), table);
        drop(before);
    }

    /// The table that is answered from.
    pub fn table(&self) -> Arc<Table> {
        self.shared.table()
    }

    /// Changes how to serve.
    pub fn set(&self, settings: Settings) {
        *lock(&self.shared.settings) = Arc::new(settings);
        self.shared.find_servers();
    }

    /// Listens on exactly these addresses: begins with those that are new, and tries again those that are taken.
    pub fn listen(&self, addresses: &BTreeSet<SocketAddr>) {
        let mut listeners = lock(&self.listeners);
        listeners.retain(|address, listener| {
            let stays = addresses.contains(address);
            if !stays {
                listener.stop();
            }
            stays
        });
        let own = Arc::clone(&lock(&self.shared.own));
        if *own != *addresses {
            *lock(&self.shared.own) = Arc::new(addresses.clone());
            self.shared.find_servers();
        }
        for address in addresses {
            if !matches!(listeners.get(address), Some(Listener::Serving(_))) {
                listeners.insert(*address, Listener::open(*address, &self.shared, &self.runtime));
            }
        }
    }

    /// The addresses that are not served, and why.
    pub fn failures(&self) -> Vec<(SocketAddr, String)> {
        let listeners = lock(&self.listeners);
        let failure = |(address, listener): (&SocketAddr, &Listener)| match listener {
            Listener::Serving(_) => None,
            Listener::Failed(error) => Some((*address, error.to_string())),
        };
        listeners.iter().filter_map(failure).collect()
    }

    /// What has happened so far.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The number of queries that wait for other servers.
    pub fn in_flight(&self) -> usize {
        IN_FLIGHT - self.shared.in_flight.available_permits()
    }

    /// The other servers.
    pub fn servers(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&lock(&self.shared.servers))
    }
}

impl Listener {
    fn open(address: SocketAddr, shared: &Arc<Shared>, runtime: &Handle) -> Self {
        let _context = runtime.enter();
        match listen::open(address) {
            Ok((datagrams, streams)) => Self::Serving(vec![
                runtime.spawn(listen::datagrams(datagrams, Arc::clone(shared))).abort_handle(),
                runtime.spawn(listen::streams(streams, Arc::clone(shared))).abort_handle(),
            ]),
            Err(error) => Self::Failed(error),
        }
    }

    fn stop(&self) {
        if let Self::Serving(tasks) = self {
            tasks.iter().for_each(AbortHandle::abort);
        }
    }
}

impl Shared {
    fn table(&self) -> Arc<Table> {
        Arc::clone(&lock(&self.table))
    }

    fn turn(&self) -> usize {
        self.turn.fetch_add(1, Relaxed)
    }

    /// Who asks from `address`.
    fn asker(&self, table: &Table, address: IpAddr) -> Asker {
        let address = address.to_canonical();
        let at = |port| SocketAddr::new(address, port);
        if lock(&self.own).range(at(0)..=at(u16::MAX)).next().is_some() {
            Asker::Host
        } else if table.is_inside(address) {
            Asker::Station(address)
        } else if address.is_loopback() || lock(&self.settings).allow.iter().any(|net| net.contains(&address))
        {
            Asker::Host
        } else {
            Asker::Stranger
        }
    }

    /// Finds out which other servers there are, without ourselves.
    fn find_servers(&self) {
        let settings = Arc::clone(&lock(&self.settings));
        let servers = match &settings.upstream {
            Upstream::File(path) => upstream::servers(path),
            Upstream::Servers(servers) => servers.clone(),
        };
        let own = Arc::clone(&lock(&self.own));
        let others = servers.into_iter().filter(|server| !own.contains(server)).take(SERVERS);
        *lock(&self.servers) = others.collect();
    }
}

/// Reads resolv.conf again when it has changed.
async fn follow(shared: Arc<Shared>) {
    let changed = || -> Option<SystemTime> {
        let settings = Arc::clone(&lock(&shared.settings));
        let Upstream::File(path) = &settings.upstream else { return None };
        path.metadata().and_then(|it| it.modified()).ok()
    };
    let mut last = changed();
    loop {
        sleep(CHECK).await;
        let now = changed();
        if now != last {
            last = now;
            shared.find_servers();
        }
    }
}
