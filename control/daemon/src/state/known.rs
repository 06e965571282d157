//! Networks by reference: ours and the predefined ones.

use super::{Network, Refusal, State, predefined};
use vswitch_model::{NetworkSpec, Reference};

/// An existing network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// A network of this state.
    Ours(Network),
    /// A predefined network, which is not a broadcast domain.
    Predefined(Box<NetworkSpec>),
}

impl State {
    /// The network of a reference, predefined ones included; ours have precedence.
    ///
    /// # Errors
    /// There is none, or the digits are ambiguous.
    pub fn resolve(&self, reference: &Reference) -> Result<Known, Refusal> {
        let refusal = match self.find_network(reference) {
            Ok(network) => return Ok(Known::Ours(network)),
            Err(refusal) => refusal,
        };
        let text = reference.as_str();
        let is_called = |it: &NetworkSpec| it.name.as_str() == text || it.id().as_str().starts_with(text);
        let found = predefined().into_iter().find(is_called);
        found.map(|spec| Known::Predefined(spec.into())).ok_or(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Command, NetworkError};

    #[test]
    fn a_network_of_ours_or_one_that_is_always_there() {
        let mut state = State::default();
        state.apply(Command::AddNetwork(serde_json::from_str(r#"{"name": "blue"}"#).unwrap())).unwrap();
        let resolve = |text: &str| state.resolve(&text.parse().unwrap());
        assert!(matches!(resolve("blue"), Ok(Known::Ours(network)) if network.spec.name.as_str() == "blue"));
        let [host, none] = predefined();
        assert_eq!(resolve("host"), Ok(Known::Predefined(host.into())));
        let short = none.id().short().to_owned();
        assert_eq!(resolve(&short), Ok(Known::Predefined(none.into())));
        let missing = NetworkError::NotFound("red".parse().unwrap());
        assert_eq!(resolve("red"), Err(missing.into()));
    }
}
