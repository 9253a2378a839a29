//! Goes through the text of a regex.

use std::ops::Range;

/// A place in a regex.
pub(super) struct Reader<'p> {
    all: &'p str,
    rest: &'p str,
    /// Where in all of it the part begins and ends that messages may show.
    shown: Range<usize>,
}

impl<'p> Reader<'p> {
    pub(super) fn new(pattern: &'p str, shown: Range<usize>) -> Self {
        Self { all: pattern, rest: pattern, shown }
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    pub(super) fn rest(&self) -> &'p str {
        self.rest
    }

    /// Goes on if this character comes next.
    pub(super) fn skip(&mut self, c: char) -> bool {
        let rest = self.rest.strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Goes on behind `end`, and returns what stands before it; none, and stays, where it never comes.
    pub(super) fn until(&mut self, end: &str) -> Option<&'p str> {
        let (before, after) = self.rest.split_once(end)?;
        self.rest = after;
        Some(before)
    }

    /// What `\Q` quotes: up to `\E`, or to the end.
    pub(super) fn until_quote_end(&mut self) -> &'p str {
        self.until(r"\E").unwrap_or_else(|| std::mem::take(&mut self.rest))
    }

    /// For messages: some characters up to this place.
    pub(super) fn around(&self) -> &'p str {
        let end = (self.all.len() - self.rest.len()).clamp(self.shown.start, self.shown.end);
        let read = &self.all[self.shown.start..end];
        let start = read.char_indices().rev().nth(19).map_or(0, |(at, _)| at);
        &read[start..]
    }

    /// Reads what follows a `{` that repeats: `3}`, `3,}` or `3,5}`. None, and stays, where it is no
    /// repetition and the `{` is text.
    ///
    /// # Errors
    /// When it repeats more than 1000 times, or less often at most than at least.
    pub(super) fn counts(&mut self) -> Result<Option<(u32, Option<u32>)>, String> {
        let Some((inside, after)) = self.rest.split_once('}') else { return Ok(None) };
        let (least, most) = match inside.split_once(',') {
            Some((least, "")) => (count(least), Some(None)),
            Some((least, most)) => (count(least), count(most).map(Some)),
            None => (count(inside), count(inside).map(Some)),
        };
        let (Some(least), Some(most)) = (least, most) else { return Ok(None) };
        if least > super::MAX_REPEAT || most.is_some_and(|most| most > super::MAX_REPEAT || most < least) {
            return Err(format!("{{{inside}}} is no repetition that can be: up to 1000, the smaller first"));
        }
        self.rest = after;
        Ok(Some((least, most)))
    }

    /// Reads the name of a group: `P<name>` or `<name>`, behind `(?`.
    ///
    /// # Errors
    /// When the name is no word.
    pub(super) fn group_name(&mut self) -> Result<Option<String>, String> {
        let Some(rest) = self.rest.strip_prefix("P<").or_else(|| self.rest.strip_prefix('<')) else {
            return Ok(None);
        };
        let (name, after) = rest.split_once('>').unwrap_or((rest, ""));
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(format!("(?<{name}> does not name a group: letters, digits and _"));
        }
        self.rest = after;
        Ok(Some(name.to_owned()))
    }
}

/// A decimal number without leading zeros; one that is too large for the type is too large for all uses.
fn count(digits: &str) -> Option<u32> {
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let is_plain = digits == "0" || !digits.starts_with('0');
    (is_number && is_plain).then(|| digits.parse().unwrap_or(u32::MAX))
}
