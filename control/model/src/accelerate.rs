//! Whether the kernel forwards in place of the switch.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Whether the kernel may forward frames of known stations in place of the switch: `accelerate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerate {
    /// Where it can.
    #[default]
    Auto,
    /// Never.
    Off,
}

impl Accelerate {
    /// Whether it is left to the kernel's abilities, as by default for ports.
    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

impl FromStr for Accelerate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => Err(format!("{text:?} is neither: use \"auto\" or \"off\"")),
        }
    }
}

impl fmt::Display for Accelerate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_auto() { "auto" } else { "off" })
    }
}
