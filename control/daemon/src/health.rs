//! Which endpoints of services serve: checks from inside of their namespaces, and what follows from them.
//!
//! ```text
//! each second   the checks that are due, by the latest snapshot
//! check         connect, or connect and ask, in the endpoint's namespace
//! debounce      so many failures, or passes, in a row            pure
//! core          Command::NoteHealth: the endpoint gets new connections, or none
//! ```
//! Nothing of it is stored. An endpoint that has not passed yet gets nothing, unless no endpoint of its service has.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use hyper::{Request, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tracing::{info, warn};

use crate::{
    Failure,
    core::{self, Handle},
    state::{Backend, Command, State},
};
use vswitch_host::netns::{Namespace, run_in};
use vswitch_model::{Check, HealthSpec, Id, Name, Netns, api::events::What};

/// Checks that run at the same time, at most.
const CHECKS: usize = 64;

/// Passes in a row after which an endpoint gets connections.
const PASSES: u32 = 2;

/// How often an endpoint is checked that does not serve.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// An endpoint as one service sees it.
type Member = (Name, Id);

/// What is known of an endpoint.
#[derive(Debug)]
struct Patient {
    debounce: Debounce,
    due: Instant,
    is_running: bool,
}

/// Turns results into states: not every failure is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Debounce {
    serves: bool,
    /// Results in a row that contradict the state.
    against: u32,
}

impl Debounce {
    /// Notes a result. Returns whether the state changes by it.
    fn note(&mut self, passed: bool, retries: u32) -> bool {
        if passed == self.serves {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let changes = self.against >= if passed { PASSES } else { retries };
        if changes {
            *self = Self { serves: passed, against: 0 };
        }
        changes
    }
}

/// What is to be checked.
#[derive(Clone, Debug)]
struct Order {
    member: Member,
    /// Whether it has passed, as the core has it.
    serves: bool,
    /// The endpoint's name.
    name: Name,
    netns: Netns,
    address: IpAddr,
    health: HealthSpec,
}

/// Checks endpoints for as long as it is polled.
pub(crate) async fn serve(core: Handle) {
    let mut patients: BTreeMap<Member, Patient> = BTreeMap::new();
    let (report, mut reports) = mpsc::channel::<(Order, Result<(), String>)>(CHECKS);
    let room = Arc::new(Semaphore::new(CHECKS));
    let mut clock = interval(IMPATIENCE);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = clock.tick() => {
                let orders = orders(&core.snapshot().state);
                let there: BTreeSet<_> = orders.iter().map(|order| order.member.clone()).collect();
                patients.retain(|member, _| there.contains(member));
                for order in orders.iter() {
                    // One that was away meanwhile, or not checked, goes on from what the core still has of it.
                    let debounce = Debounce { serves: order.serves, against: 0 };
                    let new = || Patient { debounce, due: Instant::now(), is_running: false };
                    patients.entry(order.member.clone()).or_insert_with(new);
                }
                for order in due(orders, &patients, Instant::now()) {
                    let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { break };
                    let Some(patient) = patients.get_mut(&order.member) else { continue };
                    patient.is_running = true;
                    let report = report.clone();
                    tokio::spawn(async move {
                        let result = check(&order).await.map_err(|error| error.to_string());
                        drop(permit);
                        // The receiver ends with the daemon.
                        let _ = report.send((order, result)).await;
                    });
                }
            }
            Some((order, result)) = reports.recv() => {
                let Some(patient) = patients.get_mut(&order.member) else { continue };
                patient.is_running = false;
                let changes = patient.debounce.note(result.is_ok(), order.health.retries);
                let wait = Duration::from_secs(order.health.interval.into());
                patient.due = Instant::now() + if patient.debounce.serves { wait } else { IMPATIENCE };
                if changes && !tell(&core, &order, &result).await {
                    patients.remove(&order.member);
                }
            }
        }
    }
}

/// The checks that are due, those first that have waited longest: where more time out than may run at a time, all have their turn.
fn due(orders: Vec<Order>, patients: &BTreeMap<Member, Patient>, now: Instant) -> Vec<Order> {
    let due = |order: &Order| Some(patients.get(&order.member)?).filter(|it| !it.is_running).map(|it| it.due);
    let mut orders: Vec<_> = orders
        .into_iter()
        .filter_map(|order| Some((due(&order).filter(|due| *due <= now)?, order)))
        .collect();
    orders.sort_by_key(|(due, _)| *due);
    orders.into_iter().map(|(_, order)| order).collect()
}

