//! The verdicts of a real Prometheus 2.42 on awkward bodies (quoted names: Prometheus 3), and
//! properties that hold for every body.

use super::*;
use proptest::prelude::*;

/// Bodies that Prometheus takes, with the number of samples.
const ACCEPTED: &[(&[u8], usize)] = &[
    (b"", 0),
    (b"   ", 0),
    (b"x 1", 1),
    (b" # HELP x y\nx 1\n", 1),
    (b" #c\nx 1\n", 1),
    (b" \nx 1\n", 1),
    (b"x 1 \n", 1),
    (b"x 1\t\n", 1),
    (b"x 1 123 \n", 1),
    (b"x 1\nx 1\n", 2),
    (b"x{a=\"1\" b=\"2\"} 1\n", 1),
    (b"x{a=\"1\"b=\"2\"} 1\n", 1),
    (b"x{a=\"\\q\"} 1\n", 1),
    (b"x{a=\"l1\nl2\"} 1\n", 1),
    (b"# HELP x a\n# HELP x b\nx 1\n", 1),
    (b"# TYPE x gauge\n# TYPE x counter\nx 1\n", 1),
    (b"# TYPE x histogram\nx_bucket{le=\"abc\"} 1\n", 1),
    (b"# TYPE x summary\nx{quantile=\"abc\"} 1\n", 1),
    (b"# c\0\nx 1\n", 1),
    (b"# HELP x a\0b\nx 1\n", 1),
    (b"x{a=\"a\0b\"} 1\n", 1),
    (b"# comment \xff\nx{a=\"\xc3\xa9\"} 1\n", 1),
    (b"# HELP x a\r\nx 1\n", 1),
    (b"# c\r\nx 1\n", 1),
    (b"x{a=\"1\",} 1\n", 1),
    (b"x{a=\"\",a=\"1\"} 1\n", 1),
    (b"x{a=\"1\",b=\"1\",a=\"2\",a=\"\"} 1\n", 1),
    (b"x{__foo=\"y\"} 1\n", 1),
    (b"x{} 1\n", 1),
    (b"x{ } 1\n", 1),
    (b"x { a = \"1\" , b = \"2\" } 1\n", 1),
    (b"x\t{\ta\t=\t\"1\"\t}\t1\n", 1),
    (b"x{a=\"1\"}1\n", 1),
    (b"x+1\nx.5\nx-1\n", 3),
    (b"x 1\n# EOF\ny 1\n# EOF", 2),
    (b"# TYPE x counter\nx -1\n", 1),
    (b"# HELP\nx 1\n", 1),
    (b"# HELP x\nx 1\n", 1),
    (b"# HELP a-b foo\nx 1\n", 1),
    (b"#HELP x y\nx 1\n", 1),
    (b"# HELPx y\nx 1\n", 1),
    (b"#   TYPE   x gauge\nx 1\n", 1),
    (b"#\tTYPE\tx\tgauge\nx 1\n", 1),
    (b"# TYPE x-gauge\nx 1\n", 1),
    (b"#", 0),
    (b"# ", 0),
    (b"# HELP x y", 0),
    (b"# TYPE x gauge", 0),
    (b"# TYPE", 0),
    (b"##\n# # TYPE x y z\n", 0),
    (b":x 1\n_x 1\nx:y{_a=\"1\"} 1\n", 3),
    (b"{\"a.b\"} 1\n", 1),
    (b"{\"a.b\",x=\"1\"} 1\n", 1),
    (b"{\"a.b\",\"x.y\"=\"1\",} 1\n", 1),
    (b"{x=\"1\",\"a.b\"} 1\n", 1),
    (b"# HELP \"a.b\" foo\n# TYPE \"a.b\" gauge\n{\"a.b\"} 1\n", 1),
];

