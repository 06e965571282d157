//! The edge to the outside world: which networks may leave the host, and which of the host's ports lead to containers.
//!
//! [`Outside`] says what one network may; [`Gateway::set`] makes it so for all of them at once:
//!
//! | step | where |
//! |---|---|
//! | published ports are held by sockets, so nobody else takes them | `ports` |
//! | one transaction changes our nftables table | `wants`, `rules`, `nft` |
//! | the chain that programs share lets pass what is ours | `others` |
//! | the kernel is told to forward | `sysctl` |
//! | what it does not translate is carried on | `relay` |
//!
//! What is wanted is told anew each time, so undoing a change is setting what was before, and recovering from a crash is
//! setting what the state says. What this leaves out: the interfaces and their addresses, which are there before.

mod error;
mod nft;
mod others;
mod ports;
mod relay;
mod rules;
mod sysctl;
mod wants;

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    thread,
};

use ipnet::IpNet;
use tracing::{info, warn};
use vswitch_model::publish::{Publish, Published};

pub use self::{error::GatewayError, rules::TABLE};
use self::{others::Chains, ports::Ports, wants::Wants};

/// A network that has a gateway on the host: what may pass between it and the outside world.
///
/// That is what containers begin, and what comes to published ports. Other networks are outside as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// The host's interface in the network, which has the gateway's addresses.
    pub ifname: String,
    /// The network's subnets.
    pub subnets: Vec<IpNet>,
    /// Whether what leaves has the host's address; otherwise the outside needs a route to the subnets.
    pub masquerade: bool,
    /// The ports of the host that lead into the network.
    pub published: Vec<Published>,
    /// Tunnel ends of this host and its peers: address and UDP port, or the port alone (an unspecified address) if any address
    /// may be one. Nothing is sent there from the network.
    pub tunnels: Arc<BTreeSet<SocketAddr>>,
}

/// What was made true of the outside world, in the network namespace of the threads that call it.
///
/// Its calls start nft and wait for it, some milliseconds: not for a thread that serves others. The host's ports are
/// free again when it is dropped; the table stays, so a daemon that ends takes no connection with it. To clear up, set
/// nothing.
#[derive(Debug, Default)]
pub struct Gateway {
    ports: Ports,
    /// What was made true. `None`: unknown, as after a start.
    applied: Option<Vec<Outside>>,
    /// Whether others had chains that what is forwarded passes, when nft was asked last.
    has_others: bool,
    /// Chains of others that were warned about.
    warned: BTreeSet<String>,
}

impl Gateway {
    /// Knows nothing and holds nothing; a table from before stays until the first [`Gateway::set`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses and holds host ports for `publish`, for a container with `addresses` (at most one a family).
    ///
    /// Without an address of the host, a port is published for each family that the container has, with one number.
    /// They are held until a [`Gateway::set`] without them follows one with them, or until [`Gateway::release`].
    ///
    /// # Errors
    /// One of them cannot be had; then none is held.
    pub fn reserve(
        &mut self,
        publish: &[Publish],
        addresses: &[IpAddr],
    ) -> Result<Vec<Published>, GatewayError> {
        self.ports.reserve(publish, addresses)
    }

    /// Lets go of reserved ports that will not be published after all; leaves those alone that were set.
    pub fn release(&mut self, published: &[Published]) {
        self.ports.release(published);
    }

