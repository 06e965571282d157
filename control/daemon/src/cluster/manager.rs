//! What a manager does for the others: it lets hosts in, and signs their certificates.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, oneshot},
    time::sleep,
};
use tracing::warn;
use vswitch_cluster::{
    core::Ask,
    keys::Key,
    record::{FORMAT, Node, Record},
};
use vswitch_host::random;
use vswitch_model::{Error, Name, api::cluster as api};

use super::{
    Call, Client, Reply, door,
    enter::{Running, bytes_of, hexadecimal, names_of},
    folder::{Folder, Member},
    pki::{Authority, Pair, Token, fingerprint},
};

/// What lets hosts in.
pub(super) struct Manager {
    authority: Arc<Authority>,
    token: Token,
}

impl Manager {
    /// That of a host that has the authority's key.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn load(member: &Member, folder: &Folder) -> Result<Option<Self>, Error> {
        let kept = (folder.text("ca.key")?, folder.text("ca.crt")?, folder.text("token")?);
        let (Some(key), Some(certificate), Some(secret)) = kept else { return Ok(None) };
        let fingerprint = door::fingerprint_of(&certificate)?;
        let authority = Arc::new(Authority::load(&member.cluster, certificate, &key)?);
        Ok(Some(Self { authority, token: Token { fingerprint, secret } }))
    }

    /// The task that lets hosts in. It shows another certificate when it is told that there is one.
    pub(super) fn door(
        &self,
        member: &Member,
        folder: &Folder,
        client: &Client,
        renewed: &Arc<Notify>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (address, authority) = (member.node.address, self.authority.certificate().to_owned());
        let (client, folder, renewed) = (client.clone(), folder.clone(), Arc::clone(renewed));
        async move {
            loop {
                let client = client.clone();
                let admit = move |said| {
                    let client = client.clone();
                    async move { client.call(|reply| Call::Admit(said, reply)).await }
                };
                let open = async {
                    let pair = Pair::of(&folder)?;
                    door::keep(address, pair, authority.clone(), admit).await
                };
                tokio::select! {
                    Err(error) = open => warn!("{}", error.sentence),
                    () = renewed.notified() => continue,
                }
                sleep(Duration::from_secs(2)).await;
            }
        }
    }

    fn invitation(&self, member: &Member) -> api::JoinToken {
        let token = self.token.to_string();
        let command = format!("vswitchctl cluster join --token {token} {}", member.node.address);
        api::JoinToken { token: Some(token), command }
    }

    fn check(&self, secret: &str) -> Result<(), Error> {
        // Digests of equal length: how far they agree tells nothing of the secret.
        let digest = |text: &str| fingerprint(text.as_bytes());
        if digest(secret) == digest(&self.token.secret) {
            return Ok(());
        }
        Err(Error::forbidden(
            "the join token is not valid, or no longer: `vswitchctl cluster token` prints the present one on a manager",
        ))
    }

    fn sign(&self, name: &Name, address: IpAddr, key: &str) -> Result<String, Error> {
        self.authority.sign(name, &names_of(name, address), &bytes_of(key)?)
    }

    fn welcome(&self, knock: &door::Knock, member: &Member) -> Result<door::Welcome, Error> {
        self.check(&knock.secret)?;
        if knock.format != FORMAT {
            return Err(Error::conflict(format!(
                "the cluster's format is {FORMAT}, and this host's is {}: use the same version on all hosts",
                knock.format
            )));
        }
        Ok(door::Welcome {
            cluster: member.cluster.clone(),
            authority: self.authority.certificate().to_owned(),
            certificate: self.sign(&knock.name, knock.node.address, &knock.key)?,
            store: member.store.clone(),
            prefix: member.prefix.clone(),
        })
    }
}

impl Running {
    /// How hosts join.
    pub(super) fn token(&mut self, rotate: bool) -> Result<api::JoinToken, Error> {
        let Some(manager) = &mut self.manager else {
            let member = &self.session.member;
            let managers = self.session.cluster().hosts().into_iter().filter(|host| host.node.manager);
            let managers: Vec<_> = managers.map(|host| host.name.to_string()).collect();
            if managers.is_empty() {
                let command = format!(
                    "vswitchctl cluster join --store {} --cacert FILE --cert FILE --key FILE",
                    member.store.join(",")
                );
                return Ok(api::JoinToken { token: None, command });
            }
            let why = format!("this host admits no others: ask on {}", managers.join(", "));
            return Err(Error::conflict(why));
        };
        if rotate {
            manager.token.secret = hexadecimal(&random::bytes::<16>()?);
            self.session.folder.write("token", manager.token.secret.as_bytes())?;
        }
        Ok(manager.invitation(&self.session.member))
    }

    /// Serves what is said at the door of this host.
    pub(super) fn admit(&mut self, said: door::Said, reply: Reply<door::Got>) {
        let Some(manager) = &self.manager else {
            return drop(reply.send(Err(Error::forbidden("this host admits no others: join at a manager"))));
        };
        let decided = match said {
            door::Said::Join(knock) => manager.welcome(&knock, &self.session.member).map(|welcome| {
                let node = Box::new(Node { manager: false, ..knock.node });
                (Ask::AdmitHost { name: knock.name, node }, door::Got::Welcome(welcome.into()))
            }),
            door::Said::Retreat(knock) => manager
                .check(&knock.secret)
                .map(|()| (Ask::RetractHost { name: knock.name, id: knock.node.id }, door::Got::Done)),
            door::Said::Renew { name, address, key } => {
                let signed = self.known(&name, address).and_then(|()| manager.sign(&name, address, &key));
                return drop(reply.send(signed.map(door::Got::Certificate)));
            }
        };
        let (ask, got) = match decided {
            Ok(decided) => decided,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let (done, agreed) = oneshot::channel();
        self.session.ask(ask, done);
        tokio::spawn(async move {
            let stopping = |_| Err(Error::unavailable("vswitchd is stopping"));
            let agreed = agreed.await.unwrap_or_else(stopping);
            let _ = reply.send(agreed.map(|()| got));
        });
    }

    /// Checks that a host of that name and address is in the cluster.
    fn known(&self, name: &Name, address: IpAddr) -> Result<(), Error> {
        match self.session.cluster().mirror().get(&Key::Node(name.clone())).map(|it| &it.record) {
            Some(Record::Node(node)) if node.address == address => Ok(()),
            _ => Err(Error::forbidden(format!("host {name} at {address} is not in the cluster: join again"))),
        }
    }
}
