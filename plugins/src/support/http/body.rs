//! Reads bodies: no more of them than allowed, counted after decompression. What large ones take
//! together is bounded too: where there is no memory left for more of them, they wait, and end at their time limit
//! if that takes too long. One of them at a time grows on without waiting, since bodies that all wait for
//! each other would wait for ever. Bodies of usual size never wait.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::Body;
use hyper::header::CONTENT_ENCODING;
use prometheus_streams_core::values::Size;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::HttpError;
use super::exchange::AnswerBody;

/// As much of the body of an error as anybody reads.
const BEGINNING: usize = 1024;
/// What an announced length may make us reserve before anything has come.
const MOST_RESERVED: u64 = 1 << 20;
/// Memory up to this is a body's own, in bytes.
const USUAL: usize = 256 << 10;
/// What is beyond that is counted in pages of so many bytes.
const PAGE: usize = 64 << 10;
/// The pages of all large bodies of the process that are being read: 24 MiB, and one that is as large as it may be.
const PAGES: usize = 384;
/// Compressed data is taken in such pieces, of which none becomes much more than 1 MiB.
const PIECE: usize = 1 << 10;

static ROOM: Room = Room::new(PAGES);

/// Memory for large bodies.
struct Room {
    pages: Semaphore,
    /// The right to grow without pages, for one body at a time: who holds it comes to its end, and frees
    /// what the others wait for.
    way_out: Semaphore,
}

/// What a body has of a room, until it is read.
#[derive(Default)]
struct Share<'a> {
    pages: Option<SemaphorePermit<'a>>,
    way_out: Option<SemaphorePermit<'a>>,
}

impl Room {
    const fn new(pages: usize) -> Self {
        Self { pages: Semaphore::const_new(pages), way_out: Semaphore::const_new(1) }
    }

    /// Waits until there is room for a body that takes `bytes`.
    async fn grow<'a>(&'a self, share: &mut Share<'a>, bytes: usize) {
        let wanted = bytes.saturating_sub(USUAL) / PAGE;
        let missing = wanted.saturating_sub(share.pages.as_ref().map_or(0, SemaphorePermit::num_permits));
        if missing == 0 || share.way_out.is_some() {
            return;
        }
        // Semaphores that are never closed have no errors.
        tokio::select! {
            biased;
            more = self.pages.acquire_many(missing as u32), if wanted <= PAGES => {
                match (&mut share.pages, more) {
                    (Some(pages), Ok(more)) => pages.merge(more),
                    (pages, more) => *pages = more.ok(),
                }
            }
            way_out = self.way_out.acquire() => *share = Share { pages: None, way_out: way_out.ok() },
        }
    }
}

/// The whole body, decompressed if it is literally `Content-Encoding: gzip`.
pub(super) async fn read(headers: &HeaderMap, mut body: AnswerBody, limit: Size) -> Result<Bytes, HttpError> {
    let too_large = || HttpError::BodyTooLarge(limit);
    let mut collector = match encoding(headers) {
        Encoding::Identity => {
            let announced = body.size_hint().lower();
            if announced > limit.0 {
                return Err(too_large());
            }
            let mut buffer = Limited::new(limit);
            buffer.data.reserve_exact(announced.min(MOST_RESERVED) as usize);
            Collector::Plain(buffer)
        }
        Encoding::Gzip => Collector::Gzip(Box::new(MultiGzDecoder::new(Limited::new(limit)))),
        Encoding::Other(name) => return Err(HttpError::Encoding(name)),
    };
    let (mut empty, mut share) = (true, Share::default());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        empty &= data.is_empty();
        for piece in collector.pieces(&data) {
            collector.push(piece).map_err(|error| collector.explain(error, limit))?;
            ROOM.grow(&mut share, collector.buffer().data.capacity()).await;
        }
    }
    // Nothing at all is not a gzip stream, but it is what a target without metrics sends.
    if empty { Ok(Bytes::new()) } else { collector.finish(limit) }
}

/// Reads what nobody wants, if it is short: then the connection is free for the next request.
pub(super) async fn discard(mut body: AnswerBody) {
    let mut left = BEGINNING;
    while let Some(Ok(frame)) = body.frame().await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// The beginning of the body, for an error message; empty when it is not readable as it stands.
pub(super) async fn beginning(headers: &HeaderMap, mut body: AnswerBody) -> Bytes {
    let mut data = Vec::new();
    if !matches!(encoding(headers), Encoding::Identity) {
        return Bytes::new();
    }
    while data.len() < BEGINNING
        && let Some(Ok(frame)) = body.frame().await
    {
        let part = frame.into_data().unwrap_or_default();
        data.extend_from_slice(&part[..part.len().min(BEGINNING - data.len())]);
    }
    data.into()
}

enum Encoding {
    Identity,
    Gzip,
    Other(String),
}

fn encoding(headers: &HeaderMap) -> Encoding {
    match headers.get(CONTENT_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"" | b"identity") => Encoding::Identity,
        Some(b"gzip") => Encoding::Gzip,
        Some(other) => Encoding::Other(String::from_utf8_lossy(other).chars().take(40).collect()),
    }
}

