//! Network namespaces: opens and identifies them, and runs code inside them.
//!
//! Entering a namespace affects everything the thread does afterwards, so no long-lived thread enters one: [`run_in`]
//! starts a thread, enters, runs one closure and ends the thread; `travel` and [`together`](together()) do so for several namespaces. A socket or
//! a device that the closure opens stays bound to the namespace and may be used from anywhere afterwards.
//!
//! A path is the caller's choice, and may lead anywhere: it is looked up with a [time limit](limited), and opened only when it
//! is known to be a namespace, since opening a FIFO or a device has effects of its own.
//!
//! Left out: creating and deleting namespaces, which belong to the container runtime.

mod cookie;
mod together;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    fs::{self, File},
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::LazyLock,
    thread,
};

use rustix::{
    fs::{Mode, OFlags, fstat, fstatfs, open},
    io::Errno,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

pub use together::together;

use crate::limited;
use vswitch_model::{Cookie, Identity, Netns};

/// `f_type` of the file system that namespaces are files of: NSFS_MAGIC (include/uapi/linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// A namespace held open: it lives at least as long as this does.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    inode: Inode,
    label: String,
}

/// Number of a namespace's file: tells namespaces apart while they are held open, but not over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inode {
    device: u64,
    number: u64,
}

/// The present state of a namespace's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It names this namespace.
    Is(Identity),
    /// It names none any more.
    Gone,
    /// Unknown, for this reason: a sentence.
    Unknown(String),
}

/// The present states of several names, all looked up at once.
#[derive(Debug, Default)]
pub struct Presences(HashMap<Netns, Presence>);

impl Presences {
    /// Looks up all of `names`. Enters no namespace on the calling thread, and is bounded in time; see [`limited`].
    pub fn of<'a>(names: impl IntoIterator<Item = &'a Netns>) -> Self {
        let names: Vec<&Netns> = names.into_iter().collect::<HashSet<_>>().into_iter().collect();
        let paths: Vec<PathBuf> = names.iter().map(|netns| netns.path()).collect();
        let found = limited::each(&paths, presence);
        let found =
            found.into_iter().map(|it| it.unwrap_or_else(|error| Presence::Unknown(error.to_string())));
        Self(names.into_iter().cloned().zip(found).collect())
    }

    /// Whether `netns` certainly names another namespace than `identity`, or none. False for one that was not looked up, or is
    /// unknown.
    pub fn is_other(&self, netns: &Netns, identity: &Identity) -> bool {
        match self.0.get(netns) {
            Some(Presence::Is(now)) => !now.is(identity),
            Some(Presence::Gone) => true,
            Some(Presence::Unknown(_)) | None => false,
        }
    }

    /// The identity that `netns` names.
    pub fn get(&self, netns: &Netns) -> Option<Identity> {
        match self.0.get(netns) {
            Some(Presence::Is(identity)) => Some(*identity),
            _ => None,
        }
    }
}

/// The present state of the name `path`. Leaves the thread in any namespace.
fn presence(path: &Path) -> Presence {
    match find(path) {
        Ok(Some((file, inode))) => {
            let cookie = cookie::by_file(&file).or_else(|| cookie::by_entering(&file).ok().flatten());
            Presence::Is(inode.with(cookie))
        }
        // A name whose mount is gone is a file like any other.
        Ok(None) => Presence::Gone,
        Err(error) if is_gone(&error) => Presence::Gone,
        Err(error) => Presence::Unknown(error.to_string()),
    }
}

/// Whether an error of looking a name up means that it names nothing any more. Others, such as a lack of descriptors, say
/// nothing about the name.
pub fn is_gone(error: &io::Error) -> bool {
    // ESRCH: below /proc, of a process that has ended meanwhile.
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::SRCH))
}

/// Opens the namespace at `path`; `None` if the file is not a namespace, which is not opened.
fn find(path: &Path) -> io::Result<Option<(File, Inode)>> {
    // O_PATH: without effects, whatever it is.
    let found = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if fstatfs(&found)?.f_type != NSFS_MAGIC {
        return Ok(None);
    }
    let stat = fstat(&found)?;
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    Ok(Some((file, Inode { device: stat.st_dev, number: stat.st_ino })))
}

