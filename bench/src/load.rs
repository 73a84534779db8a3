//! Load on running gateways, and what it comes to: latencies, an account of every delivery, what the
//! servers spent, and whether the crowd itself held them up.

pub(crate) mod fanout;
pub(crate) mod join;
pub(crate) mod limit;
pub(crate) mod mixed;
pub(crate) mod redis;
pub(crate) mod rooms;
pub(crate) mod storm;
pub(crate) mod writer;

mod asked;
pub(crate) mod figures;
mod logins;
mod placement;
mod saturation;
mod series;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use clap::Args;
use slotcast_proto::slot::Slot;

use self::figures::Figures;
use crate::{
    clock::{NS_PER_MS, NS_PER_SECOND, now_ns},
    cost::{Meter, Role, Spent},
    crowd::{Crowd, Lists, Pace, Plan, Run, Span, Tally, Users},
    seed::Seeder,
};

/// Where the load goes, and on how many shoulders.
#[derive(Args)]
pub(crate) struct Target {
    #[command(flatten)]
    servers: Servers,
    /// The token secret that the gateways use.
    #[arg(long, env = "SLOTCAST_JWT_SECRET", hide_env_values = true)]
    secret: String,
    /// The gateways' shard count.
    #[arg(long, env = "SLOTCAST_SHARD_COUNT", default_value_t = 64)]
    shards: u16,
    /// Threads that hold the sockets.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Sockets on their way into the rooms at one time.
    #[arg(long, default_value_t = 256)]
    concurrency: usize,
}

/// Where the servers are, and which processes they are.
#[derive(Args)]
pub(crate) struct Servers {
    /// Gateways to connect to, `address:port`; sockets, and the members of a room, are spread over them.
    #[arg(long = "gateway", default_value = "127.0.0.1:5002")]
    pub(crate) gateways: Vec<SocketAddr>,
    /// Process ids of those gateways, for what they cost.
    #[arg(long = "gateway-pid")]
    pub(crate) gateway_pids: Vec<u32>,
    /// Process ids of backends, for what they cost.
    #[arg(long = "backend-pid")]
    pub(crate) backend_pids: Vec<u32>,
    /// Nodes of the Redis Cluster, separated by commas; those on this machine are measured too.
    #[arg(
        long,
        env = "SLOTCAST_REDIS_URLS",
        value_delimiter = ',',
        required = true
    )]
    pub(crate) redis_urls: Vec<String>,
}

/// How long, and how often.
#[derive(Args)]
pub(crate) struct Timing {
    /// Seconds that are measured.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Seconds of the same load before that.
    #[arg(long, default_value_t = 3)]
    warmup_seconds: u64,
    /// Seconds after the last message, at most, until all have arrived.
    #[arg(long, default_value_t = 10)]
    quiet_seconds: u64,
    /// Measures so many times.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// File for the report.
    #[arg(long)]
    report: Option<PathBuf>,
}

/// From the order to play until the first message.
const LEAD_NS: u64 = 100 * NS_PER_MS;

/// How long the servers may work off what was before.
const REST_PATIENCE: Duration = Duration::from_secs(20);

impl Target {
    /// New users in new rooms, on threads that stand ready, and what is to be measured.
    async fn gather(&self, sockets: usize, room_size: usize) -> Result<(Crowd, Meter)> {
        let crowd = self.crowd(sockets, room_size, None).await?;
        let mut meter = self.servers.meter();
        meter.watch_redis(&self.servers.redis_urls).await?;
        meter.watch_threads(crowd.thread_ids());
        Ok((crowd, meter))
    }

    /// New users in new rooms, whose slots may be given.
    async fn crowd(
        &self,
        sockets: usize,
        room_size: usize,
        slots: Option<&[Slot]>,
    ) -> Result<Crowd> {
        ensure!(room_size > 0, "room size must not be 0");
        let seeder = Seeder::connect(&self.servers.redis_urls, &self.secret, self.shards).await?;
        let logins = seeder.logins(sockets).await?;
        let count = sockets.div_ceil(room_size);
        let rooms = match slots {
            Some(slots) => seeder.rooms_in(count, slots).await?,
            None => seeder.rooms(count).await?,
        };
        Crowd::gather(Plan {
            servers: self.servers.gateways.clone(),
            sockets,
            room_size,
            users: Some(Users::new(logins, &rooms)?),
            threads: self.threads,
            concurrency: self.concurrency,
            lists: Lists::new(sockets),
        })
    }
}

impl Servers {
    /// What the tiers cost; Redis is not watched yet.
    pub(crate) fn meter(&self) -> Meter {
        let mut meter = Meter::default();
        meter.watch(Role::Gateways, &self.gateway_pids);
        meter.watch(Role::Backend, &self.backend_pids);
        meter
    }
}

impl Timing {
    const fn span(&self) -> Span {
        let from_ns = self.warmup_seconds * NS_PER_SECOND;
        Span {
            from_ns,
            until_ns: from_ns + self.seconds * NS_PER_SECOND,
            quiet_ns: self.quiet_seconds * NS_PER_SECOND,
        }
    }
}

/// Plays and measures one run.
async fn measure(crowd: &Crowd, meter: &Meter, pace: Pace, span: Span) -> Result<Figures> {
    let run = crowd.prepare(now_ns() + LEAD_NS, pace, span);
    let (tally, spent) = play(crowd, meter, &run).await?;
    Ok(Figures::new(run.accepted(), &tally, &spent))
}

/// Plays a run, and reads what is spent while it is measured.
async fn play(crowd: &Crowd, meter: &Meter, run: &Arc<Run>) -> Result<(Tally, Spent)> {
    let Span {
        from_ns, until_ns, ..
    } = run.span;
    let measured = meter.over(run.origin_ns + from_ns, run.origin_ns + until_ns);
    tokio::try_join!(crowd.play(run), measured)
}

/// Between two messages, of so many a second.
fn period_ns(per_second: u64) -> Result<u64> {
    ensure!(
        (1..=NS_PER_MS).contains(&per_second),
        "a rate is 1 to a million messages a second"
    );
    Ok(NS_PER_SECOND / per_second)
}
