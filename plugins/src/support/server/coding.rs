//! How the body of an answer is compressed: what the client takes, and the compressing.

use std::io::{self, BufWriter, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::header::{self, HeaderMap};

use super::body::Pieces;

/// Compressed pieces are gathered to this size, unless they are the last.
const PIECE: usize = 64 * 1024;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// The body as it is.
    Identity,
    /// At the level at which Prometheus' own exporters compress: quickly.
    Gzip,
    /// At its fastest level too.
    Zstd,
}

impl Coding {
    /// What a client takes, by the weights in its `Accept-Encoding`. Of equals zstd is best: it costs the least.
    pub fn negotiate(request: &HeaderMap) -> Self {
        let [mut zstd, mut gzip, mut any] = [None, None, None];
        let values = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        for coding in values.flat_map(|value| value.split(',')) {
            let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
            let weight = parameters.trim().strip_prefix("q=").and_then(|q| q.trim().parse::<f32>().ok());
            let slot = match name.trim() {
                name if name.eq_ignore_ascii_case("gzip") => &mut gzip,
                name if name.eq_ignore_ascii_case("zstd") => &mut zstd,
                "*" => &mut any,
                _ => continue,
            };
            *slot = Some(weight.unwrap_or(1.0));
        }
        // Who takes anything has not said that it knows zstd; gzip is what everybody knows.
        let (zstd, gzip) = (zstd.unwrap_or(0.0), gzip.or(any).unwrap_or(0.0));
        match (zstd > 0.0, gzip > 0.0) {
            (true, _) if zstd >= gzip => Self::Zstd,
            (_, true) => Self::Gzip,
            _ => Self::Identity,
        }
    }

    /// The name in `Content-Encoding`, if it is to be said at all.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }

    /// The whole of a body, compressed. `None` if it stays as it is.
    pub(super) fn compress(self, body: &[u8]) -> Option<Bytes> {
        let mut encoder = self.encoder().ok()??;
        encoder.write_all(body).ok()?;
        encoder.finish().ok().map(Bytes::from)
    }

    /// What `write` writes, compressed on its way.
    pub(super) fn collect(self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<Vec<u8>> {
        let Some(encoder) = self.encoder()? else {
            let mut body = Vec::new();
            return write(&mut body).map(|()| body);
        };
        let mut buffered = BufWriter::with_capacity(PIECE, encoder);
        write(&mut buffered)?;
        buffered.into_inner()?.finish()
    }

    /// The pieces, compressed.
    pub(super) fn compress_pieces(self, pieces: Pieces) -> io::Result<Pieces> {
        Ok(match self.encoder()? {
            None => pieces,
            Some(encoder) => Box::new(Compressed { pieces, encoder: Some(encoder) }),
        })
    }

    fn encoder(self) -> io::Result<Option<Encoder>> {
        Ok(match self {
            Self::Identity => None,
            Self::Gzip => Some(Encoder::Gzip(GzEncoder::new(Vec::new(), Compression::fast()))),
            Self::Zstd => Some(Encoder::Zstd(zstd::stream::write::Encoder::new(Vec::new(), 1)?)),
        })
    }
}

/// A compressor that collects what it makes.
enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Write for Encoder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

impl Encoder {
    fn made(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

struct Compressed {
    pieces: Pieces,
    /// None once the end is written.
    encoder: Option<Encoder>,
}

impl Iterator for Compressed {
    type Item = Bytes;

    /// Compressing into memory cannot fail; if it did, the body would end early, and the client would notice.
    fn next(&mut self) -> Option<Bytes> {
        for piece in self.pieces.by_ref() {
            let encoder = self.encoder.as_mut()?;
            encoder.write_all(&piece).ok()?;
            if encoder.made().len() >= PIECE {
                return Some(std::mem::take(encoder.made()).into());
            }
        }
        self.encoder.take()?.finish().ok().map(Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn codings_are_a_matter_of_weights() {
        let negotiate = |value: &str| {
            let value: HeaderValue = value.parse().unwrap();
            Coding::negotiate(&[(header::ACCEPT_ENCODING, value)].into_iter().collect())
        };
        for value in
            ["gzip", "deflate, GZIP;q=0.5", "*", "gzip ; q=1, *;q=0", "zstd;q=0.5, gzip", "zstd;q=0,*"]
        {
            assert_eq!(negotiate(value), Coding::Gzip, "{value}");
        }
        for value in ["zstd", "gzip, ZSTD", "gzip;q=0.9, zstd;q=0.95"] {
            assert_eq!(negotiate(value), Coding::Zstd, "{value}");
        }
        for value in ["", "identity", "gzip;q=0", "*;q=1, gzip;q=0.0", "gzipped", "zstd;q=0"] {
            assert_eq!(negotiate(value), Coding::Identity, "{value}");
        }
        assert_eq!(Coding::negotiate(&HeaderMap::new()), Coding::Identity);
    }

    #[test]
    fn pieces_come_out_as_they_went_in() {
        // Hardly compressible, so that there are several pieces.
        let mut state = 1_u64;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let noise: Vec<u8> = (0..300_000).map(next).collect();
        for coding in [Coding::Gzip, Coding::Zstd, Coding::Identity] {
            let pieces: Vec<_> = noise.chunks(7_000).map(Bytes::copy_from_slice).collect();
            let made: Vec<_> = coding.compress_pieces(Box::new(pieces.into_iter())).unwrap().collect();
            assert!(made.len() > 1, "{coding:?}");
            let all = made.concat();
            let back = match coding {
                Coding::Identity => all,
                Coding::Gzip => {
                    let mut back = Vec::new();
                    io::copy(&mut flate2::read::GzDecoder::new(&all[..]), &mut back).unwrap();
                    back
                }
                Coding::Zstd => zstd::stream::decode_all(&all[..]).unwrap(),
            };
            assert_eq!(back, noise, "{coding:?}");
        }
    }
}
