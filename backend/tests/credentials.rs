//! Credentials of the EC2 instance's role, from a stand-in for the instance metadata service (IMDSv2).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::{get, put},
};
use serde_json::json;
use support::{Answer, TestApp, User, start};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::net::TcpListener;
use url::Url;

/// The metadata service: every look at the role gives new credentials.
#[derive(Clone, Default)]
struct Metadata(Arc<Mutex<Service>>);

#[derive(Default)]
struct Service {
    is_down: bool,
    lifetime: Duration,
    /// Credentials given so far.
    given: u32,
}

impl Metadata {
    /// Serves on a port of its own; its URL.
    async fn serve(&self, lifetime: Duration) -> String {
        self.set(|state| state.lifetime = lifetime);
        let roles = "/latest/meta-data/iam/security-credentials/";
        let router = Router::new()
            .route("/latest/api/token", put(token))
            .route(roles, get(roles_of_instance))
            .route(&format!("{roles}{{role}}"), get(credentials))
            .with_state(self.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    fn set(&self, change: impl FnOnce(&mut Service)) {
        change(&mut self.0.lock().unwrap());
    }

    fn given(&self) -> u32 {
        self.0.lock().unwrap().given
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), StatusCode> {
        if self.0.lock().unwrap().is_down {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        let token = headers.get("x-aws-ec2-metadata-token");
        if token.is_some_and(|token| token == "a session token") {
            Ok(())
        } else {
            Err(StatusCode::UNAUTHORIZED)
        }
    }
}

async fn token(
    State(metadata): State<Metadata>,
    headers: HeaderMap,
) -> Result<&'static str, StatusCode> {
    let ttl = headers.get("x-aws-ec2-metadata-token-ttl-seconds");
    let ttl: u32 = ttl
        .and_then(|ttl| ttl.to_str().ok()?.parse().ok())
        .ok_or(StatusCode::BAD_REQUEST)?;
    assert!((1..=21_600).contains(&ttl));
    if metadata.0.lock().unwrap().is_down {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    Ok("a session token")
}

async fn roles_of_instance(
    State(metadata): State<Metadata>,
    headers: HeaderMap,
) -> Result<&'static str, StatusCode> {
    metadata.check(&headers)?;
    Ok("slotcast-backend")
}

async fn credentials(
    State(metadata): State<Metadata>,
    Path(role): Path<String>,
    headers: HeaderMap,
) -> Result<String, StatusCode> {
    metadata.check(&headers)?;
    assert_eq!(role, "slotcast-backend");
    let mut state = metadata.0.lock().unwrap();
    state.given += 1;
    let end = OffsetDateTime::from(SystemTime::now() + state.lifetime);
    Ok(json!({
        "Code": "Success",
        "Type": "AWS-HMAC",
        "AccessKeyId": format!("ASIA{}", state.given),
        "SecretAccessKey": "a secret",
        "Token": format!("token {}", state.given),
        "Expiration": end.replace_nanosecond(0).unwrap().format(&Rfc3339).unwrap(),
    })
    .to_string())
}

async fn backend(metadata_url: &str) -> (TestApp, User) {
    let app = start(&[
        ("SLOTCAST_S3_BUCKET", "bucket"),
        ("SLOTCAST_S3_METADATA_URL", metadata_url),
        ("SLOTCAST_UPLOAD_URL_SECONDS", "300"),
    ])
    .await;
    let user = app.user().await;
    (app, user)
}

async fn presign(app: &TestApp, user: &User) -> Answer {
    let form = json!({"originalname": "a.png", "mimetype": "image/png", "size": 5});
    app.post("/api/files/presign")
        .by(user)
        .json(&form)
        .send()
        .await
}

/// The query of the URL that was handed out.
fn query(answer: &Answer) -> HashMap<String, String> {
    let json = answer.assert_status(200).json();
    let url = Url::parse(json["upload"]["url"].as_str().unwrap()).unwrap();
    url.query_pairs().into_owned().collect()
}

fn key(answer: &Answer) -> String {
    query(answer)["X-Amz-Credential"]
        .split('/')
        .next()
        .unwrap()
        .to_owned()
}

/// Which of the credentials given a key belongs to.
fn number(key: &str) -> u32 {
    key.strip_prefix("ASIA").unwrap().parse().unwrap()
}

#[tokio::test]
async fn urls_are_signed_by_the_role_and_end_before_its_credentials() {
    let metadata = Metadata::default();
    let (app, user) = backend(&metadata.serve(Duration::from_secs(100)).await).await;
    let query = query(&presign(&app, &user).await);
    assert!(query["X-Amz-Credential"].starts_with("ASIA1/"), "{query:?}");
    assert_eq!(query["X-Amz-Security-Token"], "token 1");
    let seconds: u64 = query["X-Amz-Expires"].parse().unwrap();
    assert!((1..=100).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn credentials_are_renewed_while_the_old_ones_hold() {
    let metadata = Metadata::default();
    let (app, user) = backend(&metadata.serve(Duration::from_secs(3)).await).await;
    let mut keys = Vec::new();
    let begun = Instant::now();
    while keys.len() < 4 {
        let key = key(&presign(&app, &user).await);
        if keys.last() != Some(&key) {
            keys.push(key);
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{keys:?}");
        tokio::task::yield_now().await;
    }
    // On a busy machine some may come and go between two looks.
    assert!(
        keys.is_sorted_by(|one, next| number(one) < number(next)),
        "{keys:?}"
    );
}

#[tokio::test]
async fn failing_metadata_service_harms_nobody_until_the_credentials_end() {
    let metadata = Metadata::default();
    let (app, user) = backend(&metadata.serve(Duration::from_secs(4)).await).await;
    assert!(number(&key(&presign(&app, &user).await)) <= metadata.given());
    metadata.set(|state| state.is_down = true);
    let last = metadata.given();
    let begun = Instant::now();
    let refused = loop {
        let answer = presign(&app, &user).await;
        if answer.status != StatusCode::OK {
            break answer;
        }
        assert!(number(&key(&answer)) <= last);
        assert!(begun.elapsed() < Duration::from_secs(30));
    };
    refused.assert(503, "파일 업로드 중 오류가 발생했습니다.");
    assert_eq!(refused.header("retry-after"), "1");
    let metrics = app.admin("/metrics").await.text;
    let failures = metrics
        .lines()
        .find(|line| line.starts_with("object_store_credentials_failures_total{"));
    assert!(!failures.unwrap().ends_with(" 0"), "{failures:?}");

    metadata.set(|state| state.is_down = false);
    while presign(&app, &user).await.status != StatusCode::OK {
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}

#[tokio::test]
async fn backend_starts_before_its_metadata_service() {
    let metadata = Metadata::default();
    metadata.set(|state| state.is_down = true);
    let (app, user) = backend(&metadata.serve(Duration::from_secs(3600)).await).await;
    presign(&app, &user).await.assert_status(503);
    metadata.set(|state| state.is_down = false);
    let begun = Instant::now();
    while presign(&app, &user).await.status != StatusCode::OK {
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}

#[tokio::test]
async fn fixed_keys_ask_nobody() {
    let app = start(&[
        ("SLOTCAST_S3_BUCKET", "bucket"),
        ("SLOTCAST_S3_ENDPOINT", "http://127.0.0.1:9"),
        ("SLOTCAST_S3_PUBLIC_ENDPOINT", "https://files.example/s3"),
        ("SLOTCAST_S3_PATH_STYLE", "true"),
        ("SLOTCAST_S3_ACCESS_KEY_ID", "fixed"),
        ("SLOTCAST_S3_SECRET_ACCESS_KEY", "a secret"),
        ("SLOTCAST_UPLOAD_URL_SECONDS", "17"),
    ])
    .await;
    let user = app.user().await;
    let answer = presign(&app, &user).await;
    let query = query(&answer);
    assert_eq!(key(&answer), "fixed");
    assert_eq!(query["X-Amz-Expires"], "17");
    assert!(!query.contains_key("X-Amz-Security-Token"));
    let url = answer.json()["upload"]["url"].as_str().unwrap().to_owned();
    assert!(
        url.starts_with("https://files.example/s3/bucket/uploads/"),
        "{url}"
    );
}
