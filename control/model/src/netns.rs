//! Which network namespace a name means: names come and go, and come again for another namespace.

use serde::{Deserialize, Serialize};

/// A namespace by the file it is: two names of one namespace have one identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// `st_dev` of its file.
    pub device: u64,
    /// `st_ino` of its file.
    pub inode: u64,
}
