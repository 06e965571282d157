//! Who may use the fast path: the rule for a whole port. What differs from frame to frame is in the programs.

use std::fmt;

use vswitch::{
    addr::NetworkId,
    guard::Guard,
    plan::Plan,
    topology::{PortMode, PortRules},
};

use crate::layout::{GuardRecord, Key, MACS, RANGES};

/// Why frames of a port pass through vswitchd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slow {
    /// Its rules are not known yet.
    Starting,
    /// Switched off for the port.
    Off,
    /// Its device takes complete wire frames only, which the switch makes.
    NoOffload,
    /// A trunk, or a mirror.
    Networks,
    /// It has a rate limit.
    Limited,
    /// Addresses are not learned on it.
    NotLearning,
    /// Its guard has more addresses than the programs compare.
    Guard,
    /// A capture is running.
    Captured,
    /// A mirror copies its frames.
    Mirrored,
    /// It may answer clients of a service.
    Serving,
    /// Its interface is down in the container.
    LinkDown,
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("the port is being opened"),
            Self::Off => f.write_str("switched off: set accelerate = \"auto\" for the port"),
            Self::NoOffload => f.write_str(
                "the port takes complete wire frames only (offload = false), which vswitchd makes",
            ),
            Self::Networks => f.write_str("the port does not carry exactly one network, untagged"),
            Self::Limited => f.write_str("the port has a rate limit, which only vswitchd enforces"),
            Self::NotLearning => f.write_str("addresses are not learned on the port (learning = false)"),
            Self::Guard => write!(
                f,
                "its guard names more than {MACS} MAC addresses, or more than {RANGES} subnets and addresses of a family"
            ),
            Self::Captured => f.write_str("a capture records its frames: until that ends"),
            Self::Mirrored => f.write_str("a mirror copies its frames"),
            Self::Serving => f.write_str(
                "its station serves a service, whose address only vswitchd puts in place of its own",
            ),
            Self::LinkDown => f.write_str("its interface is down in the container"),
        }
    }
}

impl std::error::Error for Slow {}

/// The network of a port that the programs may serve by these rules, when nothing watches it.
///
/// # Errors
/// They may not, and why.
pub(crate) fn eligible(rules: &PortRules) -> Result<NetworkId, Slow> {
    let PortMode::Access(network) = rules.mode else { return Err(Slow::Networks) };
    if rules.limits.rx.is_some() || rules.limits.tx.is_some() {
        return Err(Slow::Limited);
    }
    if !rules.learning && rules.station.is_none() {
        return Err(Slow::NotLearning);
    }
    Ok(network)
}

/// Whether what watches frames of `plan` leaves out the port with these `rules`, in `network`.
///
/// # Errors
/// It does not.
pub(crate) fn unwatched(rules: &PortRules, network: NetworkId, plan: &Plan) -> Result<(), Slow> {
    if plan.captures.iter().any(|capture| !capture.has_ended() && capture.concerns(rules.id, network)) {
        return Err(Slow::Captured);
    }
    if plan.balance.serves(rules.id) {
        return Err(Slow::Serving);
    }
    let copies =
        |it: &vswitch::mirror::Mirror| it.ports.contains(&rules.id) || it.networks.contains(&network);
    if plan.mirrors.iter().any(copies) {
        return Err(Slow::Mirrored);
    }
    Ok(())
}

/// What the programs are told of a guard.
///
/// # Errors
/// It does not fit.
pub(crate) fn record(guard: Option<&Guard>) -> Result<GuardRecord, Slow> {
    let Some(guard) = guard else { return Ok(GuardRecord::default()) };
    let mut record = GuardRecord { judges: 1, ..GuardRecord::default() };
    for mac in guard.macs() {
        let place = record.mac.get_mut(record.macs as usize).ok_or(Slow::Guard)?;
        *place = Key::new(NetworkId(0), mac);
        record.macs += 1;
    }
    if let (Some(v4), Some(v6)) = (guard.ranges4(), guard.ranges6()) {
        record.judges_ip = 1;
        for &(first, last) in v4 {
            *record.range4.get_mut(record.v4 as usize).ok_or(Slow::Guard)? = [first, last];
            record.v4 += 1;
        }
        for &(first, last) in v6 {
            let [first, last] = [first, last].map(halves);
            *record.range6.get_mut(record.v6 as usize).ok_or(Slow::Guard)? =
                [first[0], first[1], last[0], last[1]];
            record.v6 += 1;
        }
    }
    Ok(record)
}

#[expect(clippy::cast_possible_truncation, reason = "the halves of 128 bits")]
fn halves(address: u128) -> [u64; 2] {
    [(address >> 64) as u64, address as u64]
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU64, sync::Arc};

    use vswitch::{
        addr::{MacAddr, PortId},
        limit::{Limit, Limits},
    };

    use super::*;

    #[test]
    fn what_makes_a_port_slow() {
        let rules = PortRules::access(PortId(1), NetworkId(7));
        assert_eq!(eligible(&rules), Ok(NetworkId(7)));
        let limit = Some(Limit::new(NonZeroU64::MIN, 1));
        for limits in [Limits { rx: limit, tx: None }, Limits { rx: None, tx: limit }] {
            assert_eq!(eligible(&PortRules { limits, ..rules.clone() }), Err(Slow::Limited));
        }
        let quiet = PortRules { learning: false, ..rules.clone() };
        assert_eq!(eligible(&quiet), Err(Slow::NotLearning));
        assert_eq!(eligible(&PortRules { station: Some(MacAddr([2; 6])), ..quiet }), Ok(NetworkId(7)));
        for mode in [PortMode::Mirror, PortMode::Trunk { tagged: vec![], native: Some(NetworkId(7)) }] {
            assert_eq!(eligible(&PortRules { mode, ..rules.clone() }), Err(Slow::Networks));
        }
    }

    #[test]
    fn a_guard_that_fits_is_told_in_full() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let guard = Guard::new(mac, ["10.9.0.2", "fd00::2"].map(|ip| ip.parse().unwrap()), [], []);
        let told = record(Some(&guard)).unwrap();
        assert_eq!((told.judges, told.judges_ip, told.macs, told.v4, told.v6), (1, 1, 1, 1, 1));
        assert_eq!(told.range4[0], [0x0a09_0002; 2]);
        assert_eq!(told.range6[0], [0xfd00_0000_0000_0000, 2, 0xfd00_0000_0000_0000, 2]);
        assert_eq!(told.mac[0].parts(), (NetworkId(0), mac));
        assert_eq!(record(None).unwrap(), GuardRecord::default());

        let many = (0..=u8::try_from(MACS).unwrap()).map(|last| MacAddr([2, 0, 0, 0, 1, last]));
        assert_eq!(record(Some(&Arc::new(Guard::new(mac, [], [], many)))), Err(Slow::Guard));
    }
}
