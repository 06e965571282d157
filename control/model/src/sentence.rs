//! Parts of error messages about values.

use std::{fmt::Display, ops::RangeInclusive};

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
