//! How a service finds out which of its endpoints serve.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Serialize};

/// A check of a service's endpoints, made from inside of each one's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthSpec {
    /// What is tried.
    pub check: Check,
    /// How often, in seconds. An endpoint that does not serve is tried every second.
    #[serde(default = "HealthSpec::interval")]
    pub interval: u32,
    /// For how long, in seconds.
    #[serde(default = "HealthSpec::timeout")]
    pub timeout: u32,
    /// After how many failures in a row it gets no new connections.
    #[serde(default = "HealthSpec::retries")]
    pub retries: u32,
}

impl HealthSpec {
    /// Intervals, timeouts and retries that a check may have.
    pub const RANGE: RangeInclusive<u32> = 1..=3_600;

    /// `check`, as often as by default.
    pub fn new(check: Check) -> Self {
        Self { check, interval: Self::interval(), timeout: Self::timeout(), retries: Self::retries() }
    }

    fn interval() -> u32 {
        5
    }

    fn timeout() -> u32 {
        2
    }

    fn retries() -> u32 {
        3
    }

    /// Whether all numbers are in [`RANGE`](Self::RANGE).
    pub fn is_valid(&self) -> bool {
        [self.interval, self.timeout, self.retries].iter().all(|it| Self::RANGE.contains(it))
    }
}

/// What is tried: `tcp:80`, or `http:8080/healthz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Check {
    /// A connection to this port.
    Tcp(u16),
    /// A request for this path, which is answered with a status of 200 to 399.
    Http(u16, String),
}

impl Check {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(port) | Self::Http(port, _) => *port,
        }
    }
}

impl FromStr for Check {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no check: use tcp:PORT or http:PORT/PATH");
        let port = |digits: &str| digits.parse().ok().filter(|port| *port > 0).ok_or_else(wrong);
        match text.split_once(':') {
            Some(("tcp", digits)) => Ok(Self::Tcp(port(digits)?)),
            Some(("http", rest)) => {
                let (digits, path) = rest.split_once('/').unwrap_or((rest, ""));
                let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic());
                if is_plain { Ok(Self::Http(port(digits)?, format!("/{path}"))) } else { Err(wrong()) }
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(f, "tcp:{port}"),
            Self::Http(port, path) => write!(f, "http:{port}{path}"),
        }
    }
}

impl TryFrom<String> for Check {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Check> for String {
    fn from(check: Check) -> Self {
        check.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_as_text() {
        for (text, check, written) in [
            ("tcp:80", Check::Tcp(80), "tcp:80"),
            ("http:8080", Check::Http(8080, "/".into()), "http:8080/"),
            ("http:80/a/b?c=1", Check::Http(80, "/a/b?c=1".into()), "http:80/a/b?c=1"),
        ] {
            assert_eq!(text.parse(), Ok(check.clone()));
            assert_eq!(check.to_string(), written);
        }
        for text in ["", "tcp", "tcp:0", "tcp:65536", "tcp:80/", "http:/x", "http:80/a b", "https:443"] {
            assert!(text.parse::<Check>().is_err(), "{text}");
        }
    }
}
