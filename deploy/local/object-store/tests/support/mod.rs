//! A process of the object store, and what it is asked.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy takes the helpers of tests for other code"
)]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri, body::Bytes, client::conn::http1, header,
};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::net::TcpStream;

const KEY_ID: &str = "test-key";
const SECRET: &str = "test-secret";

pub(crate) const BUCKET: &str = "slotcast";

/// What is asked, and how it is signed.
pub(crate) struct Signed<'a> {
    method: rusty_s3::Method,
    bucket: &'a str,
    key: &'a str,
    query: Vec<(&'a str, &'a str)>,
    headers: Vec<(&'a str, String)>,
    unsigned: Vec<(&'a str, &'a str)>,
    at: Timestamp,
}

impl<'a> Signed<'a> {
    pub(crate) fn new(method: rusty_s3::Method, key: &'a str) -> Self {
        Self {
            method,
            bucket: BUCKET,
            key,
            query: Vec::new(),
            headers: Vec::new(),
            unsigned: Vec::new(),
            at: Timestamp::now(),
        }
    }

    pub(crate) fn get(key: &'a str) -> Self {
        Self::new(rusty_s3::Method::Get, key)
    }

    pub(crate) fn head(key: &'a str) -> Self {
        Self::new(rusty_s3::Method::Head, key)
    }

    pub(crate) fn put(key: &'a str) -> Self {
        Self::new(rusty_s3::Method::Put, key)
    }

    pub(crate) fn typed(self, kind: &str, length: usize) -> Self {
        let length = length.to_string();
        self.with("content-length", &length)
            .with("content-type", kind)
    }

    pub(crate) fn with(mut self, name: &'a str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(crate) fn unsigned(mut self, header: (&'a str, &'a str)) -> Self {
        self.unsigned.push(header);
        self
    }

    pub(crate) fn asking(mut self, name: &'a str, value: &'a str) -> Self {
        self.query.push((name, value));
        self
    }

    pub(crate) fn in_bucket(self, bucket: &'a str) -> Self {
        Self { bucket, ..self }
    }

    pub(crate) fn at(self, at: Timestamp) -> Self {
        Self { at, ..self }
    }
}

/// A running object store with a folder of its own.
pub(crate) struct Server {
    process: Child,
    pub(crate) address: String,
    pub(crate) data: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.data);
    }
}

impl Server {
    pub(crate) fn start() -> Self {
        let data = Self::folder();
        let (process, address) = Self::spawn(&data);
        Self {
            process,
            address,
            data,
        }
    }

