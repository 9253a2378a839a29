//! The few requests of the JetStream API that the nats stages make, and the parts of the answers that
//! they read. Written against the oldest server that is supported, 2.9.

use async_nats::jetstream::context::{RequestError, RequestErrorKind};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{self, Context, ErrorCode, stream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Why a request to the JetStream API failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// JetStream said no.
    #[error("{0}")]
    Refused(jetstream::Error),
    /// Nobody answered: the server does not run JetStream, there is no leader, or we lack permission
    /// (a request that is not permitted is answered with silence).
    #[error("JetStream does not answer")]
    Silent,
    /// The request could not be made, or the answer is not one.
    #[error("{0}")]
    Broken(RequestError),
}

impl ApiError {
    /// True when JetStream refused with this code.
    pub fn is(&self, code: ErrorCode) -> bool {
        matches!(self, Self::Refused(error) if error.error_code() == code)
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        match error.kind() {
            RequestErrorKind::TimedOut | RequestErrorKind::NoResponders => Self::Silent,
            _ => Self::Broken(error),
        }
    }
}

/// What a stream says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StreamInfo {
    /// How it is configured.
    pub config: StreamConfig,
    /// When it was created. Another time means another stream of the same name.
    pub created: String,
    /// What it holds.
    pub state: StreamState,
}

/// The part of a stream's configuration that concerns us.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StreamConfig {
    /// The subjects that it takes.
    #[serde(default)]
    pub subjects: Vec<String>,
    /// The largest message that it takes, in bytes, headers included; none or less than 1 for any.
    #[serde(default)]
    pub max_msg_size: i64,
}

/// What a stream holds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StreamState {
    /// The sequence of its last message; 0 for none.
    pub last_seq: u64,
}

/// What a consumer says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ConsumerInfo {
    /// How it is configured.
    pub config: ConsumerConfig,
    /// The last message that it delivered.
    pub delivered: SequencePair,
    /// The last message up to which all are acknowledged.
    pub ack_floor: SequencePair,
    /// Messages delivered and not yet acknowledged.
    pub num_ack_pending: u64,
    /// Messages not yet delivered.
    pub num_pending: u64,
    /// Requests for messages that wait for some.
    #[serde(default)]
    pub num_waiting: u64,
}

impl ConsumerInfo {
    /// The sequence of the first message that may not be acknowledged.
    pub fn first_unanswered(&self) -> u64 {
        self.config.opt_start_seq.max(self.ack_floor.stream_seq + 1)
    }
}

/// The part of a consumer's configuration that concerns us.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ConsumerConfig {
    /// How messages are acknowledged; we need `explicit`.
    pub ack_policy: String,
    /// Nanoseconds until a message that was not acknowledged is delivered again.
    #[serde(default)]
    pub ack_wait: u64,
    /// Where a push consumer pushes; none for a pull consumer, which we need.
    #[serde(default)]
    pub deliver_subject: Option<String>,
    /// The only subject that it delivers; none or empty for all.
    #[serde(default)]
    pub filter_subject: String,
    /// The only subjects that it delivers, where there are several.
    #[serde(default)]
    pub filter_subjects: Vec<String>,
    /// The most messages that may be asked for at once; none or less than 1 for any number.
    #[serde(default)]
    pub max_batch: i64,
    /// What its maker says of it.
    #[serde(default)]
    pub description: String,
    /// The sequence at which it was to start; 0 where something else said where.
    #[serde(default)]
    pub opt_start_seq: u64,
}

/// A place in a consumer's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct SequencePair {
    /// How many deliveries there were, second ones included.
    pub consumer_seq: u64,
    /// The sequence in the stream.
    pub stream_seq: u64,
}

/// A message as the stream holds it; reading it so does not depend on what is in its headers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StoredMessage {
    /// The subject that it was published to.
    pub subject: String,
    /// Its place in the stream.
    pub seq: u64,
    /// Its headers as they came, base64; empty for none.
    #[serde(default)]
    pub hdrs: String,
    /// Its data, base64; empty for none.
    #[serde(default)]
    pub data: String,
}

