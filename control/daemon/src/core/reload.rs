//! Reads the configuration file again and applies the difference.

use tracing::{info, warn};

use super::Core;
use crate::{config, edge::Attempt, state::Command, tunnel, view};
use vswitch_model::{
    Error,
    api::{Reload, events::What},
};

impl Core {
    pub(super) async fn reload(&mut self, dry_run: bool) -> Result<Reload, Error> {
        let mut wanted = config::load(&self.process.config).map_err(Error::invalid_lines);
        if let Ok(config) = &mut wanted {
            let known = self.state.endpoint().and_then(|port| port.device.endpoint()?.measured_mtu);
            tunnel::settle(config, known).await;
        }
        let plan = match wanted.and_then(|config| Ok(self.state.plan(Command::Reload(config))?)) {
            Ok(plan) => plan,
            Err(error) => {
                let why = error.sentence.replace('\n', "; ");
                warn!("reload refused, nothing was changed: {why}");
                if !dry_run {
                    self.reload_refused =
                        Some(format!("the last reload was refused, nothing was changed: {why}"));
                }
                return Err(error);
            }
        };
        let added = plan.next.unconnected().filter(|it| !self.state.declares(it)).map(view::declared);
        let changes = plan.changes.iter().map(view::change).chain(added).collect();
        let reload = Reload { dry_run, changes };
        if !dry_run {
            self.carry_out(plan, Attempt::retrying()).await?;
            self.reload_refused = None;
            self.note_declared()?;
            self.connect_declared().await;
            info!(changes = reload.changes.len(), "reloaded");
            // Known strangers may be accepted from now on.
            self.signals.stranger.notify_one();
            self.observer.note(What::Reloaded { changes: reload.changes.len() });
        }
        Ok(reload)
    }
}
