//! `vswitchctl top`: a live view of the switch on one screen.
//!
//! [`Screen`] holds the state that is shown and changed by keys, and draws it; it does not know the terminal. This
//! module has the terminal, the keys and the clock.

mod screen;

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use crossterm::event::{Event, EventStream, KeyEventKind};
use futures_util::StreamExt;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

pub use screen::{Sample, Screen};

use crate::client::{Client, ClientError};
use vswitch_model::Error;

/// Shows the switch until the user quits or the terminal closes, also over a restart of the daemon.
///
/// # Errors
/// Standard output is not a terminal; the daemon is unreachable.
pub async fn run(client: &Client, every: Duration) -> Result<String, ClientError> {
    if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        let why = "top needs a terminal: use `vswitchctl stats --watch` where there is none";
        return Err(Error::invalid(why).into());
    }
    // Fail before anything is drawn if possible.
    let mut screen = Screen::new(sample(client).await?);
    let mut terminal = Terminal::open()?;
    let result = show(client, every, &mut screen, &mut terminal.0).await;
    drop(terminal);
    result.map(|()| String::new())
}

/// The terminal in raw mode; restored when the value is dropped, and by a panic.
struct Terminal(ratatui::DefaultTerminal);

impl Terminal {
    fn open() -> Result<Self, ClientError> {
        Ok(Self(ratatui::try_init().map_err(Error::from)?))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

async fn show(
    client: &Client,
    every: Duration,
    screen: &mut Screen,
    terminal: &mut ratatui::DefaultTerminal,
) -> Result<(), ClientError> {
    let mut keys = EventStream::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::from)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(Error::from)?;
    let mut clock = interval(every);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock.tick().await;
    while !screen.is_done() {
        terminal.draw(|frame| screen.draw(frame)).map_err(Error::from)?;
        tokio::select! {
            event = keys.next() => match event {
                // Raw mode delivers Ctrl-C as a key.
                Some(Ok(Event::Key(key))) if key.kind == KeyEventKind::Press => screen.press(key),
                // A resize: draw again.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Error::from(error).into()),
                None => return Ok(()),
            },
            _ = clock.tick() => if !screen.is_paused() {
                match sample(client).await {
                    Ok(next) => screen.update(next),
                    // It may be restarted: what is shown stays, and says so.
                    Err(error) => screen.miss(error.to_string()),
                }
            },
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
        }
    }
    Ok(())
}

async fn sample(client: &Client) -> Result<Sample, ClientError> {
    Ok(Sample {
        status: client.status().await?,
        networks: client.networks().await?,
        ports: client.ports().await?,
        stats: client.stats().await?,
    })
}
