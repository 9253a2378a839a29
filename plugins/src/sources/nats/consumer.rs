//! The durable consumer: found, created, and made anew when it was lost, without skipping a message.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_nats::jetstream::{Context, ErrorCode};
use prometheus_streams_core::stage::Clock;
use schemars::JsonSchema;
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::NatsSourceConfig;
use crate::support::nats::api::{self, ApiError, ConsumerConfig, ConsumerInfo, StreamInfo};

/// Messages that are not done with, of which the place is remembered.
const MOST_OPEN: usize = 1 << 16;

/// Where a new consumer starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub enum Start {
    /// At the oldest message of the stream.
    #[default]
    All,
    /// Behind the newest message of the stream.
    New,
    /// At the oldest message that is not older than this.
    Since(Duration),
}

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Start;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("all, new, or a duration with its unit, as 10m")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Start, E> {
                match text {
                    "all" => Ok(Start::All),
                    "new" => Ok(Start::New),
                    _ => humantime::parse_duration(text)
                        .map(Start::Since)
                        .map_err(|_| E::custom(format!("{text:?} is not all, new, or a duration like 10m"))),
                }
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl Serialize for Start {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::New => serializer.serialize_str("new"),
            Self::Since(age) => serializer.collect_str(&humantime::format_duration(*age)),
        }
    }
}

/// Why there is no consumer to read from.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConsumerError {
    #[error("stream {0} does not exist yet")]
    NoStream(String),
    #[error("cannot ask for consumer {name} of stream {stream}: {source}")]
    Unknown { stream: String, name: String, source: ApiError },
    #[error("cannot create consumer {name} of stream {stream}: {source}")]
    NotCreated { stream: String, name: String, source: ApiError },
    #[error("consumer {name} of stream {stream} exists, but is not a pull consumer with explicit acks")]
    WrongKind { stream: String, name: String },
    #[error(
        "consumer {name} of stream {stream} exists with other filter_subjects; delete it, or use another `durable`"
    )]
    OtherFilters { stream: String, name: String },
    #[error("more than one of filter_subjects needs nats-server 2.10; this one is {0}")]
    TooOld(String),
}

/// The consumer by its name, and what is known of its work.
pub(super) struct Durable {
    pub(super) stream: String,
    pub(super) name: String,
    config: Value,
    pub(super) filters: Vec<String>,
    start: Start,
    clock: Arc<dyn Clock>,
    /// When the stream was created that we read from; another time is another stream.
    created: Option<String>,
    /// True once there was a consumer, so that its absence is a loss.
    existed: bool,
    pub(super) progress: Arc<Progress>,
}

impl Durable {
    pub(super) fn new(settings: &NatsSourceConfig, name: String, clock: Arc<dyn Clock>) -> Self {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let mut config = json!({
            "durable_name": name,
            "ack_policy": "explicit",
            "ack_wait": nanos(settings.ack_wait.0),
            "max_deliver": -1,
            "max_ack_pending": settings.max_ack_pending,
            "replay_policy": "instant",
        });
        match &settings.filter_subjects[..] {
            [] => {}
            [one] => config["filter_subject"] = json!(one),
            many => config["filter_subjects"] = json!(many),
        }
        Self {
            stream: settings.stream.clone(),
            name,
            config,
            filters: settings.filter_subjects.clone(),
            start: settings.start,
            clock,
            created: None,
            existed: false,
            progress: Arc::default(),
        }
    }

