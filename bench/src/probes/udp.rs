//! UDP at the sender's maximum rate: received rate and losses.

use std::time::Duration;

use crate::{
    error::Result,
    lab::Lab,
    probes::{
        Usage,
        iperf::{Streams, number},
    },
    report::{Better, Figure, Reading},
};

/// Bytes of payload, so that a datagram and its headers fit one MTU of 1450 too.
const PAYLOAD: u32 = 1400;

pub(super) fn run(lab: &Lab, time: Duration) -> Result<Vec<Reading>> {
    let payload = PAYLOAD.to_string();
    let before = Usage::now()?;
    let results = Streams::start(lab, 1, time, &["-u", "-b", "0", "-l", &payload])?.finish()?;
    let usage = Usage::now()? - before;
    let (mut received, mut sent, mut seconds) = (0.0, 0.0, 0.0);
    for result in &results {
        let packets = number(result, "/sum/packets")?;
        sent += packets;
        received += packets - number(result, "/sum/lost_packets")?;
        seconds += number(result, "/sum/seconds")?;
    }
    let gigabits = received * f64::from(PAYLOAD) * 8.0 / 1e9;
    let rate = Figure::new("udp1400", "UDP 1400 B a→b", "Gbit/s", Better::Higher);
    let loss = Figure::new("udp1400.loss", "UDP 1400 B loss", "%", Better::Lower);
    let cost = Figure::new("udp1400.cpu", "UDP 1400 B CPU", "s/Gbit", Better::Lower);
    Ok(vec![
        rate.is(gigabits / seconds),
        loss.is((sent - received) / sent * 100.0),
        cost.is(usage.busy / gigabits),
    ])
}
