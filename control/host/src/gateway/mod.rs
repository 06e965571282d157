//! The gateway: which networks may reach the outside, and which ports of the host lead to containers.
//!
//! [`Outside`] says what one network may; [`Gateway::set`] makes it so for all of them at once:
//!
//! | step | where |
//! |---|---|
//! | published ports are reserved by sockets | `ports` |
//! | one transaction changes our nftables table | `wants`, `rules`, `nft` |
//! | the shared chain of iptables accepts our packets, and so does firewalld | `others`, `firewalld` |
//! | forwarding is enabled in the kernel | `sysctl` |
//! | what it does not translate is relayed | `relay` |
//! | connections of who is gone end | `conntrack` |
//! | what others change of it is noticed | `watch` |
//!
//! Each call gives the complete requirements, so undoing a change is setting the previous ones, and recovering from a crash
//! is setting those of the state. Interfaces and their addresses are left out: they exist before.

mod conntrack;
mod error;
mod firewalld;
mod nft;
mod others;
mod owner;
mod ports;
mod relay;
mod rules;
mod sysctl;
mod users;
mod wants;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    thread,
};

use ipnet::IpNet;
use tracing::{info, warn};
use vswitch_model::publish::{Publish, Published};

use self::{
    conntrack::Stale,
    others::Chains,
    owner::Claim,
    ports::{HostPort, Ports},
    wants::Wants,
    watch::{Changed, Watch},
};
pub use self::{error::GatewayError, rules::TABLE};

/// Published ports, by where they are.
type Map = BTreeMap<HostPort, Published>;

/// A network that the host has an interface in: what may pass between it and the outside world.
///
/// If the host is its gateway, that is connections of containers, and connections to published ports. Other networks are outside
/// as well. Between an internal network and the outside nothing passes, whatever the routes of either; the host and its containers
/// reach each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// The host's interface in the network.
    pub ifname: String,
    /// Whether the network is internal; then it has no subnets here, since nothing is forwarded.
    pub internal: bool,
    /// The network's subnets. Without one the host is a station of the network and not its gateway: it only takes nothing from
    /// there for a tunnel's.
    pub subnets: Vec<IpNet>,
    /// Whether packets leave with the host's address; otherwise the outside needs a route to the subnets.
    pub masquerade: bool,
    /// The ports of the host that are published for the network.
    pub published: Vec<Published>,
    /// Tunnel ends of this host and its peers: address and UDP port, or the port alone (an unspecified address) if any address
    /// may be one. Nothing is sent there from the network.
    pub tunnels: Arc<BTreeSet<SocketAddr>>,
}

impl Outside {
    /// A network that the host is a station of, by this interface.
    pub fn of_station(ifname: String, tunnels: Arc<BTreeSet<SocketAddr>>) -> Self {
        Self {
            ifname,
            internal: false,
            subnets: Vec::new(),
            masquerade: false,
            published: Vec::new(),
            tunnels,
        }
    }

    /// An internal network, in which the host has this interface.
    pub fn of_internal(ifname: String, tunnels: Arc<BTreeSet<SocketAddr>>) -> Self {
        Self { internal: true, ..Self::of_station(ifname, tunnels) }
    }

    /// Whether it is a network's interface on the host, and not that of a port beside others in a network.
    pub fn is_networks(&self) -> bool {
        self.internal || self.is_gateway()
    }

    /// Whether the host is the network's gateway.
    fn is_gateway(&self) -> bool {
        !self.subnets.is_empty()
    }
}

/// What others have changed of what is ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interference {
    /// What has become of our table, if anything: it is to be [mended](Gateway::mend).
    pub table: Option<String>,
    /// Settings of the kernel that are set again: a sentence each.
    pub settings: Vec<String>,
}

/// The gateway in the network namespace of the calling threads.
///
/// Its calls run nft and wait some milliseconds: do not call them from an async task. Dropping it frees the host's ports;
/// the table stays, so connections survive the daemon. To remove the table, set no requirements.
#[derive(Debug, Default)]
pub struct Gateway {
    ports: Ports,
    /// What was applied last. `None`: unknown, as after a start.
    applied: Option<Vec<Outside>>,
    /// Whether there were foreign forward chains at the last look.
    has_others: bool,
    /// Foreign chains already warned about.
    warned: BTreeSet<String>,
    /// Held while there is a table.
    claim: Option<Claim>,
    watch: Watch,
}

impl Gateway {
    /// Without reservations; a table of an earlier run stays until the first [`Gateway::set`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses and reserves host ports for `publish`, for a container with `addresses` (at most one per family).
    ///
    /// Without an address of the host, a port is published for each family of the container, with one number. Our sockets `hold` them, or
    /// it is left to others, who may have them already, as podman has when it reloads a network. They stay reserved until a [`Gateway::set`] without them follows one with them, or until [`Gateway::release`].
    ///
    /// # Errors
    /// One of them is not available; then none is reserved.
    pub fn reserve(
        &mut self,
        publish: &[Publish],
        addresses: &[IpAddr],
        hold: bool,
    ) -> Result<Vec<Published>, GatewayError> {
        self.ports.reserve(publish, addresses, hold)
    }

