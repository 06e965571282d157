//! What is believed when the database and its copy are opened, and what is done about it. Pure: [`judge`] decides and
//! says why; who asked does it.
//!
//! A change is appended to the copy first, then made in the database, then answered. So where both are whole:
//!
//! | the copy is | what happened |
//! |---|---|
//! | as new as the database | nothing |
//! | one change newer | the daemon was killed between the two, or the database has lost its last change: the change is made again |
//! | more changes newer | the database has lost changes: redb falls back to an older state over some damages without a word |
//! | older | the copy has lost changes |
//!
//! The newer one is right in each case. Where one is not whole the other is right; where neither is, every line of the copy
//! that is whole is taken, over what the database says, and the rest is lost and told.

use std::path::Path;

use super::{
    VERSION,
    content::Content,
    copy,
    database::{self, Snapshot},
    lines::Lines,
};

/// What was found of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is no file.
    Nothing,
    /// There is one, and it cannot be read.
    Damaged(String),
    /// It is whole.
    Whole(Snapshot),
}

/// What is believed, and what must be done to have it twice again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) content: Content,
    pub(super) revision: u64,
    /// Of the store; `None`: it has none yet.
    pub(super) id: Option<u64>,
    pub(super) database: Mend,
    pub(super) copy: Mend,
    /// What was found wrong and what comes of it: a sentence each.
    pub(super) notes: Vec<String>,
    /// Whether something that was kept may be missing.
    pub(super) has_lost: bool,
    /// What is told of that, where something was kept.
    loss: Option<String>,
}

/// What is to be done with one of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mend {
    /// Nothing.
    Keep,
    /// Write it anew; the file that is there is moved aside under this name.
    Renew(Option<String>),
}

/// Names for what is moved aside.
#[derive(Clone, Debug)]
pub(super) struct Asides {
    pub(super) database: String,
    pub(super) copy: String,
}

/// Holds the database against its copy; and where these do not know everything, against what was kept while the host has
/// been up, a file and what it says.
pub(super) fn judge(
    found: Found,
    copy: Option<Lines>,
    live: Option<(&Path, Lines)>,
    asides: &Asides,
) -> Verdict {
    let is_new = found == Found::Nothing && copy.is_none();
    let is_damaged = matches!(found, Found::Damaged(_));
    let mut verdict = weigh(found, copy, asides);
    // A copy may end early where a line does, and does not know it.
    let is_newer = |live: &Lines| live.revision() > Some(verdict.revision);
    if let Some((path, live)) = live
        && (verdict.has_lost || is_damaged && is_newer(&live))
    {
        verdict.fill(path, &live, is_new);
    }
    if verdict.has_lost {
        verdict.notes.extend(verdict.loss.take());
    }
    verdict
}

fn weigh(found: Found, copy: Option<Lines>, asides: &Asides) -> Verdict {
    match (found, copy) {
        (Found::Nothing, None) => {
            let mut verdict = Verdict::new(Content::default(), 0, None);
            // A first start, or the disk is another one: nothing is known of what was before.
            verdict.has_lost = true;
            verdict
        }
        (Found::Whole(snapshot), None) if snapshot.version < VERSION => migrate(snapshot),
        (Found::Whole(snapshot), None) => {
            let mut verdict = Verdict::of(snapshot);
            verdict.copy = Mend::Renew(None);
            verdict.note(format!("{} was missing: it is written anew from {}", copy::NAME, database::NAME));
            verdict
        }
        (Found::Whole(snapshot), Some(copy)) => compare(snapshot, &copy, asides),
        (Found::Nothing, Some(copy)) => from_copy("is missing", None, &copy, asides),
        (Found::Damaged(why), Some(copy)) => {
            from_copy(&format!("is damaged ({why})"), Some(&asides.database), &copy, asides)
        }
        (Found::Damaged(why), None) => {
            let mut verdict = Verdict::new(Content::default(), 0, None);
            verdict.database = Mend::Renew(Some(asides.database.clone()));
            verdict.has_lost = true;
            verdict.note(format!(
                "{} is damaged ({why}), and there is no {}; the damaged file is kept as {}",
                database::NAME,
                copy::NAME,
                asides.database
            ));
            verdict.loss = Some("what was made by command is lost".to_owned());
            verdict
        }
    }
}

