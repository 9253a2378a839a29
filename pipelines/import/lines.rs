//! On which line of a text in YAML something stands.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// One step into a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The steps of a path as it is written, as `scrape_configs[2].params`.
pub(super) fn steps(path: &str) -> Vec<Step> {
    path.split(['.', '[', ']'])
        .filter(|step| !step.is_empty())
        .map(|step| step.parse().map_or_else(|_| Step::Key(step.to_owned()), Step::Index))
        .collect()
}

/// The line of what stands at `path`, from 1; where that leads nowhere, of the last that does lead somewhere. A key
/// is found where its name is.
pub(super) fn line(text: &str, path: &[Step]) -> usize {
    let found = (0..=path.len()).rev().find_map(|taken| exact_line(text, &path[..taken]));
    found.unwrap_or(1)
}

/// The reader knows where it is when it fails, so it is made to fail in the right place.
fn exact_line(text: &str, path: &[Step]) -> Option<usize> {
    let arrived = Cell::new(false);
    let walk = Walk { path, arrived: &arrived }.deserialize(serde_yaml::Deserializer::from_str(text));
    let location = walk.err().filter(|_| arrived.get())?.location()?;
    Some(location.line())
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    path: &'a [Step],
    arrived: &'a Cell<bool>,
}

impl Walk<'_> {
    fn stop<E: Error>(self) -> E {
        self.arrived.set(true);
        E::custom("here")
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((Step::Index(wanted), rest)) = self.path.split_first() else { return Err(self.stop()) };
        for _ in 0..*wanted {
            list.next_element::<IgnoredAny>()?;
        }
        list.next_element_seed(Walk { path: rest, ..self })?;
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Step::Key(wanted), rest)) = self.path.split_first() else { return Err(self.stop()) };
        while let Some(is_it) = map.next_key_seed(KeyIs { wanted, walk: Walk { path: rest, ..self } })? {
            if is_it {
                map.next_value_seed(Walk { path: rest, ..self })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.scalar()
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.scalar()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar()
    }
}

impl Walk<'_> {
    fn scalar<E: Error>(self) -> Result<(), E> {
        if self.path.is_empty() { Err(self.stop()) } else { Ok(()) }
    }
}

/// Tells whether a key is the one that is wanted, and stops there when it is the end of the path.
struct KeyIs<'a> {
    wanted: &'a str,
    walk: Walk<'a>,
}

impl<'de> DeserializeSeed<'de> for KeyIs<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyIs<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        if key != self.wanted {
            return Ok(false);
        }
        if self.walk.path.is_empty() { Err(self.walk.stop()) } else { Ok(true) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_elements_are_found_where_they_stand() {
        let text = "# A comment.\nglobal:\n\n  scrape_interval: 15s\nscrape_configs:\n  - job_name: a\n    5: x\n\
                    \x20 - &b\n    job_name: b\n    params: { x: [1,\n      2] }\n  - <<: *b\n    job_name: 'c'\n";
        for (path, expected) in [
            ("", 2),
            ("global", 2),
            ("global.scrape_interval", 4),
            ("scrape_configs", 5),
            ("scrape_configs[0]", 6),
            ("scrape_configs[1].job_name", 9),
            ("scrape_configs[1].params.x[1]", 11),
            ("scrape_configs[2].job_name", 13),
            // From elsewhere, or from nowhere: the nearest thing.
            ("scrape_configs[2].params.x", 12),
            ("scrape_configs[7].params", 5),
            ("nothing.there", 2),
        ] {
            assert_eq!(line(text, &steps(path)), expected, "{path}");
        }
        assert_eq!(line("", &steps("a")), 1);
    }
}
