//! What Redis is asked for: for each message, join and read mark, and when nobody does anything.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use tokio::time::sleep;

use super::{
    LEAD_NS, Target,
    asked::{Asked, Observer, Passes},
    figures::Figures,
    join::lists_complete,
    period_ns,
    placement::Placement,
    saturation::{self, Saturation},
    series::{Column, print, table, warn},
};
use crate::{
    clock::{NS_PER_SECOND, now_ns},
    cost::Spent,
    crowd::{Crowd, Deed, Pace, Span, Step},
    report::Report,
};

/// Options of `bench redis`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Sockets, one user each.
    #[arg(long, default_value_t = 1000)]
    sockets: usize,
    /// Members of a room; lists of more participants than that are not read.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=64))]
    room_size: u16,
    /// Messages a second, and then marks a second.
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// Seconds of messages, and then of marks. Both are done twice: once while `MONITOR` listens.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seconds of nothing; gateways ask for the ends of logs every 15 seconds.
    #[arg(long, default_value_t = 30)]
    idle_seconds: u64,
    /// Then sends as many messages as there can be to rooms of one master.
    #[arg(long)]
    saturate: bool,
    /// Members of those rooms: the fewer, the less the gateways have to do.
    #[arg(long, default_value_t = 2)]
    saturate_room_size: usize,
    /// File for the report.
    #[arg(long)]
    report: Option<PathBuf>,
}

#[derive(Serialize)]
struct Scenario {
    sockets: usize,
    room_size: u16,
    rate: u64,
    seconds: u64,
    idle_seconds: u64,
    gateways: usize,
}

#[derive(Serialize)]
struct Findings {
    scenario: Scenario,
    /// For each operation; for each second of `idle`.
    cases: BTreeMap<&'static str, Asked>,
    placement: Placement,
    saturation: Option<Saturation>,
}

const COLUMNS: &[Column] = &[
    ("count", "/operations"),
    ("trips", "/round_trips"),
    ("master us", "/roles/redis_masters/cpu/us"),
    ("replica us", "/roles/redis_replicas/cpu/us"),
    ("gw us", "/roles/gateways/cpu/us"),
    ("B to masters", "/roles/redis_masters/bytes/in"),
    ("B from masters", "/roles/redis_masters/bytes/out"),
    ("B replicated", "/roles/redis_masters/bytes/replication_out"),
    ("B on the bus", "/roles/redis_masters/bytes/bus_out"),
];

/// How long the last deliveries and lists may take.
const QUIET_NS: u64 = 10 * NS_PER_SECOND;

pub(crate) async fn run(options: Options) -> Result<()> {
    let target = &options.target;
    let observer = Observer::open(target).await?;
    let room_size = usize::from(options.room_size);
    let crowd = target.crowd(options.sockets, room_size, None).await?;
    crowd.advance(Step::Joined).await?;
    let placement = Placement::of(&observer.nodes, target.shards, &target.servers.gateway_pids)?;
    let idle = Asked::of_idleness(&rest(&observer, &options).await?);
    let messages = chat(&observer, &crowd, &options).await?;
    let marks = mark(&observer, &crowd, &options).await?;
    drop(crowd);
    let joins = join(&observer, &options).await?;
    let mut cases = BTreeMap::new();
    for (name, passes) in [("message", messages), ("mark", marks), ("join", joins)] {
        cases.insert(name, Asked::of_operations(&passes, &idle));
    }
    cases.insert("idle", idle);
    let saturation = if options.saturate {
        let size = options.saturate_room_size;
        Some(Saturation::measure(target, &observer.nodes, options.sockets, size).await?)
    } else {
        None
    };
    publish(options, cases, placement, saturation)
}

/// Nothing.
async fn rest(observer: &Observer, options: &Options) -> Result<Passes> {
    let rest = async || {
        sleep(Duration::from_secs(options.idle_seconds)).await;
        Ok(0)
    };
    Ok(Passes {
        heard: observer.hear(rest()).await?,
        measured: observer.measure(rest()).await?,
    })
}

