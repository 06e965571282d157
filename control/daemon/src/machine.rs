//! The machine that effects are performed on: this host, or memory in tests.

/// The place of devices, interfaces and rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    /// This host's kernel.
    Real,
    /// Memory: each device opens, carries nothing and is set up at once; the host has no rules.
    #[cfg(test)]
    InMemory,
}

impl Machine {
    pub(crate) fn is_real(self) -> bool {
        matches!(self, Self::Real)
    }
}
