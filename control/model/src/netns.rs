//! Identity of network namespaces: a name may be reused for another namespace.

use serde::{Deserialize, Serialize};

/// Identity of a namespace: equal for all names of one namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// `st_dev` of its file.
    pub device: u64,
    /// `st_ino` of its file.
    pub inode: u64,
}
