//! Logins over REST, all of them at one moment; whoever is refused politely asks again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode,
    client::conn::http1::{self, SendRequest},
    header::{CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER},
};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::json;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::figures::{approximate, share};
use crate::stats::{Latencies, Summary};

/// Of every account here.
const PASSWORD: &str = "Passw0rd!";

/// Until a refused login is tried again if the refusal does not say.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A storm that lasts longer has failed.
pub(super) const STORM_MAX: Duration = Duration::from_secs(120);

/// Somebody who is about to log in, on a connection that is open.
pub(super) struct Visitor {
    backend: String,
    sender: SendRequest<Full<Bytes>>,
    form: Bytes,
}

/// What became of the logins.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Outcome {
    logins: usize,
    /// Until the last had succeeded.
    seconds: f64,
    per_second: f64,
    /// From the beginning of the storm until a login succeeded, repetitions included.
    succeeded_us: Option<Summary>,
    /// Answers that asked to try again (429 or 503, with `Retry-After`), by status.
    refused: BTreeMap<u16, u64>,
    refusals: u64,
    /// Those that did not say when.
    refused_without_retry_after: u64,
    /// From an attempt until its refusal.
    refused_us: Option<Summary>,
}

/// One answer that is no success.
struct Refusal {
    status: StatusCode,
    after: Duration,
    retry_after: Option<Duration>,
}

/// One visitor's way in.
struct Visit {
    succeeded_after: Duration,
    refusals: Vec<Refusal>,
}

/// Registers somebody whose password the others may have too; answers the e-mail address.
pub(super) async fn register(backend: &str) -> Result<String> {
    let email = format!("bench-{:032x}@example.com", fastrand::u128(..));
    let form = json!({"name": "bench", "email": email, "password": PASSWORD});
    let mut sender = connect(backend).await?;
    let form = Bytes::from(form.to_string());
    let (status, _) = post(&mut sender, backend, "/api/auth/register", form).await?;
    ensure!(
        status.is_success(),
        "cannot register at {backend}: {status}"
    );
    Ok(email)
}

/// Opens a connection for each account; the backends take turns.
pub(super) async fn gather(backends: &[String], emails: &[String]) -> Result<Vec<Visitor>> {
    let visitors = emails
        .iter()
        .zip(backends.iter().cycle())
        .map(async |(email, backend)| {
            let form = json!({"email": email, "password": PASSWORD});
            anyhow::Ok(Visitor {
                backend: backend.clone(),
                sender: connect(backend).await?,
                form: form.to_string().into(),
            })
        });
    try_join_all(visitors).await
}

/// Has all log in at once, each until it succeeds.
pub(super) async fn storm(visitors: Vec<Visitor>) -> Result<Outcome> {
    let begun = Instant::now();
    let visits = try_join_all(visitors.into_iter().map(|visitor| visitor.log_in(begun)));
    match timeout(STORM_MAX, visits).await {
        Ok(visits) => Ok(Outcome::new(&visits?)),
        Err(_) => bail!("after {} s some had no login", STORM_MAX.as_secs()),
    }
}

impl Visitor {
    async fn log_in(mut self, begun: Instant) -> Result<Visit> {
        let mut refusals = Vec::new();
        loop {
            let asked = Instant::now();
            let form = self.form.clone();
            let answer = post(&mut self.sender, &self.backend, "/api/auth/login", form).await?;
            let (status, headers) = answer;
            if status.is_success() {
                return Ok(Visit {
                    succeeded_after: begun.elapsed(),
                    refusals,
                });
            }
            let may_pass = [
                StatusCode::TOO_MANY_REQUESTS,
                StatusCode::SERVICE_UNAVAILABLE,
            ];
            ensure!(may_pass.contains(&status), "a login failed: {status}");
            let retry_after = retry_after(&headers);
            refusals.push(Refusal {
                status,
                after: asked.elapsed(),
                retry_after,
            });
            sleep(retry_after.unwrap_or(RETRY_PAUSE)).await;
        }
    }
}

impl Outcome {
    fn new(visits: &[Visit]) -> Self {
        let (mut succeeded, mut refused_after) = (Latencies::default(), Latencies::default());
        let mut refused = BTreeMap::<u16, u64>::new();
        let (mut refusals, mut without) = (0, 0);
        for visit in visits {
            succeeded.record_ns(nanoseconds(visit.succeeded_after));
            for refusal in &visit.refusals {
                refused_after.record_ns(nanoseconds(refusal.after));
                *refused.entry(refusal.status.as_u16()).or_default() += 1;
                refusals += 1;
                without += u64::from(refusal.retry_after.is_none());
            }
        }
        let last = visits.iter().map(|visit| visit.succeeded_after).max();
        let seconds = last.unwrap_or_default().as_secs_f64();
        Self {
            logins: visits.len(),
            seconds,
            per_second: share(approximate(visits.len() as u64), seconds),
            succeeded_us: succeeded.summary(),
            refused,
            refusals,
            refused_without_retry_after: without,
            refused_us: refused_after.summary(),
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The seconds that a refusal asks to wait (RFC 9110, 10.2.3); a date is not understood.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

async fn connect(backend: &str) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(backend).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the sender; why it ended earlier is told to the sender.
    tokio::spawn(connection);
    Ok(sender)
}

/// Posts a form and reads the answer to its end, so that the connection can be used again.
async fn post(
    sender: &mut SendRequest<Full<Bytes>>,
    backend: &str,
    path: &str,
    form: Bytes,
) -> Result<(StatusCode, HeaderMap)> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, backend)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::from(form))?;
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let (head, body) = response.into_parts();
    body.collect().await?;
    Ok((head.status, head.headers))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn refusal(status: StatusCode, retry_after: Option<u64>) -> Refusal {
        Refusal {
            status,
            after: Duration::from_millis(2),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[test]
    fn logins_count_from_the_beginning_of_the_storm() {
        let visits = [
            Visit {
                succeeded_after: Duration::from_secs(1),
                refusals: Vec::new(),
            },
            Visit {
                succeeded_after: Duration::from_secs(4),
                refusals: vec![
                    refusal(StatusCode::SERVICE_UNAVAILABLE, Some(1)),
                    refusal(StatusCode::TOO_MANY_REQUESTS, None),
                ],
            },
        ];
        let outcome = Outcome::new(&visits);
        assert_eq!([outcome.seconds, outcome.per_second], [4.0, 0.5]);
        assert_eq!(outcome.refused, BTreeMap::from([(429, 1), (503, 1)]));
        assert_eq!(outcome.refusals, 2);
        assert_eq!(outcome.refused_without_retry_after, 1);
        assert_eq!(outcome.succeeded_us.unwrap().count, 2);
        assert_eq!(outcome.refused_us.unwrap().max, 2000);
    }

    #[test]
    fn a_refusal_says_in_seconds_when_to_try_again() {
        let headers =
            |value| HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
        assert_eq!(retry_after(&headers("2")), Some(Duration::from_secs(2)));
        assert_eq!(retry_after(&headers("soon")), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
