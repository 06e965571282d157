//! Network namespaces: opens and identifies them, and runs code inside them.
//!
//! Entering a namespace affects everything the thread does afterwards, so no long-lived thread enters one: [`run_in`]
//! starts a thread, enters, runs one closure and ends the thread; `travel` does so for several namespaces. A socket or
//! a device that the closure opens stays bound to the namespace and may be used from anywhere afterwards.
//!
//! Left out: creating and deleting namespaces, which belong to the container runtime.

use std::{
    fmt,
    fs::File,
    io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    fs::{fstat, fstatfs, stat},
    io::Errno,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use vswitch_model::{Identity, Netns};

/// `f_type` of the file system that namespaces are files of: NSFS_MAGIC (include/uapi/linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// A namespace held open: it lives at least as long as this does.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    identity: Identity,
    label: String,
}

/// Which namespace `netns` names now; `None` when it names none any more.
pub fn identity(netns: &Netns) -> Option<Identity> {
    let stat = stat(netns.path()).ok()?;
    Some(Identity { device: stat.st_dev, inode: stat.st_ino })
}

/// Why a namespace could not be found or entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// No file of that name under /run/netns.
    #[error("no namespace named {0} in /run/netns: create it with `ip netns add {0}`")]
    NoName(String),
    /// No such file.
    #[error("no namespace at {}: is the container still running?", .0.display())]
    NoPath(PathBuf),
    /// No process has that number.
    #[error("process {0} is gone: there is no /proc/{0}/ns/net")]
    NoProcess(u32),
    /// A file that is not a network namespace; a name whose mount is gone looks like this too.
    #[error("{} is not a network namespace: if its owner is gone, delete the file and create the namespace anew", .0.display())]
    NotNetwork(PathBuf),
    /// The kernel wants CAP_SYS_ADMIN (over the namespace's owner), or CAP_SYS_PTRACE for a process.
    #[error("no permission to enter the namespace {0}: run as root, or with CAP_SYS_ADMIN and CAP_NET_ADMIN")]
    NoRights(String),
    /// Any other error of the kernel.
    #[error("cannot enter the namespace {0}: {1}")]
    Os(String, #[source] io::Error),
}

impl From<NetnsError> for io::Error {
    fn from(error: NetnsError) -> Self {
        let kind = match &error {
            NetnsError::NoName(_) | NetnsError::NoPath(_) | NetnsError::NoProcess(_) => {
                io::ErrorKind::NotFound
            }
            NetnsError::NotNetwork(_) => io::ErrorKind::InvalidInput,
            NetnsError::NoRights(_) => io::ErrorKind::PermissionDenied,
            NetnsError::Os(_, source) => source.kind(),
        };
        Self::new(kind, error)
    }
}

impl Namespace {
    /// Opens the namespace that `netns` names.
    pub fn open(netns: &Netns) -> Result<Self, NetnsError> {
        let path = netns.path();
        let file = File::open(&path).map_err(|error| match (error.kind(), netns) {
            (io::ErrorKind::NotFound, Netns::Name(name)) => NetnsError::NoName(name.clone()),
            (io::ErrorKind::NotFound, Netns::Path(path)) => NetnsError::NoPath(path.clone()),
            (io::ErrorKind::NotFound, Netns::Pid(pid)) => NetnsError::NoProcess(*pid),
            (io::ErrorKind::PermissionDenied, _) => NetnsError::NoRights(netns.to_string()),
            _ => NetnsError::Os(netns.to_string(), error),
        })?;
        Self::from_file(file, &path, netns.to_string())
    }

    /// Opens the namespace of the calling thread.
    pub fn current() -> Result<Self, NetnsError> {
        let path = Path::new("/proc/thread-self/ns/net");
        let label = "of the caller".to_owned();
        let file = File::open(path).map_err(|error| NetnsError::Os(label.clone(), error))?;
        Self::from_file(file, path, label)
    }

    /// Opens what a port's specification says: `netns`, or the caller's own namespace without one.
    pub fn of(netns: Option<&Netns>) -> Result<Self, NetnsError> {
        netns.map_or_else(Self::current, Self::open)
    }