/// Bodies that Prometheus refuses, with the line and column of the offence.
const REFUSED: &[(&[u8], usize, usize)] = &[
    (b" x 1\n", 1, 1),
    (b"\tx 1\n", 1, 1),
    (b"x 1 -1\n", 1, 5),
    (b"x 1 1.5\n", 1, 6),
    (b"x 1 99999999999999999999\n", 1, 5),
    (b"x 1 12 13\n", 1, 8),
    (b"x{a=\"l1\\\nl2\"} 1\n", 1, 8),
    (b"x 1\0\n", 1, 3),
    (b"x \0 1\n", 1, 3),
    (b"x{\0a=\"b\"} 1\n", 1, 3),
    (b"# TYPE x GAUGE\nx 1\n", 1, 10),
    (b"# TYPE x\nx 1\n", 1, 9),
    (b"# TYPE x \nx 1\n", 1, 10),
    (b"x 1\n# HELP x a\xff\n", 2, 11),
    (b"\xef\xbb\xbfx 1\n", 1, 1),
    (b"x 1\r\n", 1, 3),
    (b"# TYPE x gauge\r\nx 1\n", 1, 10),
    (b"x 1\n\r\ny 1\n", 2, 1),
    (b"x{,} 1\n", 1, 3),
    (b"x{,a=\"1\"} 1\n", 1, 3),
    (b"x{a=\"1\",,b=\"2\"} 1\n", 1, 9),
    (b"x{a='1'} 1\n", 1, 5),
    (b"x{a=\"\xc3\xa9\xff\"} 1\n", 1, 7),
    (b"x{a=\"1\",b=\"2\",a=\"2\"} 1\n", 1, 15),
    (b"x{a=\"1\",a=\"1\"} 1\n", 1, 9),
    (b"x{__name__=\"y\"} 1\n", 1, 3),
    (b"9x 1\n", 1, 1),
    (b"a-b 1\n", 1, 2),
    (b"x{a:b=\"1\"} 1\n", 1, 4),
    (b"x{a.b=\"1\"} 1\n", 1, 4),
    (b"x +NaN\n", 1, 3),
    (b"x 1e400\n", 1, 3),
    (b"x 0x1p4\n", 1, 3),
    (b"x 1_000\n", 1, 3),
    (b"x\n", 1, 2),
    (b"x \n", 1, 3),
    (b"x{}", 1, 4),
    (b"x 1{\n", 1, 4),
    (b"x{a=\"1\"}{b=\"2\"} 1\n", 1, 9),
    (b"x{a=\"1\",\nb=\"2\"} 1\n", 1, 9),
    (b"x 1\nx{a=\"1\n", 2, 5),
    (b"x{a=\"1\\", 1, 5),
    (b"x{a=\"1\"\n", 1, 8),
    (b"x{a\n", 1, 4),
    (b"x{\n", 1, 3),
    (b"x{a=1} 1\n", 1, 5),
    (b"x{a} 1\n", 1, 4),
    (b"x{=\"1\"} 1\n", 1, 3),
    (b"x{a=\"1\";b=\"2\"} 1\n", 1, 8),
    (b"x 1 # {trace_id=\"a\"} 1\n", 1, 5),
    (b"x 1 junk\n", 1, 5),
    (b"x 1 1 junk\n", 1, 7),
    (b"# TYPE x info\nx 1\n", 1, 10),
    (b"# TYPE x unknown\nx 1\n", 1, 10),
    (b"#   TYPE   x   gauge\nx 1\n", 1, 14),
    (b"# TYPE x gauge \nx 1\n", 1, 10),
    (b"# HELP \nx 1\n", 1, 8),
    (b"# TYPE ", 1, 8),
    (b"# HELP 9x a\nx 1\n", 1, 8),
    (b"\xc3\xa9 1\n", 1, 1),
    (b"x{\"y\"} 1\n", 1, 3),
    (b"{\"a\",\"b\"} 1\n", 1, 6),
    (b"{abc,x=\"1\"} 1\n", 1, 5),
    (b"{\"\"} 1\n", 1, 2),
    (b"{\"a\",\"\"=\"x\"} 1\n", 1, 6),
    (b"{} 1\n", 1, 1),
    (b"{x=\"1\"} 1\n", 1, 1),
    (b"{\"a\" x=\"1\"} 1\n", 1, 6),
    (b"<html>\n", 1, 1),
    // Prometheus ends the scrape here without a word; we say so.
    (b"x 1\n\0y 2\n", 2, 1),
];

#[test]
fn what_prometheus_takes_is_taken() {
    for (body, samples) in ACCEPTED {
        let text = String::from_utf8_lossy(body);
        assert_eq!(count_samples(Format::Text, body), Ok(*samples), "{text:?}");
        let families = parse(Format::Text, Mode::Compat, body).unwrap();
        let parsed: usize = families.iter().map(|f| f.samples.len()).sum();
        assert_eq!(parsed, *samples, "{text:?}");
    }
}

#[test]
fn what_prometheus_refuses_is_refused_where_it_is_wrong() {
    for (body, line, column) in REFUSED {
        let text = String::from_utf8_lossy(body);
        let error = parse(Format::Text, Mode::Compat, body).expect_err(&text);
        let place = Place::Line { line: *line, column: *column };
        assert_eq!(error.place, place, "{text:?}: {error}");
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
    }

    #[test]
    fn nothing_panics_near_the_format(body in r#"([x#{}"\\=, \t\n10é\x00]|HELP|TYPE){0,40}"#) {
        let counted = count_samples(Format::Text, body.as_bytes());
        let parsed = parse(Format::Text, Mode::Compat, body.as_bytes());
        let parsed = parsed.map(|all| all.iter().map(|f| f.samples.len()).sum());
        prop_assert_eq!(counted, parsed);
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
