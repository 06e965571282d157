//! Detects the first frame that passes through the system.

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

/// Waits for the first frame from container a to b.
///
/// It sends broadcasts, because a unicast waits for ARP, which retries only once per second, and that would be measured
/// instead of the switch. It sends unicasts as well, because some networks carry no broadcast.
///
/// # Errors
/// Fails if no frame arrives within `limit`.
pub fn first_frame(lab: &Lab, limit: Duration) -> Result<()> {
    let receiver = lab.b.namespace.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)))?;
    let receiver = receiver.doing("bind the receiver")?;
    receiver.set_nonblocking(true).doing("prepare the receiver")?;
    let sender = lab.a.namespace.enter(|| UdpSocket::bind((lab.a.address, 0)))?.doing("bind the sender")?;
    sender.set_broadcast(true).doing("allow broadcast")?;
    interrupt::wait_for("a frame through the switch", limit, || {
        // Sending fails while the carrier is down; the next iteration tries again.
        for address in [BROADCAST, lab.b.address] {
            let _ = sender.send_to(b"?", (address, PORT));
        }
        receiver.recv(&mut [0; 8]).ok().map(|_| ())
    })
}
