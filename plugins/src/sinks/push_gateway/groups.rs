//! What is known of each group: the newest scrape of each of its members, what the gateway has confirmed, and
//! what it may still be up to. Without `group_by` a group has one member.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use prometheus_streams_core::event::Labels;
use tokio::time::Instant;

use super::answer::Refusal;
use super::memory::{Charge, Memory};
use super::page::Page;
use super::push::Push;

/// How far a scrape may lie ahead of our clock and still hold others back. Beyond it, it came from a clock
/// that was wrong, and holding to it would silence its target until the world has caught up.
const MOST_SKEW: Duration = Duration::from_secs(60);
/// Times that differ by less may be one that was rounded.
const ROUNDING: Duration = Duration::from_millis(1);
/// What a member takes beside its page, in bytes, about.
const MEMBER: usize = 512;
/// How long a family is left out of a group after the gateway refused it there.
const QUARANTINE: Duration = Duration::from_secs(600);
/// Families of one group that are remembered as refused.
const MOST_QUARANTINED: usize = 1_000;

/// The groups in use, by the path of their grouping key.
#[derive(Debug)]
pub(super) struct Groups {
    known: Mutex<Known>,
    memory: Arc<Memory>,
    /// Whether a group stands for several targets, and none of them can be forgotten for want of room.
    pub(super) coalesces: bool,
}

#[derive(Debug, Default)]
struct Known {
    groups: HashMap<Box<str>, Used>,
    uses: u64,
}

#[derive(Debug)]
struct Used {
    group: Arc<Group>,
    /// The count of uses when this group was used last.
    last: u64,
}

/// One group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) path: Box<str>,
    /// The labels that name it.
    pub(super) labels: Labels,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    members: BTreeMap<Labels, Member>,
    /// Counts the changes to what the group should hold.
    version: u64,
    /// The version that the gateway has confirmed, or refused for good.
    landed: u64,
    /// The life of the gateway in which it did.
    epoch: u64,
    /// How often the gateway must confirm until nothing older can land any more. A push that ended without an
    /// answer may still be lying there: one confirmation shows that the gateway is at work again, a second
    /// push follows whatever had been waiting.
    owed: u8,
    /// Counts the pushes. One that was given up has no more say.
    turn: u64,
    push: Weak<Push>,
    /// When the next push may begin.
    not_before: Option<Instant>,
    /// The shortest time in which a member is scraped again.
    interval: Option<Duration>,
    /// Families that the gateway refused here, and until when they are left out.
    quarantine: HashMap<Box<str>, Instant>,
    /// When the group was deleted last because it spoiled the page of the gateway.
    cured: Option<Instant>,
    /// Until when nothing is pushed, and why.
    held: Option<(Instant, Refusal)>,
}

/// One target of a group.
#[derive(Debug)]
struct Member {
    content: Content,
    /// The time of the newest scrape that came.
    timestamp: SystemTime,
    /// The version of the group that has it first.
    version: u64,
    /// The time of the newest scrape that the gateway has confirmed.
    confirmed: Option<SystemTime>,
    /// When something was heard of it last.
    heard: Instant,
    /// Whether its scrapes come to us.
    is_fed: bool,
    /// The path of the group in which a receiver with another grouping has left it.
    elsewhere: Option<Box<str>>,
    _charge: Charge,
}

/// What the group should hold of a member.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Page(Arc<Page>),
    /// The target is gone.
    Nothing,
    /// Whatever it holds.
    Unknown,
}

/// What was heard of a member.
#[derive(Debug)]
pub(super) struct News {
    pub(super) content: Content,
    pub(super) timestamp: SystemTime,
    /// How often it is scraped, if that is known.
    pub(super) interval: Option<Duration>,
}

/// A member that the gateway holds from before our time.
#[derive(Debug)]
pub(super) struct Recalled {
    pub(super) content: Content,
    pub(super) timestamp: SystemTime,
    pub(super) elsewhere: Option<Box<str>>,
}

