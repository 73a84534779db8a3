//! How a stored object goes out: as a stream through this process, in part, not at all because the
//! client has it, or by a URL that leads browsers to the object store.
//!
//! Only requests whose `Sec-Fetch-Mode` says that no CORS check is made of the answer (`navigate`,
//! `no-cors`: tabs, frames, images) are led away; scripts and media elements with credentials would
//! need the store to answer as this tier does. Source: Fetch Metadata; RFC 9110, sections 13 and 14.

use std::ops::RangeInclusive;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use http_range_header::{EndPosition, StartPosition, parse_range_header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    app::App,
    error::{Action, ApiError, FileError},
    metrics::Delivery,
};

/// What stays as it is in `filename*`: `attr-char` of RFC 8187, section 3.2.1.
const ATTR_CHAR: AsciiSet = NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// A browser may keep a redirect for this part of its URL's life.
const REDIRECT_KEPT: u64 = 2;

/// An object and how it is to be shown.
pub(crate) struct Content<'a> {
    pub(crate) key: String,
    /// Changes when the bytes do: they never do.
    pub(crate) etag: String,
    pub(crate) content_type: &'a str,
    /// Bytes, where they are known without a look at the object.
    pub(crate) size: Option<u64>,
    pub(crate) disposition: Option<String>,
    pub(crate) cache_control: &'static str,
    /// Whether a browser may be led to the store.
    pub(crate) may_redirect: bool,
}

/// `Content-Disposition` that shows a file in place; the plain name is for clients that know no other.
pub(crate) fn inline(name: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_graphic() && !matches!(c, '"' | '\\') || c == ' ' {
            c
        } else {
            '_'
        }
    };
    let fallback: String = name.chars().map(plain).collect();
    format!("inline; filename=\"{fallback}\"; {}", encoded(name))
}

/// `Content-Disposition` that saves a file.
pub(crate) fn attachment(name: &str) -> String {
    format!("attachment; {}", encoded(name))
}

fn encoded(name: &str) -> String {
    format!("filename*=UTF-8''{}", utf8_percent_encode(name, &ATTR_CHAR))
}

/// Answers a GET or HEAD.
pub(crate) async fn deliver(
    app: &App,
    method: &Method,
    headers: &HeaderMap,
    content: &Content<'_>,
) -> Result<Response, ApiError> {
    if is_held(headers, &content.etag) {
        app.metrics.delivered(Delivery::NotModified, 0);
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        set(&mut response, header::ETAG, &content.etag);
        set(&mut response, header::CACHE_CONTROL, content.cache_control);
        if content.may_redirect {
            set(&mut response, header::VARY, "Sec-Fetch-Mode");
        }
        return Ok(response);
    }
    let may_redirect = content.may_redirect && method == Method::GET;
    if may_redirect && app.objects()?.redirects() && follows_without_cors(headers) {
        return redirect(app, content).await;
    }
    stream(app, method, headers, content).await
}

/// Whether the client has it (RFC 9110, section 13.1.2).
fn is_held(headers: &HeaderMap, etag: &str) -> bool {
    let condition = headers.get(header::IF_NONE_MATCH);
    let condition = condition.and_then(|value| value.to_str().ok());
    condition.is_some_and(|tags| {
        let mut tags = tags
            .split(',')
            .map(|tag| tag.trim().trim_start_matches("W/"));
        tags.any(|tag| tag == etag || tag == "*")
    })
}

fn follows_without_cors(headers: &HeaderMap) -> bool {
    let mode = headers.get("sec-fetch-mode");
    mode.is_some_and(|mode| mode == "navigate" || mode == "no-cors")
}

async fn redirect(app: &App, content: &Content<'_>) -> Result<Response, ApiError> {
    let presigned = app.objects()?.download_url(
        &content.key,
        content.cache_control,
        content.disposition.as_deref().unwrap_or("inline"),
        content.content_type,
    );
    let presigned = presigned.await.map_err(failed)?;
    app.metrics.delivered(Delivery::Redirect, 0);
    let mut response = StatusCode::FOUND.into_response();
    set(&mut response, header::LOCATION, presigned.url.as_str());
    let kept = presigned.valid_for.as_secs() / REDIRECT_KEPT;
    let cache_control = if content.cache_control.contains("no-store") {
        "no-store".to_owned()
    } else {
        format!("private, max-age={kept}")
    };
    set(&mut response, header::CACHE_CONTROL, &cache_control);
    set(&mut response, header::VARY, "Sec-Fetch-Mode");
    Ok(response)
}