impl Inode {
    /// The identity of a namespace for as long as it is held open.
    pub fn identity(self) -> Identity {
        self.with(None)
    }

    fn with(self, cookie: Option<u64>) -> Identity {
        let cookie = cookie.zip(*BOOT).map(|(number, boot)| Cookie { boot, number });
        Identity { device: self.device, inode: self.number, cookie }
    }
}

/// The first eight digits of the boot's id.
static BOOT: LazyLock<Option<u32>> = LazyLock::new(|| {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    u32::from_str_radix(id.get(..8)?, 16).ok()
});

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
    /// A namespace that has the name of one before.
    #[error(
        "{0} names another namespace by now: the container that was connected has ended; connect the new one"
    )]
    Another(String),
    /// The kernel wants CAP_SYS_ADMIN (over the namespace's owner), or CAP_SYS_PTRACE for a process.
    #[error("no permission to enter the namespace {0}: run as root, or with CAP_SYS_ADMIN and CAP_NET_ADMIN")]
    NoRights(String),
    /// Any other error of the kernel, or a path that hangs.
    #[error("cannot enter the namespace {0}: {1}")]
    Os(String, #[source] io::Error),
}

impl NetnsError {
    /// Whether the name names no namespace any more, or another one.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::NoName(_)
            | Self::NoPath(_)
            | Self::NoProcess(_)
            | Self::NotNetwork(_)
            | Self::Another(_) => true,
            Self::NoRights(_) | Self::Os(..) => false,
        }
    }
}

impl From<NetnsError> for io::Error {
    fn from(error: NetnsError) -> Self {
        let kind = match &error {
            NetnsError::NoName(_)
            | NetnsError::NoPath(_)
            | NetnsError::NoProcess(_)
            | NetnsError::Another(_) => io::ErrorKind::NotFound,
            NetnsError::NotNetwork(_) => io::ErrorKind::InvalidInput,
            NetnsError::NoRights(_) => io::ErrorKind::PermissionDenied,
            NetnsError::Os(_, source) => source.kind(),
        };
        Self::new(kind, error)
    }
}

impl Namespace {
    /// Opens the namespace that `netns` names. Waits for a path at most as long as [`limited`] says.
    pub fn open(netns: &Netns) -> Result<Self, NetnsError> {
        let path = netns.path();
        let found = match netns {
            // Only root names files there.
            Netns::Name(_) | Netns::Pid(_) => find(&path),
            Netns::Path(_) => limited::one(&path, find).flatten(),
        };
        let found = found.map_err(|error| match (error.kind(), netns) {
            _ if is_gone(&error) => match netns {
                Netns::Name(name) => NetnsError::NoName(name.clone()),
                Netns::Path(path) => NetnsError::NoPath(path.clone()),
                Netns::Pid(pid) => NetnsError::NoProcess(*pid),
            },
            (io::ErrorKind::PermissionDenied, _) => NetnsError::NoRights(netns.to_string()),
            _ => NetnsError::Os(netns.to_string(), error),
        })?;
        let (file, inode) = found.ok_or(NetnsError::NotNetwork(path))?;
        Ok(Self { file, inode, label: netns.to_string() })
    }