/// What a group should hold at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) version: u64,
    pub(super) pages: Vec<Arc<Page>>,
    /// Groups whose place it takes.
    pub(super) elsewhere: Vec<Box<str>>,
    times: Vec<(Labels, SystemTime)>,
    turn: u64,
    epoch: u64,
    owed_before: u8,
}

impl Groups {
    pub(super) fn new(memory: Arc<Memory>, coalesces: bool) -> Self {
        Self { known: Mutex::default(), memory, coalesces }
    }

    /// The group at `path`, named by `labels`; a new one begins in the life `epoch` of the gateway.
    pub(super) fn group(&self, path: &str, labels: &[(&str, &str)], epoch: u64) -> Arc<Group> {
        let mut known = self.lock();
        let known = &mut *known;
        known.uses += 1;
        if let Some(used) = known.groups.get_mut(path) {
            used.last = known.uses;
            return Arc::clone(&used.group);
        }
        if !self.coalesces && self.memory.is_full() {
            known.forget_some();
        }
        let state = Mutex::new(State { epoch, ..State::default() });
        let group = Arc::new(Group { path: path.into(), labels: labels.iter().copied().collect(), state });
        known.groups.insert(path.into(), Used { group: Arc::clone(&group), last: known.uses });
        group
    }

    /// Whether there is no room for another member.
    pub(super) fn is_full(&self) -> bool {
        self.coalesces && self.memory.is_full()
    }

    pub(super) fn all(&self) -> Vec<Arc<Group>> {
        self.lock().groups.values().map(|used| Arc::clone(&used.group)).collect()
    }

    /// How many groups are remembered.
    pub(super) fn len(&self) -> usize {
        self.lock().groups.len()
    }

    /// Forgets the groups that have no members any more, unless somebody is about to give them one.
    pub(super) fn prune(&self) {
        self.lock()
            .groups
            .retain(|_, used| Arc::strong_count(&used.group) > 1 || !used.group.lock().members.is_empty());
    }

    /// Room for one member.
    pub(super) fn charge(&self, member: &Labels) -> Charge {
        let labels: usize = member.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.memory.charge(MEMBER + labels)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Forgets the eighth that was not used for longest, so that the cost is spread over many pushes.
    /// A group that somebody holds stays: two locks for one group would be none.
    fn forget_some(&mut self) {
        let mut uses: Vec<u64> = self.groups.values().map(|used| used.last).collect();
        if uses.is_empty() {
            return;
        }
        let eighth = uses.len() / 8;
        let (_, youngest_to_go, _) = uses.select_nth_unstable(eighth);
        let youngest_to_go = *youngest_to_go;
        self.groups.retain(|_, used| used.last > youngest_to_go || Arc::strong_count(&used.group) > 1);
    }
}

impl Group {
    /// Whether a scrape of this time has nothing to add: it, or a newer one, has landed for good.
    pub(super) fn covers(&self, member: &Labels, timestamp: SystemTime, now: SystemTime) -> bool {
        let state = self.lock();
        let confirmed = state.members.get(member).and_then(|member| member.confirmed);
        confirmed.is_some_and(|newest| {
            !is_ahead(newest, now) && (timestamp < newest || timestamp == newest && state.owed == 0)
        })
    }

    /// Whether something is known of a member.
    pub(super) fn has(&self, member: &Labels) -> bool {
        self.lock().members.contains_key(member)
    }

    /// The page of a member.
    pub(super) fn page(&self, member: &Labels) -> Option<Arc<Page>> {
        match &self.lock().members.get(member)?.content {
            Content::Page(page) => Some(Arc::clone(page)),
            Content::Nothing | Content::Unknown => None,
        }
    }

    /// The path of the group in which a receiver with another grouping has left a member.
    pub(super) fn elsewhere(&self, member: &Labels) -> Option<Box<str>> {
        self.lock().members.get(member)?.elsewhere.clone()
    }

