//! What a receiver of remote write 1.0 has been told of families: their types, help and units. Unlike 2.0 the
//! message does not say it with each series, so it is said once in a while.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::series::{Metadata, Scrape};
use super::symbols::AsItIs;
use super::wire::Slice;

/// Families that are remembered; of others it is said with every request.
const MOST_FAMILIES: usize = 100_000;

/// When what was last said, by the hash of what was said.
#[derive(Debug)]
pub(super) struct Families {
    /// How often to say it; nothing for never.
    interval: Option<Duration>,
    told: Mutex<HashMap<u64, Instant, BuildHasherDefault<AsItIs>>>,
}

impl Families {
    pub(super) fn new(interval: Option<Duration>) -> Self {
        Self { interval, told: Mutex::default() }
    }

    /// What is to be said of the families of these rows, now.
    pub(super) fn due(&self, slices: &[Slice]) -> Vec<(Arc<Scrape>, Metadata)> {
        let Some(interval) = self.interval else { return Vec::new() };
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let mut due: Vec<(Arc<Scrape>, Metadata)> = Vec::new();
        for slice in slices {
            let mut last = None;
            for at in slice.rows().iter().filter_map(|row| row.metadata) {
                // Neighbours mostly are of one family.
                if last.replace(at) == Some(at) {
                    continue;
                }
                let Some(family) = slice.scrape.metadata.get(at as usize) else { continue };
                let is_told = told
                    .get(&hash(&slice.scrape, family))
                    .is_some_and(|then| now.duration_since(*then) < interval);
                if !is_told {
                    due.push((Arc::clone(&slice.scrape), *family));
                }
            }
        }
        drop(told);
        due.sort_by_key(|(scrape, family)| hash(scrape, family));
        due.dedup_by_key(|(scrape, family)| hash(scrape, family));
        due
    }

    /// The receiver has heard it.
    pub(super) fn told(&self, families: &[(Arc<Scrape>, Metadata)]) {
        let (Some(interval), false) = (self.interval, families.is_empty()) else { return };
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() + families.len() > MOST_FAMILIES {
            told.retain(|_, then| now.duration_since(*then) < interval);
        }
        for (scrape, family) in families {
            if told.len() < MOST_FAMILIES {
                told.insert(hash(scrape, family), now);
            }
        }
    }
}

fn hash(scrape: &Scrape, family: &Metadata) -> u64 {
    let parts = [family.family, family.help, family.unit].map(|symbol| scrape.symbols.hash(symbol));
    parts.iter().fold(family.kind as u64, |hash, part| {
        (hash.rotate_left(23) ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}
