//! One run: clients under load, faults, the wait for quiet, and the gathering of the evidence.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result};
use fastrand::Rng;
use redis::{aio::MultiplexedConnection, cmd, streams::StreamRangeReply};
use slotcast_proto::{
    id::{RoomId, UserId},
    schema::{key, record::ReadRuns},
    slot::Slot,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Options,
    client::{Blow, Client, Phase, World, lock},
    cluster::{self, Cluster},
    fault::{Fault, Ground, Injection},
    gateway::Gateway,
    plan,
    record::{Message, Reactions, Record},
    verdict::{self, Stored, Verdict, Witness, judge, judge_newest},
    wait::until,
};
use crate::seed::Seeder;

/// Secret of the access tokens of these gateways, known to nobody else.
const SECRET: &str = "a secret of the fault harness alone";

/// Until all clients are in their rooms at the start.
const ENTER_WITHIN: Duration = Duration::from_secs(120);

/// Between two faults, in milliseconds.
const CALM_MS: std::ops::RangeInclusive<u64> = 500..=2000;

/// How long reactions and read marks may be on their way.
const STATE_WITHIN: Duration = Duration::from_secs(3);

/// What came out of a run.
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) injections: Vec<Injection>,
    pub(crate) witnesses: Vec<Witness>,
    /// From when on slow readers were there, from the start of the run.
    pub(crate) crowded_from: Option<Duration>,
    /// A gateway ended by itself, the cluster did not heal: whatever is no finding of the verdict.
    pub(crate) trouble: Vec<String>,
}

impl Outcome {
    /// What failed, and what was done when.
    pub(crate) fn details(&self, strict: bool) -> Vec<String> {
        let mut details = self.trouble.clone();
        for (name, findings) in self.verdict.failures(strict) {
            details.push(format!("{name}: {}", findings.count));
            let examples = findings.examples.iter();
            details.extend(examples.map(|example| format!("  {example}")));
        }
        if !details.is_empty() {
            details.extend(self.injections.iter().map(|injection| {
                let (begun, ended) = (injection.begun.as_secs_f64(), injection.ended.as_secs_f64());
                format!("{begun:.2} to {ended:.2} s: {}", injection.what)
            }));
        }
        details
    }

    pub(crate) fn summary(&self) -> String {
        let Verdict {
            accepted,
            lost,
            duplicated,
            reordered,
            stale,
            ..
        } = &self.verdict;
        format!(
            "{} faults, {accepted} accepted, {} lost, {} duplicated, {} reordered, {} stale",
            self.injections.len(),
            lost.count,
            duplicated.count,
            reordered.count,
            stale.count
        )
    }
}

/// The processes and clients of one run; ended when dropped.
struct Stage {
    cluster: Arc<Cluster>,
    gateways: Arc<Vec<Gateway>>,
    rooms: Vec<RoomId>,
    cast: Vec<Part>,
    world: Arc<World>,
    phase: watch::Sender<Phase>,
    blows: Arc<Vec<mpsc::Sender<Blow>>>,
    /// Ended when dropped.
    _clients: JoinSet<()>,
}

impl Stage {
    /// Who is not in, and why.
    fn absent(&self) -> String {
        let absent = self.cast.iter().filter_map(|part| {
            let record = lock(&part.record);
            (!record.is_ready).then(|| record.trouble.clone())
        });
        let absent: Vec<_> = absent.collect();
        let first: Vec<_> = absent.iter().take(3).cloned().collect();
        format!("{} clients are not in; {}", absent.len(), first.join("; "))
    }
}

/// A client, seen from outside.
struct Part {
    user: UserId,
    rooms: Vec<usize>,
    is_complete: bool,
    record: Arc<Mutex<Record>>,
}

/// Where gateways of a run listen and log.
pub(crate) struct Place<'a> {
    pub(crate) port: u16,
    pub(crate) logs: &'a Path,
}

impl Place<'_> {
    fn log(&self, gateway: usize) -> PathBuf {
        self.logs.join(format!("gateway-{gateway}.log"))
    }

    /// Copies the logs of the last run's gateways to `folder`.
    pub(crate) fn keep_logs(&self, gateways: usize, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        for gateway in 0..gateways {
            fs::copy(
                self.log(gateway),
                folder.join(format!("gateway-{gateway}.log")),
            )?;
        }
        Ok(())
    }
}

