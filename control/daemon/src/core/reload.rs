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
        let mut wanted = config::load(&self.process.config).map_err(|errors| Error::invalid_lines(errors));
        if let Ok(config) = &mut wanted {
            tunnel::settle(config).await;
        }
        let plan = match wanted.and_then(|config| Ok(self.state.plan(Command::Reload(config))?)) {
            Ok(plan) => plan,
            Err(error) => {
                warn!("reload refused, nothing was changed: {}", error.sentence.replace('\n', "; "));
                return Err(error);
            }
        };
        let reload = Reload { dry_run, changes: plan.changes.iter().map(view::change).collect() };
        if !dry_run {
            for change in &plan.changes {
                info!("reload: {change}");
            }
            self.carry_out(plan, Attempt::retrying()).await?;
            self.note_declared()?;
            info!(changes = reload.changes.len(), "reloaded");
            // Known strangers may be accepted from now on.
            self.signals.stranger.notify_one();
            self.observer.note(What::Reloaded { changes: reload.changes.len() });
        }
        Ok(reload)
    }
}
