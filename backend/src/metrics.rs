//! What operators count, in one table.
//!
//! | name | labels | meaning |
//! |---|---|---|
//! | `http_server_requests_seconds` | `method`, `uri`, `status`, `outcome` | time to answer |
//! | `http_requests_in_flight` | | handlers running, also after their client left |
//! | `http_connections` | | open connections |
//! | `http_task_panics_total` | | handlers that panicked: each is a bug |
//! | `password_jobs` | | hashing jobs waiting or in work |
//! | `password_refusals_total` | | jobs refused because the queue was full |
//! | `store_command_seconds` | `question` | time to ask Redis, with retries |
//! | `store_retries_total` | `reason` | commands asked again |
//! | `store_failures_total` | `question` | questions without an answer |
//! | `file_uploads_total` | `purpose`, `way` | objects stored: by a form, or by a presigned URL |
//! | `file_upload_bytes_total` | `purpose`, `way` | their bytes |
//! | `file_uploads_in_flight` | | forms with files in work |
//! | `file_deliveries_total` | `way` | streamed, redirected, or known to the client |
//! | `file_delivery_bytes_total` | | bytes of streamed answers |
//! | `object_store_request_seconds` | `call` | time to the object store's answer, with retries |
//! | `object_store_failures_total` | `call` | requests that the object store did not carry out |
//! | `object_store_credentials_expiry_seconds` | | when the credentials expire, seconds since 1970; 0: never |
//! | `object_store_credentials_failures_total` | | renewals that failed |
//!
//! Every name has the labels `application` and `host`.

use std::time::Duration;

use axum::http;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::media::Purpose;

/// Buckets of all histograms: 0.5 ms to 10 s.
const BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

type Seconds<L> = Family<L, Histogram, fn() -> Histogram>;

/// All counters of the process.
pub struct Metrics {
    registry: Registry,
    requests: Seconds<RequestLabels>,
    pub(crate) requests_in_flight: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) task_panics: Counter,
    pub(crate) password_queue: Gauge,
    pub(crate) password_refusals: Counter,
    commands: Seconds<QuestionLabel>,
    retries: Family<ReasonLabel, Counter>,
    failures: Family<QuestionLabel, Counter>,
    uploads: Family<UploadLabels, Counter>,
    upload_bytes: Family<UploadLabels, Counter>,
    pub(crate) uploads_in_flight: Gauge,
    deliveries: Family<DeliveryLabel, Counter>,
    delivery_bytes: Counter,
    object_requests: Seconds<CallLabel>,
    object_failures: Family<CallLabel, Counter>,
    credentials_expiry: Gauge,
    pub(crate) credential_failures: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UploadLabels {
    purpose: &'static str,
    way: &'static str,
}

/// How a file came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Form,
    Presigned,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeliveryLabel {
    way: &'static str,
}