    /// Makes `outsides`, and nothing else, true.
    ///
    /// Does nothing where it is so already; [`Gateway::renew`] looks at nothing it remembers.
    ///
    /// # Errors
    /// All is as before, apart from settings of the kernel: they stay switched on.
    pub fn set(&mut self, outsides: &[Outside]) -> Result<(), GatewayError> {
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
            Ok(()) => self.ports.commit(&wanted),
            Err(_) => {
                for (published, error) in self.ports.keep(&before) {
                    warn!("{published} is published, but no longer held: {error}");
                }
            }
        }
        done
    }

    /// After a start: makes as much of `outsides` true as can be had, whatever the table is now.
    ///
    /// Returns the published ports that were left out, each with the reason: their host port was taken meanwhile.
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

    /// [`Gateway::set`], even if it is remembered as true: somebody may have flushed all tables.
    ///
    /// # Errors
    /// Those of [`Gateway::set`].
    pub fn renew(&mut self, outsides: &[Outside]) -> Result<(), GatewayError> {
        self.applied = None;
        self.set(outsides)
    }

    fn apply(&mut self, outsides: &[Outside]) -> Result<(), GatewayError> {
        let before = self.applied.take();
        // Networks and published ports come and go without a change to what the rules in the chains of others say; and who
        // has no chains yet is found by `Gateway::check`, whenever he makes some.
        let is_known = before.as_ref().is_some_and(|before| !before.is_empty());
        let is_same = is_known
            && (!self.has_others
                || before.as_deref().map(others::patterns) == Some(others::patterns(outsides)));
        // What others have does not depend on our table, so nft is asked for it meanwhile.
        let (changed, chains) = thread::scope(|scope| {
            let chains = (!is_same).then(|| scope.spawn(Chains::read));
            let changed = change(before.as_deref(), outsides);
            (changed, chains.map(|chains| chains.join().expect("reading chains does not panic")))
        });
        changed?;
        let known: HashMap<_, _> =
            before.iter().flatten().map(|outside| (&outside.ifname, outside)).collect();
        let is_new = |outside: &&Outside| known.get(&outside.ifname) != Some(outside);
        let new: Vec<_> = outsides.iter().filter(is_new).cloned().collect();
        if let Err(error) = sysctl::prepare(&new) {
            if let Some(before) = before {
                change(None, &before)?;
            }
            return Err(error);
        }
        self.applied = Some(outsides.to_vec());
        match chains {
            Some(Ok(chains)) => self.open_others(&chains, outsides),
            // Our own table is as it should be: what others drop is told, and no failure.
            Some(Err(error)) => warn!("what other firewalls drop is not known: {error}"),
            None => {}
        }
        Ok(())
    }

    /// Whether our table is still there. The chain that programs share is made to let pass what is ours if it does not:
    /// Docker makes it drop whenever it starts.
    ///
    /// # Errors
    /// nft does not say.
    pub fn check(&mut self, outsides: &[Outside]) -> Result<bool, GatewayError> {
        if outsides.is_empty() {
            return Ok(true);
        }
        let chains = Chains::read()?;
        self.open_others(&chains, outsides);
        Ok(chains.have_ours())
    }

    /// A packet that we let pass may still be dropped by a chain of somebody else.
    fn open_others(&mut self, chains: &Chains, outsides: &[Outside]) {
        self.has_others = chains.foreign().next().is_some();
        for chain in chains.foreign() {
            let why = match chain.is_shared().then(|| chain.amend(outsides)) {
                Some(Ok(true)) if chain.drops() => {
                    info!(
                        "the chain {chain} drops what it does not know: its rules for our gateways are new"
                    );
                    continue;
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => format!(" ({error})"),
                None => String::new(),
            };
            let in_the_way = chain.drops() && !outsides.is_empty();
            if in_the_way && self.warned.insert(chain.to_string()) {
                warn!(
                    "the chain {chain} drops what it does not know of what is forwarded{why}: let it accept the \
                     interfaces of the gateways, or containers will not reach the outside"
                );
            }
        }
    }
}

/// Makes the table what `after` wants, where it is what `before` wants, or `None`: unknown.
fn change(before: Option<&[Outside]>, after: &[Outside]) -> Result<(), GatewayError> {
    let (before, after) = (before.map(Wants::of), Wants::of(after));
    if before.as_ref() == Some(&after) {
        return Ok(());
    }
    match before {
        // It fails if somebody has touched the table.
        Some(before) if !before.is_empty() && !after.is_empty() => {
            nft::apply(&rules::difference(&before, &after)).or_else(|_| nft::apply(&rules::ruleset(&after)))
        }
        _ => nft::apply(&rules::ruleset(&after)),
    }
}
