//! Commands to the cluster: one multiplexed connection a node, routed by slot. Subscriptions share it.
//!
//! The hot path wants one round trip without a pool's check-out, and what a redirection, a failover
//! or a timeout means must be decided here, not in a client library (which loses commands that are
//! in flight when a master dies). Every call is bounded by [`CALL_DEADLINE`].
//!
//! # Repeated attempts
//! After an error that Redis answered, the command did not run. After the end of a connection nobody
//! knows, so the next attempt says that it may be a repetition
//! ([`Attempt::may_repeat`]); why each call may be repeated stands in `store.rs`. The failed attempt
//! cannot run *after* its repetition on the same node: see [`Node`]. On a node that was replaced as
//! master it may, and what it writes there is discarded; a call that would tell rooms of it carries
//! the time after which it must not ([`Attempt::not_after_ms`]).

pub(crate) mod beat;
mod confirm;
mod connection;
#[cfg(test)]
mod fake;
mod node;
pub(crate) mod resp;
mod subject;
#[cfg(test)]
mod tests;
mod topology;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{
    Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, RedisResult, Value, cmd,
};
use slotcast_proto::{schema::library, slot::Slot};
use thiserror::Error;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use self::{beat::Beats, confirm::Confirmer, node::Node};
use crate::{config::RedisUrl, metrics::StoreMetrics};

#[cfg(test)]
pub(crate) use self::topology::Group;
pub(crate) use self::{
    confirm::Confirmation,
    connection::{Connection, Subscriber},
    subject::Subject,
    topology::{Address, Topology},
};

/// A call is given up after this long, retries included; well below the ping timeout, so that a
/// slow store is never taken for a silent client.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(8);

/// A node that does not tell the slot map within this time is passed over for another one.
const SLOT_MAP_TIMEOUT: Duration = Duration::from_millis(300);

/// Pause before a retry; doubles up to [`BACK_OFF_MAX`], with jitter.
const BACK_OFF_MIN: Duration = Duration::from_millis(20);
const BACK_OFF_MAX: Duration = Duration::from_millis(200);

/// Redirections that a call follows without a pause; two nodes may each name the other as the owner.
const REDIRECTIONS_AT_ONCE: u32 = 4;

/// Over how long hints of one subject are gathered.
const HINT_WINDOW: Duration = Duration::from_millis(10);

/// Why the store has no answer.
#[derive(Clone, Debug, Error)]
pub(crate) enum StoreError {
    /// The cluster did not answer within [`CALL_DEADLINE`]. A write may or may not have happened.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// Redis refused the command, and would again.
    #[error("the store refused: {0}")]
    Refused(String),
    /// Redis has reached its memory limit, and takes no writes.
    #[error("the store is full: {0}")]
    Full(String),
    /// A message is stored, but no replica was seen to have it within [`CALL_DEADLINE`]. It may be lost
    /// yet.
    #[error("no replica is known to have the message")]
    Unconfirmed,
    /// An answer of a form that this version does not know.
    #[error("unexpected answer of {0}")]
    Unexpected(&'static str),
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub(crate) const fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Full(_))
    }
}

/// What a command may need to know of the attempt that it is sent in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    /// An earlier one may have taken effect.
    pub(crate) may_repeat: bool,
    /// When the node's clock shows more than this, in milliseconds, the attempt must not take effect any more.
    pub(crate) not_after_ms: u64,
}

/// The cluster as this process reaches it.
pub(crate) struct Cluster {
    /// Where to ask first; also carries user and password for every node.
    seeds: Vec<ConnectionInfo>,
    topology: RwLock<Arc<Topology>>,
    nodes: Mutex<HashMap<Address, Arc<Node>>>,
    confirmers: Mutex<HashMap<Address, Arc<Confirmer>>>,
    refreshing: AtomicBool,
    beats: Beats,
    /// Of whom a hint is about to be sent.
    hinting: Mutex<HashSet<Subject>>,
    /// [`CALL_DEADLINE`], but in tests.
    deadline: Duration,
    metrics: StoreMetrics,
}

impl Cluster {
    /// A cluster to be reached by way of these nodes.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for a URL that is none.
    pub(crate) fn new(urls: &[RedisUrl], metrics: StoreMetrics) -> Result<Self, StoreError> {
        let seeds = urls.iter().map(|url| url.expose().into_connection_info());
        Ok(Self {
            seeds: seeds
                .collect::<RedisResult<_>>()
                .map_err(|error| refusal(&error))?,
            topology: RwLock::default(),
            nodes: Mutex::default(),
            confirmers: Mutex::default(),
            refreshing: AtomicBool::new(false),
            beats: Beats::default(),
            hinting: Mutex::default(),
            deadline: CALL_DEADLINE,
            metrics,
        })
    }

