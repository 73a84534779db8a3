//! The object store: any server that speaks S3.
//!
//! Every request, our own too, is a presigned URL (AWS Signature Version 4 in the query, unsigned
//! payload), made by `rusty-s3`, which does nothing else. Requests that can be repeated are, for a
//! moment; a body that streams is sent once.
//!
//! | prefix | holds |
//! |---|---|
//! | `uploads/<file id>` | what clients and forms upload; a lifecycle rule of the bucket ends it |
//! | `files/<stored name>` | files of messages |
//! | `profiles/<stored name>` | profile images |
//!
//! Source: Amazon S3 API reference; "Authenticating Requests: Using Query Parameters".

pub mod credentials;
pub(crate) mod http;

use std::{
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    http::{HeaderMap, Method, StatusCode, header, request},
};
use hyper::{
    Request, Response,
    body::{Body as _, Incoming},
};
use jiff::Timestamp;
use rusty_s3::Bucket;
use thiserror::Error;
use tokio::time::{sleep, timeout};
use tower_http::timeout::TimeoutBody;
use url::Url;

use self::{
    credentials::{CredentialSource, Credentials, Keyring},
    http::{Http, read_text},
};
use crate::metrics::Metrics;

/// Time to the head of an answer, and to all of a short one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The same where the store has to move all bytes of an object first.
const COPY_TIMEOUT: Duration = Duration::from_secs(60);

/// Time to the next bytes of an object.
const STREAM_TIMEOUT: Duration = Duration::from_secs(30);

/// Tries of a request that can be repeated, unless [`ANSWER_TIMEOUT`] is over; the pause after the first.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// Validity of the URLs that this process itself uses at once; clocks may differ that much.
const OWN_URL_TTL: Duration = Duration::from_secs(300);

/// Configuration of the object store.
#[derive(Clone)]
pub struct ObjectStoreConfig {
    /// As this process reaches it.
    pub bucket: Bucket,
    /// As clients reach it.
    pub public_bucket: Bucket,
    /// Who signs.
    pub credentials: CredentialSource,
    /// Validity of a URL to upload to.
    pub upload_url_ttl: Duration,
    /// Validity of a URL to download from.
    pub download_url_ttl: Duration,
    /// Whether browsers are led to the store to download.
    pub redirects: bool,
}

/// Why the store did not do it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum ObjectError {
    /// There is no such object.
    #[error("no such object")]
    NotFound,
    /// The object is not the one that was looked at before.
    #[error("the object has changed")]
    Changed,
    /// The store, or its credentials, cannot be reached.
    #[error("the object store is unavailable")]
    Unavailable,
    /// The store refuses for good: configuration, or a bug.
    #[error("the object store refuses")]
    Refused,
}

/// What the store knows of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectHead {
    pub(crate) size: u64,
    pub(crate) content_type: String,
    pub(crate) etag: String,
}

/// An object, or a part of one, that is still to come.
pub(crate) struct ObjectStream {
    /// Bytes of the body.
    pub(crate) length: u64,
    pub(crate) body: Body,
}

/// A URL that needs no further credentials, and for how long.
pub(crate) struct Presigned {
    pub(crate) url: Url,
    pub(crate) valid_for: Duration,
    /// Milliseconds since 1970; whole seconds, as the URL counts them.
    pub(crate) expires_at: u64,
}

/// Asks the store.
pub(crate) struct ObjectStore {
    config: ObjectStoreConfig,
    keyring: Keyring,
    http: Http,
    metrics: Arc<Metrics>,
}

/// A request without body or with a short one.
#[derive(Clone, Copy)]
struct Call<'a> {
    /// Word for logs and metrics.
    name: &'static str,
    method: rusty_s3::Method,
    key: &'a str,
    /// Sorted by name.
    query: &'a [(&'a str, &'a str)],
    /// Signed; sorted by name, names in lower case.
    headers: &'a [(&'a str, &'a str)],
    body: &'a str,
    patience: Duration,
}

impl<'a> Call<'a> {
    const fn new(name: &'static str, method: rusty_s3::Method, key: &'a str) -> Self {
        Self {
            name,
            method,
            key,
            query: &[],
            headers: &[],
            body: "",
            patience: ANSWER_TIMEOUT,
        }
    }
}

