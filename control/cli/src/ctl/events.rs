//! `vswitchctl events`: past and new events.

use std::{
    fmt::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;

use super::{json_line, print};
use crate::client::{Client, ClientError};
use vswitch_model::api::events::{Event, EventsFilter};

/// `vswitchctl events`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  vswitchctl events\n  vswitchctl events --since 10m\n  \
    vswitchctl events --since '2026-11-25 16:00:00' --json\n  vswitchctl events --follow\n\n\
    The daemon keeps the latest 4096 events. Times are UTC.")]
pub struct EventsArguments {
    /// Only events since TIME (RFC 3339, UTC), or within the last DURATION, such as 90s, 10m or 1h30m.
    #[arg(long, value_name = "TIME|DURATION", value_parser = since)]
    since: Option<u64>,
    /// Continue with new events, until interrupted.
    #[arg(long, short)]
    follow: bool,
}

/// Milliseconds since 1970.
fn since(text: &str) -> Result<u64, String> {
    let moment = match humantime::parse_duration(text) {
        Ok(ago) => SystemTime::now().checked_sub(ago),
        Err(_) => humantime::parse_rfc3339_weak(text).ok(),
    };
    let since = moment.and_then(|moment| moment.duration_since(UNIX_EPOCH).ok()).ok_or_else(|| {
        format!("{text:?} is neither a time nor a duration: write it like 2026-11-25T16:00:00Z, or like 10m")
    })?;
    u64::try_from(since.as_millis()).map_err(|error| error.to_string())
}

pub(super) async fn events(
    client: &Client,
    arguments: &EventsArguments,
    json: bool,
) -> Result<String, ClientError> {
    let filter = EventsFilter { since_ms: arguments.since, follow: arguments.follow };
    let mut text = String::new();
    client
        .events(&filter, |event| {
            let line = if json { json_line(&event)? } else { line(&event) };
            if filter.follow {
                return print(&line);
            }
            text += &line;
            Ok(())
        })
        .await?;
    Ok(text)
}

/// An event as text.
fn line(event: &Event) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(event.time_ms);
    let mut text = format!("{}  ", humantime::format_rfc3339_millis(time));
    let _ = write!(text, "{}", event.what);
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use vswitch_model::api::events::{Station, What};

    #[test]
    fn an_event_is_a_line_for_people_and_a_flat_object_for_programs() {
        let station =
            Station { mac: "02:42:0a:09:00:02".parse().unwrap(), network: "blue".into(), port: "web".into() };
        let what = What::MacMoved { station, from: "db".into() };
        let event = Event { seq: 7, time_ms: 1_764_086_400_123, what };
        assert_eq!(
            line(&event),
            "2025-11-25T16:00:00.123Z  02:42:0a:09:00:02 on blue at port web moved from port db\n"
        );
        let json = json_line(&event).unwrap();
        assert_eq!(
            json,
            "{\"seq\":7,\"time_ms\":1764086400123,\"event\":\"mac_moved\",\"mac\":\"02:42:0a:09:00:02\",\
             \"network\":\"blue\",\"port\":\"web\",\"from\":\"db\"}\n"
        );
        assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
    }

    #[test]
    fn a_moment_is_told_as_time_or_as_duration() {
        assert_eq!(since("2025-11-25T16:00:00Z"), Ok(1_764_086_400_000));
        assert_eq!(since("2025-11-25 16:00:00"), Ok(1_764_086_400_000));
        let before = since("0s").unwrap();
        assert!(since("1h30m").unwrap() <= before - 5_000_000);
        assert!(since("yesterday").unwrap_err().contains("neither a time nor a duration"));
    }
}
