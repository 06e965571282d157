//! The programs and tables in the kernel: loaded or adopted, attached, and pinned so that they outlive this process.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{HashMap, Map, MapData, MapError},
    programs::{
        LinkOrder, ProgramError, SchedClassifier, SocketFilter, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{SchedClassifierLinkId, TcAttachOptions},
    },
};

use crate::layout::{Key, LANES, LAYOUT, PortRecord, Station};

/// Compiled from `bpf/forward.bpf.c`; `scripts/check-bpf` compares.
static OBJECT: &[u8] = include_bytes_aligned!("../bpf/forward.bpf.o");

/// The tables, by their names in the object. All are pinned: also those that only programs use, because a program that is
/// replaced and the one that replaces it must see the same.
const MAPS: [&str; 5] = ["ports", "stations", "lanes", "tallies", "verdicts"];

/// `net.core.bpf_jit_enable`, in the first network namespace only.
const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";

/// Why the kernel cannot forward in place of the switch: a sentence.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// EPERM.
    #[error(
        "no permission to load BPF programs: run as root, or with CAP_BPF and CAP_NET_ADMIN, and let the system call `bpf` pass"
    )]
    NoPermission,
    /// Programs would be interpreted.
    #[error(
        "this kernel interprets BPF programs, which is slower than forwarding here: `sysctl net.core.bpf_jit_enable=1`"
    )]
    NoJit,
    /// There is no tcx.
    #[error("this kernel cannot attach programs to interfaces by links (tcx): it needs Linux 6.6 or newer")]
    NoTcx,
    /// The tables of an earlier run are kept where they cannot be used.
    #[error("the tables of an earlier run in {path} cannot be removed: {error}")]
    Pins {
        /// The folder.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// Anything else.
    #[error("this kernel refuses the programs: {0}")]
    Refused(String),
}

/// What was tried when the kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Load,
    Attach,
}

/// The sentence for a refusal.
fn explain(step: Step, errno: Option<i32>, detail: String) -> Unavailable {
    const EPERM: i32 = 1;
    const EACCES: i32 = 13;
    const EINVAL: i32 = 22;
    match (step, errno) {
        (_, Some(EPERM | EACCES)) => Unavailable::NoPermission,
        (Step::Attach, Some(EINVAL)) => Unavailable::NoTcx,
        _ => Unavailable::Refused(detail),
    }
}

/// The `errno` at the bottom of an error.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(code);
        }
        next = error.source();
    }
    None
}

fn refused(step: Step) -> impl Fn(&(dyn std::error::Error + 'static)) -> Unavailable {
    move |error| explain(step, errno(error), error.to_string())
}

/// The programs and tables.
#[derive(Debug)]
pub(crate) struct Kernel {
    ebpf: Ebpf,
    pub(crate) ports: HashMap<MapData, u32, PortRecord>,
    /// Where links and tables are pinned, if they are.
    pins: Option<PathBuf>,
}

/// What of it is used beside it.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) filter: OwnedFd,
    pub(crate) stations: HashMap<MapData, Key, Station>,
    pub(crate) lanes: OwnedFd,
    pub(crate) tallies: OwnedFd,
    pub(crate) cpus: usize,
}

/// A program that is attached to an interface.
#[derive(Debug)]
pub(crate) struct Attached {
    // Dropped: detached, unless it is pinned.
    _link: FdLink,
    pin: Option<PathBuf>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(pin) = &self.pin {
            // Where it is gone already, so is the interface.
            let _ = fs::remove_file(pin);
        }
    }
}