    /// Takes what was heard of a member, unless something newer is known, and returns the version of the group
    /// that has it.
    pub(super) fn record(&self, member: &Labels, news: News, now: SystemTime, charge: Charge) -> u64 {
        let mut state = self.lock();
        state.interval = state.interval.into_iter().chain(news.interval).min();
        let next = state.version + 1;
        let known = state.members.entry(member.clone()).or_insert_with(|| Member {
            content: Content::Unknown,
            timestamp: news.timestamp,
            version: next,
            confirmed: None,
            heard: Instant::now(),
            is_fed: true,
            elsewhere: None,
            _charge: charge,
        });
        known.heard = Instant::now();
        known.is_fed = true;
        let is_unknown = matches!(known.content, Content::Unknown);
        if !is_unknown && news.timestamp <= known.timestamp && !is_ahead(known.timestamp, now) {
            return known.version;
        }
        (known.content, known.timestamp, known.version) = (news.content, news.timestamp, next);
        state.version = next;
        next
    }

    /// Notes what the gateway holds of a member from before our time. It has as long as any other to be heard of
    /// from now on: when it was scraped was told by another clock.
    pub(super) fn recall(&self, member: Labels, recalled: Recalled, charge: Charge) {
        let mut state = self.lock();
        let version = state.version;
        let elsewhere = recalled.elsewhere;
        state.members.entry(member).or_insert(Member {
            content: recalled.content,
            timestamp: recalled.timestamp,
            version,
            confirmed: Some(recalled.timestamp),
            heard: Instant::now(),
            is_fed: false,
            elsewhere,
            _charge: charge,
        });
    }

    /// The push that is under way, or the one that `start` starts.
    pub(super) fn join(&self, start: impl FnOnce(u64) -> Push) -> Arc<Push> {
        let mut state = self.lock();
        if let Some(push) = state.push.upgrade() {
            return push;
        }
        state.turn += 1;
        let push = Arc::new(start(state.turn));
        state.push = Arc::downgrade(&push);
        push
    }

    /// The push of this turn is over.
    pub(super) fn leave(&self, turn: u64) {
        let mut state = self.lock();
        if state.turn == turn {
            state.push = Weak::new();
        }
    }

    /// A push begins. Left alone, it counts as one that may still land.
    pub(super) fn begin(&self, turn: u64, epoch: u64) -> Snapshot {
        let mut state = self.lock();
        let mut snapshot = Snapshot {
            version: state.version,
            pages: Vec::new(),
            elsewhere: Vec::new(),
            times: Vec::new(),
            turn,
            epoch,
            owed_before: state.owed,
        };
        for (labels, member) in &state.members {
            match &member.content {
                Content::Page(page) => snapshot.pages.push(Arc::clone(page)),
                Content::Nothing => {}
                Content::Unknown => continue,
            }
            snapshot.times.push((labels.clone(), member.timestamp));
            snapshot.elsewhere.extend(member.elsewhere.clone());
        }
        snapshot.elsewhere.sort_unstable();
        snapshot.elsewhere.dedup();
        // Nothing is lost when the newest lands once more.
        if state.version != state.landed {
            state.owed = 2;
        }
        snapshot
    }

    /// The gateway has confirmed it. False while something older may still land.
    pub(super) fn confirm(&self, snapshot: &Snapshot) -> bool {
        let mut state = self.lock();
        if state.turn != snapshot.turn {
            return true;
        }
        (state.landed, state.epoch) = (snapshot.version, snapshot.epoch);
        state.owed = snapshot.owed_before.saturating_sub(1);
        for (labels, time) in &snapshot.times {
            if let Some(member) = state.members.get_mut(labels) {
                member.confirmed = Some(*time);
                member.elsewhere = None;
            }
        }
        state.owed == 0
    }

    /// It was not taken.
    pub(super) fn refuse(&self, snapshot: &Snapshot, refusal: &Refusal) {
        let mut state = self.lock();
        if state.turn != snapshot.turn {
            return;
        }
        if !refusal.may_still_land() {
            state.owed = snapshot.owed_before;
        }
        if refusal.is_final() {
            (state.landed, state.epoch) = (snapshot.version, snapshot.epoch);
        }
    }

    /// Whether the gateway does not hold what it should, and nobody is about to change that.
    pub(super) fn is_due(&self, epoch: u64) -> bool {
        let state = self.lock();
        let has_pages = || state.members.values().any(|member| matches!(member.content, Content::Page(_)));
        let is_behind = state.version != state.landed || state.epoch != epoch && has_pages();
        is_behind && state.push.strong_count() == 0
    }

