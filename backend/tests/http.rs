//! What every answer has in common, the documents, and the health of the tier.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::collections::BTreeSet;

use axum::http::Method;
use serde_json::{Value, json};
use support::{PASSWORD, start};

#[tokio::test]
async fn bodies_that_are_not_the_json_wanted_are_refused() {
    let app = start(&[]).await;
    let user = app.user().await;
    let malformed = "요청 본문이 올바른 JSON 형식이 아닙니다.";
    let deep = "[".repeat(10_000);
    for body in [
        "",
        "{",
        "[]x",
        "\"text\"",
        "{\"name\": 5}",
        "{\"name\":\"a\",\"name\":\"b\"}",
        &deep,
    ] {
        let answer = app
            .post("/api/rooms")
            .by(&user)
            .body("application/json", body)
            .send()
            .await;
        let body = answer.assert(400, malformed).json();
        assert_eq!(
            (&body["code"], &body["path"]),
            (&json!("MALFORMED_BODY"), &json!("/api/rooms"))
        );
    }
    let invalid_utf8 = app
        .post("/api/auth/login")
        .body("application/json", [b'"', 0xff, b'"']);
    invalid_utf8.send().await.assert(400, malformed);
    app.post("/api/auth/login")
        .send()
        .await
        .assert(400, malformed);
}

#[tokio::test]
async fn other_media_types_are_refused() {
    let app = start(&[]).await;
    for media_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/jsonx",
    ] {
        let answer = app
            .post("/api/auth/login")
            .body(media_type, "{}")
            .send()
            .await;
        answer.assert(415, "Content-Type은 application/json이어야 합니다.");
    }
    for media_type in [
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/vnd.api+json",
    ] {
        let answer = app
            .post("/api/auth/login")
            .body(media_type, "{}")
            .send()
            .await;
        answer.assert(400, "입력값이 올바르지 않습니다.");
    }
}

#[tokio::test]
async fn bodies_beyond_64_kib_are_refused() {
    let app = start(&[]).await;
    let body = json!({"email": "a@b.c", "password": "a".repeat(64 * 1024)});
    let answer = app.post("/api/auth/login").json(&body).send().await;
    answer.assert(413, "요청 본문이 너무 큽니다.");
    let announced = app
        .post("/api/auth/login")
        .header("content-length", "99999999")
        .body("application/json", "{}");
    announced.send().await.assert_status(413);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused_in_json() {
    let app = start(&[]).await;
    let user = app.user().await;
    let unknown = "요청하신 리소스를 찾을 수 없습니다.";
    let answer = app.get("/api/nothing").by(&user).send().await;
    answer.assert(404, unknown);
    assert_eq!(
        answer.json(),
        json!({"success": false, "message": unknown, "path": "/api/nothing"})
    );
    app.get("/api/nothing")
        .send()
        .await
        .assert(401, "인증이 필요합니다.");
    for public in [
        "/nothing",
        "/",
        "/api/auth/nothing",
        "/api/docs/nothing",
        "/api/swagger-ui/x",
    ] {
        app.get(public).send().await.assert(404, unknown);
    }
    let method = app.call(Method::PATCH, "/api/rooms").send().await;
    method.assert(405, "지원하지 않는 요청 메서드입니다.");
    assert_eq!(method.header("allow"), "GET,HEAD,POST");
}

#[tokio::test]
async fn every_answer_carries_cors_and_security_headers() {
    let app = start(&[
        ("SLOTCAST_ROOMS_RATE_LIMIT", "1"),
        ("SLOTCAST_ROOMS_RATE_WINDOW_SECONDS", "86400"),
    ])
    .await;
    let user = app.user().await;
    let big = json!({"password": "a".repeat(64 * 1024)});
    let calls = [
        (200, app.get("/api/health")),
        (200, app.get("/api/rooms").by(&user)),
        (429, app.get("/api/rooms").by(&user)),
        (400, app.post("/api/auth/login").json(&json!({}))),
        (401, app.get("/api/rooms")),
        (404, app.get("/api/nothing").by(&user)),
        (405, app.call(Method::PUT, "/api/rooms")),
        (413, app.post("/api/auth/login").json(&big)),
        (415, app.post("/api/auth/login").body("text/plain", "x")),
    ];
    for (status, call) in calls {
        let answer = call.header("origin", "https://chat.example").send().await;
        answer.assert_status(status);
        for (name, value) in [
            ("access-control-allow-origin", "https://chat.example"),
            ("access-control-allow-credentials", "true"),
            (
                "access-control-expose-headers",
                "x-auth-token,x-session-id,content-disposition,content-range,etag,retry-after",
            ),
            (
                "vary",
                "origin, access-control-request-method, access-control-request-headers",
            ),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("x-xss-protection", "0"),
        ] {
            assert_eq!(answer.header(name), value, "{name} of {status}");
        }
        assert!(!answer.header("cache-control").is_empty());
    }
    let uncached = app.get("/api/health").send().await;
    assert_eq!(
        uncached.header("cache-control"),
        "no-cache, no-store, max-age=0, must-revalidate"
    );
    assert_eq!(
        (uncached.header("pragma"), uncached.header("expires")),
        ("no-cache", "0")
    );
}

#[tokio::test]
async fn preflights_are_answered_without_a_token() {
    let app = start(&[]).await;
    let answer = app
        .call(Method::OPTIONS, "/api/rooms")
        .header("origin", "https://chat.example")
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "x-auth-token,x-session-id,content-type",
        )
        .send()
        .await;
    answer.assert_status(200);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        "https://chat.example"
    );
    assert_eq!(
        answer.header("access-control-allow-methods"),
        "GET,HEAD,POST,PUT,DELETE,OPTIONS"
    );
    assert_eq!(
        answer.header("access-control-allow-headers"),
        "content-type,authorization,x-auth-token,x-session-id,cache-control,pragma"
    );
    assert_eq!(answer.header("access-control-max-age"), "3600");
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
}