/// Takes over a store of an older version. It is kept as it was, so that there is a way back.
fn migrate(snapshot: Snapshot) -> Verdict {
    let aside = format!("{}.v{}", database::NAME, snapshot.version);
    let mut verdict = Verdict::new(snapshot.content, 0, None);
    verdict.database = Mend::Renew(Some(aside));
    verdict
}

/// The database cannot be used: the copy is all there is.
fn from_copy(what: &str, aside: Option<&String>, copy: &Lines, asides: &Asides) -> Verdict {
    let (content, revision) = (copy.content(), copy.revision().unwrap_or_default());
    let id = copy.header.and_then(|header| header.id);
    let mut verdict = Verdict::new(content, revision, id);
    verdict.database = Mend::Renew(aside.cloned());
    let kept = aside.map(|aside| format!("; the damaged file is kept as {aside}")).unwrap_or_default();
    let summary = verdict.content.summary();
    let (database, name) = (database::NAME, copy::NAME);
    if copy.is_complete() {
        verdict.copy = Mend::Keep;
        if copy.revision() == Some(0) && copy.entries.is_empty() {
            // Killed in the middle of its very first start.
            return verdict;
        }
        verdict.note(format!("{database} {what}: everything was taken from {name} ({summary}){kept}"));
        verdict.has_lost = copy.is_torn;
        verdict.loss = Some(format!("the last line of {name} has no end: the last change may be missing"));
    } else {
        verdict.copy = Mend::Renew(Some(asides.copy.clone()));
        verdict.has_lost = true;
        verdict.note(format!(
            "{database} {what}, and {name} is damaged too ({}){kept}; the damaged copy is kept as {}",
            damage(copy),
            asides.copy
        ));
        verdict.loss = Some(format!(
            "what can be read of {name} was taken ({summary}), and what was made by command besides is lost"
        ));
    }
    verdict
}

fn compare(snapshot: Snapshot, copy: &Lines, asides: &Asides) -> Verdict {
    let (database, name) = (database::NAME, copy::NAME);
    if snapshot.version < VERSION {
        // An older daemon has run since, or the last one was killed while it took the store over.
        let is_same = copy.is_complete() && copy.content() == snapshot.content;
        let mut verdict = migrate(snapshot);
        if !is_same {
            verdict.copy = Mend::Renew(Some(asides.copy.clone()));
            verdict.note(format!(
                "{database} is of an older version, and {name} is no copy of it: {database} is believed, and the \
                 other is kept as {}",
                asides.copy
            ));
        }
        return verdict;
    }
    let (id, revision) = (snapshot.id, snapshot.revision);
    let copied = copy.header.and_then(|header| header.id);
    if copied.is_some() && copied != id {
        return believe_database(snapshot, "is the copy of another store", asides);
    }
    let newest = copy.revision().unwrap_or_default();
    if newest > revision {
        return catch_up(snapshot, copy, newest, asides);
    }
    if !copy.is_complete() || (copy.is_torn && newest < revision) {
        let what = format!("is damaged ({})", damage(copy));
        return believe_database(snapshot, &what, asides);
    }
    if newest < revision {
        let what = format!("lacks the last {}", changes(revision - newest));
        return believe_database(snapshot, &what, asides);
    }
    if copy.content() != snapshot.content {
        return believe_database(snapshot, "says something else about the same revision", asides);
    }
    let mut verdict = Verdict::of(snapshot);
    if copy.is_torn {
        // The same is seen where both have lost the last change, so it is told.
        verdict.note(format!(
            "the last line of {name} has no end: vswitchd was stopped in the middle of a change, which was not made and not \
             answered, or the file was damaged"
        ));
    }
    verdict
}

/// The copy is to be written anew from the database.
fn believe_database(snapshot: Snapshot, what: &str, asides: &Asides) -> Verdict {
    let mut verdict = Verdict::of(snapshot);
    verdict.copy = Mend::Renew(Some(asides.copy.clone()));
    verdict.note(format!(
        "{name} {what}: it is written anew from {}, and nothing is lost; the old one is kept as {}",
        database::NAME,
        asides.copy,
        name = copy::NAME,
    ));
    verdict
}

