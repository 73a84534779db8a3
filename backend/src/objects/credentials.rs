//! Credentials of the object store: fixed ones, or those of the EC2 instance's role, fetched from the
//! instance metadata service (IMDSv2) and renewed before they expire.
//!
//! Source: EC2 user guide, "Use the Instance Metadata Service" and "Retrieve security credentials from
//! instance metadata".

use std::{fmt, sync::Arc, time::Duration};

use axum::{body::Body, http::request};
use hyper::{Method, Request};
use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    ObjectError,
    http::{Http, read_text},
};
use crate::{clock, metrics::Metrics};

/// Life of a session token of the metadata service; the service's own maximum.
const METADATA_TOKEN_SECONDS: &str = "21600";

/// Time for one question to the metadata service, which is on this very machine.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);

/// New credentials are there at least five minutes before the old ones expire; so this long before,
/// they are looked for.
const RENEW_AHEAD: Duration = Duration::from_secs(600);

/// Pauses between two looks when that time has come and the old ones are still served.
const RENEW_PAUSE_MIN: Duration = Duration::from_millis(250);
const RENEW_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Pause after the metadata service failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// How long a request waits for credentials that are not there.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Where credentials come from.
#[derive(Clone)]
pub enum CredentialSource {
    /// They are given and do not expire.
    Fixed(Credentials),
    /// They are those of the instance's role; the URL of the metadata service.
    InstanceProfile(String),
}

/// What signs requests.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Access key id.
    pub key: String,
    /// Secret access key.
    pub secret: String,
    /// Session token of temporary credentials.
    pub token: Option<String>,
    /// End of temporary credentials, in milliseconds since 1970.
    pub expires_at: Option<u64>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("key", &self.key)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// How long they hold; `None` for ever.
    pub(super) fn remaining(&self) -> Option<Duration> {
        let left = self.expires_at?.saturating_sub(clock::now_ms());
        Some(Duration::from_millis(left))
    }

    fn hold(&self) -> bool {
        self.remaining().is_none_or(|left| !left.is_zero())
    }
}

/// The credentials in force.
pub(super) struct Keyring {
    source: CredentialSource,
    current: watch::Sender<Option<Arc<Credentials>>>,
    http: Http,
    metrics: Arc<Metrics>,
}

impl Keyring {
    pub(super) fn new(source: CredentialSource, http: Http, metrics: Arc<Metrics>) -> Self {
        let fixed = match &source {
            CredentialSource::Fixed(credentials) => Some(Arc::new(credentials.clone())),
            CredentialSource::InstanceProfile(_) => None,
        };
        Self {
            source,
            current: watch::Sender::new(fixed),
            http,
            metrics,
        }
    }

    /// Credentials that hold, waiting a moment for them at the start of the process.
    pub(super) async fn current(&self) -> Result<Arc<Credentials>, ObjectError> {
        let mut current = self.current.subscribe();
        let holds = |current: &Option<Arc<Credentials>>| {
            current.as_ref().is_some_and(|current| current.hold())
        };
        let credentials = timeout(WAIT_MAX, current.wait_for(holds)).await;
        let credentials = credentials.ok().and_then(Result::ok);
        let credentials = credentials.and_then(|found| found.clone());
        credentials.ok_or(ObjectError::Unavailable)
    }

