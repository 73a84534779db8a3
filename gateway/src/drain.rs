//! The end of a gateway: not ready, no new sockets, the others closed in slices, a deadline.

use std::{io, sync::Arc};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Duration, Instant, MissedTickBehavior, interval, sleep, timeout_at},
};

use crate::{chat::Chat, close::Close, server::Handshakes};

/// Slices of one second's share: clients come back spread out, not in bursts.
const SLICES_PER_SECOND: u32 = 10;

/// What is left of the deadline when all remaining sockets are closed at once: time to say why.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// How often the end of the last connections is looked for.
const POLL: Duration = Duration::from_millis(20);

/// The signals that end the process.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes SIGTERM and SIGINT over.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next of them and names it.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Waits for the next SIGINT. A SIGTERM meanwhile is nothing new: supervisors repeat theirs.
    pub(crate) async fn interrupted(&mut self) {
        self.interrupt.recv().await;
    }
}

/// Closes every connection, at the configured rate and with a reason on which clients reconnect. Sockets
/// must not be accepted any more. Whether all ended before the deadline.
pub(crate) async fn drain<C: Chat>(chat: &Arc<C>, handshakes: &Handshakes) -> bool {
    let started = Instant::now();
    let deadline = started + chat.config().drain;
    let last_words = LAST_WORDS.min(chat.config().drain / 2);
    let connections = &chat.sockets().connections;
    tracing::info!(connections = connections.len(), "draining");
    let in_slices = close_in_slices(chat, handshakes);
    if timeout_at(deadline - last_words, in_slices).await.is_err() {
        tracing::warn!(connections = connections.len(), "closing the rest at once");
        connections.for_each(|connection| connection.close(Close::Draining));
    }
    let ended = async {
        while connections.len() > 0 || !handshakes.is_empty() {
            // Those whose handshake ended meanwhile.
            connections.for_each(|connection| connection.close(Close::Draining));
            sleep(POLL).await;
        }
    };
    let is_complete = timeout_at(deadline, ended).await.is_ok();
    let duration_ms = started.elapsed().as_millis();
    tracing::info!(left = connections.len(), duration_ms, "drained");
    is_complete
}

async fn close_in_slices<C: Chat>(chat: &Arc<C>, handshakes: &Handshakes) {
    let per_second = chat.config().drain_per_second;
    let slice = per_second.div_ceil(SLICES_PER_SECOND);
    let mut ticks = interval(Duration::from_secs(1) * slice / per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let open = chat.sockets().connections.snapshot();
        let mut open = open
            .into_iter()
            .filter(|connection| !connection.is_closing())
            .peekable();
        if open.peek().is_none() && handshakes.is_empty() {
            return;
        }
        while open.peek().is_some() {
            ticks.tick().await;
            for connection in open
                .by_ref()
                .take(usize::try_from(slice).unwrap_or(usize::MAX))
            {
                connection.close(Close::Draining);
            }
        }
        ticks.tick().await;
    }
}
