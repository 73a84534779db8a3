//! One large room: at a fixed pace, or as dense as a window of messages allows; beside the machine's
//! own limit if wanted.

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::{
    REST_PATIENCE, Target, Timing,
    figures::{Figures, share},
    limit::Limit,
    measure, period_ns,
    series::{Column, DELIVERY, Series, judge},
};
use crate::{
    cost::Role,
    crowd::{Pace, Step, allow_sockets},
};

/// Options of `bench fanout`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    timing: Timing,
    /// Members of the room, one user each.
    #[arg(long, default_value_t = 1000)]
    sockets: usize,
    /// Messages a second.
    #[arg(long, default_value_t = 50)]
    rate: u64,
    /// Sends as soon as fewer than `--window` messages are on their way, instead of at a rate.
    #[arg(long)]
    closed_loop: bool,
    /// Messages on their way in a closed loop.
    #[arg(long, default_value_t = 16)]
    window: u32,
    /// Measures, in turn with the gateway, a process that only writes as much to as many sockets: one frame a
    /// write, and in a closed loop as many as a member of the room read at one time.
    #[arg(long)]
    with_limit: bool,
}

#[derive(Serialize)]
struct Scenario {
    sockets: usize,
    /// Of an open loop.
    rate: Option<u64>,
    /// Of a closed loop.
    window: Option<u32>,
    gateways: usize,
    threads: usize,
    seconds: u64,
    warmup_seconds: u64,
}

#[derive(Serialize)]
struct Run {
    #[serde(flatten)]
    figures: Figures,
    limit: Option<Figures>,
    /// Of the bare writer.
    limit_frames_per_write: Option<u32>,
    /// Deliveries for a CPU second of the gateways, as a share of those of the bare writer.
    ratio_to_limit: Option<f64>,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let Options {
        target,
        timing,
        sockets,
        rate,
        closed_loop,
        window,
        with_limit,
    } = options;
    allow_crowds(sockets, with_limit)?;
    let period_ns = (!closed_loop).then(|| period_ns(rate)).transpose()?;
    let pace = period_ns.map_or(Pace::Window(window), Pace::Every);
    let (crowd, meter) = target.gather(sockets, sockets).await?;
    crowd.advance(Step::Joined).await?;
    let (mut limit, mut runs) = (None, Vec::new());
    for _ in 0..timing.runs {
        meter.rest(REST_PATIENCE).await?;
        let figures = measure(&crowd, &meter, pace, timing.span()).await?;
        let mut beside = None;
        if with_limit {
            if limit.is_none() {
                let bytes = figures.messages.packet_bytes;
                limit = Some(Limit::open(sockets, bytes, target.threads).await?);
            }
            if let Some(limit) = &mut limit {
                let frames = if closed_loop { gathered(&figures) } else { 1 };
                let figures = limit.measure(period_ns, frames, timing.span()).await?;
                beside = Some((frames, figures));
            }
        }
        let (limit_frames_per_write, limit) = beside.unzip();
        runs.push(Run {
            ratio_to_limit: limit.as_ref().and_then(|limit| ratio(&figures, limit)),
            figures,
            limit,
            limit_frames_per_write,
        });
    }
    let scenario = Scenario {
        sockets,
        rate: (!closed_loop).then_some(rate),
        window: closed_loop.then_some(window),
        gateways: target.servers.gateways.len(),
        threads: target.threads,
        seconds: timing.seconds,
        warmup_seconds: timing.warmup_seconds,
    };
    Series::of_runs(scenario, &runs)?.publish(&columns(), timing.report.as_deref())?;
    judge(
        runs.iter()
            .flat_map(|run| std::iter::once(&run.figures).chain(&run.limit)),
    )
}

/// The room and the bare loop have their sockets open at one time; the loop's other ends are open in its own
/// process.
fn allow_crowds(sockets: usize, with_limit: bool) -> Result<()> {
    if !with_limit {
        return allow_sockets(sockets);
    }
    let allowed = allow_sockets(sockets.saturating_mul(2));
    allowed.context("--with-limit has two sockets open for each member")
}

fn columns() -> Vec<Column> {
    const BESIDE: [Column; 4] = [
        ("per read", "/deliveries/per_read"),
        ("gw d/cpu s", "/servers/gateways/deliveries_per_cpu_second"),
        (
            "limit d/cpu s",
            "/limit/servers/writer/deliveries_per_cpu_second",
        ),
        ("ratio", "/ratio_to_limit"),
    ];
    DELIVERY.iter().chain(&BESIDE).copied().collect()
}

/// Frames that a member read at one time.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a buffer's worth of frames"
)]
const fn gathered(figures: &Figures) -> u32 {
    let frames = figures.deliveries.per_read.round() as u32;
    if frames == 0 { 1 } else { frames }
}

/// What the gateways deliver for a CPU second, as a share of what a bare writer does.
fn ratio(gateway: &Figures, limit: &Figures) -> Option<f64> {
    let gateway = gateway.servers.get(&Role::Gateways)?;
    let writer = limit.servers.get(&Role::Writer)?;
    Some(share(
        gateway.deliveries_per_cpu_second,
        writer.deliveries_per_cpu_second,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cost::{RoleSpent, Spent},
        crowd::Tally,
    };

    fn figures(role: Role, cpu_seconds: f64, deliveries: u64) -> Figures {
        let spent = RoleSpent {
            cpu_seconds,
            resident_kib: 0,
        };
        let spent = Spent {
            seconds: 1.0,
            roles: [(role, spent)].into(),
            threads: Vec::new(),
        };
        let tally = Tally {
            deliveries,
            ..Tally::default()
        };
        Figures::new(1, &tally, &spent)
    }

    #[test]
    fn the_ratio_compares_deliveries_for_a_cpu_second() {
        let gateway = figures(Role::Gateways, 0.5, 80_000);
        let writer = figures(Role::Writer, 0.25, 50_000);
        assert_eq!(ratio(&gateway, &writer), Some(0.8));
        assert_eq!(ratio(&writer, &gateway), None);
    }

    #[test]
    fn the_bare_writer_gathers_as_many_frames_as_members_read_at_one_time() {
        let mut figures = figures(Role::Gateways, 0.5, 80_000);
        for (per_read, frames) in [(0.0, 1), (1.4, 1), (13.5, 14)] {
            figures.deliveries.per_read = per_read;
            assert_eq!(gathered(&figures), frames);
        }
    }
}
