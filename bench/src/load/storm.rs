//! A storm of logins beside chat: what messages in small rooms take without it, and while it lasts.

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use super::{
    LEAD_NS, REST_PATIENCE, Target, Timing,
    figures::{Figures, approximate, share},
    logins::{self, Outcome, STORM_MAX, Visitor},
    measure, period_ns,
    series::{Column, Series, judge_parts},
};
use crate::{
    clock::now_ns,
    cost::{Meter, sleep_until},
    crowd::{Crowd, Pace, Span, Step},
    seed::Seeder,
    stats::Summary,
};

/// Options of `bench storm`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    timing: Timing,
    /// Backends to log in at, `host:port`; the logins are spread over them.
    #[arg(long = "backend", default_value = "127.0.0.1:5001")]
    backends: Vec<String>,
    /// Logins, of one user each, all at once.
    #[arg(long, default_value_t = 500)]
    logins: usize,
    /// Sockets, one user each.
    #[arg(long, default_value_t = 2000)]
    sockets: usize,
    /// Members of a room.
    #[arg(long, default_value_t = 10)]
    room_size: usize,
    /// Messages a second, in all rooms together.
    #[arg(long, default_value_t = 1000)]
    rate: u64,
}

#[derive(Serialize)]
struct Scenario {
    logins: usize,
    backends: usize,
    sockets: usize,
    room_size: usize,
    rate: u64,
    gateways: usize,
    threads: usize,
    /// Of the part without a storm; the other part is measured until the last login has succeeded.
    seconds: u64,
    warmup_seconds: u64,
}

/// Chat without a storm, then with one.
#[derive(Serialize)]
struct Run {
    calm: Figures,
    /// From the moment of all logins until the last of them has succeeded.
    storm: Figures,
    /// Of the latencies with the storm to those without.
    latency_ratio: Ratio,
    logins: Outcome,
}

#[derive(Debug, PartialEq, Serialize)]
struct Ratio {
    p50: f64,
    p99: f64,
}

const COLUMNS: &[Column] = &[
    ("msg/s", "/calm/messages/per_second"),
    ("p50 us", "/calm/latency_us/p50"),
    ("p99", "/calm/latency_us/p99"),
    ("max", "/calm/latency_us/max"),
    ("storm msg/s", "/storm/messages/per_second"),
    ("storm p50", "/storm/latency_us/p50"),
    ("storm p99", "/storm/latency_us/p99"),
    ("storm max", "/storm/latency_us/max"),
    ("p99 ratio", "/latency_ratio/p99"),
    ("logins/s", "/logins/per_second"),
    ("login p50 us", "/logins/succeeded_us/p50"),
    ("login p99", "/logins/succeeded_us/p99"),
    ("refused", "/logins/refusals"),
    ("backend cpu s", "/storm/servers/backend/cpu_seconds"),
    ("lag p99 us", "/storm/client/send_lag_us/p99"),
    ("client cpu", "/storm/client/cpu_share_max"),
];

pub(crate) async fn run(options: Options) -> Result<()> {
    ensure!(options.logins > 0, "logins must not be 0");
    let pace = Pace::Every(period_ns(options.rate)?);
    let Options { target, timing, .. } = &options;
    let emails = seed(&options).await?;
    let (crowd, meter) = target.gather(options.sockets, options.room_size).await?;
    crowd.advance(Step::Joined).await?;
    let mut runs = Vec::new();
    for _ in 0..timing.runs {
        meter.rest(REST_PATIENCE).await?;
        let calm = measure(&crowd, &meter, pace, timing.span()).await?;
        meter.rest(REST_PATIENCE).await?;
        let visitors = logins::gather(&options.backends, &emails).await?;
        let (storm, logins) = measure_storm(&crowd, &meter, pace, timing.span(), visitors).await?;
        runs.push(Run {
            latency_ratio: ratio(&calm, &storm),
            calm,
            storm,
            logins,
        });
    }
    let series = Series::of_runs(options.scenario(), &runs)?;
    series.publish(COLUMNS, timing.report.as_deref())?;
    let numbered = (1..).zip(&runs);
    judge_parts(numbered.flat_map(|(number, run)| {
        [
            (format!("run {number}"), &run.calm),
            (format!("the storm of run {number}"), &run.storm),
        ]
    }))
}

impl Options {
    const fn scenario(&self) -> Scenario {
        Scenario {
            logins: self.logins,
            backends: self.backends.len(),
            sockets: self.sockets,
            room_size: self.room_size,
            rate: self.rate,
            gateways: self.target.servers.gateways.len(),
            threads: self.target.threads,
            seconds: self.timing.seconds,
            warmup_seconds: self.timing.warmup_seconds,
        }
    }
}

/// E-mail addresses of those who will log in. One of them is registered, so that the backend decides
/// how passwords are hashed.
async fn seed(options: &Options) -> Result<Vec<String>> {
    let Target {
        servers,
        secret,
        shards,
        ..
    } = &options.target;
    let seeder = Seeder::connect(&servers.redis_urls, secret, *shards).await?;
    let backend = options.backends.first().context("there is no backend")?;
    let first = logins::register(backend).await?;
    seeder.accounts(options.logins, &first).await
}

/// Chat from before the storm until it is over, measured while it lasts.
async fn measure_storm(
    crowd: &Crowd,
    meter: &Meter,
    pace: Pace,
    calm: Span,
    visitors: Vec<Visitor>,
) -> Result<(Figures, Outcome)> {
    let span = Span {
        until_ns: calm.from_ns + u64::try_from(STORM_MAX.as_nanos())?,
        ..calm
    };
    let run = crowd.prepare(now_ns() + LEAD_NS, pace, span);
    let storm = async {
        sleep_until(run.origin_ns + span.from_ns).await;
        let before = meter.read()?;
        let outcome = logins::storm(visitors).await;
        run.stop(now_ns());
        Ok((outcome?, meter.spent_since(&before)?))
    };
    let (tally, (outcome, spent)) = tokio::try_join!(crowd.play(&run), storm)?;
    Ok((Figures::new(run.accepted(), &tally, &spent), outcome))
}

fn ratio(calm: &Figures, storm: &Figures) -> Ratio {
    let of = |at: fn(&Summary) -> u64| {
        let us = |figures: &Figures| figures.latency_us.as_ref().map_or(0, at);
        share(approximate(us(storm)), approximate(us(calm)))
    };
    Ratio {
        p50: of(|latency| latency.p50),
        p99: of(|latency| latency.p99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cost::Spent, crowd::Tally};

    fn figures(latencies_us: &[u64]) -> Figures {
        let mut tally = Tally::default();
        for us in latencies_us {
            tally.latency.record_ns(us * 1000);
        }
        let spent = Spent {
            seconds: 1.0,
            roles: [].into(),
            threads: Vec::new(),
        };
        Figures::new(0, &tally, &spent)
    }

    #[test]
    fn the_storm_is_told_as_a_multiple_of_the_calm() {
        let (calm, storm) = (figures(&[100, 100, 200]), figures(&[150, 150, 800]));
        let expected = Ratio { p50: 1.5, p99: 4.0 };
        assert_eq!(ratio(&calm, &storm), expected);
        assert_eq!(ratio(&figures(&[]), &storm).p50, 0.0);
    }
}