/// Runs `fault` under `seed` and judges what came of it.
pub(crate) async fn run(
    options: &Options,
    cluster: &Arc<Cluster>,
    place: &Place<'_>,
    fault: Fault,
    seed: u64,
) -> Result<Outcome> {
    let mut rng = Rng::with_seed(seed);
    // Ids of users and rooms.
    fastrand::seed(rng.u64(..));
    cluster.clear().await?;
    let stage = set(options, cluster, place, &mut rng).await?;
    let mut trouble = Vec::new();
    let is_in = |part: &Part| !part.is_complete || lock(&part.record).is_ready;
    let ready = async || stage.cast.iter().all(is_in);
    let entered = until("all clients to enter", ENTER_WITHIN, ready).await;
    entered.with_context(|| stage.absent())?;
    stage.phase.send_replace(Phase::Send);
    let crowded_from = crowd(options, &stage).await;
    let mut injections = Vec::new();
    if let Err(error) = inject(options, &stage, fault, rng, &mut injections).await {
        trouble.push(format!("{error:#}"));
    }
    stage.phase.send_replace(Phase::Settle);
    if let Err(error) = cluster.heal().await {
        trouble.push(format!("{error:#}"));
    }
    for gateway in stage.gateways.iter().filter(|gateway| gateway.has_died()) {
        trouble.push(format!("{} ended by itself", gateway.name));
    }
    let (verdict, witnesses) = settle(options, stage).await?;
    if verdict.accepted == 0 {
        trouble.push("no message was accepted: nothing is shown by this run".to_owned());
    }
    Ok(Outcome {
        verdict,
        injections,
        witnesses,
        crowded_from,
        trouble,
    })
}

/// Starts gateways, and clients that enter their rooms.
async fn set(
    options: &Options,
    cluster: &Arc<Cluster>,
    place: &Place<'_>,
    rng: &mut Rng,
) -> Result<Stage> {
    let gateways = Arc::new(gateways(options, cluster, place)?);
    for gateway in gateways.iter() {
        gateway.start().await?;
    }
    let plans = plan::clients(options, rng);
    let seeder = Seeder::connect(&cluster.urls(), SECRET, options.shards).await?;
    let rooms = seeder.rooms(options.rooms).await?;
    let logins = seeder.logins(plans.len()).await?;
    let (phase, watched) = watch::channel(Phase::Enter);
    let world = Arc::new(World {
        gateways: gateways.iter().map(Gateway::address).collect(),
        begun: Instant::now(),
        phase: watched,
        heartbeat_max: PING_INTERVAL + PING_TIMEOUT,
        ack_timeout: Duration::from_millis(options.ack_timeout_ms),
        pause: Duration::from_millis(options.pause_ms),
        cut_every: options.cut_every.map(Duration::from_secs),
    });
    let (mut cast, mut blows, mut clients) = (Vec::new(), Vec::new(), JoinSet::new());
    for (number, (plan, login)) in plans.into_iter().zip(logins).enumerate() {
        let own = plan.rooms.iter().filter_map(|room| rooms.get(*room));
        let (user, numbers, is_complete) = (login.user, plan.rooms.clone(), !plan.slow);
        let own = own.copied().collect();
        let (client, record, blow) = Client::new(number, login, plan, own, Arc::clone(&world));
        clients.spawn(client.run());
        blows.push(blow);
        cast.push(Part {
            user,
            rooms: numbers,
            is_complete,
            record,
        });
    }
    Ok(Stage {
        cluster: Arc::clone(cluster),
        gateways,
        rooms,
        cast,
        world,
        phase,
        blows: Arc::new(blows),
        _clients: clients,
    })
}

/// Heartbeats of the gateways: short, so that dead peers are noticed within a run.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(4);

/// Gateways that listen to masters and to replicas in turn.
fn gateways(options: &Options, cluster: &Cluster, place: &Place<'_>) -> Result<Vec<Gateway>> {
    let environment = vec![
        ("SLOTCAST_REDIS_URLS", cluster.urls().join(",")),
        ("SLOTCAST_JWT_SECRET", SECRET.to_owned()),
        ("SLOTCAST_LEASE_SECONDS", options.lease_seconds.to_string()),
        ("SLOTCAST_GRACE_SECONDS", options.grace_seconds.to_string()),
        (
            "SLOTCAST_DRAIN_PER_SECOND",
            options.drain_per_second.to_string(),
        ),
        (
            "SLOTCAST_PING_INTERVAL_MS",
            PING_INTERVAL.as_millis().to_string(),
        ),
        (
            "SLOTCAST_PING_TIMEOUT_MS",
            PING_TIMEOUT.as_millis().to_string(),
        ),
        ("SLOTCAST_MESSAGE_RATE_LIMIT", "1000000".to_owned()),
    ];
    let gateway = |number: usize| {
        let port = place.port + 2 * u16::try_from(number)?;
        let name = format!("gateway-{number}");
        let log = place.log(number);
        // What an earlier run wrote.
        let _ = fs::remove_file(&log);
        let program = options.gateway_program()?;
        let subscribe_to = if number.is_multiple_of(2) {
            "master"
        } else {
            "replica"
        };
        let mut environment = environment.clone();
        environment.push(("SLOTCAST_SUBSCRIBE_TO", subscribe_to.to_owned()));
        Ok(Gateway::new(name, program, port, environment, log))
    };
    (0..options.gateways).map(gateway).collect()
}

/// Lets slow readers in after half of the time; from when on they are there.
async fn crowd(options: &Options, stage: &Stage) -> Option<Duration> {
    if options.slow_readers.0 == 0 {
        return None;
    }
    sleep(Duration::from_secs(options.seconds) / 2).await;
    stage.phase.send_replace(Phase::Crowd);
    Some(stage.world.now())
}

