//! The daemon's way to the outside world: ports of the host that are held, and rules that are set.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio::task::spawn_blocking;
use tracing::{debug, info, warn};

use super::{Missing, core::Core};
use vswitch_host::gateway::{Gateway, Outside, TABLE};
use vswitch_model::{
    Connect, Error, Name, NetworkSpec,
    options::{EndpointOptions, Meaning},
    publish::{Publish, Published},
};

/// How often it is looked at what others have made of the host's rules: some milliseconds of nft(8) each time.
const CHECK: Duration = Duration::from_secs(5);

impl Core {
    /// Holds ports of the host for an endpoint that is about to be.
    pub(super) async fn reserve(&self, network: &Name, connect: &Connect) -> Result<Vec<Published>, Error> {
        let Some(network) = self.state.network(network).filter(|_| !connect.publish.is_empty()) else {
            return Ok(Vec::new());
        };
        let addresses = self.state.choose_addresses(&network.spec, connect.ip, connect.ip6)?;
        let options = EndpointOptions::read(&connect.options)?;
        self.reserve_for(&network.spec, &addresses, options.hold, connect.publish.clone()).await
    }

    /// Publishes ports for an endpoint of a network that has `addresses`, or will have them; with `hold` sockets of ours keep
    /// others from them.
    pub(super) async fn reserve_for(
        &self,
        network: &NetworkSpec,
        addresses: &[IpNet],
        hold: bool,
        mut publish: Vec<Publish>,
    ) -> Result<Vec<Published>, Error> {
        self.state.check_publishable(network)?;
        let addresses: Vec<_> = addresses.iter().map(IpNet::addr).collect();
        publish.iter_mut().for_each(|it| it.host_ip = it.host_ip.or(network.options.binding));
        let mut published = self.gate(move |gateway| gateway.reserve(&publish, &addresses)).await??;
        published.iter_mut().for_each(|it| it.held = hold);
        Ok(published)
    }

    /// Does something with the gateway, which may take a while, where it keeps nobody waiting.
    pub(super) async fn gate<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Gateway) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let gateway = Arc::clone(&self.gateway);
        let done = spawn_blocking(move || job(&mut gateway.lock().unwrap_or_else(PoisonError::into_inner)));
        done.await.map_err(|error| Error::internal(format!("the gateway failed: {error}")))
    }

    /// Removes the rules of an earlier life where none are wanted: it may have ended before it kept what they were for.
    pub(super) async fn forget_outside(&self) -> Result<(), Error> {
        if self.state.outside().is_empty()
            && let Err(why) = self.gate(|gateway| gateway.set(&[])).await?
        {
            // Without nft, or the right to use it, there were none.
            debug!("rules of an earlier life cannot be looked for: {why}");
        }
        Ok(())
    }

    /// Makes the host's rules what they should be. With [`Missing::Retry`] as much as can be had, now and later.
    pub(super) async fn set_outside(
        &mut self,
        outsides: Vec<Outside>,
        missing: Missing,
    ) -> Result<(), Error> {
        if missing == Missing::Refuse {
            self.gate(move |gateway| gateway.set(&outsides)).await??;
            self.outside_is_due = false;
            return Ok(());
        }
        let was_due = std::mem::replace(&mut self.outside_is_due, true);
        match self.gate(move |gateway| gateway.restore(&outsides)).await? {
            Ok(left_out) => {
                self.outside_is_due = !left_out.is_empty();
                for (_, why) in left_out.iter().filter(|_| !was_due) {
                    warn!("not published for now: {why}");
                }
            }
            Err(why) if !was_due => warn!("networks do not reach the outside for now: {why}"),
            Err(_) => {}
        }
        if was_due && !self.outside_is_due {
            info!("networks reach the outside again");
        }
        Ok(())
    }

    /// Looks, now and then, whether others have taken the host's rules away, or drop what those let pass.
    pub(super) async fn check_outside(&mut self) {
        if self.outside_checked.elapsed() < CHECK {
            return;
        }
        self.outside_checked = Instant::now();
        let outsides = self.state.outside().to_vec();
        // Where nft fails, setting the rules has told why.
        if let Ok(Ok(false)) = self.gate(move |gateway| gateway.check(&outsides)).await {
            warn!("the table inet {TABLE} is gone: it is made again");
            let _ = self.set_outside(self.state.outside().to_vec(), Missing::Retry).await;
        }
    }
}
