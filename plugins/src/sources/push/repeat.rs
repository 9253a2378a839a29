//! Tells of every group again and again, each in slots of its own within the interval. A gateway shows a group until it
//! is deleted, and so must the far side, which forgets what it does not hear of.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use prometheus_streams_core::delivery::{Outcome, Receipt};
use prometheus_streams_core::emitter::NoRoom;
use tokio_util::sync::CancellationToken;

use super::pusher::Pusher;
use crate::support::schedule::Due;

/// Slots that begin within this time may begin together.
const GRAIN: Duration = Duration::from_millis(5);

/// Repeats until `shutdown`, and then waits for the receipts that are open.
pub(super) async fn run(pusher: Arc<Pusher>, shutdown: CancellationToken) {
    let mut receipts = FuturesUnordered::new();
    loop {
        while let Some(due) = pusher.groups.due() {
            match repeat(&pusher, due) {
                Ok(receipt) => receipts.extend(receipt),
                Err(reason) => pusher.groups.metrics().skipped(reason),
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(pusher.groups.wait().max(GRAIN)) => {}
            Some(outcome) = receipts.next() => answered(&outcome),
        }
    }
    while let Some(outcome) = receipts.next().await {
        answered(&outcome);
    }
}

/// Sends the event of a group again, or says why not. The turn of the group is held meanwhile, so that nothing old
/// comes after the event of a push.
fn repeat(pusher: &Arc<Pusher>, due: Due) -> Result<Option<Receipt>, &'static str> {
    if due.late {
        return Err("late");
    }
    let turn = pusher.groups.key_of(due.target).and_then(|key| pusher.groups.try_turn(&key)).ok_or("busy")?;
    let Some(state) = &turn.state else { return Ok(None) };
    let room = pusher.out.try_reserve().map_err(|reason| match reason {
        NoRoom::Full => "full",
        NoRoom::Paused => "paused",
    })?;
    let event = pusher.event(turn.key(), Some(state), pusher.groups.timestamp());
    Ok(Some(room.send(event)))
}

fn answered(outcome: &Outcome) {
    if let Outcome::Rejected(reason) | Outcome::Failed(reason) = outcome {
        tracing::debug!(%reason, "the repetition of a group was not delivered");
    }
}
