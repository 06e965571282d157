//! Files of the store: for their owner alone, and replaced wholly or not at all.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tracing::warn;

/// What is kept names containers and holds their labels and options: nobody but the daemon's user reads it.
pub(super) const PRIVATE: u32 = 0o600;
const PRIVATE_FOLDER: u32 = 0o700;

/// What all files of the store begin with.
const OURS: &str = "store.";
/// The other file in the folder: who has it.
pub(crate) const LOCK: &str = "vswitchd.lock";

/// Bytes of the longest file that is taken for a store. Ten thousand endpoints have some ten million.
const LONGEST: u64 = 1 << 30;

/// Files that are kept of each that was moved aside.
const KEPT_ASIDE: usize = 4;

/// Makes the folder if it is missing, for its owner alone. One that was there is closed to others too, if nothing in it is
/// anybody else's: an operator may have named a folder that others share.
///
/// # Errors
/// It cannot be made.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(folder)?;
    let is_ours = |name: &str| name.starts_with(OURS) || name == LOCK;
    let mut names = fs::read_dir(folder)?.map_while(Result::ok).map(|entry| entry.file_name());
    if names.all(|name| name.to_str().is_some_and(is_ours)) {
        restrict(folder, PRIVATE_FOLDER);
    }
    Ok(())
}

/// Closes every file of the store in `folder` to others.
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
    // A folder with the sticky bit is made for many (tmpfs, /tmp).
    let is_open = metadata.mode() & 0o077 != 0 && metadata.mode() & 0o1000 == 0;
    if is_open && let Err(error) = fs::set_permissions(path, Permissions::from_mode(most)) {
        warn!("{} can be read by others: {error}", path.display());
    }
}

/// Opens a file to be read; `None`: there is none.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "it is no file"))
        }
        Ok(metadata) if metadata.len() > LONGEST => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {LONGEST} bytes")))
        }
        Ok(_) => File::open(path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// All of a file that is no longer than a store may be.
pub(super) fn read(file: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Puts what `write` writes in the place of the file at `path`, which is moved to `aside` in its folder first where that is
/// given. On the disk when this returns; on failure nothing has changed.
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
        // Killed here, the file is missing, and what it said is in the other.
        fs::rename(&new, path)?;
        sync(folder)?;
        Ok(written)
    });
    if replaced.is_err() {
        // It is in nobody's way, but takes room.
        let _ = fs::remove_file(&new);
    }
    replaced
}

/// Which file is at `path`.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// A renamed file survives a power cut only if its folder's entry does.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A name for a damaged file that nothing in the folder has.
pub(super) fn aside_name(folder: &Path, name: &str, stamp: &str) -> String {
    let taken = |aside: &String| folder.join(aside).symlink_metadata().is_ok();
    let first = format!("{name}.damaged-{stamp}");
    let others = (1..).map(|number| format!("{name}.damaged-{stamp}.{number}"));
    std::iter::once(first).chain(others).find(|aside| !taken(aside)).unwrap_or_default()
}

/// Removes all but the latest of the damaged files that were kept of `name`.
pub(super) fn prune(folder: &Path, name: &str) {
    let begin = format!("{name}.damaged-");
    let entries = fs::read_dir(folder).into_iter().flatten().map_while(Result::ok);
    let is_kept = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&begin))
    };
    let mut kept: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_kept).collect();
    // By time, which is in their names.
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
