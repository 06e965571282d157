//! Files of the store: readable by their owner only, and replaced atomically.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tracing::warn;

/// Mode of files: the store names containers and holds their labels and options, so only the daemon's user may read it.
pub(super) const PRIVATE: u32 = 0o600;
const PRIVATE_FOLDER: u32 = 0o700;

/// Common prefix of all files of the store.
const OURS: &str = "store.";
/// The other file in the folder: the lock.
pub(crate) const LOCK: &str = "vswitchd.lock";

/// Length limit of a store's file in bytes. Ten thousand endpoints take some ten million.
const LONGEST: u64 = 1 << 30;

/// Number of files kept of each that was moved aside.
const KEPT_ASIDE: usize = 4;

/// Creates the folder if it is missing, accessible to its owner only. An existing folder is restricted too if all its files are
/// the store's: the operator may have chosen a shared folder.
///
/// # Errors
/// It cannot be created.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(folder)?;
    let is_ours = |name: &str| name.starts_with(OURS) || name == LOCK;
    let mut names = fs::read_dir(folder)?.map_while(Result::ok).map(|entry| entry.file_name());
    if names.all(|name| name.to_str().is_some_and(is_ours)) {
        restrict(folder, PRIVATE_FOLDER);
    }
    Ok(())
}

/// Restricts every file of the store in `folder` to its owner.
pub(super) fn restrict_all(folder: &Path) {
    let ours = fs::read_dir(folder).into_iter().flatten().map_while(Result::ok);
    for entry in ours.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(OURS))) {
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            restrict(&entry.path(), PRIVATE);
        }
    }
}

fn restrict(path: &Path, most: u32) {
    let Ok(metadata) = fs::metadata(path) else { return };
    // A folder with the sticky bit is meant to be shared (tmpfs, /tmp).
    let is_open = metadata.mode() & 0o077 != 0 && metadata.mode() & 0o1000 == 0;
    if is_open && let Err(error) = fs::set_permissions(path, Permissions::from_mode(most)) {
        warn!("{} can be read by others: {error}", path.display());
    }
}

/// Opens a file for reading; `None` if there is none.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file"))
        }
        Ok(metadata) if metadata.len() > LONGEST => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {LONGEST} bytes")))
        }
        Ok(_) => File::open(path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a file of at most the length limit.
pub(super) fn read(file: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Replaces the file at `path` with what `write` writes. If `aside` is given, the old file is moved there first, in the same
/// folder. The data is on the disk when this returns; on failure nothing has changed.
pub(super) fn replace<T>(
    path: &Path,
    aside: Option<&str>,
    write: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let new = path.with_added_extension("new");
    let folder = path.parent().unwrap_or(path);
    if let Err(error) = fs::remove_file(&new)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let written = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(&new).and_then(|file| {
        let written = write(&new)?;
        file.sync_all()?;
        Ok(written)
    });
    let replaced = written.and_then(|written| {
        if let Some(aside) = aside {
            match fs::rename(path, folder.join(aside)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        // If the process is killed here, the file is missing and its content is in the other one.
        fs::rename(&new, path)?;
        sync(folder)?;
        Ok(written)
    });
    if replaced.is_err() {
        // It does no harm, but takes room.
        let _ = fs::remove_file(&new);
    }
    replaced
}

/// Identity of the file at `path`.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Syncs the folder: a rename survives a power cut only with its folder's entry.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// An unused name for a damaged file.
pub(super) fn aside_name(folder: &Path, name: &str, stamp: &str) -> String {
    let taken = |aside: &String| folder.join(aside).symlink_metadata().is_ok();
    let first = format!("{name}.damaged-{stamp}");
    let others = (1..).map(|number| format!("{name}.damaged-{stamp}.{number}"));
    std::iter::once(first).chain(others).find(|aside| !taken(aside)).unwrap_or_default()
}

/// Removes all but the latest damaged files of `name`.
pub(super) fn prune(folder: &Path, name: &str) {
    let begin = format!("{name}.damaged-");
    let entries = fs::read_dir(folder).into_iter().flatten().map_while(Result::ok);
    let is_kept = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&begin))
    };
    let mut kept: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_kept).collect();
    // By time, which is part of the names.
    kept.sort();
    for old in kept.iter().rev().skip(KEPT_ASIDE) {
        if let Err(error) = fs::remove_file(old) {
            warn!("{} cannot be removed: {error}", old.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_folder_of_ours_is_closed_and_one_that_others_share_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/b");
        make_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.join("store.redb"), "").unwrap();
        make_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.join("letters"), "").unwrap();
        make_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o755, "somebody else's file is in it");
        restrict_all(&folder);
        assert_eq!(mode(&folder.join("store.redb")), 0o600);
        assert_ne!(mode(&folder.join("letters")), 0o600);
    }

    #[test]
    fn a_file_is_replaced_wholly_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.x");
        let put = |text: &'static str, aside: Option<&str>| replace(&path, aside, |new| fs::write(new, text));
        put("one", Some("store.x.old")).unwrap();
        put("two", Some("store.x.old")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_to_string(folder.path().join("store.x.old")).unwrap(), "one");
        assert_eq!(mode(&path), 0o600);
        let failed: io::Result<()> = replace(&path, Some("store.x.old"), |new| {
            fs::write(new, "half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left behind");
    }

    #[test]
    fn few_damaged_files_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        for time in 10..20 {
            let aside = aside_name(folder.path(), "store.x", &time.to_string());
            fs::write(folder.path().join(aside), "").unwrap();
        }
        assert_eq!(aside_name(folder.path(), "store.x", "19"), "store.x.damaged-19.1");
        prune(folder.path(), "store.x");
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["16", "17", "18", "19"].map(|time| format!("store.x.damaged-{time}")));
    }
}