    /// Reads the slot map and gives every master the function library; one that does not answer gets
    /// it when it is first asked for a function.
    ///
    /// # Errors
    /// [`StoreError`] when no seed answers or a master refuses the library.
    pub(crate) async fn connect(&self) -> Result<(), StoreError> {
        self.refresh().await;
        let masters: Vec<_> = self.topology().masters().cloned().collect();
        if masters.is_empty() {
            return Err(StoreError::Unavailable(
                "no Redis Cluster node answers".to_owned(),
            ));
        }
        for master in masters {
            if let Err(error) = self.load_library(&master).await {
                if judge(&error).0 == Next::Refuse {
                    return Err(refusal(&error));
                }
                warn!(address = %master, %error, "cannot load the function library yet");
            }
        }
        Ok(())
    }

    /// The slot map as last read.
    pub(crate) fn topology(&self) -> Arc<Topology> {
        self.topology
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Reads the slot map anew from whichever node answers; concurrent calls share one reading.
    pub(crate) async fn refresh(&self) {
        let Some(_reading) = Reading::begin(&self.refreshing) else {
            sleep(BACK_OFF_MIN).await;
            return;
        };
        let Some(read) = self.read_topology().await else {
            return;
        };
        let mut topology = self
            .topology
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if **topology != read {
            info!(masters = read.masters().count(), "read a new slot map");
            *topology = Arc::new(read);
        }
    }

    async fn read_topology(&self) -> Option<Topology> {
        let known = self.topology();
        let mut addresses: Vec<_> = known
            .nodes()
            .cloned()
            .chain(self.seeds.iter().filter_map(address_of))
            .collect();
        fastrand::shuffle(&mut addresses);
        let command = cmd("CLUSTER").arg("SLOTS").to_owned();
        for address in addresses {
            let answer = timeout(SLOT_MAP_TIMEOUT, self.call_node(&address, &command));
            let Ok(answer) = answer.await else {
                warn!(%address, "a node does not tell the slot map in time");
                continue;
            };
            match answer {
                Ok(answer) => match Topology::parse(&answer, &address) {
                    Some(topology) if topology.masters().next().is_some() => return Some(topology),
                    _ => warn!(%address, "a node answers without a usable slot map"),
                },
                Err(error) => warn!(%address, %error, "a node does not tell the slot map"),
            }
        }
        None
    }

    /// Runs a command on the master of the subject's slot, following redirections and waiting out
    /// failovers.
    ///
    /// `command` is asked for anew at every attempt and learns whether an earlier one may have
    /// taken effect unseen, so that a retry of a write is recognised as such.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] after [`CALL_DEADLINE`]; [`StoreError::Refused`] and
    /// [`StoreError::Full`] at once.
    pub(crate) async fn call(
        self: &Arc<Self>,
        subject: impl Into<Subject>,
        command: impl Fn(Attempt) -> Cmd,
    ) -> Result<Value, StoreError> {
        let (value, _) = self.call_somewhere(subject, command).await?;
        Ok(value)
    }

    /// The same; also tells which node did it, for [`Cluster::confirm`].
    ///
    /// # Errors
    /// Those of [`Cluster::call`].
    pub(crate) async fn call_somewhere(
        self: &Arc<Self>,
        subject: impl Into<Subject>,
        command: impl Fn(Attempt) -> Cmd,
    ) -> Result<(Value, Address), StoreError> {
        let subject = subject.into();
        let mut course = Course::default();
        let call = self.keep_trying(subject.slot(), command, &mut course);
        let outcome = timeout(self.deadline, call).await;
        if course.was_unheard {
            self.hint(subject);
        }
        if let Ok(outcome) = outcome {
            return outcome;
        }
        self.metrics.unavailable.inc();
        let error = course.last_error;
        let error = error.map_or_else(|| "no answer".to_owned(), |error| error.to_string());
        Err(StoreError::Unavailable(error))
    }

    async fn keep_trying(
        &self,
        slot: Slot,
        command: impl Fn(Attempt) -> Cmd,
        course: &mut Course,
    ) -> Result<(Value, Address), StoreError> {
        let mut pace = Pace::default();
        let mut may_repeat = false;
        let mut target = self.master(slot).map(Target::Owner);
        loop {
            course.was_unheard |= matches!(target, Some(Target::Importing(_)));
            let error = match &target {
                Some(target) => match self.try_call(target, may_repeat, &command).await {
                    Ok(value) => return Ok((value, target.address().clone())),
                    Err(error) => error,
                },
                None => RedisError::from((ErrorKind::ClusterConnectionNotFound, "slot unserved")),
            };
            let (next, reason) = judge(&error);
            if next == Next::Refuse {
                return Err(refusal(&error));
            }
            self.metrics.count_retry(reason);
            if next == Next::Reconnect {
                may_repeat = true;
            }
            target = self.prepare(slot, target, &error, &mut pace).await?;
            course.last_error = Some(error);
        }
    }

    /// Waits as long as it takes until another attempt makes sense; where it goes.
    async fn prepare(
        &self,
        slot: Slot,
        failed: Option<Target>,
        error: &RedisError,
        pace: &mut Pace,
    ) -> Result<Option<Target>, StoreError> {
        match judge(error).0 {
            Next::Moved => {
                self.refresh().await;
                pace.redirected().await;
                return Ok(redirection(error).map(Target::Owner));
            }
            Next::Ask => {
                pace.redirected().await;
                return Ok(redirection(error).map(Target::Importing));
            }
            Next::Load => {
                if let Some(target) = failed {
                    pace.redirected().await;
                    match self.load_library(target.address()).await {
                        Ok(()) => return Ok(Some(target)),
                        Err(error) if judge(&error).0 == Next::Refuse => {
                            return Err(refusal(&error));
                        }
                        Err(_) => {} // the node died or became a replica meanwhile
                    }
                }
            }
            Next::Wait | Next::Reconnect | Next::Refuse => {}
        }
        pace.pause().await;
        self.refresh().await;
        Ok(self.master(slot).map(Target::Owner))
    }

    /// Tells whoever listens at the owner of the slot that something was written elsewhere. By itself:
    /// nobody waits for it, and when it is lost, the end of the slot's move makes up for it.
    fn hint(self: &Arc<Self>, subject: Subject) {
        let Some((channel, hint)) = subject.hint() else {
            return;
        };
        if !self.lock_hinting().insert(subject) {
            return;
        }
        let cluster = Arc::clone(self);
        tokio::spawn(async move {
            sleep(HINT_WINDOW).await;
            cluster.lock_hinting().remove(&subject);
            let publish = cmd("SPUBLISH").arg(channel).arg(hint).to_owned();
            let mut course = Course::default();
            let call = cluster.keep_trying(subject.slot(), |_| publish.clone(), &mut course);
            match timeout(CALL_DEADLINE, call).await {
                Ok(Ok(_)) => drop(cluster.metrics.hints.inc()),
                Ok(Err(error)) => warn!(?subject, %error, "cannot send a hint"),
                Err(_) => warn!(?subject, "a hint was not sent in time"),
            }
        });
    }

    fn lock_hinting(&self) -> MutexGuard<'_, HashSet<Subject>> {
        self.hinting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The master of a slot, as far as known.
    pub(crate) fn master(&self, slot: Slot) -> Option<Address> {
        self.topology()
            .group(slot)
            .map(|group| group.master.clone())
    }

    async fn try_call(
        &self,
        target: &Target,
        may_repeat: bool,
        command: &impl Fn(Attempt) -> Cmd,
    ) -> RedisResult<Value> {
        let node = self.node(target.address());
        let link = node.link().await?;
        let command = command(Attempt {
            may_repeat,
            not_after_ms: link.not_after_ms(),
        });
        let answer = match target {
            Target::Owner(_) => link.connection.call(&command).await,
            Target::Importing(_) => link.connection.call_asking(&command).await,
        };
        node.check(&link, answer)
    }

    /// Runs a command on one node, whatever slots it serves.
    pub(crate) async fn call_node(&self, address: &Address, command: &Cmd) -> RedisResult<Value> {
        let node = self.node(address);
        let link = node.link().await?;
        let answer = link.connection.call(command).await;
        node.check(&link, answer)
    }

    /// The connection to a node, for subscriptions.
    ///
    /// # Errors
    /// What the system or the node says.
    pub(crate) async fn connection(&self, address: &Address) -> RedisResult<Connection> {
        let link = self.node(address).link().await?;
        Ok(link.connection)
    }

    /// Waits until a replica has what a node did in a slot; as long as that takes.
    pub(crate) async fn confirm(&self, node: &Address, slot: Slot) -> Confirmation {
        let spare = self.topology().any_slot_of(node);
        let slots = [Some(slot), spare].into_iter().flatten().collect();
        self.confirmer(node).confirm(slots).await
    }

    fn node(&self, address: &Address) -> Arc<Node> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let node = nodes
            .entry(address.clone())
            .or_insert_with(|| Arc::new(Node::new(address.clone(), self.settings())));
        Arc::clone(node)
    }

