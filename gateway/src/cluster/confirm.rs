//! Whether what a master did has reached a replica.
//!
//! `WAIT` holds up its connection, so each node has one of its own for this, and callers share: all who
//! came while a round was under way take part in the next one. A round is a tiny write and a `WAIT`
//! for it, since `WAIT` counts from the last write of its own connection. Replication is one ordered
//! stream: a replica that has this write has everything that the master did before it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    RedisConnectionInfo, RedisResult, Value, aio::MultiplexedConnection, cmd, io::tcp::TcpSettings,
};
use slotcast_proto::{schema::key, slot::Slot};
use tokio::sync::oneshot;
use tracing::debug;

use super::{Address, Next, judge};
use crate::metrics::{Confirmed, StoreMetrics};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(1000);

/// Replicas that must have a write.
const REPLICAS: u32 = 1;

/// One `WAIT` in milliseconds; less than the timeout of an answer, since the answer may be "not yet".
const WAIT_MS: u32 = 500;

/// The key of a round expires after this long, in milliseconds.
const KEY_TTL_MS: u32 = 60_000;

/// Slots whose keys a round tries to write: one that is on its way to another master takes none.
const SLOTS_MAX: usize = 4;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirmation {
    /// A replica has it.
    Replicated,
    /// The node may have ceased to be the slot's master, and the write to exist.
    Unsure,
}

/// One node's confirmations.
pub(super) struct Confirmer {
    info: ConnectionInfo,
    waiting: Mutex<Waiting>,
    metrics: StoreMetrics,
}

#[derive(Default)]
struct Waiting {
    callers: Vec<Caller>,
    /// A task is at the rounds, and has the connection.
    is_served: bool,
    connection: Option<MultiplexedConnection>,
}

struct Caller {
    /// Slots of which the node should be the master; the write's own comes first.
    slots: Vec<Slot>,
    answer: oneshot::Sender<Confirmation>,
}

impl Confirmer {
    pub(super) fn new(
        address: &Address,
        settings: RedisConnectionInfo,
        metrics: StoreMetrics,
    ) -> Self {
        Self {
            info: connection_info(address, settings),
            waiting: Mutex::default(),
            metrics,
        }
    }

    /// Waits until a replica has what the node has answered before; as long as that takes.
    pub(super) async fn confirm(self: &Arc<Self>, slots: Vec<Slot>) -> Confirmation {
        let (answer, confirmed) = oneshot::channel();
        let is_served = {
            let mut waiting = self.lock();
            waiting.callers.push(Caller { slots, answer });
            std::mem::replace(&mut waiting.is_served, true)
        };
        if !is_served {
            tokio::spawn(Arc::clone(self).serve());
        }
        confirmed.await.unwrap_or(Confirmation::Unsure)
    }

    /// Makes rounds until nobody waits.
    async fn serve(self: Arc<Self>) {
        let mut connection = self.lock().connection.take();
        while let Some(callers) = self.take(&mut connection) {
            let round = self.round(&mut connection, &callers).await;
            if round.is_err() {
                connection = None;
            }
            self.metrics.count_confirmation(match &round {
                Ok(true) => Confirmed::Replicated,
                Ok(false) => Confirmed::NotYet,
                Err(_) => Confirmed::Unsure,
            });
            let confirmation = match round {
                Ok(true) => Confirmation::Replicated,
                Ok(false) => {
                    self.lock().callers.extend(callers);
                    continue;
                }
                Err(error) => {
                    debug!(%error, "cannot ask whether replicas have a write");
                    Confirmation::Unsure
                }
            };
            for caller in callers {
                // Who gave up meanwhile needs no answer.
                let _ = caller.answer.send(confirmation);
            }
        }
    }

    /// Those who wait now; `None` ends the rounds, and keeps the connection for the next ones.
    fn take(&self, connection: &mut Option<MultiplexedConnection>) -> Option<Vec<Caller>> {
        let mut waiting = self.lock();
        waiting.callers.retain(|caller| !caller.answer.is_closed());
        if waiting.callers.is_empty() {
            waiting.is_served = false;
            waiting.connection = connection.take();
            return None;
        }
        Some(std::mem::take(&mut waiting.callers))
    }

    /// Whether a replica has all that the node did before.
    async fn round(
        &self,
        place: &mut Option<MultiplexedConnection>,
        callers: &[Caller],
    ) -> RedisResult<bool> {
        let connection = match place {
            Some(connection) => connection,
            None => place.insert(open(self.info.clone()).await?),
        };
        let mut slots: Vec<_> = callers.iter().flat_map(|caller| &caller.slots).collect();
        slots.dedup();
        let mut outcome = Ok(false);
        for slot in slots.into_iter().take(SLOTS_MAX) {
            outcome = ask(connection, *slot).await;
            let is_moving = |error| judge(error).0 == Next::Ask;
            if !outcome.as_ref().is_err_and(is_moving) {
                break;
            }
        }
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a node is reached.
fn connection_info(address: &Address, settings: RedisConnectionInfo) -> ConnectionInfo {
    let info = ConnectionAddr::Tcp(address.host().to_owned(), address.port())
        .into_connection_info()
        .map(|info| info.set_redis_settings(settings))
        .map(|info| info.set_tcp_settings(TcpSettings::default().set_nodelay(true)));
    info.unwrap_or_else(|_| unreachable!())
}

async fn open(info: ConnectionInfo) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT));
    Client::open(info)?
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

async fn ask(connection: &mut MultiplexedConnection, slot: Slot) -> RedisResult<bool> {
    let mut round = redis::pipe();
    // The node may have done the write because the slot is about to become its own.
    round.add_command(cmd("ASKING"));
    round
        .cmd("SET")
        .arg(key::confirmed(slot))
        .arg("")
        .arg("PX")
        .arg(KEY_TTL_MS);
    round.cmd("WAIT").arg(REPLICAS).arg(WAIT_MS);
    let answers = connection.send_packed_commands(&round, 1, 2).await?;
    let mut count = 0;
    for answer in answers {
        if let Value::Int(replicas) = answer.extract_error()? {
            count = replicas;
        }
    }
    Ok(count >= i64::from(REPLICAS))
}
