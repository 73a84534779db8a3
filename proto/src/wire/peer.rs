//! The server's end of one connection as a state machine: frames and time in, packets and events out.

use super::event::{ClientEvent, EventName};
use super::socketio::AckId;
use super::{Millis, Violation};

/// What the handshake announces and the peer enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Interval between two pings, in milliseconds.
    pub ping_interval_ms: u32,
    /// How long a ping may stay unanswered, in milliseconds.
    pub ping_timeout_ms: u32,
    /// How long the connection may stay without an accepted CONNECT, in milliseconds.
    pub connect_timeout_ms: u32,
    /// Largest frame from the client, in bytes.
    pub max_payload_bytes: u32,
}

/// What the client did, for the connection's owner to act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// The client asks to be let in. Answer with [`Peer::accept`] or [`Peer::refuse`].
    Connect(ConnectAuth),
    /// An event of an accepted client.
    Event {
        /// The event.
        event: ClientEvent,
        /// Set if the client awaits an answer.
        ack: Option<AckId>,
    },
    /// An event whose payload is not what its name needs. It gets no answer, and the connection stays.
    Undecodable {
        /// The event's name.
        name: EventName,
        /// Set if the client awaits an answer.
        ack: Option<AckId>,
    },
    /// The client left the namespace (`41`): an orderly end of its session.
    Disconnect,
    /// The connection is over; close the transport. Nothing follows.
    Closed(PeerClosed),
}

/// Why a connection ended without a [`Violation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerClosed {
    /// The client said so (Engine.IO `1`).
    ByClient,
    /// A ping stayed unanswered for the ping timeout.
    Silent,
    /// No CONNECT was accepted within the connect timeout.
    ConnectTimeout,
}

/// What a client presents in its CONNECT. A member that is missing or no string is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectAuth {
    /// Access token. On the wire: `token`.
    pub token: Option<String>,
    /// Login session. On the wire: `sessionId`.
    pub session_id: Option<String>,
    /// Private id of the connection to recover. On the wire: `pid`.
    pub pid: Option<String>,
    /// Offset of the last packet that connection saw. On the wire: `offset`.
    pub offset: Option<String>,
}

/// The server's end of one connection.
///
/// After each input (`new`, `handle_*`, `accept`, `refuse`, `disconnect`) drain [`poll_transmit`](Self::poll_transmit)
/// and [`poll_event`](Self::poll_event) until both give `None`, then wait until
/// [`poll_timeout`](Self::poll_timeout) at the latest.
#[derive(Debug)]
pub struct Peer {
    transmits: Vec<String>,
    events: Vec<PeerEvent>,
    config: PeerConfig,
}

impl Peer {
    /// The peer of a fresh connection; its first packet is the handshake.
    #[must_use]
    pub fn new(sid: &str, config: &PeerConfig, now: Millis) -> Self {
        let _ = (sid, now);
        Self {
            transmits: Vec::new(),
            events: Vec::new(),
            config: *config,
        }
    }

    /// Takes the text frame the client sent.
    ///
    /// # Errors
    /// The client's [`Violation`]. The peer is over then: close the transport with its close code.
    pub fn handle_text(&mut self, text: &str, now: Millis) -> Result<(), Violation> {
        let _ = (text, now, &mut self.config);
        Ok(())
    }

    /// Takes the binary frame the client sent.
    ///
    /// # Errors
    /// The client's [`Violation`]. The peer is over then: close the transport with its close code.
    pub fn handle_binary(&mut self, bytes: &[u8], now: Millis) -> Result<(), Violation> {
        let _ = (bytes, now, &mut self.config);
        Ok(())
    }

    /// Does what is due at `now`: a ping, or [`PeerEvent::Closed`].
    pub fn handle_timeout(&mut self, now: Millis) {
        let _ = (now, &mut self.config);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do; [`Millis::NEVER`] once the peer is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Millis {
        Millis::NEVER
    }

    /// The next packet for the client, the content of one text frame.
    pub fn poll_transmit(&mut self) -> Option<String> {
        self.transmits.pop()
    }

    /// The next thing the client did.
    pub fn poll_event(&mut self) -> Option<PeerEvent> {
        self.events.pop()
    }

    /// Lets the client in that asked with [`PeerEvent::Connect`]. With a `pid` the client may recover the session later.
    pub fn accept(&mut self, sid: &str, pid: Option<&str>) {
        let _ = (sid, pid, &mut self.config);
    }

    /// Turns the client away that asked with [`PeerEvent::Connect`]; it sees `connect_error` with this message.
    pub fn refuse(&mut self, message: &str) {
        let _ = (message, &mut self.config);
    }

    /// Tells the client that the server ends its session; it sees `disconnect` with the reason `io server disconnect`.
    pub fn disconnect(&mut self) {
        let _ = &mut self.config;
    }
}
