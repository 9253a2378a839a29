//! From the classic file to the settings of pipelines: what each key means now.

use std::path::Path;
use std::time::Duration;

use prometheus_streams_core::config::host_name;
use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::values::Span;
use serde_json::{Map, Value, json};

use super::file::{ClassicFile, Stream, Target, Text, Tls};
use super::login::{Address, Login};
use super::{Note, Role};

/// The stream keeps this much unless the receiver takes older scrapes; the sink's own default.
const STREAM_MAX_AGE: Duration = Duration::from_secs(600);

/// The job under which the classic program scrapes itself.
const OWN_JOB: &str = "prometheus_streams";

/// How an answer was read whose content type says nothing, or something else: as text.
const FALLBACK: &str = "PrometheusText0.0.4";

/// What to say where a user stands in an address.
const LOGIN_MOVED: &str =
    "user and password have keys of their own now; the password may stand in a file of its own";

/// What a translation is made of.
pub(super) struct Parts {
    /// The settings, in the schema of `run`.
    pub(super) tree: Value,
    /// What to tell the user.
    pub(super) notes: Vec<Note>,
    /// Paths in the tree, and those in the file that they come from.
    pub(super) places: Vec<(String, String)>,
}

/// Translates a file that has been read. Collects mistakes and notes as it goes.
pub(super) struct Translator<'a> {
    file: &'a ClassicFile,
    problems: BuildError,
    notes: Vec<Note>,
    places: Vec<(String, String)>,
}

impl<'a> Translator<'a> {
    pub(super) fn new(file: &'a ClassicFile) -> Self {
        Self { file, problems: BuildError::default(), notes: Vec::new(), places: Vec::new() }
    }

    /// Translates what the pipelines that play `roles` need.
    pub(super) fn translate(mut self, roles: &[Role]) -> Result<Parts, BuildError> {
        self.place("log.file", "logfile");
        self.place("extensions.monitor.listen", "monitor_port");
        let mut pipelines = Map::new();
        for role in roles {
            let pipeline = match role {
                Role::Poller => self.poller(),
                Role::Receiver => self.receiver(),
            };
            pipelines.insert(role.name().to_owned(), pipeline);
        }
        if self.file.management.is_some() {
            self.note(
                "management",
                "the Choria Backplane is not offered; the monitor extension can pause and resume, see the README",
            );
        }
        let tree = compact(json!({
            "identity": self.file.identity.as_ref().map(Text::as_str),
            "log": self.log(),
            "extensions": self.monitor(),
            "pipelines": pipelines,
        }));
        self.problems.or(Parts { tree, notes: self.notes, places: self.places })
    }

    fn poller(&mut self) -> Value {
        let interval = match self.file.scrape_interval {
            Some(interval) => interval.0,
            None => self.missing("scrape_interval", "how often to scrape, as 60s"),
        };
        let jobs = self.jobs();
        if jobs.is_empty() {
            self.problems.add("jobs", "there is nothing to poll");
        }
        self.place("pipelines.poller.source.interval", "scrape_interval");
        self.place("pipelines.poller.source.timeout", "scrape_interval");
        self.place("pipelines.poller.source.jobs", "jobs");
        let (sink, classic) = ("pipelines.poller.sinks[0]", "poller_stream");
        let stream = self.stream(sink, classic, self.file.poller_stream.as_ref());
        self.place(&format!("{sink}.stream.max_age"), "max_age");
        if stream.durable.is_some() {
            self.note("poller_stream.client_id", "a poller needs none any more");
        }
        let max_age = Duration::from_secs(self.file.max_age.unwrap_or(0));
        json!({
            "source": {
                "type": "http_scrape",
                "interval": Span(interval),
                // The whole interval, as it was, for targets that are slow.
                "timeout": Span(interval),
                "jobs": jobs,
            },
            "sinks": [{
                "type": "nats",
                "urls": stream.urls,
                "user": stream.user,
                "password": stream.password,
                "token": stream.token,
                "stream": {
                    "name": stream.name,
                    "max_age": (max_age > STREAM_MAX_AGE).then_some(Span(max_age)),
                },
                "subject": format!("{}.{{publisher}}.{{job}}.{{instance}}", stream.topic),
                "tls": stream.tls,
            }],
        })
    }

