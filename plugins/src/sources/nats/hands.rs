//! What this program knows of single messages: which it holds, and with which it was done lately. A consumer that is
//! made anew delivers both once more; so the first are not sent twice, and the others not again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::answers::{Place, Ticket};

/// Messages of which it is remembered that they are done with. What was forgotten is delivered once more when a
/// consumer is made anew below it.
const MOST_DONE: usize = 1 << 16;

/// The messages of one stream, by their sequence and the time at which the stream took them, since a stream that
/// was made anew counts from 1 again.
#[derive(Debug, Default)]
pub(super) struct Hands(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    held: HashMap<u64, (i64, Arc<Mutex<Place>>)>,
    done: HashMap<u64, i64>,
    /// The sequences in `done`, in the order in which they came there.
    forgotten_next: VecDeque<u64>,
}

/// What is known of a message that has come.
pub(super) enum Met {
    /// Nothing; it is held from now on.
    New(Ticket),
    /// It is held already, and will be answered for where it came last.
    Held,
    /// It is done with.
    Done(Ticket),
}

impl Hands {
    pub(super) fn meet(self: &Arc<Self>, mut ticket: Ticket) -> Met {
        ticket.hands = Some(Arc::clone(self));
        let mut known = self.known();
        if known.done.get(&ticket.sequence) == Some(&ticket.published) {
            return Met::Done(ticket);
        }
        match known.held.get(&ticket.sequence) {
            Some((published, place)) if *published == ticket.published => {
                *place.lock().unwrap_or_else(PoisonError::into_inner) = ticket.place();
                Met::Held
            }
            _ => {
                known.held.insert(ticket.sequence, (ticket.published, ticket.shared_place()));
                Met::New(ticket)
            }
        }
    }

    /// It is no longer held, and will be taken when it comes again.
    pub(super) fn release(&self, ticket: &Ticket) {
        self.known().release(ticket);
    }

    /// It is no longer held, and will not be taken again.
    pub(super) fn done(&self, ticket: &Ticket) {
        let mut known = self.known();
        known.release(ticket);
        if known.done.insert(ticket.sequence, ticket.published).is_none() {
            known.forgotten_next.push_back(ticket.sequence);
        }
        if known.forgotten_next.len() > MOST_DONE
            && let Some(oldest) = known.forgotten_next.pop_front()
        {
            known.done.remove(&oldest);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn release(&mut self, ticket: &Ticket) {
        if self.held.get(&ticket.sequence).is_some_and(|(published, _)| *published == ticket.published) {
            self.held.remove(&ticket.sequence);
        }
    }
}
