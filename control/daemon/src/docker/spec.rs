//! Announces a plugin whose socket is not where Docker looks by default.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Folder of sockets that Docker searches: `NAME.sock`, or `NAME/NAME.sock`.
const SOCKETS: &str = "/run/docker/plugins";

/// Folder of files that name sockets.
const SPECS: &str = "/etc/docker/plugins";

/// A file that announces the socket to Docker, deleted with the value.
#[derive(Debug)]
pub(crate) struct SpecFile {
    path: PathBuf,
    text: String,
}

impl SpecFile {
    /// Writes the file for `socket`. None is needed in the folder that Docker searches.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(socket: &Path) -> io::Result<Option<Self>> {
        Self::write_into(SPECS.as_ref(), socket)
    }

    fn write_into(folder: &Path, socket: &Path) -> io::Result<Option<Self>> {
        let Some(name) = socket.file_stem().filter(|_| !is_found(socket)) else { return Ok(None) };
        let path = folder.join(name).with_extension("spec");
        let text = format!("unix://{}\n", socket.display());
        fs::create_dir_all(folder)?;
        fs::write(&path, &text)?;
        Ok(Some(Self { path, text }))
    }
}

impl Drop for SpecFile {
    fn drop(&mut self) {
        // Another daemon may have written its own meanwhile.
        if fs::read_to_string(&self.path).is_ok_and(|text| text == self.text) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn is_found(socket: &Path) -> bool {
    let Some(folder) = socket.parent() else { return false };
    let sockets = Path::new(SOCKETS);
    folder == sockets || folder.parent() == Some(sockets) && folder.file_name() == socket.file_stem()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_elsewhere_is_told_by_a_file_that_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let write = |socket: &str| SpecFile::write_into(folder.path(), socket.as_ref()).unwrap();
        assert!(write("/run/docker/plugins/vswitch.sock").is_none());
        assert!(write("/run/docker/plugins/blue/blue.sock").is_none());
        let file = write("/run/vswitch/blue.sock").unwrap();
        let path = folder.path().join("blue.spec");
        assert_eq!(fs::read_to_string(&path).unwrap(), "unix:///run/vswitch/blue.sock\n");
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn what_another_wrote_stays() {
        let folder = tempfile::tempdir().unwrap();
        let first = SpecFile::write_into(folder.path(), "/a/vswitch.sock".as_ref()).unwrap();
        let _second = SpecFile::write_into(folder.path(), "/b/vswitch.sock".as_ref()).unwrap();
        drop(first);
        assert!(folder.path().join("vswitch.spec").exists());
    }
}
