//! Bulk TCP: throughput, retransmissions, and CPU time per gigabit.

use std::time::Duration;

use crate::{
    error::Result,
    lab::Lab,
    probes::{
        Direction, Usage,
        iperf::{Streams, number},
    },
    report::{Better, Figure, Reading},
};

pub(super) fn run(
    lab: &Lab,
    time: Duration,
    streams: u16,
    direction: Direction,
    control: &str,
) -> Result<Vec<Reading>> {
    let mut arguments = vec!["-C", control];
    let (word, arrow) = match direction {
        Direction::Forward => ("forward", "a→b"),
        Direction::Reverse => {
            arguments.push("-R");
            ("reverse", "b→a")
        }
    };
    let before = Usage::now()?;
    let results = Streams::start(lab, streams, time, &arguments)?.finish()?;
    let usage = Usage::now()? - before;
    let (mut gbits, mut gigabits, mut retransmits) = (0.0, 0.0, 0.0);
    for result in &results {
        gbits += number(result, "/sum_received/bits_per_second")? / 1e9;
        gigabits += number(result, "/sum_received/bytes")? * 8.0 / 1e9;
        retransmits += number(result, "/sum_sent/retransmits")?;
    }
    let noun = if streams == 1 { "stream" } else { "streams" };
    let key = |what: &str| format!("tcp{streams}.{word}.{control}{what}");
    let label = |what: &str| format!("TCP {streams} {noun}, {control} {arrow}{what}");
    let headline = direction == Direction::Forward;
    let rate = Figure::new(key(""), label(""), "Gbit/s", Better::Higher).headline(headline);
    let mut readings = vec![rate.is(gbits)];
    if direction == Direction::Forward {
        let cost = Figure::new(key(".cpu"), label(" CPU"), "s/Gbit", Better::Lower).headline(streams == 1);
        let soft = Figure::new(key(".softirq"), label(" softirq"), "s/Gbit", Better::Lower);
        let again = Figure::new(key(".retransmits"), label(" retransmits"), "segments", Better::Lower);
        readings.push(cost.is(usage.busy / gigabits));
        readings.push(soft.is(usage.softirq / gigabits));
        readings.push(again.is(retransmits));
    }
    Ok(readings)
}
