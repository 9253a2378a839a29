//! The body of an answer: one that is there already, or one that is made piece by piece while it is sent.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::task::JoinHandle;

/// The pieces of a body, in order. Each is made when the one before is on its way, away from the threads that
/// serve others, so that making one may take a while.
pub type Pieces = Box<dyn Iterator<Item = Bytes> + Send>;

/// What a handler answers with. Nothing is in memory of one that is made piece by piece but the piece on its way
/// and the next.
pub struct Body(State);

enum State {
    Whole(Bytes),
    /// The next piece is being made, and the others come after it.
    Making(JoinHandle<(Pieces, Option<Bytes>)>),
    Done,
}

impl Body {
    /// A body of these pieces. The first is begun at once.
    pub(super) fn streamed(pieces: Pieces) -> Self {
        Self(State::Making(make(pieces)))
    }
}

fn make(mut pieces: Pieces) -> JoinHandle<(Pieces, Option<Bytes>)> {
    tokio::task::spawn_blocking(move || {
        let piece = pieces.find(|piece| !piece.is_empty());
        (pieces, piece)
    })
}

impl<B: Into<Bytes>> From<B> for Body {
    fn from(whole: B) -> Self {
        Self(State::Whole(whole.into()))
    }
}

/// Empty.
impl Default for Body {
    fn default() -> Self {
        Self(State::Done)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            State::Whole(whole) => write!(f, "Body({} bytes)", whole.len()),
            State::Making(_) => f.write_str("Body(in pieces)"),
            State::Done => f.write_str("Body(sent)"),
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let piece = match &mut self.0 {
            State::Done => None,
            State::Whole(whole) => {
                let whole = std::mem::take(whole);
                self.0 = State::Done;
                Some(whole).filter(|whole| !whole.is_empty())
            }
            State::Making(piece) => match ready!(Pin::new(piece).poll(cx)) {
                Ok((pieces, Some(piece))) => {
                    self.0 = State::Making(make(pieces));
                    Some(piece)
                }
                Ok((_, None)) => {
                    self.0 = State::Done;
                    None
                }
                Err(error) => {
                    self.0 = State::Done;
                    return Poll::Ready(Some(Err(io::Error::other(error))));
                }
            },
        };
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            State::Whole(whole) => whole.is_empty(),
            State::Making(_) => false,
            State::Done => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            State::Whole(whole) => SizeHint::with_exact(whole.len() as u64),
            State::Making(_) => SizeHint::default(),
            State::Done => SizeHint::with_exact(0),
        }
    }
}
