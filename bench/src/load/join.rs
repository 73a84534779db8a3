//! A storm: as many sockets as there are, from nothing into their rooms, as fast as they get there.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use tokio::time::sleep;

use super::{
    REST_PATIENCE, Target,
    figures::{CPU_SHARE_MAX, MILLION, approximate, share},
    series::{Column, Series, warn},
};
use crate::{
    clock::{NS_PER_MS, NS_PER_SECOND, now_ns},
    cost::{Meter, Role, Spent},
    crowd::{Crowd, Step},
    stats::Summary,
};

/// Options of `bench join`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Sockets, one user each.
    #[arg(long, default_value_t = 5000)]
    sockets: usize,
    /// Members of a room; lists of more participants than that are not read.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=64))]
    room_size: u16,
    /// Takes all sockets through one step after another, each step measured for itself.
    #[arg(long)]
    by_step: bool,
    /// Measures so many times, with new users each time.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Seconds after the last join, at most, until all lists of participants are complete.
    #[arg(long, default_value_t = 10)]
    quiet_seconds: u64,
    /// File for the report.
    #[arg(long)]
    report: Option<PathBuf>,
}

#[derive(Serialize)]
struct Scenario {
    sockets: usize,
    room_size: u16,
    concurrency: usize,
    gateways: usize,
    threads: usize,
}

/// All sockets on their way to one step.
#[derive(Debug, Serialize)]
struct Stage {
    /// Where they went.
    step: &'static str,
    seconds: f64,
    sockets_per_second: f64,
    /// Of one socket.
    time_us: Option<Summary>,
    /// From the last join until the last member knew all members of its room.
    lists_complete_ms: Option<f64>,
    client_cpu_share_max: f64,
    is_client_bottleneck: bool,
    /// CPU time for a socket, until the last one was there.
    cpu_us_per_socket: BTreeMap<Role, f64>,
    /// CPU time for a socket, until all lists were complete.
    cpu_us_per_socket_with_lists: Option<BTreeMap<Role, f64>>,
}

const COLUMNS: &[Column] = &[
    ("to", "/step"),
    ("sockets/s", "/sockets_per_second"),
    ("p50 us", "/time_us/p50"),
    ("p99", "/time_us/p99"),
    ("max", "/time_us/max"),
    ("lists ms", "/lists_complete_ms"),
    ("gw us", "/cpu_us_per_socket/gateways"),
    ("master us", "/cpu_us_per_socket/redis_masters"),
    ("replica us", "/cpu_us_per_socket/redis_replicas"),
    ("gw us+lists", "/cpu_us_per_socket_with_lists/gateways"),
    (
        "master us+lists",
        "/cpu_us_per_socket_with_lists/redis_masters",
    ),
    ("client cpu", "/client_cpu_share_max"),
];

const STORM: &[(&str, Step)] = &[("joined", Step::Joined)];
const STEPS: &[(&str, Step)] = &[
    ("opened", Step::Opened),
    ("authenticated", Step::Authenticated),
    ("joined", Step::Joined),
];

/// Between two looks at whether the lists are complete.
const LOOK: Duration = Duration::from_millis(2);

pub(crate) async fn run(options: Options) -> Result<()> {
    let steps = if options.by_step { STEPS } else { STORM };
    let mut stages = Vec::new();
    for _ in 0..options.runs {
        let room_size = usize::from(options.room_size);
        let (crowd, meter) = options.target.gather(options.sockets, room_size).await?;
        for (name, step) in steps {
            meter.rest(REST_PATIENCE).await?;
            stages.push(measure(&crowd, &meter, name, *step, options.quiet_seconds).await?);
        }
    }
    let is_held_up = stages.iter().any(|stage| stage.is_client_bottleneck);
    let scenario = Scenario {
        sockets: options.sockets,
        room_size: options.room_size,
        concurrency: options.target.concurrency,
        gateways: options.target.servers.gateways.len(),
        threads: options.target.threads,
    };
    let series = if options.by_step {
        Series::of_cases(scenario, &stages)?
    } else {
        Series::of_runs(scenario, &stages)?
    };
    series.publish(COLUMNS, options.report.as_deref())?;
    if is_held_up {
        warn("the client's threads were busy all the time: it may be the slower side");
    }
    let is_complete = |stage: &Stage| stage.step != "joined" || stage.lists_complete_ms.is_some();
    ensure!(
        stages.iter().all(is_complete),
        "some lists of participants were never complete"
    );
    Ok(())
}

async fn measure(
    crowd: &Crowd,
    meter: &Meter,
    name: &'static str,
    step: Step,
    quiet_seconds: u64,
) -> Result<Stage> {
    let sockets = approximate(crowd.plan.sockets as u64);
    let before = meter.read()?;
    let times = crowd.advance(step).await?;
    let spent = meter.spent_since(&before)?;
    let joined_ns = now_ns();
    let by_socket = |spent: &Spent| {
        let roles = spent.roles.iter();
        let costs = roles.map(|(role, spent)| (*role, spent.cpu_seconds * MILLION / sockets));
        costs.collect::<BTreeMap<_, _>>()
    };
    let (mut lists_complete_ms, mut with_lists) = (None, None);
    if step == Step::Joined {
        let complete_ns = lists_complete(crowd, joined_ns + quiet_seconds * NS_PER_SECOND).await;
        let ms = |ns: u64| approximate(ns.saturating_sub(joined_ns)) / approximate(NS_PER_MS);
        lists_complete_ms = complete_ns.map(ms);
        with_lists = Some(by_socket(&meter.spent_since(&before)?));
    }
    let busiest = spent.threads.iter().copied().fold(0.0, f64::max);
    let client_cpu_share_max = share(busiest, spent.seconds);
    Ok(Stage {
        step: name,
        seconds: spent.seconds,
        sockets_per_second: share(sockets, spent.seconds),
        time_us: times.summary(),
        lists_complete_ms,
        client_cpu_share_max,
        is_client_bottleneck: client_cpu_share_max > CPU_SHARE_MAX,
        cpu_us_per_socket: by_socket(&spent),
        cpu_us_per_socket_with_lists: with_lists,
    })
}

/// When every member knew all members of its room, if that is before `deadline_ns`.
pub(super) async fn lists_complete(crowd: &Crowd, deadline_ns: u64) -> Option<u64> {
    while now_ns() < deadline_ns {
        if let Some(complete_ns) = crowd.plan.lists.complete_ns() {
            return Some(complete_ns);
        }
        sleep(LOOK).await;
    }
    None
}
