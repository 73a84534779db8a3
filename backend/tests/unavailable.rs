//! Redis that is not there, or not as it should be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use serde_json::json;
use slotcast_proto::schema::library;
use support::{PASSWORD, start, start_without_redis, unique_email};

#[tokio::test]
async fn without_redis_the_tier_lives_and_says_so() {
    let app = start_without_redis(&[("SLOTCAST_REDIS_URLS", "redis://127.0.0.1:1")]);
    assert_eq!(app.admin("/live").await.status, 200);
    assert_eq!(app.admin("/ready").await.status, 503);
    app.get("/api/health").send().await.assert_status(200);
    assert_eq!(
        app.get("/api/v1/health")
            .send()
            .await
            .assert_status(500)
            .text,
        "Unhealthy"
    );
    assert_eq!(
        app.get("/actuator/health")
            .send()
            .await
            .assert_status(503)
            .json(),
        json!({"status": "DOWN"})
    );
    let rooms = app
        .get("/api/rooms/health")
        .send()
        .await
        .assert_status(503)
        .json();
    assert_eq!(rooms["services"]["database"]["connected"], false);

    let form = json!({"name": "ab", "email": unique_email(), "password": PASSWORD});
    let token = slotcast_proto::token::TokenKey::new(support::SECRET.as_bytes()).unwrap();
    let (user, session) = (
        "000100000000000000000002".parse().unwrap(),
        "0".repeat(32).parse().unwrap(),
    );
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs();
    let token = token.sign("a@b.c", user, session, now).unwrap();
    let (register, login, rooms, logout, refresh) = tokio::join!(
        app.post("/api/auth/register").json(&form).send(),
        app.login("a@b.c", PASSWORD),
        app.get("/api/rooms").header("x-auth-token", &token).send(),
        app.post("/api/auth/logout")
            .header("x-auth-token", &token)
            .header("x-session-id", &"0".repeat(32))
            .send(),
        app.post("/api/auth/refresh-token")
            .header("x-auth-token", &token)
            .header("x-session-id", "x")
            .send(),
    );
    register.assert(503, "회원가입 처리 중 오류가 발생했습니다.");
    login.assert(503, "로그인 처리 중 오류가 발생했습니다.");
    rooms.assert(503, "서버 내부 오류가 발생했습니다.");
    logout.assert(503, "서버 내부 오류가 발생했습니다.");
    refresh.assert(503, "토큰 갱신 중 오류가 발생했습니다.");
    for answer in [register, login, rooms, logout] {
        assert_eq!(answer.json()["code"], "SERVICE_UNAVAILABLE");
        assert_eq!(answer.header("retry-after"), "1");
        assert!(!answer.text.to_lowercase().contains("redis"));
    }
}

#[tokio::test]
async fn missing_function_library_is_loaded_on_demand() {
    let app = start(&[]).await;
    for _ in 0..3 {
        delete_library().await;
        let user = app.user().await;
        let room = app.room(&user, json!({"name": "found"})).await;
        delete_library().await;
        // The description is asked of a replica, which gets the library by replication.
        let list = app.get("/api/rooms").by(&user).send().await;
        assert!(list.assert_status(200).text.contains(&room));
    }
}

async fn delete_library() {
    let urls: Vec<_> = support::redis_urls()
        .split(',')
        .map(str::to_owned)
        .collect();
    let client = redis::cluster::ClusterClient::new(urls).unwrap();
    let mut connection = client.get_async_connection().await.unwrap();
    let mut command = redis::cmd("FUNCTION");
    command.arg("DELETE").arg(library::name());
    // A node that lost it already refuses, which is as good.
    let _ = command.query_async::<redis::Value>(&mut connection).await;
}
