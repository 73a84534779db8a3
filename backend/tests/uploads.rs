//! Files when the object store or the client fails: a stand-in store that breaks off on purpose. How
//! real stores behave is tested with real ones, see `tests/`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde_json::json;
use support::{TestApp, User, start};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

const MIB: usize = 1024 * 1024;

/// Longest wait of these tests.
const SOON: Duration = Duration::from_secs(30);

/// What the stand-in does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// Objects have a gibibyte.
    Endless,
    /// Objects announce more than comes.
    Short,
    /// A body is refused before it is read.
    RefusesEarly,
    /// A multipart upload fails after its status was sent.
    FailsLate,
    /// A multipart upload is carried out, but not answered; nor is it there for a repetition.
    LosesAnswer,
    /// Between the first look and the next, another call completes the upload and removes its first
    /// copy.
    Overtakes,
    /// Everything answers 503.
    Down,
    /// No answer at all.
    Silent,
}

#[derive(Clone)]
struct Store {
    mood: Mood,
    /// Objects that were stored or deleted.
    changes: Arc<AtomicUsize>,
    /// `HEAD`s that were asked.
    looks: Arc<AtomicUsize>,
}

async fn answer(State(store): State<Store>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    match (store.mood, request.method()) {
        (Mood::Down, _) => unavailable.into_response(),
        (Mood::Silent, _) => std::future::pending().await,
        (Mood::Endless, &Method::GET) => zeros(1024 * MIB, 1024 * MIB),
        (Mood::Short, &Method::GET) => zeros(8 * MIB, 2 * MIB),
        (Mood::RefusesEarly, &Method::PUT) => unavailable.into_response(),
        (Mood::FailsLate | Mood::LosesAnswer, &Method::POST) if query.contains("uploads=") => {
            "<R><UploadId>u</UploadId></R>".into_response()
        }
        (Mood::FailsLate, &Method::POST) => {
            "<Error><Code>InternalError</Code></Error>".into_response()
        }
        (Mood::LosesAnswer, &Method::POST) => {
            let text = "<Error><Code>NoSuchUpload</Code></Error>";
            (StatusCode::NOT_FOUND, text).into_response()
        }
        (Mood::LosesAnswer, &Method::HEAD) => [
            ("content-length", MIB.to_string()),
            ("etag", "\"e\"".to_owned()),
        ]
        .into_response(),
        (Mood::Overtakes, &Method::HEAD) => {
            let first = store.looks.fetch_add(1, Ordering::SeqCst) == 0;
            if first || request.uri().path().contains("/uploads/") {
                StatusCode::NOT_FOUND.into_response()
            } else {
                [("content-length", "9"), ("etag", "\"e\"")].into_response()
            }
        }
        (_, &Method::PUT) => {
            let read = axum::body::to_bytes(request.into_body(), 64 * MIB).await;
            if read.is_ok() {
                store.changes.fetch_add(1, Ordering::SeqCst);
            }
            "<R><ETag>\"e\"</ETag></R>".into_response()
        }
        _ => StatusCode::NO_CONTENT.into_response(),
    }
}

fn zeros(announced: usize, sent: usize) -> Response {
    let chunk = Bytes::from_static(&[0; 65_536]);
    let whole = std::iter::repeat_n(chunk.clone(), sent / chunk.len()).map(Ok);
    let broken = (sent < announced).then(|| Err(std::io::Error::other("broken off on purpose")));
    let chunks = whole.chain(broken);
    let body = Body::from_stream(stream::iter(chunks));
    ([("content-length", announced.to_string())], body).into_response()
}

async fn backend(mood: Mood, more: &[(&str, &str)]) -> (TestApp, Arc<AtomicUsize>) {
    let store = Store {
        mood,
        changes: Arc::default(),
        looks: Arc::default(),
    };
    let changes = Arc::clone(&store.changes);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(store);
    tokio::spawn(async move { axum::serve(listener, router).await });
    let fixed = [
        ("SLOTCAST_S3_BUCKET", "bucket"),
        ("SLOTCAST_S3_ENDPOINT", &url),
        ("SLOTCAST_S3_PATH_STYLE", "true"),
        ("SLOTCAST_S3_ACCESS_KEY_ID", "key"),
        ("SLOTCAST_S3_SECRET_ACCESS_KEY", "secret"),
    ];
    let all: Vec<_> = fixed.iter().chain(more).copied().collect();
    (start(&all).await, changes)
}