impl ObjectStore {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// A system without root certificates.
    pub(crate) fn new(config: ObjectStoreConfig, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let http = Http::new()?;
        let source = config.credentials.clone();
        Ok(Self {
            keyring: Keyring::new(source, http.clone(), Arc::clone(&metrics)),
            config,
            http,
            metrics,
        })
    }

    /// Keeps the credentials renewed; runs until dropped.
    pub(crate) async fn renew_credentials(&self) {
        self.keyring.renew().await;
    }

    /// Longest validity of a URL to upload to.
    pub(crate) const fn upload_url_ttl(&self) -> Duration {
        self.config.upload_url_ttl
    }

    /// Whether browsers are led to the store to download.
    pub(crate) const fn redirects(&self) -> bool {
        self.config.redirects
    }

    // -------------------------------------------------------------------------------- for clients

    /// A URL to which exactly `size` bytes of `content_type` can be PUT.
    pub(crate) async fn upload_url(
        &self,
        key: &str,
        content_type: &str,
        size: u64,
    ) -> Result<Presigned, ObjectError> {
        let size = size.to_string();
        let headers = [("content-length", &*size), ("content-type", content_type)];
        let call = Call {
            headers: &headers,
            ..Call::new("upload_url", rusty_s3::Method::Put, key)
        };
        self.presign(call, self.config.upload_url_ttl).await
    }

    /// A URL to GET an object from, which then has these headers.
    pub(crate) async fn download_url(
        &self,
        key: &str,
        cache_control: &str,
        disposition: &str,
        content_type: &str,
    ) -> Result<Presigned, ObjectError> {
        let query = [
            ("response-cache-control", cache_control),
            ("response-content-disposition", disposition),
            ("response-content-type", content_type),
        ];
        let call = Call {
            query: &query,
            ..Call::new("download_url", rusty_s3::Method::Get, key)
        };
        self.presign(call, self.config.download_url_ttl).await
    }

    async fn presign(&self, call: Call<'_>, ttl: Duration) -> Result<Presigned, ObjectError> {
        let credentials = self.keyring.current().await?;
        let valid_for = credentials.remaining().map_or(ttl, |left| left.min(ttl));
        // The query counts whole seconds; a URL that is born dead helps nobody.
        if valid_for.as_secs() == 0 {
            return Err(ObjectError::Unavailable);
        }
        let now = Timestamp::now();
        let begins = u64::try_from(now.as_second()).unwrap_or_default();
        Ok(Presigned {
            url: sign(
                &self.config.public_bucket,
                &credentials,
                call,
                now,
                valid_for,
            ),
            valid_for,
            expires_at: begins
                .saturating_add(valid_for.as_secs())
                .saturating_mul(1000),
        })
    }

    // ------------------------------------------------------------------------------------ objects

    /// Stores `length` bytes of a stream, all or nothing. Resolves when the store has answered,
    /// possibly before the stream's end.
    pub(crate) async fn put(
        &self,
        key: &str,
        length: u64,
        content_type: &str,
        body: Body,
    ) -> Result<(), ObjectError> {
        let call = Call::new("put", rusty_s3::Method::Put, key);
        let started = Instant::now();
        let request = self
            .request(call)
            .await?
            .header(header::CONTENT_LENGTH, length)
            .header(header::CONTENT_TYPE, content_type)
            .body(body);
        let request = request.map_err(|_| ObjectError::Refused)?;
        let answer = match self.http.request(request).await {
            Ok(response) => short(call, response).await.map(|_| ()),
            Err(_) => Err(ObjectError::Unavailable),
        };
        self.note(call, started, &answer);
        answer
    }

    /// Looks at an object.
    pub(crate) async fn head(&self, key: &str) -> Result<ObjectHead, ObjectError> {
        let call = Call::new("head", rusty_s3::Method::Head, key);
        let headers = self.ask(call).await?.0;
        let text = |name| {
            let value = headers.get(name)?;
            Some(value.to_str().ok()?.to_owned())
        };
        let size = text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        Ok(ObjectHead {
            size: size.ok_or(ObjectError::Refused)?,
            content_type: text(header::CONTENT_TYPE).unwrap_or_default(),
            etag: text(header::ETAG).ok_or(ObjectError::Refused)?,
        })
    }

