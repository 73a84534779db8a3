//! Everything that a handler can reach, and the tasks that run beside the connections.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::{SystemTime, UNIX_EPOCH},
};

use slotcast_proto::{id::RoomId, schema::key::Channel, token::TokenKey};
use thiserror::Error;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use crate::{
    bus::{self, Bus, Reads, Receiver, Subscription, tails},
    cluster::{Address, Cluster, StoreError, beat},
    config::Config,
    hub::Hub,
    lease::Lease,
    marks::Marks,
    metrics::Metrics,
    pulse::Pulse,
    sockets::Sockets,
    store::Store,
    words::BannedWords,
};

/// The gateway's parts.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    /// The connections and the state of the process.
    pub(crate) sockets: Sockets,
    pub(crate) tokens: TokenKey,
    pub(crate) words: BannedWords,
    pub(crate) store: Store,
    pub(crate) hub: Hub,
    pub(crate) bus: Arc<Bus>,
    reads: Reads,
    pub(crate) marks: Marks,
    pub(crate) lease: Lease,
    pub(crate) pulse: Pulse,
    cluster: Arc<Cluster>,
    /// Wanted until the process ends.
    lobby: OnceLock<Subscription>,
    started: Instant,
}

/// Why the gateway cannot start.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    #[error("cannot read the banned words: {0}")]
    BannedWords(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the token secret is too short")]
    Secret,
}

impl App {
    /// The parts before anything runs.
    ///
    /// # Errors
    /// [`StartError`] names what cannot be used.
    pub(crate) fn new(config: Config) -> Result<Self, StartError> {
        let words = match &config.banned_words_file {
            Some(path) => BannedWords::read(path)?,
            None => BannedWords::default(),
        };
        let secret = config.jwt_secret.expose().as_bytes();
        let metrics = Metrics::new();
        let cluster = Arc::new(Cluster::new(&config.redis_urls, metrics.store.clone())?);
        Ok(Self {
            tokens: TokenKey::new(secret).ok_or(StartError::Secret)?,
            words,
            store: Store::new(
                Arc::clone(&cluster),
                config.session_ttl,
                config.recovery_window,
                config.log_max_length,
                config.durability,
            ),
            hub: Hub::new(config.participants_interval),
            bus: Arc::default(),
            reads: Reads::default(),
            marks: Marks::default(),
            lease: Lease::new(),
            pulse: Pulse::new(),
            metrics,
            sockets: Sockets::new(&config),
            cluster,
            lobby: OnceLock::new(),
            started: Instant::now(),
            config,
        })
    }

    /// Connects to Redis and starts the tasks that run beside the connections.
    ///
    /// # Errors
    /// [`StartError`] when Redis does not answer or does not take the function library.
    pub(crate) async fn start(self: &Arc<Self>) -> Result<(), StartError> {
        self.cluster.connect().await?;
        self.lease.renew(self).await?;
        self.run_beside().await?;
        self.sockets.readiness.set_redis_reachable(true);
        Ok(())
    }

    async fn run_beside(self: &Arc<Self>) -> Result<(), StoreError> {
        tokio::spawn(bus::run(
            Arc::clone(&self.bus),
            Arc::clone(&self.cluster),
            Arc::new(Receiver::new(Arc::clone(self))),
            self.config.subscribe_to,
        ));
        tokio::spawn(beat::run(Arc::clone(&self.cluster)));
        tokio::spawn(tails::run(Arc::clone(self)));
        let app = Arc::clone(self);
        tokio::spawn(async move { app.marks.run(&app).await });
        let app = Arc::clone(self);
        tokio::spawn(async move { app.lease.run(&app).await });
        let app = Arc::clone(self);
        tokio::spawn(async move { app.pulse.run(&app).await });
        let lobby = self.bus.want(Channel::Lobby);
        lobby.live().wait().await?;
        let _ = self.lobby.set(lobby);
        Ok(())
    }

    /// Asks for the channel of a room's slot.
    pub(crate) fn subscribe(&self, room: RoomId) -> Subscription {
        self.bus.want(Channel::Rooms(room.slot()))
    }

    /// Waits for a turn to read a room for catching up; it lasts until the answer is dropped.
    pub(crate) async fn turn_to_read(&self, room: RoomId) -> Option<OwnedSemaphorePermit> {
        self.reads.turn(self.master(room)).await
    }

    /// Whether what the bus says of a room must be looked up in its log first.
    pub(crate) fn is_suspect(&self, room: RoomId) -> bool {
        self.cluster.is_suspect(room.slot())
    }

    /// The node that a room's calls go to, as far as known.
    pub(crate) fn master(&self, room: RoomId) -> Option<Address> {
        self.cluster.master(room.slot())
    }

    /// Seconds since the process started.
    pub(crate) fn now_seconds(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_secs()).unwrap_or(u32::MAX / 2)
    }
}

/// Seconds since 1970, for tokens.
pub(crate) fn unix_seconds() -> u64 {
    unix_millis() / 1000
}

/// Milliseconds since 1970.
pub(crate) fn unix_millis() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