/// A form with a video of `bytes`.
fn form(bytes: usize) -> Vec<u8> {
    let mut form = b"--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.mp4\"\r\n\
        Content-Type: video/mp4\r\n\r\n"
        .to_vec();
    form.resize(form.len() + bytes, 7);
    form.extend_from_slice(b"\r\n--B--\r\n");
    form
}

fn upload<'a>(app: &'a TestApp, user: &User, form: Vec<u8>) -> support::Call<'a> {
    let length = form.len().to_string();
    app.post("/api/files/upload")
        .by(user)
        .header("content-length", &length)
        .body("multipart/form-data; boundary=B", form)
}

fn head(path: &str, user: &User, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nx-auth-token: {}\r\n\
         Content-Type: multipart/form-data; boundary=B\r\nContent-Length: {length}\r\n\r\n",
        user.token
    )
}

/// Reads an answer's head and body.
async fn read_answer(client: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let all = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = all.split_once("\r\n\r\n") {
            let length = head.to_lowercase();
            let length = length.split("content-length: ").nth(1);
            let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return all;
            }
        }
        let read = timeout(SOON, client.read(&mut buffer))
            .await
            .expect("an answer");
        let read = read.unwrap();
        assert!(read > 0, "the connection ended after {all:?}");
        text.extend_from_slice(&buffer[..read]);
    }
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < SOON, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether a gauge of the metrics has this value.
async fn gauge(app: &TestApp, name: &str, value: usize) -> bool {
    let metrics = app.admin("/metrics").await.text;
    let line = metrics
        .lines()
        .find(|line| line.starts_with(&format!("{name}{{")));
    line.is_some_and(|line| line.ends_with(&format!(" {value}")))
}

async fn uploads_in_flight(app: &TestApp, count: usize) -> bool {
    gauge(app, "file_uploads_in_flight", count).await
}

#[tokio::test]
async fn store_that_fails_is_a_503_and_nothing_is_kept() {
    for mood in [Mood::Down, Mood::RefusesEarly, Mood::FailsLate] {
        let (app, _) = backend(mood, &[]).await;
        let user = app.user().await;
        let answer = upload(&app, &user, form(MIB)).send().await;
        answer.assert(503, "파일 업로드 중 오류가 발생했습니다.");
        assert_eq!(answer.header("retry-after"), "1", "{mood:?}");
        assert_eq!(answer.json()["code"], "SERVICE_UNAVAILABLE");
        let metrics = app.admin("/metrics").await.text;
        assert!(metrics.contains("object_store_failures_total{"), "{mood:?}");
        assert!(!metrics.contains("file_uploads_total{"), "{mood:?}");
    }
}

#[tokio::test]
async fn completion_whose_answer_was_lost_is_no_failure() {
    let (app, _) = backend(Mood::LosesAnswer, &[]).await;
    let user = app.user().await;
    let answer = upload(&app, &user, form(MIB)).send().await;
    assert_eq!(answer.assert_status(200).json()["file"]["size"], MIB);
}

#[tokio::test]
async fn completion_that_another_one_overtook_answers_the_same() {
    let (app, _) = backend(Mood::Overtakes, &[]).await;
    let user = app.user().await;
    let wish = json!({ "originalname": "a.mp4", "mimetype": "video/mp4", "size": MIB });
    let presigned = app.post("/api/files/presign").by(&user).json(&wish).send();
    let presigned = presigned.await.assert_status(200).json();
    let id = presigned["file"]["_id"].as_str().unwrap();
    let complete = app.post(&format!("/api/files/{id}/complete")).by(&user);
    let completed = complete.send().await.assert_status(200).json();
    assert_eq!(completed["file"]["_id"], id);
}