    /// Reads an object, or a part of it.
    pub(crate) async fn get(
        &self,
        key: &str,
        range: Option<&RangeInclusive<u64>>,
    ) -> Result<ObjectStream, ObjectError> {
        let call = Call::new("get", rusty_s3::Method::Get, key);
        let range = range.map(|range| format!("bytes={}-{}", range.start(), range.end()));
        let send = || self.send(call, range.as_deref());
        let response = self.repeat(call, send).await?;
        let wanted = if range.is_some() {
            StatusCode::PARTIAL_CONTENT
        } else {
            StatusCode::OK
        };
        let length = response.body().size_hint().exact();
        match length {
            Some(length) if response.status() == wanted => Ok(ObjectStream {
                length,
                body: Body::new(TimeoutBody::new(STREAM_TIMEOUT, response.into_body())),
            }),
            _ => {
                tracing::error!(status = %response.status(), "the object store ignores ranges");
                Err(ObjectError::Refused)
            }
        }
    }

    /// Copies a whole object unless it is another one than `etag` by now. Of its headers the copy has
    /// only the type: whoever wrote the source may have added others.
    pub(crate) async fn copy(
        &self,
        from: &str,
        to: &str,
        etag: &str,
        content_type: &str,
    ) -> Result<(), ObjectError> {
        let source = self.source(from);
        let headers = [
            ("content-type", content_type),
            ("x-amz-copy-source", &*source),
            ("x-amz-copy-source-if-match", etag),
            ("x-amz-metadata-directive", "REPLACE"),
        ];
        let call = Call {
            headers: &headers,
            patience: COPY_TIMEOUT,
            ..Call::new("copy", rusty_s3::Method::Put, to)
        };
        self.ask(call).await.map(|_| ())
    }

    /// Copies the first `size` bytes of an object to a new key, in the store: a multipart upload of one
    /// part.
    pub(crate) async fn copy_beginning(
        &self,
        from: &str,
        to: &str,
        size: u64,
        content_type: &str,
    ) -> Result<(), ObjectError> {
        let headers = [("content-type", content_type)];
        let create = Call {
            query: &[("uploads", "")],
            headers: &headers,
            ..Call::new("create_multipart", rusty_s3::Method::Post, to)
        };
        let upload = element(&self.ask(create).await?.1, "UploadId")?;
        let Err(error) = self.copy_part(from, to, size, &upload).await else {
            return Ok(());
        };
        // The answer to a completion may have been lost, and its repetition in vain.
        if self.head(to).await.is_ok_and(|there| there.size == size) {
            return Ok(());
        }
        let query = [("uploadId", &*upload)];
        let abort = Call {
            query: &query,
            ..Call::new("abort_multipart", rusty_s3::Method::Delete, to)
        };
        // The lifecycle rule ends what cannot be aborted.
        let _ = tokio::join!(self.ask(abort), self.delete(to));
        Err(match error {
            ObjectError::NotFound | ObjectError::Changed => ObjectError::Unavailable,
            ObjectError::Unavailable | ObjectError::Refused => error,
        })
    }

