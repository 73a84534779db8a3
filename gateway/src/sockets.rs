//! What all connections of the process share.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use slotcast_proto::wire::{Millis, peer::PeerConfig};
use tokio::time::{Duration, Instant};

use crate::{
    admin::Readiness, chat::Chat, config::Config, connections::Connections, outbox::Budget,
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
    admitted: AtomicUsize,
    origin: Instant,
}

/// A place among the connections that the process may have, free again when dropped.
pub(crate) struct Admission<C: Chat> {
    chat: Arc<C>,
}

impl<C: Chat> Admission<C> {
    /// Takes a place; `None` when all are taken.
    pub(crate) fn take(chat: &Arc<C>) -> Option<Self> {
        let admitted = &chat.sockets().admitted;
        if admitted.fetch_add(1, Ordering::AcqRel) >= chat.config().max_connections {
            admitted.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        chat.metrics().connections.inc();
        Some(Self {
            chat: Arc::clone(chat),
        })
    }

    /// The gateway that the place is in.
    pub(crate) const fn chat(&self) -> &Arc<C> {
        &self.chat
    }
}

impl<C: Chat> Drop for Admission<C> {
    fn drop(&mut self) {
        self.chat.sockets().admitted.fetch_sub(1, Ordering::AcqRel);
        self.chat.metrics().connections.dec();
    }
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
            admitted: AtomicUsize::new(0),
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
