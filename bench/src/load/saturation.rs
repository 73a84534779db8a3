//! One master alone: rooms that all lie on it, and more and more messages on their way.

use anyhow::{Context, Result};
use serde::Serialize;
use slotcast_proto::slot::Shards;

use super::{
    REST_PATIENCE, Target,
    figures::{Figures, MILLION},
    measure,
    series::Column,
};
use crate::{
    clock::NS_PER_SECOND,
    cost::Role,
    crowd::{Pace, Span, Step},
    node::Node,
};

/// Messages on their way, step by step.
const WINDOWS: [u32; 5] = [8, 32, 128, 512, 2048];

/// Seconds of a step before it is measured, and those that are.
const WARMUP_SECONDS: u64 = 1;
const SECONDS: u64 = 6;
const QUIET_SECONDS: u64 = 10;

/// What one master takes.
#[derive(Debug, Serialize)]
pub(super) struct Saturation {
    sockets: usize,
    room_size: usize,
    steps: Vec<Load>,
    /// The step with the most messages a second.
    most: Load,
}

/// So many messages on their way at any time.
#[derive(Clone, Debug, Serialize)]
struct Load {
    window: u32,
    messages_per_second: f64,
    latency_p50_us: Option<u64>,
    latency_p99_us: Option<u64>,
    /// CPU time of the master, as a share of a core.
    master_cpu_share: f64,
    master_us_per_message: f64,
    /// CPU time of its replicas (of all, but the others are at rest).
    replica_us_per_message: f64,
    /// CPU time of the gateways, in cores.
    gateway_cores: f64,
    client_cpu_share: f64,
}

pub(super) const COLUMNS: &[Column] = &[
    ("window", "/window"),
    ("msg/s", "/messages_per_second"),
    ("p50 us", "/latency_p50_us"),
    ("p99", "/latency_p99_us"),
    ("master cpu", "/master_cpu_share"),
    ("master us/msg", "/master_us_per_message"),
    ("replica us/msg", "/replica_us_per_message"),
    ("gw cores", "/gateway_cores"),
    ("client cpu", "/client_cpu_share"),
];

impl Saturation {
    pub(super) async fn measure(
        target: &Target,
        nodes: &[Node],
        sockets: usize,
        room_size: usize,
    ) -> Result<Self> {
        let mut masters = nodes.iter().filter(|node| node.role == Role::RedisMasters);
        let master = masters.next().context("no master")?;
        let shards = Shards::new(target.shards).context("the shard count is 1 to 16384")?;
        let slots: Vec<_> = shards.slots().filter(|slot| master.holds(*slot)).collect();
        let crowd = target.crowd(sockets, room_size, Some(&slots)).await?;
        let mut meter = target.servers.meter();
        let replicas = nodes.iter().filter(|node| node.role == Role::RedisReplicas);
        for node in replicas.chain([master]) {
            meter.watch(node.role, node.pid().await?.as_slice());
        }
        meter.watch_threads(crowd.thread_ids());
        crowd.advance(Step::Joined).await?;
        let from_ns = WARMUP_SECONDS * NS_PER_SECOND;
        let span = Span {
            from_ns,
            until_ns: from_ns + SECONDS * NS_PER_SECOND,
            quiet_ns: QUIET_SECONDS * NS_PER_SECOND,
        };
        let mut steps = Vec::new();
        for window in WINDOWS {
            meter.rest(REST_PATIENCE).await?;
            let figures = measure(&crowd, &meter, Pace::Window(window), span).await?;
            if let Some(fault) = figures.fault() {
                anyhow::bail!("deliveries were not exact with a window of {window}: {fault}");
            }
            steps.push(Load::of(window, &figures));
        }
        let most = steps.iter().max_by(|one, other| {
            one.messages_per_second
                .total_cmp(&other.messages_per_second)
        });
        let most = most.context("there are steps")?.clone();
        Ok(Self {
            sockets,
            room_size,
            steps,
            most,
        })
    }
}

impl Load {
    fn of(window: u32, figures: &Figures) -> Self {
        let messages_per_second = figures.messages.per_second;
        let us = |role| {
            figures
                .servers
                .get(&role)
                .map_or(0.0, |cost| cost.cpu_us_per_message)
        };
        let cores = |role| us(role) * messages_per_second / MILLION;
        Self {
            window,
            messages_per_second,
            latency_p50_us: figures.latency_us.map(|latency| latency.p50),
            latency_p99_us: figures.latency_us.map(|latency| latency.p99),
            master_cpu_share: cores(Role::RedisMasters),
            master_us_per_message: us(Role::RedisMasters),
            replica_us_per_message: us(Role::RedisReplicas),
            gateway_cores: cores(Role::Gateways),
            client_cpu_share: figures.client.cpu_share_max,
        }
    }
}
