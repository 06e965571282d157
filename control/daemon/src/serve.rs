//! The daemon: everything put together.
//!
//! # The way of a command
//! ```text
//! net.toml, SIGHUP, API, tap helper
//!   -> Command                    what is wanted                 (state)
//!   -> State::plan -> Effects     what must be done, pure        (state)
//!   -> Edge::perform              devices, interfaces, store     (edge, device)
//!   -> Edge::rebuild -> Plan      what the workers work with     (vswitch::plan)
//!   -> Workers::adopt             between two turns              (vswitch::worker)
//! ```
//! One command at a time, by the one task that owns it all (`core`); what fails half-way is undone. Forwarding never waits
//! for any of it, nor does who only reads.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::ValueEnum;
use rustix::net::SocketType;
use sd_notify::NotifyState;
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{error, info, warn};

use crate::{
    api, attach, config, core,
    core::{Captures, Handle, Request, Signals},
    docker, kept,
    lock::InstanceLock,
    log, metrics,
    state::State,
    store::{Store, live_path},
    tunnel, web,
};
use vswitch_host::socket::{SocketFile, listen_at};
use vswitch_model::Config;

/// How the daemon is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Only check the file.
    pub check: bool,
    /// How the log is written.
    pub log_format: LogFormat,
    /// A level, or a filter as `tracing_subscriber::EnvFilter` reads it.
    pub log: String,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object per line.
    Json,
}

/// How long requests that are being answered may take when the daemon is told to stop.
const FAREWELL: Duration = Duration::from_secs(3);