/// How a file went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Stream,
    Redirect,
    NotModified,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabel {
    call: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: Method,
    uri: String,
    status: u32,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(
    clippy::upper_case_acronyms,
    reason = "label values, as HTTP writes them"
)]
enum Method {
    GET,
    HEAD,
    POST,
    PUT,
    DELETE,
    OPTIONS,
    OTHER,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(
    non_camel_case_types,
    clippy::upper_case_acronyms,
    reason = "label values of Spring"
)]
enum Outcome {
    INFORMATIONAL,
    SUCCESS,
    REDIRECTION,
    CLIENT_ERROR,
    SERVER_ERROR,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QuestionLabel {
    question: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl Metrics {
    /// Makes all counters, at zero.
    #[must_use]
    pub fn new(host: &str) -> Self {
        let common = [("application", "slotcast-backend"), ("host", host)]
            .map(|(name, value)| (name.into(), value.to_owned().into()));
        let mut metrics = Self {
            registry: Registry::with_labels(common.into_iter()),
            requests: Family::new_with_constructor(histogram),
            requests_in_flight: Gauge::default(),
            connections: Gauge::default(),
            task_panics: Counter::default(),
            password_queue: Gauge::default(),
            password_refusals: Counter::default(),
            commands: Family::new_with_constructor(histogram),
            retries: Family::default(),
            failures: Family::default(),
            uploads: Family::default(),
            upload_bytes: Family::default(),
            uploads_in_flight: Gauge::default(),
            deliveries: Family::default(),
            delivery_bytes: Counter::default(),
            object_requests: Family::new_with_constructor(histogram),
            object_failures: Family::default(),
            credentials_expiry: Gauge::default(),
            credential_failures: Counter::default(),
        };
        metrics.register();
        metrics.register_files();
        metrics
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self::new("test"))
    }

    fn register(&mut self) {
        let seconds = Unit::Seconds;
        let all = &mut self.registry;
        all.register_with_unit(
            "http_server_requests",
            "Time to answer",
            seconds.clone(),
            self.requests.clone(),
        );
        all.register(
            "http_requests_in_flight",
            "Handlers running",
            self.requests_in_flight.clone(),
        );
        all.register(
            "http_connections",
            "Open connections",
            self.connections.clone(),
        );
        all.register(
            "http_task_panics",
            "Handlers that panicked",
            self.task_panics.clone(),
        );
        all.register(
            "password_jobs",
            "Hashing jobs waiting or in work",
            self.password_queue.clone(),
        );
        all.register(
            "password_refusals",
            "Hashing jobs refused because the queue was full",
            self.password_refusals.clone(),
        );
        all.register_with_unit(
            "store_command",
            "Time to ask Redis, with retries",
            seconds,
            self.commands.clone(),
        );
        all.register(
            "store_retries",
            "Commands asked again",
            self.retries.clone(),
        );
        all.register(
            "store_failures",
            "Questions without an answer",
            self.failures.clone(),
        );
    }

    fn register_files(&mut self) {
        let all = &mut self.registry;
        all.register("file_uploads", "Objects stored", self.uploads.clone());
        all.register(
            "file_upload_bytes",
            "Bytes of the objects stored",
            self.upload_bytes.clone(),
        );
        all.register(
            "file_uploads_in_flight",
            "Forms with files in work",
            self.uploads_in_flight.clone(),
        );
        all.register("file_deliveries", "Files given", self.deliveries.clone());
        all.register(
            "file_delivery_bytes",
            "Bytes of streamed answers",
            self.delivery_bytes.clone(),
        );
        all.register_with_unit(
            "object_store_request",
            "Time to the object store's answer, with retries",
            Unit::Seconds,
            self.object_requests.clone(),
        );
        all.register(
            "object_store_failures",
            "Requests that the object store did not carry out",
            self.object_failures.clone(),
        );
        all.register_with_unit(
            "object_store_credentials_expiry",
            "When the credentials expire; 0: never",
            Unit::Seconds,
            self.credentials_expiry.clone(),
        );
        all.register(
            "object_store_credentials_failures",
            "Renewals of credentials that failed",
            self.credential_failures.clone(),
        );
    }

    /// All counters as Prometheus reads them.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            tracing::error!("the metrics could not be written");
        }
        text
    }

    /// Names of the metrics, for `/actuator/metrics`.
    pub(crate) fn names(&self) -> Vec<String> {
        let text = self.text();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types
            .filter_map(|line| line.split(' ').next())
            .map(str::to_owned)
            .collect()
    }

    /// Notes an answer; `uri` is a pattern of the URL map, never what a client typed.
    pub(crate) fn answered(
        &self,
        method: &http::Method,
        uri: String,
        status: http::StatusCode,
        time: Duration,
    ) {
        let labels = RequestLabels {
            method: Method::of(method),
            uri,
            status: status.as_u16().into(),
            outcome: Outcome::of(status),
        };
        self.requests
            .get_or_create(&labels)
            .observe(time.as_secs_f64());
    }

    pub(crate) fn asked(&self, question: &'static str, time: Duration) {
        let labels = QuestionLabel { question };
        self.commands
            .get_or_create(&labels)
            .observe(time.as_secs_f64());
    }

    pub(crate) fn retried(&self, reason: &'static str) {
        self.retries.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn uploaded(&self, purpose: Purpose, way: Way, bytes: u64) {
        let labels = UploadLabels {
            purpose: match purpose {
                Purpose::Attachment => "attachment",
                Purpose::ProfileImage => "profile_image",
            },
            way: match way {
                Way::Form => "form",
                Way::Presigned => "presigned",
            },
        };
        self.uploads.get_or_create(&labels).inc();
        self.upload_bytes.get_or_create(&labels).inc_by(bytes);
    }

    pub(crate) fn delivered(&self, delivery: Delivery, bytes: u64) {
        let way = match delivery {
            Delivery::Stream => "stream",
            Delivery::Redirect => "redirect",
            Delivery::NotModified => "not_modified",
        };
        self.deliveries.get_or_create(&DeliveryLabel { way }).inc();
        self.delivery_bytes.inc_by(bytes);
    }

    pub(crate) fn object_store_asked(&self, call: &'static str, time: Duration) {
        self.object_requests
            .get_or_create(&CallLabel { call })
            .observe(time.as_secs_f64());
    }

    pub(crate) fn object_store_failed(&self, call: &'static str) {
        self.object_failures
            .get_or_create(&CallLabel { call })
            .inc();
    }

    pub(crate) fn credentials_renewed(&self, expires_at_ms: Option<u64>) {
        let seconds = expires_at_ms.unwrap_or_default() / 1000;
        self.credentials_expiry
            .set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    pub(crate) fn failed(&self, question: &'static str) {
        self.failures
            .get_or_create(&QuestionLabel { question })
            .inc();
    }
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Method {
    fn of(method: &http::Method) -> Self {
        match method.as_str() {
            "GET" => Self::GET,
            "HEAD" => Self::HEAD,
            "POST" => Self::POST,
            "PUT" => Self::PUT,
            "DELETE" => Self::DELETE,
            "OPTIONS" => Self::OPTIONS,
            _ => Self::OTHER,
        }
    }
}

impl Outcome {
    fn of(status: http::StatusCode) -> Self {
        match status.as_u16() {
            0..200 => Self::INFORMATIONAL,
            200..300 => Self::SUCCESS,
            300..400 => Self::REDIRECTION,
            400..500 => Self::CLIENT_ERROR,
            _ => Self::SERVER_ERROR,
        }
    }
}

/// The media type of [`Metrics::text`].
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_under_the_names_that_dashboards_know() {
        let metrics = Metrics::new("h");
        metrics.answered(
            &http::Method::GET,
            "/api/rooms".to_owned(),
            http::StatusCode::OK,
            Duration::from_millis(3),
        );
        let text = metrics.text();
        let wanted = concat!(
            "http_server_requests_seconds_count{application=\"slotcast-backend\",host=\"h\",",
            "method=\"GET\",uri=\"/api/rooms\",status=\"200\",outcome=\"SUCCESS\"} 1",
        );
        assert!(text.contains(wanted), "{text}");
        assert!(
            metrics
                .names()
                .contains(&"http_server_requests_seconds".to_owned())
        );
    }
}
