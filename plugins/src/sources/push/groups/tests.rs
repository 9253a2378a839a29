//! Any changes in any order, held against a check of everything: what is taken goes together, what is refused would
//! not have, and what is gone leaves nothing behind.

use std::collections::{BTreeMap, BTreeSet};

use prometheus_streams_core::testing::context;
use proptest::prelude::*;

use super::super::judge;
use super::*;
use crate::exposition::{MetricKind, parse_pushed};

const KEYS: [&[(&str, &str)]; 4] = [
    &[("job", "a")],
    &[("job", "a"), ("instance", "i")],
    &[("job", "b")],
    &[("job", "b"), ("instance", "i")],
];

const BODIES: [&str; 12] = [
    "",
    "# TYPE x gauge\nx 1\n",
    "# TYPE x counter\nx 1\n",
    "# TYPE x histogram\nx_count 1\n",
    "# TYPE x summary\nx_sum 1\n",
    "x_count 1\n",
    "x_bucket 1\nz 1\n",
    "y{a=\"1\"} 1\ny{a=\"2\"} 1\n",
    "y{instance=\"i\"} 1\n",
    "y{instance=\"i\",a=\"\"} 1\nz 2\n",
    "x_sum 1\n# TYPE y histogram\ny_count 1\n",
    "# TYPE x histogram\nx_count 1\n# TYPE z gauge\nz 1\n",
];

/// What happens to a group.
#[derive(Clone, Copy, Debug)]
enum Step {
    Push { replace: bool, body: usize, lands: bool },
    Delete,
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let push = (any::<bool>(), 0..BODIES.len(), prop::bool::weighted(0.8))
        .prop_map(|(replace, body, lands)| Step::Push { replace, body, lands });
    let step = prop_oneof![5 => push, 1 => Just(Step::Delete)];
    proptest::collection::vec((0..KEYS.len(), step), 1..40)
}

/// The families of all groups: the type of each, and its series.
type Model = BTreeMap<Labels, BTreeMap<String, (MetricKind, Vec<u64>)>>;

fn key(number: usize) -> Labels {
    KEYS[number].iter().copied().collect()
}

fn kept(body: usize, key: &Labels) -> Vec<Kept> {
    judge::keep(parse_pushed(BODIES[body].as_bytes()).unwrap(), key).unwrap()
}

/// Whether everything goes together, looked at anew.
fn is_consistent(model: &Model) -> bool {
    let mut kinds = BTreeMap::new();
    let mut series = BTreeSet::new();
    for (name, (kind, own)) in model.values().flatten() {
        if *kinds.entry(name.clone()).or_insert(*kind) != *kind || !own.iter().all(|own| series.insert(*own))
        {
            return false;
        }
    }
    kinds.iter().all(|(name, kind)| {
        let suffixes = match kind {
            MetricKind::Histogram | MetricKind::Summary => kind.suffixes(),
            _ => &[],
        };
        !suffixes.iter().any(|suffix| kinds.contains_key(&format!("{name}{suffix}")))
    })
}

fn groups() -> Arc<Groups> {
    let limits = Limits {
        groups: 10,
        group_size: Size(1 << 20),
        total_size: Size(1 << 20),
        check: true,
        interval: Duration::from_secs(60),
    };
    let cx = context("push");
    Arc::new(Groups::new(limits, Arc::clone(&cx.clock), PushMetrics::new(&cx)))
}

fn run(steps: &[(usize, Step)]) -> Result<(), TestCaseError> {
    let groups = groups();
    let mut model = Model::new();
    let turn = |number| futures_util::FutureExt::now_or_never(groups.turn(&key(number))).unwrap().unwrap();
    for (number, step) in steps {
        let mut turn = turn(*number);
        let key = key(*number);
        let Step::Push { replace, body, lands } = *step else {
            turn.delete();
            model.remove(&key);
            continue;
        };
        let mut after = model.clone();
        let own = after.entry(key.clone()).or_default();
        if replace {
            own.clear();
        }
        own.extend(
            kept(body, &key).iter().map(|kept| (kept.name.to_string(), (kept.kind, kept.series.to_vec()))),
        );
        let change = if replace { Change::Replace } else { Change::Merge };
        let claim = turn.claim(change(kept(body, &key)), SystemTime::UNIX_EPOCH);
        prop_assert_eq!(claim.is_ok(), is_consistent(&after), "{:?} {:?}", step, after);
        match claim {
            Ok(claim) if lands => {
                turn.settle(claim);
                model = after;
            }
            Ok(claim) => turn.withdraw(claim),
            Err(_) => {}
        }
        let state = turn
            .state
            .as_ref()
            .map(|state| state.families.keys().map(ToString::to_string).collect::<Vec<_>>());
        prop_assert_eq!(state, model.get(&key).map(|own| own.keys().cloned().collect::<Vec<_>>()));
    }
    (0..KEYS.len()).for_each(|number| turn(number).delete());
    let inner = groups.lock();
    prop_assert!(
        inner.groups.is_empty() && inner.by_id.is_empty() && inner.index.is_empty(),
        "something is left"
    );
    prop_assert_eq!(inner.size, 0);
    prop_assert_eq!(groups.metrics.groups.get(), 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_is_taken_goes_together_and_nothing_else_is_refused(steps in steps()) {
        run(&steps)?;
    }
}
