//! Reads the bodies of pushes: whole or not at all, no more of them than allowed, counted after decompression.
//! What all of them take together is bounded too.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, HeaderMap};
use prometheus_streams_core::values::Size;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::{Refusal, unavailable};

/// The time in which the next piece of a body must come.
const PATIENCE: Duration = Duration::from_secs(30);
/// Memory is counted in pages of so many bytes.
const PAGE: usize = 16 << 10;
/// Bodies of the largest size that fit into memory at once; more are asked to come again.
const AT_ONCE: usize = 4;

/// The room for the bodies of all pushes that are under way.
pub(super) struct Bodies {
    most: usize,
    pages: Arc<Semaphore>,
}

/// A body, and the room that it takes.
pub(super) struct Body {
    data: Vec<u8>,
    most: usize,
    room: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

/// Why there is no body.
enum ReadError {
    TooLarge,
    NoRoom,
    Broken(String),
}

impl Bodies {
    /// Room for bodies of at most `most` bytes each.
    pub(super) fn new(most: Size) -> Self {
        let most = usize::try_from(most.0).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let pages = most.div_ceil(PAGE).saturating_mul(AT_ONCE).min(Semaphore::MAX_PERMITS);
        Self { most, pages: Arc::new(Semaphore::new(pages)) }
    }

    /// The whole body of a push, decompressed.
    pub(super) async fn read(&self, headers: &HeaderMap, body: Incoming) -> Result<Body, Refusal> {
        let read = async {
            let mut plain = self.empty();
            plain.fill(body).await?;
            match Encoding::of(headers) {
                Encoding::None => Ok(plain),
                encoding => self.decompress(encoding, plain).await,
            }
        };
        read.await.map_err(|error| self.explain(error))
    }

    fn empty(&self) -> Body {
        Body { data: Vec::new(), most: self.most, room: Arc::clone(&self.pages), taken: None }
    }

    async fn decompress(&self, encoding: Encoding, packed: Body) -> Result<Body, ReadError> {
        let mut body = self.empty();
        let unpack = move || match encoding {
            Encoding::Gzip if packed.data.is_empty() => Err(ReadError::Broken("EOF".to_owned())),
            Encoding::Gzip => body.unpack(MultiGzDecoder::new(&packed.data[..])).map(|()| body),
            _ => body.unpack(snap::read::FrameDecoder::new(&packed.data[..])).map(|()| body),
        };
        let unpacked = tokio::task::spawn_blocking(unpack).await;
        unpacked.unwrap_or_else(|error| Err(ReadError::Broken(error.to_string())))
    }

    fn explain(&self, error: ReadError) -> Refusal {
        match error {
            ReadError::TooLarge => {
                let reason = format!(
                    "the body is larger than {}; `max_body_size` allows more",
                    Size(self.most as u64)
                );
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, reason)
            }
            ReadError::NoRoom => unavailable("too many large bodies are being pushed at once"),
            ReadError::Broken(reason) => Refusal::new(StatusCode::BAD_REQUEST, reason),
        }
    }
}

impl Body {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.data
    }

    async fn fill(&mut self, mut body: Incoming) -> Result<(), ReadError> {
        loop {
            match tokio::time::timeout(PATIENCE, body.frame()).await {
                Err(_) => return Err(ReadError::Broken("the body did not come in time".to_owned())),
                Ok(None) => return Ok(()),
                Ok(Some(Err(error))) => {
                    return Err(ReadError::Broken(format!("cannot read the body: {error}")));
                }
                Ok(Some(Ok(frame))) => self.push(&frame.into_data().unwrap_or_default())?,
            }
        }
    }

    fn unpack(&mut self, mut packed: impl Read) -> Result<(), ReadError> {
        let mut piece = vec![0; PAGE];
        loop {
            match packed.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(length) => self.push(&piece[..length])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Broken(format!("cannot decompress the body: {error}"))),
            }
        }
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), ReadError> {
        let length = self.data.len() + piece.len();
        if length > self.most {
            return Err(ReadError::TooLarge);
        }
        let taken = self.taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = length.div_ceil(PAGE).saturating_sub(taken);
        if missing > 0 {
            let missing = u32::try_from(missing).map_err(|_| ReadError::NoRoom)?;
            let more =
                Arc::clone(&self.room).try_acquire_many_owned(missing).map_err(|_| ReadError::NoRoom)?;
            match &mut self.taken {
                Some(taken) => taken.merge(more),
                None => self.taken = Some(more),
            }
        }
        self.data.extend_from_slice(piece);
        Ok(())
    }
}

/// How a body is compressed. What is not known is taken as it comes, as a gateway does.
#[derive(Clone, Copy)]
enum Encoding {
    None,
    Gzip,
    Snappy,
}

impl Encoding {
    fn of(headers: &HeaderMap) -> Self {
        match headers.get(CONTENT_ENCODING).map(|value| value.as_bytes().to_ascii_lowercase()).as_deref() {
            Some(b"gzip") => Self::Gzip,
            Some(b"snappy") => Self::Snappy,
            _ => Self::None,
        }
    }
}
