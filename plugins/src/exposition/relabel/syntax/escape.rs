//! What a backslash begins: classes as `\d` and `\pL`, and characters by their numbers.

use regex::Regex;

use super::reader::Reader;

/// Reads a class behind a backslash, and writes it as Rust has it. None, and stays, where it is not one.
///
/// # Errors
/// When the class is not known.
pub(super) fn class(reader: &mut Reader<'_>) -> Result<Option<String>, String> {
    let class = match reader.peek() {
        Some('d') => "[0-9]",
        Some('D') => "[^0-9]",
        Some('s') => r"[\t\n\x0C\r ]",
        Some('S') => r"[^\t\n\x0C\r ]",
        Some('w') => "[0-9A-Za-z_]",
        Some('W') => "[^0-9A-Za-z_]",
        Some(sign @ ('p' | 'P')) => {
            reader.next();
            return unicode(reader, sign == 'P').map(Some);
        }
        _ => return Ok(None),
    };
    reader.next();
    Ok(Some(class.to_owned()))
}

/// Reads the name of a Unicode class: `L`, `{Lu}`, `{Greek}`, `{^Greek}`.
fn unicode(reader: &mut Reader<'_>, negated: bool) -> Result<String, String> {
    let name = if reader.skip('{') {
        reader.until("}").ok_or_else(|| format!("at {:?} a {{ is never closed", reader.around()))?.to_owned()
    } else {
        reader.next().map(String::from).unwrap_or_default()
    };
    let (negated, plain) = match name.strip_prefix('^') {
        Some(plain) => (!negated, plain),
        None => (negated, name.as_str()),
    };
    let is_name = plain.bytes().all(|b| b.is_ascii_alphanumeric() || b"_- ".contains(&b))
        && !plain.is_empty()
        // Rust would take `IsGreek` for Greek, and no name in Unicode begins so.
        && !plain.to_ascii_lowercase().starts_with("is");
    let sign = if negated { 'P' } else { 'p' };
    // Go looks a name up among the categories, then among the scripts, and knows no other properties.
    let candidates = ["gc", "sc"].map(|property| format!(r"\{sign}{{{property}={plain}}}"));
    let known = candidates.into_iter().find(|class| is_name && Regex::new(class).is_ok());
    known.ok_or_else(|| format!(r"\p{{{name}}} names no category and no script of Unicode"))
}

/// Reads a character behind a backslash: punctuation, which stands for itself, `\n` and its like, and
/// numbers in octal and hexadecimal.
///
/// # Errors
/// When it is none of these.
pub(super) fn character(reader: &mut Reader<'_>) -> Result<u32, String> {
    let unknown =
        |reader: &Reader<'_>| format!("at {:?} is an escape that RE2 does not have", reader.around());
    let c = reader.next().ok_or("it ends in a backslash")?;
    let number = match c {
        'a' => Some(0x07),
        'f' => Some(0x0c),
        'n' => Some(0x0a),
        'r' => Some(0x0d),
        't' => Some(0x09),
        'v' => Some(0x0b),
        'x' => hexadecimal(reader),
        // One digit alone, other than 0, would be a reference to a group.
        '1'..='7' if !reader.peek().is_some_and(|c| c.is_digit(8)) => None,
        '0'..='7' => Some(octal(c, reader)),
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => Some(u32::from(c)),
        _ => None,
    };
    number.ok_or_else(|| unknown(reader))
}

/// Up to three digits, of which one has been read.
fn octal(first: char, reader: &mut Reader<'_>) -> u32 {
    let mut number = first.to_digit(8).unwrap_or_default();
    for _ in 0..2 {
        let Some(digit) = reader.peek().and_then(|c| c.to_digit(8)) else { break };
        reader.next();
        number = number * 8 + digit;
    }
    number
}

/// Two digits, or any number of them in braces.
fn hexadecimal(reader: &mut Reader<'_>) -> Option<u32> {
    if !reader.skip('{') {
        let high = reader.next()?.to_digit(16)?;
        return Some(high * 16 + reader.next()?.to_digit(16)?);
    }
    let digits = reader.until("}")?;
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let number = u32::from_str_radix(digits.trim_start_matches('0'), 16);
    match number {
        Ok(number) if is_number => Some(number).filter(|number| *number <= u32::from(char::MAX)),
        // Nothing but zeros.
        Err(_) if is_number && digits.bytes().all(|b| b == b'0') => Some(0),
        _ => None,
    }
}

/// Writes one character so that it means itself, outside and inside of a class. Half a surrogate pair,
/// which Go lets one write and no text contains, becomes a class of nothing.
pub(super) fn write_character(c: u32, out: &mut String) {
    match char::from_u32(c) {
        Some(c) if c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii() => out.push(c),
        Some(c) => out.push_str(&format!(r"\x{{{:X}}}", u32::from(c))),
        None => out.push_str(NOTHING),
    }
}

/// Writes a range within a class, without what of it is no character.
pub(super) fn write_range(low: u32, high: u32, out: &mut String) {
    let low = if char::from_u32(low).is_some() { low } else { 0xe000 };
    let high = if char::from_u32(high).is_some() { high } else { 0xd7ff };
    if low > high {
        out.push_str(NOTHING);
        return;
    }
    out.push_str(&format!(r"\x{{{low:X}}}-\x{{{high:X}}}"));
}

/// A class that no character is in.
const NOTHING: &str = r"[^\x{0}-\x{10FFFF}]";