impl Kernel {
    /// Loads the programs; the tables are those pinned below `home`, if they are of this version, or new ones that are pinned
    /// there. `home` is the caller's own, on a BPF file system.
    pub(crate) fn load(home: Option<&Path>) -> Result<(Self, Parts), Unavailable> {
        if fs::read_to_string(JIT).is_ok_and(|text| text.trim_end() == "0") {
            return Err(Unavailable::NoJit);
        }
        let pins = home.map(prepare).transpose()?;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| Unavailable::Refused(error.to_string()))?;
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("tallies", LANES * u32::try_from(cpus).unwrap_or(1));
        for name in MAPS {
            if let Some(pins) = &pins {
                loader.map_pin_path(name, pins.join(name));
            }
        }
        let refuse = refused(Step::Load);
        let mut ebpf = loader.load(OBJECT).map_err(|error| refuse(&error))?;
        let filter = filter(&mut ebpf).map_err(|error| refuse(&error))?;
        classifier(&mut ebpf).and_then(SchedClassifier::load).map_err(|error| refuse(&error))?;
        let descriptor = |ebpf: &Ebpf, name| match ebpf.map(name) {
            Some(Map::Array(data)) => data.fd().as_fd().try_clone_to_owned().map_err(|error| refuse(&error)),
            _ => Err(Unavailable::Refused(format!("there is no table {name}"))),
        };
        let (lanes, tallies) = (descriptor(&ebpf, "lanes")?, descriptor(&ebpf, "tallies")?);
        let parts = Parts {
            filter,
            stations: table(&mut ebpf, "stations").map_err(|error| refuse(&error))?,
            lanes,
            tallies,
            cpus,
        };
        let ports = table(&mut ebpf, "ports").map_err(|error| refuse(&error))?;
        let mut kernel = Self { ebpf, ports, pins };
        // To the loopback interface, whose frames it leaves as they are, and away again.
        let id = kernel.attach_new("lo").map_err(|error| refused(Step::Attach)(&error))?;
        kernel.classifier().and_then(|it| it.take_link(id)).map_err(|error| refuse(&error))?;
        Ok((kernel, parts))
    }

    fn classifier(&mut self) -> Result<&mut SchedClassifier, ProgramError> {
        classifier(&mut self.ebpf)
    }

    /// The program at interfaces.
    #[cfg(test)]
    pub(crate) fn program(&mut self) -> std::os::fd::BorrowedFd<'_> {
        self.classifier().expect("loaded").fd().expect("loaded").as_fd()
    }

    fn attach_new(&mut self, ifname: &str) -> Result<SchedClassifierLinkId, ProgramError> {
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        self.classifier()?.attach_with_options(ifname, TcAttachType::Ingress, order)
    }

    /// Attaches the program to the interface `ifname`, of this `ifindex`; where an earlier run has left one, it is replaced at
    /// once, and no frame passes between.
    pub(crate) fn attach(&mut self, ifname: &str, ifindex: u32) -> Result<Attached, ProgramError> {
        let pin = self.pins.as_ref().map(|pins| pins.join(format!("link-{ifindex}")));
        let (id, is_pinned) = match self.take_over(pin.as_deref()) {
            Some(id) => (id, true),
            None => (self.attach_new(ifname)?, false),
        };
        let link = self.classifier()?.take_link(id)?;
        let broken = |error| ProgramError::IOError(io::Error::other(error));
        let mut link = FdLink::try_from(link).map_err(broken)?;
        if let Some(pin) = pin.as_ref().filter(|_| !is_pinned) {
            let pinned = link.pin(pin).map_err(|error| ProgramError::IOError(io::Error::other(error)))?;
            link = pinned.into();
        }
        Ok(Attached { _link: link, pin })
    }

    /// The link at `pin`, with our program; one that is dead, because its interface is gone, is removed.
    fn take_over(&mut self, pin: Option<&Path>) -> Option<SchedClassifierLinkId> {
        let pin = pin?;
        let link = FdLink::from(PinnedLink::from_pin(pin).ok()?).try_into().ok()?;
        let taken = self.classifier().and_then(|it| it.attach_to_link(link));
        taken.inspect_err(|_| drop(fs::remove_file(pin))).ok()
    }

    /// Removes the pins of links to interfaces that are not among `wanted`, by index.
    pub(crate) fn remove_links(&self, wanted: impl Fn(u32) -> bool) {
        let Some(files) = self.pins.as_ref().and_then(|pins| fs::read_dir(pins).ok()) else { return };
        for file in files.flatten() {
            let name = file.file_name();
            let index = name.to_str().and_then(|name| name.strip_prefix("link-")?.parse().ok());
            if index.is_some_and(|index| !wanted(index)) {
                let _ = fs::remove_file(file.path());
            }
        }
    }

    /// Whether the tables are pinned, and so outlive this process.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pins.is_some()
    }
}

