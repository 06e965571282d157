//! Objects by name, each with a number that is constant while it lives.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{Kind, Origin, Refusal};
use vswitch_model::{Name, NetworkSpec, PortSpec, ServiceSpec};

/// An object that a registry can hold.
pub(super) trait Spec: PartialEq {
    const KIND: Kind;
    fn name(&self) -> &Name;

    /// Whether the file once declared it, though it now belongs to the API.
    fn was_declared(&self) -> bool {
        false
    }
}

impl Spec for NetworkSpec {
    const KIND: Kind = Kind::Network;

    fn name(&self) -> &Name {
        &self.name
    }

    fn was_declared(&self) -> bool {
        self.is_declared()
    }
}

impl Spec for PortSpec {
    const KIND: Kind = Kind::Port;

    fn name(&self) -> &Name {
        &self.name
    }
}

impl Spec for ServiceSpec {
    const KIND: Kind = Kind::Service;

    fn name(&self) -> &Name {
        &self.name
    }
}

/// An object.
#[derive(Debug)]
pub(super) struct Entry<S> {
    pub(super) number: u16,
    pub(super) origin: Origin,
    pub(super) spec: Arc<S>,
}

/// All objects of a kind. A clone shares them until it is changed.
#[derive(Debug)]
pub(super) struct Registry<S> {
    entries: Arc<BTreeMap<Name, Entry<S>>>,
    numbers: Numbers,
}

impl<S: Spec> Registry<S> {
    /// By name.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry<S>> {
        self.entries.values()
    }

    pub(super) fn entry(&self, name: &Name) -> Option<&Entry<S>> {
        self.entries.get(name)
    }

    /// Whether `entry` of another registry is present here unchanged.
    pub(super) fn holds(&self, entry: &Entry<S>) -> bool {
        self.entry(entry.spec.name()).is_some_and(|own| {
            Arc::ptr_eq(&own.spec, &entry.spec) && own.number == entry.number && own.origin == entry.origin
        })
    }

    /// The names of entries that differ between the two.
    pub(super) fn unlike<'a>(&'a self, other: &'a Self) -> BTreeSet<&'a Name> {
        let ours = self.entries().filter(|entry| !other.holds(entry));
        let theirs = other.entries().filter(|entry| !self.holds(entry));
        ours.chain(theirs).map(|entry| entry.spec.name()).collect()
    }

    /// All names.
    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        self.entries.keys()
    }

    /// Adds an object under the lowest free number that is not resting. A learned one of that name is replaced, and leaves it
    /// its number.
    pub(super) fn add(&mut self, spec: Arc<S>, origin: Origin) -> Result<(), Refusal> {
        let name = spec.name().clone();
        let number = match self.entries.get(&name) {
            Some(entry) if entry.origin == Origin::Learned => entry.number,
            Some(_) => return Err(Refusal::Exists { kind: S::KIND, name }),
            None => self.numbers.take().ok_or(Refusal::Full { kind: S::KIND })?,
        };
        Arc::make_mut(&mut self.entries).insert(name, Entry { number, origin, spec });
        Ok(())
    }

    /// Removes an object of the API.
    pub(super) fn remove(&mut self, name: &Name) -> Result<(), Refusal> {
        let (kind, name) = (S::KIND, name.clone());
        match self.entries.get(&name) {
            None => return Err(Refusal::Missing { kind, name }),
            Some(entry) if entry.origin == Origin::File => return Err(Refusal::Declared { kind, name }),
            Some(entry) => self.numbers.release(entry.number),
        }
        Arc::make_mut(&mut self.entries).remove(&name);
        Ok(())
    }

    /// Replaces the object of the same name.
    pub(super) fn replace(&mut self, spec: S) {
        if let Some(entry) = Arc::make_mut(&mut self.entries).get_mut(spec.name()) {
            entry.spec = Arc::new(spec);
        }
    }

    /// Replaces all objects of this origin. Objects that stay keep their numbers.
    pub(super) fn declare(
        &mut self,
        specs: impl IntoIterator<Item = impl Into<Arc<S>>>,
        origin: Origin,
    ) -> Result<(), Refusal> {
        let specs: Vec<Arc<S>> = specs.into_iter().map(Into::into).collect();
        let mut names = BTreeSet::new();
        for spec in &specs {
            let (kind, name) = (S::KIND, spec.name().clone());
            match self.entries.get(&name).map(|entry| (entry.origin, entry.spec.was_declared())) {
                Some((Origin::Api, true)) if origin == Origin::File => {}
                // What the cluster gives gives way.
                Some((Origin::Cluster, _)) if origin == Origin::File => {}
                Some((Origin::Api, _)) if origin == Origin::File => return Err(Refusal::Both { kind, name }),
                Some((other, _)) if other != origin && other != Origin::Learned => {
                    return Err(Refusal::Exists { kind, name });
                }
                _ => {}
            }
            if !names.insert(name.clone()) {
                return Err(Refusal::Exists { kind, name });
            }
        }
        let numbers = &mut self.numbers;
        let entries = Arc::make_mut(&mut self.entries);
        entries.retain(|name, entry| {
            let stays = entry.origin != origin || names.contains(name);
            if !stays {
                numbers.release(entry.number);
            }
            stays
        });
        for spec in specs {
            match Arc::make_mut(&mut self.entries).get_mut(spec.name()) {
                None => self.add(spec, origin)?,
                Some(entry) => {
                    // A learned one is declared now, or a former declaration returns.
                    entry.origin = origin;
                    if !Arc::ptr_eq(&entry.spec, &spec) && entry.spec != spec {
                        entry.spec = spec;
                    }
                }
            }
        }
        Ok(())
    }
}

