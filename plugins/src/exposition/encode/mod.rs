//! Families, written in each of the formats.
//!
//! [`encode`] writes text 0.0.4, [`encode_openmetrics`] OpenMetrics 1.0, [`encode_protobuf`] delimited
//! protobuf, and [`encode_json`] a document for people and scripts. What [`super::parse`] gave from a tidy
//! body of the same format comes back unchanged. What another format has no word for is written in the
//! nearest form that keeps every series and its value: see [`spread`] for the types of OpenMetrics;
//! exemplars and units go where there is no place for them; a native histogram goes to text as its classic form.

mod json;
mod metrics;
mod openmetrics;
mod protobuf;
mod spread;
#[cfg(test)]
mod tests;
mod text;

pub use json::encode_json;
pub use openmetrics::{
    OPENMETRICS_END, as_openmetrics, encode_openmetrics, encode_openmetrics_metadata,
    encode_openmetrics_samples, encode_openmetrics_timestamp,
};
pub use protobuf::{as_protobuf, encode_protobuf, encode_protobuf_metadata, encode_protobuf_metrics};
pub(crate) use protobuf::{packed_counts, varint, zigzag};
pub(super) use spread::{add_classic_forms, spread};
pub use text::{encode, encode_help, encode_labels, encode_sample, encode_series, encode_type};

use super::model::Family;

/// The families that text has for these, each of which can then be written by itself; see the module's text.
pub fn as_text(families: Vec<Family<'_>>) -> Vec<Family<'_>> {
    let with_classic_forms = families.into_iter().map(|mut family| {
        add_classic_forms(&mut family);
        family
    });
    with_classic_forms.flat_map(spread).collect()
}