    /// Opens the namespace that `netns` names, unless it is certainly another one than `identity`.
    pub fn open_again(netns: &Netns, identity: &Identity) -> Result<Self, NetnsError> {
        let namespace = Self::open(netns)?;
        match namespace.identity()?.is(identity) {
            true => Ok(namespace),
            false => Err(NetnsError::Another(netns.to_string())),
        }
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

    /// The number of its file.
    pub fn inode(&self) -> Inode {
        self.inode
    }

    /// Its identity, independent of its name and of time. May start a thread.
    pub fn identity(&self) -> Result<Identity, NetnsError> {
        let number = match cookie::by_file(&self.file) {
            Some(number) => Ok(Some(number)),
            None => travel(|_| cookie::by_entering(&self.file)).flatten(),
        };
        Ok(self.inode.with(number.map_err(|error| NetnsError::Os(self.label.clone(), error))?))
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
        Ok(Self { file, inode: Inode { device: stat.st_dev, number: stat.st_ino }, label })
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

/// Runs `closure` inside `namespace` on a thread of its own, and waits for it; a helper of [`together`](together()) enters by itself.
///
/// The caller's other threads never change namespace. Costs a thread start, some 50 microseconds. A panic of the
/// closure is passed on.
///
/// # Errors
/// Those of entering ([`NetnsError`], as `io::Error`); the closure's own result is returned as it is.
pub fn run_in<T: Send>(namespace: &Namespace, closure: impl FnOnce() -> T + Send) -> io::Result<T> {
    let closure = match together::inside(namespace, closure) {
        Ok(done) => return Ok(done?),
        Err(closure) => closure,
    };
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
        let inside = || closure(&Traveller::on_this_thread());
        let thread = thread::Builder::new().name("netns".into()).spawn_scoped(scope, inside)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Permission to change the namespace of its thread: it cannot leave the thread that `travel` or [`together`](together()) started.
#[derive(Debug)]
pub struct Traveller(PhantomData<*const ()>);

impl Traveller {
    /// For a thread that may change its namespace.
    fn on_this_thread() -> Self {
        Self(PhantomData)
    }

    /// Enters `namespace`. The one that the thread is in needs no right: setns(2) wants CAP_SYS_ADMIN for that as well.
    pub fn enter(&self, namespace: &Namespace) -> Result<(), NetnsError> {
        let label = || namespace.label.clone();
        match move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)) {
            Ok(()) => Ok(()),
            Err(Errno::PERM) if Namespace::current()?.inode() == namespace.inode() => Ok(()),
            Err(Errno::PERM) => Err(NetnsError::NoRights(label())),
            Err(Errno::INVAL) => Err(NetnsError::NotNetwork(label().into())),
            Err(other) => Err(NetnsError::Os(label(), other.into())),
        }
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
        assert_eq!(current.identity().unwrap(), by_pid.identity().unwrap());
        assert_eq!(by_pid.identity().unwrap(), by_path.identity().unwrap());
        assert_eq!(Namespace::of(None).unwrap().identity().unwrap(), current.identity().unwrap());
        let name = Netns::Pid(std::process::id());
        assert_eq!(Presences::of([&name]).get(&name), Some(current.identity().unwrap()));
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
    fn only_what_is_certainly_gone_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| Netns::Path(folder.path().join(name));
        let (missing, file, long) = (at("missing"), at("file"), at(&"x".repeat(300)));
        fs::write(folder.path().join("file"), "").unwrap();
        let own = Netns::Pid(std::process::id());
        let presences = Presences::of([&missing, &file, &long, &own]);
        let identity = presences.get(&own).unwrap();
        assert!(presences.is_other(&missing, &identity) && presences.is_other(&file, &identity));
        assert!(!presences.is_other(&own, &identity));
        assert!(!presences.is_other(&long, &identity), "ENAMETOOLONG tells nothing");
        assert!(!presences.is_other(&at("not looked up"), &identity));
        for (errno, gone) in
            [(2, true), (20, true), (3, true), (24, false), (13, false), (5, false), (12, false)]
        {
            assert_eq!(is_gone(&io::Error::from_raw_os_error(errno)), gone, "{errno}");
        }
    }

    #[test]
    fn a_fifo_is_no_namespace_and_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
        let error = Namespace::open(&Netns::Path(path.clone())).unwrap_err();
        assert!(matches!(error, NetnsError::NotNetwork(_)), "{error}");
    }

    #[test]
    fn errors_keep_their_kind_and_sentence_as_io_errors() {
        let error = io::Error::from(NetnsError::NoProcess(7));
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(error.to_string(), "process 7 is gone: there is no /proc/7/ns/net");
    }
}