impl Drop for Kernel {
    /// An orderly end leaves nothing behind: links go with their ports, before.
    fn drop(&mut self) {
        let Some(pins) = &self.pins else { return };
        self.remove_links(|_| false);
        for name in MAPS {
            let _ = fs::remove_file(pins.join(name));
        }
        // Not empty: something else is there, which is not ours to remove.
        for folder in pins.ancestors().take(3) {
            let _ = fs::remove_dir(folder);
        }
    }
}

fn classifier(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, ProgramError> {
    let program = ebpf.program_mut("vs_port").expect("the object has it (see the tests)");
    program.try_into()
}

fn filter(ebpf: &mut Ebpf) -> Result<OwnedFd, ProgramError> {
    let filter: &mut SocketFilter =
        ebpf.program_mut("vs_filter").expect("the object has it (see the tests)").try_into()?;
    filter.load()?;
    Ok(filter.fd()?.as_fd().try_clone_to_owned()?)
}

fn table<K: aya::Pod, V: aya::Pod>(ebpf: &mut Ebpf, name: &str) -> Result<HashMap<MapData, K, V>, MapError> {
    HashMap::try_from(ebpf.take_map(name).expect("the object has it (see the tests)"))
}

/// The folder of our version below `home`; those of other versions are removed, with what they hold.
fn prepare(home: &Path) -> Result<PathBuf, Unavailable> {
    let ours = home.join(LAYOUT.to_string());
    let result = fs::create_dir_all(&ours).and_then(|()| remove_versions(home, |folder| folder != ours));
    result.map(|()| ours).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Unavailable::NoPermission,
        _ => Unavailable::Pins { path: home.to_owned(), error },
    })
}

/// Removes the `unwanted` of the folders below `home`, each of a version.
fn remove_versions(home: &Path, unwanted: impl Fn(&Path) -> bool) -> io::Result<()> {
    for folder in fs::read_dir(home)? {
        let folder = folder?.path();
        if unwanted(&folder) {
            for file in fs::read_dir(&folder)? {
                fs::remove_file(file?.path())?;
            }
            fs::remove_dir(folder)?;
        }
    }
    Ok(())
}

/// Ends what an earlier run has left below `home`: it would forward beside a switch that does not know of it.
pub(crate) fn clear(home: &Path) -> io::Result<()> {
    match remove_versions(home, |_| true) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            // Others may have theirs beside it.
            home.ancestors().take(2).for_each(|folder| drop(fs::remove_dir(folder)));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_a_sentence_that_says_what_to_do() {
        let told = |step, errno| explain(step, errno, "E2BIG".into()).to_string();
        assert!(told(Step::Load, Some(1)).contains("CAP_BPF"));
        assert!(told(Step::Attach, Some(13)).contains("CAP_BPF"));
        assert!(told(Step::Attach, Some(22)).contains("Linux 6.6"));
        assert!(told(Step::Load, Some(22)).contains("E2BIG"), "not a question of tcx");
        assert!(Unavailable::NoJit.to_string().contains("bpf_jit_enable"));
    }

    #[test]
    fn the_object_has_the_programs_and_tables() {
        for name in MAPS.into_iter().chain(["vs_filter", "vs_port"]) {
            let has = OBJECT.windows(name.len()).any(|bytes| bytes == name.as_bytes());
            assert!(has, "{name}");
        }
    }
}
