//! Bounds: rates, queues, requests in work; and clients that leave.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use support::{PASSWORD, start, unique_email};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

#[tokio::test]
async fn room_lists_are_limited_per_address() {
    let app = start(&[
        ("SLOTCAST_ROOMS_RATE_LIMIT", "2"),
        // A window of a day does not end while the test runs, unless it runs at midnight.
        ("SLOTCAST_ROOMS_RATE_WINDOW_SECONDS", "86400"),
    ])
    .await;
    let user = app.user().await;
    let list = |address: &str| {
        let call = app.get("/api/rooms").by(&user);
        call.header("x-forwarded-for", address).send()
    };
    for remaining in ["1", "0"] {
        let answer = list("203.0.113.1").await;
        answer.assert_status(200);
        assert_eq!(answer.header("x-ratelimit-remaining"), remaining);
    }
    let refused = list("203.0.113.1").await;
    let text = "너무 많은 요청이 발생했습니다. 잠시 후 다시 시도해주세요.";
    refused.assert(429, text);
    let retry_after: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=86400).contains(&retry_after));
    assert_eq!(
        refused.json(),
        json!({"success": false, "message": text, "code": "TOO_MANY_REQUESTS",
            "meta": {"code": "TOO_MANY_REQUESTS", "maxRequests": 2, "windowMs": 86_400_000,
                "retryAfter": retry_after}})
    );
    for (name, value) in [
        ("x-ratelimit-limit", "2"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-window", "86400"),
    ] {
        assert_eq!(refused.header(name), value);
    }
    assert_eq!(
        refused.header("x-ratelimit-reset").parse::<u64>().unwrap() % 86400,
        0
    );
    list("203.0.113.2").await.assert_status(200);
    app.get("/api/rooms")
        .header("x-forwarded-for", "203.0.113.1")
        .send()
        .await
        .assert_status(401);
}

#[tokio::test]
async fn full_password_queue_refuses_and_blocks_nobody_else() {
    let app = start(&[
        ("SLOTCAST_PASSWORD_HASH", "bcrypt"),
        ("SLOTCAST_BCRYPT_COST", "10"),
        ("SLOTCAST_PASSWORD_WORKERS", "1"),
        ("SLOTCAST_PASSWORD_QUEUE", "1"),
    ])
    .await;
    let email = unique_email();
    let logins = join_all((0..12).map(|_| app.login(&email, PASSWORD)));
    let health = async {
        let begun = Instant::now();
        app.get("/api/health").send().await.assert_status(200);
        begun.elapsed()
    };
    let (logins, health) = tokio::join!(logins, health);
    let refused: Vec<_> = logins
        .iter()
        .filter(|answer| answer.status == 503)
        .collect();
    assert!(refused.len() >= 6, "{logins:?}");
    assert!(logins.iter().any(|answer| answer.status == 401));
    assert!(health < Duration::from_secs(1));
    for answer in refused {
        answer.assert(
            503,
            "요청이 많아 처리할 수 없습니다. 잠시 후 다시 시도해주세요.",
        );
        assert_eq!(answer.json()["code"], "OVERLOADED");
        assert_eq!(answer.header("retry-after"), "1");
    }
    app.login(&email, PASSWORD).await.assert_status(401);
}

#[tokio::test]
async fn requests_in_work_are_bounded() {
    let app = start(&[
        ("SLOTCAST_MAX_REQUESTS", "1"),
        ("SLOTCAST_ARGON2_MEMORY_KIB", "19456"),
    ])
    .await;
    let email = unique_email();
    let answers = join_all((0..4).map(|_| app.login(&email, PASSWORD))).await;
    let mut statuses: Vec<_> = answers
        .iter()
        .map(|answer| answer.status.as_u16())
        .collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [401, 503, 503, 503]);
    app.login(&email, PASSWORD).await.assert_status(401);
}

#[tokio::test]
async fn registration_happens_although_the_client_has_left() {
    let app = start(&[
        ("SLOTCAST_PASSWORD_HASH", "bcrypt"),
        ("SLOTCAST_BCRYPT_COST", "11"),
    ])
    .await;
    let (address, _stop) = app.listen();
    for _ in 0..5 {
        let email = unique_email();
        let body = json!({"name": "left", "email": email, "password": PASSWORD}).to_string();
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(register(&body).as_bytes()).await.unwrap();
        drop(client);
        let registered = async {
            while app.login(&email, PASSWORD).await.status != 200 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), registered)
            .await
            .expect("it never happened");
    }
}

#[tokio::test]
async fn shutdown_finishes_what_runs_and_accepts_no_more() {
    let app = start(&[
        ("SLOTCAST_PASSWORD_HASH", "bcrypt"),
        ("SLOTCAST_BCRYPT_COST", "11"),
    ])
    .await;
    let (address, stop) = app.listen();
    let body = json!({"name": "last", "email": unique_email(), "password": PASSWORD}).to_string();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(register(&body).as_bytes()).await.unwrap();
    while !app
        .admin("/metrics")
        .await
        .text
        .contains("http_requests_in_flight{application=\"slotcast-backend\"")
        || !in_flight(&app.admin("/metrics").await.text)
    {
        tokio::task::yield_now().await;
    }
    app.app.begin_drain();
    stop.send_replace(true);
    assert_eq!(app.admin("/ready").await.status, 503);
    let mut answer = String::new();
    timeout(Duration::from_secs(20), client.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 Created\r\n"), "{answer}");
    app.app.finish_requests().await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn half_a_request_is_no_request() {
    let app = start(&[]).await;
    let (address, _stop) = app.listen();
    let email = unique_email();
    let body = json!({"name": "half", "email": email, "password": PASSWORD}).to_string();
    let whole = register(&body);
    let mut client = TcpStream::connect(address).await.unwrap();
    client
        .write_all(&whole.as_bytes()[..whole.len() - 1])
        .await
        .unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(Duration::from_secs(20), client.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
        "{answer}"
    );
    app.app.finish_requests().await;
    app.login(&email, PASSWORD).await.assert_status(401);
}

fn in_flight(metrics: &str) -> bool {
    let mut lines = metrics.lines();
    let gauge = lines.find(|line| line.starts_with("http_requests_in_flight{"));
    gauge.is_some_and(|line| !line.ends_with(" 0"))
}

fn register(body: &str) -> String {
    format!(
        "POST /api/auth/register HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}
