//! One gateway at rest: how many bytes a connection costs, step by step, and what its heartbeats take.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    clock::now_ns,
    load::figures::{approximate, share},
    process::{cpu_ns, resident_kib, slab_kib},
    report::Report,
    seed::Seeder,
    socket::Socket,
};

/// Options of `bench idle`.
#[derive(Args)]
pub(crate) struct Options {
    /// Gateway to connect to, `host:port`.
    #[arg(long, default_value = "127.0.0.1:5002")]
    gateway: String,
    /// Process id of that gateway.
    #[arg(long)]
    pid: u32,
    /// Nodes of its Redis Cluster, separated by commas.
    #[arg(
        long,
        env = "SLOTCAST_REDIS_URLS",
        value_delimiter = ',',
        required = true
    )]
    redis_urls: Vec<String>,
    /// The token secret that the gateway uses.
    #[arg(long, env = "SLOTCAST_JWT_SECRET", hide_env_values = true)]
    secret: String,
    /// The gateway's shard count.
    #[arg(long, env = "SLOTCAST_SHARD_COUNT", default_value_t = 64)]
    shards: u16,
    /// Connections, one user each.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Members of a room.
    #[arg(long, default_value_t = 10)]
    room_size: usize,
    /// Seconds of rest before the last reading; longer than a heartbeat shows what one leaves.
    #[arg(long, default_value_t = 30)]
    rest_seconds: u64,
    /// File for the report.
    #[arg(long)]
    report: Option<PathBuf>,
}

/// Bytes per connection after each step: of user space, as growth of `RssAnon` over the empty gateway.
#[derive(Debug, Serialize)]
struct Figures {
    connections: usize,
    room_size: usize,
    empty_gateway_kib: u64,
    opened_bytes: u64,
    authenticated_bytes: u64,
    joined_bytes: u64,
    rested_bytes: u64,
    /// The kernel's share when all have joined: half of what its slabs have grown, for it keeps the other
    /// end of each connection too.
    kernel_bytes: u64,
    /// CPU seconds that the gateway spends a second while all are at rest.
    rest_cores: f64,
}

/// Steps under way at one time.
const CONCURRENCY: usize = 64;

pub(crate) async fn run(options: Options) -> Result<()> {
    let count = options.connections;
    ensure!(
        count > 0 && options.room_size > 0,
        "connections and room size must not be 0"
    );
    let seeder = Seeder::connect(&options.redis_urls, &options.secret, options.shards).await?;
    let logins = seeder.logins(count).await?;
    let rooms = seeder.rooms(count.div_ceil(options.room_size)).await?;

    let (empty, empty_slab) = (resident_kib(options.pid)?, slab_kib()?);
    let per_connection = |kib: u64| kib.saturating_sub(empty) * 1024 / count as u64;
    let sockets: Vec<Socket> = stream::iter(0..count)
        .map(|_| Socket::open(&options.gateway))
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await?;
    let opened_bytes = per_connection(resident_kib(options.pid)?);

    let mut users: Vec<_> = sockets.into_iter().zip(logins).collect();
    stream::iter(users.iter_mut().map(Ok))
        .try_for_each_concurrent(CONCURRENCY, |(socket, login)| socket.connect(login))
        .await?;
    let authenticated_bytes = per_connection(resident_kib(options.pid)?);

    let joins = users.iter_mut().enumerate().map(|(number, (socket, _))| {
        let room = rooms.get(number / options.room_size).copied();
        Ok::<_, anyhow::Error>((socket, room))
    });
    stream::iter(joins)
        .try_for_each_concurrent(CONCURRENCY, |(socket, room)| async move {
            socket.join(room.context("every user has a room")?).await
        })
        .await?;
    let joined_bytes = per_connection(resident_kib(options.pid)?);
    let slab_growth = slab_kib()?.saturating_sub(empty_slab) * 1024;

    let mut idle = JoinSet::new();
    for (socket, _) in users {
        idle.spawn(socket.idle());
    }
    let rest_cores = tokio::select! {
        cores = cores(options.pid, Duration::from_secs(options.rest_seconds)) => cores?,
        Some(ended) = idle.join_next() => {
            ended??;
            bail!("a connection ended at rest");
        }
    };
    let figures = Figures {
        connections: count,
        room_size: options.room_size,
        empty_gateway_kib: empty,
        opened_bytes,
        authenticated_bytes,
        joined_bytes,
        rested_bytes: per_connection(resident_kib(options.pid)?),
        kernel_bytes: slab_growth / (2 * count as u64),
        rest_cores,
    };
    let report = Report::new(figures);
    report.print()?;
    match &options.report {
        Some(path) => report.write(path),
        None => Ok(()),
    }
}

/// CPU seconds that a process spends a second.
async fn cores(pid: u32, over: Duration) -> Result<f64> {
    let (from_ns, before_ns) = (now_ns(), cpu_ns(pid)?);
    sleep(over).await;
    let spent_ns = cpu_ns(pid)?.saturating_sub(before_ns);
    Ok(share(
        approximate(spent_ns),
        approximate(now_ns() - from_ns),
    ))
}