    /// The gateway holds nothing of it any more.
    pub(super) fn lose(&self) {
        self.lock().epoch = u64::MAX;
    }

    /// When the next push may begin.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.lock().not_before
    }

    /// Puts off the next push, for `longest` or less where members are scraped more often.
    pub(super) fn pace(&self, took: Duration, shortest: Duration, longest: Duration) {
        let mut state = self.lock();
        let share = state.interval.unwrap_or_default() / 5;
        state.not_before = Some(Instant::now() + share.clamp(shortest, longest).max(took.min(longest)));
    }

    /// The families to leave out now.
    pub(super) fn quarantined(&self) -> Vec<Box<str>> {
        let mut state = self.lock();
        let now = Instant::now();
        state.quarantine.retain(|_, until| *until > now);
        state.quarantine.keys().cloned().collect()
    }

    /// Leaves a family out from now on. True if that is news.
    pub(super) fn quarantine(&self, family: &str) -> bool {
        let mut state = self.lock();
        if state.quarantine.len() >= MOST_QUARANTINED {
            return false;
        }
        state.quarantine.insert(family.into(), Instant::now() + QUARANTINE).is_none()
    }

    /// Notes that the group was deleted because it spoiled the page. False if that has not helped before.
    pub(super) fn cure(&self) -> bool {
        let mut state = self.lock();
        let again = state.cured.is_some_and(|cured| cured.elapsed() < QUARANTINE);
        state.cured = Some(Instant::now());
        !again
    }

    /// Pushes nothing for a time.
    pub(super) fn hold(&self, time: Duration, why: Refusal) {
        self.lock().held = Some((Instant::now() + time, why));
    }

    /// Why nothing may be pushed now.
    pub(super) fn held(&self) -> Option<Refusal> {
        let state = self.lock();
        state.held.as_ref().filter(|(until, _)| *until > Instant::now()).map(|(_, why)| why.clone())
    }

    /// The members of which nothing was heard for so long, and of each whether its scrapes came to us.
    pub(super) fn silent(&self, after: Duration) -> Vec<(Labels, bool)> {
        let state = self.lock();
        let silent = state.members.iter().filter(|(_, member)| {
            !matches!(member.content, Content::Nothing) && member.heard.elapsed() > after
        });
        silent.map(|(labels, member)| (labels.clone(), member.is_fed)).collect()
    }

    /// The gateway holds a scrape of that time of a member. True if that is news to us: somebody else feeds it.
    pub(super) fn hear(&self, member: &Labels, timestamp: SystemTime) -> bool {
        let mut state = self.lock();
        // A page shows times as floats.
        let is_news = |known: &&mut Member| timestamp > known.timestamp + ROUNDING;
        let Some(known) = state.members.get_mut(member).filter(is_news) else {
            return false;
        };
        (known.timestamp, known.confirmed) = (timestamp, Some(timestamp));
        known.heard = Instant::now();
        true
    }

    /// Takes members out that are silent.
    pub(super) fn expire(&self, members: &[Labels]) {
        let mut state = self.lock();
        let next = state.version + 1;
        for labels in members {
            if let Some(member) = state.members.get_mut(labels) {
                member.content = Content::Nothing;
                member.version = next;
                member.heard = Instant::now();
            }
        }
        state.version = next;
    }

    /// Forgets the members that have been gone for so long.
    pub(super) fn forget_gone(&self, after: Duration) {
        let mut state = self.lock();
        let landed = state.landed;
        state.members.retain(|_, member| {
            let is_gone = matches!(member.content, Content::Nothing) && member.version <= landed;
            !(is_gone && member.heard.elapsed() > after)
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a time came from a clock that was wrong.
fn is_ahead(time: SystemTime, now: SystemTime) -> bool {
    time.duration_since(now).is_ok_and(|ahead| ahead > MOST_SKEW)
}

#[cfg(test)]
#[path = "tests/groups.rs"]
mod tests;