    /// Finds the consumer, or creates it.
    pub(super) async fn ensure(&mut self, context: &Context) -> Result<ConsumerInfo, ConsumerError> {
        // A reader may be permitted to know its consumer and nothing else.
        let found = self.info(context).await;
        let stream = api::stream_info(context, &self.stream).await;
        let lost = |error: &ApiError| error.is(ErrorCode::STREAM_NOT_FOUND);
        if found.as_ref().is_err_and(lost) || stream.as_ref().is_err_and(lost) {
            return Err(ConsumerError::NoStream(self.stream.clone()));
        }
        let stream = stream.ok();
        let info = match (found, &stream) {
            (Ok(info), Some(stream)) if info.delivered.stream_seq > stream.state.last_seq => {
                self.replace(context, &info, stream).await?
            }
            (Ok(info), _) => info,
            (Err(error), stream) if error.is(ErrorCode::CONSUMER_NOT_FOUND) => {
                self.create(context, stream.as_ref()).await?
            }
            (Err(source), _) => {
                let (stream, name) = (self.stream.clone(), self.name.clone());
                return Err(ConsumerError::Unknown { stream, name, source });
            }
        };
        if info.config.ack_policy != "explicit" || info.config.deliver_subject.is_some() {
            return Err(ConsumerError::WrongKind { stream: self.stream.clone(), name: self.name.clone() });
        }
        if !self.filters.is_empty() && !same_filters(&self.filters, &info.config) {
            return Err(ConsumerError::OtherFilters { stream: self.stream.clone(), name: self.name.clone() });
        }
        self.progress.begins(&info);
        self.existed = true;
        self.created = stream.map(|stream| stream.created);
        Ok(info)
    }

    /// What the consumer says of itself.
    pub(super) async fn info(&self, context: &Context) -> Result<ConsumerInfo, ApiError> {
        api::consumer_info(context, &self.stream, &self.name).await
    }

    /// A consumer that is ahead of its stream, because the stream has lost its end, would wait until the
    /// stream has caught up, and skip all until then.
    async fn replace(
        &self,
        context: &Context,
        info: &ConsumerInfo,
        stream: &StreamInfo,
    ) -> Result<ConsumerInfo, ConsumerError> {
        tracing::warn!(
            stream = self.stream,
            consumer = self.name,
            delivered = info.delivered.stream_seq,
            last = stream.state.last_seq,
            "the stream has lost its end; making the consumer anew"
        );
        let deleted = api::delete_consumer(context, &self.stream, &self.name).await;
        deleted.map_err(|source| self.not_created(source))?;
        self.progress.forget();
        self.create(context, Some(stream)).await
    }

    async fn create(
        &self,
        context: &Context,
        stream: Option<&StreamInfo>,
    ) -> Result<ConsumerInfo, ConsumerError> {
        let server = context.client().server_info().version;
        if self.filters.len() > 1 && !context.client().is_server_compatible(2, 10, 0) {
            return Err(ConsumerError::TooOld(server));
        }
        let mut config = self.config.clone();
        let place = self.place(stream);
        tracing::info!(stream = self.stream, consumer = self.name, start = %place, "creating the consumer");
        if let (Some(config), Value::Object(place)) = (config.as_object_mut(), place) {
            config.extend(place);
        }
        let created = api::create_consumer(context, &self.stream, &self.name, &config).await;
        let info = created.map_err(|source| self.not_created(source))?;
        self.progress.starts_anew();
        Ok(info)
    }

    /// Where a new consumer starts, in the words of the API.
    fn place(&self, stream: Option<&StreamInfo>) -> Value {
        let all = json!({ "deliver_policy": "all" });
        match (self.existed, self.start) {
            (false, Start::New) => json!({ "deliver_policy": "new" }),
            (false, Start::Since(age)) => {
                let since = self.clock.now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
                let since = humantime::format_rfc3339_nanos(since.max(SystemTime::UNIX_EPOCH));
                json!({ "deliver_policy": "by_start_time", "opt_start_time": since.to_string() })
            }
            (false, Start::All) => all,
            (true, _) => match (self.progress.floor(), stream) {
                (Some(floor), Some(stream))
                    if self.created.as_ref() == Some(&stream.created) && floor <= stream.state.last_seq =>
                {
                    json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": floor + 1 })
                }
                _ => {
                    self.progress.forget();
                    all
                }
            },
        }
    }

    fn not_created(&self, source: ApiError) -> ConsumerError {
        ConsumerError::NotCreated { stream: self.stream.clone(), name: self.name.clone(), source }
    }
}

