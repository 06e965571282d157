//! The next certificate of this host, in time: from a manager, or from itself if it is one.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::sleep};
use tracing::{info, warn};
use vswitch_model::Error;

use super::{
    Call, Client, door,
    enter::hexadecimal,
    folder::Folder,
    pki::{HostKey, Pair, ends_soon},
};

/// Pauses between two looks at the certificate: while all is well, and after the first failure.
const PAUSE: [Duration; 2] = [Duration::from_hours(6), Duration::from_secs(5)];

/// Renews the certificate that the folder has whenever it is due, and says so.
pub(super) async fn run(client: Client, folder: Folder, renewed: Arc<Notify>) {
    let mut pause = PAUSE[1];
    loop {
        match renew(&client, &folder).await {
            Ok(false) => pause = PAUSE[0],
            Ok(true) => {
                info!("this host has another certificate");
                renewed.notify_one();
                // The connection that is there goes on by the old one.
                let _ = client.call(Call::Reconnect).await;
                pause = PAUSE[0];
            }
            Err(error) => {
                warn!("this host's certificate is not renewed: {}", error.sentence);
                pause = (pause * 2).clamp(PAUSE[1], Duration::from_hours(1));
            }
        }
        sleep(pause).await;
    }
}

/// Renews the certificate if it is due. Returns whether it was.
async fn renew(client: &Client, folder: &Folder) -> Result<bool, Error> {
    let pair = Pair::of(folder)?;
    if !ends_soon(&door::der_of(&pair.certificate)?) {
        return Ok(false);
    }
    let cluster = client.call(Call::Show).await?;
    let own = cluster.hosts.iter().find(|it| it.this);
    let own = own.ok_or_else(|| Error::unavailable("the cluster does not know this host yet"))?;
    let key = hexadecimal(HostKey::read(&pair.key)?.public());
    let said = door::Said::Renew { name: own.name.clone(), address: own.address, key };
    let authority = door::fingerprint_of(&folder.text("ca.crt")?.unwrap_or_default())?;
    let mut outcome = Err(Error::unavailable("there is no manager"));
    for manager in cluster.hosts.iter().filter(|it| it.manager) {
        outcome = if manager.this {
            client.call(|reply| Call::Admit(said.clone(), reply)).await
        } else {
            let manager = SocketAddr::new(manager.address, door::PORT);
            door::say(manager, &authority, Some(&pair), &said).await
        };
        if let Ok(door::Got::Certificate(certificate)) = &outcome {
            folder.write("host.crt", certificate.as_bytes())?;
            return Ok(true);
        }
    }
    outcome.map(|_| false)
}
