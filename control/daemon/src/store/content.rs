//! The stored rows in memory: JSON by kind and key; and their changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A kind of row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Table {
    /// Networks, by name.
    Networks,
    /// Ports, by name.
    Ports,
    /// Endpoints, by id.
    Endpoints,
    /// Pinned addresses, by network and address.
    Pins,
    /// Networks of the file's last declaration, by name.
    Declared,
    /// Adopted networks, by their foreign id.
    Adopted,
    /// Addresses lent to other network drivers.
    Lent,
    /// Names given by hand, by network and name.
    Names,
}

impl Table {
    pub(super) const ALL: [Self; 8] = [
        Self::Networks,
        Self::Ports,
        Self::Endpoints,
        Self::Pins,
        Self::Declared,
        Self::Adopted,
        Self::Lent,
        Self::Names,
    ];

    /// Its name on the disk.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Networks => "networks",
            Self::Ports => "ports",
            Self::Endpoints => "endpoints",
            Self::Pins => "pins",
            Self::Declared => "declared",
            Self::Adopted => "adopted",
            Self::Lent => "lent",
            Self::Names => "names",
        }
    }
}

/// A change: a row that is written, or removed if there is no text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) table: Table,
    pub(super) key: String,
    pub(super) text: Option<String>,
}

/// All rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    rows: BTreeMap<(Table, String), String>,
}

impl Content {
    /// The rows of a kind, by key.
    pub(super) fn of(&self, table: Table) -> impl Iterator<Item = (&str, &str)> {
        let rows = self.rows.range((table, String::new())..);
        rows.take_while(move |((it, _), _)| *it == table)
            .map(|((_, key), text)| (key.as_str(), text.as_str()))
    }

    pub(super) fn text(&self, table: Table, key: &str) -> Option<&str> {
        self.rows.get(&(table, key.to_owned())).map(String::as_str)
    }

    /// All rows, as the changes that write them.
    pub(super) fn changes(&self) -> impl ExactSizeIterator<Item = Change> {
        let change = |((table, key), text): (&(Table, String), &String)| Change {
            table: *table,
            key: key.clone(),
            text: Some(text.clone()),
        };
        self.rows.iter().map(change)
    }

    /// Whether `change` makes a difference.
    pub(super) fn is_changed_by(&self, change: &Change) -> bool {
        self.text(change.table, &change.key) != change.text.as_deref()
    }

    pub(super) fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        for Change { table, key, text } in changes {
            match text {
                Some(text) => drop(self.rows.insert((table, key), text)),
                None => drop(self.rows.remove(&(table, key))),
            }
        }
    }

    /// The number of networks, ports and endpoints as text: `3 networks, 1 port, 7 endpoints`.
    pub(super) fn summary(&self) -> String {
        let count = |table: Table, one: &str| match self.of(table).count() {
            1 => format!("1 {one}"),
            many => format!("{many} {one}s"),
        };
        [(Table::Networks, "network"), (Table::Ports, "port"), (Table::Endpoints, "endpoint")]
            .map(|(table, one)| count(table, one))
            .join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_written_replaced_and_removed() {
        let change = |table, key: &str, text: Option<&str>| Change {
            table,
            key: key.to_owned(),
            text: text.map(str::to_owned),
        };
        let mut content = Content::default();
        content.apply([
            change(Table::Ports, "web", Some("1")),
            change(Table::Networks, "blue", Some("1")),
            change(Table::Networks, "blue", Some("2")),
            change(Table::Networks, "red", Some("1")),
            change(Table::Networks, "red", None),
        ]);
        assert_eq!(content.of(Table::Networks).collect::<Vec<_>>(), [("blue", "2")]);
        assert_eq!(content.text(Table::Ports, "web"), Some("1"));
        assert!(!content.is_changed_by(&change(Table::Ports, "web", Some("1"))));
        assert!(content.is_changed_by(&change(Table::Ports, "web", None)));
        assert!(!content.is_changed_by(&change(Table::Pins, "web", None)));
        assert_eq!(content.summary(), "1 network, 1 port, 0 endpoints");
        let mut again = Content::default();
        again.apply(content.changes());
        assert_eq!(again, content);
    }
}
