//! Configurations for the runtimes, and the folders where they look for them and for the plugin.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use vswitch_model::Name;

/// Configuration folder of podman, containerd and CRI-O.
pub const CONFIGS: &str = "/etc/cni/net.d";

/// Plugin folders: on Debian all runtimes search the first, `ctr` only the second.
pub const PLUGINS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// The plugin's name in these folders, which is its type in a configuration.
const PLUGIN: &str = "vswitch";

/// Returns the configuration of a network, in version 1.0.0, which all current runtimes read.
pub fn conflist(network: &Name, socket: Option<&Path>) -> Value {
    let mut plugin = json!({
        "type": PLUGIN,
        "network": network,
        "capabilities": { "portMappings": true, "ips": true, "mac": true, "aliases": true, "dns": true, "bandwidth": true },
    });
    if let Some(socket) = socket {
        plugin["socket"] = json!(socket);
    }
    json!({ "cniVersion": "1.0.0", "name": network, "plugins": [plugin] })
}

/// Writes a network's configuration into `folder`, atomically, and returns its path.
///
/// # Errors
/// It cannot be written.
pub fn write(folder: &Path, network: &Name, socket: Option<&Path>) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let path = folder.join(format!("80-vswitch-{network}.conflist"));
    // A file name that no runtime reads.
    let new = folder.join(format!(".80-vswitch-{network}.new"));
    fs::write(&new, format!("{:#}\n", conflist(network, socket)))?;
    fs::rename(&new, &path)?;
    Ok(path)
}

/// Links `plugin` into each of `folders`, and returns the links.
///
/// # Errors
/// Another file has the name, or a folder is not writable.
pub fn link_into(plugin: &Path, folders: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut links = Vec::new();
    for folder in folders {
        fs::create_dir_all(folder)?;
        let link = folder.join(PLUGIN);
        match fs::symlink_metadata(&link) {
            Ok(found) if found.is_symlink() => fs::remove_file(&link)?,
            Ok(_) => {
                let what =
                    format!("{} exists and is not a link to this plugin: move it away", link.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
            }
            Err(_) => {}
        }
        std::os::unix::fs::symlink(plugin, &link)?;
        links.push(link);
    }
    Ok(links)
}

/// Copies `plugin` into each of `folders`, over an earlier copy, and returns the copies.
///
/// # Errors
/// A folder is not writable.
pub fn copy_into(plugin: &Path, folders: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut copies = Vec::new();
    for folder in folders {
        fs::create_dir_all(folder)?;
        // A runtime may be executing the earlier one.
        let new = folder.join(format!(".{PLUGIN}.new"));
        fs::copy(plugin, &new)?;
        let copy = folder.join(PLUGIN);
        fs::rename(&new, &copy)?;
        copies.push(copy);
    }
    Ok(copies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflist_is_written_whole_and_again() {
        let folder = tempfile::tempdir().unwrap();
        let blue = "blue".parse().unwrap();
        write(folder.path(), &blue, None).unwrap();
        let path = write(folder.path(), &blue, Some("/run/x.sock".as_ref())).unwrap();
        let written: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(written["name"], "blue");
        assert_eq!(written["plugins"][0]["socket"], "/run/x.sock");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_plugin_is_linked_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        for _ in 0..2 {
            let links = link_into("/usr/bin/vswitch-cni".as_ref(), &[a.clone(), b.clone()]).unwrap();
            assert_eq!(links, [a.join("vswitch"), b.join("vswitch")]);
        }
        fs::remove_file(a.join("vswitch")).unwrap();
        fs::write(a.join("vswitch"), "precious").unwrap();
        let error = link_into("/usr/bin/vswitch-cni".as_ref(), std::slice::from_ref(&a)).unwrap_err();
        assert!(error.to_string().contains("is not a link to this plugin"), "{error}");
    }
    #[test]
    fn a_copy_replaces_an_earlier_one() {
        let folder = tempfile::tempdir().unwrap();
        let plugin = folder.path().join("vswitch-cni");
        for text in ["one", "two"] {
            fs::write(&plugin, text).unwrap();
            let copies = copy_into(&plugin, &[folder.path().join("bin")]).unwrap();
            assert_eq!(fs::read_to_string(&copies[0]).unwrap(), text);
        }
        assert_eq!(fs::read_dir(folder.path().join("bin")).unwrap().count(), 1);
    }
}
