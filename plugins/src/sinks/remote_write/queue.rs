//! The queue in front of the receiver: scrapes that wait are sent together, so that a request is worth its way.
//!
//! A target is always in the same shard, and a shard has one request under way at a time; so what is sent of a
//! target arrives in its order. A scrape is answered when all of it has been.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::answer::{Answer, Refusal, Trouble};
use super::client::SharedReceiver;
use super::series::{Origin, Scrape};
use super::wire::Slice;

/// So many rows refused one by one, and none taken: it is so with all of the scrape. More than a report has.
const ENOUGH: usize = 8;

/// So many bad rows are found in one scrape. What it has more of them is refused together with what is around it:
/// to find them all would be up to two requests for each, with every scrape.
const MOST_FOUND: usize = 1000;

/// How scrapes are put together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batching {
    /// The most rows in a request.
    pub(super) most: usize,
    /// How long a scrape waits for others to go with it.
    pub(super) deadline: Duration,
}

/// What became of a scrape that the receiver has judged: the rows that it refused, and why.
pub(super) type Refused = Vec<(usize, Refusal)>;

type Verdict = Result<Refused, Trouble>;

/// The shards, each a task that ends when this is dropped.
#[derive(Debug)]
pub(super) struct Shards(Vec<(mpsc::UnboundedSender<Job>, AbortOnDropHandle<()>)>);

/// A scrape that waits.
#[derive(Debug)]
struct Job {
    scrape: Arc<Scrape>,
    verdict: oneshot::Sender<Verdict>,
}

impl Shards {
    /// Starts `count` shards. Needs a runtime.
    pub(super) fn start(count: usize, batching: Batching, receiver: &SharedReceiver) -> Self {
        let shard = |_| {
            let (sender, jobs) = mpsc::unbounded_channel();
            let task = tokio::spawn(work(jobs, batching, Arc::clone(receiver)));
            (sender, AbortOnDropHandle::new(task))
        };
        Self((0..count).map(shard).collect())
    }

    /// Sends a scrape through the shard of its target, and waits until the receiver has judged it. The queues
    /// need no bound of their own: the pipeline bounds what is in flight.
    pub(super) async fn send(&self, target: u64, scrape: Arc<Scrape>) -> Verdict {
        let (verdict, answer) = oneshot::channel();
        let shard = usize::try_from(target % self.0.len().max(1) as u64).unwrap_or(0);
        if let Some((jobs, _)) = self.0.get(shard) {
            // A task that is gone drops the job, and the answer with it.
            let _ = jobs.send(Job { scrape, verdict });
        }
        let ended = || Trouble { why: "the queue to the receiver has ended".to_owned(), retry_after: None };
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

async fn work(mut jobs: mpsc::UnboundedReceiver<Job>, batching: Batching, receiver: SharedReceiver) {
    while let Some(first) = jobs.recv().await {
        let batch = gather(first, &mut jobs, batching).await;
        deliver(batch, batching.most, &receiver).await;
    }
}

/// Takes what waits, until there is enough for a request or nothing more comes in time.
async fn gather(first: Job, jobs: &mut mpsc::UnboundedReceiver<Job>, batching: Batching) -> Vec<Job> {
    let deadline = Instant::now() + batching.deadline;
    let (mut rows, mut batch) = (first.scrape.rows.len(), vec![first]);
    while rows < batching.most {
        let Ok(Some(job)) = timeout_at(deadline, jobs.recv()).await else { break };
        rows += job.scrape.rows.len();
        batch.push(job);
    }
    // Whoever does not wait any more will come again.
    batch.retain(|job| !job.verdict.is_closed());
    batch
}

/// Sends a batch in requests of at most `most` rows, and answers for each scrape in it.
async fn deliver(batch: Vec<Job>, most: usize, receiver: &SharedReceiver) {
    let mut refused: Vec<Refused> = batch.iter().map(|_| Vec::new()).collect();
    let mut failed_from = None;
    for request in requests(&batch, most) {
        let first = request.first().map_or(0, |(job, _)| *job);
        if let Err(trouble) = write(request, &mut refused, receiver).await {
            failed_from = Some((first, trouble));
            break;
        }
    }
    for (index, (job, refused)) in batch.into_iter().zip(refused).enumerate() {
        let verdict = match &failed_from {
            Some((first, trouble)) if index >= *first => Err(trouble.clone()),
            _ => Ok(refused),
        };
        // Whoever does not wait any more will come again.
        let _ = job.verdict.send(verdict);
    }
}

/// Rows of a batch, by the place of their scrape in it.
type Rows = Vec<(usize, Slice)>;

fn requests(batch: &[Job], most: usize) -> Vec<Rows> {
    let (mut requests, mut open, mut room) = (Vec::new(), Rows::new(), most);
    for (index, job) in batch.iter().enumerate() {
        let mut start = 0;
        while start < job.scrape.rows.len() {
            let end = job.scrape.rows.len().min(start + room);
            open.push((index, Slice { scrape: Arc::clone(&job.scrape), rows: start..end }));
            (room, start) = (room - (end - start), end);
            if room == 0 {
                requests.push(std::mem::take(&mut open));
                room = most;
            }
        }
    }
    if !open.is_empty() {
        requests.push(open);
    }
    requests
}

/// Sends rows; what the receiver finds bad in them is cut down to the series that it will not have.
fn write<'a>(
    rows: Rows,
    refused: &'a mut [Refused],
    receiver: &'a SharedReceiver,
) -> BoxFuture<'a, Result<(), Trouble>> {
    Box::pin(async move {
        let slices: Vec<_> = rows.iter().map(|(_, slice)| slice.clone()).collect();
        let refusal = match receiver.write(&slices).await {
            Answer::Taken => return Ok(()),
            Answer::Later(trouble) => return Err(trouble),
            Answer::Unwanted(refusal) | Answer::OtherMessage(refusal) => {
                refuse(&rows, &refusal, refused);
                return Ok(());
            }
            Answer::Bad(refusal) => refusal,
        };
        match halves(&rows) {
            None => refuse(&rows, &refusal, refused),
            Some(_) if is_hopeless(&rows, &refusal, refused) => refuse(&rows, &refusal, refused),
            Some((first, second)) => {
                write(first, refused, receiver).await?;
                write(second, refused, receiver).await?;
            }
        }
        Ok(())
    })
}

