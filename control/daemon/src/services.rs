//! All services of the daemon: their sockets, their tasks, and the order in which they stop.
//!
//! | service | where | it stops |
//! |---|---|---|
//! | API | a unix socket | after pending requests |
//! | Docker's plugin | a unix socket | after pending calls |
//! | tap helpers | a unix socket | at once |
//! | metrics, web page | TCP | at once |
//! | cluster | the store; TCP for hosts that join | at once |
//! | health | checks of services' endpoints | at once |
//! | watch | signals of the workers, the clock | at once |
//!
//! Unix sockets are bound before the first port is opened: a path in use is reported while there is nothing to undo. An
//! address of TCP may come later than the daemon, and is served when it has come. The core
//! outlives all of them, and serves the queued requests before it closes its ports.

use std::{
    io::ErrorKind,
    net::{self, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustix::net::SocketType;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::Notify,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    Failure, api, attach, cluster,
    core::{Asker, Captures, Handle, Leave, Request, Running, Signals},
    docker, health, metrics, web,
};
use vswitch_host::socket::{SocketFile, listen_at};
use vswitch_model::{ApiSpec, DockerSpec, HostName};

/// Time limit for pending requests when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(3);

/// Interval of ageing and of retries of ports that are down.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The bound sockets of the services; their files are deleted with the value.
pub(crate) struct Sockets {
    api: UnixListener,
    helpers: attach::Listener,
    metrics: Option<SocketAddr>,
    page: Option<(SocketAddr, Vec<HostName>)>,
    docker: Option<PluginSockets>,
    files: Files,
}

/// Files by which clients find the services.
struct Files {
    _api: SocketFile,
    _docker: Option<([SocketFile; 2], Option<docker::SpecFile>)>,
}

/// Where Docker's plugin is asked: by engines themselves, and by managed plugins of a swarm's engines.
struct PluginSockets {
    own: UnixListener,
    swarm: UnixListener,
}

impl Sockets {
    /// Binds all configured sockets.
    ///
    /// # Errors
    /// A path is taken, or a file cannot be made; the sentence says what to do.
    pub(crate) fn bind(api: &ApiSpec, docker: &DockerSpec) -> Result<Self, Failure> {
        let group = api.group.as_deref();
        let (listener, file) = listen_at(&api.socket, SocketType::STREAM, group)?;
        let mut sockets = Self {
            api: UnixListener::from_std(listener.into())?,
            helpers: attach::Listener::bind(&vswitch_model::attach::socket_path(&api.socket), group)?,
            metrics: api.metrics,
            page: api.web.map(|address| (address, api.web_hosts.clone())),
            docker: None,
            files: Files { _api: file, _docker: None },
        };
        if docker.enabled {
            let (own, file) = listen_at(&docker.socket, SocketType::STREAM, None)?;
            let swarm = vswitch_model::attach::swarm_socket_path(&api.socket);
            let (swarm, file_of_swarm) = listen_at(&swarm, SocketType::STREAM, None)?;
            let [own, swarm] = [own, swarm].map(|it| UnixListener::from_std(it.into()));
            sockets.docker = Some(PluginSockets { own: own?, swarm: swarm? });
            let spec = docker::SpecFile::write(&docker.socket)
                .map_err(|error| format!("cannot tell Docker of {}: {error}", docker.socket.display()))?;
            sockets.files._docker = Some(([file, file_of_swarm], spec));
            info!(socket = %docker.socket.display(), "Docker's plugin is announced");
        }
        Ok(sockets)
    }
}

/// Listens at the address that `key` of net.toml has, if that is possible now; else the reason is told.
fn try_listen(key: &'static str, address: SocketAddr, core: &Handle) -> Option<TcpListener> {
    let outages = &core.snapshot().process.outages;
    let bound = net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    let error = match bound {
        Ok(listener) => {
            if outages.note(key, None) {
                info!("{key}: {address} is served by now");
            }
            return Some(listener);
        }
        Err(error) => error,
    };
    let remedy = match error.kind() {
        ErrorKind::AddrNotAvailable => "no interface of this host has it: correct it, or add it to one",
        ErrorKind::AddrInUse => "another process has it: stop that, or choose another port",
        _ => "correct it",
    };
    let why = format!("{key}: cannot listen on {address} yet ({error}): {remedy}");
    if outages.note(key, Some(why.clone())) {
        warn!("{why}");
    }
    None
}

/// The same, as soon as that is possible: the daemon starts before the network is up.
async fn listen(
    first: Option<TcpListener>,
    key: &'static str,
    address: SocketAddr,
    core: &Handle,
) -> TcpListener {
    let mut tried = first;
    loop {
        if let Some(listener) = tried {
            return listener;
        }
        sleep(HEARTBEAT).await;
        tried = try_listen(key, address, core);
    }
}

/// The running services.
pub(crate) struct Services {
    /// Stops those that leave nothing half done.
    at_once: CancellationToken,
    /// Makes those with pending requests accept no further ones.
    last_orders: CancellationToken,
    api: TaskTracker,
    docker: TaskTracker,
    _files: Files,
}

impl Services {
    /// Starts all services.
    pub(crate) fn start(
        sockets: Sockets,
        core: &Running,
        folder: cluster::Folder,
        calls: cluster::Calls,
    ) -> Self {
        let Sockets { api, helpers, metrics, page, docker, files } = sockets;
        let handle = || core.handle.clone();
        let services = Self {
            at_once: CancellationToken::new(),
            last_orders: CancellationToken::new(),
            api: TaskTracker::new(),
            docker: TaskTracker::new(),
            _files: files,
        };
        let last_orders = || services.last_orders.clone().cancelled_owned();
        services.api.spawn(api::serve(api, handle(), last_orders()));
        if let Some(PluginSockets { own, swarm }) = docker {
            let (docker, asked) = (handle().by(Asker::Docker), Arc::<Notify>::default());
            let plugin = docker::Plugin::new(docker.clone(), Arc::clone(&asked));
            services.docker.spawn(docker::serve(swarm, plugin.of_swarm(), last_orders()));
            services.docker.spawn(docker::serve(own, plugin, last_orders()));
            services.run(docker::follow(docker, asked));
            services.run(docker::revive());
        }
        services.run(attach::serve(helpers, {
            let core = handle();
            move |attachment| {
                let core = core.by(attachment.caller.into());
                async move {
                    let done = core.ask(|reply| Request::Attach(Box::new(attachment), reply)).await?;
                    done.snapshot.port(&done.value)
                }
            }
        }));
        // The first attempt is made here: who hears that the daemon is ready may call at once.
        if let Some(address) = metrics {
            let (core, key) = (handle(), "api.metrics");
            let first = try_listen(key, address, &core);
            services.run(async move {
                metrics::serve(listen(first, key, address, &core).await, core).await;
            });
        }
        if let Some((address, hosts)) = page {
            let (core, key) = (handle(), "api.web");
            let first = try_listen(key, address, &core);
            services.run(async move {
                web::serve(listen(first, key, address, &core).await, hosts, core).await;
            });
        }
        services.run(health::serve(handle()));
        services.run(cluster::serve(handle(), folder, calls));
        services.run(watch(handle(), core.signals.clone()));
        services
    }

    /// Runs a service that may be stopped at any moment.
    fn run(&self, service: impl Future<Output: Send> + Send + 'static) {
        let at_once = self.at_once.clone();
        tokio::spawn(async move { drop(at_once.run_until_cancelled(service).await) });
    }

    /// Stops all services, and the core after the last one.
    pub(crate) async fn stop(self, core: Running) {
        // Accept nothing new.
        self.at_once.cancel();
        self.last_orders.cancel();
        // These responses have no end of their own.
        core.handle.farewell();
        core.handle.end_captures().await;
        for (answers, what) in [(&self.api, "requests"), (&self.docker, "calls of Docker")] {
            answers.close();
            if timeout(FAREWELL, answers.wait()).await.is_err() {
                warn!("{what} were cut off");
            }
        }
        core.stop(Leave::Persistent).await;
    }
}

/// Runs the periodic tasks: failed ports, ageing.
async fn watch(core: Handle, signals: Signals) {
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let served = tokio::select! {
            () = signals.fault.notified() => core.tell(Request::Fault).await.map(drop),
            () = signals.capture_over.notified() => {
                core.tell(|reply| Request::EndCaptures(Captures::Over, reply)).await.map(drop)
            }
            () = signals.stranger.notified() => core.tell(Request::Strangers).await.map(drop),
            _ = heartbeat.tick() => core.tell(Request::Tick).await.map(drop),
        };
        if served.is_err() {
            // The core has ended, so there is nothing to do.
            return;
        }
    }
}