    /// Releases reserved ports that will not be published; those already set are kept.
    pub fn release(&mut self, published: &[Published]) {
        self.ports.release(published);
    }

    /// Claims the table of this network namespace, until it is [set](Gateway::set) to nothing.
    ///
    /// # Errors
    /// [`GatewayError::Owned`]: another process has it.
    pub fn claim(&mut self) -> Result<(), GatewayError> {
        if self.claim.is_none() {
            self.claim = Some(Claim::take()?);
        }
        Ok(())
    }

    /// Applies `outsides`, and nothing else.
    ///
    /// Does nothing if they are applied already, as far as remembered; [`Gateway::renew`] ignores what is remembered.
    ///
    /// # Errors
    /// Another process sets the table, or it cannot be set. Nothing is changed, apart from kernel settings, which stay enabled.
    pub fn set(&mut self, outsides: &[Outside]) -> Result<(), GatewayError> {
        self.claim()?;
        let done = self.set_owned(outsides);
        if outsides.is_empty() && done.is_ok() {
            self.claim = None;
        }
        done
    }

    fn set_owned(&mut self, outsides: &[Outside]) -> Result<(), GatewayError> {
        let (wanted, mut refused) = ports::sort(outsides.iter().flat_map(|outside| &outside.published));
        if let Some((_, error)) = refused.pop() {
            return Err(error);
        }
        let before = self.ports.published();
        let done = match self.ports.keep(&wanted).pop() {
            Some((_, error)) => Err(error),
            None => self.apply(outsides),
        };
        match &done {
            Ok(()) => {
                self.ports.commit(&wanted);
                let without = |these: &Map, those: &Map| {
                    let differs =
                        |(port, published): &(&HostPort, &Published)| those.get(port) != Some(published);
                    these.iter().filter(differs).map(|(_, published)| *published).collect::<Vec<_>>()
                };
                Stale::of_ports(without(&before, &wanted), without(&wanted, &before)).delete();
            }
            Err(_) => {
                for (published, error) in self.ports.keep(&before) {
                    warn!("{published} is published, but no longer held: {error}");
                }
            }
        }
        done
    }

    /// Ends connections of endpoints with `addresses`, which are gone: who has such an address next has nothing to do with them.
    pub fn end_connections(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        Stale::of_endpoints(addresses).delete();
    }

    /// After a start: applies as much of `outsides` as possible, whatever the table is now.
    ///
    /// Returns the published ports that were left out, each with the reason: another process took their host port meanwhile.
    ///
    /// # Errors
    /// The rules cannot be made.
    pub fn restore(&mut self, outsides: &[Outside]) -> Result<Vec<(Published, GatewayError)>, GatewayError> {
        let (wanted, mut refused) = ports::sort(outsides.iter().flat_map(|outside| &outside.published));
        refused.extend(self.ports.keep(&wanted));
        let left_out: BTreeSet<_> = refused.iter().map(|(published, _)| *published).collect();
        let mut rest = outsides.to_vec();
        for outside in &mut rest {
            outside.published.retain(|published| !left_out.contains(published));
        }
        self.renew(&rest)?;
        Ok(refused)
    }

    /// [`Gateway::set`], even if `outsides` are remembered as applied: the tables may have been flushed.
    ///
    /// # Errors
    /// Those of [`Gateway::set`].
    pub fn renew(&mut self, outsides: &[Outside]) -> Result<(), GatewayError> {
        self.applied = None;
        self.set(outsides)
    }

    fn apply(&mut self, outsides: &[Outside]) -> Result<(), GatewayError> {
        let before = self.applied.take();
        // Networks and published ports come and go without changes to our rules in foreign chains; new foreign chains are
        // found by `Gateway::check`.
        let is_known = before.as_ref().is_some_and(|before| !before.is_empty());
        let is_same = is_known
            && (!self.has_others
                || before.as_deref().map(others::interfaces) == Some(others::interfaces(outsides)));
        // Foreign chains do not depend on our table, so nft lists them meanwhile.
        self.watch.begin();
        let (changed, chains) = thread::scope(|scope| {
            let chains = (!is_same).then(|| scope.spawn(Chains::read));
            let changed = change(before.as_deref(), outsides);
            (changed, chains.map(|chains| chains.join().expect("reading chains does not panic")))
        });
        changed?.into_iter().for_each(|own| self.watch.expect(own));
        let known: HashMap<_, _> =
            before.iter().flatten().map(|outside| (&outside.ifname, outside)).collect();
        let is_new = |outside: &&Outside| known.get(&outside.ifname) != Some(outside);
        let new: Vec<_> = outsides.iter().filter(is_new).cloned().collect();
        if let Err(error) = sysctl::prepare(&new) {
            if let Some(before) = before {
                change(None, &before)?.into_iter().for_each(|own| self.watch.expect(own));
            }
            return Err(error);
        }
        self.applied = Some(outsides.to_vec());
        match chains {
            Some(Ok(chains)) => self.open_others(&chains, outsides),
            // Our own table is up to date: what foreign chains drop is logged, and not a failure.
            Some(Err(error)) => warn!("what other firewalls drop is not known: {error}"),
            None => {}
        }
        Ok(())
    }

