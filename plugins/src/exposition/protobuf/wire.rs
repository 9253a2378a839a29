//! The wire format of protocol buffers: tags, varints, lengths, and what to skip.
//!
//! Lenient and strict where Prometheus' decoder is: a varint has at most ten bytes and its surplus bits are
//! cut off, the last one of a repeated scalar wins, repeated messages merge, unknown fields are skipped,
//! and a known field on the wrong wire type is an error.

use std::borrow::Cow;

use super::super::error::{ParseError, Place};
use super::super::format::Mode;

/// How many elements of one kind a metric may have. Prometheus has no such limit, but schema 8 has fewer
/// buckets; without it, a few bytes on the wire could claim many in memory.
const MAX_REPEATED: usize = 1 << 20;

/// The rest of one message. Offsets count from the start of the body, of which it keeps all up to its own end.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Message<'a> {
    bytes: &'a [u8],
    at: usize,
    is_strict: bool,
}

/// What a tag says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    /// The number in the `.proto`.
    pub(super) number: i32,
    wire: u8,
    at: usize,
}

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const GROUP: u8 = 3;
const GROUP_END: u8 = 4;
const FIXED32: u8 = 5;

#[cold]
pub(super) fn fail<T>(at: usize, message: String) -> Result<T, ParseError> {
    Err(ParseError { place: Place::Byte(at), message })
}

impl<'a> Message<'a> {
    pub(super) fn new(body: &'a [u8], mode: Mode) -> Self {
        Self { bytes: body, at: 0, is_strict: mode == Mode::Strict }
    }