    async fn copy_part(
        &self,
        from: &str,
        to: &str,
        size: u64,
        upload: &str,
    ) -> Result<(), ObjectError> {
        let source = self.source(from);
        let range = format!("bytes=0-{}", size.saturating_sub(1));
        let headers = [
            ("x-amz-copy-source", &*source),
            ("x-amz-copy-source-range", &*range),
        ];
        let copy = Call {
            query: &[("partNumber", "1"), ("uploadId", upload)],
            headers: &headers,
            patience: COPY_TIMEOUT,
            ..Call::new("copy_part", rusty_s3::Method::Put, to)
        };
        let etag = element(&self.ask(copy).await?.1, "ETag")?;
        let etag = etag.trim_matches('"');
        if !etag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(ObjectError::Refused);
        }
        let parts = format!(
            "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Part>\
             <PartNumber>1</PartNumber><ETag>\"{etag}\"</ETag></Part></CompleteMultipartUpload>"
        );
        let complete = Call {
            query: &[("uploadId", upload)],
            body: &parts,
            patience: COPY_TIMEOUT,
            ..Call::new("complete_multipart", rusty_s3::Method::Post, to)
        };
        self.ask(complete).await.map(|_| ())
    }

    /// Deletes an object, if it is there.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        let call = Call::new("delete", rusty_s3::Method::Delete, key);
        match self.ask(call).await {
            Ok(_) | Err(ObjectError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    // ---------------------------------------------------------------------------------- machinery

    /// `x-amz-copy-source`; our keys need no percent-encoding.
    fn source(&self, key: &str) -> String {
        format!("/{}/{key}", self.config.bucket.name())
    }

    /// Asks, again if that may help, and reads the whole short answer.
    async fn ask(&self, call: Call<'_>) -> Result<(HeaderMap, String), ObjectError> {
        self.repeat(call, || async {
            let response = self.send(call, None).await?;
            let headers = response.headers().clone();
            let text = timeout(call.patience, short(call, response)).await;
            Ok((headers, text.map_err(|_| ObjectError::Unavailable)??))
        })
        .await
    }

    async fn repeat<T, F: Future<Output = Result<T, ObjectError>>>(
        &self,
        call: Call<'_>,
        attempt: impl Fn() -> F,
    ) -> Result<T, ObjectError> {
        let started = Instant::now();
        let mut pause = PAUSE;
        let mut tries = 1;
        let answer = loop {
            match attempt().await {
                Err(ObjectError::Unavailable)
                    if tries < TRIES && started.elapsed() < ANSWER_TIMEOUT =>
                {
                    sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
                    pause *= 2;
                    tries += 1;
                }
                answer => break answer,
            }
        };
        self.note(call, started, &answer);
        answer
    }

    fn note<T>(&self, call: Call<'_>, started: Instant, answer: &Result<T, ObjectError>) {
        self.metrics
            .object_store_asked(call.name, started.elapsed());
        match answer {
            Ok(_) | Err(ObjectError::NotFound | ObjectError::Changed) => return,
            Err(error @ ObjectError::Unavailable) => {
                tracing::warn!(call = call.name, %error, "the object store failed");
            }
            Err(error @ ObjectError::Refused) => {
                tracing::error!(call = call.name, %error, "the object store failed");
            }
        }
        self.metrics.object_store_failed(call.name);
    }

    async fn send(
        &self,
        call: Call<'_>,
        range: Option<&str>,
    ) -> Result<Response<Incoming>, ObjectError> {
        let mut request = self.request(call).await?;
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        let request = request.body(Body::from(call.body.to_owned()));
        let request = request.map_err(|_| ObjectError::Refused)?;
        let response = timeout(call.patience, self.http.request(request)).await;
        let response = response.map_err(|_| ObjectError::Unavailable)?;
        let response = response.map_err(|_| ObjectError::Unavailable)?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(call, response).await)
    }

    async fn request(&self, call: Call<'_>) -> Result<request::Builder, ObjectError> {
        let credentials = self.keyring.current().await?;
        let now = Timestamp::now();
        let url = sign(&self.config.bucket, &credentials, call, now, OWN_URL_TTL);
        let request = Request::builder()
            .method(method(call.method))
            .uri(url.as_str());
        let headers = call.headers.iter();
        Ok(headers.fold(request, |request, (name, value)| {
            request.header(*name, *value)
        }))
    }
}

fn sign(
    bucket: &Bucket,
    credentials: &Credentials,
    call: Call<'_>,
    now: Timestamp,
    valid_for: Duration,
) -> Url {
    rusty_s3::signing::sign(
        &now,
        call.method,
        bucket.object_url(call.key),
        &credentials.key,
        &credentials.secret,
        credentials.token.as_deref(),
        bucket.region(),
        valid_for.as_secs(),
        call.query.iter().copied(),
        call.headers.iter().copied(),
    )
}

