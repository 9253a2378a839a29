//! The requests: what is asked, the steps of a push in their order, and the answers.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::header::{ALLOW, HeaderMap, HeaderValue, LOCATION};
use hyper::{Method, StatusCode};
use prometheus_streams_core::delivery::Outcome;
use prometheus_streams_core::emitter::Emitter;
use prometheus_streams_core::event::{Event, Labels};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{Refusal, unavailable};
use super::body::{Bodies, Body};
use super::groups::{Change, Groups, Turn};
use super::judge;
use super::page;
use super::path::{Route, route};
use super::persistence::Keeper;
use super::state::{self, Kept, State};
use crate::support::server::{self, Request, Response};

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";
/// The methods of a group.
const CHANGES: &str = "DELETE, OPTIONS, POST, PUT";
/// The methods of everything else.
const READS: &str = "GET, OPTIONS";
/// Bodies up to this size are judged where they were read; larger ones away from the threads that serve others.
const SMALL: usize = 256 << 10;

/// How often a disk that did not take a group is tried again.
const SAVE_AGAIN: Duration = Duration::from_secs(5);

/// Takes pushes.
pub(super) struct Pusher {
    pub(super) groups: Arc<Groups>,
    pub(super) bodies: Bodies,
    pub(super) keeper: Keeper,
    pub(super) out: Emitter,
    pub(super) publisher: Arc<str>,
    /// The changes that are under way. They come to their end also when the client has gone.
    pub(super) tasks: TaskTracker,
    pub(super) timeout: Duration,
    pub(super) checks: bool,
    pub(super) started: SystemTime,
}

impl Pusher {
    pub(super) async fn respond(self: Arc<Self>, request: Request) -> Response {
        let uri = request.uri();
        match route(uri.path(), uri.query()) {
            Route::Group(_) if request.method() == Method::OPTIONS => options(CHANGES),
            Route::Group(_) if !is_change(request.method()) => method_not_allowed(CHANGES),
            Route::Group(key) => self.change(key, request).await,
            Route::Moved(place) => moved(&place),
            Route::Bad(reason) => Refusal::new(StatusCode::BAD_REQUEST, reason).answer(),
            Route::NotFound => server::text(StatusCode::NOT_FOUND, "404 page not found"),
            _ if request.method() == Method::OPTIONS => options(READS),
            _ if !server::reads(request.method()) => method_not_allowed(READS),
            page => self.show(page, request.headers()).await,
        }
    }

    async fn show(&self, page: Route, headers: &HeaderMap) -> Response {
        let groups = Arc::clone(&self.groups);
        match page {
            Route::Metrics => {
                server::large_page(headers, TEXT, move |out| page::write(&groups.all(), out)).await
            }
            Route::ApiMetrics => {
                let json = move |out: &mut dyn std::io::Write| {
                    Ok(serde_json::to_writer(out, &page::groups_json(&groups.all()))?)
                };
                server::large_page(headers, JSON, json).await
            }
            Route::ApiStatus => {
                server::page(headers, JSON, page::status_json(self.started, self.checks).to_string())
            }
            _ => server::answer(StatusCode::OK, "text/plain; charset=utf-8", "OK"),
        }
    }

    /// Answers a push or a deletion.
    async fn change(self: Arc<Self>, key: Result<Labels, String>, request: Request) -> Response {
        let method = request.method().clone();
        let done = match key {
            Ok(key) => Arc::clone(&self).changed(key, request).await,
            Err(reason) => Err(Refusal::new(StatusCode::BAD_REQUEST, reason)),
        };
        let code = done.as_ref().map_or_else(|refusal| refusal.status, |status| *status);
        self.groups.metrics().answered(method.as_str(), code.as_u16());
        match done {
            Ok(status) => server::answer(status, "text/plain; charset=utf-8", ""),
            Err(refusal) => {
                tracing::debug!(%method, status = %refusal.status, reason = refusal.reason, "refused a push");
                refusal.answer()
            }
        }
    }

    async fn changed(self: Arc<Self>, key: Labels, request: Request) -> Result<StatusCode, Refusal> {
        let (head, body) = request.into_parts();
        let pusher = Arc::clone(&self);
        if head.method == Method::DELETE {
            return self.in_turn(key, move |turn| async move { pusher.delete(turn).await }).await;
        }
        let body = self.bodies.read(&head.headers, body).await?;
        let kept = judge(head.headers, body, key.clone()).await?;
        let replace = head.method == Method::PUT;
        self.in_turn(key, move |turn| async move { pusher.push(turn, replace, kept).await }).await
    }

