//! A body with some of its lines changed: copied only from the first change on.

use std::ops::Range;

/// Changes to a body, made from its beginning to its end.
#[derive(Debug)]
pub struct Edits<'a> {
    body: &'a [u8],
    edited: Vec<u8>,
    /// Up to where the body is done.
    done: usize,
}

impl<'a> Edits<'a> {
    /// No changes yet.
    pub fn new(body: &'a [u8]) -> Self {
        Self { body, edited: Vec::new(), done: 0 }
    }

    /// Leaves out a part that lies behind all changes before.
    pub fn remove(&mut self, part: Range<usize>) {
        self.replace(part, |_| ());
    }

    /// Puts what `write` appends in the place of a part that lies behind all changes before.
    pub fn replace(&mut self, part: Range<usize>, write: impl FnOnce(&mut Vec<u8>)) {
        if self.done == 0 {
            self.edited.reserve(self.body.len());
        }
        self.edited.extend_from_slice(&self.body[self.done..part.start]);
        write(&mut self.edited);
        self.done = part.end;
    }

    /// The changed body, or `None` if there were no changes.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        if self.done == 0 {
            return None;
        }
        self.edited.extend_from_slice(&self.body[self.done..]);
        Some(self.edited)
    }
}