/// All endpoints of this host that are checked.
fn orders(state: &State) -> Vec<Order> {
    let mut orders = Vec::new();
    if state.services().all(|it| it.spec.health.is_none()) {
        return orders;
    }
    let serving = state.serving();
    for spec in state.services().map(|it| it.spec) {
        let Some(health) = &spec.health else { continue };
        for endpoint in serving.of(&spec.name).iter().filter_map(Backend::here) {
            let netns = endpoint.sandbox.as_ref().or(endpoint.moved.as_ref());
            let (Some(netns), Some(address)) = (netns, endpoint.addresses.first()) else { continue };
            orders.push(Order {
                member: (spec.name.clone(), endpoint.id.clone()),
                serves: state.has_passed(&spec, endpoint),
                name: endpoint.name.clone(),
                netns: netns.clone(),
                address: address.addr(),
                health: health.clone(),
            });
        }
    }
    orders
}

/// Tells the core, the log and the journal of a change. Returns whether the core has taken it.
async fn tell(core: &Handle, order: &Order, result: &Result<(), String>) -> bool {
    let Order { member: (service, endpoint), name, health, .. } = order;
    let detail = match result {
        Ok(()) => {
            info!(%service, endpoint = %name, "passes {}: it serves", health.check);
            format!("endpoint {name} passes {}", health.check)
        }
        Err(why) => {
            warn!(%service, endpoint = %name, "fails {} ({why}): it gets no new connections while others serve", health.check);
            format!("endpoint {name} fails {}: {why}", health.check)
        }
    };
    let (service, endpoint, passes) = (service.clone(), endpoint.clone(), result.is_ok());
    core.note(What::ServiceChanged { service: service.clone(), detail });
    let command = Box::new(Command::NoteHealth { service, endpoint, passes });
    core.tell(|reply| core::Request::Execute(command, reply)).await.is_ok()
}

/// Makes one check.
async fn check(order: &Order) -> Result<(), Failure> {
    let patience = Duration::from_secs(order.health.timeout.into());
    let (netns, to) = (order.netns.clone(), SocketAddr::new(order.address, order.health.check.port()));
    let connect = move || -> io::Result<TcpStream> {
        let namespace = Namespace::open(&netns).map_err(io::Error::other)?;
        run_in(&namespace, || TcpStream::connect_timeout(&to, patience))?
    };
    let stream = spawn_blocking(connect).await??;
    match &order.health.check {
        Check::Tcp(_) => Ok(()),
        Check::Http(_, path) => {
            timeout(patience, ask(stream, to, path)).await.map_err(|_| "no answer in time")?
        }
    }
}

async fn ask(stream: TcpStream, host: SocketAddr, path: &str) -> Result<(), Failure> {
    stream.set_nonblocking(true)?;
    let stream = tokio::net::TcpStream::from_std(stream)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header(HOST, host.to_string()).body(String::new())?;
    let answered = async {
        let status = sender.send_request(request).await?.status();
        let serves = status.is_success() || status.is_redirection();
        if serves { Ok(()) } else { Err(Failure::from(format!("it answers {status}"))) }
    };
    tokio::select! {
        answered = answered => answered,
        _ = connection => Err("it closes the connection".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_results_in_a_row_make_a_change() {
        let mut debounce = Debounce::default();
        let mut changes = |results: &str| -> String {
            let note = |result| if debounce.note(result == '+', 3) { '!' } else { '.' };
            results.chars().map(note).collect()
        };
        assert_eq!(changes("-+-++"), "....!");
        assert_eq!(changes("+--+--+"), ".......");
        assert_eq!(changes("---"), "..!");
        assert_eq!(changes("-+-+++"), "....!.");
    }
    #[tokio::test]
    async fn those_that_have_waited_longest_are_first() {
        let now = Instant::now();
        let order = |number: usize| Order {
            member: ("web".parse().unwrap(), Id::of(&number.to_string())),
            serves: false,
            name: format!("web-{number}").parse().unwrap(),
            netns: Netns::Name("web".into()),
            address: [10, 9, 0, 2].into(),
            health: HealthSpec::new("tcp:80".parse().unwrap()),
        };
        let orders: Vec<_> = (0..3 * CHECKS).map(order).collect();
        let new = |it: &Order| {
            (it.member.clone(), Patient { debounce: Debounce::default(), due: now, is_running: false })
        };
        let mut patients: BTreeMap<_, _> = orders.iter().map(new).collect();
        // All time out: each round has room for a third of them.
        let mut checked = BTreeSet::new();
        for round in 1..=3 {
            let then = now + IMPATIENCE * round;
            for order in due(orders.clone(), &patients, then).into_iter().take(CHECKS) {
                checked.insert(order.name.clone());
                if let Some(patient) = patients.get_mut(&order.member) {
                    patient.due = then + IMPATIENCE;
                }
            }
        }
        assert_eq!(checked.len(), orders.len());
    }
}