fn refuse(rows: &Rows, refusal: &Refusal, refused: &mut [Refused]) {
    for (job, slice) in rows {
        if let Some(refused) = refused.get_mut(*job) {
            refused.extend(slice.rows.clone().map(|row| (row, refusal.clone())));
        }
    }
}

/// Whether these are rows of one scrape in which it is not worth its requests to look for the bad ones: enough are
/// found, or all before them were refused for what all of the scrape has, its time, or the labels of its target.
fn is_hopeless(rows: &Rows, refusal: &Refusal, refused: &[Refused]) -> bool {
    let [(job, slice)] = &rows[..] else { return false };
    let Some(refused) = refused.get(*job) else { return false };
    let (before, all) = (refused.len(), &slice.scrape.rows);
    if before >= MOST_FOUND {
        return true;
    }
    let is_nothing_taken = before == slice.rows.start;
    let untimed = |row: usize| all.get(row).is_some_and(|row| row.origin != Origin::Timed);
    before >= ENOUGH
        && is_nothing_taken
        && if refusal.is_about_time() {
            refused.iter().all(|(row, why)| why.is_about_time() && untimed(*row))
                && slice.rows.clone().all(untimed)
        } else {
            // The report has no labels but those of the target.
            all.first().is_some_and(|row| row.origin == Origin::Report)
        }
}

/// Two halves: of the scrapes if there are several, else of the rows of the one; nothing for a single row.
fn halves(rows: &Rows) -> Option<(Rows, Rows)> {
    if rows.len() > 1 {
        let (first, second) = rows.split_at(rows.len() / 2);
        return Some((first.to_vec(), second.to_vec()));
    }
    let (job, slice) = rows.first().filter(|(_, slice)| slice.len() > 1)?;
    let middle = slice.rows.start + slice.len() / 2;
    let half = |rows| vec![(*job, Slice { scrape: Arc::clone(&slice.scrape), rows })];
    Some((half(slice.rows.start..middle), half(middle..slice.rows.end)))
}
