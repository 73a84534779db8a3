//! The object store as a process, asked over HTTP with requests that `rusty-s3` signs.

mod support;

use std::{
    collections::HashSet,
    fs,
    time::{Duration, SystemTime},
};

use hyper::{Method, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use support::{BUCKET, Server, Signed, element, eventually, set_modified};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::test]
async fn signed_put_is_stored_with_its_type_and_read_back() {
    let server = Server::start();
    let put = Signed::put("uploads/a b+한.jpg").typed("image/jpeg", 5);
    let (status, headers, _) = server.send(&put, "bytes").await;
    assert_eq!(status, StatusCode::OK);
    let etag = headers[header::ETAG].clone();

    let (status, headers, body) = server.send(&Signed::get("uploads/a b+한.jpg"), "").await;
    assert_eq!((status, &*body), (StatusCode::OK, "bytes"));
    assert_eq!(headers[header::CONTENT_TYPE], "image/jpeg");
    assert_eq!(headers[header::CONTENT_LENGTH], "5");
    assert_eq!(headers[header::ETAG], etag);

    let (status, headers, _) = server.send(&Signed::head("uploads/a b+한.jpg"), "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers[header::CONTENT_TYPE], "image/jpeg");
    assert_eq!(headers[header::CONTENT_LENGTH], "5");
    assert_eq!(headers[header::ETAG], etag);
}

#[tokio::test]
async fn empty_object_can_be_stored() {
    let server = Server::start();
    server.put("uploads/empty", "").await;
    let (status, headers, _) = server.send(&Signed::head("uploads/empty"), "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers[header::CONTENT_LENGTH], "0");
}

#[tokio::test]
async fn presigned_put_allows_what_was_signed_and_nothing_else() {
    let server = Server::start();
    let put = || Signed::put("uploads/a").typed("image/png", 5);
    let url = server.url(&put());
    let forged = url.replace("X-Amz-Signature=", "X-Amz-Signature=0");
    let forged = forged.get(..url.len()).unwrap();
    let other_key = url.replace("/uploads/a?", "/files/a?");
    let longer_life = url.replace("X-Amz-Expires=300", "X-Amz-Expires=3000");
    let png = [(header::CONTENT_TYPE.as_str(), "image/png")];
    let jpeg = [(header::CONTENT_TYPE.as_str(), "image/jpeg")];
    let copy = [png[0], ("x-amz-copy-source", "/slotcast/files/secret")];
    let code = async |method, url: &str, headers: &[(&str, &str)], body| {
        let (status, _, text) = server.request(method, url, headers, body).await;
        (status, element(&text, "Code"))
    };
    let refused = (StatusCode::FORBIDDEN, "SignatureDoesNotMatch".to_owned());
    assert_eq!(code(Method::PUT, forged, &png, "12345").await, refused);
    assert_eq!(code(Method::PUT, &other_key, &png, "12345").await, refused);
    assert_eq!(
        code(Method::PUT, &longer_life, &png, "12345").await,
        refused
    );
    assert_eq!(code(Method::PUT, &url, &png, "123456").await, refused);
    assert_eq!(code(Method::PUT, &url, &png, "1234").await, refused);
    assert_eq!(code(Method::PUT, &url, &jpeg, "12345").await, refused);
    assert_eq!(code(Method::PUT, &url, &[], "12345").await, refused);
    assert_eq!(code(Method::GET, &url, &png, "").await, refused);
    assert_eq!(code(Method::DELETE, &url, &png, "12345").await, refused);
    let denied = (StatusCode::FORBIDDEN, "AccessDenied".to_owned());
    assert_eq!(code(Method::PUT, &url, &copy, "12345").await, denied);
    let unsigned = server.at("/slotcast/uploads/a");
    assert_eq!(code(Method::PUT, &unsigned, &png, "12345").await, denied);
    let late = server.url(&put().at(Timestamp::now() - SignedDuration::from_secs(301)));
    assert_eq!(code(Method::PUT, &late, &png, "12345").await, denied);
    assert_eq!(server.files(), Vec::<String>::new());

    let stored = server.request(Method::PUT, &url, &png, "12345").await;
    assert_eq!(stored.0, StatusCode::OK);
}

#[tokio::test]
async fn other_buckets_do_not_exist() {
    let server = Server::start();
    for bucket in ["other", ".drafts"] {
        let get = Signed::get("uploads/a").in_bucket(bucket);
        let status = server.send(&get, "").await.0;
        assert!(status.is_client_error(), "{bucket}: {status}");
    }
    let copy = Signed::put("files/a").with("x-amz-copy-source", "/other/uploads/a");
    let (status, _, text) = server.send(&copy, "").await;
    assert_eq!(
        (status, &*element(&text, "Code")),
        (StatusCode::NOT_FOUND, "NoSuchBucket")
    );
}

#[tokio::test]
async fn put_whose_body_ends_early_leaves_nothing_and_keeps_what_was_there() {
    let server = Server::start();
    server.put("uploads/kept", "whole").await;
    let before = server.files();
    for key in ["uploads/new", "uploads/kept"] {
        let url = server.url(&Signed::put(key).typed("image/png", 100_000));
        let path = url.strip_prefix(&server.at("")).unwrap();
        let mut socket = TcpStream::connect(&server.address).await.unwrap();
        let head = format!(
            "PUT {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: image/png\r\n\
             content-length: 100000\r\n\r\n",
            server.address
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(&[b'x'; 50_000]).await.unwrap();
        eventually("the body to arrive", || server.files().len() > before.len());
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
        eventually("the body to be gone", || server.files() == before);
    }
    assert_eq!(
        server.send(&Signed::head("uploads/new"), "").await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        server.send(&Signed::get("uploads/kept"), "").await.2,
        "whole"
    );
}

#[tokio::test]
async fn put_with_another_checksum_leaves_nothing() {
    let server = Server::start();
    let put = Signed::put("uploads/a").with("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==");
    let (status, _, text) = server.send(&put, "not empty").await;
    assert_eq!(
        (status, &*element(&text, "Code")),
        (StatusCode::BAD_REQUEST, "BadDigest")
    );
    assert_eq!(server.files(), Vec::<String>::new());
}

/// Each version has a type and a letter of its own.
#[tokio::test]
async fn reader_sees_one_version_whole_while_others_write() {
    let server = Server::start();
    let version = |number: usize| {
        let letter = ["a", "b", "c", "d"][number % 4];
        (format!("image/{letter}"), letter.repeat(200_000 + number))
    };
    let write = async |number| {
        let (kind, body) = version(number);
        let put = Signed::put("uploads/a").typed(&kind, body.len());
        assert_eq!(server.send(&put, &body).await.0, StatusCode::OK);
    };
    write(0).await;
    let writes = async {
        for number in 1..60 {
            write(number).await;
        }
    };
    let reads = async {
        let mut seen = HashSet::new();
        for _ in 0..120 {
            let (status, headers, body) = server.send(&Signed::get("uploads/a"), "").await;
            assert_eq!(status, StatusCode::OK);
            let kind = headers[header::CONTENT_TYPE].to_str().unwrap().to_owned();
            let (expected_kind, expected) = version(body.len() - 200_000);
            assert_eq!(kind, expected_kind);
            assert!(body == expected, "bytes of several versions");
            let etag = headers[header::ETAG].clone();
            let head = server
                .send(&Signed::get("uploads/a").with("range", "bytes=0-0"), "")
                .await;
            if head.1[header::ETAG] == etag {
                assert_eq!(head.2, expected[..1]);
            }
            seen.insert(body.len());
        }
        assert!(seen.len() > 1, "reads and writes did not overlap");
    };
    tokio::join!(writes, reads);
}

#[tokio::test]
async fn copy_takes_bytes_and_type_only_from_the_version_that_is_named() {
    let server = Server::start();
    let etag = server.put("uploads/a", "first").await;
    let copy = |etag: &str| {
        Signed::put("files/a.png")
            .with("x-amz-copy-source", "/slotcast/uploads/a")
            .with("x-amz-copy-source-if-match", etag)
    };
    assert_eq!(server.send(&copy(&etag), "").await.0, StatusCode::OK);
    let (_, headers, body) = server.send(&Signed::get("files/a.png"), "").await;
    assert_eq!(
        (&headers[header::CONTENT_TYPE], &*body),
        (&"image/png".parse().unwrap(), "first")
    );

    server.put("uploads/a", "other").await;
    let (status, _, text) = server.send(&copy(&etag), "").await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(element(&text, "Code"), "PreconditionFailed");
    assert_eq!(
        server.send(&Signed::get("files/a.png"), "").await.2,
        "first"
    );
}

#[tokio::test]
async fn range_of_an_object_can_be_copied_by_a_multipart_upload() {
    let server = Server::start();
    server.put("uploads/a", "bytes and padding").await;
    let upload = server.open_upload("files/a.png").await;
    let (status, etag) = server.copy_part("files/a.png", &upload).await;
    assert_eq!(status, StatusCode::OK);
    let complete = Signed::new(rusty_s3::Method::Post, "files/a.png").asking("uploadId", &upload);
    let parts = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>\
         </CompleteMultipartUpload>"
    );
    let (status, _, text) = server.send(&complete, &parts).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert_eq!(element(&text, "Bucket"), BUCKET);
    assert_eq!(element(&text, "Key"), "files/a.png");
    let (_, headers, body) = server.send(&Signed::get("files/a.png"), "").await;
    assert_eq!(body, "bytes");
    assert_eq!(headers[header::CONTENT_TYPE], "image/png");
    let etag = headers[header::ETAG].to_str().unwrap();
    assert!(
        etag.ends_with("-1\"") && text.contains(etag.trim_matches('"')),
        "{etag} {text}"
    );

    let (status, _, text) = server.send(&complete, &parts).await;
    assert_eq!(
        (status, &*element(&text, "Code")),
        (StatusCode::NOT_FOUND, "NoSuchUpload")
    );
}

#[tokio::test]
async fn aborted_upload_leaves_nothing_and_is_gone() {
    let server = Server::start();
    server.put("uploads/a", "bytes").await;
    let before = server.files();
    let upload = server.open_upload("files/a.png").await;
    server.copy_part("files/a.png", &upload).await;
    let other = Signed::new(rusty_s3::Method::Delete, "files/b.png").asking("uploadId", &upload);
    assert_eq!(server.send(&other, "").await.0, StatusCode::NOT_FOUND);
    let abort = Signed::new(rusty_s3::Method::Delete, "files/a.png").asking("uploadId", &upload);
    assert_eq!(server.send(&abort, "").await.0, StatusCode::NO_CONTENT);
    assert_eq!(server.files(), before);
    assert_eq!(server.send(&abort, "").await.0, StatusCode::NOT_FOUND);
    let (status, _) = server.copy_part("files/a.png", &upload).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn deleted_object_is_gone_with_its_attributes() {
    let server = Server::start();
    server.put("uploads/a", "bytes").await;
    let delete = Signed::new(rusty_s3::Method::Delete, "uploads/a");
    for _ in 0..2 {
        assert_eq!(server.send(&delete, "").await.0, StatusCode::NO_CONTENT);
    }
    assert_eq!(
        server.send(&Signed::head("uploads/a"), "").await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(server.files(), Vec::<String>::new());
}

#[tokio::test]
async fn key_that_is_no_plain_path_is_refused() {
    let server = Server::start();
    for key in ["uploads//a", "uploads/a/"] {
        let put = Signed::put(key).typed("image/png", 1);
        let status = server.send(&put, "x").await.0;
        assert!(status.is_client_error(), "{key}: {status}");
    }
    assert_eq!(server.files(), Vec::<String>::new());
}

#[tokio::test]
async fn presigned_get_can_set_headers_of_the_answer() {
    let server = Server::start();
    server.put("files/a.png", "bytes").await;
    let get = Signed::get("files/a.png")
        .asking("response-cache-control", "private")
        .asking(
            "response-content-disposition",
            "attachment; filename*=UTF-8''%ED%95%9C.png",
        )
        .asking("response-content-type", "image/webp");
    let (status, headers, _) = server.send(&get, "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers[header::CACHE_CONTROL], "private");
    assert_eq!(
        headers[header::CONTENT_DISPOSITION],
        "attachment; filename*=UTF-8''%ED%95%9C.png"
    );
    assert_eq!(headers[header::CONTENT_TYPE], "image/webp");
}

#[tokio::test]
async fn ranges_are_answered_and_unsatisfiable_ones_refused() {
    let server = Server::start();
    server.put("files/a.png", "0123456789").await;
    for (range, status, said, body) in [
        (
            "bytes=2-4",
            StatusCode::PARTIAL_CONTENT,
            "bytes 2-4/10",
            "234",
        ),
        (
            "bytes=7-",
            StatusCode::PARTIAL_CONTENT,
            "bytes 7-9/10",
            "789",
        ),
        (
            "bytes=-2",
            StatusCode::PARTIAL_CONTENT,
            "bytes 8-9/10",
            "89",
        ),
    ] {
        let (got, headers, text) = server
            .send(&Signed::get("files/a.png").with("range", range), "")
            .await;
        assert_eq!((got, &*text), (status, body), "{range}");
        assert_eq!(headers[header::CONTENT_RANGE], said);
    }
    let get = Signed::get("files/a.png").with("range", "bytes=10-");
    assert_eq!(
        server.send(&get, "").await.0,
        StatusCode::RANGE_NOT_SATISFIABLE
    );
}

#[tokio::test]
async fn page_of_another_origin_may_upload_and_read_even_errors() {
    let server = Server::start();
    let origin = ("origin", "https://chat.example.com");
    let asks = |method, headers| {
        [
            origin,
            ("access-control-request-method", method),
            ("access-control-request-headers", headers),
        ]
    };
    let url = server.at("/slotcast/uploads/a?X-Amz-Signature=any");
    let asked = asks("PUT", "content-type");
    let (status, headers, _) = server.request(Method::OPTIONS, &url, &asked, "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    assert_eq!(
        headers[header::ACCESS_CONTROL_ALLOW_HEADERS],
        "content-type"
    );

    let (status, headers, text) = server
        .request(Method::OPTIONS, &url, &asks("DELETE", ""), "")
        .await;
    assert_eq!(
        (status, &*element(&text, "Code")),
        (StatusCode::FORBIDDEN, "AccessForbidden")
    );
    assert_eq!(headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN), None);

    let (status, headers, _) = server.request(Method::GET, &url, &[origin], "").await;
    assert!(status.is_client_error());
    assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    assert!(headers[header::VARY].to_str().unwrap().contains("Origin"));

    let put = Signed::put("uploads/a")
        .typed("image/png", 1)
        .unsigned(origin);
    let (status, headers, _) = server.send(&put, "x").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    assert_eq!(headers[header::ACCESS_CONTROL_EXPOSE_HEADERS], "ETag");
    let delete = Signed::new(rusty_s3::Method::Delete, "uploads/a").unsigned(origin);
    let headers = server.send(&delete, "").await.1;
    assert_eq!(headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN), None);
}

#[tokio::test]
async fn sweep_at_start_removes_what_is_older_than_the_rules_allow() {
    let mut server = Server::start();
    for key in ["uploads/a", "uploads/b", "files/c.png"] {
        server.put(key, "bytes").await;
    }
    let stale = server.open_upload("files/a.png").await;
    server.copy_part("files/a.png", &stale).await;
    let live = server.open_upload("files/b.png").await;
    server.stop();
    let long_ago = SystemTime::now() - DAY - Duration::from_secs(60);
    for file in ["slotcast/uploads/a", "slotcast/files/c.png"] {
        set_modified(&server.data.join(file), long_ago);
    }
    set_modified(&server.data.join(format!(".upload-{stale}.json")), long_ago);
    let young = SystemTime::now() - DAY + Duration::from_secs(600);
    set_modified(&server.data.join("slotcast/uploads/b"), young);
    set_modified(&server.data.join(format!(".upload-{live}.json")), young);
    server.restart();

    assert_eq!(
        server.send(&Signed::head("uploads/a"), "").await.0,
        StatusCode::NOT_FOUND
    );
    for key in ["uploads/b", "files/c.png"] {
        assert_eq!(
            server.send(&Signed::head(key), "").await.0,
            StatusCode::OK,
            "{key}"
        );
    }
    let of_uploads: Vec<_> = server
        .files()
        .into_iter()
        .filter(|name| name.contains(".upload"))
        .collect();
    assert_eq!(of_uploads.len(), 2, "{of_uploads:?}");
    assert!(
        of_uploads.iter().all(|name| name.contains(&live)),
        "{of_uploads:?}"
    );
    assert_eq!(server.files().len(), 2 * 3 + 2, "{:?}", server.files());
}

#[tokio::test]
async fn objects_outlive_the_process_and_its_drafts_do_not() {
    let mut server = Server::start();
    server.put("files/a.png", "bytes").await;
    server.stop();
    fs::write(server.data.join(".drafts/7"), "half").unwrap();
    fs::write(
        server
            .data
            .join(".bucket-LmRyYWZ0cw.object-Nw.metadata.json"),
        "{}",
    )
    .unwrap();
    server.restart();
    assert_eq!(
        server.send(&Signed::get("files/a.png"), "").await.2,
        "bytes"
    );
    assert_eq!(server.files().len(), 3, "{:?}", server.files());
}

#[test]
fn every_mistake_in_the_settings_is_a_sentence_and_exits_64() {
    let data = Server::folder();
    let broken = data.join("broken.json");
    fs::write(
        &broken,
        r#"{"Rules": [{"Status": "Enabled", "Filter": {}, "Transition": 1}]}"#,
    )
    .unwrap();
    let mut command = Server::command(&data, &["--lifecycle", broken.to_str().unwrap()]);
    command
        .env_remove("SLOTCAST_S3_ACCESS_KEY_ID")
        .env("SLOTCAST_S3_SECRET_ACCESS_KEY", "");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 3, "{said}");
    for text in [
        "unknown field `Transition`",
        "SLOTCAST_S3_ACCESS_KEY_ID must be set",
        "SLOTCAST_S3_SECRET_ACCESS_KEY must be set",
    ] {
        assert!(said.contains(text), "{said}");
    }
    for (options, text) in [
        (["--bucket", "No"], "'No' cannot be the name of a bucket"),
        (["--listen", "here"], "'--listen <LISTEN>'"),
        (["--cors", "/nowhere"], "cannot read /nowhere"),
    ] {
        let output = Server::command(&data, &options).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(text), "{said}");
    }
    fs::remove_dir_all(data).unwrap();
}

#[test]
fn terminated_process_exits_0() {
    let mut server = Server::start();
    assert_eq!(server.stop(), Some(0));
}
