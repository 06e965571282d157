//! Listening unix sockets, with owner and mode set before anything can connect.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, chown},
    },
    path::{Path, PathBuf},
    process::Command,
};

use rustix::{
    fs::{Mode, chmod, fchmod},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with},
};

/// Backlog. A further connection is refused with EAGAIN, and runtimes start hundreds of containers at once.
const BACKLOG: i32 = 1024;

/// Why listening on a socket failed.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A daemon answers there.
    #[error("another vswitchd answers at {}: stop it, or choose another path in net.toml", .0.display())]
    InUse(PathBuf),
    /// The path is another kind of file.
    #[error("{} exists and is not a socket: move it away, or choose another path in net.toml", .0.display())]
    NotSocket(PathBuf),
    /// The group is not known to the system.
    #[error("there is no group {0:?}: create it, or correct api.group")]
    NoGroup(String),
    /// The system's groups cannot be looked at.
    #[error("cannot look up the group {0:?}: {1}")]
    Groups(String, #[source] io::Error),
    /// Any other error of the kernel.
    #[error("cannot listen on {}: {}", .0.display(), .1)]
    Os(PathBuf, #[source] io::Error),
}

/// A listening socket's file, deleted with the value.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Listens on a non-blocking unix socket of `kind` at `path`, mode 0660, owned by `group` (a name or number)
/// or the caller's group. Creates the folder if it is missing; replaces a socket that is no longer served.
pub fn listen_at(
    path: &Path,
    kind: SocketType,
    group: Option<&str>,
) -> Result<(OwnedFd, SocketFile), SocketError> {
    let os = |error: io::Error| SocketError::Os(path.to_owned(), error);
    let group = group.map(find_group).transpose()?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(os)?;
    }
    let address = SocketAddrUnix::new(path).map_err(|errno| os(errno.into()))?;
    make_way(path, kind, &address)?;
    let socket = open_socket(kind).map_err(os)?;
    // The file takes its mode from the unbound socket (unix_bind in net/unix/af_unix.c), so there is no moment at which
    // others can connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|errno| os(errno.into()))?;
    bind(&socket, &address).map_err(|errno| os(errno.into()))?;
    let file = SocketFile(path.to_owned());
    if let Some(group) = group {
        chown(path, None, Some(group)).map_err(os)?;
    }
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP;
    chmod(path, mode).and_then(|()| listen(&socket, BACKLOG)).map_err(|errno| os(errno.into()))?;
    Ok((socket, file))
}

fn make_way(path: &Path, kind: SocketType, address: &SocketAddrUnix) -> Result<(), SocketError> {
    let os = |error: io::Error| SocketError::Os(path.to_owned(), error);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(os(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotSocket(path.to_owned())),
        Ok(_) => {}
    }
    match connect(&open_socket(kind).map_err(os)?, address) {
        // Nothing listens, or the type of socket differs: left behind by a killed daemon.
        Err(Errno::CONNREFUSED | Errno::PROTOTYPE) => fs::remove_file(path).map_err(os),
        Ok(()) | Err(Errno::AGAIN) => Err(SocketError::InUse(path.to_owned())),
        Err(errno) => Err(os(errno.into())),
    }
}

fn open_socket(kind: SocketType) -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?)
}

/// The number of a group, given by name or number.
///
/// Not by getgrnam(3), which loads the libraries of directory services; a static binary cannot.
fn find_group(name: &str) -> Result<u32, SocketError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let local = match fs::read_to_string("/etc/group") {
        Ok(lines) => number_in(&lines, name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(SocketError::Groups(name.into(), error)),
    };
    local.or_else(|| ask_directory(name)).ok_or_else(|| SocketError::NoGroup(name.into()))
}

/// The number of a group known only to the host's directory (LDAP, SSSD).
fn ask_directory(name: &str) -> Option<u32> {
    let answer = Command::new("getent").args(["group", name]).output().ok()?;
    number_in(&String::from_utf8_lossy(&answer.stdout), name)
}

/// The number of the group `name` in lines of group(5): name, password, number, members.
fn number_in(lines: &str, name: &str) -> Option<u32> {
    lines.lines().find_map(|line| {
        let (first, rest) = line.split_once(':')?;
        if first == name { rest.split(':').nth(1)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_socket_is_private_to_its_group_and_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/api.sock");
        let (_socket, file) = listen_at(&path, SocketType::STREAM, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let second = listen_at(&path, SocketType::STREAM, None).unwrap_err();
        assert!(second.to_string().starts_with("another vswitchd answers at"), "{second}");
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_daemon_left_is_replaced_and_anything_else_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let (socket, file) = listen_at(&path, SocketType::SEQPACKET, None).unwrap();
        drop(socket);
        std::mem::forget(file);
        assert!(path.exists());
        listen_at(&path, SocketType::SEQPACKET, None).unwrap();

        fs::write(&path, "precious").unwrap();
        assert!(matches!(listen_at(&path, SocketType::STREAM, None), Err(SocketError::NotSocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let lines = "root:x:0:\nvswitch2:x:990:vswitch\nbroken\nvswitch:x\nvswitch:x:991:ann,bob\n+::\n";
        let cases =
            [("root", Some(0)), ("vswitch", Some(991)), ("vswitch2", Some(990)), ("ann", None), ("", None)];
        for (name, number) in cases {
            assert_eq!(number_in(lines, name), number, "{name:?}");
        }
    }

    #[test]
    fn a_directory_is_asked_as_well() {
        assert_eq!(ask_directory("root"), Some(0));
        assert_eq!(ask_directory("vt-no-such"), None);
    }

    #[test]
    fn groups_by_name_and_number() {
        assert_eq!(find_group("root").unwrap(), 0);
        assert_eq!(find_group("1234").unwrap(), 1234);
        assert_eq!(
            find_group("vt-no-such").unwrap_err().to_string(),
            "there is no group \"vt-no-such\": create it, or correct api.group"
        );
    }
}
