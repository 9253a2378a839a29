//! Eight bytes at a time: how far names and plain text reach. Most of a scrape is one or the other, and
//! this is what makes reading it fast without any machine's own instructions.

const EVERY: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x80 * EVERY;

/// How many bytes at the start of `bytes` are of a metric name: letters, digits, `_` and `:`.
#[inline]
pub(super) fn name_len(bytes: &[u8]) -> usize {
    len_of(bytes, names, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'))
}

/// How many bytes at the start of `bytes` are of a label name: letters, digits and `_`.
#[inline]
pub(super) fn label_name_len(bytes: &[u8]) -> usize {
    len_of(bytes, label_names, |byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// How many bytes at the start of `bytes` have no meaning inside of quotes: all but `"`, `\` and control
/// characters.
#[inline]
pub(super) fn plain_len(bytes: &[u8]) -> usize {
    len_of(bytes, plain, |byte| byte >= 0x20 && !matches!(byte, b'"' | b'\\'))
}

/// How many bytes there are before the first that is not of a kind. `eight` says so with the high bit of
/// each of eight bytes, `one` for the last few.
#[inline]
fn len_of(bytes: &[u8], eight: impl Fn(u64) -> u64, one: impl Fn(u8) -> bool) -> usize {
    let mut rest = bytes;
    while let Some((chunk, later)) = rest.split_first_chunk() {
        let others = !eight(u64::from_le_bytes(*chunk)) & HIGH;
        if others != 0 {
            return bytes.len() - rest.len() + (others.trailing_zeros() / 8) as usize;
        }
        rest = later;
    }
    bytes.len() - rest.len() + rest.iter().position(|byte| !one(*byte)).unwrap_or(rest.len())
}

/// The high bit of each byte that can stand in a name.
fn names(eight: u64) -> u64 {
    let ascii = eight & !HIGH;
    let digits_and_colon = between(ascii, b'0', b':');
    let letters = between(ascii | (0x20 * EVERY), b'a', b'z');
    (digits_and_colon | letters | equal(ascii, b'_')) & !eight
}

/// The high bit of each byte that can stand in a label name.
fn label_names(eight: u64) -> u64 {
    let ascii = eight & !HIGH;
    let digits = between(ascii, b'0', b'9');
    let letters = between(ascii | (0x20 * EVERY), b'a', b'z');
    (digits | letters | equal(ascii, b'_')) & !eight
}

/// The high bit of each byte that is no control character, no `"` and no `\`.
fn plain(eight: u64) -> u64 {
    let ascii = eight & !HIGH;
    let printable = ascii + u64::from(0x80 - b' ') * EVERY;
    (printable & !equal(ascii, b'"') & !equal(ascii, b'\\')) | eight
}

// All bytes of `ascii` must be ASCII, so that none carries into the next, nor borrows from it. Bits other
// than the high ones are noise.

/// The high bit of each byte from `low` to `high`.
fn between(ascii: u64, low: u8, high: u8) -> u64 {
    let not_below = ascii + u64::from(0x80 - low) * EVERY;
    let above = ascii + u64::from(0x7f - high) * EVERY;
    not_below & !above
}

/// The high bit of each byte that is `byte`.
fn equal(ascii: u64, byte: u8) -> u64 {
    HIGH - (ascii ^ (u64::from(byte) * EVERY))
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
                let label_names = text.iter().take_while(|byte| name(byte) && **byte != b':').count();
                prop_assert_eq!(label_name_len(&text), label_names);
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
                let is_label_name = is_name && byte != b':';
                assert_eq!(
                    label_name_len(&eight),
                    if is_label_name { 8 } else { place },
                    "{byte:#x} at {place}"
                );
                let is_plain = byte >= 0x20 && !matches!(byte, b'"' | b'\\');
                assert_eq!(plain_len(&eight), if is_plain { 8 } else { place }, "{byte:#x} at {place}");
            }
        }
    }
}
