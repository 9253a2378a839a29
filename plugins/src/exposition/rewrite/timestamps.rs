//! A body without the timestamps of its samples, for whoever does not honour them.

use super::super::encode::encode_protobuf;
use super::{Edits, Entry, Format, Mode, ParseError, Parser, parse};

/// Leaves out the timestamps of all samples; those of exemplars stay. `None` if there are none.
///
/// # Errors
/// The body is not of its format.
pub fn forget_timestamps(format: Format, body: &[u8]) -> Result<Option<Vec<u8>>, ParseError> {
    if format == Format::Protobuf {
        return forget_in_protobuf(body);
    }
    let mut parser = Parser::new(format, Mode::Compat, body);
    let mut edits = Edits::new(body);
    while let Some(entry) = parser.next_entry()? {
        let Entry::Sample { timestamp: Some(_), .. } = entry else { continue };
        let (series, line) = (parser.series(), parser.line());
        // Behind the series: blanks, the value, blanks, the timestamp, and perhaps an exemplar.
        let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let behind = |at: usize| body.get(at..line.end).unwrap_or_default();
        let value = series.end + behind(series.end).iter().take_while(|byte| is_blank(byte)).count();
        let value_end = value + behind(value).iter().take_while(|byte| !is_blank(byte)).count();
        let stamp = value_end + behind(value_end).iter().take_while(|byte| is_blank(byte)).count();
        let is_stamp = |byte: &u8| !is_blank(byte) && *byte != b'\n';
        let stamp_end = stamp + behind(stamp).iter().take_while(|byte| is_stamp(byte)).count();
        edits.remove(value_end..stamp_end);
    }
    Ok(edits.finish())
}

fn forget_in_protobuf(body: &[u8]) -> Result<Option<Vec<u8>>, ParseError> {
    let mut families = parse(Format::Protobuf, Mode::Compat, body)?;
    let mut has_some = false;
    for family in &mut families {
        let samples = family.samples.iter_mut().map(|sample| &mut sample.timestamp);
        for timestamp in samples.chain(family.histograms.iter_mut().map(|sample| &mut sample.timestamp)) {
            has_some |= timestamp.take().is_some();
        }
    }
    let mut body = Vec::new();
    encode_protobuf(&families, &mut body);
    Ok(has_some.then_some(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_timestamps_go() {
        let text = "# HELP x 1 2 3\nx{a=\"} 1 2\"} 1 17\ny  2\t18 \nz 3\nw 4 5";
        let without = forget_timestamps(Format::Text, text.as_bytes()).unwrap().unwrap();
        assert_eq!(String::from_utf8(without).unwrap(), "# HELP x 1 2 3\nx{a=\"} 1 2\"} 1\ny  2 \nz 3\nw 4");
        let openmetrics =
            "# TYPE c counter\nc_total{a=\"1\"} 5 1.5 # {t=\"x\"} 0.5 2.5\nc_created 3\n# EOF\n";
        let without = forget_timestamps(Format::OpenMetrics, openmetrics.as_bytes()).unwrap().unwrap();
        assert_eq!(String::from_utf8(without).unwrap(), openmetrics.replace(" 1.5", ""));
        assert_eq!(forget_timestamps(Format::Text, b"x 1\n").unwrap(), None);
        forget_timestamps(Format::Text, b"x y\n").unwrap_err();
    }

    #[test]
    fn those_of_protobuf_go_too() {
        let with = parse(Format::Text, Mode::Compat, b"x{a=\"1\"} 1 17\n").unwrap();
        let without = parse(Format::Text, Mode::Compat, b"x{a=\"1\"} 1\n").unwrap();
        let [mut body, mut expected] = [Vec::new(), Vec::new()];
        encode_protobuf(&with, &mut body);
        encode_protobuf(&without, &mut expected);
        assert_eq!(forget_timestamps(Format::Protobuf, &body).unwrap(), Some(expected.clone()));
        assert_eq!(forget_timestamps(Format::Protobuf, &expected).unwrap(), None);
    }
}
