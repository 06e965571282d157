//! What vswitchd is to reach on the wire, as ratios to what others reach in the same round.

use crate::{
    report::{Bound, Target},
    systems::BASELINE,
};

use Bound::{AtLeast, AtMost};

/// The targets of the wire matrix, with bulk TCP under this congestion control.
pub fn wire(control: &str) -> Vec<Target> {
    let tcp = format!("tcp1.forward.{control}");
    let table = [
        ("vswitchd-tap", tcp.as_str(), BASELINE, AtLeast(0.9)),
        ("vswitchd-tap", &tcp, "ovs-tso", AtLeast(1.3)),
        ("vswitchd-tap", &tcp, "ovs", AtLeast(12.0)),
        ("vswitchd-tap", "rtt.idle.p50", BASELINE, AtMost(0.8)),
        ("vswitchd-tap", "pps64.received", BASELINE, AtLeast(1.3)),
        ("vswitchd-tap", "pps64.received", "ovs", AtLeast(1.7)),
        ("vswitchd-veth", &tcp, "ovs-tso", AtLeast(1.1)),
        ("vswitchd-veth", &tcp, BASELINE, AtLeast(0.8)),
    ];
    let target = |(subject, figure, against, bound): (&str, &str, &str, Bound)| {
        let [subject, figure, against] = [subject, figure, against].map(str::to_owned);
        Target { subject, figure, against, bound }
    };
    table.map(target).into()
}
