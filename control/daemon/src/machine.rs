//! What the core's deeds are done to: this machine, or nothing but memory, for tests.

/// Where devices, interfaces and rules are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    /// In this host's kernel.
    Real,
    /// In memory: each device opens, carries nothing and is set up at once; the host has no rules.
    #[cfg(test)]
    InMemory,
}

impl Machine {
    pub(crate) fn is_real(self) -> bool {
        matches!(self, Self::Real)
    }
}
