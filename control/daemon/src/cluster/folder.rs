//! What a host keeps of its membership: below the state folder, in `cluster/`.
//!
//! | file | contents |
//! |---|---|
//! | `member.json` | which cluster, under which name, and how its store is reached |
//! | `copy.json` | a copy of the store, by which the host comes up without it |
//! | `plan.json` | the same without endpoints, written before anything is done by it |
//! | `ca.crt`, `host.crt`, `host.key` | certificates |
//! | `ca.key`, `token` | on managers only: the authority's key, and the secret of the join token |
//! | `etcd/` | on managers only: the data of the store |

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use vswitch_cluster::{
    core::{Cluster, Me},
    mirror::{Mirror, Saved},
    record::Node,
    store::etcd::{Access, Files},
};
use vswitch_model::{Error, Id, Name};

use crate::store::file::make_folder;

/// The membership of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    /// The cluster.
    pub(super) cluster: Id,
    /// This host's name in it.
    pub(super) name: Name,
    /// What the others know of this host.
    pub(super) node: Node,
    /// The members of the store.
    pub(super) store: Vec<String>,
    /// Where the keys are.
    pub(super) prefix: String,
    /// The certificates, unless the store is reached without.
    pub(super) tls: Option<Certificates>,
    /// Whether this host runs a member of the store by itself.
    #[serde(default)]
    pub(super) keeps_store: bool,
}

/// Paths of certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Certificates {
    pub(super) authority: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Member {
    /// How the store is reached.
    pub(super) fn access(&self) -> Access {
        let tls = self.tls.as_ref().map(|it| Files {
            authority: it.authority.clone(),
            certificate: it.certificate.clone(),
            key: it.key.clone(),
        });
        Access { members: self.store.clone(), tls }
    }

    /// The core of a run, which begins with what an earlier one has copied.
    pub(super) fn core(&self, mirror: Mirror, run: String, seed: u64) -> Cluster {
        let (name, cluster, node) = (self.name.clone(), self.cluster.clone(), self.node.clone());
        Cluster::new(Me { name, cluster, node, run, seed }, mirror)
    }
}

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// That of a state folder. It need not exist.
    pub(crate) fn of(state: &Path) -> Self {
        Self(state.join("cluster"))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The membership, if this host is in a cluster.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub(super) fn member(&self) -> Result<Option<Member>, Error> {
        self.read("member.json")
    }

    pub(super) fn keep_member(&self, member: &Member) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(member).map_err(|error| Error::internal(error.to_string()))?;
        self.write("member.json", &text)
    }

    /// The last copy of the store; an empty one if there is none, or if it cannot be read: the store has it.
    pub(super) fn copy(&self, prefix: &str) -> Mirror {
        let [copy, plan] = ["copy.json", "plan.json"].map(|name| {
            self.read::<Saved>(name).unwrap_or_else(|error| {
                tracing::warn!("{}: the cluster is read from its store", error.sentence);
                None
            })
        });
        match (copy, plan) {
            (Some(copy), Some(plan)) => Mirror::load(copy.with_plan(plan)),
            (Some(saved), None) | (None, Some(saved)) => Mirror::load(saved),
            (None, None) => Mirror::new(prefix),
        }
    }

    pub(super) fn keep_copy(&self, copy: &Saved) -> Result<(), Error> {
        self.keep("copy.json", copy)
    }

    pub(super) fn keep_plan(&self, plan: &Saved) -> Result<(), Error> {
        self.keep("plan.json", plan)
    }

    fn keep(&self, name: &str, saved: &Saved) -> Result<(), Error> {
        let text = serde_json::to_vec(saved).map_err(|error| Error::internal(error.to_string()))?;
        self.write(name, &text)
    }

    /// Replaces a file as a whole, readable by its owner only.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        let failed = |error: io::Error| {
            Error::unavailable(format!("cannot write {}: {error}", self.path(name).display()))
        };
        make_folder(&self.0).map_err(failed)?;
        let new = self.path(&format!("{name}.new"));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .map_err(failed)?;
        file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(new, self.path(name)).map_err(failed)
    }

    /// The text of a file, if it is there.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Error> {
        match fs::read_to_string(self.path(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(Error::unavailable(format!("cannot read {}: {error}", self.path(name).display())))
            }
        }
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            Error::unavailable(format!("cannot read {}: {error}", self.path(name).display()))
        })
    }

    /// Forgets the membership, and everything that belongs to it.
    pub(super) fn remove(&self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::unavailable(format!("cannot remove {}: {error}", self.0.display())))
            }
            _ => Ok(()),
        }
    }
}
