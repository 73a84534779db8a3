//! One node's connection.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, RedisError, RedisResult, Value, aio::MultiplexedConnection, cmd,
    io::tcp::TcpSettings,
};
use tokio::time::Instant;
use tracing::warn;

use super::{Address, breaks_connection};

/// One attempt waits this long for its answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(1000);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);

/// How much longer than the caller waits a command may take effect: clocks are read with some delay.
const LATENESS: Duration = Duration::from_millis(1000);

type Connecting = Shared<BoxFuture<'static, RedisResult<Connected>>>;

/// A connection, and what the node said of itself when it was made.
#[derive(Clone)]
struct Connected {
    connection: MultiplexedConnection,
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
    connection: MultiplexedConnection,
    clock: Clock,
    generation: u64,
}

impl Link {
    /// When the node's clock shows more than this, nobody waits for what is sent now.
    pub(super) fn not_after_ms(&self) -> u64 {
        let patience = RESPONSE_TIMEOUT + LATENESS;
        self.clock.now_ms() + u64::try_from(patience.as_millis()).unwrap_or_default()
    }

    pub(super) async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        self.connection
            .send_packed_command(command)
            .await?
            .extract_error()
    }

    /// Sends a command for a slot that the node is importing.
    pub(super) async fn send_asking(&mut self, command: &Cmd) -> RedisResult<Value> {
        let mut both = redis::pipe();
        both.add_command(cmd("ASKING")).add_command(command.clone());
        let mut answers = self.connection.send_packed_commands(&both, 1, 1).await?;
        answers.pop().unwrap_or(Value::Nil).extract_error()
    }
}

/// One node's connection, made when first wanted; all who want it wait for the same attempt.
///
/// A connection that was given up may still hold commands that the node has not read, as when it
/// hangs. They must not run after their repetition: the first attempt of an append does not look for
/// an earlier one. So the next connection has the node close the one before (`CLIENT KILL`) before
/// anything else is sent on it.
pub(super) struct Node {
    info: ConnectionInfo,
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
    pub(super) fn new(info: ConnectionInfo) -> Self {
        Self {
            info,
            current: Mutex::default(),
        }
    }

    /// The connection, made now if there is none.
    pub(super) async fn link(&self) -> RedisResult<Link> {
        let (connecting, generation) = {
            let mut current = self.current();
            if current.connection.is_none() {
                current.generation += 1;
                let connecting = connect(self.info.clone(), current.previous.clone());
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
        if current.generation != generation {
            return;
        }
        let connection = current.connection.take();
        if let Some(Ok(connected)) = connection.as_ref().and_then(Shared::peek) {
            current.previous = Some(connected.identity.clone());
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a node is reached.
pub(super) fn connection_info(
    address: &Address,
    settings: redis::RedisConnectionInfo,
) -> ConnectionInfo {
    let info = ConnectionAddr::Tcp(address.host().to_owned(), address.port())
        .into_connection_info()
        .map(|info| info.set_redis_settings(settings))
        .map(|info| info.set_tcp_settings(TcpSettings::default().set_nodelay(true)));
    info.unwrap_or_else(|_| unreachable!())
}

/// Makes a connection.
pub(super) async fn open(info: ConnectionInfo) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT));
    Client::open(info)?
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

async fn connect(info: ConnectionInfo, previous: Option<Identity>) -> RedisResult<Connected> {
    let mut connection = open(info).await?;
    let read = Instant::now();
    let (info, (seconds, micros)): (String, (u64, u64)) = redis::pipe()
        .cmd("CLIENT")
        .arg("INFO")
        .cmd("TIME")
        .query_async(&mut connection)
        .await?;
    let identity = Identity::parse(&info)
        .ok_or_else(|| RedisError::from((ErrorKind::Parse, "unexpected CLIENT INFO")))?;
    if let Some(previous) = previous {
        close(&mut connection, &previous).await?;
    }
    let clock = Clock {
        shown_ms: seconds * 1000 + micros / 1000,
        read,
    };
    Ok(Connected {
        connection,
        identity,
        clock,
    })
}

/// Has the node close a connection, and drop what it has not read of it.
async fn close(connection: &mut MultiplexedConnection, identity: &Identity) -> RedisResult<()> {
    let closed: RedisResult<u32> = cmd("CLIENT")
        .arg("KILL")
        .arg("ID")
        .arg(&identity.id)
        .arg("ADDR")
        .arg(&identity.address)
        .query_async(connection)
        .await;
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