    /// Changes a group when its turn comes. The change goes on to its end, whatever becomes of the client.
    async fn in_turn<C, F>(&self, key: Labels, change: C) -> Result<StatusCode, Refusal>
    where
        C: FnOnce(Turn) -> F,
        F: Future<Output = Result<StatusCode, Refusal>> + Send + 'static,
    {
        let changed = async {
            let turn = self.groups.turn(&key).await?;
            let task = self.tasks.spawn(change(turn));
            task.await.unwrap_or_else(|error| {
                Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the push was lost: {error}")))
            })
        };
        let waited = tokio::time::timeout(self.timeout, changed).await;
        waited.unwrap_or_else(|_| Err(unavailable("not delivered in time; it may still be")))
    }

    async fn push(
        &self,
        mut turn: Turn,
        replace: bool,
        kept: Result<Vec<Kept>, Refusal>,
    ) -> Result<StatusCode, Refusal> {
        let room = self.out.try_reserve().map_err(|reason| unavailable(reason.to_string()))?;
        let now = self.groups.timestamp();
        let change = if replace { Change::Replace } else { Change::Merge };
        let claim = match kept.map(change).and_then(|change| turn.claim(change, now)) {
            Ok(claim) => claim,
            Err(refusal) if refusal.status == StatusCode::BAD_REQUEST => {
                let state = turn.failed(now);
                self.keeper.save(turn.key(), turn.state.clone()).await;
                // Whether this lands does not change the answer; the next repetition tells it again.
                drop(room.send(self.event(turn.key(), Some(&state), now)));
                return Err(refusal);
            }
            Err(refusal) => return Err(refusal),
        };
        let outcome = room.send(self.event(turn.key(), Some(&claim.state), now)).await;
        match verdict(outcome) {
            Ok(()) => {
                turn.settle(claim);
                self.keeper.save(turn.key(), turn.state.clone()).await;
                Ok(if self.checks { StatusCode::OK } else { StatusCode::ACCEPTED })
            }
            Err(refusal) => {
                turn.withdraw(claim);
                Err(refusal)
            }
        }
    }

    /// Deletes a group. One that is not known is announced as gone too: the far side may still have it from before a
    /// restart.
    async fn delete(&self, mut turn: Turn) -> Result<StatusCode, Refusal> {
        let room = self.out.try_reserve().map_err(|reason| unavailable(reason.to_string()))?;
        verdict(room.send(self.event(turn.key(), None, self.groups.timestamp())).await)?;
        if turn.state.is_some() {
            turn.delete();
            self.keeper.save(turn.key(), None).await;
        }
        Ok(StatusCode::ACCEPTED)
    }

    /// The event that says what a group holds, or that it is gone.
    pub(super) fn event(&self, key: &Labels, state: Option<&State>, timestamp: SystemTime) -> Event {
        state::event(key, &self.publisher, state, self.groups.interval(), timestamp)
    }

    /// Tries again and again to write the groups that the disk did not take, until `shutdown`.
    pub(super) async fn save_again(&self, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(SAVE_AGAIN)).await.is_some() {
            for key in self.keeper.unsaved() {
                // A push that is under way writes its group itself.
                let Some(turn) = self.groups.try_turn(&key) else { continue };
                if !self.keeper.save(&key, turn.state.clone()).await {
                    break;
                }
            }
        }
    }
}

/// What a group may keep of a body, or why a gateway would note a failure; an error leaves no trace in the group.
async fn judge(headers: HeaderMap, body: Body, key: Labels) -> Result<Result<Vec<Kept>, Refusal>, Refusal> {
    let is_small = body.bytes().len() <= SMALL;
    let judged = move || judge::parse(&headers, body.bytes()).map(|families| judge::keep(families, &key));
    if is_small {
        return judged();
    }
    tokio::task::spawn_blocking(judged).await.unwrap_or_else(|error| {
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the push was lost: {error}")))
    })
}

fn verdict(outcome: Outcome) -> Result<(), Refusal> {
    match outcome {
        Outcome::Delivered | Outcome::Filtered => Ok(()),
        Outcome::Rejected(reason) => Err(Refusal::new(StatusCode::BAD_REQUEST, reason.to_string())),
        Outcome::Failed(reason) => Err(unavailable(format!("cannot deliver: {reason}"))),
    }
}

fn is_change(method: &Method) -> bool {
    [Method::PUT, Method::POST, Method::DELETE].contains(method)
}

fn moved(place: &str) -> Response {
    let mut response = server::text(StatusCode::MOVED_PERMANENTLY, format_args!("see {place}"));
    if let Ok(place) = HeaderValue::try_from(place) {
        response.headers_mut().insert(LOCATION, place);
    }
    response
}

fn options(allow: &'static str) -> Response {
    let mut response = server::answer(StatusCode::OK, "text/plain; charset=utf-8", "");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

fn method_not_allowed(allow: &'static str) -> Response {
    let mut response = server::text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}