    /// Wraps `fd`, which is open on a namespace; it appears as `label` in messages.
    pub fn adopt(fd: OwnedFd, label: &str) -> Result<Self, NetnsError> {
        Self::from_file(fd.into(), Path::new(label), label.to_owned())
    }

    /// Its identity, independent of its name.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Its name as given by the caller, for messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    fn from_file(file: File, path: &Path, label: String) -> Result<Self, NetnsError> {
        let os = |errno: Errno| NetnsError::Os(label.clone(), errno.into());
        if fstatfs(&file).map_err(os)?.f_type != NSFS_MAGIC {
            return Err(NetnsError::NotNetwork(path.to_owned()));
        }
        let stat = fstat(&file).map_err(os)?;
        Ok(Self { file, identity: Identity { device: stat.st_dev, inode: stat.st_ino }, label })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.label)
    }
}

/// Runs `closure` inside `namespace` on a thread of its own, and waits for it.
///
/// The caller's threads never change namespace. Costs a thread start, some 50 microseconds. A panic of the
/// closure is passed on.
///
/// # Errors
/// Those of entering ([`NetnsError`], as `io::Error`); the closure's own result is returned as it is.
pub fn run_in<T: Send>(namespace: &Namespace, closure: impl FnOnce() -> T + Send) -> io::Result<T> {
    let inside = |traveller: &Traveller| -> Result<T, NetnsError> {
        traveller.enter(namespace)?;
        Ok(closure())
    };
    Ok(travel(inside)??)
}

/// Lets `closure` enter one namespace after the other, on a thread of its own, and waits for it; see [`run_in`].
///
/// # Errors
/// No thread is available; the closure's own result is returned as it is.
pub(crate) fn travel<T: Send>(closure: impl FnOnce(&Traveller) -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let inside = || closure(&Traveller(PhantomData));
        let thread = thread::Builder::new().name("netns".into()).spawn_scoped(scope, inside)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Permission to change the namespace of its thread: it cannot leave the thread that `travel` started.
#[derive(Debug)]
pub struct Traveller(PhantomData<*const ()>);

impl Traveller {
    /// Enters `namespace`.
    pub fn enter(&self, namespace: &Namespace) -> Result<(), NetnsError> {
        let label = || namespace.label.clone();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|errno| {
            match errno {
                Errno::PERM => NetnsError::NoRights(label()),
                Errno::INVAL => NetnsError::NotNetwork(label().into()),
                other => NetnsError::Os(label(), other.into()),
            }
        })
    }
}

impl From<NetnsError> for vswitch_model::Error {
    fn from(error: NetnsError) -> Self {
        io::Error::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_one_identity_under_all_its_names() {
        let current = Namespace::current().unwrap();
        let by_pid = Namespace::open(&Netns::Pid(std::process::id())).unwrap();
        let by_path = Namespace::open(&Netns::Path("/proc/self/ns/net".into())).unwrap();
        assert_eq!(current.identity(), by_pid.identity());
        assert_eq!(by_pid.identity(), by_path.identity());
        assert_eq!(Namespace::of(None).unwrap().identity(), current.identity());
        assert_eq!(by_pid.to_string(), format!("pid:{}", std::process::id()));
    }

    #[test]
    fn errors_say_what_to_do() {
        let error = |netns| Namespace::open(&netns).unwrap_err().to_string();
        assert_eq!(
            error(Netns::Name("vt-none".into())),
            "no namespace named vt-none in /run/netns: create it with `ip netns add vt-none`"
        );
        // One above the kernel's highest pid, PID_MAX_LIMIT (include/linux/threads.h).
        assert_eq!(error(Netns::Pid(4_194_305)), "process 4194305 is gone: there is no /proc/4194305/ns/net");
        assert_eq!(
            error(Netns::Path("/x/y".into())),
            "no namespace at /x/y: is the container still running?"
        );
        assert!(error(Netns::Path("/etc/hosts".into())).starts_with("/etc/hosts is not a network namespace"));
    }

    #[test]
    fn errors_keep_their_kind_and_sentence_as_io_errors() {
        let error = io::Error::from(NetnsError::NoProcess(7));
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(error.to_string(), "process 7 is gone: there is no /proc/7/ns/net");
    }
}
