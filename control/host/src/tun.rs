//! The kernel's TAP driver, as far as this process may use it.

use std::{fs::OpenOptions, io};

/// The driver's file.
const DRIVER: &str = "/dev/net/tun";

/// Why the driver cannot be opened, and what to do about it; `None` if it can.
///
/// For a TAP that could not be made: the kernel says `EPERM` both for the file and for the namespace.
pub fn trouble() -> Option<String> {
    let error = OpenOptions::new().read(true).write(true).open(DRIVER).err()?;
    Some(match error.kind() {
        io::ErrorKind::NotFound => format!(
            "there is no {DRIVER}: load the kernel's tun module (`modprobe tun`), or, in a container, pass the device to it \
             (`--device {DRIVER}`)"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "no right to open {DRIVER} ({error}): pass the device to the container (`--device {DRIVER}`), or check its mode, its \
             mount (nodev) and the unit's DeviceAllow"
        ),
        _ => format!("cannot open {DRIVER} ({error}): load the kernel's tun module (`modprobe tun`)"),
    })
}