    fn receiver(&mut self) -> Value {
        let (source, classic) = ("pipelines.receiver.source", "receiver_stream");
        let stream = self.stream(source, classic, self.file.receiver_stream.as_ref());
        self.place(&format!("{source}.durable"), "receiver_stream.client_id");
        self.place("pipelines.receiver.transforms[0].max_age", "max_age");
        self.place("pipelines.receiver.sinks[0]", "push_gateway");
        self.place("pipelines.receiver.sinks[0].basic_auth", "push_gateway.url");
        let durable =
            stream.durable.unwrap_or_else(|| name_of(&format!("prometheus_streams_{}", self.host())));
        let max_age = self.file.max_age.filter(|seconds| *seconds > 0).map(Span::secs);
        let gateway = self.file.push_gateway.as_ref();
        let publisher_label = gateway.and_then(|gateway| gateway.publisher_label).is_some_and(|flag| flag.0);
        let url = match gateway.and_then(|gateway| gateway.url.as_ref()) {
            Some(url) => url.0.clone(),
            None => self.missing("push_gateway.url", "where scrapes go, as http://localhost:9091"),
        };
        let (url, basic_auth) = self.basic_auth("push_gateway.url", &url);
        let transforms = [
            max_age.map(|max_age| json!({ "type": "age_filter", "max_age": max_age })),
            (!publisher_label).then(|| json!({ "type": "labeler", "drop": ["publisher"] })),
        ];
        json!({
            "source": {
                "type": "nats",
                "urls": stream.urls,
                "user": stream.user,
                "password": stream.password,
                "token": stream.token,
                "stream": stream.name,
                "durable": durable,
                "tls": stream.tls,
            },
            "transforms": transforms.into_iter().flatten().collect::<Vec<_>>(),
            "sinks": [{ "type": "push_gateway", "url": url, "basic_auth": basic_auth }],
        })
    }

    fn log(&self) -> Value {
        let debug = self.file.debug.is_some_and(|flag| flag.0);
        json!({
            "level": if debug { "debug" } else { "info" },
            "format": self.file.logfile.as_ref().map(|_| "json"),
            "file": self.file.logfile,
        })
    }

    fn monitor(&self) -> Option<Value> {
        let port = self.monitor_port()?;
        // All addresses, as it was; and on those it only ever showed metrics.
        Some(json!({ "monitor": { "listen": format!("0.0.0.0:{port}"), "read_only": true } }))
    }

    fn monitor_port(&self) -> Option<u16> {
        self.file.monitor_port.filter(|port| *port > 0)
    }

    fn jobs(&mut self) -> Map<String, Value> {
        let mut jobs = Map::new();
        for (name, job) in self.file.jobs.iter().flatten() {
            let targets = job.iter().filter_map(|job| job.targets.as_ref()).flatten().enumerate();
            let targets: Vec<_> = targets
                .map(|(index, target)| self.target(&format!("jobs.{name}.targets[{index}]"), target))
                .collect();
            if targets.is_empty() {
                self.note(&format!("jobs.{name}"), "the job has no targets");
                continue;
            }
            jobs.insert(name.clone(), json!({ "targets": targets, "fallback_scrape_protocol": FALLBACK }));
        }
        if let Some(port) = self.monitor_port() {
            let own = json!({ "name": self.host(), "url": format!("http://localhost:{port}/metrics") });
            if jobs.insert(OWN_JOB.to_owned(), json!({ "targets": [own] })).is_some() {
                let text = "is the job of this program itself while there is a monitor_port; its targets are not scraped";
                self.note(&format!("jobs.{OWN_JOB}"), text);
            }
        }
        jobs
    }

