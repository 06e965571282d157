//! Whether frames come through at all, and since when.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use crate::{
    error::{Doing, Result},
    interrupt,
    lab::{BROADCAST, Lab},
};

const PORT: u16 = 7007;

/// Waits for the first frame that crosses from container a to b.
///
/// It sends broadcasts, because a unicast waits for ARP, which asks but once a second: that would be measured
/// instead of the switch. It sends unicasts as well, for there are networks that carry no broadcast.
///
/// # Errors
/// Fails when nothing has come through after `limit`.
pub fn first_frame(lab: &Lab, limit: Duration) -> Result<()> {
    let receiver = lab.b.namespace.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)))?;
    let receiver = receiver.doing("bind the receiver")?;
    receiver.set_nonblocking(true).doing("prepare the receiver")?;
    let sender = lab.a.namespace.enter(|| UdpSocket::bind((lab.a.address, 0)))?.doing("bind the sender")?;
    sender.set_broadcast(true).doing("allow broadcast")?;
    interrupt::wait_for("a frame through the switch", limit, || {
        // A carrier that is not up yet fails the sending; the next turn tries again.
        for address in [BROADCAST, lab.b.address] {
            let _ = sender.send_to(b"?", (address, PORT));
        }
        receiver.recv(&mut [0; 8]).ok().map(|_| ())
    })
}
