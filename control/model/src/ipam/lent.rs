//! An address that was given to the driver of another network.

use std::{fmt, net::IpAddr, str::FromStr};

use crate::Scope;

/// An address that was given to the driver of another network, which has pools of this host and, in a swarm, pools of all hosts: one
/// address may be given out once in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lent {
    /// Whose pool it is from.
    pub scope: Scope,
    /// The address.
    pub address: IpAddr,
}

impl fmt::Display for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            Scope::Local => self.address.fmt(f),
            Scope::Global => write!(f, "{GLOBAL}{}", self.address),
        }
    }
}

/// Before an address of a pool of all hosts.
const GLOBAL: &str = "global/";

impl FromStr for Lent {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scope, address) = match text.strip_prefix(GLOBAL) {
            Some(address) => (Scope::Global, address),
            None => (Scope::Local, text),
        };
        Ok(Self { scope, address: address.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_before_there_were_scopes() {
        for (text, scope) in
            [("10.9.0.2", Scope::Local), ("global/10.9.0.2", Scope::Global), ("fd00::2", Scope::Local)]
        {
            let lent: Lent = text.parse().unwrap();
            assert_eq!((lent.scope, lent.to_string().as_str()), (scope, text));
        }
        assert!("global".parse::<Lent>().is_err());
    }
}
