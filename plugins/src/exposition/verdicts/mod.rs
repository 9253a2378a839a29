//! Whether every body of the [`table`]s gets its verdict, and properties that hold for every body.

mod sets;
mod table;

use super::*;
use proptest::prelude::*;

use table::Case;

/// What a mode says of a body, as the tables have it: the number of samples, or `no` and a place.
fn verdict(case: &Case, mode: Mode) -> String {
    let format = if case.is_openmetrics { Format::OpenMetrics } else { Format::Text };
    match parse(format, mode, &case.body) {
        Ok(families) if mode == Mode::Compat => samples(&families).to_string(),
        Ok(_) => "ok".to_owned(),
        Err(ParseError { place: Place::Line { line, column }, .. }) => format!("no {line}:{column}"),
        Err(error) => panic!("{}: {error}", case.title),
    }
}

fn samples(families: &[Family<'_>]) -> usize {
    families.iter().map(|family| family.samples.len()).sum()
}

/// Fails with a line for each body whose verdict is another than its column says.
fn assert_column(column: &str, mode: Mode) {
    let cases = table::cases();
    assert!(cases.len() > 700, "{} cases", cases.len());
    let differs = |case: &Case| {
        let (expected, found) = (case.column(column)?, verdict(case, mode));
        (expected != found).then(|| format!("{}: {column} {expected}, found {found}", case.title))
    };
    let differences: Vec<String> = cases.iter().filter_map(differs).collect();
    assert!(differences.is_empty(), "{}\n{} differences", differences.join("\n"), differences.len());
}

#[test]
fn compat_gives_the_verdict_of_prometheus() {
    assert_column("compat", Mode::Compat);
}

#[test]
fn strict_gives_the_verdict_of_the_specification() {
    assert_column("strict", Mode::Strict);
}

/// Whether what was read is in itself what a gateway keeps.
fn is_sound(families: &[Family<'_>]) -> bool {
    let mut seen = std::collections::HashSet::new();
    families.iter().flat_map(|family| &family.samples).all(|sample| {
        let mut labels = sample.labels.clone();
        labels.sort();
        let is_known = !seen.insert((sample.name.clone(), labels)) && !sample.name.ends_with("_bucket");
        let is_quantile = !sample.label("quantile").is_empty();
        sample.timestamp.is_none()
            && (!is_known || is_quantile)
            && sample.labels.iter().all(|(name, _)| !name.starts_with("__"))
    })
}

#[test]
fn what_is_pushed_gets_the_verdict_of_a_gateway() {
    let cases = table::cases().into_iter().filter(|case| case.column("gateway").is_some());
    let differs = |case: &Case| {
        let read = parse_pushed(&case.body);
        let is_taken = read.as_ref().is_ok_and(|families| is_sound(families));
        (is_taken != case.is_taken("gateway")).then(|| format!("{}: {read:?}", case.title))
    };
    let differences: Vec<String> = cases.filter_map(|case| differs(&case)).collect();
    assert!(differences.is_empty(), "{}\n{} differences", differences.join("\n"), differences.len());
}

/// The title of a case ends with this where the specification is more liberal than Prometheus.
const LIBERTY: &str = "(the document allows it)";

#[test]
fn strict_takes_hardly_anything_that_compat_refuses() {
    for case in table::cases() {
        let is_liberty = case.is_taken("strict") && !case.is_taken("compat");
        assert_eq!(is_liberty, case.title.ends_with(LIBERTY), "{}", case.title);
    }
}

#[test]
fn an_error_says_what_was_expected() {
    let error = parse(Format::Text, Mode::Compat, b"x 1\nhttp_requests{code=200} 5\n").unwrap_err();
    assert_eq!(error.to_string(), "line 2, column 20: expected a label value in double quotes, found '2'");
}

#[test]
fn the_parser_borrows() {
    let mut parser = Parser::new(Format::Text, Mode::Compat, b"x{a=\"1\"} 2\n");
    let entry = parser.next_entry().unwrap();
    let name = "x".into();
    let (value, timestamp) = (2.0, None);
    assert_eq!(entry, Some(Entry::Sample { name, value, timestamp }));
    let value = parser.labels()[0].value();
    assert!(matches!(value, std::borrow::Cow::Borrowed("1")));
    assert_eq!(parser.next_entry(), Ok(None));
}

/// Bodies made of the format's own pieces: some parse, and collide in every way there is.
fn bodies() -> impl Strategy<Value = String> {
    let name = "(x|y)(_sum|_count|_bucket){0,2}";
    let kind = "(counter|gauge|histogram|summary|untyped)";
    let label = r#"(a|b|le|quantile|__c|"d.e")="(|1|1\.0|\+Inf|abc|\\\\|\\n|\\q|é|\\")""#;
    let line = prop_oneof![
        2 => matching(format!("# TYPE {name} {kind}")),
        1 => matching(format!("# HELP {name} [a\\\\n ]{{0,4}}")),
        6 => matching(format!("{name}(\\{{({label},?){{0,3}}\\}})? (1|2\\.5|-1|NaN|1e300)( 17)?")),
        1 => matching(format!("\\{{\"x.y\",({label},?){{0,2}}\\}} 1")),
    ];
    proptest::collection::vec(line, 0..20).prop_map(|lines| lines.join("\n"))
}

fn matching(regex: String) -> impl Strategy<Value = String> {
    proptest::string::string_regex(&regex).unwrap()
}

/// NaN is not equal to itself; this text of it is.
fn readable(families: &[Family<'_>]) -> String {
    format!("{families:?}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn nothing_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(Format::Text, Mode::Compat, &body).map(canonical);
        let _ = parse_pushed(&body);
    }

    #[test]
    fn nothing_panics_near_the_format(body in r#"([x#{}"\\=, \t\n10é\x00]|HELP|TYPE){0,40}"#) {
        let counted = count_samples(Format::Text, body.as_bytes());
        let parsed = parse(Format::Text, Mode::Compat, body.as_bytes());
        let parsed = parsed.map(|all| all.iter().map(|f| f.samples.len()).sum());
        prop_assert_eq!(counted, parsed);
    }

    #[test]
    fn what_a_gateway_takes_prometheus_takes_too_once_it_is_written(body in bodies()) {
        if let Ok(families) = parse_pushed(body.as_bytes()) {
            let mut page = Vec::new();
            encode(&families, &mut page);
            prop_assert_eq!(readable(&parse(Format::Text, Mode::Compat, &page).unwrap()), readable(&families));
        }
    }

    #[test]
    fn encoding_is_undone_by_parsing(body in bodies()) {
        if let Ok(families) = parse(Format::Text, Mode::Compat, body.as_bytes()) {
            let mut page = Vec::new();
            encode(&families, &mut page);
            prop_assert_eq!(readable(&parse(Format::Text, Mode::Compat, &page).unwrap()), readable(&families));
        }
    }

    #[test]
    fn canonical_is_stable_and_keeps_every_series(body in bodies()) {
        if let Ok(families) = parse(Format::Text, Mode::Compat, body.as_bytes()) {
            let samples: usize = families.iter().map(|f| f.samples.len()).sum();
            let first = canonical(families);
            prop_assert_eq!(first.samples + first.duplicates + first.dropped, samples);
            let second = canonical(parse(Format::Text, Mode::Compat, &first.body).unwrap());
            prop_assert_eq!(&second.body, &first.body);
            prop_assert_eq!((second.samples, second.duplicates, second.dropped), (first.samples, 0, 0));
        }
    }
}
