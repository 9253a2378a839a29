//! The durable consumer: found, created, and made anew when it was lost, without skipping a message.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::{Context, ErrorCode};
use prometheus_streams_core::stage::Clock;
use schemars::JsonSchema;
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::NatsSourceConfig;
use super::progress::Progress;
use crate::support::nats::api::{self, ApiError, ConsumerConfig, ConsumerInfo, StreamInfo};

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
    #[error("stream {0} was made anew")]
    OtherStream(String),
}

/// The consumer by its name, and what is known of its work.
pub(super) struct Durable {
    pub(super) stream: String,
    pub(super) name: String,
    pub(super) config: Value,
    pub(super) filters: Vec<String>,
    start: Start,
    clock: Arc<dyn Clock>,
    /// When the stream was created that we read from; another time is another stream.
    created: Option<String>,
    /// True once there was a consumer, so that its absence is a loss.
    existed: bool,
    /// Where a first consumer starts at the earliest: what is before is the work of another one.
    pub(super) not_before: Option<u64>,
    /// False for a consumer that belongs to one stream, and has nothing to do in another one of its name.
    pub(super) outlives_its_stream: bool,
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
            not_before: None,
            outlives_its_stream: true,
            progress: Arc::default(),
        }
    }

    /// Another consumer of the same messages, which is there already.
    pub(super) fn beside(&self, name: String) -> Self {
        Self {
            name,
            config: self.config.clone(),
            stream: self.stream.clone(),
            filters: self.filters.clone(),
            clock: Arc::clone(&self.clock),
            start: self.start,
            created: self.created.clone(),
            existed: true,
            not_before: None,
            outlives_its_stream: false,
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
        if !self.outlives_its_stream
            && stream.is_some_and(|stream| self.created.as_ref() != Some(&stream.created))
        {
            return Err(ConsumerError::OtherStream(self.stream.clone()));
        }
        let mut config = self.config.clone();
        let place = match self.interrupted(context).await {
            Some(next) => at(next),
            None => self.place(stream),
        };
        tracing::info!(stream = self.stream, consumer = self.name, start = %place, "creating the consumer");
        if let (Some(config), Value::Object(place)) = (config.as_object_mut(), place) {
            config.extend(place);
        }
        let created = api::create_consumer(context, &self.stream, &self.name, &config).await;
        let info = created.map_err(|source| self.not_created(source))?;
        self.progress.starts_anew();
        Ok(info)
    }

    /// Makes the consumer anew, as it is but for its start: all from `start` on comes once more. A server cannot
    /// move a consumer, so there is a moment without one; another one stands by to show where to go on.
    ///
    /// # Errors
    /// It is not permitted, or JetStream cannot be asked; whatever has come to be by then loses nothing.
    pub(super) async fn restart(&mut self, context: &Context, start: u64) -> Result<(), ConsumerError> {
        let result = self.replace_at(context, start).await;
        result.map_err(|source| self.not_created(source))
    }

    /// Creates another consumer of the same messages, from `start` on.
    ///
    /// # Errors
    /// It is not permitted, there is one of that name, or JetStream cannot be asked.
    pub(super) async fn copy(
        &self,
        context: &Context,
        name: &str,
        start: u64,
        description: &str,
    ) -> Result<(), ApiError> {
        let config = api::consumer_config(context, &self.stream, &self.name).await?;
        let mut config = starting(config, name, start);
        config["description"] = json!(description);
        api::create_consumer(context, &self.stream, name, &config).await.map(drop)
    }

    /// The consumer, or what stands by for it when an earlier life of this program was about to make it anew; it
    /// is made then.
    ///
    /// # Errors
    /// There is neither, or JetStream cannot be asked.
    pub(super) async fn find(&self, context: &Context) -> Result<ConsumerInfo, ApiError> {
        let found = self.info(context).await;
        if !found.as_ref().is_err_and(|error| error.is(ErrorCode::CONSUMER_NOT_FOUND)) {
            return found;
        }
        let (next, start) =
            (self.next_name(), |config: &Value| config["opt_start_seq"].as_u64().unwrap_or(1));
        let Ok(config) = api::consumer_config(context, &self.stream, &next).await else { return found };
        let start = start(&config);
        let config = starting(config, &self.name, start);
        let info = api::create_consumer(context, &self.stream, &self.name, &config).await?;
        let _ = api::delete_consumer(context, &self.stream, &next).await;
        Ok(info)
    }

    /// It has work to do in this stream, and in no other of its name.
    pub(super) fn belongs_to(&mut self, stream: &StreamInfo) {
        self.created = Some(stream.created.clone());
    }

    async fn replace_at(&mut self, context: &Context, start: u64) -> Result<(), ApiError> {
        let (stream, name, next) = (&self.stream, &self.name, &self.next_name());
        let config = starting(api::consumer_config(context, stream, name).await?, name, start);
        let refused = |error: &ApiError| matches!(error, ApiError::Refused(_));
        // A server refuses to move a consumer, but only if it lets us try; so nothing is deleted that
        // could not be made again.
        if let Err(error) = api::create_consumer(context, stream, name, &config).await
            && !refused(&error)
        {
            return Err(error);
        }
        let standing_by = starting(config.clone(), next, start);
        if api::consumer_info(context, stream, next).await.is_ok() {
            api::delete_consumer(context, stream, next).await?;
        }
        api::create_consumer(context, stream, next, &standing_by).await?;
        let _ = api::delete_consumer(context, stream, name).await;
        api::create_consumer(context, stream, name, &config).await?;
        self.progress.rewinds(start.saturating_sub(1));
        // One that stays is deleted when its name is needed.
        let _ = api::delete_consumer(context, stream, next).await;
        Ok(())
    }

    /// Where a consumer was to start that an earlier life of this program was about to make anew.
    async fn interrupted(&self, context: &Context) -> Option<u64> {
        if self.existed {
            return None;
        }
        let next = api::consumer_info(context, &self.stream, &self.next_name()).await.ok()?;
        (next.config.opt_start_seq > 0).then_some(next.config.opt_start_seq)
    }

    fn next_name(&self) -> String {
        format!("{}-next", self.name)
    }

    /// Where a new consumer starts, in the words of the API.
    fn place(&self, stream: Option<&StreamInfo>) -> Value {
        let all = json!({ "deliver_policy": "all" });
        match (self.existed, self.start) {
            (false, _) if self.not_before.is_some() => at(self.not_before.unwrap_or_default()),
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
                    at(floor + 1)
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

/// The start at a place of the stream, in the words of the API.
fn at(sequence: u64) -> Value {
    json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": sequence })
}

/// A configuration as the server told it, for a consumer of this name that starts at this place.
fn starting(mut config: Value, name: &str, start: u64) -> Value {
    if let (Some(config), Value::Object(place)) = (config.as_object_mut(), at(start)) {
        config.remove("opt_start_time");
        config.remove("name");
        config.insert("durable_name".to_owned(), json!(name));
        config.extend(place);
    }
    config
}

fn same_filters(wanted: &[String], config: &ConsumerConfig) -> bool {
    let one = std::slice::from_ref(&config.filter_subject);
    let has = if config.filter_subjects.is_empty() { one } else { &config.filter_subjects };
    wanted.len() == has.len() && wanted.iter().all(|filter| has.contains(filter))
}

#[cfg(test)]
mod tests {
    use prometheus_streams_core::testing::ManualClock;

    use super::*;

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
        durable.progress.done(7, durable.progress.life());
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