    /// Where the next byte stands.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The next message of a delimited stream: a length of at most five bytes, and so many bytes.
    pub(super) fn delimited(&mut self) -> Result<Message<'a>, ParseError> {
        let start = self.at;
        let length = self.varint("the length of a MetricFamily")?;
        if self.at - start > 5 {
            return fail(
                start,
                "expected the length of a MetricFamily, found a varint of over 5 bytes".into(),
            );
        }
        self.message_of(start, length, "MetricFamily")
    }

    /// The tag of the next field; `None` at the end of the message.
    #[inline]
    pub(super) fn field(&mut self, message: &str) -> Result<Option<Field>, ParseError> {
        if self.is_at_end() {
            return Ok(None);
        }
        let at = self.at;
        let tag = self.varint(message)?;
        let (number, wire) = ((tag >> 3) as i32, (tag & 7) as u8);
        if number <= 0 || wire == GROUP_END {
            return fail(at, format!("{message}: expected a field, found the tag {tag}"));
        }
        Ok(Some(Field { number, wire, at }))
    }

    #[inline]
    fn varint(&mut self, what: &str) -> Result<u64, ParseError> {
        match self.bytes.get(self.at) {
            Some(byte @ 0..0x80) => {
                self.at += 1;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(what),
        }
    }

    fn long_varint(&mut self, what: &str) -> Result<u64, ParseError> {
        let mut value = 0;
        for (index, byte) in self.bytes[self.at..].iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                self.at += index + 1;
                return Ok(value);
            }
        }
        let found = if self.bytes.len() - self.at < 10 { "the end of the message" } else { "over 10 bytes" };
        fail(self.at, format!("{what}: expected a varint, found {found}"))
    }

    fn expect(&self, field: Field, wire: u8, name: &str) -> Result<(), ParseError> {
        if field.wire == wire {
            return Ok(());
        }
        fail(field.at, format!("{name}: expected wire type {wire}, found {}", field.wire))
    }

    /// The value of an integer field.
    #[inline]
    pub(super) fn integer(&mut self, field: Field, name: &str) -> Result<u64, ParseError> {
        self.expect(field, VARINT, name)?;
        self.varint(name)
    }

    /// The value of an `sint32` field.
    pub(super) fn sint32(&mut self, field: Field, name: &str) -> Result<i32, ParseError> {
        self.integer(field, name).map(|value| zigzag(u64::from(value as u32)) as i32)
    }

    /// The value of a `double` field.
    #[inline]
    pub(super) fn double(&mut self, field: Field, name: &str) -> Result<f64, ParseError> {
        self.expect(field, FIXED64, name)?;
        self.fixed64(name)
    }

    fn fixed64(&mut self, name: &str) -> Result<f64, ParseError> {
        let Some(bytes) = self.bytes[self.at..].first_chunk() else {
            return fail(self.at, format!("{name}: expected 8 bytes, found the end of the message"));
        };
        self.at += bytes.len();
        Ok(f64::from_le_bytes(*bytes))
    }

    /// The message that a field holds.
    #[inline]
    pub(super) fn message(&mut self, field: Field, name: &str) -> Result<Message<'a>, ParseError> {
        self.expect(field, BYTES, name)?;
        let start = self.at;
        let length = self.varint(name)?;
        self.message_of(start, length, name)
    }

    fn message_of(&mut self, start: usize, length: u64, name: &str) -> Result<Message<'a>, ParseError> {
        let left = self.bytes.len() - self.at;
        match usize::try_from(length) {
            Ok(length) if length <= left => {
                let message = Message { bytes: &self.bytes[..self.at + length], ..*self };
                self.at += length;
                Ok(message)
            }
            _ => fail(start, format!("{name}: expected {length} bytes, found {left}")),
        }
    }

    /// The text that a field holds.
    ///
    /// # Errors
    /// The field is malformed, or its text is not UTF-8.
    #[inline]
    pub(super) fn text(&mut self, field: Field, name: &str) -> Result<&'a str, ParseError> {
        self.message(field, name)?.into_text(name)
    }

    /// What is left, as text.
    #[inline]
    pub(super) fn into_text(self, name: &str) -> Result<&'a str, ParseError> {
        std::str::from_utf8(self.rest())
            .or_else(|error| fail(self.at + error.valid_up_to(), format!("{name}: expected valid UTF-8")))
    }

    /// As [`Self::text`], where Prometheus does not look whether it is UTF-8.
    pub(super) fn lossy_text(&mut self, field: Field, name: &str) -> Result<Cow<'a, str>, ParseError> {
        if self.is_strict {
            return self.text(field, name).map(Cow::Borrowed);
        }
        Ok(String::from_utf8_lossy(self.message(field, name)?.rest()))
    }

    /// All bytes that are left.
    fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// The integers of a repeated field, packed or one alone.
    pub(super) fn integers(
        &mut self,
        field: Field,
        name: &str,
        mut take: impl FnMut(u64) -> bool,
    ) -> Result<(), ParseError> {
        self.repeated(field, VARINT, name, |own| Ok(take(own.varint(name)?)))
    }

    /// The doubles of a repeated field, packed or one alone.
    pub(super) fn doubles(
        &mut self,
        field: Field,
        name: &str,
        mut take: impl FnMut(f64) -> bool,
    ) -> Result<(), ParseError> {
        self.repeated(field, FIXED64, name, |own| Ok(take(own.fixed64(name)?)))
    }

    fn repeated(
        &mut self,
        field: Field,
        wire: u8,
        name: &str,
        mut read: impl FnMut(&mut Self) -> Result<bool, ParseError>,
    ) -> Result<(), ParseError> {
        if field.wire != BYTES {
            self.expect(field, wire, name)?;
            return if read(self)? { Ok(()) } else { too_many(field, name) };
        }
        let packed = self.message(field, name)?;
        let end = std::mem::replace(&mut self.at, packed.at);
        while self.at < end {
            if !read(self)? {
                return too_many(field, name);
            }
        }
        // Prometheus lets the last element reach past the end of its field.
        if self.is_strict && self.at > end {
            return fail(end, format!("{name}: expected whole elements"));
        }
        Ok(())
    }

    /// Skips a field that is not known.
    pub(super) fn skip(&mut self, field: Field) -> Result<(), ParseError> {
        let mut wire = field.wire;
        let mut depth = 0_usize;
        loop {
            match wire {
                VARINT => drop(self.varint("an unknown field")?),
                FIXED64 => self.skip_bytes(8)?,
                BYTES => {
                    let length = self.varint("an unknown field")?;
                    self.skip_bytes(length)?;
                }
                GROUP => depth += 1,
                GROUP_END if depth > 0 => depth -= 1,
                FIXED32 => self.skip_bytes(4)?,
                _ => return fail(field.at, format!("an unknown field: expected a wire type, found {wire}")),
            }
            if depth == 0 {
                return Ok(());
            }
            wire = (self.varint("an unknown group")? & 7) as u8;
        }
    }

    fn skip_bytes(&mut self, length: u64) -> Result<(), ParseError> {
        self.message_of(self.at, length, "an unknown field").map(drop)
    }
}

/// Appends to a list that has its limit; whether there was room.
pub(super) fn push<T>(list: &mut Vec<T>, element: T) -> bool {
    let has_room = list.len() < MAX_REPEATED;
    if has_room {
        list.push(element);
    }
    has_room
}

#[cold]
pub(super) fn too_many<T>(field: Field, name: &str) -> Result<T, ParseError> {
    fail(field.at, format!("{name}: expected at most {MAX_REPEATED} elements"))
}

/// The integer that `sint32` and `sint64` write in zigzag coding.
pub(super) fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
