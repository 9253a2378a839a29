use super::super::relabel::{RelabelSettings, Rule, compile};
use super::super::{encode, encode_protobuf};
use super::*;

const TARGET: [(&str, &str); 2] = [("instance", "i"), ("job", "j")];

fn rules(json: &str) -> Vec<Rule> {
    let settings: Vec<RelabelSettings> = serde_json::from_str(json).unwrap();
    compile(settings).unwrap()
}

fn rewritten(format: Format, body: &str, rules: &str, honor_labels: bool) -> Result<String, String> {
    let rules = self::rules(rules);
    let relabeling = Relabeling { target: &TARGET, honor_labels, rules: &rules };
    let rewritten = relabel(format, body.as_bytes(), &relabeling).map_err(|error| error.to_string())?;
    Ok(String::from_utf8(rewritten.unwrap_or_else(|| body.as_bytes().to_vec())).unwrap())
}

fn text(body: &str, rules: &str) -> String {
    rewritten(Format::Text, body, rules, false).unwrap()
}

const DROP: &str = r#"[{"source_labels":["__name__"],"regex":"b.*","action":"drop"}]"#;

#[test]
fn what_is_dropped_vanishes_and_the_rest_stays_byte_for_byte() {
    let body =
        "# HELP a  Odd   blanks.\n# TYPE b counter\nb 1\na  {x = \"1\" , }\t2 17\n\nb{c=\"{\"} 3\n# end";
    assert_eq!(
        text(body, DROP),
        "# HELP a  Odd   blanks.\n# TYPE b counter\na  {x = \"1\" , }\t2 17\n\n# end"
    );
    assert_eq!(text("b 1\nb 2", DROP), "");
    assert_eq!(text("a 1\nb 2", DROP), "a 1\n");
}

#[test]
fn a_body_in_which_nothing_changes_is_the_same_body() {
    let rules = rules(DROP);
    let relabeling = Relabeling { target: &TARGET, honor_labels: false, rules: &rules };
    assert_eq!(relabel(Format::Text, b"a{x=\"\"} 1\n", &relabeling), Ok(None));
}

#[test]
fn a_changed_series_has_its_final_labels_and_keeps_the_rest_of_its_line() {
    let set = r#"[{"source_labels":["x"],"regex":"(.+)","target_label":"y","replacement":"<$1>"}]"#;
    assert_eq!(text("a{x=\"1\"}   2\t17\na 3\n", set), "a{x=\"1\",y=\"<1>\"}   2\t17\na 3\n");
    assert_eq!(text("a{x=\"\\\"\\\\\\n\"} 2", set), "a{x=\"\\\"\\\\\\n\",y=\"<\\\"\\\\\\n>\"} 2");
    let rename = r#"[{"target_label":"__name__","replacement":"n.m"}]"#;
    assert_eq!(text("a 1\na{b=\"c\"}+1\n", rename), "{\"n.m\"} 1\n{\"n.m\",b=\"c\"}+1\n");
    let labelmap = r#"[{"regex":"b","replacement":"b.c","action":"labelmap"}]"#;
    assert_eq!(text("a{b=\"1\"} 1\n", labelmap), "a{b=\"1\",\"b.c\"=\"1\"} 1\n");
}

#[test]
fn the_labels_of_the_target_take_part() {
    let body = "a 1\na{job=\"own\"} 2\na{job=\"j\"} 3\na{job=\"\"} 4\n";
    // Where nothing else happens, what the target displaces is written out, for labels are honoured from here on.
    assert_eq!(text(body, DROP), "a 1\na{exported_job=\"own\"} 2\na{exported_job=\"j\"} 3\na 4\n");
    assert_eq!(rewritten(Format::Text, body, DROP, true).unwrap(), body);
    let drop = r#"[{"regex":"job|exported_.*","action":"labeldrop"}]"#;
    assert_eq!(text(body, drop), "a{job=\"\"} 1\na{job=\"\"} 2\na{job=\"\"} 3\na{job=\"\"} 4\n");
    let set = r#"[{"source_labels":["job","instance"],"target_label":"job"}]"#;
    assert_eq!(text("a 1\n", set), "a{job=\"j;i\"} 1\n");
    // A label that is put back is as it was exposed.
    let back = r#"[{"source_labels":["exported_job"],"regex":"(.+)","target_label":"job"},
                   {"regex":"exported_job","action":"labeldrop"}]"#;
    assert_eq!(text("a{job=\"own\"} 2\n", back), "a{job=\"own\"} 2\n");
}

#[test]
fn bounds_are_seen_as_prometheus_spells_them_and_stay_as_they_were() {
    let body = "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"2\"} 1\nx{le=\"3\"} 1\n";
    let drop = r#"[{"source_labels":["le"],"regex":"1.0","action":"drop"}]"#;
    assert_eq!(text(body, drop), "# TYPE h histogram\nh_bucket{le=\"2\"} 1\nx{le=\"3\"} 1\n");
    let add = r#"[{"target_label":"a","replacement":"b"}]"#;
    assert_eq!(
        text("# TYPE h histogram\nh_bucket{le=\"1\"} 1\n", add),
        "# TYPE h histogram\nh_bucket{a=\"b\",le=\"1\"} 1\n"
    );
    let up = r#"[{"source_labels":["le"],"regex":"(.*)","target_label":"le","replacement":"${1}x"}]"#;
    assert_eq!(
        text("# TYPE h histogram\nh_bucket{le=\"1\"} 1\n", up),
        "# TYPE h histogram\nh_bucket{le=\"1.0x\"} 1\n"
    );
}

