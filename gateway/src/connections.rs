//! The connections of the process, for those who address all of them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use crate::connection::Connection;

/// Locks of the registry: enough that accepting sockets on every core hardly ever waits.
const SHARDS: usize = 64;

/// A connection's number, never used twice in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnectionId(u64);

impl ConnectionId {
    /// The number.
    pub(crate) const fn number(self) -> u64 {
        self.0
    }
}

type Shard = HashMap<ConnectionId, Arc<Connection>>;

/// All connections of the process.
#[derive(Debug)]
pub(crate) struct Connections {
    shards: Box<[Mutex<Shard>]>,
    next: AtomicU64,
    count: AtomicUsize,
}

impl Connections {
    /// No connections.
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            next: AtomicU64::new(1),
            count: AtomicUsize::new(0),
        }
    }

    /// An id that no connection had.
    pub(crate) fn next_id(&self) -> ConnectionId {
        ConnectionId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Adds a connection.
    pub(crate) fn insert(&self, connection: Arc<Connection>) {
        let before = self
            .shard(connection.id())
            .insert(connection.id(), connection);
        if before.is_none() {
            self.count.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Removes a connection.
    pub(crate) fn remove(&self, id: ConnectionId) {
        let removed = self.shard(id).remove(&id);
        if removed.is_some() {
            self.count.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Calls `visit` with every connection. No lock is held meanwhile.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&Arc<Connection>)) {
        let mut batch = Vec::new();
        for shard in &self.shards {
            batch.extend(lock(shard).values().cloned());
            batch.iter().for_each(&mut visit);
            batch.clear();
        }
    }

    /// Every connection there is at this moment.
    pub(crate) fn snapshot(&self) -> Vec<Arc<Connection>> {
        let mut all = Vec::with_capacity(self.len());
        self.for_each(|connection| all.push(Arc::clone(connection)));
        all
    }

    fn shard(&self, id: ConnectionId) -> MutexGuard<'_, Shard> {
        let place = usize::try_from(id.0 % SHARDS as u64).unwrap_or(0);
        #[expect(clippy::indexing_slicing, reason = "there are SHARDS shards")]
        lock(&self.shards[place])
    }
}

/// No code panics while it holds one of these locks half done, so a poisoned one is as good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