#[tokio::test]
async fn allow_list_admits_its_origins_alone() {
    let app = start(&[(
        "SLOTCAST_ALLOWED_ORIGINS",
        "https://a.example,https://b.example",
    )])
    .await;
    let allowed = async |origin: &str| {
        let answer = app.get("/api/health").header("origin", origin).send().await;
        answer.header("access-control-allow-origin").to_owned()
    };
    assert_eq!(allowed("https://b.example").await, "https://b.example");
    assert_eq!(allowed("https://c.example").await, "");
}

#[tokio::test]
async fn health_speaks_to_everybody() {
    let app = start(&[]).await;
    let user = app.user().await;
    for path in ["/api/health", "/health"] {
        let body = app.get(path).send().await.assert_status(200).json();
        assert_eq!(
            (&body["status"], &body["env"]),
            (&json!("ok"), &json!("test"))
        );
        assert!(body["timestamp"].as_str().unwrap().ends_with('Z'));
    }
    assert_eq!(
        app.get("/api/v1/health")
            .send()
            .await
            .assert_status(200)
            .text,
        "OK"
    );
    let rooms = app
        .get("/api/rooms/health")
        .send()
        .await
        .assert_status(200)
        .json();
    assert_eq!(
        (
            &rooms["success"],
            &rooms["services"]["database"]["connected"]
        ),
        (&json!(true), &json!(true))
    );
    app.get("/api").send().await.assert_status(401);
    let about = app
        .get("/api")
        .by(&user)
        .send()
        .await
        .assert_status(200)
        .json();
    assert_eq!(
        (&about["name"], &about["version"]),
        (&json!("Chat App API"), &json!("1.0.0"))
    );
    app.get("/api/auth").send().await.assert_status(200);
    assert_eq!(
        app.get("/actuator/health")
            .send()
            .await
            .assert_status(200)
            .json(),
        json!({"status": "UP"})
    );
    app.get("/actuator/info").send().await.assert_status(200);
    assert_eq!(app.admin("/live").await.status, 200);
    assert_eq!(app.admin("/ready").await.status, 200);
    app.call(Method::HEAD, "/api/health")
        .send()
        .await
        .assert_status(200);
}

