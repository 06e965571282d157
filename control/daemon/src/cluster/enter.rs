//! How this host gets into a cluster, and out of it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep, timeout_at},
};
use tracing::{info, warn};
use vswitch_cluster::{
    keys::{Key, PREFIX},
    mirror::Mirror,
    record::{Availability, FORMAT, Gone, Meta, Node, Pools, Record},
    store::{Compare, Op, Store, StoreError, Txn, etcd::Etcd},
};
use vswitch_host::random;
use vswitch_model::{Error, Name, VXLAN_PORT, api::cluster as api, ipam::unique_local};

use super::{
    door,
    folder::{Certificates, Folder, Member},
    fresh_id, host_name,
    manager::Manager,
    pki::{Authority, HostKey, Token},
    renewal,
    server::Server,
    session::Session,
};
use crate::{
    core::{Handle, Request},
    state::Membership,
};

/// Time limit for a store to start, and for a new member to have its first copy.
const PATIENCE: Duration = Duration::from_secs(15);

/// Pause before a store that does not answer is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// Records that one transaction deletes.
const AT_ONCE: usize = 60;

/// A run as a member, with what a manager does for the others.
pub(super) struct Running {
    pub(super) session: Session,
    pub(super) manager: Option<Manager>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Running {
    /// Goes on with the membership that the folder has, if any.
    pub(super) fn resume(core: &Handle, folder: &Folder) -> Result<Option<Self>, Error> {
        let Some(member) = folder.member()? else { return Ok(None) };
        let copy = folder.copy(&member.prefix);
        Self::begin(member, folder.clone(), core, copy).map(Some)
    }

    fn begin(member: Member, folder: Folder, core: &Handle, copy: Mirror) -> Result<Self, Error> {
        let run = hexadecimal(&random::bytes::<8>()?);
        let seed = u64::from_le_bytes(random::bytes()?);
        let mut tasks = Vec::new();
        if member.keeps_store {
            let address = member.node.address;
            let (cluster, name) = (member.cluster.clone(), member.name.clone());
            let server = Server { cluster, name, address, folder: folder.clone() };
            tasks.push(tokio::spawn(server.run()));
        }
        let manager = Manager::load(&member, &folder)?;
        let renewed = Arc::new(Notify::new());
        if let Some(manager) = &manager {
            tasks.push(tokio::spawn(manager.door(&member, &folder, core.cluster(), &renewed)));
        }
        if member.tls.as_ref() == Some(&own_certificates(&folder)) {
            tasks.push(tokio::spawn(renewal::run(core.cluster().clone(), folder.clone(), renewed)));
        }
        let cluster = member.core(copy, run, seed);
        let session = Session::new(member, folder, core.clone(), cluster)?;
        info!(cluster = session.member.cluster.short(), host = %session.member.name, "in a cluster");
        Ok(Self { session, manager, tasks })
    }

    /// Follows the store until there is a first copy of it.
    async fn catch_up(&mut self) -> Result<(), Error> {
        let session = &mut self.session;
        let until = Instant::now() + PATIENCE;
        let is_in = |session: &Session| {
            let name = Key::Node(session.member.name.clone());
            session.cluster().is_following() && session.cluster().mirror().get(&name).is_some()
        };
        while !is_in(session) {
            let turn = async {
                tokio::select! {
                    Some(input) = session.queue.recv() => session.take(input).await,
                    _ = session.tick.tick() => session.ticked().await,
                }
            };
            if timeout_at(until, turn).await.is_err() || session.cluster().fenced().is_some() {
                let why = session.cluster().fenced().or_else(|| session.cluster().lost().map(|(why, _)| why));
                let why = why.unwrap_or("no answer in time");
                return Err(Error::unavailable(format!("the cluster's store cannot be used: {why}")));
            }
        }
        session.give().await;
        Ok(())
    }
}

/// Begins a cluster.
pub(super) async fn init(
    init: api::Init,
    core: &Handle,
    folder: &Folder,
) -> Result<(Running, api::JoinToken), Error> {
    let name = host_name(core, init.name)?;
    let Some(address) = init.advertise.or_else(|| own_end(core)) else {
        return Err(Error::invalid(
            "name the address by which the other hosts reach this one: --advertise ADDRESS",
        ));
    };
    let cluster = fresh_id()?;
    let node = node(core, address, init.store.is_none())?;
    let member = match init.store {
        Some(given) => given_member(&given, cluster, name, node)?,
        None => {
            Server::check()?;
            Member {
                store: vec![Server::url(address)],
                prefix: PREFIX.into(),
                tls: Some(own_certificates(folder)),
                keeps_store: true,
                cluster,
                name,
                node,
            }
        }
    };
    let begun = found(member, core, folder).await;
    if begun.is_err() {
        folder.remove()?;
    }
    begun
}

/// Writes the first records of a cluster, after its store was started if this host keeps it.
async fn found(member: Member, core: &Handle, folder: &Folder) -> Result<(Running, api::JoinToken), Error> {
    if member.keeps_store {
        let (authority, kept) = Authority::new(&member.cluster)?;
        let key = HostKey::new()?;
        let certificate =
            authority.sign(&member.name, &names_of(&member.name, member.node.address), key.public())?;
        folder.write("ca.crt", authority.certificate().as_bytes())?;
        folder.write("ca.key", kept.as_bytes())?;
        folder.write("token", hexadecimal(&random::bytes::<16>()?).as_bytes())?;
        folder.write("host.crt", certificate.as_bytes())?;
        folder.write("host.key", key.pem().as_bytes())?;
    }
    let running = Running::begin(member.clone(), folder.clone(), core, Mirror::new(&member.prefix));
    let mut running = running?;
    let key = |key: Key| format!("{}{key}", member.prefix);
    let put = |at: Key, record: Record| Op::Put { key: key(at), value: record.write(), lease: None };
    let ipv6 = unique_local(&member.cluster.to_string()).into();
    let pools = Pools {
        overlay: vswitch_model::PoolsSpec::default().overlay,
        ipv6: vec![vswitch_model::PoolSpec { base: ipv6, size: 64 }],
    };
    let meta = Meta { format: FORMAT, id: member.cluster.clone(), restored: 0 };
    let first = Txn {
        when: vec![Compare::NoneBelow(member.prefix.clone())],
        then: vec![
            put(Key::Meta, Record::Meta(meta)),
            put(Key::Pools, Record::Pools(pools)),
            put(Key::Node(member.name.clone()), Record::Node(member.node.clone().into())),
        ],
    };
    let store = running.session.store();
    let done = insist(|| store.transact(first.clone())).await?;
    let mut is_begun = done.succeeded;
    if !is_begun {
        // An earlier attempt may have been executed without an answer.
        let listing = insist(|| store.list(&member.prefix)).await?;
        let meta = Mirror::new(&member.prefix).meta_of(&listing);
        is_begun = meta.is_some_and(|meta| meta.id == member.cluster);
    }
    if !is_begun {
        let why = format!(
            "there is a cluster below {} in that store already: join it with `vswitchctl cluster join --store`, or choose another --prefix",
            member.prefix
        );
        return Err(Error::conflict(why));
    }
    folder.keep_member(&member)?;
    running.catch_up().await?;
    let invitation = running.token(false)?;
    Ok((running, invitation))
}

/// Joins a cluster: by a token at a manager, or by its store.
pub(super) async fn join(join: api::Join, core: &Handle, folder: &Folder) -> Result<Running, Error> {
    let name = host_name(core, join.name.clone())?;
    let joined = match (&join.store, &join.manager, &join.token) {
        (Some(given), None, None) => join_by_store(given, &join, name, core, folder).await,
        (None, Some(manager), Some(token)) => {
            join_by_token(manager, &token.parse()?, &join, name, core, folder).await
        }
        _ => Err(Error::invalid(
            "name a manager and its token: `vswitchctl cluster join --token TOKEN ADDRESS`, or a store: `--store`",
        )),
    };
    if joined.is_err() {
        folder.remove()?;
    }
    joined
}

async fn join_by_token(
    manager: &str,
    token: &Token,
    join: &api::Join,
    name: Name,
    core: &Handle,
    folder: &Folder,
) -> Result<Running, Error> {
    let manager = socket_address(manager)?;
    let address = match join.advertise.or_else(|| own_end(core)) {
        Some(address) => address,
        None => towards(manager)?,
    };
    let key = HostKey::new()?;
    let knock = door::Knock {
        secret: token.secret.clone(),
        format: FORMAT,
        name,
        node: node(core, address, false)?,
        key: hexadecimal(key.public()),
    };
    let welcome = door::knock(manager, token, &knock).await?;
    let name = knock.name.clone();
    let entered = enter_welcome(welcome, &knock, &key, core, folder).await;
    let Err(error) = entered else { return entered };
    // It was let in, and is not there: its name is to be free again.
    match door::say(manager, &token.fingerprint, None, &door::Said::Retreat(knock.into())).await {
        Ok(_) => Err(error),
        Err(lost) => Err(Error::new(
            error.kind,
            format!(
                "{}; the cluster still has host {name}, remove it with `vswitchctl cluster rm {name}`: {}",
                error.sentence, lost.sentence
            ),
        )),
    }
}

/// Follows the cluster that a manager has let this host in.
async fn enter_welcome(
    welcome: door::Welcome,
    knock: &door::Knock,
    key: &HostKey,
    core: &Handle,
    folder: &Folder,
) -> Result<Running, Error> {
    folder.write("ca.crt", welcome.authority.as_bytes())?;
    folder.write("host.crt", welcome.certificate.as_bytes())?;
    folder.write("host.key", key.pem().as_bytes())?;
    let member = Member {
        cluster: welcome.cluster,
        name: knock.name.clone(),
        node: knock.node.clone(),
        store: welcome.store,
        prefix: welcome.prefix,
        tls: Some(own_certificates(folder)),
        keeps_store: false,
    };
    enter(member, core, folder).await
}

async fn join_by_store(
    given: &api::Given,
    join: &api::Join,
    name: Name,
    core: &Handle,
    folder: &Folder,
) -> Result<Running, Error> {
    let address = join.advertise.or_else(|| own_end(core)).ok_or_else(|| {
        Error::invalid("name the address by which the other hosts reach this one: --advertise ADDRESS")
    })?;
    let node = node(core, address, false)?;
    // The cluster's id is in the store.
    let mut member = given_member(given, fresh_id()?, name, node)?;
    let store = Etcd::new(&member.access()).map_err(Error::invalid)?;
    let listing = insist(|| store.list(&member.prefix)).await?;
    let mut mirror = Mirror::new(&member.prefix);
    let meta = mirror.meta_of(&listing).ok_or_else(|| {
        Error::not_found(format!(
            "there is no cluster below {} in that store: begin one with `vswitchctl cluster init --store`",
            member.prefix
        ))
    })?;
    if meta.format != FORMAT {
        return Err(Error::conflict(format!(
            "the cluster's format is {}, and this vswitchd knows {FORMAT}: use the same version on all hosts",
            meta.format
        )));
    }
    mirror.resync(listing);
    if let Some((other, _)) = mirror.nodes().find(|(other, _)| **other == member.name) {
        return Err(Error::conflict(format!(
            "there is a host {other} in the cluster already: give this one another name (switch.name, or --name), or remove that one with `vswitchctl cluster rm {other}`"
        )));
    }
    member.cluster = meta.id;
    member.node.restored = meta.restored;
    let key = |key: Key| format!("{}{key}", member.prefix);
    let node = Key::Node(member.name.clone());
    let record = Record::Node(member.node.clone().into());
    let value = record.write();
    let txn = Txn {
        when: vec![Compare::Absent(key(node.clone()))],
        then: vec![
            Op::Put { key: key(node.clone()), value, lease: None },
            Op::Delete(key(Key::Gone(member.name.clone()))),
        ],
    };
    let done = insist(|| store.transact(txn.clone())).await?;
    if !done.succeeded {
        // An earlier attempt may have been executed without an answer.
        mirror.resync(insist(|| store.list(&member.prefix)).await?);
    }
    let is_in = mirror.get(&node).is_some_and(|entry| entry.record == record);
    if !done.succeeded && !is_in {
        return Err(Error::conflict("another host has joined by this name just now: choose another"));
    }
    let full = key(node);
    let entered = enter(member, core, folder).await;
    if entered.is_err() {
        // It is not there: its name is to be free again. A store that cannot be reached keeps it.
        let then = vec![Op::Delete(full)];
        if let Err(error) = store.transact(Txn { when: Vec::new(), then }).await {
            warn!("this host's record is still in the store: {error}");
        }
    }
    entered
}

/// Repeats a call that is not answered: the store may have just begun, elect a leader, or wait for its disk.
async fn insist<T, F: Future<Output = Result<T, StoreError>>>(call: impl Fn() -> F) -> Result<T, Error> {
    let until = Instant::now() + PATIENCE;
    loop {
        match call().await {
            Err(StoreError::Unreachable(_)) if Instant::now() < until => sleep(PAUSE).await,
            outcome => return outcome.map_err(|error| Error::unavailable(error.to_string())),
        }
    }
}

/// Follows the cluster for the first time.
async fn enter(member: Member, core: &Handle, folder: &Folder) -> Result<Running, Error> {
    folder.keep_member(&member)?;
    let empty = Mirror::new(&member.prefix);
    let mut running = Running::begin(member, folder.clone(), core, empty)?;
    running.catch_up().await?;
    Ok(running)
}

/// Leaves the cluster: takes everything of this host out of the store, and forgets it.
pub(super) async fn leave(
    running: &mut Option<Running>,
    leave: &api::Leave,
    core: &Handle,
) -> Result<(), Error> {
    let Some(member) = running.as_mut() else { return Ok(()) };
    let session = &mut member.session;
    let globals: Vec<Name> = session.networks().map(|network| network.name.clone()).collect();
    let used: Vec<String> = core
        .snapshot()
        .state
        .endpoints()
        .filter(|it| globals.contains(&it.network))
        .map(|it| format!("{} in {}", it.name, it.network))
        .collect();
    if !leave.force && !used.is_empty() {
        return Err(Error::conflict(format!(
            "endpoints of this host are in global networks ({}): disconnect them, or use --force",
            used.join(", ")
        )));
    }
    let others =
        session.cluster().hosts().into_iter().filter(|host| host.name != session.member.name).count();
    if !leave.force && session.member.keeps_store && others > 0 {
        return Err(Error::conflict(format!(
            "this host keeps the store, and {others} other hosts are in the cluster: let them leave first, or use --force, which ends the cluster"
        )));
    }
    if !leave.force && session.cluster().fenced().is_none() && !session.member.keeps_store {
        withdraw(session).await.map_err(|error| {
            Error::unavailable(format!(
                "{error}: leave later, or use --force and `cluster rm` on another host"
            ))
        })?;
    }
    let folder = session.folder.clone();
    *running = None;
    folder.remove()?;
    core.tell(|reply| Request::Follow(Arc::new(Membership::default()), reply)).await?;
    info!("left the cluster");
    Ok(())
}

/// Deletes what this host has in the store.
async fn withdraw(session: &mut Session) -> Result<(), StoreError> {
    let mirror = session.cluster().mirror();
    let name = &session.member.name;
    let full = |key: &Key| mirror.full(key);
    let owned: Vec<Op> = mirror.owned(name).map(|(key, _)| Op::Delete(full(key))).collect();
    // Fenced from here on, so that what is under way does not come after the end.
    let gone = Record::Gone(Gone { node: Some(session.member.node.id.clone()) });
    let mut last = vec![
        Op::Put { key: full(&Key::Gone(name.clone())), value: gone.write(), lease: None },
        Op::Delete(full(&Key::Node(name.clone()))),
        Op::Delete(full(&Key::Alive(name.clone()))),
    ];
    let store = session.store().clone();
    store.transact(Txn { when: Vec::new(), then: std::mem::take(&mut last) }).await?;
    for some in owned.chunks(AT_ONCE) {
        store.transact(Txn { when: Vec::new(), then: some.to_vec() }).await?;
    }
    Ok(())
}

/// A membership by a store that is there already.
fn given_member(
    given: &api::Given,
    cluster: vswitch_model::Id,
    name: Name,
    node: Node,
) -> Result<Member, Error> {
    let path = |text: &Option<String>, option: &str| match text {
        Some(text) if text.starts_with('/') => Ok(PathBuf::from(text)),
        Some(text) => Err(Error::invalid(format!("--{option} {text}: write it from the root, /…"))),
        None => Err(Error::invalid(format!(
            "a store that is reached by https needs --cacert, --cert and --key: --{option} is missing"
        ))),
    };
    let secure = given.members.iter().any(|member| member.starts_with("https://"));
    let tls = if secure {
        Some(Certificates {
            authority: path(&given.cacert, "cacert")?,
            certificate: path(&given.cert, "cert")?,
            key: path(&given.key, "key")?,
        })
    } else {
        warn!("the store is reached without TLS: everyone on the way can read and change the cluster");
        None
    };
    let mut prefix = given.prefix.clone().unwrap_or_else(|| PREFIX.into());
    if !prefix.ends_with('/') {
        prefix.push('/');
    }
    Ok(Member { cluster, name, node, store: given.members.clone(), prefix, tls, keeps_store: false })
}

fn own_certificates(folder: &Folder) -> Certificates {
    let [authority, certificate, key] = ["ca.crt", "host.crt", "host.key"].map(|file| folder.path(file));
    Certificates { authority, certificate, key }
}

/// What the others shall know of this host.
fn node(core: &Handle, address: IpAddr, manager: bool) -> Result<Node, Error> {
    let snapshot = core.snapshot();
    let own = snapshot.state.endpoint();
    let vxlan = own.as_ref().and_then(|port| port.device.endpoint());
    if let Some(vxlan) = vxlan.filter(|vxlan| vxlan.local.ip() != address) {
        return Err(Error::invalid(format!(
            "vxlan.local in net.toml is {}, and the cluster would send to {address}: advertise that one, or change net.toml",
            vxlan.local
        )));
    }
    Ok(Node {
        id: random::id()?,
        address,
        port: vxlan.map_or(VXLAN_PORT, |vxlan| vxlan.port),
        version: env!("CARGO_PKG_VERSION").into(),
        manager,
        availability: Availability::Active,
        labels: Default::default(),
        restored: 0,
    })
}

/// Where this host's tunnel is, if it has one.
fn own_end(core: &Handle) -> Option<IpAddr> {
    Some(core.snapshot().state.endpoint()?.device.endpoint()?.local.ip())
}

/// The address of this host by which it reaches another one.
fn towards(other: SocketAddr) -> Result<IpAddr, Error> {
    let any: IpAddr =
        if other.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Nothing is sent: the kernel only chooses the way.
    let found = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(other)?;
        socket.local_addr()
    });
    found.map(|it| it.ip()).map_err(|error| {
        Error::unavailable(format!(
            "there is no way to {other}: {error}; name this host's address with --advertise"
        ))
    })
}

fn socket_address(text: &str) -> Result<SocketAddr, Error> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let with_default = || bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, door::PORT));
    text.parse::<SocketAddr>().or_else(|_| with_default()).map_err(|_| {
        Error::invalid(format!(
            "{text:?} is not the address of a manager: write it like 10.8.0.1 or 10.8.0.1:2377"
        ))
    })
}

/// What a host's certificate is valid for.
pub(super) fn names_of(name: &Name, address: IpAddr) -> Vec<String> {
    vec![name.to_string(), address.to_string(), "127.0.0.1".into(), "localhost".into()]
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn bytes_of(text: &str) -> Result<Vec<u8>, Error> {
    let invalid =
        || Error::invalid("the key of the new host cannot be read: use the same version on all hosts");
    if !text.is_ascii() || !text.len().is_multiple_of(2) || text.len() > 1024 {
        return Err(invalid());
    }
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| invalid());
    (0..text.len()).step_by(2).map(byte).collect()
}
