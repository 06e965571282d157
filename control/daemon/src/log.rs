//! The log: what an operator can act on, to standard error, and the latest lines in memory.
//!
//! | format | a line |
//! |---|---|
//! | text | time, level, message; coloured on a terminal |
//! | journal | `<priority>` as of sd-daemon(3), message: the time is the journal's |
//! | json | an object |
//!
//! It contains names and paths chosen by clients: whatever their characters, an event is one line that a terminal can show.
//! The level can be changed while the daemon runs. The latest lines are kept as text, whatever the format, for `vswitchctl
//! support`: standard error may lead to a terminal that is gone.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IsTerminal, Write},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Full, Writer},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

use super::LogFormat;
use vswitch_model::{
    Error,
    sentence::{printable, printable_lines},
};

/// Lines that are kept; some 150 bytes each.
const KEPT: usize = 1000;

/// Longest line that is kept whole, in bytes.
const LONGEST: usize = 4096;

/// What is logged. A process has one log, as `tracing` has it.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// The latest lines.
static TAIL: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Starts logging; `filter` is a level or a list of `target=level`.
///
/// # Errors
/// It is neither.
pub(crate) fn start(filter: &str, format: LogFormat) -> Result<(), Error> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let colours = format == LogFormat::Text && io::stderr().is_terminal();
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(move || Lines { out: io::stderr(), colours })
        .with_target(false)
        .with_ansi(colours);
    let layer = match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Journal => layer.event_format(Journal::default()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    let tail = tracing_subscriber::fmt::layer()
        .with_writer(|| Lines { out: Tail, colours: false })
        .with_ansi(false)
        .with_target(false);
    tracing_subscriber::registry().with(filter).with(layer).with(tail).init();
    let _ = FILTER.set(handle);
    Ok(())
}

/// Writes `text`, which is reported before the log is started, as errors in `format`.
pub(crate) fn report(text: &str, format: LogFormat) {
    for line in printable_lines(text).lines() {
        match format {
            LogFormat::Journal => eprintln!("<{}>{line}", priority(Level::ERROR)),
            LogFormat::Text | LogFormat::Json => eprintln!("{line}"),
        }
    }
}

/// What is logged: a level, or a list of `target=level`.
pub(crate) fn filter() -> String {
    let filter = FILTER.get().and_then(|filter| filter.with_current(ToString::to_string).ok());
    filter.unwrap_or_else(|| "off".to_owned())
}

/// Changes what is logged, until the daemon ends.
///
/// # Errors
/// It is not a filter.
pub(crate) fn set_filter(text: &str) -> Result<(), Error> {
    let filter = parse(text)?;
    let Some(handle) = FILTER.get() else { return Ok(()) };
    handle.reload(filter).map_err(|error| Error::internal(error.to_string()))
}

/// Parses a filter. The crate takes a word that is not a level for the name of a target, so a misspelt level would silence the log.
fn parse(text: &str) -> Result<EnvFilter, Error> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let is_right =
        |part: &str| part.contains(['=', '[']) || levels.contains(&part.trim().to_lowercase().as_str());
    let filter = if text.split(',').all(is_right) { EnvFilter::builder().parse(text).ok() } else { None };
    filter.ok_or_else(|| {
        Error::invalid(format!(
            "{text:?} is no level of the log: write error, warn, info, debug or trace, or a list such as \
             \"info,vswitch::device=trace\""
        ))
    })
}

/// The latest lines, oldest first.
pub(crate) fn tail() -> Vec<String> {
    lines().iter().cloned().collect()
}

fn lines() -> MutexGuard<'static, VecDeque<String>> {
    TAIL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The priority of a level, as of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Formats lines for the journal.
struct Journal(Format<Full, ()>);

impl Default for Journal {
    fn default() -> Self {
        Self(Format::default().without_time().with_level(false).with_target(false))
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// Keeps each line that is written to it.
struct Tail;

impl Write for Tail {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(&line[..line.len().min(LONGEST)]);
        let mut lines = lines();
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(text.trim_end().to_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes an event at a time, and writes it as one printable line.
struct Lines<W> {
    out: W,
    /// Whether the formatter writes colours.
    colours: bool,
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let mut line = String::with_capacity(event.len());
        let mut rest = text.strip_suffix('\n').unwrap_or(&text);
        // Colours are the formatter's own: it escapes those of messages.
        while let Some((before, colour, after)) = self.colours.then(|| next_colour(rest)).flatten() {
            line += &printable(before);
            line += colour;
            rest = after;
        }
        line += &printable(rest);
        line.push('\n');
        self.out.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Splits `text` at its first colour: ECMA-48 SGR with one number.
fn next_colour(text: &str) -> Option<(&str, &str, &str)> {
    let start = text.find("\x1b[")?;
    let digits = text[start + 2..].bytes().take_while(u8::is_ascii_digit).count();
    let end = start + 2 + digits;
    let is_colour = digits > 0 && text[end..].starts_with('m');
    is_colour.then(|| (&text[..start], &text[start..=end], &text[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_a_list_of_targets() {
        for text in ["info", "WARN", "off", "info,vswitch::device=trace", "vswitch_host=debug"] {
            assert!(parse(text).is_ok(), "{text}");
        }
        for text in ["", "inof", "info,vswitch", "vswitch=loud", "info debug"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    fn written(event: &str, colours: bool) -> String {
        let mut out = Vec::new();
        Lines { out: &mut out, colours }.write_all(event.as_bytes()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_event_is_one_line_that_a_terminal_shows() {
        assert_eq!(written("down: no namespace\n", false), "down: no namespace\n");
        let forged = "down: /x\u{1b}[31m\n2026-01-01T00:00:00Z ERROR forged\r\n";
        assert_eq!(
            written(forged, false),
            "down: /x\\u001b[31m\\n2026-01-01T00:00:00Z ERROR forged\\u000d\n"
        );
        assert_eq!(
            written("\u{1b}[33m WARN\u{1b}[0m a\u{1b}[2Jb\n", true),
            "\u{1b}[33m WARN\u{1b}[0m a\\u001b[2Jb\n"
        );
    }
}
