//! Registration, login, logout, and what becomes of a token.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use serde_json::{Value, json};
use slotcast_proto::{
    id::{SessionId, UserId},
    schema::key::Channel,
    token::{LIFETIME_SECONDS, TokenKey},
};
use support::{PASSWORD, SECRET, User, heard, is_hex, start, subscribe, unique_email};

#[tokio::test]
async fn registration_logs_the_user_in() {
    let app = start(&[]).await;
    let email = unique_email();
    let form = json!({"name": "홍길동", "email": email.to_uppercase(), "password": PASSWORD,
        "description": "unknown fields are ignored"});
    let answer = app.post("/api/auth/register").json(&form).send().await;
    answer.assert(201, "회원가입이 완료되었습니다.");
    let body = answer.json();
    let id = body["user"]["_id"].as_str().unwrap();
    assert!(is_hex(id, 24) && is_hex(body["sessionId"].as_str().unwrap(), 32));
    assert_eq!(
        body["user"],
        json!({"_id": id, "id": id, "name": "홍길동", "email": email, "profileImage": null})
    );
    assert_eq!(body["success"], true);
    let user = User::of(body);
    app.get("/api/users/profile")
        .by(&user)
        .send()
        .await
        .assert_status(200);
}

#[tokio::test]
async fn registration_names_every_wrong_field() {
    let app = start(&[]).await;
    let form = json!({"name": " a ", "email": "nobody", "password": "12345"});
    let answer = app.post("/api/auth/register").json(&form).send().await;
    answer.assert(400, "입력값이 올바르지 않습니다.");
    assert_eq!(
        answer.json(),
        json!({"success": false, "message": "입력값이 올바르지 않습니다.", "code": "VALIDATION_ERROR",
        "errors": [
            {"field": "name", "message": "이름은 2자 이상이어야 합니다."},
            {"field": "email", "message": "올바른 이메일 형식이 아닙니다."},
            {"field": "password", "message": "비밀번호는 6자 이상이어야 합니다."},
        ]})
    );
    let long = json!({"name": "ab", "email": unique_email(), "password": "가".repeat(25)});
    let answer = app.post("/api/auth/register").json(&long).send().await;
    answer.assert_status(400);
    assert_eq!(answer.json()["errors"][0]["field"], "password");
    let nothing = app
        .post("/api/auth/register")
        .json(&json!({"name": null}))
        .send()
        .await;
    assert_eq!(
        nothing.assert_status(400).json()["errors"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
}

#[tokio::test]
async fn registered_address_is_taken_in_any_case() {
    let app = start(&[]).await;
    let user = app.user().await;
    let form = json!({"name": "ab", "email": user.email.to_uppercase(), "password": PASSWORD});
    let answer = app.post("/api/auth/register").json(&form).send().await;
    answer.assert(409, "이미 등록된 이메일입니다.");
    assert_eq!(answer.json()["success"], false);
}

#[tokio::test]
async fn of_many_registrations_at_once_one_wins() {
    let app = start(&[]).await;
    for _ in 0..5 {
        let form = json!({"name": "ab", "email": unique_email(), "password": PASSWORD});
        let register = || app.post("/api/auth/register").json(&form).send();
        let answers = futures_util::future::join_all((0..4).map(|_| register())).await;
        let mut statuses: Vec<_> = answers.iter().map(|a| a.status.as_u16()).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409, 409, 409]);
        let winner = answers.into_iter().find(|a| a.status == 201).unwrap();
        let user = User::of(winner.json());
        let login = app.login(&user.email, PASSWORD).await;
        assert_eq!(login.assert_status(200).json()["user"]["_id"], user.id);
    }
}