async fn stream(
    app: &App,
    method: &Method,
    headers: &HeaderMap,
    content: &Content<'_>,
) -> Result<Response, ApiError> {
    let objects = app.objects()?;
    let is_head = method == Method::HEAD;
    let mut response = Response::new(Body::empty());
    let mut range = None;
    if is_head || headers.contains_key(header::RANGE) {
        let size = match content.size {
            Some(size) if !is_head => size,
            _ => objects.head(&content.key).await.map_err(failed)?.size,
        };
        range = wanted_range(headers, &content.etag, size)?;
        let length = range
            .as_ref()
            .map_or(size, |range| range.end() - range.start() + 1);
        set(&mut response, header::CONTENT_LENGTH, &length.to_string());
        if let Some(range) = &range {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {}-{}/{size}", range.start(), range.end());
            set(&mut response, header::CONTENT_RANGE, &range);
        }
    }
    if !is_head {
        let object = objects
            .get(&content.key, range.as_ref())
            .await
            .map_err(failed)?;
        app.metrics.delivered(Delivery::Stream, object.length);
        set(
            &mut response,
            header::CONTENT_LENGTH,
            &object.length.to_string(),
        );
        *response.body_mut() = object.body;
    }
    set(&mut response, header::CONTENT_TYPE, content.content_type);
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    set(&mut response, header::ETAG, &content.etag);
    set(&mut response, header::CACHE_CONTROL, content.cache_control);
    if let Some(disposition) = &content.disposition {
        set(&mut response, header::CONTENT_DISPOSITION, disposition);
    }
    if content.may_redirect {
        set(&mut response, header::VARY, "Sec-Fetch-Mode");
    }
    Ok(response)
}

/// The one range that is wanted; `None` for all, which also answers a wish for several. What is no
/// range is refused like one beyond the end, as the reference does.
fn wanted_range(
    headers: &HeaderMap,
    etag: &str,
    size: u64,
) -> Result<Option<RangeInclusive<u64>>, FileError> {
    let refusal = FileError::RangeNotSatisfiable(size);
    let Some(range) = headers.get(header::RANGE) else {
        return Ok(None);
    };
    if headers
        .get(header::IF_RANGE)
        .is_some_and(|known| known != etag)
    {
        return Ok(None);
    }
    let ranges = parse_range_header(range.to_str().map_err(|_| refusal)?);
    let ranges = ranges.map_err(|_| refusal)?.ranges;
    let [range] = ranges.as_slice() else {
        return Ok(None);
    };
    let last = size.checked_sub(1).ok_or(refusal)?;
    let range = match (range.start, range.end) {
        (StartPosition::FromLast(0), _) => return Err(refusal),
        (StartPosition::FromLast(count), _) => size.saturating_sub(count)..=last,
        (StartPosition::Index(first), EndPosition::Index(end)) => first..=end.min(last),
        (StartPosition::Index(first), EndPosition::LastByte) => first..=last,
    };
    if range.is_empty() {
        return Err(refusal);
    }
    Ok(Some(range))
}

fn failed(error: crate::objects::ObjectError) -> ApiError {
    error.during(Action::ReadFile)
}

/// Values are ours, or were made of ASCII above.
fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispositions_are_ascii_whatever_the_name() {
        let name = "사진 \"1\"'*.jpg";
        let encoded = "filename*=UTF-8''%EC%82%AC%EC%A7%84%20%221%22%27%2A.jpg";
        assert_eq!(
            inline(name),
            format!("inline; filename=\"__ _1_'*.jpg\"; {encoded}")
        );
        assert_eq!(attachment(name), format!("attachment; {encoded}"));
    }

    #[test]
    fn ranges_are_cut_to_the_file() {
        let of = |range: &str| wanted_range(&headers(&[("range", range)]), "\"e\"", 10);
        assert_eq!(of("bytes=0-0"), Ok(Some(0..=0)));
        assert_eq!(of("bytes=4-"), Ok(Some(4..=9)));
        assert_eq!(of("bytes=4-99"), Ok(Some(4..=9)));
        assert_eq!(of("bytes=-3"), Ok(Some(7..=9)));
        assert_eq!(of("bytes=-99"), Ok(Some(0..=9)));
        assert_eq!(of("bytes=0-1,4-5"), Ok(None));
        for bad in [
            "bytes=10-",
            "bytes=-0",
            "bytes=5-4",
            "bytes=a-b",
            "bytes",
            "lines=1-2",
            "",
        ] {
            assert_eq!(of(bad), Err(FileError::RangeNotSatisfiable(10)), "{bad:?}");
        }
        let empty = wanted_range(&headers(&[("range", "bytes=0-")]), "\"e\"", 0);
        assert_eq!(empty, Err(FileError::RangeNotSatisfiable(0)));
    }

    #[test]
    fn conditions_compare_tags() {
        let range = |known: &str| {
            wanted_range(
                &headers(&[("range", "bytes=0-0"), ("if-range", known)]),
                "\"e\"",
                10,
            )
        };
        assert_eq!(range("\"e\""), Ok(Some(0..=0)));
        assert_eq!(range("\"f\""), Ok(None));
        let held = |tags: &str| is_held(&headers(&[("if-none-match", tags)]), "\"e\"");
        assert!(held("\"e\"") && held("\"f\", W/\"e\"") && held("*"));
        assert!(!held("\"f\"") && !held("e") && !is_held(&headers(&[]), "\"e\""));
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }
}