#[tokio::test]
async fn file_that_is_too_large_or_breaks_off_is_not_stored() {
    let (app, stored) = backend(Mood::FailsLate, &[]).await;
    let user = app.user().await;
    let image = String::from_utf8_lossy(&form(0))
        .replace("mp4", "png")
        .replace("video", "image");
    let (begin, end) = image.split_once("\r\n\r\n").unwrap();
    let begin = format!("{begin}\r\n\r\n").into_bytes();
    let image = [begin, vec![7; 10 * MIB + 1], end.as_bytes().to_vec()].concat();
    let answer = upload(&app, &user, image).send().await;
    answer.assert(413, "이미지 파일은 10MB를 초과할 수 없습니다.");
    assert_eq!(answer.json()["code"], "FILE_TOO_LARGE");

    let mut broken = form(MIB);
    broken.truncate(broken.len() - 5);
    upload(&app, &user, broken).send().await.assert_status(400);
    assert_eq!(stored.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn client_that_hangs_up_takes_its_upload_along() {
    let (app, stored) = backend(Mood::FailsLate, &[]).await;
    let user = app.user().await;
    let (address, _stop) = app.listen();
    let mut client = TcpStream::connect(address).await.unwrap();
    let form = form(8 * MIB);
    client
        .write_all(head("/api/files/upload", &user, form.len()).as_bytes())
        .await
        .unwrap();
    client.write_all(&form[..6 * MIB]).await.unwrap();
    until("the upload to begin", async || {
        uploads_in_flight(&app, 1).await
    })
    .await;
    drop(client);
    app.app.finish_requests().await;
    assert_eq!(stored.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn refused_upload_reads_its_refusal_and_may_go_on() {
    let (app, _) = backend(Mood::Down, &[]).await;
    let user = app.user().await;
    let (address, _stop) = app.listen();
    let nobody = User {
        token: "none".to_owned(),
        ..user.clone()
    };
    for (who, length, status) in [(&user, 60 * MIB, "413"), (&nobody, 4 * MIB, "401")] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client
            .write_all(head("/api/files/upload", who, length).as_bytes())
            .await
            .unwrap();
        // Before a byte of the body is sent.
        let answer = read_answer(&mut client).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        let chunk = vec![0; MIB];
        for _ in 0..length / MIB {
            timeout(SOON, client.write_all(&chunk))
                .await
                .unwrap()
                .unwrap();
        }
        client
            .write_all(b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let answer = read_answer(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn uploads_beyond_the_bound_are_refused_at_once() {
    let (app, _) = backend(Mood::Silent, &[("SLOTCAST_MAX_UPLOADS", "1")]).await;
    let user = app.user().await;
    let first = tokio::spawn({
        let request = upload(&app, &user, form(MIB)).into_request();
        let router = app.router.clone();
        async move { tower::ServiceExt::oneshot(router, request).await }
    });
    until("the upload to begin", async || {
        uploads_in_flight(&app, 1).await
    })
    .await;
    let second = upload(&app, &user, form(MIB)).send().await;
    assert_eq!(second.assert_status(503).json()["code"], "OVERLOADED");
    assert_eq!(second.header("retry-after"), "1");
    first.abort();
}

#[tokio::test]
async fn store_that_breaks_off_ends_the_answer_early() {
    let (app, _) = backend(Mood::Short, &[]).await;
    let (address, _stop) = app.listen();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(IMAGE_REQUEST).await.unwrap();
    let mut all = Vec::new();
    // An end before the announced length: no client takes it for the whole file.
    let _ = timeout(SOON, client.read_to_end(&mut all)).await.unwrap();
    assert!(String::from_utf8_lossy(&all).contains("content-length: 8388608"));
    assert!(all.len() < 8 * MIB);
}

#[tokio::test]
async fn client_that_takes_nothing_of_a_file_is_cut_off() {
    let (app, _) = backend(Mood::Endless, &[]).await;
    let (address, _stop) = app.listen_for(Duration::from_secs(1));
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = socket.connect(address).await.unwrap();
    client.write_all(IMAGE_REQUEST).await.unwrap();
    client.readable().await.unwrap();
    assert!(gauge(&app, "http_connections", 1).await);
    until("the connection to be cut", async || {
        gauge(&app, "http_connections", 0).await
    })
    .await;
}

const IMAGE_REQUEST: &[u8] =
    b"GET /uploads/1795332990123_0001ffffffffffff.png HTTP/1.1\r\nHost: x\r\n\r\n";
