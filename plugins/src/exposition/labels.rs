//! Target labels: who was scraped, written onto what it said.

use std::borrow::Cow;

use super::model::{Family, LabelPair};

/// Adds the labels of a target to every sample and native histogram, as a scrape does.
///
/// Without `honor_labels` the target wins: a scraped label of the same name moves to
/// `exported_<name>`, with the prefix repeated until the name is free, shortest names first; an
/// empty scraped label does not count. With `honor_labels` the sample wins, and a label that it
/// holds empty stays away. Target labels without a value are no labels. Afterwards no sample has
/// an empty label.
pub fn apply_target_labels<'a>(
    families: &mut [Family<'a>],
    labels: &[(&'a str, &'a str)],
    honor_labels: bool,
) {
    for family in families {
        let samples = family.samples.iter_mut().map(|s| &mut s.labels);
        for own in samples.chain(family.histograms.iter_mut().map(|h| &mut h.labels)) {
            if honor_labels {
                add_missing(own, labels);
            } else {
                add_all(own, labels);
            }
            own.retain(|(_, value)| !value.is_empty());
        }
    }
}

fn add_missing<'a>(own: &mut Vec<LabelPair<'a>>, labels: &[(&'a str, &'a str)]) {
    for (name, value) in labels {
        if !own.iter().any(|(own, _)| own == name) {
            let label = (Cow::Borrowed(*name), Cow::Borrowed(*value));
            own.push(label);
        }
    }
}

fn add_all<'a>(own: &mut Vec<LabelPair<'a>>, labels: &[(&'a str, &'a str)]) {
    let mut displaced = Vec::new();
    for (name, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
        let target = Cow::Borrowed(*value);
        match own.iter_mut().find(|(own, _)| own == name) {
            Some((_, scraped)) => {
                let scraped = std::mem::replace(scraped, target);
                displaced.push((*name, scraped));
            }
            None => own.push((Cow::Borrowed(*name), target)),
        }
    }
    displaced.retain(|(_, scraped)| !scraped.is_empty());
    displaced.sort_by_key(|(name, _)| name.len());
    for (name, scraped) in displaced {
        export(own, name, scraped);
    }
}

fn export<'a>(own: &mut Vec<LabelPair<'a>>, name: &str, scraped: Cow<'a, str>) {
    let mut exported = format!("exported_{name}");
    while own.iter().any(|(own, value)| *own == exported && !value.is_empty()) {
        exported.insert_str(0, "exported_");
    }
    let exported = Cow::Owned(exported);
    match own.iter_mut().find(|(own, _)| *own == exported) {
        Some((_, empty)) => *empty = scraped,
        None => own.push((exported, scraped)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{HistogramSample, MetricKind, NativeHistogram};
    use super::super::{Format, Mode, encode, parse};
    use super::*;

    fn relabelled(body: &str, labels: &[(&str, &str)], honor_labels: bool) -> String {
        let mut families = parse(Format::Text, Mode::Compat, body.as_bytes()).unwrap();
        apply_target_labels(&mut families, labels, honor_labels);
        let mut out = Vec::new();
        encode(&families, &mut out);
        let text = String::from_utf8(out).unwrap();
        text.lines().nth(1).unwrap().to_owned()
    }

    #[test]
    fn the_target_wins_and_the_scraped_label_moves() {
        let job = [("job", "t")];
        for (body, line) in [
            ("x 1", r#"x{job="t"} 1"#),
            (r#"x{job=""} 1"#, r#"x{job="t"} 1"#),
            (r#"x{job="s"} 1"#, r#"x{job="t",exported_job="s"} 1"#),
            (
                r#"x{job="s",exported_job="e"} 1"#,
                r#"x{job="t",exported_job="e",exported_exported_job="s"} 1"#,
            ),
            (r#"x{job="s",exported_job=""} 1"#, r#"x{job="t",exported_job="s"} 1"#),
        ] {
            assert_eq!(relabelled(body, &job, false), line, "{body}");
        }
    }

    #[test]
    fn native_histograms_are_labelled_too() {
        let mut family = Family::new("h", MetricKind::Histogram);
        family.histograms.push(HistogramSample {
            labels: vec![("job".into(), "s".into())],
            value: NativeHistogram::default(),
            timestamp: None,
            exemplars: Vec::new(),
        });
        apply_target_labels(std::slice::from_mut(&mut family), &[("job", "t")], false);
        let labels = [("job".into(), "t".into()), ("exported_job".into(), "s".into())];
        assert_eq!(family.histograms[0].labels, labels);
    }

    #[test]
    fn shorter_names_are_exported_first() {
        let labels = [("exported_job", "t1"), ("job", "t2")];
        assert_eq!(
            relabelled(r#"x{job="a",exported_job="b"} 1"#, &labels, false),
            r#"x{job="t2",exported_job="t1",exported_exported_job="a",exported_exported_exported_job="b"} 1"#
        );
    }

    #[test]
    fn a_target_label_without_value_is_none() {
        assert_eq!(relabelled(r#"x{zone="z"} 1"#, &[("zone", ""), ("rack", "")], false), r#"x{zone="z"} 1"#);
    }

    #[test]
    fn honoured_labels_stay_also_the_empty_ones() {
        let labels = [("job", "t"), ("instance", "i")];
        assert_eq!(relabelled(r#"x{job="s",instance=""} 1"#, &labels, true), r#"x{job="s"} 1"#);
        assert_eq!(relabelled("x 1", &labels, true), r#"x{job="t",instance="i"} 1"#);
    }
}
