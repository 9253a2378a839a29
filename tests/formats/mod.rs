//! The exposition formats before the judges: every body of the tables of verdicts is scraped by a real
//! Prometheus and pushed to a real Push Gateway, and they say what our parser says.

mod gateway;
mod prometheus;
#[path = "../../plugins/src/exposition/verdicts/table.rs"]
pub(crate) mod table;

use prometheus_streams_plugins::exposition::{self, Family, Format, Mode, ParseError};

use table::Case;

fn format(case: &Case) -> Format {
    if case.is_openmetrics { Format::OpenMetrics } else { Format::Text }
}

fn parse(case: &Case) -> Result<Vec<Family<'_>>, ParseError> {
    exposition::parse(format(case), Mode::Compat, &case.body)
}

/// Fails with all that differs, a line each.
fn assert_none(differences: &[String]) {
    assert!(differences.is_empty(), "{}\n{} differences", differences.join("\n"), differences.len());
}