    fn target(&mut self, path: &str, target: &Target) -> Value {
        let name = target.name.as_ref().map(Text::as_str).filter(|name| !name.is_empty());
        let (url, basic_auth) = self.basic_auth(&format!("{path}.url"), target.url.as_str());
        json!({ "name": name, "url": url, "basic_auth": basic_auth })
    }

    /// An address of the web without the user in it, and that user.
    fn basic_auth(&mut self, path: &str, url: &str) -> (String, Option<Value>) {
        let Address { url, login } = Address::parse(url);
        let basic_auth = login.map(|login| {
            self.note(path, LOGIN_MOVED);
            json!({ "username": login.user, "password": login.password })
        });
        (url, basic_auth)
    }

    /// `here` is where the stage stands in the tree, and `path` where the stream stands in the file.
    fn stream(&mut self, here: &str, path: &str, stream: Option<&Stream>) -> Translated {
        let Some(stream) = stream else {
            return self.missing(path, "where the stream is");
        };
        self.place(here, path);
        self.place(&format!("{here}.subject"), &format!("{path}.topic"));
        for key in ["user", "password", "token"] {
            self.place(&format!("{here}.{key}"), &format!("{path}.urls"));
        }
        let (urls, login) = self.servers(&format!("{path}.urls"), stream.urls.as_ref());
        let (user, password, token) = match login {
            Some(Login { user, password: Some(password) }) => (Some(user), Some(password), None),
            Some(Login { user, password: None }) => (None, None, Some(user)),
            None => (None, None, None),
        };
        let topic = match &stream.topic {
            Some(topic) => self.topic(&format!("{path}.topic"), topic.as_str()),
            None => self.missing(&format!("{path}.topic"), "the subject that scrapes travel under"),
        };
        let name = match &stream.stream {
            Some(name) => self.name(&format!("{path}.stream"), name.as_str()),
            None => name_of(&topic.to_uppercase()),
        };
        let durable =
            stream.client_id.as_ref().map(|id| self.name(&format!("{path}.client_id"), id.as_str()));
        if stream.cluster_id.is_some() {
            self.note(
                &format!("{path}.cluster_id"),
                "belongs to NATS Streaming, which is at its end of life; scrapes now travel through JetStream",
            );
        }
        let tls = match (&stream.tls, &self.file.tls) {
            (Some(tls), _) => Some(self.tls(&format!("{here}.tls"), &format!("{path}.tls"), tls)),
            (None, Some(tls)) => Some(self.tls(&format!("{here}.tls"), "tls", tls)),
            (None, None) => None,
        };
        Translated { urls, user, password, token, name, topic, durable, tls }
    }

    /// The servers, and the user for all of them.
    fn servers(&mut self, path: &str, urls: Option<&Text>) -> (Vec<String>, Option<Login>) {
        let parts = urls.iter().flat_map(|urls| urls.0.split(',')).map(str::trim);
        let (mut servers, mut logins) = (Vec::new(), Vec::new());
        for url in parts.filter(|url| !url.is_empty()) {
            let scheme = if url.contains("://") { "" } else { "nats://" };
            let Address { url, login } = Address::parse(&format!("{scheme}{url}"));
            servers.push(url);
            logins.extend(login);
        }
        logins.dedup();
        match &logins[..] {
            [] => {}
            [_] => self.note(path, LOGIN_MOVED),
            _ => {
                self.problems.add(path, "the servers have different users; there can be one for all of them")
            }
        }
        if servers.is_empty() {
            return self.missing(path, "where the NATS servers are, as nats://localhost:4222");
        }
        (servers, logins.pop())
    }

