use std::time::UNIX_EPOCH;

use prometheus::IntGauge;
use prometheus_streams_core::values::Size;

use super::*;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn groups(most: u64, coalesces: bool) -> Groups {
    let memory = Memory::new(Size(most), IntGauge::new("memory", "x").unwrap());
    Groups::new(Arc::new(memory), coalesces)
}

/// A group of targets that are there or gone, and whose pages do not matter.
struct Bench {
    groups: Groups,
    group: Arc<Group>,
}

impl Bench {
    fn new() -> Self {
        let groups = groups(1 << 20, true);
        Self { group: groups.group("/metrics/job/j", &[("job", "j")], 0), groups }
    }

    fn member(name: &str) -> Labels {
        [("instance", name)].into_iter().collect()
    }

    fn record(&self, name: &str, seconds: u64) -> u64 {
        let member = Self::member(name);
        let news = News { content: Content::Nothing, timestamp: at(seconds), interval: None };
        self.group.record(&member, news, at(100), self.groups.charge(&member))
    }

    fn covers(&self, name: &str, seconds: u64) -> bool {
        self.group.covers(&Self::member(name), at(seconds), at(100))
    }

    /// A push that is confirmed; whether nothing older can land after it.
    fn push(&self) -> bool {
        self.group.confirm(&self.group.begin(0, 0))
    }
}

#[test]
fn what_was_confirmed_holds_back_what_is_not_newer() {
    let bench = Bench::new();
    assert!(!bench.covers("a", 0));
    bench.record("a", 50);
    assert!(!bench.covers("a", 50), "nothing is confirmed yet");
    assert!(bench.push());
    assert!(bench.covers("a", 49) && bench.covers("a", 50) && !bench.covers("a", 51));
    assert!(!bench.covers("b", 49), "members have times of their own");
}

#[test]
fn the_newest_of_what_waits_is_what_is_pushed() {
    let bench = Bench::new();
    let (newer, older) = (bench.record("a", 2), bench.record("a", 1));
    assert_eq!(newer, older, "whoever brought the older one waits for the newer one");
    assert!(bench.record("b", 1) > newer);
    assert!(bench.push());
    assert!(bench.covers("a", 2) && bench.covers("b", 1));
}

#[test]
fn what_came_while_a_push_was_under_way_is_not_confirmed_by_it() {
    let bench = Bench::new();
    bench.record("a", 1);
    let snapshot = bench.group.begin(0, 0);
    let version = bench.record("a", 2);
    bench.group.confirm(&snapshot);
    assert!(version > snapshot.version && bench.covers("a", 1) && !bench.covers("a", 2));
    assert!(bench.group.is_due(0));
}

#[test]
fn after_a_push_without_an_answer_two_must_be_confirmed() {
    let bench = Bench::new();
    bench.record("a", 1);
    assert!(bench.push());
    bench.record("a", 2);
    let given_up = bench.group.begin(0, 0);
    bench.group.refuse(&given_up, &Refusal::unavailable("no answer", ""));
    bench.record("a", 3);
    assert!(!bench.push());
    assert!(!bench.covers("a", 3) && bench.covers("a", 2));
    // That the second one is given up too changes nothing: it is the same scrape.
    let _given_up = bench.group.begin(0, 0);
    assert!(bench.push());
    assert!(bench.covers("a", 3));
}

#[test]
fn a_push_that_was_answered_leaves_nothing_behind() {
    let bench = Bench::new();
    bench.record("a", 1);
    let refused = bench.group.begin(0, 0);
    bench.group.refuse(&refused, &Refusal::Bad("no".into()));
    assert!(!bench.group.is_due(0), "what is refused for good is not tried again by itself");
    bench.record("a", 2);
    assert!(bench.push());
}

#[test]
fn a_push_that_was_given_up_has_no_more_say() {
    let bench = Bench::new();
    bench.record("a", 1);
    let old = bench.group.begin(0, 0);
    bench.group.lock().turn += 1;
    bench.group.confirm(&old);
    assert!(!bench.covers("a", 1));
}

#[test]
fn a_clock_that_was_ahead_does_not_silence_its_target() {
    let bench = Bench::new();
    bench.record("a", 1_000_000);
    bench.push();
    assert!(!bench.covers("a", 101));
    bench.record("a", 101);
    bench.push();
    assert!(bench.covers("a", 101) && !bench.covers("a", 102));
    bench.record("a", 160);
    bench.push();
    assert!(bench.covers("a", 101), "a minute ahead is a clock like any other");
}

#[test]
fn the_groups_that_are_forgotten_are_old_and_idle() {
    let groups = groups(16 * 600, false);
    let fill = |path: &str, seconds| {
        let group = groups.group(path, &[("job", path)], 0);
        let member = Labels::default();
        let news = News { content: Content::Nothing, timestamp: at(seconds), interval: None };
        group.record(&member, news, at(100), groups.charge(&member));
        group.confirm(&group.begin(0, 0));
        group
    };
    let held = fill("held", 1);
    fill("kept", 1);
    for n in 0..1_000 {
        let kept = groups.group("kept", &[], 0);
        assert!(kept.covers(&Labels::default(), at(1), at(1)));
        fill(&format!("passing {n}"), 1);
        assert!(groups.len() <= 21, "{}", groups.len());
    }
    assert!(Arc::ptr_eq(&held, &groups.group("held", &[], 0)));
}

#[test]
fn what_is_silent_goes_and_is_forgotten_later() {
    let bench = Bench::new();
    let recalled = Recalled { content: Content::Unknown, timestamp: at(1), elsewhere: None };
    let member = Bench::member("a");
    bench.group.recall(member.clone(), recalled, bench.groups.charge(&member));
    assert!(bench.group.silent(Duration::from_secs(60)).is_empty());
    assert_eq!(bench.group.silent(Duration::ZERO), [(member.clone(), false)]);
    assert!(!bench.group.hear(&member, at(1)) && bench.group.hear(&member, at(2)));

    bench.group.expire(std::slice::from_ref(&member));
    assert!(bench.group.is_due(0));
    bench.group.forget_gone(Duration::ZERO);
    assert!(bench.group.has(&member), "the gateway does not know yet");
    bench.push();
    assert!(!bench.group.is_due(0) && bench.covers("a", 2));
    bench.group.forget_gone(Duration::ZERO);
    assert!(!bench.group.has(&member));
    drop(bench.group);
    bench.groups.prune();
    assert_eq!(bench.groups.len(), 0);
}

#[test]
fn a_refused_family_is_left_out_of_its_group_and_news_once() {
    let bench = Bench::new();
    assert!(bench.group.quarantine("x") && !bench.group.quarantine("x"));
    assert_eq!(bench.group.quarantined(), ["x".into()]);
    assert!(bench.group.cure() && !bench.group.cure());
}