    fn confirmer(&self, address: &Address) -> Arc<Confirmer> {
        let mut confirmers = self
            .confirmers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let confirmer = confirmers.entry(address.clone()).or_insert_with(|| {
            let metrics = self.metrics.clone();
            Arc::new(Confirmer::new(address, self.settings(), metrics))
        });
        Arc::clone(confirmer)
    }

    /// User and password that nodes expect.
    fn settings(&self) -> RedisConnectionInfo {
        let settings = self.seeds.first().map(ConnectionInfo::redis_settings);
        settings.cloned().unwrap_or_default()
    }

    async fn load_library(&self, address: &Address) -> RedisResult<()> {
        let load = cmd("FUNCTION")
            .arg("LOAD")
            .arg(library::source())
            .to_owned();
        match self.call_node(address, &load).await {
            Ok(_) => info!(%address, library = library::name(), "loaded the function library"),
            Err(error) if has_text(&error, "already exists") => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// The one reading of the slot map under way; whoever waits for it may be dropped.
struct Reading<'a>(&'a AtomicBool);

impl<'a> Reading<'a> {
    fn begin(is_under_way: &'a AtomicBool) -> Option<Self> {
        let taken = is_under_way.swap(true, Ordering::AcqRel);
        // Not `then_some`: a guard made in vain would end the other's reading when it is dropped.
        (!taken).then(|| Self(is_under_way))
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// What happened on the way to an answer.
#[derive(Default)]
struct Course {
    last_error: Option<RedisError>,
    /// The command went to an importing node, whose channel has no subscribers yet.
    was_unheard: bool,
}

/// Where a command goes.
enum Target {
    /// The node that serves the slot.
    Owner(Address),
    /// The node that a migrating slot moves to; wants `ASKING` first.
    Importing(Address),
}

impl Target {
    const fn address(&self) -> &Address {
        match self {
            Self::Owner(address) | Self::Importing(address) => address,
        }
    }
}

/// What to do after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The slot has another owner.
    Moved,
    /// The slot is on its way to another owner.
    Ask,
    /// The node lacks the function library.
    Load,
    /// The command was not run: wait and try again.
    Wait,
    /// Nobody knows whether the command was run: connect anew and repeat it.
    Reconnect,
    /// It will never work.
    Refuse,
}

/// What an error means, and a word for it, a label of `store_retries_total`.
fn judge(error: &RedisError) -> (Next, &'static str) {
    if has_text(error, "Function not found") {
        return (Next::Load, "no_function");
    }
    match (error.code(), error.kind()) {
        (Some("MOVED"), _) => (Next::Moved, "moved"),
        (Some("ASK"), _) => (Next::Ask, "ask"),
        (Some("TRYAGAIN"), _) => (Next::Wait, "try_again"),
        (Some("CLUSTERDOWN"), _) => (Next::Wait, "cluster_down"),
        (Some("MASTERDOWN"), _) => (Next::Wait, "master_down"),
        (Some("LOADING"), _) => (Next::Wait, "loading"),
        (Some("READONLY"), _) => (Next::Wait, "read_only"),
        (Some("NOREPLICAS"), _) => (Next::Wait, "no_replicas"),
        (Some("LATE"), _) => (Next::Reconnect, "late"),
        (Some("BUSY"), _) => (Next::Wait, "busy"),
        (Some(_), _) => (Next::Refuse, "refused"),
        (None, ErrorKind::ClusterConnectionNotFound) => (Next::Wait, "unserved"),
        (None, _) if error.is_timeout() => (Next::Reconnect, "timeout"),
        (None, ErrorKind::Io | ErrorKind::Parse) => (Next::Reconnect, "connection"),
        (None, _) => (Next::Refuse, "refused"),
    }
}

/// How long one call waits between its attempts.
struct Pace {
    back_off: Duration,
    redirections: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            back_off: BACK_OFF_MIN,
            redirections: 0,
        }
    }
}

impl Pace {
    /// Waits before another attempt, each time longer, with jitter.
    async fn pause(&mut self) {
        sleep(self.back_off.mul_f64(0.5 + fastrand::f64())).await;
        self.back_off = (self.back_off * 2).min(BACK_OFF_MAX);
    }

    /// Goes on at once, but not for ever.
    async fn redirected(&mut self) {
        self.redirections += 1;
        if self.redirections > REDIRECTIONS_AT_ONCE {
            self.pause().await;
        }
    }
}

fn breaks_connection(error: &RedisError) -> bool {
    judge(error).0 == Next::Reconnect
}

fn redirection(error: &RedisError) -> Option<Address> {
    error
        .redirect_node()
        .and_then(|(address, _)| Address::parse(address))
}

fn refusal(error: &RedisError) -> StoreError {
    if error.code() == Some("OOM") {
        StoreError::Full(error.to_string())
    } else {
        StoreError::Refused(error.to_string())
    }
}

fn has_text(error: &RedisError, text: &str) -> bool {
    error.detail().is_some_and(|detail| detail.contains(text))
}

fn address_of(info: &ConnectionInfo) -> Option<Address> {
    let ConnectionAddr::Tcp(host, port) = info.addr() else {
        return None;
    };
    Some(Address::new(host, *port))
}
