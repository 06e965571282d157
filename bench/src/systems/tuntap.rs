//! The smallest forwarder over the `tun-tap` crate: the measured reason for opening TAPs without it.
//!
//! [`tun_tap::Iface`] sets IFF_TAP and IFF_NO_PI and offers no more: no IFF_VNET_HDR, hence no checksum or segmentation
//! offload, and every frame of one MTU costs two system calls. This measures that ceiling, not the crate's own cost.

use std::io;

use tun_tap::{Iface, Mode};

use crate::{
    error::{Doing, Result},
    lab::Lab,
    process::Process,
    systems::{Running, System},
};

/// The name of this mode on the command line.
pub const SUBCOMMAND: &str = "tuntap-forwarder";

/// [`forward`] in a process of its own.
#[derive(Clone, Copy, Debug)]
pub struct TunTap;

impl System for TunTap {
    fn name(&self) -> String {
        "tun-tap".to_owned()
    }

    fn missing(&self) -> Option<String> {
        None
    }

    fn version(&self) -> Result<String> {
        Ok("crate tun-tap 0.1, two threads".to_owned())
    }

    fn setup(&self, lab: &Lab) -> Result<Running> {
        let own = std::env::current_exe().doing("find our own binary")?;
        let mut command = lab.host().namespace.command(own);
        command.arg(SUBCOMMAND).args(lab.ends().map(|end| end.port));
        let process = Process::serve(&mut command, &lab.host().folder.join("tuntap.log"))?;
        lab.adopt_taps()?;
        Ok(Running { processes: vec![process], ..Running::default() })
    }
}

/// Creates two TAPs and forwards every frame of one to the other, until a read fails.
///
/// A frame the other side does not accept (its interface is still down, its queue is full) is lost.
///
/// # Errors
/// Fails if a TAP cannot be created or read.
pub fn forward(a: &str, b: &str) -> io::Result<()> {
    let a = Iface::without_packet_info(a, Mode::Tap)?;
    let b = Iface::without_packet_info(b, Mode::Tap)?;
    std::thread::scope(|scope| {
        let back = scope.spawn(|| carry(&b, &a));
        carry(&a, &b)?;
        back.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn carry(from: &Iface, to: &Iface) -> io::Result<()> {
    let mut frame = [0; 2048];
    loop {
        let length = from.recv(&mut frame)?;
        let _ = to.send(&frame[..length]);
    }
}
