//! Lower and upper case as Go has them: one letter for one letter, whatever stands around it.
//!
//! Rust maps some letters to several (`ß` to `SS`) and looks at the end of words (`Σ`). Go maps each
//! letter alone by the simple mapping of Unicode, where `ß` stays as it is.

/// `text` in lower case.
pub(super) fn lowercase(text: &str) -> String {
    let simple = |letter: char| match letter {
        'İ' => 'i',
        _ => only(letter.to_lowercase()).unwrap_or(letter),
    };
    text.chars().map(simple).collect()
}

/// `text` in upper case.
pub(super) fn uppercase(text: &str) -> String {
    text.chars().map(|letter| only(letter.to_uppercase()).unwrap_or_else(|| capital(letter))).collect()
}

/// The single letter of a mapping; none when it has several.
fn only(mut mapping: impl Iterator<Item = char>) -> Option<char> {
    let first = mapping.next()?;
    mapping.next().is_none().then_some(first)
}

/// The simple upper case of a letter whose full upper case is several letters: Greek letters with an
/// iota below have a capital with the iota beside, all others stay.
fn capital(letter: char) -> char {
    let distance = match letter {
        '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}' => 8,
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => 9,
        _ => 0,
    };
    char::from_u32(u32::from(letter) + distance).unwrap_or(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_map_one_to_one() {
        for (text, lower, upper) in [
            ("Eth0", "eth0", "ETH0"),
            ("Straße", "straße", "STRAßE"),
            ("İıſ", "iıſ", "İIS"),
            ("ΌΔΟΣ όδος", "όδοσ όδος", "ΌΔΟΣ ΌΔΟΣ"),
            ("ᾳᾀᾈﬁŉ", "ᾳᾀᾀﬁŉ", "ᾼᾈᾈﬁŉ"),
            ("ǅ", "ǆ", "Ǆ"),
        ] {
            assert_eq!((lowercase(text).as_str(), uppercase(text).as_str()), (lower, upper), "{text}");
        }
    }
}
