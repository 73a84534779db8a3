//! What all connections of the process share.

use std::sync::Arc;

use slotcast_proto::wire::{Millis, peer::PeerConfig};
use tokio::time::{Duration, Instant};

use crate::{
    admin::Readiness, admission::Places, config::Config, connections::Connections, outbox::Budget,
};

/// The deadline of a connection that has none, further away than any that matters.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

/// What all connections of the process share.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// The connections.
    pub(crate) connections: Connections,
    /// Whether the process should get clients.
    pub(crate) readiness: Readiness,
    /// The bytes that wait for slow readers.
    pub(crate) budget: Arc<Budget>,
    /// What the protocol's handshake announces.
    pub(crate) peer: PeerConfig,
    /// The places for connections.
    pub(crate) places: Places,
    origin: Instant,
}

impl Sockets {
    /// No connections; the clock of [`Millis`] begins here.
    pub(crate) fn new(config: &Config) -> Self {
        let budget = Arc::new(Budget::new(
            config.outbox_total_max_bytes,
            config.outbox_max_bytes,
        ));
        Self {
            connections: Connections::new(),
            readiness: Readiness::default(),
            budget,
            peer: PeerConfig {
                ping_interval_ms: config.ping_interval_ms,
                ping_timeout_ms: config.ping_timeout_ms,
                connect_timeout_ms: config.connect_timeout_ms,
                max_payload_bytes: config.max_payload_bytes,
            },
            places: Places::new(config),
            origin: Instant::now(),
        }
    }

    /// The moment, on the clock of the connections.
    pub(crate) fn now(&self) -> Millis {
        Millis::new(u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The instant of a moment.
    pub(crate) fn instant(&self, moment: Millis) -> Instant {
        let instant = self
            .origin
            .checked_add(Duration::from_millis(moment.as_u64()));
        match instant {
            Some(instant) if moment != Millis::NEVER => instant,
            _ => Instant::now() + FAR,
        }
    }
}
