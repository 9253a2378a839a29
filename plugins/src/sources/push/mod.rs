//! A Push Gateway at the start of a pipeline: batch jobs push to it as they would to a gateway, and what they push
//! reaches the far side like any scrape.
//!
//! ```yaml
//! source:
//!   type: push
//!   listen: 127.0.0.1:9091
//!   persistence: { path: /var/lib/prometheus-streams/push }
//! ```
//!
//! ```sh
//! echo "backup_bytes 42" | curl --data-binary @- http://127.0.0.1:9091/metrics/job/backup/instance/db1
//! ```
//!
//! The way of a push: `path.rs` reads the grouping key, `body.rs` the body, `judge.rs` gives the verdict of a gateway on
//! it, `groups.rs` holds it against the other groups (`index.rs`) and changes its own (`state.rs`), once the event of
//! it has been answered. `pusher.rs` has the steps in their order, `repeat.rs` tells of every group again and again,
//! and `persistence.rs` remembers groups over a restart.

mod answer;
mod body;
mod groups;
mod index;
mod judge;
mod metrics;
mod page;
mod path;
mod persistence;
mod pusher;
mod repeat;
mod state;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prometheus_streams_core::emitter::Emitter;
use prometheus_streams_core::error::{BoxError, BuildError};
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{Source, SourceConfig, StageContext};
use prometheus_streams_core::values::{Size, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::body::Bodies;
use self::groups::{Groups, Limits};
use self::metrics::PushMetrics;
use self::persistence::{Archive, Keeper};
use self::pusher::Pusher;
use crate::support::server::web::{WebConfig, WebConfigFile};
use crate::support::server::{Listen, Server};

/// Takes the pushes of batch jobs as a Prometheus Push Gateway does, and sends every group on as one event: the whole
/// group as it stands after the push, with the labels of its grouping key and `publisher`.
///
/// `PUT`, `POST` and `DELETE` on `/metrics/job/...` mean what they mean to a Push Gateway, with its status codes and
/// words, for text and delimited protobuf, compressed with gzip or snappy (framed). A push is answered when the
/// pipeline has delivered its event: 200 says that the stream has it. Where the pipeline is full or paused, or the
/// event could not be delivered, the answer is 503 with `Retry-After`, and the group stays as it was.
///
/// Every group is sent again at `interval`, with the values and the `push_time_seconds` that it has, until it is
/// deleted; then the far side is told that it is gone. There is no `up` and no other report of a scrape for what was
/// pushed, as there is none where a Prometheus scrapes a gateway.
///
/// `GET /metrics` shows the groups (read it with `honor_labels: true`), and `/api/v1/metrics`, `/api/v1/status`,
/// `/-/healthy` and `/-/ready` answer as those of a gateway. There are no web page and no admin API.
///
/// It differs from Push Gateway 1.5.1 in this: a body that was cut is refused. A label that is empty in the grouping key is no
/// label, so `instance@base64/=` names the group without `instance`. A key that is no UTF-8 and base64 that cannot be read
/// are refused and leave no trace. No metric of the gateway itself (`go_...`) is there to collide with. A label
/// `publisher` in a grouping key becomes `exported_publisher`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PushConfig {
    /// The address and port to push to.
    pub listen: Listen,

    /// A Prometheus web configuration file: `tls_server_config`, `basic_auth_users` and `http_server_config`, as for a
    /// Push Gateway. It and the files that it names are read again when they change.
    pub web_config_file: Option<WebConfigFile>,

    /// How often every group is sent again, as `1m`. Keep it well below the `expire_after` of the sinks where the
    /// groups land.
    pub interval: Span,

    /// Whether a push is refused with 400 when it does not go together with the other groups: another type for a
    /// name, or a series that is there already. `false` is `--push.disable-consistency-check` of a gateway: such
    /// pushes are taken, and all are answered with 202. What is wrong in itself is refused in any case.
    pub consistency_check: bool,

    /// How long a push may wait until it is delivered. Then it is answered with 503, and may still land.
    pub timeout: Span,

    /// The largest body after decompression, and the largest group. Four of this size can be read at once.
    pub max_body_size: Size,

    /// The most groups. Pushes into further ones are answered with 503.
    pub max_groups: usize,

    /// Roughly the most memory that all groups may take. Pushes beyond are answered with 503.
    pub max_total_size: Size,

    /// Where groups are kept over a restart. Without it, a restarted source knows no groups: it does not repeat
    /// those that were pushed before, so they expire at the far side until they are pushed again, and a `POST` adds to nothing.
    pub persistence: Option<PersistenceSettings>,
}