fn same_filters(wanted: &[String], config: &ConsumerConfig) -> bool {
    let one = std::slice::from_ref(&config.filter_subject);
    let has = if config.filter_subjects.is_empty() { one } else { &config.filter_subjects };
    wanted.len() == has.len() && wanted.iter().all(|filter| has.contains(filter))
}

/// Which messages of the stream are done with, as far as this program has seen them come. What it has
/// not seen, because it was lost on the way, or came to another program or an earlier life of this one, is
/// known by the gap that it leaves in the count of deliveries; then only the word of the server counts.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    highest: Option<u64>,
    open: BTreeSet<u64>,
    /// The number of the last delivery.
    delivery: u64,
    /// The first delivery behind the last gap.
    gap: Option<u64>,
    /// Up to here all is acknowledged, the server said.
    acknowledged: Option<u64>,
}

impl Progress {
    pub(super) fn received(&self, sequence: u64, delivery: u64) {
        let mut seen = self.seen();
        if delivery > seen.delivery + 1 {
            seen.gap = Some(delivery);
        }
        seen.delivery = seen.delivery.max(delivery);
        seen.highest = seen.highest.max(Some(sequence));
        seen.open.insert(sequence);
        if seen.open.len() > MOST_OPEN {
            // The oldest has expired in the stream long ago.
            seen.open.pop_first();
        }
    }

    /// Takes in what the server says while messages may be on their way to us.
    pub(super) fn told(&self, info: &ConsumerInfo) {
        let mut seen = self.seen();
        seen.acknowledged = Some(info.ack_floor.stream_seq);
        if info.num_ack_pending == 0 {
            let delivered = info.delivered.consumer_seq;
            seen.delivery = seen.delivery.max(delivered);
            seen.gap = seen.gap.filter(|behind| *behind > delivered + 1);
        }
    }

    /// Takes in what the server says while nothing is on its way: where it has counted otherwise than we
    /// have, there is something that we did not see, or it is another consumer.
    fn begins(&self, info: &ConsumerInfo) {
        self.told(info);
        let (mut seen, delivered) = (self.seen(), info.delivered.consumer_seq);
        if delivered != seen.delivery {
            (seen.delivery, seen.gap) = (delivered, Some(delivered + 1));
        }
    }

    /// True when the message came and is not done with.
    pub(super) fn is_open(&self, sequence: u64) -> bool {
        self.seen().open.contains(&sequence)
    }

    pub(super) fn done(&self, sequence: u64) {
        self.seen().open.remove(&sequence);
    }

    /// The sequence up to which all is done with.
    fn floor(&self) -> Option<u64> {
        let seen = self.seen();
        if seen.gap.is_some() {
            return seen.acknowledged;
        }
        seen.open.first().map(|first| first - 1).or(seen.highest.max(seen.acknowledged))
    }

    /// A new consumer counts its deliveries from 1.
    fn starts_anew(&self) {
        let mut seen = self.seen();
        (seen.delivery, seen.gap) = (0, None);
    }

