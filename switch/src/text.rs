//! Serialised form of values in files and the API (feature `serde`): text by `Display` and `FromStr`, numbers
//! as numbers.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    addr::{MacAddr, VlanId},
    capture::Direction,
};

/// Serialises a type by its `Display` and deserialises it by its `FromStr`.
macro_rules! as_text {
    ($($name:ident: $expecting:literal,)*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;

                impl de::Visitor<'_> for Visitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(|error| E::custom(format_args!("{text:?}: {error}")))
                    }
                }

                deserializer.deserialize_str(Visitor)
            }
        }
    )*};
}

as_text! {
    MacAddr: "a MAC address like \"02:42:0a:09:00:02\"",
    Direction: "\"rx\" or \"tx\"",
}

impl Serialize for VlanId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.as_u16())
    }
}

impl<'de> Deserialize<'de> for VlanId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = VlanId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a VLAN id, 1 to 4094")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<VlanId, E> {
                let number = u16::try_from(number)
                    .map_err(|_| E::custom(format_args!("{number} is not a VLAN id: use 1 to 4094")))?;
                VlanId::try_from(number).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<VlanId, E> {
                match u64::try_from(number) {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Err(E::custom(format_args!("{number} is not a VLAN id: use 1 to 4094"))),
                }
            }
        }

        deserializer.deserialize_u16(Visitor)
    }
}

/// Durations of whole seconds, as numbers.
pub(crate) mod seconds {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(duration.as_secs())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u32::deserialize(deserializer).map(|seconds| Duration::from_secs(seconds.into()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;
    use crate::{fdb::Damping, storm::FloodLimits};

    #[test]
    fn values_are_written_as_people_write_them() {
        let mac: MacAddr = "02:42:0a:09:00:02".parse().unwrap();
        let vlan = VlanId::try_from(10).unwrap();
        for (written, value) in [
            (to_value(mac), json!("02:42:0a:09:00:02")),
            (to_value(vlan), json!(10)),
            (to_value(Direction::Tx), json!("tx")),
            (to_value(FloodLimits { broadcast: Some(5), ..FloodLimits::default() }), json!({"broadcast": 5})),
            (to_value(Damping::default()), json!({"moves": 5, "window": 180, "hold": 1800})),
        ] {
            assert_eq!(written.unwrap(), value);
        }
        assert_eq!(from_value::<MacAddr>(json!("02:42:0a:09:00:02")).unwrap(), mac);
        assert_eq!(from_value::<VlanId>(json!(10)).unwrap(), vlan);
        assert_eq!(from_value::<Direction>(json!("rx")).unwrap(), Direction::Rx);
        let damping: Damping = from_value(json!({"moves": 0})).unwrap();
        assert_eq!(damping, Damping { moves: 0, ..Damping::default() });
        assert_eq!(from_value::<FloodLimits>(json!({})).unwrap(), FloodLimits::default());
    }

    #[test]
    fn what_is_wrong_is_a_sentence() {
        let error = |result: Result<(), serde_json::Error>| result.unwrap_err().to_string();
        for (sentence, found) in [
            (
                "\"02:42\": not a MAC address: write six bytes like 02:42:0a:09:00:02",
                error(from_value::<MacAddr>(json!("02:42")).map(drop)),
            ),
            ("4095 is reserved: use 1 to 4094", error(from_value::<VlanId>(json!(4095)).map(drop))),
            ("70000 is not a VLAN id: use 1 to 4094", error(from_value::<VlanId>(json!(70000)).map(drop))),
            ("-1 is not a VLAN id: use 1 to 4094", error(from_value::<VlanId>(json!(-1)).map(drop))),
            (
                "invalid type: string \"10\", expected a VLAN id, 1 to 4094",
                error(from_value::<VlanId>(json!("10")).map(drop)),
            ),
            ("\"up\": not a direction: use rx or tx", error(from_value::<Direction>(json!("up")).map(drop))),
        ] {
            assert_eq!(found, sentence);
        }
        assert!(from_value::<FloodLimits>(json!({"brodcast": 5})).is_err());
        assert!(from_value::<Damping>(json!({"move": 5})).is_err());
    }
}
