//! Decides which of the database and its copy is right when they are opened, and what to do. Pure: [`judge`] decides and gives
//! the reasons; the caller acts.
//!
//! A change is appended to the copy first, then applied to the database, then confirmed. So if both are valid:
//!
//! | the copy is | what happened |
//! |---|---|
//! | as new as the database | a regular stop |
//! | one change newer | the daemon was killed between the two, or the database has lost its last change: the change is repeated |
//! | more changes newer | the database has lost changes: after some damage redb falls back to an older state silently |
//! | older | the copy has lost changes |
//!
//! The newer one is right in each case. If only one is valid, that one is right. If neither is, every valid line of the copy is
//! applied over the content of the database; the rest is lost and reported.

use std::path::Path;

use super::{
    VERSION,
    content::Content,
    copy,
    database::{self, Snapshot},
    lines::Lines,
};

/// The database as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is no file.
    Nothing,
    /// It exists, but cannot be read.
    Damaged(String),
    /// It is valid.
    Whole(Snapshot),
}

/// The content to use, and what to do to have it twice again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) content: Content,
    pub(super) revision: u64,
    /// Identity of the store; `None` if it has none yet.
    pub(super) id: Option<u64>,
    pub(super) database: Mend,
    pub(super) copy: Mend,
    /// What was damaged, and how it is repaired: a sentence each.
    pub(super) notes: Vec<String>,
    /// Whether rows may be missing.
    pub(super) has_lost: bool,
    /// The message about that, unless the store was new.
    loss: Option<String>,
}

/// How to repair one of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mend {
    /// Nothing.
    Keep,
    /// Rewrite it; the existing file is moved aside under this name.
    Renew(Option<String>),
}

/// Names for files that are moved aside.
#[derive(Clone, Debug)]
pub(super) struct Asides {
    pub(super) database: String,
    pub(super) copy: String,
}

/// Compares the database with its copy; if these are incomplete, also with the copy that lives as long as the host: a file and
/// its content.
pub(super) fn judge(
    found: Found,
    copy: Option<Lines>,
    live: Option<(&Path, Lines)>,
    asides: &Asides,
) -> Verdict {
    let is_new = found == Found::Nothing && copy.is_none();
    let is_damaged = matches!(found, Found::Damaged(_));
    let mut verdict = weigh(found, copy, asides);
    // A copy that was cut at the end of a line looks complete.
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
            // A first start, or a different disk: nothing is known of earlier objects.
            verdict.has_lost = true;
            verdict
        }
        (Found::Whole(snapshot), None) if snapshot.version < VERSION => migrate(snapshot),
        (Found::Whole(snapshot), None) => {
            let mut verdict = Verdict::of(snapshot);
            verdict.copy = Mend::Renew(None);
            verdict.note(format!("{} was missing: it is rewritten from {}", copy::NAME, database::NAME));
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
            verdict.loss = Some("objects created by command are lost".to_owned());
            verdict
        }
    }
}

/// Takes over a store of an older version. The old file is kept, so that a downgrade is possible.
fn migrate(snapshot: Snapshot) -> Verdict {
    let aside = format!("{}.v{}", database::NAME, snapshot.version);
    let mut verdict = Verdict::new(snapshot.content, 0, None);
    verdict.database = Mend::Renew(Some(aside));
    verdict
}

/// The database is unusable: only the copy is left.
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
            // Killed during its first start.
            return verdict;
        }
        verdict.note(format!("{database} {what}: everything was restored from {name} ({summary}){kept}"));
        verdict.has_lost = copy.is_torn;
        verdict.loss = Some(format!("the last line of {name} is incomplete: the last change may be missing"));
    } else {
        verdict.copy = Mend::Renew(Some(asides.copy.clone()));
        verdict.has_lost = true;
        verdict.note(format!(
            "{database} {what}, and {name} is damaged too ({}){kept}; the damaged copy is kept as {}",
            damage(copy),
            asides.copy
        ));
        verdict.loss = Some(format!(
            "what is readable of {name} was restored ({summary}); other objects created by command are lost"
        ));
    }
    verdict
}