/// The database is older than its copy.
fn catch_up(snapshot: Snapshot, copy: &Lines, newest: u64, asides: &Asides) -> Verdict {
    let (database, name) = (database::NAME, copy::NAME);
    let (id, missing) = (snapshot.id, newest - snapshot.revision);
    let since = copy.since(snapshot.revision);
    let mut verdict = Verdict::of(snapshot);
    verdict.revision = newest;
    let aside = asides.database.clone();
    match since {
        Some(changes) if missing == 1 => {
            verdict.content.apply(changes);
            verdict.database = Mend::Renew(None);
            verdict.note(format!(
                "{database} lacked the last change, which {name} has: it was made again. vswitchd was killed in the \
                 middle of it, or the database was damaged"
            ));
        }
        Some(changes) => {
            verdict.content.apply(changes);
            verdict.database = Mend::Renew(Some(aside.clone()));
            verdict.note(format!(
                "{database} lacked the last {missing} changes, which {name} has: it was damaged, or an older one was \
                 put in its place. They were made again, and nothing is lost; the old file is kept as {aside}"
            ));
        }
        None if copy.is_complete() => {
            verdict.content = copy.content();
            verdict.database = Mend::Renew(Some(aside.clone()));
            verdict.note(format!(
                "{database} lacked the last {missing} changes: it was damaged, or an older one was put in its place. \
                 Everything was taken from {name}, and nothing is lost; the old file is kept as {aside}"
            ));
        }
        None => {
            verdict.content.apply(copy.content().changes());
            verdict.database = Mend::Renew(Some(aside.clone()));
            verdict.has_lost = true;
            verdict.note(format!(
                "{database} lacked the last {missing} changes, and {name} is damaged too ({}); the old files are kept \
                 as {aside} and {}",
                damage(copy),
                asides.copy
            ));
            verdict.loss = Some(
                "what can be read of both was taken: something may be missing, or be there again that was removed"
                    .to_owned(),
            );
        }
    }
    if !copy.is_complete() {
        verdict.copy = Mend::Renew(Some(asides.copy.clone()));
    }
    verdict.id = id;
    verdict
}

impl Verdict {
    /// A store that is to be written.
    fn new(content: Content, revision: u64, id: Option<u64>) -> Self {
        let (database, copy) = (Mend::Renew(None), Mend::Renew(None));
        Self { content, revision, id, database, copy, notes: Vec::new(), has_lost: false, loss: None }
    }

    /// A store that is right.
    fn of(snapshot: Snapshot) -> Self {
        let Snapshot { id, revision, content, .. } = snapshot;
        let (database, copy) = (Mend::Keep, Mend::Keep);
        Self { content, revision, id, database, copy, notes: Vec::new(), has_lost: false, loss: None }
    }

    /// Takes what is missing from what was kept while the host has been up.
    fn fill(&mut self, path: &Path, live: &Lines, is_new: bool) {
        let Some(header) = live.header.filter(|header| header.store == VERSION && live.is_complete()) else {
            return;
        };
        let (content, revision) = (live.content(), live.revision().unwrap_or_default());
        if self.id.is_some_and(|id| header.id != Some(id)) || content == Content::default() {
            return;
        }
        let path = path.display();
        if revision < self.revision {
            let newer = std::mem::replace(&mut self.content, content);
            self.content.apply(newer.changes());
            self.note(format!("what was missing was taken from {path}, which lacks the latest changes"));
            return;
        }
        (self.content, self.revision, self.id, self.has_lost) = (content, revision, header.id, false);
        let (summary, name) = (self.content.summary(), database::NAME);
        self.note(if is_new {
            format!(
                "there is no {name}, though there was one since this host is up: everything was taken from {path} \
                 ({summary}). To begin with nothing, stop vswitchd and delete that file too"
            )
        } else {
            format!("nothing is lost: everything was taken from {path}, which is kept while this host is up ({summary})")
        });
    }

    fn note(&mut self, note: String) {
        self.notes.push(note);
    }
}

fn damage(copy: &Lines) -> String {
    match (copy.header, copy.damaged) {
        (_, 0) if copy.entries.is_empty() && copy.header.is_none() => "it is empty".to_owned(),
        (None, damaged) => format!("it has no beginning, and {} cannot be read", lines(damaged)),
        (Some(_), 0) => "lines are missing".to_owned(),
        (Some(_), damaged) => format!("{} cannot be read", lines(damaged)),
    }
}

fn lines(count: usize) -> String {
    if count == 1 { "1 line".to_owned() } else { format!("{count} lines") }
}

fn changes(count: u64) -> String {
    if count == 1 { "change".to_owned() } else { format!("{count} changes") }
}