    /// Keeps the credentials renewed; runs until dropped.
    pub(super) async fn renew(&self) {
        let CredentialSource::InstanceProfile(url) = &self.source else {
            return;
        };
        loop {
            let pause = match self.fetch(url).await {
                Ok(credentials) => {
                    let pause = pause_after(&credentials);
                    self.metrics.credentials_renewed(credentials.expires_at);
                    self.current.send_replace(Some(Arc::new(credentials)));
                    pause
                }
                Err(reason) => {
                    self.metrics.credential_failures.inc();
                    tracing::warn!(reason, "the instance metadata service gave no credentials");
                    FAILURE_PAUSE
                }
            };
            sleep(pause.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
        }
    }

    /// The session token, the name of the role, the role's credentials.
    async fn fetch(&self, url: &str) -> Result<Credentials, &'static str> {
        const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
        let token = Request::builder()
            .method(Method::PUT)
            .uri(format!("{url}/latest/api/token"))
            .header(
                "x-aws-ec2-metadata-token-ttl-seconds",
                METADATA_TOKEN_SECONDS,
            );
        let token = self.ask(token).await?;
        let get = |path: &str| {
            Request::builder()
                .uri(format!("{url}{path}"))
                .header("x-aws-ec2-metadata-token", &token)
        };
        let roles = self.ask(get(ROLES)).await?;
        let role = roles.lines().next().ok_or("the instance has no role")?;
        let credentials = self.ask(get(&format!("{ROLES}{}", role.trim()))).await?;
        parse(&credentials)
    }

    async fn ask(&self, request: request::Builder) -> Result<String, &'static str> {
        let request = request.body(Body::empty()).map_err(|_| "no valid URL")?;
        let answer = async {
            let response = self.http.request(request).await;
            let response = response.map_err(|_| "it does not answer")?;
            if !response.status().is_success() {
                return Err("it refuses");
            }
            read_text(response.into_body())
                .await
                .map_err(|_| "its answer broke off")
        };
        timeout(METADATA_TIMEOUT, answer)
            .await
            .map_err(|_| "it does not answer in time")?
    }
}

/// The answer of the metadata service about a role.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RoleCredentials {
    access_key_id: String,
    secret_access_key: String,
    token: String,
    expiration: String,
}

fn parse(answer: &str) -> Result<Credentials, &'static str> {
    let role: RoleCredentials =
        serde_json::from_str(answer).map_err(|_| "its answer holds no credentials")?;
    let expires_at = OffsetDateTime::parse(&role.expiration, &Rfc3339).ok();
    let expires_at = expires_at.and_then(|at| u64::try_from(at.unix_timestamp()).ok());
    Ok(Credentials {
        key: role.access_key_id,
        secret: role.secret_access_key,
        token: Some(role.token),
        expires_at: Some(expires_at.ok_or("the expiration is no date")? * 1000),
    })
}

fn pause_after(credentials: &Credentials) -> Duration {
    let left = credentials.remaining().unwrap_or(Duration::MAX);
    let soon = (left / 4).clamp(RENEW_PAUSE_MIN, RENEW_PAUSE_MAX);
    left.saturating_sub(RENEW_AHEAD).max(soon)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"Code":"Success","LastUpdated":"2026-11-22T07:16:30Z","Type":"AWS-HMAC",
        "AccessKeyId":"ASIA","SecretAccessKey":"hidden","Token":"t","Expiration":"2026-11-22T13:36:30Z"}"#;

    #[test]
    fn credentials_of_a_role_are_read_and_not_printed() {
        let credentials = parse(ANSWER).unwrap();
        assert_eq!(credentials.expires_at, Some(1_795_354_590_000));
        assert_eq!(credentials.token.as_deref(), Some("t"));
        assert!(!format!("{credentials:?}").contains("hidden"));
        assert!(parse("{}").is_err());
        assert!(parse(&ANSWER.replace("2026-11-22T13", "tomorrow")).is_err());
    }

    #[test]
    fn renewal_comes_before_the_end() {
        let holding = |left: Duration| {
            let mut credentials = parse(ANSWER).unwrap();
            let end = clock::now() + left;
            credentials.expires_at = Some(u64::try_from(end.as_millis()).unwrap());
            pause_after(&credentials)
        };
        let hours = holding(Duration::from_secs(6 * 3600));
        assert!(hours <= Duration::from_secs(6 * 3600 - 600), "{hours:?}");
        assert!(hours > Duration::from_secs(5 * 3600), "{hours:?}");
        assert!(holding(Duration::from_secs(300)) <= RENEW_PAUSE_MAX);
        assert_eq!(holding(Duration::ZERO), RENEW_PAUSE_MIN);
    }
}