/// Where groups are kept over a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PersistenceSettings {
    /// A directory, which is created if it is missing. It has a file for each group, written before the push is
    /// answered. One that cannot be read at the start is named in the log and put aside as `.corrupt`.
    pub path: PathBuf,
}

impl Default for PushConfig {
    fn default() -> Self {
        Self {
            listen: Listen(([127, 0, 0, 1], 9091).into()),
            web_config_file: None,
            interval: Span::secs(60),
            consistency_check: true,
            timeout: Span::secs(20),
            max_body_size: Size(64 << 20),
            max_groups: 10_000,
            max_total_size: Size(256 << 20),
            persistence: None,
        }
    }
}

register!(source: PushConfig);

/// The largest body that a message of a stream can hold.
const LARGEST_BODY: Size = Size(64 << 20);

impl SourceConfig for PushConfig {
    const TYPE: &'static str = "push";

    fn build(self, cx: &StageContext) -> Result<Box<dyn Source>, BuildError> {
        let mut problems = BuildError::default();
        for (key, span) in [("interval", self.interval), ("timeout", self.timeout)] {
            if span.0.is_zero() {
                problems.add(key, "must be more than zero");
            }
        }
        if self.max_body_size.0 == 0 || self.max_body_size > LARGEST_BODY {
            problems.add("max_body_size", format!("must be more than zero, and at most {LARGEST_BODY}"));
        }
        if self.max_groups == 0 {
            problems.add("max_groups", "must be at least 1");
        }
        if self.max_total_size < self.max_body_size {
            problems.add("max_total_size", "must be at least `max_body_size`");
        }
        if self.persistence.as_ref().is_some_and(|settings| settings.path.as_os_str().is_empty()) {
            problems.add("persistence.path", "must name a directory");
        }
        let file = self.web_config_file.clone();
        let web = problems.take("web_config_file", file.map(WebConfigFile::load).transpose()).flatten();
        problems.or(Box::new(Push { config: self, web, cx: cx.clone() }))
    }
}

/// A gateway that is not open yet.
struct Push {
    config: PushConfig,
    web: Option<WebConfig>,
    cx: StageContext,
}

#[async_trait]
impl Source for Push {
    async fn run(self: Box<Self>, out: Emitter, shutdown: CancellationToken) -> Result<(), BoxError> {
        let groups = Arc::new(self.groups());
        let archive = self.archive(&groups).await?;
        let server = Server::bind(self.config.listen).await?.with_web_config(self.web.clone());
        let tasks = TaskTracker::new();
        let pusher = Arc::new(Pusher {
            bodies: Bodies::new(self.config.max_body_size),
            timeout: self.config.timeout.0,
            checks: self.config.consistency_check,
            started: self.cx.clock.now(),
            publisher: Arc::clone(&self.cx.identity),
            keeper: Keeper::new(archive, groups.metrics().unsaved.clone(), self.cx.health.clone()),
            tasks: tasks.clone(),
            groups,
            out,
        });
        self.cx.health.ready();
        let responding = Arc::clone(&pusher);
        let handler = move |request| Arc::clone(&responding).respond(request);
        tokio::join!(
            server.serve("a Push Gateway on /metrics", handler, shutdown.clone()),
            repeat::run(Arc::clone(&pusher), shutdown.clone()),
            pusher.save_again(shutdown),
        );
        tasks.close();
        tasks.wait().await;
        Ok(())
    }
}

impl Push {
    fn groups(&self) -> Groups {
        let config = &self.config;
        let limits = Limits {
            groups: config.max_groups,
            group_size: config.max_body_size,
            total_size: config.max_total_size,
            check: config.consistency_check,
            interval: config.interval.0.max(Duration::from_millis(1)),
        };
        Groups::new(limits, Arc::clone(&self.cx.clock), PushMetrics::new(&self.cx))
    }

    /// Opens the directory of the groups, and takes in those that are there.
    async fn archive(&self, groups: &Arc<Groups>) -> Result<Option<Archive>, BoxError> {
        let Some(settings) = self.config.persistence.clone() else { return Ok(None) };
        let (groups, largest) = (Arc::clone(groups), self.config.max_body_size);
        let opened = tokio::task::spawn_blocking(move || {
            let archive = Archive::open(&settings.path, largest)?;
            for (key, state) in archive.load()? {
                if let Err(refusal) = groups.restore(&key, state) {
                    tracing::error!(group = %key, error = refusal.reason, "cannot take in a group of pushed metrics");
                }
            }
            Ok::<_, std::io::Error>(archive)
        });
        Ok(Some(opened.await??))
    }
}
