//! Classes in brackets.

use super::escape;
use super::reader::Reader;

const POSIX: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
    "upper", "word", "xdigit",
];

/// Reads a class behind its `[`, and writes it as Rust has it, where brackets nest.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(reader: &mut Reader<'_>) -> Result<String, String> {
    let mut class = String::from(if reader.skip('^') { "[^" } else { "[" });
    let mut first = true;
    // A ] in the first place is one of the characters.
    while first || !reader.skip(']') {
        first = false;
        item(reader, &mut class)?;
    }
    class.push(']');
    Ok(class)
}

fn item(reader: &mut Reader<'_>, class: &mut String) -> Result<(), String> {
    if let Some(named) = posix(reader)? {
        class.push_str(&named);
        return Ok(());
    }
    let escaped = reader.skip('\\');
    if let Some(class_in_class) = if escaped { escape::class(reader)? } else { None } {
        class.push_str(&class_in_class);
        return Ok(());
    }
    let low = character(reader, escaped)?;
    // A - before the end is one of the characters.
    let rest = reader.rest();
    if !rest.starts_with('-') || rest.starts_with("-]") || rest == "-" {
        escape::write_character(low, class);
        return Ok(());
    }
    reader.skip('-');
    let escaped = reader.skip('\\');
    let high = character(reader, escaped)?;
    if high < low {
        return Err(format!("at {:?} a range runs backwards", reader.around()));
    }
    escape::write_range(low, high, class);
    Ok(())
}

fn character(reader: &mut Reader<'_>, escaped: bool) -> Result<u32, String> {
    if escaped {
        return escape::character(reader);
    }
    reader.next().map(u32::from).ok_or_else(|| "a [ is never closed".to_owned())
}

/// Reads `[:alpha:]` or `[:^alpha:]`. None, and stays, where it is not one.
fn posix(reader: &mut Reader<'_>) -> Result<Option<String>, String> {
    let Some(inside) = reader.rest().strip_prefix("[:") else { return Ok(None) };
    let Some((name, _)) = inside.split_once(":]") else { return Ok(None) };
    if !POSIX.contains(&name.strip_prefix('^').unwrap_or(name)) {
        return Err(format!("[:{name}:] is no class; there are {}", POSIX.join(", ")));
    }
    reader.until(":]");
    Ok(Some(format!("[:{name}:]")))
}
