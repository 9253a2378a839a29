//! Numbers as they are written. YAML reads `1.10` as the number 1.1, and where a text is wanted, as for a
//! label, that is another text.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_yaml::Value;

/// Makes a text of every number in `value`, which was read from `text`, that has a fraction or is written in
/// another way than it would be printed. No setting is such a number.
///
/// # Errors
/// None that reading `text` did not have.
pub(super) fn keep_numbers(value: &mut Value, text: &str) -> Result<(), serde_yaml::Error> {
    if !has_number(value) {
        return Ok(());
    }
    Along(value).deserialize(serde_yaml::Deserializer::from_str(text))
}

fn has_number(value: &Value) -> bool {
    match value {
        Value::Number(_) => true,
        Value::Sequence(list) => list.iter().any(has_number),
        Value::Mapping(map) => map.values().any(has_number),
        _ => false,
    }
}

/// Reads a text once more, along what was read of it before.
struct Along<'a>(&'a mut Value);

impl<'de> DeserializeSeed<'de> for Along<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.0 {
            Value::Number(number) => {
                let written = String::deserialize(deserializer)?;
                if number.is_f64() || written != number.to_string() {
                    *self.0 = Value::String(written);
                }
                Ok(())
            }
            Value::Sequence(_) => deserializer.deserialize_seq(self),
            Value::Mapping(_) => deserializer.deserialize_map(self),
            _ => IgnoredAny::deserialize(deserializer).map(drop),
        }
    }
}

impl<'de> Visitor<'de> for Along<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what was there before")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        for value in self.0.as_sequence_mut().into_iter().flatten() {
            list.next_element_seed(Along(value))?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        for (_, value) in self.0.as_mapping_mut().into_iter().flatten() {
            if map.next_key::<IgnoredAny>()?.is_some() {
                map.next_value_seed(Along(value))?;
            }
        }
        Ok(())
    }
}