enum Collector {
    Plain(Limited),
    Gzip(Box<MultiGzDecoder<Limited>>),
}

impl Collector {
    /// Data in pieces of which none can take much memory at once.
    fn pieces<'a>(&self, data: &'a [u8]) -> std::slice::Chunks<'a, u8> {
        match self {
            Self::Plain(_) => data.chunks(MOST_RESERVED as usize),
            Self::Gzip(_) => data.chunks(PIECE),
        }
    }

    fn buffer(&self) -> &Limited {
        match self {
            Self::Plain(buffer) => buffer,
            Self::Gzip(decoder) => decoder.get_ref(),
        }
    }

    fn push(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(buffer) => buffer.write_all(data),
            Self::Gzip(decoder) => decoder.write_all(data),
        }
    }

    fn finish(self, limit: Size) -> Result<Bytes, HttpError> {
        match self {
            Self::Plain(buffer) => Ok(buffer.into_bytes()),
            Self::Gzip(mut decoder) => match decoder.try_finish() {
                Ok(()) => Ok(std::mem::replace(decoder.get_mut(), Limited::new(limit)).into_bytes()),
                Err(error) => Err(Self::Gzip(decoder).explain(error, limit)),
            },
        }
    }

    fn explain(&self, error: io::Error, limit: Size) -> HttpError {
        if self.buffer().exceeded { HttpError::BodyTooLarge(limit) } else { HttpError::Gzip(error) }
    }
}

/// Memory that refuses to hold more than its limit.
struct Limited {
    data: Vec<u8>,
    limit: usize,
    exceeded: bool,
}

impl Limited {
    fn new(limit: Size) -> Self {
        Self { data: Vec::new(), limit: limit.as_usize(), exceeded: false }
    }

    /// What it holds, without the memory of a large body that it did not need after all.
    fn into_bytes(mut self) -> Bytes {
        if self.data.capacity() > USUAL {
            self.data.shrink_to_fit();
        }
        self.data.into()
    }
}

impl Write for Limited {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if part.len() > self.limit - self.data.len() {
            self.exceeded = true;
            return Err(io::Error::other("too large"));
        }
        self.data.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// So many pages beyond what is a body's own.
    const fn pages(count: usize) -> usize {
        USUAL + count * PAGE
    }

    #[test]
    fn large_bodies_wait_for_each_other_and_usual_ones_for_nobody() {
        let room = Room::new(PAGES);
        let shares = || (Share::default(), Share::default(), Share::default());
        let ((mut large, mut huge, mut other), (mut usual, ..)) = (shares(), shares());
        assert!(room.grow(&mut large, pages(PAGES)).now_or_never().is_some());
        assert!(room.grow(&mut huge, pages(2)).now_or_never().is_some(), "one needs no pages");
        assert!(room.grow(&mut huge, pages(PAGES * 9)).now_or_never().is_some(), "however large it becomes");
        assert!(room.grow(&mut other, pages(2)).now_or_never().is_none());
        assert!(room.grow(&mut usual, USUAL).now_or_never().is_some());
        drop(large);
        assert!(room.grow(&mut other, pages(2)).now_or_never().is_some());
        assert!(room.grow(&mut other, pages(5)).now_or_never().is_some());
        assert_eq!(room.pages.available_permits(), PAGES - 5);
        assert!(
            room.grow(&mut other, pages(PAGES + 1)).now_or_never().is_none(),
            "one is larger than all pages"
        );
        drop(huge);
        assert!(room.grow(&mut other, pages(PAGES + 1)).now_or_never().is_some());
        assert_eq!((room.pages.available_permits(), room.way_out.available_permits()), (PAGES, 0));
        drop(other);
        assert_eq!(room.way_out.available_permits(), 1);
    }

    #[test]
    fn bodies_that_all_want_more_come_to_their_ends_one_after_the_other() {
        let room = Room::new(PAGES);
        let mut shares: Vec<_> = (0..PAGES / 16).map(|_| Share::default()).collect();
        for share in &mut shares {
            assert!(room.grow(share, pages(16)).now_or_never().is_some());
        }
        assert_eq!(room.pages.available_permits(), 0);
        for (index, mut share) in shares.into_iter().enumerate() {
            assert!(room.grow(&mut share, pages(48)).now_or_never().is_some(), "body {index}");
            assert!(room.grow(&mut share, pages(112)).now_or_never().is_some(), "body {index}");
        }
    }
}
