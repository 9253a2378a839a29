//! What the targets of one job share, whichever form of the configuration it came from. All that can be
//! wrong with the settings has been found by the time that a [`Job`] exists.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use prometheus_streams_core::values::Size;

use super::discovery::DiscoverySettings;
use crate::exposition::relabel::Rule;
use crate::support::http::HttpClient;

/// The settings of one job. Two jobs may have one name, where the short form of the configuration lets targets of
/// one job differ.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// The label `job` of its targets, unless relabelling says otherwise.
    pub(super) name: String,
    /// How often, unless a target says otherwise with `__scrape_interval__` or `__scrape_timeout__`.
    pub(super) pace: Pace,
    /// `http` or `https`: the label `__scheme__` of its targets before relabelling.
    pub(super) scheme: String,
    /// The label `__metrics_path__` of its targets before relabelling.
    pub(super) metrics_path: String,
    /// The query of the URL; the first value of each is the label `__param_<name>` before relabelling.
    pub(super) params: BTreeMap<String, Vec<String>>,
    /// The way to its targets.
    pub(super) client: HttpClient,
    /// Whether a label of a scraped sample wins against a label of the target.
    pub(super) honor_labels: bool,
    /// Whether the timestamps of scraped samples are kept.
    pub(super) honor_timestamps: bool,
    /// Whether targets are asked for gzip.
    pub(super) enable_compression: bool,
    /// The formats that targets are asked for, the most wanted first; never empty.
    pub(super) protocols: Vec<ScrapeProtocol>,
    /// The format of an answer that does not name its own, or names none that is known.
    pub(super) fallback_protocol: Option<ScrapeProtocol>,
    /// What fails a scrape.
    pub(super) limits: ScrapeLimits,
    /// Whether the classic buckets of a histogram are kept where it has native ones too.
    pub(super) always_scrape_classic_histograms: bool,
    /// Whether native histograms are kept.
    pub(super) scrape_native_histograms: bool,
    /// The most targets after relabelling, or all of them fail; 0 for any number.
    pub(super) target_limit: usize,
    /// How many targets that relabelling dropped are remembered, to be shown; 0 for all.
    pub(super) keep_dropped_targets: usize,
    /// What makes of the labels of a discovered target those of its scrapes.
    pub(super) relabel: Vec<Rule>,
    /// What every scraped sample goes through.
    pub(super) metric_relabel: Vec<Rule>,
    /// How its targets are found.
    pub(super) discoveries: Vec<DiscoverySettings>,
}

/// How often, and for how long at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// From scrape to scrape; never 0.
    pub(super) interval: Duration,
    /// For a whole scrape; no longer than the interval.
    pub(super) timeout: Duration,
}

impl Pace {
    /// The timeout, cut so that a scrape which began in time is over before the next one is due.
    pub(super) fn timeout_within_slot(self) -> Duration {
        let margin = (self.interval / 50).min(Duration::from_millis(100));
        self.timeout.min(self.interval - margin)
    }
}

/// What fails a scrape. Except for `body_size`, 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScrapeLimits {
    /// The largest body after decompression; never 0.
    pub(super) body_size: Size,
    /// The most samples after relabelling.
    pub(super) samples: usize,
    /// The most labels of a sample, its name and those of the target included.
    pub(super) labels: usize,
    /// The longest name of a label, in bytes.
    pub(super) label_name_length: usize,
    /// The longest value of a label, in bytes.
    pub(super) label_value_length: usize,
}

/// A format that a target may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(non_camel_case_types, reason = "versions are told apart")]
pub(super) enum ScrapeProtocol {
    /// Protobuf, delimited: the only one with native histograms.
    PrometheusProto,
    /// OpenMetrics 1.0.0.
    OpenMetricsText1_0_0,
    /// OpenMetrics 0.0.1.
    OpenMetricsText0_0_1,
    /// Text with quoted UTF-8 names.
    PrometheusText1_0_0,
    /// The text format that everything speaks.
    PrometheusText0_0_4,
}

impl ScrapeProtocol {
    /// Every one, in the order in which Prometheus prefers them for native histograms.
    pub(super) const ALL: [Self; 5] = [
        Self::PrometheusProto,
        Self::OpenMetricsText1_0_0,
        Self::OpenMetricsText0_0_1,
        Self::PrometheusText1_0_0,
        Self::PrometheusText0_0_4,
    ];

    /// What a job without `scrape_protocols` asks for: protobuf only where it wants native histograms.
    pub(super) fn defaults(native_histograms: bool) -> Vec<Self> {
        let first = if native_histograms { 0 } else { 1 };
        Self::ALL[first..].to_vec()
    }

    /// As `scrape_protocols` has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::PrometheusProto => "PrometheusProto",
            Self::OpenMetricsText1_0_0 => "OpenMetricsText1.0.0",
            Self::OpenMetricsText0_0_1 => "OpenMetricsText0.0.1",
            Self::PrometheusText1_0_0 => "PrometheusText1.0.0",
            Self::PrometheusText0_0_4 => "PrometheusText0.0.4",
        }
    }
}

impl fmt::Display for ScrapeProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ScrapeProtocol {
    type Err = String;

    /// Reads a protocol as `scrape_protocols` has it; case matters.
    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|protocol| protocol.name() == text);
        known.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            match text {
                "OpenMetricsText2.0.0" => {
                    format!(
                        "Prometheus has the protocol {text}, prometheus-streams does not yet; it has {names}"
                    )
                }
                _ => format!("there is no protocol {text:?}; there are {names}"),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_known_by_its_name_and_its_case() {
        for protocol in ScrapeProtocol::ALL {
            assert_eq!(protocol.to_string().parse(), Ok(protocol));
        }
        for text in ["", "prometheusproto", "PrometheusText0_0_4", "OpenMetricsText2.0.0"] {
            assert!(text.parse::<ScrapeProtocol>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_scrape_is_over_before_the_next_begins() {
        let cut = |interval, timeout| {
            let pace =
                Pace { interval: Duration::from_millis(interval), timeout: Duration::from_millis(timeout) };
            pace.timeout_within_slot().as_millis()
        };
        assert_eq!([cut(60_000, 10_000), cut(10_000, 10_000), cut(1_000, 1_000)], [10_000, 9_900, 980]);
    }
}
