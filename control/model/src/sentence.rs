//! Parts of error messages about values.

use std::{
    borrow::Cow,
    fmt::{Display, Write},
    ops::RangeInclusive,
};

/// Message for a number out of range.
pub fn outside<T: Display>(number: impl Display, range: &RangeInclusive<T>) -> String {
    format!("{number} is out of range: use {}", span_of(range))
}

/// A range as text: `1 to 4094`.
pub fn span_of<T: Display>(range: &RangeInclusive<T>) -> String {
    format!("{} to {}", range.start(), range.end())
}

/// The known word most similar to `word`, if one is near enough.
pub fn nearest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let distance = |other: &&str| strsim::damerau_levenshtein(word, other);
    known.min_by_key(distance).filter(|other| distance(other) <= 1 + word.len() / 5)
}

/// `text` without characters that a terminal or a log would obey: control characters, and those that reverse the direction of
/// writing, in the notation of JSON. Names and paths are chosen by callers.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return text.into();
    }
    let mut printable = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        match letter {
            '\n' => printable.push_str("\\n"),
            _ if is_obeyed(letter) => drop(write!(printable, "\\u{:04x}", u32::from(letter))),
            _ => printable.push(letter),
        }
    }
    printable.into()
}

/// The same for each of several lines.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    if !text.contains(|letter| letter != '\n' && is_obeyed(letter)) {
        return text.into();
    }
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n").into()
}

/// C0 except the tabulator, C1 and DEL; bidirectional formatting (UAX #9).
fn is_obeyed(letter: char) -> bool {
    letter.is_control() && letter != '\t'
        || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_that_a_terminal_obeys() {
        for (text, expected) in [
            ("web.blue", "web.blue"),
            ("Zürich 東京!", "Zürich 東京!"),
            ("/x/\u{1b}[31mRED\n2026 ERROR", "/x/\\u001b[31mRED\\n2026 ERROR"),
            ("\r\u{7f}\u{9b}\u{202e}", "\\u000d\\u007f\\u009b\\u202e"),
        ] {
            assert_eq!(printable(text), expected);
            // What is valid JSON stays so.
            let json = serde_json::to_string(text).unwrap();
            assert_eq!(serde_json::from_str::<String>(&printable(&json)).unwrap(), text);
        }
        assert_eq!(printable("a\tb"), "a\tb", "a tab is obeyed, and harmless");
        assert_eq!(printable_lines("a\n\u{7}b\n"), "a\n\\u0007b\n");
    }
}
