//! Serialised form of values in files and the API (feature `serde`).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    encap::Dscp,
    header::{InvalidVni, Vni},
};

/// A number.
impl Serialize for Vni {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.as_u32())
    }
}

impl<'de> Deserialize<'de> for Vni {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Vni;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a VNI, 0 to 16777215")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Vni, E> {
                Vni::try_from(u32::try_from(number).unwrap_or(u32::MAX)).map_err(|InvalidVni(_)| {
                    E::custom(format_args!("{number} is not a VNI: use 0 to 16777215"))
                })
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Vni, E> {
                match u64::try_from(number) {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Err(E::custom(format_args!("{number} is not a VNI: use 0 to 16777215"))),
                }
            }
        }

        deserializer.deserialize_u32(Visitor)
    }
}

/// A number, or "inherit".
impl Serialize for Dscp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fixed(dscp) => serializer.serialize_u8(*dscp),
            Self::Inherit => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Dscp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Dscp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number below 64, or \"inherit\"")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Dscp, E> {
                let dscp = u8::try_from(number).ok().filter(|dscp| *dscp < 64);
                dscp.map(Dscp::Fixed).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Dscp, E> {
                match text {
                    "inherit" => Ok(Dscp::Inherit),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn values_are_written_as_people_write_them() {
        let vni = Vni::try_from(4096).unwrap();
        assert_eq!(to_value(vni).unwrap(), json!(4096));
        assert_eq!(from_value::<Vni>(json!(4096)).unwrap(), vni);
        for (dscp, value) in [(Dscp::Fixed(46), json!(46)), (Dscp::Inherit, json!("inherit"))] {
            assert_eq!(to_value(dscp).unwrap(), value);
            assert_eq!(from_value::<Dscp>(value).unwrap(), dscp);
            assert_eq!(dscp.to_string().parse(), Ok(dscp));
        }
    }

    #[test]
    fn what_is_wrong_is_a_sentence() {
        for (number, sentence) in [
            (json!(1 << 24), "16777216 is not a VNI: use 0 to 16777215"),
            (json!(-1), "-1 is not a VNI: use 0 to 16777215"),
            (json!(5_000_000_000_u64), "5000000000 is not a VNI: use 0 to 16777215"),
            (json!("7"), "invalid type: string \"7\", expected a VNI, 0 to 16777215"),
        ] {
            assert_eq!(from_value::<Vni>(number).unwrap_err().to_string(), sentence);
        }
        for value in [json!(64), json!("inherited")] {
            let error = from_value::<Dscp>(value).unwrap_err().to_string();
            assert!(error.ends_with("expected a number below 64, or \"inherit\""), "{error}");
        }
        assert_eq!(["64", "-1", ""].map(str::parse::<Dscp>), [Err(crate::encap::ParseDscpError); 3]);
    }
}