    /// A topic is the front of a subject.
    fn topic(&mut self, path: &str, topic: &str) -> String {
        let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '*' | '>' | '{' | '}');
        if topic.contains(bad) || topic.split('.').any(str::is_empty) {
            self.problems.add(path, format!("{topic:?} is not a subject, as prometheus or dc1.prometheus"));
        }
        topic.to_owned()
    }

    /// The name of a stream or of a durable consumer.
    fn name(&mut self, path: &str, name: &str) -> String {
        if name.is_empty() || name_of(name) != name {
            self.problems.add(path, format!("{name:?} is not a name: no blanks and none of . * > / \\"));
        }
        name.to_owned()
    }

    fn tls(&mut self, here: &str, path: &str, tls: &Tls) -> Value {
        if tls.cache.is_some() {
            self.note(&format!("{path}.cache"), "certificates of others are not kept any more");
        }
        match tls.scheme.as_ref().map(Text::as_str) {
            Some("puppet") => {
                for key in ["ca_file", "cert_file", "key_file"] {
                    self.place(&format!("{here}.{key}"), &format!("{path}.ssl_dir"));
                }
                self.puppet(path, tls)
            }
            Some("manual" | "file") => {
                for key in ["ca", "cert", "key"] {
                    self.place(&format!("{here}.{key}_file"), &format!("{path}.{key}"));
                }
                json!({ "ca_file": tls.ca, "cert_file": tls.cert, "key_file": tls.key })
            }
            Some(other) => {
                let message = format!("{other:?} is not a scheme; there are puppet, manual and file");
                self.problems.add(format!("{path}.scheme"), message);
                Value::Null
            }
            None => self.missing(&format!("{path}.scheme"), "puppet, manual or file"),
        }
    }

    fn puppet(&mut self, path: &str, tls: &Tls) -> Value {
        let Some(dir) = &tls.ssl_dir else {
            return self.missing(&format!("{path}.ssl_dir"), "as /etc/puppetlabs/puppet/ssl");
        };
        let identity = tls.identity.as_ref().map_or_else(|| self.host(), |identity| identity.0.clone());
        // An identity with a slash would lead out of the directory.
        if Path::new(&identity).file_name().is_none_or(|name| name != identity.as_str()) {
            self.problems
                .add(format!("{path}.identity"), format!("{identity:?} is not a certificate's name"));
        }
        let pem = format!("{identity}.pem");
        json!({
            "ca_file": dir.join("certs/ca.pem"),
            "cert_file": dir.join("certs").join(&pem),
            "key_file": dir.join("private_keys").join(&pem),
        })
    }

    fn host(&self) -> String {
        self.file.identity.as_ref().map_or_else(host_name, |identity| identity.0.clone())
    }

    /// Notes that a key is missing, and stands in for it so that the search for mistakes goes on.
    fn missing<T: Default>(&mut self, path: &str, what: &str) -> T {
        self.problems.add(path, format!("is missing: {what}"));
        T::default()
    }

    /// Notes that what stands at `new` in the tree comes from `classic` in the file.
    fn place(&mut self, new: &str, classic: &str) {
        self.places.push((new.to_owned(), classic.to_owned()));
    }

    /// Tells the user something, once.
    fn note(&mut self, path: &str, text: &str) {
        let note = Note { path: path.to_owned(), text: text.to_owned() };
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// What a stream of the classic file means now.
#[derive(Default)]
struct Translated {
    urls: Vec<String>,
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
    name: String,
    topic: String,
    durable: Option<String>,
    tls: Option<Value>,
}

/// `text` with an underscore for everything that the name of a stream or consumer cannot have.
fn name_of(text: &str) -> String {
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>' | '/' | '\\');
    text.replace(bad, "_")
}

/// `tree` without what is absent or empty, with its texts safe from interpolation.
fn compact(tree: Value) -> Value {
    let keep = |value: &Value| match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    };
    match tree {
        Value::Object(map) => {
            let map = map.into_iter().map(|(key, value)| (key, compact(value)));
            Value::Object(map.filter(|(_, value)| keep(value)).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(compact).collect()),
        // What the classic program took as it stands is no reference to the environment.
        Value::String(text) => Value::String(text.replace("${", "$${")),
        leaf => leaf,
    }
}