// Derived implementations would require the same of `S`, which is shared and never cloned.
impl<S> Clone for Registry<S> {
    fn clone(&self) -> Self {
        Self { entries: self.entries.clone(), numbers: self.numbers.clone() }
    }
}

impl<S> Default for Registry<S> {
    fn default() -> Self {
        Self { entries: Arc::default(), numbers: Numbers::default() }
    }
}

impl<S> Clone for Entry<S> {
    fn clone(&self) -> Self {
        Self { number: self.number, origin: self.origin, spec: self.spec.clone() }
    }
}

/// Maximum number of resting numbers. Each takes a place in the data plane's arrays.
const RESTING: usize = 32;

/// Dense numbers: the data plane indexes arrays by them, so the lowest free one is given out.
///
/// A released number rests until [`RESTING`] others were released after it: an event, a capture or a trace that still names it
/// means its previous owner, not the next.
#[derive(Clone, Debug, Default)]
struct Numbers {
    /// One bit each, set while taken or resting.
    taken: Vec<u64>,
    /// In the order of their release.
    resting: VecDeque<u16>,
}

impl Numbers {
    fn take(&mut self) -> Option<u16> {
        let word = self.taken.iter().position(|word| *word != u64::MAX).unwrap_or(self.taken.len());
        let bit = self.taken.get(word).map_or(0, |word| word.trailing_ones() as usize);
        let Ok(number) = u16::try_from(word * 64 + bit) else {
            // None is free: the one that has rested longest has rested enough.
            return self.resting.pop_front();
        };
        if word == self.taken.len() {
            self.taken.push(0);
        }
        self.taken[word] |= 1 << bit;
        Some(number)
    }

    fn release(&mut self, number: u16) {
        self.resting.push_back(number);
        if self.resting.len() > RESTING
            && let Some(number) = self.resting.pop_front().map(usize::from)
        {
            self.taken[number / 64] &= !(1 << (number % 64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Numbers, RESTING};

    #[test]
    fn the_lowest_free_number() {
        let mut numbers = Numbers::default();
        for expected in 0..=u16::MAX {
            assert_eq!(numbers.take(), Some(expected));
        }
        assert_eq!(numbers.take(), None);
        numbers.release(64);
        numbers.release(7);
        assert_eq!([numbers.take(), numbers.take(), numbers.take()], [Some(64), Some(7), None]);
    }

    #[test]
    fn a_number_rests_until_as_many_others_were_released() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.take(), Some(0));
        for round in 0..100 {
            let number = numbers.take().expect("most are free");
            assert_eq!(usize::from(number), 1 + round % (RESTING + 1));
            numbers.release(number);
        }
    }
}
