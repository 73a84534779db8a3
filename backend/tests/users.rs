//! The caller's own account.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use axum::http::Method;
use serde_json::json;
use slotcast_proto::{id::UserId, schema::key::Channel};
use support::{PASSWORD, User, heard, start, subscribe};

#[tokio::test]
async fn profile_shows_both_ids_and_an_empty_image() {
    let app = start(&[]).await;
    let user = app.user().await;
    let answer = app.get("/api/users/profile").by(&user).send().await;
    assert_eq!(
        answer.assert_status(200).json(),
        json!({"success": true, "user": {"_id": user.id, "id": user.id, "name": "홍길동",
            "email": user.email, "profileImage": ""}})
    );
}

#[tokio::test]
async fn new_name_is_stored_as_sent_and_published() {
    let app = start(&[]).await;
    let user = app.user().await;
    let id: UserId = user.id.parse().unwrap();
    let mut channel = subscribe(&Channel::Users(id.slot()).to_string()).await;
    let change = json!({"name": " 새 이름 "});
    let answer = app
        .put("/api/users/profile")
        .by(&user)
        .json(&change)
        .send()
        .await;
    answer.assert(200, "프로필이 업데이트되었습니다.");
    assert_eq!(answer.json()["user"]["name"], " 새 이름 ");
    let login = app.login(&user.email, PASSWORD).await;
    assert_eq!(login.json()["user"]["name"], " 새 이름 ");
    let message = heard(&mut channel, &format!("n {}", user.id)).await;
    assert!(message.contains("\"name\":\" 새 이름 \""), "{message}");
}

#[tokio::test]
async fn missing_and_short_names_are_refused() {
    let app = start(&[]).await;
    let user = app.user().await;
    for (form, message) in [
        (json!({"name": " "}), "이름을 입력해주세요."),
        (
            json!({"currentPassword": "", "newPassword": "x"}),
            "이름을 입력해주세요.",
        ),
        (json!({"name": " a "}), "이름은 2자 이상이어야 합니다."),
        (
            json!({"name": "a".repeat(101)}),
            "이름은 100자를 초과할 수 없습니다.",
        ),
    ] {
        let answer = app
            .put("/api/users/profile")
            .by(&user)
            .json(&form)
            .send()
            .await;
        let body = answer.assert(400, "입력값이 올바르지 않습니다.").json();
        assert_eq!(
            body["errors"],
            json!([{"field": "name", "message": message}])
        );
        assert_eq!(body["path"], "/api/users/profile");
        assert_eq!(body["code"], "VALIDATION_ERROR");
    }
}

#[tokio::test]
async fn password_change_needs_the_current_one() {
    let app = start(&[]).await;
    let user = app.user().await;
    let id: UserId = user.id.parse().unwrap();
    let mut channel = subscribe(&Channel::Users(id.slot()).to_string()).await;
    let change = |current: &str, new: &str| {
        let form = json!({"currentPassword": current, "newPassword": new});
        app.post("/api/users/password").by(&user).json(&form).send()
    };
    let field =
        |answer: &support::Answer| answer.assert_status(400).json()["errors"][0]["field"].clone();
    assert_eq!(
        field(&change("wrong password", "Other1!").await),
        "currentPassword"
    );
    assert_eq!(field(&change("", "Other1!").await), "currentPassword");
    assert_eq!(field(&change(PASSWORD, "short").await), "newPassword");
    assert_eq!(
        field(&change(PASSWORD, &"a".repeat(73)).await),
        "newPassword"
    );

    change(PASSWORD, "Other1!")
        .await
        .assert(200, "비밀번호가 변경되었습니다.");
    let message = heard(&mut channel, &user.id).await;
    assert_eq!(message, format!("s {} {}", user.id, user.session));
    app.get("/api/users/profile")
        .by(&user)
        .send()
        .await
        .assert_status(200);
    app.login(&user.email, PASSWORD).await.assert_status(401);
    app.login(&user.email, "Other1!").await.assert_status(200);
}

#[tokio::test]
async fn deleted_account_frees_its_address_and_keeps_nothing_else() {
    let app = start(&[]).await;
    let user = app.user().await;
    let room = app.room(&user, json!({"name": "stays"})).await;
    let delete = || {
        app.call(Method::DELETE, "/api/users/account")
            .by(&user)
            .send()
    };
    delete().await.assert(200, "회원 탈퇴가 완료되었습니다.");
    for call in [
        app.get("/api/users/profile"),
        app.put("/api/users/profile").json(&json!({"name": "ab"})),
        app.post("/api/users/password")
            .json(&json!({"currentPassword": "x", "newPassword": "123456"})),
        app.call(Method::DELETE, "/api/users/account"),
        app.post("/api/rooms").json(&json!({"name": "ab"})),
        app.post(&format!("/api/rooms/{room}/join"))
            .json(&json!({})),
    ] {
        call.by(&user)
            .send()
            .await
            .assert(404, "사용자를 찾을 수 없습니다.");
    }
    app.login(&user.email, PASSWORD).await.assert_status(401);
    app.get(&format!("/api/rooms/{room}"))
        .by(&user)
        .send()
        .await
        .assert_status(200);

    let form = json!({"name": "ab", "email": user.email, "password": PASSWORD});
    let again = app.post("/api/auth/register").json(&form).send().await;
    assert_ne!(User::of(again.assert_status(201).json()).id, user.id);
}

#[tokio::test]
async fn status_needs_a_token() {
    let app = start(&[]).await;
    let user = app.user().await;
    app.get("/api/users/status").send().await.assert_status(401);
    app.get("/api/users/status")
        .by(&user)
        .send()
        .await
        .assert(200, "User API is running");
}