/// How often the table is swept and ports that are down are tried again.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Why the daemon could not start, or had to end: a sentence.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs the daemon until it is told to stop.
///
/// Exit codes: 0 stopped as told, or the file is right; 1 could not start, or failed; 2 the file is wrong.
pub fn run(options: Options) -> ExitCode {
    let config = match config::load(&options.config) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(2);
        }
    };
    if options.check {
        let (networks, ports) = (config.networks.len(), config.ports.len());
        println!("{}: right: {networks} networks, {ports} ports", options.config.display());
        return ExitCode::SUCCESS;
    }
    if let Err(error) = log::start(&options.log, options.log_format) {
        eprintln!("--log {:?}: {error}", options.log);
        return ExitCode::from(2);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.map_err(Failure::from).and_then(|runtime| {
        let result = runtime.block_on(serve(options.config, config));
        // Not for a notification that nobody reads.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// From the first lock to the last socket: what is opened here is closed when this returns.
async fn serve(path: PathBuf, mut config: Config) -> Result<(), Failure> {
    let state_folder = config.switch.state.clone();
    let _lock = InstanceLock::take(&state_folder)?;
    let store = Store::open(&state_folder, &live_path(&config.api.socket))?;
    tunnel::settle(&mut config).await;
    let plan = State::start(config.clone(), kept::living(&store, &config)?)?;
    // Signals first: one that comes while ports are opened must not kill us with interfaces left behind.
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let api = plan.next.api().clone();
    let (socket, _file) = listen_at(&api.socket, SocketType::STREAM, api.group.as_deref())?;
    let listener = UnixListener::from_std(socket.into())?;
    let helpers =
        attach::Listener::bind(&vswitch_model::attach::socket_path(&api.socket), api.group.as_deref())?;

    let page = match api.web {
        Some(address) => Some(web::listen(address).await?),
        None => None,
    };
    let metrics_listener = match api.metrics {
        Some(address) => Some(listen(address).await?),
        None => None,
    };

    let running = core::start(path, plan, store).await?;
    let daemon = running.handle.clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let backend: Arc<dyn api::Backend> = Arc::new(daemon.clone());
    let exporter =
        metrics_listener.map(|listener| tokio::spawn(metrics::serve(listener, Arc::clone(&backend))));
    let server = tokio::spawn(api::server::serve(listener, backend, async {
        // Either way of ending is a request to stop.
        let _ = stopped.await;
    }));
    let attaching = daemon.clone();
    let helper_server = tokio::spawn(attach::serve(helpers, move |attachment| {
        let daemon = attaching.clone();
        async move {
            let done = daemon.ask(|reply| Request::Attach(Box::new(attachment), reply)).await?;
            done.snapshot.port(&done.value)
        }
    }));
    let page = page.map(|listener| {
        tokio::spawn(web::serve(listener, api.web_hosts.clone(), Arc::new(daemon.clone()) as _))
    });
    let plugin = serve_docker(&daemon).await?;
    let watch = tokio::spawn(watch(daemon.clone(), running.signals.clone()));
    notify(vec![NotifyState::Ready, NotifyState::Status("forwarding")]).await;
    info!(socket = %api.socket.display(), web = api.web.map(tracing::field::display), "ready");

    let signal = loop {
        tokio::select! {
            _ = hangup.recv() => reload(&daemon).await,
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
        }
    };
    info!(signal, "stopping");
    notify(vec![NotifyState::Stopping]).await;
    helper_server.abort();
    if let Some(page) = page {
        page.abort();
    }
    let _ = plugin.stop.send(());
    watch.abort();
    exporter.inspect(|exporter| exporter.abort());
    daemon.farewell();
    let _ = stop.send(());
    // They would never end by themselves.
    daemon.end_captures().await;
    if timeout(FAREWELL, server).await.is_err() {
        warn!("requests were cut off");
    }
    if let Some(server) = plugin.server
        && timeout(FAREWELL, server).await.is_err()
    {
        warn!("calls of Docker were cut off");
    }
    running.stop().await;
    Ok(())
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| {
        format!("cannot serve metrics at {address}: {error}: correct api.metrics, or free the port").into()
    })
}

/// The plugin that Docker finds, if it shall; what it needs goes with the value.
struct Plugin {
    stop: oneshot::Sender<()>,
    server: Option<JoinHandle<std::io::Result<()>>>,
    _files: (Option<SocketFile>, Option<docker::SpecFile>),
}

/// Serves Docker's plugin, if it is enabled.
async fn serve_docker(daemon: &Handle) -> Result<Plugin, Failure> {
    let (stop, stopped) = oneshot::channel::<()>();
    let spec = daemon.snapshot().state.docker().clone();
    if !spec.enabled {
        return Ok(Plugin { stop, server: None, _files: (None, None) });
    }
    let (socket, file) = listen_at(&spec.socket, SocketType::STREAM, None)?;
    let listener = UnixListener::from_std(socket.into())?;
    let told = docker::SpecFile::write(&spec.socket)
        .map_err(|error| format!("cannot tell Docker of {}: {error}", spec.socket.display()))?;
    let plumbing: Arc<dyn docker::Plumbing> = Arc::new(daemon.clone());
    let server = tokio::spawn(docker::serve(listener, plumbing, async {
        // Either way of ending is a request to stop.
        let _ = stopped.await;
    }));
    info!(socket = %spec.socket.display(), "Docker finds us");
    Ok(Plugin { stop, server: Some(server), _files: (Some(file), told) })
}

async fn reload(daemon: &Handle) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
    notify(vec![NotifyState::Reloading, NotifyState::MonotonicUsec(micros)]).await;
    // What it came to is logged where it is done, whoever asked.
    let _ = daemon.tell(|reply| Request::Reload { dry_run: false, reply }).await;
    notify(vec![NotifyState::Ready]).await;
}

/// Looks after what changes by itself: ports that fail and come back, addresses that age.
async fn watch(daemon: Handle, signals: Signals) {
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // A core that has ended answers no more: then nothing is left to look after.
        let served = tokio::select! {
            () = signals.fault.notified() => daemon.tell(Request::Fault).await.map(drop),
            () = signals.capture_over.notified() => {
                daemon.tell(|reply| Request::EndCaptures(Captures::Over, reply)).await.map(drop)
            }
            () = signals.stranger.notified() => daemon.tell(Request::Strangers).await.map(drop),
            _ = heartbeat.tick() => daemon.tell(Request::Tick).await.map(drop),
        };
        if served.is_err() {
            return;
        }
    }
}

/// Tells systemd. A manager that does not listen keeps nobody waiting for long.
async fn notify(states: Vec<NotifyState<'static>>) {
    // Without systemd there is nobody to tell.
    let told = spawn_blocking(move || sd_notify::notify(&states));
    let _ = timeout(Duration::from_millis(200), told).await;
}
