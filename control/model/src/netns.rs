//! Identity of network namespaces: a name may be reused for another namespace.

use serde::{Deserialize, Serialize};

/// Identity of a namespace: equal for all names of one namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `st_dev` of its file.
    pub device: u64,
    /// `st_ino` of its file; given out again once the namespace is gone.
    pub inode: u64,
    /// A number that the kernel assigns only once; `None` before Linux 5.14, and in records of versions before 0.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<Cookie>,
}

/// A number that the kernel gives to one namespace of one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cookie {
    /// The first eight digits of the boot's id (/proc/sys/kernel/random/boot_id).
    pub boot: u32,
    /// `SO_NETNS_COOKIE` of its sockets (socket(7)).
    pub number: u64,
}

impl Identity {
    /// Whether both are of one namespace, as far as both tell.
    pub fn is(&self, other: &Self) -> bool {
        let is_same_file = (self.device, self.inode) == (other.device, other.inode);
        is_same_file && self.cookie.zip(other.cookie).is_none_or(|(one, other)| one == other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_was_given_out_again_is_another_namespace() {
        let identity = |inode, cookie: Option<(u32, u64)>| Identity {
            device: 4,
            inode,
            cookie: cookie.map(|(boot, number)| Cookie { boot, number }),
        };
        let container = identity(7, Some((1, 100)));
        assert!(container.is(&container));
        assert!(!container.is(&identity(8, Some((1, 100)))), "another file");
        assert!(!container.is(&identity(7, Some((1, 101)))), "the same number, given out again");
        assert!(!container.is(&identity(7, Some((2, 100)))), "after a reboot");
        assert!(container.is(&identity(7, None)) && identity(7, None).is(&container), "one does not tell");
    }

    #[test]
    fn identities_of_versions_before_are_read() {
        let before: Identity = serde_json::from_str(r#"{"device":4,"inode":4026532177}"#).unwrap();
        assert_eq!(before, Identity { device: 4, inode: 4_026_532_177, cookie: None });
        let text = serde_json::to_string(&before).unwrap();
        assert_eq!(text, r#"{"device":4,"inode":4026532177}"#);
    }
}
