//! The log: messages that an operator can act on, as text or JSON, on standard error.
//!
//! It contains names and paths chosen by clients: whatever their characters, an event is one line that a terminal can show.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use super::LogFormat;
use vswitch_model::sentence::printable;

/// Starts logging; `filter` is a level or a list of `target=level`.
pub(crate) fn start(filter: &str, format: LogFormat) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(filter)?;
    let colours = io::stderr().is_terminal();
    let layer = fmt::layer()
        .with_writer(move || Lines { out: io::stderr(), colours })
        .with_target(false)
        .with_ansi(colours);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry.with(layer).init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
    }
    Ok(())
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
