//! One node's connection.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use redis::{ErrorKind, FromRedisValue, RedisConnectionInfo, RedisError, RedisResult, Value, cmd};
use tokio::time::Instant;
use tracing::warn;

use super::{Address, breaks_connection, connection::Connection};

/// What is sent now takes effect within this time or not at all: a node that was silent for longer may
/// have been replaced, and the command repeated on its successor.
const EFFECT_MAX: Duration = Duration::from_millis(2000);

type Connecting = Shared<BoxFuture<'static, RedisResult<Connected>>>;

/// A connection, and what the node said of itself when it was made.
#[derive(Clone)]
struct Connected {
    connection: Connection,
    identity: Identity,
    clock: Clock,
}

/// What a node's clock shows.
#[derive(Clone, Copy)]
struct Clock {
    shown_ms: u64,
    read: Instant,
}

impl Clock {
    fn now_ms(&self) -> u64 {
        let since = u64::try_from(self.read.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.shown_ms.saturating_add(since)
    }
}

/// One caller's use of a connection.
pub(super) struct Link {
    pub(super) connection: Connection,
    clock: Clock,
    generation: u64,
}

impl Link {
    /// When the node's clock shows more than this, what is sent now must not take effect any more.
    pub(super) fn not_after_ms(&self) -> u64 {
        self.clock.now_ms() + u64::try_from(EFFECT_MAX.as_millis()).unwrap_or_default()
    }
}

/// One node's connection, made when first wanted; all who want it wait for the same attempt.
///
/// A connection that was given up may still hold commands that the node has not read, as when it
/// hangs. They must not run after their repetition: the first attempt of an append does not look for
/// an earlier one. So the next connection has the node close the one before (`CLIENT KILL`) before
/// anything else is sent on it.
pub(super) struct Node {
    address: Address,
    settings: RedisConnectionInfo,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    /// Counts the attempts, so that a late error does not cost the next connection.
    generation: u64,
    connection: Option<Connecting>,
    /// The connection that was given up last.
    previous: Option<Identity>,
}

impl Current {
    /// Ends a connection that was made, if it is such a one.
    fn forget_if(&mut self, is_of_no_use: impl Fn(&Connected) -> bool) {
        let made = self.connection.as_ref().and_then(Shared::peek);
        let Some(Ok(connected)) = made.filter(|made| made.as_ref().is_ok_and(is_of_no_use)) else {
            return;
        };
        connected.connection.close();
        self.previous = Some(connected.identity.clone());
        self.connection = None;
    }
}

/// A connection as the node knows it: its id, and its address, since ids begin anew with the node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    id: String,
    address: String,
}

impl Identity {
    /// Reads the answer to `CLIENT INFO`.
    fn parse(info: &str) -> Option<Self> {
        let field = |name| info.split(' ').find_map(|field| field.strip_prefix(name));
        Some(Self {
            id: field("id=")?.to_owned(),
            address: field("addr=")?.to_owned(),
        })
    }
}

impl Node {
    pub(super) fn new(address: Address, settings: RedisConnectionInfo) -> Self {
        Self {
            address,
            settings,
            current: Mutex::default(),
        }
    }

    /// The connection, made now if there is none or it is over.
    pub(super) async fn link(&self) -> RedisResult<Link> {
        let (connecting, generation) = {
            let mut current = self.current();
            current.forget_if(|connected| connected.connection.is_over());
            if current.connection.is_none() {
                current.generation += 1;
                let address = self.address.clone();
                let connecting = connect(address, self.settings.clone(), current.previous.clone());
                current.connection = Some(connecting.boxed().shared());
            }
            (current.connection.clone(), current.generation)
        };
        let Some(connecting) = connecting else {
            unreachable!("it was just made");
        };
        let connected = connecting.await;
        if connected.is_err() {
            self.forget(generation);
        }
        connected.map(|connected| Link {
            connection: connected.connection,
            clock: connected.clock,
            generation,
        })
    }

    /// Passes an answer on, and gives the connection up if the answer means that it is of no use.
    pub(super) fn check(&self, link: &Link, answer: RedisResult<Value>) -> RedisResult<Value> {
        if answer.as_ref().is_err_and(breaks_connection) {
            self.forget(link.generation);
        }
        answer
    }

    /// Gives a connection up; the next call makes a new one.
    fn forget(&self, generation: u64) {
        let mut current = self.current();
        if current.generation == generation {
            current.forget_if(|_| true);
            current.connection = None;
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(
    address: Address,
    settings: RedisConnectionInfo,
    previous: Option<Identity>,
) -> RedisResult<Connected> {
    let connection = Connection::open(&address, &settings).await?;
    let connected = introduce(&connection, previous).await;
    if connected.is_err() {
        connection.close();
    }
    connected
}

async fn introduce(connection: &Connection, previous: Option<Identity>) -> RedisResult<Connected> {
    let read = Instant::now();
    let (info, time) = (cmd("CLIENT").arg("INFO").to_owned(), cmd("TIME"));
    let (info, time) = tokio::try_join!(connection.call(&info), connection.call(&time))?;
    let info = String::from_redis_value(info)?;
    let (seconds, micros) = <(u64, u64)>::from_redis_value(time)?;
    let identity = Identity::parse(&info)
        .ok_or_else(|| RedisError::from((ErrorKind::Parse, "unexpected CLIENT INFO")))?;
    if let Some(previous) = previous {
        close_previous(connection, &previous).await?;
    }
    let clock = Clock {
        shown_ms: seconds * 1000 + micros / 1000,
        read,
    };
    Ok(Connected {
        connection: connection.clone(),
        identity,
        clock,
    })
}

/// Has the node close a connection, and drop what it has not read of it.
async fn close_previous(connection: &Connection, identity: &Identity) -> RedisResult<()> {
    let mut kill = cmd("CLIENT");
    kill.arg("KILL").arg("ID").arg(&identity.id);
    kill.arg("ADDR").arg(&identity.address);
    let closed = connection.call(&kill).await;
    match closed {
        Err(error) if error.code().is_none() => Err(error),
        Err(error) => {
            warn!(%error, "cannot close the connection before; a message may be stored twice");
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_read_from_client_info() {
        let info = "id=32 addr=127.0.0.1:39164 laddr=127.0.0.1:18000 fd=22 name= age=1\n";
        let identity = Identity {
            id: "32".to_owned(),
            address: "127.0.0.1:39164".to_owned(),
        };
        assert_eq!(Identity::parse(info), Some(identity));
        assert_eq!(Identity::parse("nothing of the kind"), None);
    }
}
