//! Serialized form of the data plane's values: addresses as text, VLAN ids and VNIs as numbers; each may be absent.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serializer, de::Error};
use vswitch::addr::{MacAddr, VlanId};
use vswitch_vxlan::header::Vni;

pub(crate) trait Text: Sized {
    fn from_value(value: Value) -> Result<Self, String>;
}

/// A number for VLAN ids and VNIs, a string for addresses.
#[derive(Deserialize)]
#[serde(untagged, expecting = "neither a whole number nor text")]
pub(crate) enum Value {
    Number(i64),
    Text(String),
}

impl Text for MacAddr {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Self::from_str(&text).map_err(|error| error.to_string()),
            Value::Number(number) => Err(format!("{number} is not a MAC address")),
        }
    }
}

impl Text for VlanId {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Number(number) => match u16::try_from(number) {
                Ok(number) => Self::try_from(number).map_err(|error| error.to_string()),
                Err(_) => Err(format!("{number} is not a VLAN id: write a number, 1 to 4094")),
            },
            Value::Text(text) => Err(format!("{text:?} is not a VLAN id: write a number, 1 to 4094")),
        }
    }
}

impl Text for Vni {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Number(number) => match u32::try_from(number) {
                Ok(number) => Self::try_from(number).map_err(|error| error.to_string()),
                Err(_) => Err(format!("{number} is not a VNI: use 0 to 16777215")),
            },
            Value::Text(text) => Err(format!("{text:?} is not a VNI: write a number, 0 to 16777215")),
        }
    }
}

pub(crate) fn serialize<T: fmt::Display, S: Serializer>(value: &Option<T>, s: S) -> Result<S::Ok, S::Error> {
    match value.as_ref().map(ToString::to_string) {
        None => s.serialize_none(),
        Some(text) => match text.parse::<u32>() {
            Ok(number) => s.serialize_u32(number),
            Err(_) => s.serialize_str(&text),
        },
    }
}

pub(crate) fn deserialize<'de, T: Text, D: Deserializer<'de>>(d: D) -> Result<Option<T>, D::Error> {
    let value: Option<Value> = Option::deserialize(d)?;
    value.map(T::from_value).transpose().map_err(D::Error::custom)
}

/// The same for values that are never absent.
pub(crate) mod required {
    use std::fmt;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{Text, Value};

    pub(crate) fn serialize<T: fmt::Display + Copy, S: Serializer>(
        value: &T,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        super::serialize(&Some(*value), s)
    }

    pub(crate) fn deserialize<'de, T: Text, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
        T::from_value(Value::deserialize(d)?).map_err(D::Error::custom)
    }
}
