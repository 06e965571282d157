//! The database: one `redb` file.
//!
//! redb may abort the process on a file that something else has changed, because release builds do not unwind. So no file is
//! opened here before [`read`] has processed it in a separate process (see [`apart`]): the code below does the same with the
//! same bytes.

use std::{fs::OpenOptions, io, path::Path};

use redb::{
    Builder, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableError,
    backends::{FileBackend, InMemoryBackend},
};

use super::{
    VERSION, apart,
    content::{Change, Content, Table},
    file,
    recover::Found,
};

/// Its name in the folder.
pub(super) const NAME: &str = "store.redb";

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Keys of [`META`].
const FORMAT: &str = "version";
const ID: &str = "id";
const REVISION: &str = "revision";

/// The content of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// The version of its format.
    pub(super) version: u64,
    /// Identity of this store; `None` before version 3.
    pub(super) id: Option<u64>,
    /// Number of changes made; 0 before version 3.
    pub(super) revision: u64,
    pub(super) content: Content,
}

/// The database, open for writing.
#[derive(Debug)]
pub(super) struct Database {
    redb: redb::Database,
    /// Identity of its file.
    identity: Option<(u64, u64)>,
}

/// Finds and reads the database in `folder` by way of `program`, in a separate process.
///
/// # Errors
/// This process may not read it, or the program cannot be started.
pub(super) fn find(folder: &Path, program: &Path) -> io::Result<Found> {
    let file = match file::open(&folder.join(NAME)) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(Found::Nothing),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
        // A folder in its place, or an unreadable disk.
        Err(error) => return Ok(Found::Damaged(error.to_string())),
    };
    Ok(match apart::read(program, file, apart::PATIENCE)? {
        Ok(snapshot) => Found::Whole(snapshot),
        Err(why) => Found::Damaged(why),
    })
}

/// Reads the bytes of a database without changing anything. Of a newer version only the version is returned.
///
/// # Errors
/// Why they are not valid.
///
/// # Panics
/// On damage that redb does not expect. It may also abort, or not return.
pub(super) fn read(bytes: &[u8]) -> Result<Snapshot, redb::Error> {
    if bytes.is_empty() {
        // redb would create a new one.
        return Err(invalid("the file is empty"));
    }
    let memory = InMemoryBackend::new();
    memory.set_len(bytes.len() as u64)?;
    memory.write(0, bytes)?;
    let database = builder().create_with_backend(memory)?;
    let transaction = database.begin_read()?;
    let mut snapshot = Snapshot { version: 0, id: None, revision: 0, content: Content::default() };
    match transaction.open_table(META) {
        Ok(meta) => {
            let number = |key: &str| Ok::<_, redb::Error>(meta.get(key)?.map(|number| number.value()));
            snapshot.version = number(FORMAT)?.unwrap_or_default();
            snapshot.id = number(ID)?;
            snapshot.revision = number(REVISION)?.unwrap_or_default();
        }
        // A daemon of version 2 that ended before its first transaction.
        Err(TableError::TableDoesNotExist(_)) if transaction.list_tables()?.next().is_none() => {
            snapshot.version = 2;
        }
        Err(error) => return Err(error.into()),
    }
    match snapshot.version {
        0 => return Err(invalid("it is a database, but of something else")),
        1..=VERSION => {}
        _ => return Ok(snapshot),
    }
    for table in Table::ALL {
        let rows = match transaction.open_table(rows(table)) {
            Ok(rows) => rows,
            // Older versions have fewer tables.
            Err(TableError::TableDoesNotExist(name)) if name == table.name() => continue,
            Err(error) => return Err(error.into()),
        };
        for row in rows.iter()? {
            let (key, text) = row?;
            let (key, text) = (key.value().to_owned(), Some(text.value().to_owned()));
            snapshot.content.apply([Change { table, key, text }]);
        }
    }
    Ok(snapshot)
}

impl Database {
    /// Opens the database in `folder`, which [`read`] has found valid.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        Self::at(&folder.join(NAME))
    }

    fn at(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let redb = FileBackend::new(file).and_then(|file| builder().create_with_backend(file));
        let redb = redb.map_err(|error| plain(error.into()))?;
        Ok(Self { redb, identity: file::identity(path) })
    }

    /// Whether the file is still in its place.
    pub(super) fn is_there(&self, folder: &Path) -> bool {
        self.identity.is_some() && file::identity(&folder.join(NAME)) == self.identity
    }

    /// Creates a database. An existing file is moved to `aside`, or replaced.
    pub(super) fn write(
        folder: &Path,
        aside: Option<&str>,
        id: u64,
        revision: u64,
        content: &Content,
    ) -> io::Result<Self> {
        file::replace(&folder.join(NAME), aside, |path| {
            let database = Self::at(path)?;
            let begin = |meta: &mut redb::Table<'_, &str, u64>| {
                meta.insert(FORMAT, VERSION)?;
                meta.insert(ID, id)?;
                Ok(())
            };
            database.transact(revision, content.changes(), begin).map_err(plain)?;
            Ok(database)
        })
    }

    /// Applies changes. They are on the disk when this returns. After a failure the database is unusable, and it is unknown
    /// whether they were applied.
    pub(super) fn commit(&self, revision: u64, changes: &[Change]) -> io::Result<()> {
        self.transact(revision, changes.iter().cloned(), |_| Ok(())).map_err(plain)
    }

    /// redb's transactions are durable once committed, by default.
    fn transact(
        &self,
        revision: u64,
        changes: impl Iterator<Item = Change>,
        begin: impl FnOnce(&mut redb::Table<'_, &str, u64>) -> Result<(), redb::Error>,
    ) -> Result<(), redb::Error> {
        let transaction = self.redb.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            begin(&mut meta)?;
            meta.insert(REVISION, revision)?;
            for Change { table, key, text } in changes {
                let mut rows = transaction.open_table(rows(table))?;
                match text {
                    Some(text) => drop(rows.insert(key.as_str(), text.as_str())?),
                    None => drop(rows.remove(key.as_str())?),
                }
            }
        }
        Ok(transaction.commit()?)
    }
}

/// A builder that checks every page first: opening without the check may panic on a damaged file.
fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_check_integrity_on_open(true);
    builder
}

fn rows(table: Table) -> TableDefinition<'static, &'static str, &'static str> {
    TableDefinition::new(table.name())
}

fn invalid(what: &str) -> redb::Error {
    redb::Error::Corrupted(what.to_owned())
}

/// Converts to a system error: callers only distinguish a full disk.
fn plain(error: redb::Error) -> io::Error {
    match error {
        redb::Error::Io(error) => error,
        redb::Error::DatabaseAlreadyOpen => io::Error::new(io::ErrorKind::ResourceBusy, error),
        error => io::Error::other(error),
    }
}
