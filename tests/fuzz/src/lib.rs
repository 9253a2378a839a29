//! What must hold for every body, whatever its bytes. The exposition library has no dependency on the rest of
//! the project, so it is compiled right into this crate.

#[allow(dead_code, unused_imports)]
#[path = "../../../plugins/src/exposition/mod.rs"]
pub mod exposition;

use exposition::{Family, Format, Mode, ParseError};

/// Reads a body in both modes, and checks what each says against the other and against the encoder.
pub fn check(format: Format, body: &[u8]) {
    let compat = exposition::parse(format, Mode::Compat, body);
    let strict = exposition::parse(format, Mode::Strict, body);
    let counted = exposition::count_samples(format, body);
    let families = match compat {
        Ok(families) => families,
        Err(error) => {
            is_in(&error, body);
            assert!(
                strict.is_err() || is_liberty(format, body, &error),
                "strict takes what compat refuses: {error}"
            );
            assert_eq!(counted.err(), Some(error), "counting and parsing differ");
            return;
        }
    };
    assert_eq!(counted, Ok(samples(&families)));
    match strict {
        // Prometheus steps over NUL bytes in keywords, and so sees metadata where there is none.
        Ok(_) if body.contains(&0) => {}
        Ok(strict) => assert_eq!(all_samples(&strict), all_samples(&families), "the modes read differently"),
        Err(error) => is_in(&error, body),
    }
    canonical(families);
}

/// The canonical form keeps or counts every sample, and is its own canonical form.
pub fn canonical(families: Vec<Family<'_>>) {
    let samples = samples(&families);
    let first = exposition::canonical(families);
    assert_eq!(first.samples + first.duplicates + first.dropped, samples);
    let again = exposition::parse(Format::Text, Mode::Compat, &first.body);
    let second = exposition::canonical(again.expect("the canonical form is text"));
    assert_eq!(text(&first.body), text(&second.body), "the canonical form changes");
    assert_eq!((second.samples, second.duplicates, second.dropped), (first.samples, 0, 0));
}

/// What was parsed from text comes back from the encoder unchanged.
pub fn round_trip(families: &[Family<'_>]) {
    let mut page = Vec::new();
    exposition::encode(families, &mut page);
    let back = exposition::parse(Format::Text, Mode::Compat, &page);
    assert_eq!(text(&back.expect("what was encoded is text")), text(families));
}

/// What was parsed from any format can be written as OpenMetrics with all its samples; the page written from that
/// is the same.
pub fn openmetrics(families: &[Family<'_>]) {
    let mut page = Vec::new();
    exposition::encode_openmetrics(families, &mut page);
    let back = exposition::parse(Format::OpenMetrics, Mode::Compat, &page);
    let back = back.expect("what was encoded is OpenMetrics");
    let mut again = Vec::new();
    exposition::encode_openmetrics(&back, &mut again);
    assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&page));
}

/// How many samples and native histograms there are.
pub fn samples(families: &[Family<'_>]) -> usize {
    families.iter().map(|family| family.samples.len() + family.histograms.len()).sum()
}

/// Whether Prometheus may refuse what the specification allows: it has ways of its own with NUL bytes, and in
/// text 0.0.4 it takes no blanks before a sample or around a type and no timestamp with a sign.
fn is_liberty(format: Format, body: &[u8], error: &ParseError) -> bool {
    const OF_TEXT: [&str; 3] = [
        "expected no blanks before a sample",
        "expected a timestamp in milliseconds",
        "expected counter, gauge",
    ];
    let is_of_text = OF_TEXT.iter().any(|message| error.message.starts_with(message));
    body.contains(&0) || format == Format::Text && is_of_text
}

/// What families hold, in an order that does not depend on metadata: of that Prometheus and the document of
/// text 0.0.4 have different views, as whether `#HELP` is one and where its text begins.
fn all_samples(families: &[Family<'_>]) -> Vec<String> {
    let mut all: Vec<String> = families.iter().flat_map(|family| family.samples.iter().map(text)).collect();
    all.extend(families.iter().flat_map(|family| family.histograms.iter().map(text)));
    all.sort_unstable();
    all
}

/// NaN is not equal to itself; this text of it is.
fn text(any: &(impl std::fmt::Debug + ?Sized)) -> String {
    format!("{any:?}")
}

/// An error points into the body, or right behind it.
fn is_in(error: &ParseError, body: &[u8]) {
    match error.place {
        exposition::Place::Line { line, column } => {
            let lines: Vec<_> = body.split(|byte| *byte == b'\n').collect();
            assert!((1..=lines.len()).contains(&line), "{error}");
            assert!((1..=lines[line - 1].len() + 2).contains(&column), "{error}");
        }
        exposition::Place::Byte(offset) => assert!(offset <= body.len(), "{error}"),
    }
    assert!(!error.message.is_empty() && !error.message.contains('\n'), "{error:?}");
}