#[test]
fn a_series_that_is_none_fails_the_scrape() {
    let nameless = r#"[{"regex":"__name__","action":"labeldrop"}]"#;
    let error = rewritten(Format::Text, "a 1\n", nameless, false).unwrap_err();
    assert_eq!(error, "missing metric name (__name__ label)");
    let empty = r#"[{"regex":"b(x?)","replacement":"$1","action":"labelmap"}]"#;
    let error = rewritten(Format::Text, "a{b=\"1\"} 1\n", empty, false).unwrap_err();
    assert_eq!(
        error,
        r#"invalid metric name or label names: {="1", __name__="a", b="1", instance="i", job="j"}"#
    );
    let long = format!("a{{b=\"{}\"}} 1\n", "x".repeat(1 << 20));
    let error = rewritten(Format::Text, &long, empty, false).unwrap_err();
    assert!(error.len() < 2_000, "the error is as long as the body");
    let all = r#"[{"regex":".*","action":"labeldrop"}]"#;
    assert_eq!(text("a 1\n", all), "", "a series without any label is dropped");
    let error = rewritten(Format::Text, "a 1\nb b\n", DROP, false).unwrap_err();
    assert!(error.starts_with("line 2, column 3"), "{error}");
}

#[test]
fn series_that_are_renamed_come_together_by_name() {
    let rules = r#"[{"source_labels":["__name__"],"regex":"([ab]).*","target_label":"__name__","replacement":"${1}"}]"#;
    let text =
        protobuf("# TYPE a1 gauge\na1 1\n# TYPE b gauge\nb 2\n# TYPE a2 counter\na2{x=\"y\"} 3\n", rules);
    assert_eq!(text, "# TYPE a untyped\na 1\na{x=\"y\"} 3\n# TYPE b gauge\nb 2\n");
}

/// A body in protobuf, relabelled, and shown as text.
fn protobuf(body: &str, rules: &str) -> String {
    let families = parse(Format::Text, Mode::Compat, body.as_bytes()).unwrap();
    let mut body = Vec::new();
    encode_protobuf(&families, &mut body);
    let rules = self::rules(rules);
    let relabeling = Relabeling { target: &TARGET, honor_labels: false, rules: &rules };
    let rewritten = relabel(Format::Protobuf, &body, &relabeling).unwrap().unwrap_or(body);
    let mut text = Vec::new();
    encode(&parse(Format::Protobuf, Mode::Compat, &rewritten).unwrap(), &mut text);
    String::from_utf8(text).unwrap()
}

const HISTOGRAM: &str = "# TYPE h histogram\nh_count{a=\"1\"} 2\nh_sum{a=\"1\"} 3\n\
    h_bucket{a=\"1\",le=\"1.0\"} 1\nh_bucket{a=\"1\",le=\"+Inf\"} 2\n";

#[test]
fn protobuf_is_relabelled_as_well() {
    let body = format!("# TYPE b counter\nb 1\n{HISTOGRAM}# TYPE c counter\nc{{job=\"own\"}} 4\n");
    assert_eq!(protobuf(&body, DROP), format!("{HISTOGRAM}# TYPE c counter\nc{{exported_job=\"own\"}} 4\n"));
    let whole = r#"[{"source_labels":["a"],"target_label":"b","replacement":"${1}!"}]"#;
    let expected = HISTOGRAM.replace("a=\"1\"", "a=\"1\",b=\"1!\"");
    assert_eq!(protobuf(HISTOGRAM, whole), expected);
}

#[test]
fn a_metric_whose_series_part_is_none_any_more() {
    let part = r#"[{"source_labels":["__name__"],"regex":"h_sum","action":"drop"}]"#;
    let text = protobuf(HISTOGRAM, part);
    assert!(!text.contains("histogram") && !text.contains("h_sum"), "{text}");
    for line in
        ["h_count{a=\"1\"} 2\n", "h_bucket{a=\"1\",le=\"1.0\"} 1\n", "h_bucket{a=\"1\",le=\"+Inf\"} 2\n"]
    {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    let renamed =
        r#"[{"source_labels":["__name__"],"regex":"h_count","target_label":"__name__","replacement":"n"}]"#;
    assert!(protobuf(HISTOGRAM, renamed).contains("# TYPE n untyped\nn{a=\"1\"} 2\n"));
}

#[test]
fn series_that_get_one_name_meet_in_one_family() {
    let rename =
        r#"[{"source_labels":["__name__"],"regex":"[ab]","target_label":"__name__","replacement":"n"}]"#;
    let text = b"# TYPE n untyped\nn 1\n# TYPE a gauge\na{x=\"1\"} 2\n# TYPE b gauge\nb{x=\"2\"} 3\n";
    let mut body = Vec::new();
    encode_protobuf(&parse(Format::Text, Mode::Compat, text).unwrap(), &mut body);
    let rules = rules(rename);
    let relabeling = Relabeling { target: &TARGET, honor_labels: false, rules: &rules };
    let rewritten = relabel(Format::Protobuf, &body, &relabeling).unwrap().unwrap();
    let mut parser = Parser::new(Format::Protobuf, Mode::Compat, &rewritten);
    let mut seen = Vec::new();
    while let Some(entry) = parser.next_entry().unwrap() {
        match entry {
            Entry::Type { name, .. } => seen.push(format!("TYPE {name}")),
            Entry::Sample { name, value, .. } => seen.push(format!("{name} {value}")),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, ["TYPE n", "n 1", "n 2", "n 3"]);
}
