//! Families as a page of text format 0.0.4.

use std::io::Write;

use super::super::float::write_float;
use super::super::model::{Family, LabelPair, MetricKind, Sample, is_plain_label_name, is_plain_metric_name};
use super::spread::{add_classic_forms, is_of_text, spread};

/// Appends the families to `out`: for each its `HELP`, its `TYPE` and its samples, with timestamps
/// where they have one. What [`super::super::parse`] gave for text comes back from it unchanged; families of
/// other formats are [`spread`] first, and native histograms are written in classic form.
pub fn encode(families: &[Family<'_>], out: &mut Vec<u8>) {
    for family in families {
        if is_of_text(family) {
            encode_family(family, out);
            continue;
        }
        let mut family = family.clone();
        add_classic_forms(&mut family);
        spread(family).iter().for_each(|family| encode_family(family, out));
    }
}

fn encode_family(family: &Family<'_>, out: &mut Vec<u8>) {
    if let Some(help) = &family.help {
        encode_help(&family.name, help, out);
    }
    encode_type(&family.name, family.kind, out);
    for sample in &family.samples {
        encode_sample(sample, out);
    }
}

/// Appends the `HELP` line of a family to `out`.
pub fn encode_help(name: &str, help: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"# HELP ");
    encode_meta_name(name, out);
    out.push(b' ');
    escape(help, b"\\\n", out);
    out.push(b'\n');
}

/// Appends the `TYPE` line of a family to `out`.
pub fn encode_type(name: &str, kind: MetricKind, out: &mut Vec<u8>) {
    out.extend_from_slice(b"# TYPE ");
    encode_meta_name(name, out);
    out.push(b' ');
    out.extend_from_slice(kind.as_str().as_bytes());
    out.push(b'\n');
}

/// Appends a name as it stands in metadata: quoted if it must be.
pub(super) fn encode_meta_name(name: &str, out: &mut Vec<u8>) {
    if is_plain_metric_name(name) {
        out.extend_from_slice(name.as_bytes());
    } else {
        encode_quoted(name, out);
    }
}

/// Appends the line of one sample to `out`.
pub fn encode_sample(sample: &Sample<'_>, out: &mut Vec<u8>) {
    encode_series(sample, out);
    out.push(b' ');
    write_float(out, sample.value);
    // Text has no negative timestamps; Prometheus would refuse the page. Writing to a Vec cannot fail.
    if let Some(timestamp) = sample.timestamp.filter(|millis| *millis >= 0) {
        let _ = write!(out, " {timestamp}");
    }
    out.push(b'\n');
}

/// Appends the name and the labels of a sample to `out`.
pub fn encode_series(sample: &Sample<'_>, out: &mut Vec<u8>) {
    let has_plain_name = is_plain_metric_name(&sample.name);
    if has_plain_name {
        out.extend_from_slice(sample.name.as_bytes());
    }
    if !has_plain_name || !sample.labels.is_empty() {
        out.push(b'{');
        if !has_plain_name {
            encode_quoted(&sample.name, out);
        }
        encode_labels(&sample.labels, !has_plain_name, out);
        out.push(b'}');
    }
}

/// Appends labels without their braces; `comma` if something stands before them.
pub fn encode_labels(labels: &[LabelPair<'_>], mut comma: bool, out: &mut Vec<u8>) {
    for (name, value) in labels {
        if std::mem::replace(&mut comma, true) {
            out.push(b',');
        }
        if is_plain_label_name(name) {
            out.extend_from_slice(name.as_bytes());
        } else {
            encode_quoted(name, out);
        }
        out.push(b'=');
        encode_quoted(value, out);
    }
}

fn encode_quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    escape(text, b"\\\n\"", out);
    out.push(b'"');
}

/// Appends `text` with a backslash before each of the `special` bytes.
pub(super) fn escape(text: &str, special: &[u8], out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| special.contains(byte)) {
        out.extend_from_slice(&rest[..at]);
        let byte = rest[at];
        out.extend_from_slice(&[b'\\', if byte == b'\n' { b'n' } else { byte }]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}