    /// Looks what others have changed since the last call. Settings of the kernel are set again, and so are our rules in the shared
    /// chain: Docker sets its policy to drop at every start. If nothing was changed, it costs some reads of /proc/sys.
    ///
    /// # Errors
    /// nft failed, or a setting cannot be written.
    pub fn check(&mut self, outsides: &[Outside]) -> Result<Interference, GatewayError> {
        if outsides.is_empty() {
            return Ok(Interference::default());
        }
        self.ports.hold_again();
        let Changed { ours, anything } = self.watch.look();
        let mut table = ours.map(|author| format!("the table inet {TABLE} was changed by {author}"));
        if anything {
            let chains = Chains::read()?;
            self.open_others(&chains, outsides);
            if table.is_none() && !chains.have_ours() {
                table = Some(format!("the table inet {TABLE} is gone"));
            }
        }
        Ok(Interference { table, settings: sysctl::restore(outsides)? })
    }

    /// [`Gateway::restore`], after the table was changed by others. Connections that began in between go on untranslated, as long
    /// as packets come: they are deleted.
    ///
    /// # Errors
    /// The rules cannot be made.
    pub fn mend(&mut self, outsides: &[Outside]) -> Result<Vec<(Published, GatewayError)>, GatewayError> {
        let left_out = self.restore(outsides)?;
        let masqueraded = outsides.iter().filter(|outside| outside.masquerade);
        let masqueraded = masqueraded.flat_map(|outside| outside.subnets.iter().copied());
        Stale::of_gap(self.ports.published().into_values(), masqueraded).delete();
        Ok(left_out)
    }

    /// A packet that our table accepts may still be dropped by a foreign chain.
    fn open_others(&mut self, chains: &Chains, outsides: &[Outside]) {
        self.has_others = chains.foreign().next().is_some();
        if chains.foreign().any(|chain| chain.is_firewallds()) {
            self.enter_zone(outsides);
        }
        for chain in chains.foreign() {
            let amended = chain.is_shared().then(|| chain.amend(outsides));
            if let Some(Ok(Some(own))) = amended {
                self.watch.expect(own);
            }
            let why = match amended {
                Some(Ok(Some(_))) if chain.drops() => {
                    info!(
                        "the chain {chain} drops what it does not know: its rules for our gateways are new"
                    );
                    continue;
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => format!(" ({error})"),
                None => String::new(),
            };
            let in_the_way = chain.drops() && outsides.iter().any(Outside::is_gateway);
            if in_the_way && self.warned.insert(chain.to_string()) {
                warn!(
                    "the chain {chain} drops what it does not know of what is forwarded{why}: let it accept the \
                     interfaces of the gateways, or containers will not reach the outside"
                );
            }
        }
    }
}

impl Gateway {
    /// Removes what outlives the last requirements: firewalld's zone.
    pub fn leave_zone(&self) {
        let is_there = Chains::read().is_ok_and(|chains| chains.foreign().any(|chain| chain.is_firewallds()));
        if is_there && let Err(why) = firewalld::remove() {
            warn!("firewalld keeps its zone vswitch ({why}): firewall-cmd --permanent --delete-zone=vswitch");
        }
    }

    /// Has firewalld let our interfaces pass.
    fn enter_zone(&mut self, outsides: &[Outside]) {
        match firewalld::admit(&others::interfaces(outsides)) {
            Ok(true) => info!("firewalld lets the gateways' interfaces pass: they are in its zone vswitch"),
            Ok(false) => {}
            Err(why) => {
                if self.warned.insert(why.clone()) {
                    warn!(
                        "firewalld rejects what containers send to the host, and what else its zones do not accept: its zone \
                         vswitch cannot be set ({why}). See docs/gateway.md, \"Beside other firewalls\""
                    );
                }
            }
        }
    }
}

/// Changes the table from `before` to `after`; `None`: it is unknown. Returns the id of the process that has changed it.
fn change(before: Option<&[Outside]>, after: &[Outside]) -> Result<Option<u32>, GatewayError> {
    let (before, after) = (before.map(Wants::of), Wants::of(after));
    if before.as_ref() == Some(&after) {
        return Ok(None);
    }
    let done = match before {
        // It fails if the table was changed by others.
        Some(before) if !before.is_empty() && !after.is_empty() => {
            nft::apply(&rules::difference(&before, &after)).or_else(|_| nft::apply(&rules::ruleset(&after)))
        }
        _ => nft::apply(&rules::ruleset(&after)),
    };
    done.map(Some)
}
