//! Reads bodies: no more of them than allowed, counted after decompression.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::Body;
use hyper::header::CONTENT_ENCODING;
use prometheus_streams_core::values::Size;

use super::HttpError;
use super::exchange::AnswerBody;

/// As much of the body of an error as anybody reads.
const BEGINNING: usize = 1024;
/// What an announced length may make us reserve before anything has come.
const MOST_RESERVED: u64 = 1 << 20;

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
    let mut empty = true;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        empty &= data.is_empty();
        collector.push(&data).map_err(|error| collector.explain(error, limit))?;
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
    fn push(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(buffer) => buffer.write_all(data),
            Self::Gzip(decoder) => decoder.write_all(data),
        }
    }

    fn finish(self, limit: Size) -> Result<Bytes, HttpError> {
        match self {
            Self::Plain(buffer) => Ok(buffer.data.into()),
            Self::Gzip(mut decoder) => match decoder.try_finish() {
                Ok(()) => Ok(std::mem::take(&mut decoder.get_mut().data).into()),
                Err(error) => Err(Self::Gzip(decoder).explain(error, limit)),
            },
        }
    }

    fn explain(&self, error: io::Error, limit: Size) -> HttpError {
        let buffer = match self {
            Self::Plain(buffer) => buffer,
            Self::Gzip(decoder) => decoder.get_ref(),
        };
        if buffer.exceeded { HttpError::BodyTooLarge(limit) } else { HttpError::Gzip(error) }
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