/// Messages at a fixed pace.
async fn chat(observer: &Observer, crowd: &Crowd, options: &Options) -> Result<Passes> {
    let pace = Pace::Every(period_ns(options.rate)?);
    let send = async || {
        let run = crowd.prepare(now_ns() + LEAD_NS, pace, span(options.seconds));
        let tally = crowd.play(&run).await?;
        let nothing_spent = Spent {
            seconds: 0.0,
            roles: BTreeMap::new(),
            threads: Vec::new(),
        };
        let fault = Figures::new(run.accepted(), &tally, &nothing_spent).fault();
        ensure!(fault.is_none(), "deliveries were not exact: {fault:?}");
        Ok(run.accepted())
    };
    Ok(Passes {
        heard: observer.hear(send()).await?,
        measured: observer.measure(send()).await?,
    })
}

/// Marks, at the same pace, of the messages before.
async fn mark(observer: &Observer, crowd: &Crowd, options: &Options) -> Result<Passes> {
    let period_ns = period_ns(options.rate)?;
    let mark = async || {
        let (origin_ns, span) = (now_ns() + LEAD_NS, span(options.seconds));
        let run = crowd.prepare_deeds(origin_ns, period_ns, span, Deed::ReadMark);
        let marks = crowd.play(&run).await?.marks;
        ensure!(marks > 0, "there was no message to mark");
        Ok(marks)
    };
    Ok(Passes {
        heard: observer.hear(mark()).await?,
        measured: observer.measure(mark()).await?,
    })
}

/// Sockets that are authenticated, into their rooms.
async fn join(observer: &Observer, options: &Options) -> Result<Passes> {
    let room_size = usize::from(options.room_size);
    let gather = async || {
        let crowd = options
            .target
            .crowd(options.sockets, room_size, None)
            .await?;
        crowd.advance(Step::Authenticated).await?;
        Ok::<_, anyhow::Error>(crowd)
    };
    let enter = async |crowd: &Crowd| {
        crowd.advance(Step::Joined).await?;
        let complete = lists_complete(crowd, now_ns() + QUIET_NS).await;
        complete.context("some lists of participants were never complete")?;
        Ok(crowd.plan.sockets as u64)
    };
    let crowd = gather().await?;
    let heard = observer.hear(enter(&crowd)).await?;
    drop(crowd);
    let crowd = gather().await?;
    let measured = observer.measure(enter(&crowd)).await?;
    Ok(Passes { heard, measured })
}

/// From the first message on.
const fn span(seconds: u64) -> Span {
    Span {
        from_ns: 0,
        until_ns: seconds * NS_PER_SECOND,
        quiet_ns: QUIET_NS,
    }
}

fn publish(
    options: Options,
    cases: BTreeMap<&'static str, Asked>,
    placement: Placement,
    saturation: Option<Saturation>,
) -> Result<()> {
    let mut lists = String::new();
    for (name, case) in &cases {
        lists += &format!("{name}\n{}", case.text());
    }
    let placed = placement.text();
    let is_restless = cases.get("idle").is_some_and(Asked::is_restless);
    let findings = Findings {
        scenario: Scenario {
            sockets: options.sockets,
            room_size: options.room_size,
            rate: options.rate,
            seconds: options.seconds,
            idle_seconds: options.idle_seconds,
            gateways: options.target.servers.gateways.len(),
        },
        cases,
        placement,
        saturation,
    };
    let figures = serde_json::to_value(&findings)?;
    print(&table(&rows(figures.pointer("/cases")), COLUMNS));
    print(&(lists + &placed));
    if is_restless {
        warn("seats were given up while nobody did anything: a gateway has ended a moment ago");
    }
    if let Some(Value::Array(steps)) = figures.pointer("/saturation/steps") {
        let steps = steps.iter().map(|step| ("one master".to_owned(), step));
        print(&table(&steps.collect::<Vec<_>>(), saturation::COLUMNS));
    }
    match options.report {
        Some(path) => Report::new(findings).write(&path),
        None => Ok(()),
    }
}

fn rows(cases: Option<&Value>) -> Vec<(String, &Value)> {
    let cases = cases.and_then(Value::as_object).into_iter().flatten();
    cases.map(|(name, case)| (name.clone(), case)).collect()
}
