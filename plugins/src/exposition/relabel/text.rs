//! Texts in a configuration, as lenient as Prometheus is with them.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A text, or what YAML takes for a whole number, a boolean or nothing, as the text that it was.
///
/// A fraction is refused, for `1.10` would arrive here as `1.1`; it wants quotes.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyScalar;

        impl Visitor<'_> for AnyScalar {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a whole number or a boolean")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<Text, E> {
                Err(E::custom("put a number with a fraction in quotes, or it may lose digits"))
            }

            fn visit_unit<E: Error>(self) -> Result<Text, E> {
                Ok(Text(String::new()))
            }
        }

        deserializer.deserialize_any(AnyScalar)
    }
}

/// Reads one text; nothing is the empty text.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Text::deserialize(deserializer).map(|text| text.0)
}

/// Reads one text of a key that may be absent; nothing is the empty text, and not the default.
pub(super) fn some_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    text(deserializer).map(Some)
}

/// Reads a list of texts of a key that may be absent.
pub(super) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    let list = Option::<Vec<Text>>::deserialize(deserializer)?;
    Ok(list.map(|list| list.into_iter().map(|text| text.0).collect()))
}