fn compare(snapshot: Snapshot, copy: &Lines, asides: &Asides) -> Verdict {
    let (database, name) = (database::NAME, copy::NAME);
    if snapshot.version < VERSION {
        // An older daemon has run since, or the last one was killed while taking the store over.
        let is_same = copy.is_complete() && copy.content() == snapshot.content;
        let mut verdict = migrate(snapshot);
        if !is_same {
            verdict.copy = Mend::Renew(Some(asides.copy.clone()));
            verdict.note(format!(
                "{database} is of an older version, and {name} is not a copy of it: {database} is used, and the \
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
        return believe_database(snapshot, "differs at the same revision", asides);
    }
    let mut verdict = Verdict::of(snapshot);
    if copy.is_torn {
        // The same is seen if both have lost the last change, so it is reported.
        verdict.note(format!(
            "the last line of {name} is incomplete: vswitchd was stopped in the middle of a change, which was neither made nor \
             confirmed, or the file was damaged"
        ));
    }
    verdict
}

/// Rewrites the copy from the database.
fn believe_database(snapshot: Snapshot, what: &str, asides: &Asides) -> Verdict {
    let mut verdict = Verdict::of(snapshot);
    verdict.copy = Mend::Renew(Some(asides.copy.clone()));
    verdict.note(format!(
        "{name} {what}: it is rewritten from {}, and nothing is lost; the old one is kept as {}",
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
                "{database} lacked the last change, which {name} has: it was repeated. vswitchd was killed in the \
                 middle of it, or the database was damaged"
            ));
        }
        Some(changes) => {
            verdict.content.apply(changes);
            verdict.database = Mend::Renew(Some(aside.clone()));
            verdict.note(format!(
                "{database} lacked the last {missing} changes, which {name} has: it was damaged, or an older one was \
                 put in its place. They were repeated, and nothing is lost; the old file is kept as {aside}"
            ));
        }
        None if copy.is_complete() => {
            verdict.content = copy.content();
            verdict.database = Mend::Renew(Some(aside.clone()));
            verdict.note(format!(
                "{database} lacked the last {missing} changes: it was damaged, or an older one was put in its place. \
                 Everything was restored from {name}, and nothing is lost; the old file is kept as {aside}"
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
                "what is readable of both was restored: objects may be missing, and removed ones may be back"
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
    /// A store to be rewritten.
    fn new(content: Content, revision: u64, id: Option<u64>) -> Self {
        let (database, copy) = (Mend::Renew(None), Mend::Renew(None));
        Self { content, revision, id, database, copy, notes: Vec::new(), has_lost: false, loss: None }
    }

    /// A valid store.
    fn of(snapshot: Snapshot) -> Self {
        let Snapshot { id, revision, content, .. } = snapshot;
        let (database, copy) = (Mend::Keep, Mend::Keep);
        Self { content, revision, id, database, copy, notes: Vec::new(), has_lost: false, loss: None }
    }

    /// Takes missing rows from the copy that lives as long as the host.
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
            self.note(format!("missing rows were restored from {path}, which lacks the latest changes"));
            return;
        }
        (self.content, self.revision, self.id, self.has_lost) = (content, revision, header.id, false);
        let (summary, name) = (self.content.summary(), database::NAME);
        self.note(if is_new {
            format!(
                "there is no {name}, though there was one since this host is up: everything was restored from {path} \
                 ({summary}). To start empty, stop vswitchd and delete that file too"
            )
        } else {
            format!("nothing is lost: everything was restored from {path}, which is kept while this host is up ({summary})")
        });
    }

    fn note(&mut self, note: String) {
        self.notes.push(note);
    }
}

fn damage(copy: &Lines) -> String {
    match (copy.header, copy.damaged) {
        (_, 0) if copy.entries.is_empty() && copy.header.is_none() => "it is empty".to_owned(),
        (None, damaged) => format!("its beginning is missing, and {} cannot be read", lines(damaged)),
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
