//! The daemon's way to the outside world: ports of the host that are held, and rules that are set.
//!
//! nft(8) takes some milliseconds, up to 30: the core waits for it on its own thread, where it holds no reader up.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tracing::{debug, info, warn};

use super::Core;
use crate::{edge::Missing, state::NetworkError};
use vswitch_host::gateway::{Outside, TABLE};
use vswitch_model::{
    Connect, Error, Name, NetworkSpec, options,
    publish::{Publish, Published},
};

/// How often it is looked at what others have made of the host's rules: some milliseconds of nft(8) each time.
const CHECK: Duration = Duration::from_secs(5);

impl Core {
    /// Holds ports of the host for an endpoint that is about to be.
    pub(super) fn reserve(&mut self, network: &Name, connect: &Connect) -> Result<Vec<Published>, Error> {
        let Some(network) = self.state.network(network).filter(|_| !connect.publish.is_empty()) else {
            return Ok(Vec::new());
        };
        let addresses = self.state.choose_addresses(&network.spec, connect.ip, connect.ip6)?;
        self.reserve_for(&network.spec, &addresses, &connect.options, connect.publish.clone())
    }

    /// Holds ports of the host for an endpoint of a network that has `addresses` and options, or will have them.
    pub(super) fn reserve_for(
        &mut self,
        network: &NetworkSpec,
        addresses: &[IpNet],
        endpoint: &BTreeMap<String, String>,
        mut publish: Vec<Publish>,
    ) -> Result<Vec<Published>, Error> {
        self.state.check_publishable(network)?;
        let addresses: Vec<_> = addresses.iter().map(IpNet::addr).collect();
        let binding = options::of_network(network).map_err(NetworkError::from)?.binding;
        publish.iter_mut().for_each(|it| it.host_ip = it.host_ip.or(binding));
        let held = options::of_endpoint(endpoint).map_err(NetworkError::from)?.hold;
        let mut published = self.gateway.reserve(&publish, &addresses)?;
        published.iter_mut().for_each(|it| it.held = held);
        Ok(published)
    }

    /// Removes the rules of an earlier life where none are wanted: it may have ended before it kept what they were for.
    pub(super) fn forget_outside(&mut self) {
        if self.state.outside().is_empty()
            && let Err(why) = self.gateway.set(&[])
        {
            // Without nft, or the right to use it, there were none.
            debug!("rules of an earlier life cannot be looked for: {why}");
        }
    }

    /// Makes the host's rules what they should be. With [`Missing::Retry`] as much as can be had, now and later.
    pub(super) fn set_outside(&mut self, outsides: &[Outside], missing: Missing) -> Result<(), Error> {
        if missing == Missing::Refuse {
            self.gateway.set(outsides)?;
            self.outside_is_due = false;
            return Ok(());
        }
        let was_due = std::mem::replace(&mut self.outside_is_due, true);
        match self.gateway.restore(outsides) {
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
    pub(super) fn check_outside(&mut self) {
        if self.outside_checked.elapsed() < CHECK {
            return;
        }
        self.outside_checked = Instant::now();
        let outsides = self.state.outside().to_vec();
        // Where nft fails, setting the rules has told why.
        if let Ok(false) = self.gateway.check(&outsides) {
            warn!("the table inet {TABLE} is gone: it is made again");
            let _ = self.set_outside(&outsides, Missing::Retry);
        }
    }
}