#[tokio::test]
async fn login_answers_with_explicit_nulls_and_headers() {
    let app = start(&[]).await;
    let user = app.user().await;
    let answer = app.login(&user.email.to_uppercase(), PASSWORD).await;
    answer.assert_status(200);
    let body = answer.json();
    assert_eq!(
        body,
        json!({"success": true, "token": body["token"], "sessionId": body["sessionId"],
            "user": {"_id": user.id, "id": user.id, "name": "홍길동", "email": user.email,
                "profileImage": null},
            "message": null})
    );
    assert!(
        answer.text.contains("\"message\":null") && answer.text.contains("\"profileImage\":null")
    );
    assert_eq!(
        answer.header("authorization"),
        format!("Bearer {}", body["token"].as_str().unwrap())
    );
    assert_eq!(answer.header("x-session-id"), body["sessionId"]);
    let plain = |text: &Value| {
        let mut bytes = text.as_str().unwrap().bytes();
        bytes.all(|b| b.is_ascii_alphanumeric() || b"._~-".contains(&b))
    };
    assert!(plain(&body["token"]) && plain(&body["sessionId"]));
}

#[tokio::test]
async fn unknown_address_and_wrong_password_look_alike() {
    let app = start(&[]).await;
    let user = app.user().await;
    let wrong = app.login(&user.email, "wrong password").await;
    let unknown = app.login(&unique_email(), PASSWORD).await;
    let long = app.login(&user.email, &"a".repeat(100)).await;
    for answer in [&wrong, &unknown, &long] {
        answer.assert(401, "이메일 또는 비밀번호가 올바르지 않습니다.");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        assert_eq!(answer.text, wrong.text);
    }
}

