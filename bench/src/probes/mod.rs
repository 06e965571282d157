//! The measurements: each load runs for a bounded time between the containers of a [`Lab`].

pub mod contact;
mod cpu;
mod integrity;
mod iperf;
mod pps;
mod rtt;
mod tcp;
mod udp;

use std::{fmt, time::Duration};

use crate::{error::Result, lab::Lab, report::Reading, underlay::Family};

pub use self::{cpu::Usage, integrity::verify};

/// The direction of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Container a sends, b receives.
    Forward,
    /// Container b sends, a receives.
    Reverse,
}

/// One load on the system under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Load {
    /// Bulk TCP by iperf3, one process per stream.
    Tcp {
        /// Number of streams.
        streams: u16,
        /// Direction.
        direction: Direction,
        /// The congestion control, as the kernel names it.
        control: String,
    },
    /// UDP at the maximum rate, by iperf3.
    Udp,
    /// Smallest frames at the maximum rate.
    SmallFrames,
    /// Ping-pong on an otherwise idle network.
    RttIdle,
    /// Pings beside a bulk TCP stream of this congestion control.
    RttLoaded(String),
}

impl Load {
    /// The loads between containers of one host. The first congestion control gets all of them, the others one TCP stream.
    pub fn on_one_host(controls: &[String]) -> Vec<Self> {
        let mut loads = Vec::new();
        for (rank, control) in controls.iter().enumerate() {
            for streams in [1, 4] {
                for direction in [Direction::Forward, Direction::Reverse] {
                    if rank == 0 || streams == 1 {
                        loads.push(Self::Tcp { streams, direction, control: control.clone() });
                    }
                }
            }
        }
        loads.extend([Self::Udp, Self::SmallFrames, Self::RttIdle]);
        loads.extend(controls.first().map(|control| Self::RttLoaded(control.clone())));
        loads
    }

    /// The loads through a tunnel: the same, but in one direction, because the setup is symmetric; over IPv6 only TCP.
    pub fn on_two_hosts(controls: &[String], family: Family) -> Vec<Self> {
        let mut loads = Self::on_one_host(controls);
        loads.retain(|load| match load {
            Self::Tcp { direction, .. } => *direction == Direction::Forward,
            _ => family == Family::V4,
        });
        loads
    }

    /// The loads between containers of an engine: bulk TCP and the round trip.
    pub fn of_engines(controls: &[String]) -> Vec<Self> {
        let mut loads = Self::on_two_hosts(&controls[..1], Family::V4);
        loads.retain(|load| matches!(load, Self::Tcp { .. } | Self::RttIdle));
        loads
    }

    /// Its family, as named in `--loads`.
    pub fn family(&self) -> &'static str {
        match self {
            Self::Tcp { .. } => "tcp",
            Self::Udp => "udp",
            Self::SmallFrames => "pps",
            Self::RttIdle | Self::RttLoaded(_) => "rtt",
        }
    }

    /// Runs the load for about `time` and returns its readings.
    ///
    /// # Errors
    /// Fails if a tool does, or if no frame arrives.
    pub fn run(&self, lab: &Lab, time: Duration) -> Result<Vec<Reading>> {
        match self {
            Self::Tcp { streams, direction, control } => tcp::run(lab, time, *streams, *direction, control),
            Self::Udp => udp::run(lab, time),
            Self::SmallFrames => pps::run(lab, time),
            Self::RttIdle => rtt::idle(lab, time),
            Self::RttLoaded(control) => rtt::loaded(lab, time, control),
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { streams, direction, control } => {
                write!(f, "tcp {streams} {control} {}", format!("{direction:?}").to_lowercase())
            }
            Self::Udp => write!(f, "udp"),
            Self::SmallFrames => write!(f, "pps"),
            Self::RttIdle => write!(f, "rtt idle"),
            Self::RttLoaded(control) => write!(f, "rtt under {control}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_congestion_control_gets_the_whole_matrix() {
        let loads = Load::on_one_host(&["bbr".to_owned(), "cubic".to_owned()]);
        let names: Vec<_> = loads.iter().map(Load::to_string).collect();
        assert_eq!(
            names,
            [
                "tcp 1 bbr forward",
                "tcp 1 bbr reverse",
                "tcp 4 bbr forward",
                "tcp 4 bbr reverse",
                "tcp 1 cubic forward",
                "tcp 1 cubic reverse",
                "udp",
                "pps",
                "rtt idle",
                "rtt under bbr"
            ]
        );
    }
    #[test]
    fn tunnels_are_measured_one_way() {
        let names = |family| {
            let loads = Load::on_two_hosts(&["bbr".to_owned(), "cubic".to_owned()], family);
            loads.iter().map(Load::to_string).collect::<Vec<_>>()
        };
        let tcp = ["tcp 1 bbr forward", "tcp 4 bbr forward", "tcp 1 cubic forward"];
        assert_eq!(names(Family::V6), tcp);
        assert_eq!(names(Family::V4), [&tcp[..], &["udp", "pps", "rtt idle", "rtt under bbr"]].concat());
    }
}
