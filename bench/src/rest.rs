//! The REST calls of a user, on one connection that is kept as a browser keeps it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode,
    client::conn::http1::{self, SendRequest},
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER},
    http::response::Parts,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// Of every user here.
pub(crate) const PASSWORD: &str = "Passw0rd!";

/// What a login gives.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    pub(crate) token: String,
    pub(crate) session: String,
}

/// An answer that asks to try again later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    /// 429 or 503.
    pub(crate) status: StatusCode,
    /// When; `None` if it does not say.
    pub(crate) retry_after: Option<Duration>,
}

/// A connection to a backend. It ends when this is dropped.
pub(crate) struct Rest {
    backend: String,
    sender: SendRequest<Full<Bytes>>,
    /// Of the user who is logged in.
    token: String,
}

impl Rest {
    /// Connects to a backend, `host:port`.
    pub(crate) async fn connect(backend: &str) -> Result<Self> {
        let stream = TcpStream::connect(backend).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // A failure shows in the call that it breaks.
        tokio::spawn(connection);
        Ok(Self {
            backend: backend.to_owned(),
            sender,
            token: String::new(),
        })
    }

    /// Logs in; `None` if there is no such user, or with another password.
    pub(crate) async fn login(&mut self, email: &str, password: &str) -> Result<Option<Pass>> {
        let form = json!({"email": email, "password": password});
        let (status, answer) = self
            .call(Method::POST, "/api/auth/login", Some(&form))
            .await?;
        if status == StatusCode::UNAUTHORIZED {
            return Ok(None);
        }
        expect(status, StatusCode::OK, &answer)?;
        let pass = Pass {
            token: text(&answer, "/token")?,
            session: text(&answer, "/sessionId")?,
        };
        self.token.clone_from(&pass.token);
        Ok(Some(pass))
    }

    /// Logs in unless the backend is too busy.
    pub(crate) async fn login_or_refusal(
        &mut self,
        email: &str,
        password: &str,
    ) -> Result<Option<Refusal>> {
        const MAY_PASS: [StatusCode; 2] = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
        ];
        let form = json!({"email": email, "password": password});
        let (head, answer) = self
            .exchange(Method::POST, "/api/auth/login", Some(&form))
            .await?;
        if MAY_PASS.contains(&head.status) {
            return Ok(Some(Refusal {
                status: head.status,
                retry_after: retry_after(&head.headers),
            }));
        }
        expect(head.status, StatusCode::OK, &answer)?;
        Ok(None)
    }

    pub(crate) async fn register(&mut self, email: &str, password: &str) -> Result<()> {
        let form = json!({"name": "bench", "email": email, "password": password});
        let (status, answer) = self
            .call(Method::POST, "/api/auth/register", Some(&form))
            .await?;
        expect(status, StatusCode::CREATED, &answer)
    }

    /// The first page of the rooms, which nobody looks at.
    pub(crate) async fn list_rooms(&mut self) -> Result<()> {
        let (status, answer) = self
            .call(Method::GET, "/api/rooms?page=0&pageSize=10", None)
            .await?;
        expect(status, StatusCode::OK, &answer)
    }

    /// The id of a new room.
    pub(crate) async fn create_room(&mut self, name: &str) -> Result<String> {
        let form = json!({"name": name});
        let (status, answer) = self.call(Method::POST, "/api/rooms", Some(&form)).await?;
        expect(status, StatusCode::CREATED, &answer)?;
        text(&answer, "/data/_id")
    }

    pub(crate) async fn join_room(&mut self, room: &str) -> Result<()> {
        let path = format!("/api/rooms/{room}/join");
        let (status, answer) = self.call(Method::POST, &path, Some(&json!({}))).await?;
        expect(status, StatusCode::OK, &answer)
    }

    pub(crate) async fn get_room(&mut self, room: &str) -> Result<()> {
        let path = format!("/api/rooms/{room}");
        let (status, answer) = self.call(Method::GET, &path, None).await?;
        expect(status, StatusCode::OK, &answer)
    }

    async fn call(
        &mut self,
        method: Method,
        path: &str,
        form: Option<&Value>,
    ) -> Result<(StatusCode, Value)> {
        let (head, answer) = self.exchange(method, path, form).await?;
        Ok((head.status, answer))
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        form: Option<&Value>,
    ) -> Result<(Parts, Value)> {
        let body = form.map(Value::to_string).unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.backend)
            .header(CONTENT_TYPE, "application/json");
        if !self.token.is_empty() {
            request = request.header(AUTHORIZATION, format!("Bearer {}", self.token));
        }
        self.sender.ready().await?;
        let request = request.body(Full::from(body))?;
        let response = self.sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let answer = serde_json::from_slice(&body.collect().await?.to_bytes());
        let answer = answer.with_context(|| format!("{} without JSON from {path}", head.status))?;
        Ok((head, answer))
    }
}

/// The seconds that an answer asks to wait (RFC 9110, 10.2.3); a date is not understood.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn expect(status: StatusCode, expected: StatusCode, answer: &Value) -> Result<()> {
    ensure!(status == expected, "{status} from the backend: {answer}");
    Ok(())
}

fn text(answer: &Value, pointer: &str) -> Result<String> {
    let text = answer.pointer(pointer).and_then(Value::as_str);
    let text = text.with_context(|| format!("no {pointer} in {answer}"))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn a_refusal_says_in_seconds_when_to_try_again() {
        let headers =
            |value| HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
        assert_eq!(retry_after(&headers("2")), Some(Duration::from_secs(2)));
        assert_eq!(retry_after(&headers("soon")), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
