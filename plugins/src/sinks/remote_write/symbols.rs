//! The texts of one scrape, each kept once: the names and values of labels come again in most of its series.
//!
//! Every text has a number, and a hash that is the same in all tables of one [`Seed`], so that series of two
//! scrapes can be compared without their texts.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Makes the hashes of one process its own: whoever is scraped does not know which texts collide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed(u64);

impl Default for Seed {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0))
    }
}

/// The number of a text in its table. That of the empty text is 0 in all of them.
pub(super) type Symbol = u32;

/// A table of texts.
#[derive(Debug)]
pub(super) struct Symbols {
    seed: Seed,
    text: String,
    entries: Vec<Entry>,
    by_hash: HashMap<u64, Symbol, BuildHasherDefault<AsItIs>>,
}

#[derive(Debug)]
struct Entry {
    start: usize,
    end: usize,
    hash: u64,
}

impl Symbols {
    pub(super) fn new(seed: Seed) -> Self {
        let mut symbols =
            Self { seed, text: String::new(), entries: Vec::new(), by_hash: HashMap::default() };
        symbols.intern("");
        symbols
    }

    /// The seed of its hashes.
    pub(super) fn seed(&self) -> Seed {
        self.seed
    }

    /// The number of a text, which is new or the one that it has already.
    pub(super) fn intern(&mut self, text: &str) -> Symbol {
        let hash = xxh3_64_with_seed(text.as_bytes(), self.seed.0);
        if let Some(known) = self.by_hash.get(&hash).copied()
            && self.get(known) == text
        {
            return known;
        }
        let start = self.text.len();
        self.text.push_str(text);
        // A scrape is smaller than four gigabytes, and so has fewer texts.
        let symbol = Symbol::try_from(self.entries.len()).unwrap_or(Symbol::MAX);
        self.entries.push(Entry { start, end: self.text.len(), hash });
        // Of two texts with one hash the later has a number for each time that it comes, which harms nothing.
        self.by_hash.entry(hash).or_insert(symbol);
        symbol
    }

    /// As [`Symbols::intern`], for a text that may well be that of `guess`.
    pub(super) fn intern_near(&mut self, guess: Symbol, text: &str) -> Symbol {
        if self.get(guess) == text { guess } else { self.intern(text) }
    }

    /// Makes room for so many texts.
    pub(super) fn reserve(&mut self, texts: usize) {
        self.entries.reserve(texts);
        self.by_hash.reserve(texts);
        self.text.reserve(texts * 16);
    }

    /// The number of a text that is there.
    pub(super) fn find(&self, text: &str) -> Option<Symbol> {
        let hash = xxh3_64_with_seed(text.as_bytes(), self.seed.0);
        self.by_hash.get(&hash).copied().filter(|symbol| self.get(*symbol) == text)
    }

    pub(super) fn get(&self, symbol: Symbol) -> &str {
        self.entries.get(symbol as usize).map_or("", |entry| &self.text[entry.start..entry.end])
    }

    pub(super) fn hash(&self, symbol: Symbol) -> u64 {
        self.entries.get(symbol as usize).map_or(0, |entry| entry.hash)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Takes a hash as it is, and spreads numbers.
#[derive(Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = u64::from(number).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_number_and_one_hash() {
        let seed = Seed::default();
        let (mut here, mut there) = (Symbols::new(seed), Symbols::new(seed));
        assert_eq!((here.intern("a"), here.intern("b"), here.intern("a"), here.intern("")), (1, 2, 1, 0));
        let b = there.intern("b");
        assert_eq!((b, there.get(b), there.hash(b)), (1, "b", here.hash(2)));
        assert_eq!((here.find("b"), here.find("c"), here.len()), (Some(2), None, 3));
    }
}
