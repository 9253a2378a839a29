//! The formats in which targets expose metrics, by the names that HTTP has for them.

/// A format of exposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Prometheus' text format 0.0.4, and 1.0.0, which adds quoted names.
    Text,
    /// OpenMetrics 1.0 and 0.0.1, text.
    OpenMetrics,
    /// Prometheus' protobuf: `io.prometheus.client.MetricFamily` messages, each after its length.
    Protobuf,
}

/// Whose verdict a parser gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// What Prometheus takes is taken, and nothing else.
    #[default]
    Compat,
    /// What the specification allows is taken, and nothing else.
    Strict,
}

impl Format {
    /// The format that a `Content-Type` names; `None` if it names none that is known, as `text/html`.
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        let (media_type, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
        let media_type = media_type.trim();
        let is = |known: &str| media_type.eq_ignore_ascii_case(known);
        if is("text/plain") {
            Some(Self::Text)
        } else if is("application/openmetrics-text") {
            Some(Self::OpenMetrics)
        } else if is("application/vnd.google.protobuf") && is_delimited_family(parameters) {
            Some(Self::Protobuf)
        } else {
            None
        }
    }
}

/// Whether the parameters of a protobuf content type are those of metric families, or absent.
fn is_delimited_family(parameters: &str) -> bool {
    parameters.split(';').all(|parameter| {
        let Some((name, value)) = parameter.split_once('=') else { return true };
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "proto" => value == "io.prometheus.client.MetricFamily",
            "encoding" => value == "delimited",
            _ => true,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_name_formats() {
        let protobuf = "application/vnd.google.protobuf";
        for (content_type, format) in [
            ("text/plain", Some(Format::Text)),
            ("Text/Plain; version=0.0.4; charset=utf-8", Some(Format::Text)),
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", Some(Format::OpenMetrics)),
            (protobuf, Some(Format::Protobuf)),
            (
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
                Some(Format::Protobuf),
            ),
            ("application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=text", None),
            ("application/vnd.google.protobuf; proto=other; encoding=delimited", None),
            ("text/html", None),
            ("", None),
        ] {
            assert_eq!(Format::from_content_type(content_type), format, "{content_type}");
        }
    }
}
