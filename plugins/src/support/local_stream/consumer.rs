//! A stream as one of its consumers sees it.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::cursor::Cursor;
use super::{Store, StoreError, Write, held};

/// How far a consumer has come.
pub(super) struct Consumer {
    pub(super) name: String,
    pub(super) cursor: Mutex<Cursor>,
}

impl Consumer {
    pub(super) fn cursor(&self) -> MutexGuard<'_, Cursor> {
        held(&self.cursor)
    }
}

/// The right to read a stream as one consumer.
pub struct Subscription {
    pub(super) store: Arc<Store>,
    pub(super) consumer: Arc<Consumer>,
}

/// Records that follow each other.
#[derive(Debug, Default)]
pub struct Page {
    /// Records that are not answered, with their sequences.
    pub records: Vec<(u64, Bytes)>,
    /// Where the next page begins.
    pub next: u64,
    /// Records that are gone unread: too old, too many, or damaged on the disk.
    pub lost: u64,
}

impl Subscription {
    /// The first record that is not answered.
    pub fn floor(&self) -> u64 {
        self.consumer.cursor().floor()
    }

    /// Records from the first that is not answered to the newest.
    pub fn pending(&self) -> u64 {
        self.store.usage.borrow().next.saturating_sub(self.floor())
    }

    /// Reads from `from` on what is not answered, about a megabyte at once. What is gone before it
    /// could be read is passed over, and counted.
    ///
    /// # Errors
    /// The disk does not do its work now.
    pub async fn page(&self, from: u64) -> Result<Page, StoreError> {
        let page = self.store.read(move |disk| disk.read(from)).await?;
        let mut cursor = self.consumer.cursor();
        if from > page.state.next {
            // A store that was made anew while the clock stood lower.
            *cursor = Cursor::at(page.state.first);
        }
        let gone = cursor.skip(from.max(page.state.origin), page.state.first);
        let records: Vec<_> =
            page.records.into_iter().filter(|(sequence, _)| !cursor.has(*sequence)).collect();
        Ok(Page { records, next: page.next, lost: gone + page.unreadable })
    }

    /// Reads one record again, if it is still there.
    ///
    /// # Errors
    /// The disk does not do its work now.
    pub async fn fetch(&self, sequence: u64) -> Result<Option<Bytes>, StoreError> {
        self.store.read(move |disk| disk.get(sequence)).await
    }

    /// Notes that `sequence` is answered. It is on disk after the next [`Subscription::save`].
    pub fn answer(&self, sequence: u64) {
        self.consumer.cursor().answer(sequence);
    }

    /// Writes the cursor as it is when the write happens.
    ///
    /// # Errors
    /// The disk does not do its work now.
    pub async fn save(&self) -> Result<(), StoreError> {
        self.store.write(Write::Save(Arc::clone(&self.consumer))).await
    }

    /// Moves a record to the dead letters and answers it, both or none.
    ///
    /// # Errors
    /// The disk does not do its work now; the record is not answered.
    pub async fn bury(&self, sequence: u64, reason: &str) -> Result<(), StoreError> {
        let consumer = Arc::clone(&self.consumer);
        self.store.write(Write::Bury { consumer, sequence, reason: reason.into() }).await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        held(&self.store.consumers).remove(&self.consumer.name);
    }
}
