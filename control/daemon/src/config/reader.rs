//! Reads a TOML table key by key and continues after an error.
//!
//! serde's derive stops at the first error, and operators want to see all. Each method reads one key: `None` if it is absent,
//! or wrong and reported. Keys that were not read are unknown: [`Table::finish`] reports them, with the nearest known key.

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive, str::FromStr};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::report::Report;
use vswitch_model::sentence::{nearest, outside, span_of};

/// A table while it is read.
#[derive(Debug)]
pub(super) struct Table<'r, 's, 't> {
    report: &'r mut Report<'s>,
    path: String,
    table: &'t DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'r, 's, 't> Table<'r, 's, 't> {
    /// The whole file.
    pub(super) fn root(report: &'r mut Report<'s>, table: &'t DeTable<'t>) -> Self {
        Self { report, path: String::new(), table, known: Vec::new() }
    }

    /// Reports an error of `key`.
    pub(super) fn fault(&mut self, key: &str, what: impl Into<String>) {
        self.report.fault(self.path_of(key), what);
    }

    /// Reports that `key` is missing, unless it is present and already reported.
    pub(super) fn fault_unless_read(&mut self, key: &str, what: &str) {
        if !self.has(key) {
            self.fault(key, what);
        }
    }

    /// Whether `key` is present and without a reported error.
    pub(super) fn is_right(&self, key: &str) -> bool {
        self.has(key) && !self.report.is_faulty(&self.path_of(key))
    }

    /// Reports an error within the value of `key`.
    pub(super) fn fault_within(&mut self, key: &str, inner: &str, what: impl Into<String>) {
        self.report.fault(format!("{}.{inner}", self.path_of(key)), what);
    }

    /// Whether `key` is present.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Reads texts under arbitrary names.
    pub(super) fn texts(&mut self, key: &'static str) -> BTreeMap<String, String> {
        let mut texts = BTreeMap::new();
        let Some(value) = self.take(key) else { return texts };
        let DeValue::Table(table) = value.get_ref() else {
            self.fault(key, format!("is {}: write a table of texts, {{ name = \"value\" }}", kind_of(value)));
            return texts;
        };
        for (name, value) in table {
            let name = name.get_ref().as_ref();
            let path = format!("{}.{name}", self.path_of(key));
            self.report.note(path.clone(), value.span().start);
            if let Some(text) = self.text_of(path, value) {
                texts.insert(name.to_owned(), text.to_owned());
            }
        }
        texts
    }

    /// Reads a text.
    pub(super) fn text(&mut self, key: &'static str) -> Option<&'t str> {
        let value = self.take(key)?;
        self.text_of(self.path_of(key), value)
    }

    /// Reads and parses a text.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&mut self, key: &'static str) -> Option<T> {
        let text = self.text(key)?;
        self.parse(self.path_of(key), text)
    }

    /// Reads and parses a list of texts, or a single one. Invalid items are reported and left out.
    pub(super) fn parsed_list<T: FromStr<Err: Display>>(&mut self, key: &'static str) -> Option<Vec<T>> {
        let value = self.take(key)?;
        let path = self.path_of(key);
        let DeValue::Array(items) = value.get_ref() else {
            let one = self.text_of(path.clone(), value).and_then(|text| self.parse(path, text));
            return Some(one.into_iter().collect());
        };
        let mut list = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            self.report.note(path.clone(), item.span().start);
            let text = self.text_of(path.clone(), item);
            list.extend(text.and_then(|text| self.parse(path, text)));
        }
        Some(list)
    }

    /// Reads a whole number in `range`.
    pub(super) fn integer<T>(&mut self, key: &'static str, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i128> + Into<i128> + Copy + Display,
    {
        let value = self.take(key)?;
        let DeValue::Integer(digits) = value.get_ref() else {
            self.fault(key, format!("is {}, not a whole number: use {}", kind_of(value), span_of(&range)));
            return None;
        };
        let number = i128::from_str_radix(digits.as_str(), digits.radix()).ok();
        match number.filter(|number| ((*range.start()).into()..=(*range.end()).into()).contains(number)) {
            Some(number) => T::try_from(number).ok(),
            None => {
                self.fault(key, outside(digits, &range));
                None
            }
        }
    }

    /// Reads a whole number in `range` and converts it.
    pub(super) fn number<N, T>(&mut self, key: &'static str, range: RangeInclusive<N>) -> Option<T>
    where
        N: TryFrom<i128> + Into<i128> + Copy + Display,
        T: TryFrom<N, Error: Display>,
    {
        let number = self.integer(key, range)?;
        T::try_from(number).map_err(|error| self.fault(key, error.to_string())).ok()
    }

    /// Reads `true` or `false`.
    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let value = self.take(key)?;
        let answer = value.get_ref().as_bool();
        if answer.is_none() {
            self.fault(key, format!("is {}: use true or false", kind_of(value)));
        }
        answer
    }

    /// Whether `key` is present and is `word`, for values that are either a word or a number.
    pub(super) fn is_word(&mut self, key: &str, word: &str) -> bool {
        self.table.get(key).is_some_and(|value| value.get_ref().as_str() == Some(word))
    }

    /// Whether `key` is present and is `true` or `false`, for values that can have another type.
    pub(super) fn is_boolean(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| value.get_ref().as_bool().is_some())
    }

    /// Reads a table within this one.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Table<'_, 's, 't>> {
        let value = self.take(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(self.inner(self.path_of(key), table)),
            _ => {
                self.fault(key, format!("is {}: write a table, [{key}]", kind_of(value)));
                None
            }
        }
    }

    /// Calls `each` for every table of an array of tables.
    pub(super) fn tables(&mut self, key: &'static str, mut each: impl FnMut(Table<'_, 's, 't>)) {
        let Some(value) = self.take(key) else { return };
        let DeValue::Array(items) = value.get_ref() else {
            self.fault(key, format!("is {}: write one [[{key}]] for each", kind_of(value)));
            return;
        };
        for (index, item) in items.iter().enumerate() {
            let path = format!("{}[{index}]", self.path_of(key));
            self.report.note(path.clone(), item.span().start);
            match item.get_ref() {
                DeValue::Table(table) => each(self.inner(path, table)),
                _ => self.report.fault(path, format!("is {}: write a table, [[{key}]]", kind_of(item))),
            }
        }
    }

    /// Reports the keys that were not read.
    pub(super) fn finish(self) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if !self.known.contains(&name) {
                let hint = nearest(name, self.known.iter().copied())
                    .map_or_else(|| "remove it".into(), |known| format!("did you mean {known}?"));
                self.report.fault_at(self.path_of(name), key.span().start, format!("unknown key: {hint}"));
            }
        }
    }

    fn take(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.known.push(key);
        let value = self.table.get(key)?;
        self.report.note(self.path_of(key), value.span().start);
        Some(value)
    }

    fn inner(&mut self, path: String, table: &'t DeTable<'t>) -> Table<'_, 's, 't> {
        Table { report: self.report, path, table, known: Vec::new() }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    fn text_of(&mut self, path: String, value: &'t Spanned<DeValue<'t>>) -> Option<&'t str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.report.fault(path, format!("is {}: write it in quotes", kind_of(value)));
        }
        text
    }

    fn parse<T: FromStr<Err: Display>>(&mut self, path: String, text: &str) -> Option<T> {
        text.parse().map_err(|error: T::Err| self.report.fault(path, error.to_string())).ok()
    }
}

fn kind_of(value: &Spanned<DeValue<'_>>) -> &'static str {
    match value.get_ref() {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a floating-point number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
