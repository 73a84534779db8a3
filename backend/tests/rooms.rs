//! Rooms: list, create, look at, join, and their messages.

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
    id::RoomId,
    schema::{key, library::Function, record},
};
use support::{Answer, TestApp, User, heard, is_hex, start, subscribe, unique};

#[tokio::test]
async fn created_room_is_complete_and_announced() {
    let app = start(&[]).await;
    let user = app.user().await;
    let mut lobby = subscribe(&key::Channel::Lobby.to_string()).await;
    let name = unique("프로젝트");
    let form = json!({"name": format!(" {name} "), "description": "x", "participants": []});
    let answer = app.post("/api/rooms").by(&user).json(&form).send().await;
    let body = answer.assert_status(201).json();
    let room = &body["data"];
    let member = json!({"_id": user.id, "id": user.id, "name": "홍길동", "email": user.email,
        "profileImage": ""});
    assert!(is_hex(room["_id"].as_str().unwrap(), 24));
    assert!(is_moment(&room["createdAt"]));
    assert_eq!(
        body,
        json!({"success": true, "data": {"_id": room["_id"], "name": name, "hasPassword": false,
            "creator": member, "participants": [member], "participantsCount": 1,
            "isCreator": true, "createdAt": room["createdAt"], "recentMessageCount": 0}})
    );
    let event = heard(&mut lobby, &name).await;
    let event: Value = serde_json::from_str(event.strip_prefix("l roomCreated ").unwrap()).unwrap();
    assert_eq!(event["_id"], room["_id"]);
    assert_eq!(event["participants"], json!([member]));
    assert_eq!(event["createdAt"], room["createdAt"]);
}

#[tokio::test]
async fn wrong_fields_of_a_new_room_are_named() {
    let app = start(&[]).await;
    let user = app.user().await;
    for (form, field) in [
        (json!({}), "name"),
        (json!({"name": " "}), "name"),
        (json!({"name": "a"}), "name"),
        (json!({"name": "a".repeat(101)}), "name"),
        (json!({"name": "ab", "password": ""}), "password"),
        (json!({"name": "ab", "password": "123"}), "password"),
        (
            json!({"name": "ab", "password": "a".repeat(101)}),
            "password",
        ),
        (
            json!({"name": "ab", "password": "가".repeat(25)}),
            "password",
        ),
    ] {
        let answer = app.post("/api/rooms").by(&user).json(&form).send().await;
        let body = answer.assert(400, "입력값이 올바르지 않습니다.").json();
        assert_eq!(body["errors"][0]["field"], field, "{form}");
        assert_eq!(
            (&body["code"], &body["path"]),
            (&json!("VALIDATION_ERROR"), &json!("/api/rooms"))
        );
    }
    app.post("/api/rooms")
        .json(&json!({"name": "ab"}))
        .send()
        .await
        .assert_status(401);
}

#[tokio::test]
async fn newest_room_is_first_in_the_list_at_once() {
    let app = start(&[]).await;
    let user = app.user().await;
    let other = start(&[]).await;
    for _ in 0..20 {
        let id = app.room(&user, json!({"name": "newest"})).await;
        let listed = list(&other, &user, "").await;
        let ids: Vec<_> = rooms(&listed)
            .iter()
            .map(|room| room["_id"].clone())
            .collect();
        assert!(ids.contains(&json!(id)), "{id} is not among {ids:?}");
    }
}