    fn forget(&self) {
        *self.seen() = Seen::default();
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_streams_core::testing::ManualClock;

    use super::*;

    #[test]
    fn the_floor_is_below_the_oldest_that_is_open() {
        let progress = Progress::default();
        assert_eq!(progress.floor(), None);
        for (delivery, sequence) in (1..).zip([5, 6, 9]) {
            progress.received(sequence, delivery);
        }
        progress.done(5);
        progress.done(9);
        assert_eq!(progress.floor(), Some(5));
        progress.done(6);
        assert_eq!(progress.floor(), Some(9));
        // A message that came again after a failure is open again.
        progress.received(6, 4);
        assert_eq!(progress.floor(), Some(5));
    }

    fn info(delivered: (u64, u64), floor: (u64, u64), pending: u64) -> ConsumerInfo {
        let pair = |(consumer, stream): (u64, u64)| json!({ "consumer_seq": consumer, "stream_seq": stream });
        let info = json!({
            "config": { "ack_policy": "explicit" },
            "delivered": pair(delivered),
            "ack_floor": pair(floor),
            "num_ack_pending": pending,
            "num_pending": 0,
        });
        serde_json::from_value(info).unwrap()
    }

    #[test]
    fn a_message_that_was_lost_on_the_way_is_not_passed_over() {
        let progress = Progress::default();
        progress.begins(&info((2, 4), (2, 4), 0));
        assert_eq!(progress.floor(), Some(4));
        for (sequence, delivery) in [(5, 3), (7, 5)] {
            progress.received(sequence, delivery);
            progress.done(sequence);
        }
        assert_eq!(progress.floor(), Some(4), "6 did not come");
        progress.told(&info((5, 7), (3, 5), 1));
        assert_eq!(progress.floor(), Some(5));
        progress.received(6, 6);
        progress.done(6);
        progress.told(&info((6, 7), (6, 7), 0));
        progress.received(8, 7);
        progress.done(8);
        assert_eq!(progress.floor(), Some(8), "all that was missing has come");
    }

    #[test]
    fn what_an_earlier_life_did_not_acknowledge_is_not_passed_over() {
        let progress = Progress::default();
        progress.begins(&info((9, 20), (8, 14), 1));
        progress.received(21, 10);
        progress.done(21);
        assert_eq!(progress.floor(), Some(14));
        // Nor is what was on its way to us when the connection was lost.
        let progress = Progress::default();
        progress.begins(&info((0, 0), (0, 0), 0));
        progress.received(1, 1);
        progress.done(1);
        progress.begins(&info((2, 2), (1, 1), 1));
        progress.received(3, 3);
        progress.done(3);
        assert_eq!(progress.floor(), Some(1));
    }

    fn stream(created: &str, last_seq: u64) -> StreamInfo {
        let info = json!({ "config": {}, "created": created, "state": { "last_seq": last_seq } });
        serde_json::from_value(info).unwrap()
    }

    #[test]
    fn a_lost_consumer_starts_behind_what_is_done_and_never_ahead_of_its_stream() {
        let settings = json!({ "urls": [], "stream": "S", "start": "10m" });
        let settings: NatsSourceConfig = serde_json::from_value(settings).unwrap();
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(660));
        let mut durable = Durable::new(&settings, "d".to_owned(), Arc::new(clock));
        let place = |durable: &Durable, stream: Option<StreamInfo>| {
            let place = durable.place(stream.as_ref());
            place.as_object().unwrap().values().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let first = place(&durable, Some(stream("monday", 5)));
        assert_eq!(first, r#""by_start_time" "1970-01-01T00:01:00.000000000Z""#);

        (durable.existed, durable.created) = (true, Some("monday".to_owned()));
        assert_eq!(place(&durable, Some(stream("monday", 5))), r#""all""#, "nothing was read yet");
        durable.progress.received(7, 1);
        durable.progress.done(7);
        assert_eq!(place(&durable, Some(stream("monday", 9))), r#""by_start_sequence" 8"#);
        assert_eq!(place(&durable, Some(stream("monday", 6))), r#""all""#, "the stream lost its end");
        durable.progress.received(7, 1);
        assert_eq!(place(&durable, Some(stream("tuesday", 9))), r#""all""#, "it is another stream");
        durable.progress.received(7, 1);
        assert_eq!(place(&durable, None), r#""all""#, "we may not look at the stream");
    }

    #[test]
    fn a_start_is_a_word_or_a_duration() {
        let read = |text: &str| serde_json::from_value::<Start>(json!(text));
        assert_eq!(read("all").unwrap(), Start::All);
        assert_eq!(read("new").unwrap(), Start::New);
        assert_eq!(read("10m").unwrap(), Start::Since(Duration::from_secs(600)));
        let error = read("yesterday").unwrap_err().to_string();
        assert_eq!(error, r#""yesterday" is not all, new, or a duration like 10m"#);
    }
}
