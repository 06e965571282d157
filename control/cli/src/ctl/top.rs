//! `vswitchctl top`: the switch as it works, on one screen.
//!
//! [`Screen`] holds what is shown and what keys change in it, and draws it; it knows no terminal. Here are the terminal,
//! the keys and the clock.

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

/// Shows the switch until the person has seen enough, the daemon goes, or the terminal does.
///
/// # Errors
/// Standard output is no terminal; the daemon is not there.
pub async fn run(client: &Client, every: Duration) -> Result<String, ClientError> {
    if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        let why = "top needs a terminal: use `vswitchctl stats --watch` where there is none";
        return Err(Error::invalid(why).into());
    }
    // What can fail before anything is drawn shall.
    let mut screen = Screen::new(sample(client).await?);
    let mut terminal = Terminal::open()?;
    let result = show(client, every, &mut screen, &mut terminal.0).await;
    drop(terminal);
    result.map(|()| String::new())
}

/// The terminal, taken over; given back when the value goes, and by a panic.
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
                // Raw mode hands over Ctrl-C as a key.
                Some(Ok(Event::Key(key))) if key.kind == KeyEventKind::Press => screen.press(key),
                // Another size: it is drawn anew.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Error::from(error).into()),
                None => return Ok(()),
            },
            _ = clock.tick() => if !screen.is_paused() { screen.update(sample(client).await?) },
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