#[tokio::test]
async fn list_tells_where_it_stands() {
    let app = start(&[]).await;
    let (user, other) = (app.user().await, app.user().await);
    for _ in 0..3 {
        app.room(&user, json!({"name": "listed"})).await;
    }
    let answer = list(
        &app,
        &user,
        "?page=0&pageSize=2&sortField=createdAt&sortOrder=desc",
    )
    .await;
    assert_eq!(answer.header("cache-control"), "private, max-age=1");
    let metadata = &answer.json()["metadata"];
    let total = metadata["total"].as_u64().unwrap();
    assert!(total >= 3);
    assert_eq!(metadata["totalPages"], total.div_ceil(2));
    assert_eq!(
        *metadata,
        json!({"total": total, "page": 0, "pageSize": 2, "totalPages": metadata["totalPages"],
            "hasMore": true, "currentCount": 2, "sort": {"field": "createdAt", "order": "desc"}})
    );
    assert_eq!(rooms(&answer).len(), 2);
    let oldest = list(&app, &user, "?sortOrder=asc&pageSize=1").await;
    assert_eq!(oldest.json()["metadata"]["sort"]["order"], "asc");
    let beyond = list(&app, &other, "?page=9000000000000000000&pageSize=50").await;
    assert_eq!(
        beyond.assert_status(200).json()["metadata"]["hasMore"],
        false
    );
    assert_eq!(rooms(&beyond).len(), 0);
}

#[tokio::test]
async fn pages_follow_each_other_without_gap() {
    let app = start(&[]).await;
    let user = app.user().await;
    let word = unique("paged");
    let mut created = Vec::new();
    for number in 0..7 {
        created.push(
            app.room(&user, json!({"name": format!("{word} {number}")}))
                .await,
        );
    }
    let mut found = Vec::new();
    for page in 0..3 {
        let query = format!("?search={word}&sortField=name&sortOrder=asc&pageSize=3&page={page}");
        let answer = found_eventually(&app, &user, &query, 7).await;
        assert_eq!(answer.json()["metadata"]["hasMore"], page < 2);
        found.extend(
            rooms(&answer)
                .iter()
                .map(|room| room["_id"].as_str().unwrap().to_owned()),
        );
    }
    assert_eq!(found, created);
}

#[tokio::test]
async fn search_is_literal_and_ignores_case_and_space_around() {
    let app = start(&[]).await;
    let user = app.user().await;
    let word = unique("Search.*");
    let id = app.room(&user, json!({"name": format!("({word})")})).await;
    let query = format!("?search=%20{}%20", word.to_uppercase());
    let answer = found_eventually(&app, &user, &query, 1).await;
    assert_eq!(rooms(&answer)[0]["_id"], id);
    let none = list(&app, &user, &format!("?search={}", word.replace(".*", "x"))).await;
    assert_eq!(none.json()["metadata"]["total"], 0);
    assert_eq!(none.json()["data"], json!([]));
}