#[tokio::test]
async fn login_names_blank_fields() {
    let app = start(&[]).await;
    let messages = async |email: &str, password: &str| -> Vec<String> {
        let body = app.login(email, password).await.assert_status(400).json();
        assert!(body.get("path").is_none());
        let errors = body["errors"].as_array().unwrap().clone();
        errors
            .iter()
            .map(|e| e["message"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        messages(" ", "").await,
        ["이메일을 입력해주세요.", "비밀번호를 입력해주세요."]
    );
    assert_eq!(
        messages("nobody", "x").await,
        ["올바른 이메일 형식이 아닙니다."]
    );
}

#[tokio::test]
async fn login_ends_earlier_sessions_and_tells_the_gateways() {
    let app = start(&[]).await;
    let old = app.user().await;
    let id: UserId = old.id.parse().unwrap();
    let mut channel = subscribe(&Channel::Users(id.slot()).to_string()).await;
    let new = User::of(app.login(&old.email, PASSWORD).await.json());
    app.get("/api/users/profile")
        .by(&old)
        .send()
        .await
        .assert(401, "인증이 필요합니다.");
    app.get("/api/users/profile")
        .by(&new)
        .send()
        .await
        .assert_status(200);
    let message = heard(&mut channel, &old.id).await;
    assert_eq!(message, format!("s {} {}", new.id, new.session));
}

#[tokio::test]
async fn hash_of_the_other_algorithm_still_logs_in() {
    let bcrypt = start(&[("SLOTCAST_PASSWORD_HASH", "bcrypt")]).await;
    let argon2id = start(&[]).await;
    let (old, new) = (bcrypt.user().await, argon2id.user().await);
    argon2id
        .login(&old.email, PASSWORD)
        .await
        .assert_status(200);
    bcrypt.login(&new.email, PASSWORD).await.assert_status(200);
    argon2id
        .login(&old.email, "wrong password")
        .await
        .assert_status(401);
}

#[tokio::test]
async fn logout_ends_the_session_that_is_named() {
    let app = start(&[]).await;
    let user = app.user().await;
    let id: UserId = user.id.parse().unwrap();
    let mut channel = subscribe(&Channel::Users(id.slot()).to_string()).await;
    let none = app
        .post("/api/auth/logout")
        .header("x-auth-token", &user.token)
        .send()
        .await;
    none.assert(400, "x-session-id 헤더가 필요합니다.");

    let other = "f".repeat(32);
    for call in [
        app.post("/api/auth/logout")
            .header("x-session-id", &user.session),
        app.post("/api/auth/logout")
            .header("x-auth-token", &user.token)
            .header("x-session-id", &other),
        app.post("/api/auth/logout")
            .header("x-auth-token", "x")
            .header("x-session-id", &user.session),
        app.post("/api/auth/logout")
            .header("x-auth-token", &user.token)
            .header("x-session-id", "x"),
    ] {
        call.send().await.assert(200, "로그아웃이 완료되었습니다.");
    }
    app.get("/api/users/profile")
        .by(&user)
        .send()
        .await
        .assert_status(200);

    let uri = format!(
        "/api/auth/logout?token={}&sessionId={}",
        user.token, user.session
    );
    app.post(&uri)
        .send()
        .await
        .assert(200, "로그아웃이 완료되었습니다.");
    app.get("/api/users/profile")
        .by(&user)
        .send()
        .await
        .assert_status(401);
    assert_eq!(
        heard(&mut channel, &user.id).await,
        format!("o {}", user.id)
    );
    app.post("/api/auth/logout")
        .by(&user)
        .send()
        .await
        .assert_status(200);
}

#[tokio::test]
async fn verification_tells_what_is_wrong() {
    let app = start(&[]).await;
    let user = app.user().await;
    let good = app.post("/api/auth/verify-token").by(&user).send().await;
    good.assert(200, "토큰이 유효합니다.");
    assert_eq!(good.json()["user"]["_id"], user.id);

    let missing = app
        .post("/api/auth/verify-token")
        .header("x-auth-token", &user.token);
    missing
        .send()
        .await
        .assert(400, "토큰 또는 세션 ID가 필요합니다.");
    let verify = |token: &str, session: &str| {
        let call = app
            .post("/api/auth/verify-token")
            .header("x-auth-token", token);
        call.header("x-session-id", session).send()
    };
    verify("x", &user.session)
        .await
        .assert(401, "유효하지 않은 토큰입니다.");
    let dead = verify(&user.token, &"f".repeat(32)).await;
    dead.assert(401, "만료된 세션입니다.");
    assert!(dead.text.contains("\"user\":null"));
    app.call(axum::http::Method::DELETE, "/api/users/account")
        .by(&user)
        .send()
        .await
        .assert_status(200);
    verify(&user.token, &user.session)
        .await
        .assert(401, "사용자를 찾을 수 없습니다.");
}

#[tokio::test]
async fn renewal_keeps_the_session() {
    let app = start(&[]).await;
    let user = app.user().await;
    let answer = app.post("/api/auth/refresh-token").by(&user).send().await;
    answer.assert(200, "토큰이 갱신되었습니다.");
    let body = answer.json();
    assert_eq!(body["sessionId"], user.session);
    let renewed = User {
        token: body["token"].as_str().unwrap().to_owned(),
        ..user.clone()
    };
    app.get("/api/users/profile")
        .by(&renewed)
        .send()
        .await
        .assert_status(200);

    let missing = app.post("/api/auth/refresh-token").send().await;
    missing.assert(400, "토큰 또는 세션 ID가 필요합니다.");
    assert!(missing.text.contains("\"token\":null") && missing.text.contains("\"sessionId\":null"));
    let dead = User {
        session: "f".repeat(32),
        ..user
    };
    app.post("/api/auth/refresh-token")
        .by(&dead)
        .send()
        .await
        .assert(401, "만료된 세션입니다.");
}

#[tokio::test]
async fn expired_token_is_renewed_while_its_session_lives() {
    let app = start(&[]).await;
    let user = app.user().await;
    let just = expired(&user, 120);
    let refused = app.get("/api/users/profile").by(&just).send().await;
    assert_eq!(refused.assert_status(401).json()["code"], "TOKEN_EXPIRED");
    assert!(refused.header("www-authenticate").contains("invalid_token"));
    app.post("/api/auth/refresh-token")
        .by(&just)
        .send()
        .await
        .assert_status(200);
    let long = expired(&user, 3600);
    app.post("/api/auth/refresh-token")
        .by(&long)
        .send()
        .await
        .assert(401, "토큰 갱신 중 오류가 발생했습니다.");
}

#[tokio::test]
async fn credentials_are_looked_for_in_three_places() {
    let app = start(&[]).await;
    let user = app.user().await;
    let bearer = format!("Bearer {}", user.token);
    let profile = "/api/users/profile";
    app.get(profile)
        .header("authorization", &bearer)
        .send()
        .await
        .assert_status(200);
    app.get(&format!("{profile}?token={}", user.token))
        .send()
        .await
        .assert_status(200);
    let session_ignored = app
        .get(profile)
        .header("x-auth-token", &user.token)
        .header("x-session-id", "x");
    session_ignored.send().await.assert_status(200);
    let first_wins = app
        .get(profile)
        .header("x-auth-token", "x")
        .header("authorization", &bearer);
    first_wins.send().await.assert_status(401);
    for header in [
        bearer.to_lowercase(),
        format!("Bearer  {}", user.token),
        "Basic eA==".to_owned(),
    ] {
        app.get(profile)
            .header("authorization", &header)
            .send()
            .await
            .assert_status(401);
    }
}

#[tokio::test]
async fn refusals_are_json_with_a_challenge() {
    let app = start(&[]).await;
    let none = app.get("/api/users/profile").send().await;
    assert_eq!(
        none.assert_status(401).json(),
        json!({"success": false, "code": "UNAUTHORIZED", "message": "인증이 필요합니다.",
            "path": "/api/users/profile"})
    );
    assert_eq!(none.header("www-authenticate"), "Bearer");
    let foreign = app
        .get("/api/rooms")
        .header("x-auth-token", "a.b.c")
        .send()
        .await;
    assert_eq!(foreign.assert_status(401).json()["code"], "INVALID_TOKEN");
    assert!(
        foreign
            .header("www-authenticate")
            .starts_with("Bearer error=\"invalid_token\"")
    );
    let other_key = TokenKey::new(&[b'x'; 32]).unwrap();
    let user = app.user().await;
    let token = other_key
        .sign(&user.email, user.id.parse().unwrap(), SessionId::new(1), 0)
        .unwrap();
    let forged = app
        .get("/api/rooms")
        .header("x-auth-token", &token)
        .send()
        .await;
    assert_eq!(forged.assert_status(401).json()["code"], "INVALID_TOKEN");
}

#[tokio::test]
async fn public_paths_ignore_a_stale_token() {
    let app = start(&[]).await;
    let user = app.user().await;
    let stale = expired(&user, 3600);
    app.get("/api/health")
        .by(&stale)
        .send()
        .await
        .assert_status(200);
    let form = json!({"email": user.email, "password": PASSWORD});
    app.post("/api/auth/login")
        .by(&stale)
        .json(&form)
        .send()
        .await
        .assert_status(200);
}

#[tokio::test]
async fn session_remembers_its_client() {
    let app = start(&[]).await;
    let user = app.user().await;
    let form = json!({"email": user.email, "password": PASSWORD});
    let login = app.post("/api/auth/login").json(&form);
    let login = login
        .header("user-agent", "test agent")
        .header("x-forwarded-for", "203.0.113.7, 10.0.0.1");
    login.send().await.assert_status(200);
    let fields = stored_session(&user).await;
    assert_eq!(fields["userAgent"], "test agent");
    assert_eq!(fields["address"], "203.0.113.7");
}

/// The user with a token that expired so many seconds ago.
fn expired(user: &User, seconds_ago: u64) -> User {
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs();
    let key = TokenKey::new(SECRET.as_bytes()).unwrap();
    let issued = now - LIFETIME_SECONDS - seconds_ago;
    let (id, session) = (user.id.parse().unwrap(), user.session.parse().unwrap());
    let token = key.sign(&user.email, id, session, issued).unwrap();
    User {
        token,
        ..user.clone()
    }
}

async fn stored_session(user: &User) -> std::collections::HashMap<String, String> {
    let urls: Vec<_> = support::redis_urls()
        .split(',')
        .map(str::to_owned)
        .collect();
    let client = redis::cluster::ClusterClient::new(urls).unwrap();
    let mut connection = client.get_async_connection().await.unwrap();
    let key = slotcast_proto::schema::key::session(user.id.parse().unwrap());
    redis::cmd("HGETALL")
        .arg(key)
        .query_async(&mut connection)
        .await
        .unwrap()
}
