//! Logins over REST, all of them at one moment; whoever is refused politely asks again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use futures_util::future::try_join_all;
use serde::Serialize;
use tokio::time::{sleep, timeout};

use super::figures::{approximate, share};
use crate::{
    rest::{PASSWORD, Refusal, Rest},
    stats::{Latencies, Summary},
};

/// Until a refused login is tried again if the refusal does not say.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A storm that lasts longer has failed.
pub(super) const STORM_MAX: Duration = Duration::from_secs(120);

/// Somebody who is about to log in, on a connection that is open.
pub(super) struct Visitor {
    email: String,
    rest: Rest,
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

/// One visitor's way in.
struct Visit {
    succeeded_after: Duration,
    /// What was answered before, and how long each of these attempts took.
    refusals: Vec<(Refusal, Duration)>,
}

/// Registers somebody whose password the others may have too; answers the e-mail address.
pub(super) async fn register(backend: &str) -> Result<String> {
    let email = format!("bench-{:032x}@example.com", fastrand::u128(..));
    let mut rest = Rest::connect(backend).await?;
    rest.register(&email, PASSWORD).await?;
    Ok(email)
}

/// Opens a connection for each account; the backends take turns.
pub(super) async fn gather(backends: &[String], emails: &[String]) -> Result<Vec<Visitor>> {
    let pairs = emails.iter().zip(backends.iter().cycle());
    let visitors = pairs.map(async |(email, backend)| {
        anyhow::Ok(Visitor {
            email: email.clone(),
            rest: Rest::connect(backend).await?,
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
            let outcome = self.rest.login_or_refusal(&self.email, PASSWORD).await?;
            let Some(refusal) = outcome else {
                return Ok(Visit {
                    succeeded_after: begun.elapsed(),
                    refusals,
                });
            };
            refusals.push((refusal, asked.elapsed()));
            sleep(refusal.retry_after.unwrap_or(RETRY_PAUSE)).await;
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
            for (refusal, after) in &visit.refusals {
                refused_after.record_ns(nanoseconds(*after));
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

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;

    fn refusal(status: StatusCode, retry_after: Option<u64>) -> (Refusal, Duration) {
        let refusal = Refusal {
            status,
            retry_after: retry_after.map(Duration::from_secs),
        };
        (refusal, Duration::from_millis(2))
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
}