const fn method(method: rusty_s3::Method) -> Method {
    match method {
        rusty_s3::Method::Head => Method::HEAD,
        rusty_s3::Method::Get => Method::GET,
        rusty_s3::Method::Post => Method::POST,
        rusty_s3::Method::Put => Method::PUT,
        rusty_s3::Method::Delete => Method::DELETE,
    }
}

/// A whole short answer. Copies may fail after their status was sent: then the body is an error.
async fn short(call: Call<'_>, response: Response<Incoming>) -> Result<String, ObjectError> {
    if !response.status().is_success() {
        return Err(refusal(call, response).await);
    }
    let text = read_text(response.into_body()).await;
    let text = text.map_err(|_| ObjectError::Unavailable)?;
    match element(&text, "Code") {
        Ok(code) if is_error(&text) => {
            tracing::warn!(call = call.name, code, "the object store failed half-way");
            Err(ObjectError::Unavailable)
        }
        _ => Ok(text),
    }
}

/// Why a request was refused; a HEAD has no text that says more.
async fn refusal(call: Call<'_>, response: Response<Incoming>) -> ObjectError {
    let status = response.status();
    if status == StatusCode::PRECONDITION_FAILED {
        return ObjectError::Changed;
    }
    let text = timeout(ANSWER_TIMEOUT, read_text(response.into_body())).await;
    let text = text.ok().and_then(Result::ok).unwrap_or_default();
    let code = element(&text, "Code").unwrap_or_default();
    if status == StatusCode::NOT_FOUND && code != "NoSuchBucket" {
        return ObjectError::NotFound;
    }
    tracing::warn!(
        call = call.name,
        status = status.as_u16(),
        code,
        "the object store refuses"
    );
    match code.as_str() {
        "RequestTimeout" | "SlowDown" => ObjectError::Unavailable,
        _ if status.is_server_error() => ObjectError::Unavailable,
        _ => ObjectError::Refused,
    }
}

fn is_error(xml: &str) -> bool {
    let document = roxmltree::Document::parse(xml.trim());
    document.is_ok_and(|document| document.root_element().tag_name().name() == "Error")
}

/// The text of the first element of this name, in any namespace.
fn element(xml: &str, name: &str) -> Result<String, ObjectError> {
    // Amazon S3 sends white space while a copy takes long.
    let document = roxmltree::Document::parse(xml.trim()).map_err(|_| ObjectError::Refused)?;
    let found = document
        .descendants()
        .find(|node| node.tag_name().name() == name);
    let text = found.and_then(|node| node.text());
    text.map(str::to_owned).ok_or(ObjectError::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_in_any_namespace() {
        let plain = "<R><ETag>&quot;a-1&quot;</ETag></R>";
        let named = "<R xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><ETag>\"a-1\"</ETag></R>";
        for xml in [plain, named] {
            assert_eq!(element(xml, "ETag").unwrap(), "\"a-1\"");
            assert_eq!(element(xml, "UploadId"), Err(ObjectError::Refused));
        }
        assert!(element("<R>", "ETag").is_err());
        assert!(is_error("<Error><Code>InternalError</Code></Error>"));
        assert!(!is_error(plain) && !is_error(""));
    }

    #[test]
    fn a_presigned_upload_signs_type_and_length() {
        let bucket = Bucket::new(
            Url::parse("http://127.0.0.1:9").unwrap(),
            rusty_s3::UrlStyle::Path,
            "b",
            "us-east-1",
        );
        let credentials = Credentials {
            key: "key".to_owned(),
            secret: "secret".to_owned(),
            token: None,
            expires_at: None,
        };
        let headers = [("content-length", "5"), ("content-type", "image/png")];
        let call = Call {
            headers: &headers,
            ..Call::new("upload_url", rusty_s3::Method::Put, "uploads/x")
        };
        let ttl = Duration::from_secs(7);
        let url = sign(&bucket.unwrap(), &credentials, call, Timestamp::now(), ttl);
        assert!(url.as_str().starts_with("http://127.0.0.1:9/b/uploads/x?"));
        for part in [
            "X-Amz-SignedHeaders=content-length%3Bcontent-type%3Bhost",
            "X-Amz-Expires=7",
        ] {
            assert!(url.as_str().contains(part), "{url}");
        }
        assert!(!url.as_str().contains("secret"));
    }
}
