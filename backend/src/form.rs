//! Forms with a file (`multipart/form-data`, RFC 7578), read as they arrive: a form in work holds a
//! few buffers, never the file.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::Request,
    http::{HeaderMap, header},
};
use futures_util::{Stream, StreamExt};
use multer::{Field, Multipart};
use tokio::time::timeout;

use crate::error::{ApiError, FileError};

/// What stands around the file in a form: boundaries, headers, other fields.
pub(crate) const AROUND_BYTES_MAX: u64 = 64 * 1024;

/// Bytes that the parser may hold without making sense of them. A part's head is a few hundred; a
/// chunk of data is at most a connection's buffer.
const UNPARSED_BYTES_MAX: usize = 256 * 1024;

/// How long the next bytes of a form may take.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A form that is being read.
pub(crate) struct FileForm {
    multipart: Multipart<'static>,
    appetite: Arc<Appetite>,
    /// Bytes of the whole form.
    pub(crate) length: u64,
}

/// The part of a form that holds the file.
pub(crate) struct FilePart {
    field: Field<'static>,
    appetite: Arc<Appetite>,
    /// `filename` of the part; empty when it has none.
    pub(crate) name: String,
    /// Declared type of the part.
    pub(crate) declared_type: String,
}

impl FileForm {
    /// Accepts a form by its head alone; a file may have `file_bytes_max`.
    pub(crate) fn open(request: Request, file_bytes_max: u64) -> Result<Self, FileError> {
        let (parts, body) = request.into_parts();
        let feed = Feed::new(body);
        let boundary = boundary(&parts.headers).ok_or(FileError::NotAForm)?;
        let length = content_length(&parts.headers).ok_or(FileError::LengthRequired)?;
        if length > file_bytes_max.saturating_add(AROUND_BYTES_MAX) {
            return Err(FileError::RequestTooLarge);
        }
        let appetite = Arc::clone(&feed.appetite);
        Ok(Self {
            multipart: Multipart::new(feed, boundary),
            appetite,
            length,
        })
    }

    /// The first part with this name; those before it are passed over.
    pub(crate) async fn file(&mut self, name: &str) -> Result<Option<FilePart>, ApiError> {
        while let Some(field) = self.next().await? {
            let mut part = self.part(field);
            if part.field.name() == Some(name) {
                return Ok(Some(part));
            }
            part.skip().await?;
        }
        Ok(None)
    }

    /// Reads what follows the file: a form that breaks off is none.
    pub(crate) async fn finish(&mut self) -> Result<(), ApiError> {
        while let Some(field) = self.next().await? {
            self.part(field).skip().await?;
        }
        Ok(())
    }

    fn part(&self, field: Field<'static>) -> FilePart {
        FilePart {
            name: field.file_name().unwrap_or_default().to_owned(),
            declared_type: declared_type(field.headers()),
            field,
            appetite: Arc::clone(&self.appetite),
        }
    }

    async fn next(&mut self) -> Result<Option<Field<'static>>, ApiError> {
        self.appetite.rest();
        let field = in_time(self.multipart.next_field()).await?;
        self.appetite.made_sense();
        Ok(field)
    }
}

impl FilePart {
    /// The next bytes of the file, never none; `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            self.appetite.rest();
            let chunk = in_time(self.field.chunk()).await?;
            self.appetite.made_sense();
            if chunk.as_ref().is_none_or(|bytes| !bytes.is_empty()) {
                return Ok(chunk);
            }
        }
    }

    async fn skip(&mut self) -> Result<(), ApiError> {
        while self.chunk().await?.is_some() {}
        Ok(())
    }
}

async fn in_time<T>(read: impl Future<Output = multer::Result<T>>) -> Result<T, ApiError> {
    let read = timeout(IDLE_TIMEOUT, read).await;
    read.map_err(|_| ApiError::BodyTooSlow)?.map_err(|error| {
        tracing::debug!(%error, "a form could not be read");
        FileError::MalformedForm.into()
    })
}

fn boundary(headers: &HeaderMap) -> Option<String> {
    let content_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    multer::parse_boundary(content_type).ok()
}

/// `Content-Length`; absent for a body of unknown length, which the object store could not take.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn declared_type(headers: &HeaderMap) -> String {
    let declared = headers.get(header::CONTENT_TYPE);
    let declared = declared.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    declared.unwrap_or_default()
}

/// Hands a request's body to the parser, which takes all that it can get before it looks at what it
/// has: nothing at first, then one chunk a poll, and no more than it can make sense of.
struct Feed {
    body: BodyDataStream,
    appetite: Arc<Appetite>,
}

/// What the parser may have.
#[derive(Default)]
struct Appetite {
    /// The next poll brings nothing, so that the parser first looks at what it has.
    rests: AtomicBool,
    /// Bytes that it got since it last made sense of any.
    unparsed: AtomicUsize,
}

impl Appetite {
    fn rest(&self) {
        self.rests.store(true, Ordering::Relaxed);
    }

    fn made_sense(&self) {
        self.unparsed.store(0, Ordering::Relaxed);
    }
}