    pub(crate) fn folder() -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("object-store-{}-{number}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// The command line, in which `options` come instead of the defaults.
    pub(crate) fn command(data: &Path, options: &[&str]) -> Command {
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../s3");
        let file = |name| rules.join(name).to_str().unwrap().to_owned();
        let defaults = [
            ("--listen", "127.0.0.1:0".to_owned()),
            ("--data", data.to_str().unwrap().to_owned()),
            ("--bucket", BUCKET.to_owned()),
            ("--cors", file("cors.json")),
            ("--lifecycle", file("lifecycle.json")),
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_object-store"));
        command
            .env("SLOTCAST_S3_ACCESS_KEY_ID", KEY_ID)
            .env("SLOTCAST_S3_SECRET_ACCESS_KEY", SECRET)
            .args(options)
            .stderr(Stdio::piped());
        for (name, value) in defaults {
            if !options.contains(&name) {
                command.args([name, &value]);
            }
        }
        command
    }

    fn spawn(data: &Path) -> (Child, String) {
        let mut command = Self::command(data, &[]);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = lines.find_map(|line| {
            let line = line.unwrap();
            Some(line.split_once("listening on ")?.1.to_owned())
        });
        // What it says later must have a reader.
        std::thread::spawn(move || lines.for_each(drop));
        (process, address.expect("it listens"))
    }

    pub(crate) fn stop(&mut self) -> Option<i32> {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").arg(id).status().unwrap().success());
        self.process.wait().unwrap().code()
    }

    pub(crate) fn restart(&mut self) {
        (self.process, self.address) = Self::spawn(&self.data);
    }

    /// Every file in the folder.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.data.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(
                        path.strip_prefix(&self.data)
                            .unwrap()
                            .to_str()
                            .unwrap()
                            .to_owned(),
                    );
                }
            }
        }
        found.sort();
        found
    }

    pub(crate) fn at(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn url(&self, request: &Signed<'_>) -> String {
        let mut url: url::Url = self.at("").parse().unwrap();
        let mut path = url.path_segments_mut().unwrap();
        path.clear()
            .push(request.bucket)
            .extend(request.key.split('/'));
        drop(path);
        let mut headers = request.headers.clone();
        headers.sort();
        let mut query = request.query.clone();
        query.sort_unstable();
        let headers = headers.iter().map(|(name, value)| (*name, value.as_str()));
        rusty_s3::signing::sign(
            &request.at,
            request.method,
            url,
            KEY_ID,
            SECRET,
            None,
            "us-east-1",
            300,
            query.into_iter(),
            headers,
        )
        .to_string()
    }

    pub(crate) async fn send(
        &self,
        request: &Signed<'_>,
        body: &str,
    ) -> (StatusCode, HeaderMap, String) {
        let signed = request
            .headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()));
        let headers: Vec<_> = signed.chain(request.unsigned.iter().copied()).collect();
        let method = request.method.to_str().parse().unwrap();
        self.request(method, &self.url(request), &headers, body)
            .await
    }

    pub(crate) async fn request(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (StatusCode, HeaderMap, String) {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let uri: Uri = url.parse().unwrap();
        let mut request = Request::builder()
            .method(method)
            .uri(uri.path_and_query().unwrap().as_str())
            .header("host", &self.address);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let response = client.send_request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (
            parts.status,
            parts.headers,
            String::from_utf8(body.into()).unwrap(),
        )
    }

    /// Stores an image and says its tag.
    pub(crate) async fn put(&self, key: &str, body: &str) -> String {
        let put = Signed::put(key).typed("image/png", body.len());
        let (status, headers, text) = self.send(&put, body).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        headers[header::ETAG].to_str().unwrap().to_owned()
    }

    pub(crate) async fn open_upload(&self, key: &str) -> String {
        let open = Signed::new(rusty_s3::Method::Post, key)
            .asking("uploads", "")
            .with("content-type", "image/png");
        let (status, _, text) = self.send(&open, "").await;
        assert_eq!(status, StatusCode::OK, "{text}");
        assert_eq!(element(&text, "Key"), key);
        assert_eq!(element(&text, "Bucket"), BUCKET);
        element(&text, "UploadId")
    }

    /// Copies the first five bytes of `uploads/a`.
    pub(crate) async fn copy_part(&self, key: &str, upload: &str) -> (StatusCode, String) {
        let copy = Signed::put(key)
            .asking("partNumber", "1")
            .asking("uploadId", upload)
            .with("x-amz-copy-source", "/slotcast/uploads/a")
            .with("x-amz-copy-source-range", "bytes=0-4");
        let (status, _, text) = self.send(&copy, "").await;
        (status, element(&text, "ETag"))
    }
}

/// The text of an XML element, or nothing.
pub(crate) fn element(xml: &str, name: &str) -> String {
    let text = xml.split_once(&format!("<{name}>")).map(|(_, rest)| rest);
    let text = text.and_then(|rest| rest.split_once(&format!("</{name}>")));
    text.map(|(text, _)| text.to_owned()).unwrap_or_default()
}

pub(crate) fn set_modified(file: &Path, when: SystemTime) {
    let file = fs::File::options().write(true).open(file).unwrap();
    file.set_modified(when).unwrap();
}

/// Waits for a condition that another process brings about.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(
            std::time::Instant::now() < deadline,
            "waited in vain for {what}"
        );
        std::thread::yield_now();
    }
}
