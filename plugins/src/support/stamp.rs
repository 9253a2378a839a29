//! Whether a file has changed, without reading it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What tells one state of a file from another: where it is, its size and its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    place: (u64, u64),
    size: u64,
    times: [i64; 4],
}

impl Stamp {
    /// The stamp of a file as it is now; `None` where there is no file that could be read.
    pub fn of(path: &Path) -> Option<Self> {
        let data = std::fs::metadata(path).ok()?;
        let times = [data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()];
        Some(Self { place: (data.dev(), data.ino()), size: data.len(), times })
    }
}