#[tokio::test]
async fn requests_are_counted_by_pattern() {
    let app = start(&[]).await;
    let user = app.user().await;
    app.get("/api/rooms/x")
        .by(&user)
        .send()
        .await
        .assert_status(404);
    app.get("/some/secret/path").send().await.assert_status(404);
    let metrics = app
        .get("/actuator/prometheus")
        .send()
        .await
        .assert_status(200)
        .text
        .clone();
    assert!(
        metrics.contains(
            r#"method="GET",uri="/api/rooms/{roomId}",status="404",outcome="CLIENT_ERROR"} 1"#
        ),
        "{metrics}"
    );
    assert!(metrics.contains(r#"uri="UNKNOWN""#) && !metrics.contains("secret"));
    assert!(
        app.admin("/metrics")
            .await
            .text
            .contains("http_server_requests_seconds_bucket")
    );
    let names = app.get("/actuator/metrics").send().await.json();
    assert!(
        names["names"]
            .as_array()
            .unwrap()
            .contains(&json!("http_server_requests_seconds"))
    );
}

#[tokio::test]
async fn document_names_every_route_and_every_route_answers() {
    let app = start(&[]).await;
    let answer = app.get("/api/v3/api-docs").send().await;
    let document = answer.assert_status(200).json();
    let documented = documented_routes(&document);
    assert_eq!(documented, written_routes(include_str!("../src/router.rs")));
    for (path, method) in &documented {
        let uri = path
            .replace("{roomId}", "000100000000000000000000")
            .replace("{filename}", "1795332990123_0001000000000000.jpg");
        let method: Method = method.to_uppercase().parse().unwrap();
        let answer = app.call(method, &uri).send().await;
        assert!(
            ![404, 405, 500].contains(&answer.status.as_u16()),
            "{path}: {answer:?}"
        );
    }
    for path in ["/api/docs", "/api/swagger-ui.html"] {
        let page = app.get(path).send().await;
        assert!(page.assert_status(200).text.contains("/api/v3/api-docs"));
        assert!(page.header("content-type").starts_with("text/html"));
    }
}

#[tokio::test]
async fn protected_routes_of_the_document_are_protected() {
    let app = start(&[]).await;
    let document = app.get("/api/v3/api-docs").send().await.json();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let uri = path.replace("{roomId}", "000100000000000000000000");
            let method: Method = method.to_uppercase().parse().unwrap();
            let answer = app.call(method, &uri).json(&json!({})).send().await;
            let protected = operation["security"][0]["token"].is_array();
            assert_eq!(answer.status == 401, protected, "{path}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn secrets_do_not_travel() {
    let app = start(&[]).await;
    let user = app.user().await;
    let texts = [
        app.get("/api/users/profile").by(&user).send().await.text,
        app.login(&user.email, PASSWORD).await.text,
        app.get("/api/rooms").by(&user).send().await.text,
    ];
    assert!(
        texts
            .iter()
            .all(|text| !text.contains("argon2") && !text.contains("$2b$"))
    );
}

fn documented_routes(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(|method| (path.clone(), method.clone()))
        })
        .collect()
}

/// The routes in the text of the URL map: axum cannot list them.
fn written_routes(source: &str) -> BTreeSet<(String, String)> {
    let map = source.split(".fallback(").next().unwrap();
    let routes = map.split(".route(").skip(1);
    routes
        .flat_map(|route| {
            let path = route.split('"').nth(1).unwrap().to_owned();
            ["get", "post", "put", "delete"]
                .into_iter()
                .filter(move |method| route.contains(&format!("{method}(")))
                .map(move |method| (path.clone(), method.to_owned()))
        })
        .collect()
}