/// One fault after another until the time is over; at least one.
async fn inject(
    options: &Options,
    stage: &Stage,
    fault: Fault,
    mut rng: Rng,
    injections: &mut Vec<Injection>,
) -> Result<()> {
    let slots: BTreeSet<Slot> = stage.rooms.iter().map(|room| room.slot()).collect();
    let mut ground = Ground {
        cluster: Arc::clone(&stage.cluster),
        gateways: Arc::clone(&stage.gateways),
        blows: Arc::clone(&stage.blows),
        slots: slots.into_iter().collect(),
        lease_seconds: options.lease_seconds,
        begun: stage.world.begun,
        struck_at: Duration::ZERO,
        rng: Rng::with_seed(rng.u64(..)),
    };
    let alone = if options.slow_readers.0 == 0 { 1 } else { 2 };
    let end = Instant::now() + Duration::from_secs(options.seconds) / alone;
    loop {
        sleep(Duration::from_millis(rng.u64(CALM_MS))).await;
        if Instant::now() >= end && !injections.is_empty() {
            break;
        }
        injections.push(ground.inject(fault).await?);
    }
    sleep_until(end).await;
    Ok(())
}

/// Waits until the system is quiet, or the deadline, and judges what there is then.
async fn settle(options: &Options, stage: Stage) -> Result<(Verdict, Vec<Witness>)> {
    let deadline = Instant::now() + Duration::from_secs(options.settle_seconds);
    loop {
        let settled = stage.cast.iter().all(|part| {
            let record = lock(&part.record);
            !part.is_complete || record.is_ready && record.open_sends() == 0
        });
        if settled || Instant::now() >= deadline {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    let settled = Instant::now();
    loop {
        let stored = match stored(&stage).await {
            Ok(stored) => stored,
            // A busy machine may keep an answer back.
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => {
                sleep(Duration::from_millis(500)).await;
                continue;
            }
        };
        let witnesses = witnesses(&stage);
        let mut verdict = judge(&stored, &witnesses);
        // What is only on its way, or due when a lease ends, is not held against anyone yet.
        let is_strict = options.strict || settled.elapsed() < STATE_WITHIN;
        if verdict.failures(is_strict).is_empty() || Instant::now() >= deadline {
            judge_newest(&mut verdict, &self::stored(&stage).await?, &witnesses);
            return Ok((verdict, witnesses));
        }
        sleep(Duration::from_millis(500)).await;
    }
}

fn witnesses(stage: &Stage) -> Vec<Witness> {
    let witness = |part: &Part| Witness {
        user: part.user,
        rooms: part.rooms.clone(),
        is_complete: part.is_complete,
        record: lock(&part.record).clone(),
    };
    stage.cast.iter().map(witness).collect()
}

/// Every room as Redis has it.
async fn stored(stage: &Stage) -> Result<Vec<Stored>> {
    let view = stage.cluster.view_without(None).await?;
    let mut connections = BTreeMap::new();
    let mut all = Vec::with_capacity(stage.rooms.len());
    for room in &stage.rooms {
        let owner = view.iter().find(|seen| seen.owns(room.slot()));
        let port = owner.context("a slot without owner")?.node.port;
        let connection = match connections.entry(port) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(cluster::connection(port).await?),
        };
        let stored = stored_room(connection, *room).await;
        all.push(stored.with_context(|| format!("cannot read room {room}"))?);
    }
    Ok(all)
}

async fn stored_room(redis: &mut MultiplexedConnection, room: RoomId) -> Result<Stored> {
    let log: StreamRangeReply = cmd("XRANGE")
        .arg(key::log(room))
        .arg("-")
        .arg("+")
        .query_async(redis)
        .await?;
    let mut stored = Stored::default();
    for entry in log.ids {
        let json: String = entry.get("m").context("an entry without message")?;
        let message: Message = serde_json::from_str(&json)?;
        stored.log.push(verdict::Entry {
            id: message.id,
            key: message.key,
            timestamp: message.timestamp,
        });
    }
    for (user, _) in hash(redis, &key::members(room)).await? {
        stored.members.insert(user.parse()?);
    }
    for (number, json) in hash(redis, &key::reactions(room)).await? {
        let reactions: Reactions = serde_json::from_str(&json)?;
        stored.reactions.insert(number.parse()?, reactions);
    }
    for (field, runs) in hash(redis, &key::reads(room)).await? {
        let (user, reads) = match field.strip_prefix('~') {
            Some(user) => (user, &mut stored.quiet),
            None => (field.as_str(), &mut stored.told),
        };
        reads.insert(user.parse()?, ReadRuns::parse(&runs));
    }
    Ok(stored)
}

async fn hash(redis: &mut MultiplexedConnection, key: &str) -> Result<Vec<(String, String)>> {
    Ok(cmd("HGETALL").arg(key).query_async(redis).await?)
}
