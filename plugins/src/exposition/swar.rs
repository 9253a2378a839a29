//! Eight bytes at a time: how far names and plain text reach. Most of a scrape is one or the other, and
//! this is what makes reading it fast without any machine's own instructions.

const EVERY: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x80 * EVERY;

/// How many bytes at the start of `bytes` are of a metric name: letters, digits, `_` and `:`.
#[inline]
pub(super) fn name_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(eight) = eight_at(bytes, at) {
        let others = !names(eight) & HIGH;
        if others != 0 {
            return at + first(others);
        }
        at += 8;
    }
    at + tail(bytes, at, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'))
}

/// How many bytes at the start of `bytes` have no meaning inside of quotes: all but `"`, `\` and control
/// characters.
#[inline]
pub(super) fn plain_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(eight) = eight_at(bytes, at) {
        let others = below(eight, 0x20) | equal(eight, b'"') | equal(eight, b'\\');
        if others != 0 {
            return at + first(others);
        }
        at += 8;
    }
    at + tail(bytes, at, |byte| byte >= 0x20 && !matches!(byte, b'"' | b'\\'))
}

fn eight_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|eight| u64::from_le_bytes(*eight))
}

fn tail(bytes: &[u8], at: usize, accept: impl Fn(u8) -> bool) -> usize {
    let rest = &bytes[at..];
    rest.iter().position(|byte| !accept(*byte)).unwrap_or(rest.len())
}

/// The index of the first byte whose high bit is set.
fn first(marks: u64) -> usize {
    (marks.trailing_zeros() / 8) as usize
}

/// The high bit of each byte that can stand in a name; other bits are noise.
fn names(eight: u64) -> u64 {
    let ascii = eight & !HIGH;
    let digits_and_colon = between(ascii, b'0', b':');
    let letters = between(ascii | (0x20 * EVERY), b'a', b'z');
    let underscores = between(ascii, b'_', b'_');
    (digits_and_colon | letters | underscores) & !eight
}

/// The high bit of each byte from `low` to `high`; other bits are noise. All bytes must be ASCII, so that
/// none carries into the next.
fn between(ascii: u64, low: u8, high: u8) -> u64 {
    let not_below = ascii + u64::from(0x80 - low) * EVERY;
    let above = ascii + u64::from(0x7f - high) * EVERY;
    not_below & !above
}

/// The high bit of each byte below `limit`, which is ASCII.
fn below(eight: u64, limit: u8) -> u64 {
    let not_below = (eight & !HIGH) + u64::from(0x80 - limit) * EVERY;
    !(not_below | eight) & HIGH
}

/// The high bit of each byte that is `byte`, which is ASCII.
fn equal(eight: u64, byte: u8) -> u64 {
    below(eight ^ (u64::from(byte) * EVERY), 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_byte_counts(bytes in proptest::collection::vec(any::<u8>(), 0..40), fill in 0..40usize) {
            for kind in [b'x', b' ', 0xc3, b':'] {
                let mut text = vec![kind; fill];
                text.extend(&bytes);
                let name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte == b':';
                let names = text.iter().take_while(|byte| name(byte)).count();
                prop_assert_eq!(name_len(&text), names);
                let special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
                let plain = text.iter().take_while(|byte| !special(byte)).count();
                prop_assert_eq!(plain_len(&text), plain);
            }
        }
    }

    #[test]
    fn each_byte_is_of_its_kind_in_every_place() {
        for byte in 0..=255u8 {
            for place in 0..8 {
                let mut eight = [b'a'; 8];
                eight[place] = byte;
                let is_name = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
                assert_eq!(name_len(&eight), if is_name { 8 } else { place }, "{byte:#x} at {place}");
                let is_plain = byte >= 0x20 && !matches!(byte, b'"' | b'\\');
                assert_eq!(plain_len(&eight), if is_plain { 8 } else { place }, "{byte:#x} at {place}");
            }
        }
    }
}
