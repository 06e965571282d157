//! The daemon as a whole.
//!
//! # The path of a command
//! ```text
//! net.toml, SIGHUP, API, tap helper
//!   -> Command                    what is wanted                 (state)
//!   -> State::plan -> Effects     what must be done, pure        (state)
//!   -> Edge::perform              devices, interfaces, store     (edge, device)
//!   -> Edge::rebuild -> Plan      what the workers work with     (vswitch::plan)
//!   -> Workers::adopt             between two turns              (vswitch::worker)
//! ```
//! One command at a time, by the task that owns everything (`core`); what fails midway is undone. Forwarding never waits for
//! it, and neither do readers.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::ValueEnum;
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
    time::timeout,
};
use tracing::{error, info};

use crate::{
    cluster, config,
    core::{self, Asker, Handle, Leave, Request},
    kept,
    lock::InstanceLock,
    log,
    services::{Services, Sockets},
    state::State,
    store::{Store, live_path},
    tunnel,
};
use vswitch_host::descriptors;
use vswitch_model::Config;

/// Settings of a start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Only check the file.
    pub check: bool,
    /// Only remove what the daemon keeps on this host.
    pub remove_all: bool,
    /// Format of the log.
    pub log_format: LogFormat,
    /// A level, or a filter of `tracing_subscriber::EnvFilter`.
    pub log: String,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// For the journal, or any other reader of sd-daemon(3)'s priorities.
    Journal,
    /// A JSON object per line.
    Json,
}

/// Why the daemon could not start, or had to stop: a sentence.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs the daemon until it is stopped.
///
/// Exit codes: 0 stopped by signal, or the file is valid; 1 cannot start, or failed; 2 the file is invalid.
pub fn run(options: Options) -> ExitCode {
    let config = match config::load(&options.config) {
        Ok(config) => config,
        Err(errors) => {
            log::report(&errors.to_string(), options.log_format);
            return ExitCode::from(2);
        }
    };
    if options.check {
        let (networks, ports) = (config.networks.len(), config.ports.len());
        println!("{}: right: {networks} networks, {ports} ports", options.config.display());
        return ExitCode::SUCCESS;
    }
    if let Err(error) = log::start(&options.log, options.log_format) {
        log::report(&format!("--log: {error}"), options.log_format);
        return ExitCode::from(2);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.map_err(Failure::from).and_then(|runtime| {
        let result = runtime.block_on(async {
            if options.remove_all {
                remove_all(options.config, config).await
            } else {
                serve(options.config, config).await
            }
        });
        // Not for a failed notification.
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

/// From the lock to the last socket: everything opened here is closed when this returns.
async fn serve(path: PathBuf, mut config: Config) -> Result<(), Failure> {
    descriptors::raise();
    let state_folder = config.switch.state.clone();
    let _lock = InstanceLock::take(&state_folder)?;
    let store = Store::open(&state_folder, &live_path(&config.api.socket))?;
    tunnel::settle(&mut config, None).await;
    let membership = cluster::remembered(&state_folder)?;
    let plan = State::start_in(config.clone(), kept::living(&store, &config, &membership)?, membership)?;
    // Signals first: one that arrives while ports are opened must not kill us with interfaces left behind.
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let sockets = Sockets::bind(plan.next.api(), plan.next.docker())?;
    let api = plan.next.api().clone();
    let (client, calls) = cluster::channel();
    let core = core::start(path, plan, store, client).await?;
    let services = Services::start(sockets, &core, cluster::Folder::of(&state_folder), calls);
    notify(vec![NotifyState::Ready, NotifyState::Status("forwarding")]).await;
    info!(socket = %api.socket.display(), web = api.web.map(tracing::field::display), "ready");

    let signal = loop {
        tokio::select! {
            _ = hangup.recv() => reload(&core.handle).await,
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
        }
    };
    info!(signal, "stopping");
    notify(vec![NotifyState::Stopping]).await;
    services.stop(core).await;
    Ok(())
}

/// Adopts what an earlier run has left on this host, and removes it.
async fn remove_all(path: PathBuf, config: Config) -> Result<(), Failure> {
    let state_folder = config.switch.state.clone();
    let live = live_path(&config.api.socket);
    let _lock = InstanceLock::take(&state_folder)?;
    let store = Store::open(&state_folder, &live)?;
    let membership = cluster::remembered(&state_folder)?;
    let plan = State::start_in(config.clone(), kept::living(&store, &config, &membership)?, membership)?;
    core::start(path, plan, store, cluster::channel().0).await?.stop(Leave::Nothing).await;
    info!("removed: the interfaces, the firewall table and the rules of this host's vswitchd");
    Ok(())
}

async fn reload(core: &Handle) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
    notify(vec![NotifyState::Reloading, NotifyState::MonotonicUsec(micros)]).await;
    // The outcome is logged where the reload is done, whatever its source.
    let core = core.by(Asker::Signal("SIGHUP"));
    let _ = core.tell(|reply| Request::Reload { dry_run: false, reply }).await;
    notify(vec![NotifyState::Ready]).await;
}

/// Notifies systemd. An unresponsive manager delays us only briefly.
async fn notify(states: Vec<NotifyState<'static>>) {
    // Without systemd this has no effect.
    let sent = spawn_blocking(move || sd_notify::notify(&states));
    let _ = timeout(Duration::from_millis(200), sent).await;
}
