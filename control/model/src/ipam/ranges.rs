//! A set of numbers, kept as the ranges they make.

use std::collections::BTreeMap;

/// Numbers by range: first to last. Two ranges neither overlap nor touch, so the number behind a range is free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<u128, u128>);

impl Ranges {
    /// Whether `number` was new.
    pub(super) fn insert(&mut self, number: u128) -> bool {
        if self.holds(number) {
            return false;
        }
        self.insert_range(number, number);
        true
    }

    /// Inserts all numbers from `first` to `last`.
    pub(super) fn insert_range(&mut self, mut first: u128, mut last: u128) {
        // Ranges that overlap or touch are merged.
        let reach = last.saturating_add(1);
        while let Some((&start, &end)) = self.0.range(..=reach).next_back() {
            if end.saturating_add(1) < first {
                break;
            }
            (first, last) = (first.min(start), last.max(end));
            self.0.remove(&start);
        }
        self.0.insert(first, last);
    }

    /// Whether `number` is in it.
    pub(super) fn holds(&self, number: u128) -> bool {
        self.around(number).is_some()
    }

    /// The lowest number from `from` on that is not in it; `None` if all are.
    pub(super) fn first_free(&self, from: u128) -> Option<u128> {
        self.around(from).map_or(Some(from), |(_, end)| end.checked_add(1))
    }

    /// The highest number of the last range that has one of `first` to `last`.
    pub(super) fn last_overlap(&self, first: u128, last: u128) -> Option<u128> {
        let (_, &end) = self.0.range(..=last).next_back()?;
        (end >= first).then_some(end)
    }

    /// How many numbers of `first` to `last` are in it.
    pub(super) fn within(&self, first: u128, last: u128) -> u128 {
        let before = self.around(first).map_or(first, |(start, _)| start);
        let parts = self.0.range(before..=last).filter(|(_, end)| **end >= first);
        parts.map(|(&start, &end)| (end.min(last) - start.max(first)).saturating_add(1)).sum()
    }

    /// The range with `number` in it.
    fn around(&self, number: u128) -> Option<(u128, u128)> {
        let (&start, &end) = self.0.range(..=number).next_back()?;
        (number <= end).then_some((start, end))
    }
}