impl Feed {
    fn new(body: Body) -> Self {
        Self {
            body: body.into_data_stream(),
            appetite: Arc::default(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a part's head or a boundary is too long")]
struct Unparsable;

impl Stream for Feed {
    type Item = Result<Bytes, Box<dyn std::error::Error + Send + Sync>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.appetite.rests.swap(false, Ordering::Relaxed) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(chunk) = std::task::ready!(self.body.poll_next_unpin(cx)) else {
            return Poll::Ready(None);
        };
        self.appetite.rest();
        let chunk = chunk?;
        let unparsed = self
            .appetite
            .unparsed
            .fetch_add(chunk.len(), Ordering::Relaxed);
        if unparsed > UNPARSED_BYTES_MAX {
            return Poll::Ready(Some(Err(Unparsable.into())));
        }
        Poll::Ready(Some(Ok(chunk)))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    const CONTENT_TYPE: &str = "multipart/form-data; boundary=B";

    fn request(content_type: &str, length: Option<usize>, body: Body) -> Request {
        let mut request = Request::post("/").header(header::CONTENT_TYPE, content_type);
        if let Some(length) = length {
            request = request.header(header::CONTENT_LENGTH, length);
        }
        request.body(body).unwrap()
    }

    async fn read(form: &str, chunk_bytes: usize) -> Result<(String, String, Vec<u8>), ApiError> {
        let chunks: Vec<_> = form
            .as_bytes()
            .chunks(chunk_bytes)
            .map(Bytes::copy_from_slice)
            .collect();
        let body = Body::from_stream(stream::iter(
            chunks.into_iter().map(Ok::<_, std::io::Error>),
        ));
        let mut form = FileForm::open(request(CONTENT_TYPE, Some(form.len()), body), 1000).unwrap();
        let mut part = form.file("file").await?.ok_or(FileError::MalformedForm)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = part.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        let (name, declared_type) = (part.name.clone(), part.declared_type.clone());
        drop(part);
        form.finish().await?;
        Ok((name, declared_type, bytes))
    }

    #[tokio::test]
    async fn a_file_is_found_among_fields_however_the_form_is_cut() {
        let form = "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--B\r\n\
            Content-Disposition: form-data; name=\"file\"; filename=\"사진 1.jpg\"\r\n\
            Content-Type: image/jpeg\r\n\r\n\r\n-\r\n--A\r\n--B\r\n\
            Content-Disposition: form-data; name=\"b\"\r\n\r\n2\r\n--B--";
        for chunk_bytes in [1, 2, 7, 64, 4096] {
            let (name, declared_type, bytes) = read(form, chunk_bytes).await.unwrap();
            assert_eq!((&*name, &*declared_type), ("사진 1.jpg", "image/jpeg"));
            assert_eq!(bytes, b"\r\n-\r\n--A");
        }
    }

    #[tokio::test]
    async fn an_empty_file_has_no_bytes_to_give() {
        let form = "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n\r\n--B--\r\n";
        for chunk_bytes in [1, 60, 4096] {
            let body = form.as_bytes().chunks(chunk_bytes);
            let body = body.map(|bytes| Ok::<_, std::io::Error>(Bytes::copy_from_slice(bytes)));
            let body = Body::from_stream(stream::iter(body.collect::<Vec<_>>()));
            let mut form =
                FileForm::open(request(CONTENT_TYPE, Some(form.len()), body), 1000).unwrap();
            let mut part = form.file("file").await.unwrap().unwrap();
            assert!(part.chunk().await.unwrap().is_none(), "{chunk_bytes}");
        }
    }

    #[tokio::test]
    async fn a_form_that_breaks_off_is_refused() {
        let form = "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nabc\r\n--B--\r\n";
        assert!(read(form, 10).await.is_ok());
        for end in [3, 30, 70, form.len() - 6, form.len() - 4] {
            assert!(read(&form[..end], 10).await.is_err(), "{end}");
        }
    }

    #[tokio::test]
    async fn a_head_without_end_is_refused_before_it_fills_the_memory() {
        let heads =
            stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 65_536])));
        let begin = stream::iter([Ok(Bytes::from_static(b"--B\r\nContent-Disposition: "))]);
        let body = Body::from_stream(begin.chain(heads));
        let request = request(CONTENT_TYPE, Some(1 << 20), body);
        let mut form = FileForm::open(request, 1 << 20).unwrap();
        assert!(form.file("file").await.is_err());
    }

    #[tokio::test]
    async fn many_small_parts_are_not_gathered_in_memory() {
        const PART: &[u8] = b"--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n";
        const CHUNK: usize = 32 * 1024;
        let form = PART.repeat(20_000);
        let fed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&fed);
        let chunks: Vec<_> = form.chunks(CHUNK).map(Bytes::copy_from_slice).collect();
        let body = stream::iter(chunks).map(move |chunk| {
            count.fetch_add(chunk.len(), Ordering::Relaxed);
            Ok::<_, std::io::Error>(chunk)
        });
        let request = request(CONTENT_TYPE, Some(form.len()), Body::from_stream(body));
        let mut form = FileForm::open(request, 2 << 20).unwrap();
        for parsed in 0..19_000 {
            let field = form.next().await.unwrap().unwrap();
            form.part(field).skip().await.unwrap();
            let held = fed
                .load(Ordering::Relaxed)
                .saturating_sub(parsed * PART.len());
            assert!(held <= 2 * CHUNK, "{held} bytes after {parsed} parts");
        }
    }

    #[tokio::test]
    async fn forms_are_refused_by_their_head() {
        let open = |content_type: &str, length| {
            FileForm::open(request(content_type, length, Body::empty()), 1000)
                .err()
                .unwrap()
        };
        assert_eq!(open("application/json", Some(1)), FileError::NotAForm);
        assert_eq!(open("multipart/form-data", Some(1)), FileError::NotAForm);
        assert_eq!(open(CONTENT_TYPE, None), FileError::LengthRequired);
        let too_large = usize::try_from(AROUND_BYTES_MAX).unwrap() + 1001;
        assert_eq!(
            open(CONTENT_TYPE, Some(too_large)),
            FileError::RequestTooLarge
        );
    }
}