#[derive(Deserialize)]
struct Stored {
    message: StoredMessage,
}

#[derive(Deserialize)]
struct Done {}

/// What the stream `name` says of itself.
///
/// # Errors
/// There is none ([`ErrorCode::STREAM_NOT_FOUND`]), or JetStream cannot be asked.
pub async fn stream_info(context: &Context, name: &str) -> Result<StreamInfo, ApiError> {
    request(context, format!("STREAM.INFO.{name}"), &json!({})).await
}

/// Creates a stream. One that exists with another configuration is an error, and stays as it is.
///
/// # Errors
/// It exists, or binds what another binds, or JetStream cannot be asked.
pub async fn create_stream(context: &Context, config: &stream::Config) -> Result<StreamInfo, ApiError> {
    request(context, format!("STREAM.CREATE.{}", config.name), config).await
}

/// What the consumer `name` of `stream` says of itself.
///
/// # Errors
/// There is none ([`ErrorCode::CONSUMER_NOT_FOUND`]), no such stream, or JetStream cannot be asked.
pub async fn consumer_info(context: &Context, stream: &str, name: &str) -> Result<ConsumerInfo, ApiError> {
    request(context, format!("CONSUMER.INFO.{stream}.{name}"), &json!({})).await
}

/// The whole configuration of the consumer `name` of `stream`, in the words of the API.
///
/// # Errors
/// As for [`consumer_info`].
pub async fn consumer_config(context: &Context, stream: &str, name: &str) -> Result<Value, ApiError> {
    #[derive(Deserialize)]
    struct Info {
        config: Value,
    }
    request::<Info>(context, format!("CONSUMER.INFO.{stream}.{name}"), &json!({}))
        .await
        .map(|info| info.config)
}

/// Creates the consumer `name` as `config` describes it, in the words of the API.
///
/// # Errors
/// It exists with another configuration, there is no such stream, or JetStream cannot be asked.
pub async fn create_consumer(
    context: &Context,
    stream: &str,
    name: &str,
    config: &Value,
) -> Result<ConsumerInfo, ApiError> {
    let filter = config["filter_subject"].as_str().map(|filter| format!(".{filter}")).unwrap_or_default();
    let payload = json!({ "stream_name": stream, "config": config });
    request(context, format!("CONSUMER.CREATE.{stream}.{name}{filter}"), &payload).await
}

/// Deletes the consumer `name` of `stream`.
///
/// # Errors
/// There is none, or JetStream cannot be asked.
pub async fn delete_consumer(context: &Context, stream: &str, name: &str) -> Result<(), ApiError> {
    request::<Done>(context, format!("CONSUMER.DELETE.{stream}.{name}"), &json!({})).await.map(drop)
}

/// The message at `sequence` of `stream`.
///
/// # Errors
/// There is none ([`ErrorCode::NO_MESSAGE_FOUND`]), or JetStream cannot be asked.
pub async fn message(context: &Context, stream: &str, sequence: u64) -> Result<StoredMessage, ApiError> {
    let subject = format!("STREAM.MSG.GET.{stream}");
    request::<Stored>(context, subject, &json!({ "seq": sequence })).await.map(|stored| stored.message)
}

/// Deletes the message at `sequence` of `stream`.
///
/// # Errors
/// There is none, the stream does not let its messages be deleted, or JetStream cannot be asked.
pub async fn delete_message(context: &Context, stream: &str, sequence: u64) -> Result<(), ApiError> {
    let payload = json!({ "seq": sequence, "no_erase": true });
    request::<Done>(context, format!("STREAM.MSG.DELETE.{stream}"), &payload).await.map(drop)
}

async fn request<T: DeserializeOwned>(
    context: &Context,
    subject: String,
    payload: &impl Serialize,
) -> Result<T, ApiError> {
    match context.request(subject, payload).await? {
        Response::Ok(answer) => Ok(answer),
        Response::Err { error } => Err(ApiError::Refused(error)),
    }
}
