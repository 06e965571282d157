//! Optional values that are written as text: through `Display` and `FromStr`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serializer, de::Error};
use vswitch::addr::{MacAddr, VlanId};

pub(crate) trait Text: Sized {
    fn from_value(value: Value) -> Result<Self, String>;
}

/// A number for VLAN ids, a string for addresses.
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

pub(crate) fn serialize<T: fmt::Display, S: Serializer>(value: &Option<T>, s: S) -> Result<S::Ok, S::Error> {
    match value.as_ref().map(ToString::to_string) {
        None => s.serialize_none(),
        Some(text) => match text.parse::<u16>() {
            Ok(number) => s.serialize_u16(number),
            Err(_) => s.serialize_str(&text),
        },
    }
}

pub(crate) fn deserialize<'de, T: Text, D: Deserializer<'de>>(d: D) -> Result<Option<T>, D::Error> {
    let value: Option<Value> = Option::deserialize(d)?;
    value.map(T::from_value).transpose().map_err(D::Error::custom)
}
