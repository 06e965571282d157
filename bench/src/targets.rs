//! The targets of vswitchd, mostly as ratios to other systems in the same round.

use crate::{
    report::{Bound, Target},
    systems::{BASELINE, BASELINE_OF_ENGINES},
};

use Bound::{AtLeast, AtMost};

/// The targets between containers of one host, with bulk TCP under this congestion control.
pub fn on_one_host(control: &str) -> Vec<Target> {
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
        ("vswitchd-fast", &tcp, BASELINE, AtLeast(1.0)),
        ("vswitchd-fast", &format!("tcp4.forward.{control}"), BASELINE, AtLeast(0.95)),
        ("vswitchd-fast", "pps64.received", BASELINE, AtLeast(1.15)),
        ("vswitchd-fast", "rtt.idle.p50", BASELINE, AtMost(0.95)),
    ];
    table.map(target).into()
}

/// The targets through tunnels, with bulk TCP under this congestion control.
pub fn on_two_hosts(control: &str) -> Vec<Target> {
    let tcp = |site: &str| format!("{site}.tcp1.forward.{control}");
    let (wire, veth) = (tcp("wire4"), tcp("veth4"));
    let table = [
        ("vswitchd-tap", wire.as_str(), BASELINE, AtLeast(1.0)),
        ("vswitchd-tap", &veth, BASELINE, AtLeast(0.65)),
        ("vswitchd-tap", &wire, "ovs", AtLeast(6.0)),
        ("vswitchd-tap", &veth, "ovs", AtLeast(6.0)),
        ("vswitchd-tap", "wire4.pps64.received", BASELINE, AtLeast(2.2)),
        ("vswitchd-tap", "veth4.pps64.received", BASELINE, AtLeast(2.2)),
        ("vswitchd-tap", "wire4.rtt.idle.p50", BASELINE, AtMost(1.2)),
        ("vswitchd-tap", "veth4.rtt.idle.p50", BASELINE, AtMost(1.2)),
    ];
    table.map(target).into()
}

/// The targets between containers of Docker, with bulk TCP under this congestion control.
pub fn of_engines(control: &str) -> Vec<Target> {
    let tcp = format!("tcp1.forward.{control}");
    let table = [
        ("vswitchd-tap", tcp.as_str(), BASELINE_OF_ENGINES, AtLeast(0.9)),
        ("vswitchd-tap", &format!("wire4.{tcp}"), BASELINE_OF_ENGINES, AtLeast(1.0)),
    ];
    table.map(target).into()
}

/// The targets of attaching a container. Those of CNI are in milliseconds.
pub fn of_attaching() -> Vec<Target> {
    let (run, limit) = (target(("vswitchd-tap", "docker.run", BASELINE, AtMost(1.1))), AtMost(60.0));
    let cni = |figure| Target { against: None, ..target(("vswitchd-tap", figure, "", limit)) };
    vec![run, cni("cni.add"), cni("cni.del")]
}

fn target((subject, figure, against, bound): (&str, &str, &str, Bound)) -> Target {
    let [subject, figure, against] = [subject, figure, against].map(str::to_owned);
    Target { subject, figure, against: Some(against), bound }
}