#[tokio::test]
async fn rooms_sort_by_the_number_of_participants() {
    let app = start(&[]).await;
    let (user, guest) = (app.user().await, app.user().await);
    let word = unique("sorted");
    let full = app.room(&user, json!({"name": word})).await;
    let empty = app.room(&user, json!({"name": word})).await;
    join(&app, &guest, &full, json!({}))
        .await
        .assert_status(200);
    let query = format!("?search={word}&sortField=participantsCount");
    let descending = found_eventually(&app, &user, &query, 2).await;
    let ids = |answer: &Answer| {
        rooms(answer)
            .iter()
            .map(|room| room["_id"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&descending), [json!(full), json!(empty)]);
    let ascending = list(&app, &user, &format!("{query}&sortOrder=asc")).await;
    assert_eq!(ids(&ascending), [json!(empty), json!(full)]);
    assert_eq!(rooms(&descending)[0]["participantsCount"], 2);
}

#[tokio::test]
async fn numbers_that_are_none_are_refused() {
    let app = start(&[]).await;
    let user = app.user().await;
    for (query, field) in [("?page=x", "page"), ("?pageSize=1e3", "pageSize")] {
        let answer = list(&app, &user, query).await;
        assert_eq!(
            answer.assert_status(400).json()["errors"][0]["field"],
            field
        );
        assert_eq!(answer.header("x-ratelimit-limit"), "10000");
    }
}

#[tokio::test]
async fn anybody_may_look_at_a_room_but_only_its_creator_is_that() {
    let app = start(&[]).await;
    let (user, guest) = (app.user().await, app.user().await);
    let id = app
        .room(&user, json!({"name": "looked at", "password": "1234"}))
        .await;
    let look = async |who: &User| {
        app.get(&format!("/api/rooms/{id}"))
            .by(who)
            .send()
            .await
            .assert_status(200)
            .json()
    };
    let seen = look(&guest).await;
    assert_eq!(
        (&seen["data"]["isCreator"], &seen["data"]["hasPassword"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(seen["data"]["participants"].as_array().unwrap().len(), 1);
    assert_eq!(look(&user).await["data"]["isCreator"], true);
    assert!(!seen.to_string().contains("argon2"));
}

#[tokio::test]
async fn unknown_and_malformed_rooms_are_not_found() {
    let app = start(&[]).await;
    let user = app.user().await;
    let long = "a".repeat(1000);
    for id in [
        "0001deadbeef000000000000",
        "ffffdeadbeef000000000000",
        "x",
        "%ff",
        "..%2f..",
        &long,
    ] {
        let read = app.get(&format!("/api/rooms/{id}")).by(&user).send().await;
        read.assert(404, "채팅방을 찾을 수 없습니다.");
        assert_eq!(read.json().as_object().unwrap().len(), 2, "{read:?}");
        join(&app, &user, id, json!({}))
            .await
            .assert(404, "채팅방을 찾을 수 없습니다.");
    }
}

#[tokio::test]
async fn joining_twice_is_joining_once_and_tells_the_room() {
    let app = start(&[]).await;
    let (user, guest) = (app.user().await, app.user().await);
    let id = app.room(&user, json!({"name": "joined"})).await;
    let room: RoomId = id.parse().unwrap();
    let mut channel = subscribe(&key::Channel::Rooms(room.slot()).to_string()).await;
    for body in [
        json!({}),
        json!({"password": null}),
        json!({"password": "needless"}),
    ] {
        let answer = join(&app, &guest, &id, body).await;
        assert_eq!(
            answer.assert_status(200).json()["data"]["participantsCount"],
            2
        );
        let event = heard(&mut channel, "roomUpdated").await;
        assert!(
            event.starts_with(&format!("e {} roomUpdated {{", room.prefix())),
            "{event}"
        );
        assert!(event.contains(&guest.id));
    }
    join(&app, &guest, &id, Value::Null)
        .await
        .assert_status(400);
}

#[tokio::test]
async fn password_room_opens_to_its_password_alone() {
    let app = start(&[]).await;
    let (user, guest) = (app.user().await, app.user().await);
    let id = app
        .room(&user, json!({"name": "closed", "password": "비밀번호"}))
        .await;
    for body in [
        json!({}),
        json!({"password": ""}),
        json!({"password": "wrong"}),
        json!({"password": "a".repeat(200)}),
    ] {
        join(&app, &guest, &id, body)
            .await
            .assert(401, "비밀번호가 일치하지 않습니다.");
    }
    assert!(!is_admitted(&id, &guest).await);
    join(&app, &guest, &id, json!({"password": "비밀번호"}))
        .await
        .assert_status(200);
    assert!(is_admitted(&id, &guest).await);
}

#[tokio::test]
async fn rooms_outlive_a_change_of_the_shard_count() {
    let (few, many) = (
        start(&[("SLOTCAST_SHARD_COUNT", "1")]).await,
        start(&[("SLOTCAST_SHARD_COUNT", "999")]).await,
    );
    let user = few.user().await;
    let (old, new) = (
        few.room(&user, json!({"name": "old"})).await,
        many.room(&user, json!({"name": "new"})).await,
    );
    for app in [&few, &many] {
        for id in [&old, &new] {
            join(app, &user, id, json!({})).await.assert_status(200);
            app.get(&format!("/api/rooms/{id}"))
                .by(&user)
                .send()
                .await
                .assert_status(200);
        }
    }
}

#[tokio::test]
async fn messages_are_read_in_pages_by_participants() {
    let app = start(&[]).await;
    let (user, guest) = (app.user().await, app.user().await);
    let id = app.room(&user, json!({"name": "messages"})).await;
    let uri = format!("/api/message/rooms/{id}/messages");
    app.get(&uri)
        .by(&guest)
        .send()
        .await
        .assert(403, "채팅방 접근 권한이 없습니다.");
    app.get("/api/message/rooms/x/messages")
        .by(&user)
        .send()
        .await
        .assert_status(404);
    app.get(&format!("{uri}?before=x"))
        .by(&user)
        .send()
        .await
        .assert_status(400);
    let empty = app
        .get(&uri)
        .by(&user)
        .send()
        .await
        .assert_status(200)
        .json();
    assert_eq!(
        empty,
        json!({"success": true, "messages": [], "hasMore": false})
    );

    let room: RoomId = id.parse().unwrap();
    for number in 0..7 {
        append(room, &format!("text {number}")).await;
    }
    let mut before = String::new();
    let mut found = Vec::new();
    for has_more in [true, true, false] {
        let page = app
            .get(&format!("{uri}?limit=3{before}"))
            .by(&user)
            .send()
            .await;
        let page = page.assert_status(200).json();
        assert_eq!(page["hasMore"], has_more);
        let messages = page["messages"].as_array().unwrap();
        before = format!("&before={}", messages[0]["timestamp"]);
        found.splice(
            0..0,
            messages.iter().map(|message| message["content"].clone()),
        );
        assert!(
            messages
                .iter()
                .all(|m| m["readers"] == json!([]) && m["reactions"] == json!({}))
        );
    }
    assert_eq!(
        found,
        (0..7)
            .map(|n| json!(format!("text {n}")))
            .collect::<Vec<_>>()
    );
    let seen = app
        .get(&format!("/api/rooms/{id}"))
        .by(&user)
        .send()
        .await
        .json();
    assert_eq!(seen["data"]["recentMessageCount"], 7);
}

async fn append(room: RoomId, text: &str) {
    let body = record::message_body(&format!(r#""room":"{room}","content":"{text}""#));
    let mut command = redis::cmd("FCALL");
    command
        .arg(Function::AppendMessage.name())
        .arg(1)
        .arg(key::log(room))
        .arg(key::Channel::Rooms(room.slot()).to_string())
        .arg(room.prefix().to_string())
        .arg(unique("key"))
        .arg("")
        .arg(body)
        .arg("0");
    let answer: Vec<String> = command.query_async(&mut cluster().await).await.unwrap();
    assert_eq!(answer[0], "ok");
}

async fn is_admitted(room: &str, user: &User) -> bool {
    let key = key::admitted(room.parse().unwrap());
    let mut command = redis::cmd("SISMEMBER");
    command
        .arg(key)
        .arg(&user.id)
        .query_async(&mut cluster().await)
        .await
        .unwrap()
}

async fn cluster() -> redis::cluster_async::ClusterConnection {
    let urls: Vec<_> = support::redis_urls()
        .split(',')
        .map(str::to_owned)
        .collect();
    let client = redis::cluster::ClusterClient::new(urls).unwrap();
    client.get_async_connection().await.unwrap()
}

async fn list(app: &TestApp, user: &User, query: &str) -> Answer {
    app.get(&format!("/api/rooms{query}")).by(user).send().await
}

/// Asks until the directory, which may be a second old, knows so many rooms.
async fn found_eventually(app: &TestApp, user: &User, query: &str, total: u64) -> Answer {
    for _ in 0..10_000 {
        let answer = list(app, user, query).await;
        let body = answer.assert_status(200).json();
        let rooms = body["data"].as_array().unwrap();
        let settled = !query.contains("participantsCount") || rooms[0]["participantsCount"] == 2;
        if body["metadata"]["total"] == total && settled {
            return answer;
        }
    }
    panic!("{query} never found {total} rooms");
}

async fn join(app: &TestApp, user: &User, room: &str, body: Value) -> Answer {
    let call = app.post(&format!("/api/rooms/{room}/join")).by(user);
    call.json(&body).send().await
}

fn rooms(answer: &Answer) -> Vec<Value> {
    answer.assert_status(200).json()["data"]
        .as_array()
        .unwrap()
        .clone()
}

fn is_moment(value: &Value) -> bool {
    let format = &time::format_description::well_known::Rfc3339;
    let text = value.as_str().unwrap();
    text.ends_with('Z') && time::OffsetDateTime::parse(text, format).is_ok()
}
