//! Many small rooms: messages at a fixed pace, in an open loop.

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::{
    REST_PATIENCE, Target, Timing, measure, period_ns,
    series::{DELIVERY, Series, judge},
};
use crate::crowd::{Pace, Step};

/// Options of `bench rooms`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    timing: Timing,
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
    sockets: usize,
    room_size: usize,
    rate: u64,
    gateways: usize,
    threads: usize,
    seconds: u64,
    warmup_seconds: u64,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let Options {
        target,
        timing,
        sockets,
        room_size,
        rate,
    } = options;
    let pace = Pace::Every(period_ns(rate)?);
    let (crowd, meter) = target.gather(sockets, room_size).await?;
    crowd.advance(Step::Joined).await?;
    let mut runs = Vec::new();
    for _ in 0..timing.runs {
        meter.rest(REST_PATIENCE).await?;
        runs.push(measure(&crowd, &meter, pace, timing.span()).await?);
    }
    let scenario = Scenario {
        sockets,
        room_size,
        rate,
        gateways: target.servers.gateways.len(),
        threads: target.threads,
        seconds: timing.seconds,
        warmup_seconds: timing.warmup_seconds,
    };
    Series::of_runs(scenario, &runs)?.publish(DELIVERY, timing.report.as_deref())?;
    judge(runs.iter())
}
