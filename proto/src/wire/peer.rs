//! The server's end of one connection as a state machine: frames and time in, packets and events
//! out.
//!
//! ```text
//! client                       Peer                          owner
//!        <-- 0{"sid":..}        new
//!   40{"token":..} -->                       -- Connect -->
//!        <-- 40{"sid":..}                    <-- accept --     (or 44{"message":..} and refuse)
//!   42["name",..] -->                        -- Event -->
//!        <-- 2                  handle_timeout
//!   3 -->
//!   41 -->                                   -- Disconnect -->
//! ```

use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::event::{ClientEvent, Decoded, EventName, decode_event};
use super::socketio::{self, AckId};
use super::{Millis, Violation, engineio, json};
use crate::limits::{
    ATTACHMENT_BYTES_MAX, PEER_EVENTS_MAX, PEER_TRANSMITS_MAX, UNACCEPTED_PAYLOAD_BYTES_MAX,
};

/// What the handshake announces and the peer enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Interval from a pong to the next ping, in milliseconds. Usually
    /// [`limits::PING_INTERVAL_MS_DEFAULT`](crate::limits::PING_INTERVAL_MS_DEFAULT).
    pub ping_interval_ms: u32,
    /// How long a ping may stay unanswered, in milliseconds. Usually
    /// [`limits::PING_TIMEOUT_MS_DEFAULT`](crate::limits::PING_TIMEOUT_MS_DEFAULT).
    pub ping_timeout_ms: u32,
    /// How long the connection may stay without an accepted CONNECT, in milliseconds. Usually
    /// [`limits::CONNECT_TIMEOUT_MS_DEFAULT`](crate::limits::CONNECT_TIMEOUT_MS_DEFAULT).
    pub connect_timeout_ms: u32,
    /// Largest frame from the client, in bytes. Usually
    /// [`limits::MAX_PAYLOAD_BYTES_DEFAULT`](crate::limits::MAX_PAYLOAD_BYTES_DEFAULT). Before the
    /// client is accepted [`UNACCEPTED_PAYLOAD_BYTES_MAX`] holds where it is smaller.
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
    /// An event whose payload is not what its name needs. It gets no answer; the connection stays.
    Undecodable {
        /// The event's name.
        name: EventName,
        /// Set if the client awaits an answer.
        ack: Option<AckId>,
    },
    /// The client left the namespace (`41`): an orderly end of its session. The transport is open
    /// still, and the client may ask again within the connect timeout.
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
#[derive(Clone, Default, PartialEq, Eq)]
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
/// After each input (`new`, `handle_*`, `accept`, `refuse`, `disconnect`) drain
/// [`poll_transmit`](Self::poll_transmit) and [`poll_event`](Self::poll_event) until both give
/// `None`, then wait until [`poll_timeout`](Self::poll_timeout) at the latest.
///
/// Once an input returned a [`Violation`] or [`PeerEvent::Closed`] came out, the peer is over: it
/// ignores every further input and has no deadline.
///
/// Heartbeat as in the reference server (engine.io 6.6): the next ping is due one interval after
/// the last pong, asked for or not; while a ping is unanswered, the first other packet that arrives
/// starts its timeout anew, once.
#[derive(Debug)]
pub struct Peer {
    config: PeerConfig,
    heartbeat: Heartbeat,
    state: State,
    /// Boxed: no client of the chat sends any, so nobody else pays for it.
    attachments: Option<Box<Attachments>>,
    transmits: Vec<String>,
    events: Vec<PeerEvent>,
}

const _: () = assert!(size_of::<Peer>() <= 128);

#[derive(Clone, Copy, Debug)]
enum State {
    /// Nobody in the namespace, and nobody asking.
    Stranger { connect_until: Millis },
    /// The owner has the client's CONNECT and has not answered.
    Deciding { connect_until: Millis },
    /// Accepted.
    Connected,
    /// The server ended the session. What the client had under way before it knew is ignored; it
    /// may ask to be let in again.
    Dismissed,
    /// After a violation or a close.
    Over,
}

#[derive(Clone, Copy, Debug)]
enum Heartbeat {
    Resting {
        ping_at: Millis,
    },
    Awaiting {
        silent_at: Millis,
        is_extended: bool,
    },
}

/// Binary frames that are announced and not here yet. What came is counted, not kept.
#[derive(Debug)]
struct Attachments {
    outstanding: u8,
    bytes: usize,
    delivery: Option<PeerEvent>,
}

impl Peer {
    /// The peer of a fresh connection. Its first packet is the handshake with `sid`, the id of the
    /// transport's session.
    #[must_use]
    pub fn new(sid: &str, config: &PeerConfig, now: Millis) -> Self {
        let handshake = json(&engineio::OpenHandshake {
            sid,
            upgrades: Vec::new(),
            ping_interval: config.ping_interval_ms,
            ping_timeout: config.ping_timeout_ms,
            max_payload: config.max_payload_bytes,
        });
        Self {
            config: *config,
            heartbeat: Heartbeat::Resting {
                ping_at: now + config.ping_interval_ms,
            },
            state: State::Stranger {
                connect_until: now + config.connect_timeout_ms,
            },
            attachments: None,
            transmits: vec![format!("0{handshake}")],
            events: Vec::new(),
        }
    }

    /// Takes the content of a text frame.
    ///
    /// # Errors
    /// The client's [`Violation`]: close the transport with its close code.
    pub fn handle_text(&mut self, text: &str, now: Millis) -> Result<(), Violation> {
        if matches!(self.state, State::Over) {
            return Ok(());
        }
        self.take_text(text, now).inspect_err(|_| self.end())
    }

    /// Takes the content of a binary frame.
    ///
    /// # Errors
    /// The client's [`Violation`]: close the transport with its close code.
    pub fn handle_binary(&mut self, bytes: &[u8], now: Millis) -> Result<(), Violation> {
        if matches!(self.state, State::Over) {
            return Ok(());
        }
        self.take_binary(bytes, now).inspect_err(|_| self.end())
    }

    /// Does what is due at `now`: a ping, or [`PeerEvent::Closed`]. Early calls do nothing.
    pub fn handle_timeout(&mut self, now: Millis) {
        match self.state {
            State::Over => return,
            State::Stranger { connect_until } | State::Deciding { connect_until } => {
                if connect_until <= now {
                    self.close(PeerClosed::ConnectTimeout);
                    return;
                }
            }
            State::Connected | State::Dismissed => {}
        }
        match self.heartbeat {
            Heartbeat::Resting { ping_at } if ping_at <= now => {
                self.heartbeat = Heartbeat::Awaiting {
                    silent_at: now + self.config.ping_timeout_ms,
                    is_extended: false,
                };
                // An owner that takes nothing out gets no more of them, and the peer falls silent.
                if self.transmits.len() < PEER_TRANSMITS_MAX {
                    self.transmits.push(String::from("2"));
                }
            }
            Heartbeat::Awaiting { silent_at, .. } if silent_at <= now => {
                self.close(PeerClosed::Silent);
            }
            Heartbeat::Resting { .. } | Heartbeat::Awaiting { .. } => {}
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do; [`Millis::NEVER`] once
    /// the peer is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Millis {
        let heartbeat = match self.heartbeat {
            Heartbeat::Resting { ping_at } => ping_at,
            Heartbeat::Awaiting { silent_at, .. } => silent_at,
        };
        match self.state {
            State::Stranger { connect_until } | State::Deciding { connect_until } => {
                heartbeat.min(connect_until)
            }
            State::Connected | State::Dismissed => heartbeat,
            State::Over => Millis::NEVER,
        }
    }

    /// The next packet for the client, the content of one text frame.
    pub fn poll_transmit(&mut self) -> Option<String> {
        take_first(&mut self.transmits)
    }

    /// The next thing the client did.
    pub fn poll_event(&mut self) -> Option<PeerEvent> {
        take_first(&mut self.events)
    }

    /// Lets the client in that asked with [`PeerEvent::Connect`]. With a `pid` it may recover the
    /// session on a later connection. Does nothing if no client is asking.
    pub fn accept(&mut self, sid: &str, pid: Option<&str>) {
        if !matches!(self.state, State::Deciding { .. }) {
            return;
        }
        self.state = State::Connected;
        let payload = json(&Accepted { sid, pid });
        let packet = socketio::Packet::Connect {
            namespace: socketio::ROOT,
            payload: Some(&payload),
        };
        self.transmits.push(packet.encode_frame());
    }

    /// Turns the client away that asked with [`PeerEvent::Connect`]: it sees `connect_error` with
    /// this message and may ask again. Does nothing if no client is asking.
    pub fn refuse(&mut self, message: &str) {
        let State::Deciding { connect_until } = self.state else {
            return;
        };
        self.state = State::Stranger { connect_until };
        self.transmits.push(refusal(socketio::ROOT, message));
    }

    /// Tells an accepted client that the server ends its session: it sees `disconnect` with the
    /// reason `io server disconnect`. Closing the transport afterwards is the owner's.
    pub fn disconnect(&mut self) {
        if !matches!(self.state, State::Connected) {
            return;
        }
        self.state = State::Dismissed;
        let packet = socketio::Packet::Disconnect {
            namespace: socketio::ROOT,
        };
        self.transmits.push(packet.encode_frame());
    }

    fn take_text(&mut self, text: &str, now: Millis) -> Result<(), Violation> {
        self.check_size(text.len())?;
        match engineio::Packet::decode_text(text)? {
            engineio::Packet::Message(message) => {
                self.extend_heartbeat(now);
                self.take_message(message, now)
            }
            engineio::Packet::Pong(_) => {
                let ping_at = now + self.config.ping_interval_ms;
                self.heartbeat = Heartbeat::Resting { ping_at };
                Ok(())
            }
            engineio::Packet::Close => {
                self.close(PeerClosed::ByClient);
                Ok(())
            }
            engineio::Packet::Open(_)
            | engineio::Packet::Ping(_)
            | engineio::Packet::Binary(_)
            | engineio::Packet::Upgrade
            | engineio::Packet::Noop => Err(Violation::EngineDirection),
        }
    }

    fn take_message(&mut self, message: &str, now: Millis) -> Result<(), Violation> {
        if self.attachments.is_some() {
            return Err(Violation::AttachmentsInterrupted);
        }
        match socketio::Packet::decode(message)? {
            socketio::Packet::Connect { namespace, payload } => {
                self.take_connect(namespace, payload, now)
            }
            socketio::Packet::Disconnect { namespace } => {
                if !self.is_heard_in(namespace)? {
                    return Ok(());
                }
                self.state = State::Stranger {
                    connect_until: now + self.config.connect_timeout_ms,
                };
                self.push_event(PeerEvent::Disconnect)
            }
            socketio::Packet::Event {
                namespace,
                ack,
                payload,
            } => {
                if !self.is_heard_in(namespace)? {
                    return Ok(());
                }
                self.push_event(match decode_event(payload)? {
                    Decoded::Event(event) => PeerEvent::Event { event, ack },
                    Decoded::Undecodable(name) => PeerEvent::Undecodable { name, ack },
                })
            }
            // The server sends no event that asks for an answer.
            socketio::Packet::Ack { namespace, .. } => self.is_heard_in(namespace).map(|_| ()),
            socketio::Packet::ConnectError { .. } => Err(Violation::SocketDirection),
            socketio::Packet::BinaryEvent {
                namespace,
                ack,
                attachments,
                payload,
            } => {
                let is_heard = self.is_heard_in(namespace)?;
                decode_event(payload)?;
                let event = PeerEvent::Event {
                    event: ClientEvent::Unknown,
                    ack,
                };
                self.await_attachments(attachments, is_heard.then_some(event));
                Ok(())
            }
            socketio::Packet::BinaryAck {
                namespace,
                attachments,
                ..
            } => {
                self.is_heard_in(namespace)?;
                self.await_attachments(attachments, None);
                Ok(())
            }
        }
    }

    fn take_connect(
        &mut self,
        namespace: &str,
        payload: Option<&str>,
        now: Millis,
    ) -> Result<(), Violation> {
        if namespace != socketio::ROOT {
            if self.transmits.len() >= PEER_TRANSMITS_MAX {
                return Err(Violation::Flood);
            }
            self.transmits.push(refusal(namespace, "Invalid namespace"));
            return Ok(());
        }
        let connect_until = match self.state {
            State::Stranger { connect_until } => connect_until,
            State::Dismissed => now + self.config.connect_timeout_ms,
            State::Deciding { .. } | State::Connected | State::Over => {
                return Err(Violation::ConnectedTwice);
            }
        };
        let auth = ConnectAuth::decode(payload)?;
        self.state = State::Deciding { connect_until };
        self.push_event(PeerEvent::Connect(auth))
    }

    fn take_binary(&mut self, bytes: &[u8], now: Millis) -> Result<(), Violation> {
        self.check_size(bytes.len())?;
        self.extend_heartbeat(now);
        let mut awaited = self
            .attachments
            .take()
            .ok_or(Violation::UnannouncedBinary)?;
        awaited.bytes = awaited.bytes.saturating_add(bytes.len());
        if awaited.bytes > ATTACHMENT_BYTES_MAX as usize {
            return Err(Violation::TooBig {
                bytes: awaited.bytes,
                bytes_max: ATTACHMENT_BYTES_MAX as usize,
            });
        }
        awaited.outstanding = awaited.outstanding.saturating_sub(1);
        if awaited.outstanding > 0 {
            self.attachments = Some(awaited);
            return Ok(());
        }
        match awaited.delivery {
            Some(event) => self.push_event(event),
            None => Ok(()),
        }
    }

    fn check_size(&self, bytes: usize) -> Result<(), Violation> {
        let bytes_max = match self.state {
            State::Stranger { .. } | State::Deciding { .. } => self
                .config
                .max_payload_bytes
                .min(UNACCEPTED_PAYLOAD_BYTES_MAX),
            State::Connected | State::Dismissed | State::Over => self.config.max_payload_bytes,
        } as usize;
        if bytes > bytes_max {
            Err(Violation::TooBig { bytes, bytes_max })
        } else {
            Ok(())
        }
    }

    /// Whether packets in the namespace mean something (`false`: are to be ignored).
    fn is_heard_in(&self, namespace: &str) -> Result<bool, Violation> {
        match self.state {
            State::Connected if namespace == socketio::ROOT => Ok(true),
            State::Dismissed if namespace == socketio::ROOT => Ok(false),
            State::Stranger { .. }
            | State::Deciding { .. }
            | State::Connected
            | State::Dismissed
            | State::Over => Err(Violation::NotConnected),
        }
    }

    fn await_attachments(&mut self, outstanding: u8, delivery: Option<PeerEvent>) {
        self.attachments = Some(Box::new(Attachments {
            outstanding,
            bytes: 0,
            delivery,
        }));
    }

    fn extend_heartbeat(&mut self, now: Millis) {
        if let Heartbeat::Awaiting {
            silent_at,
            is_extended: is_extended @ false,
        } = &mut self.heartbeat
        {
            *silent_at = now + self.config.ping_timeout_ms;
            *is_extended = true;
        }
    }

    fn push_event(&mut self, event: PeerEvent) -> Result<(), Violation> {
        if self.events.len() >= PEER_EVENTS_MAX {
            return Err(Violation::Flood);
        }
        self.events.reserve_exact(1);
        self.events.push(event);
        Ok(())
    }

    fn close(&mut self, reason: PeerClosed) {
        self.end();
        self.events.push(PeerEvent::Closed(reason));
    }

    fn end(&mut self) {
        self.state = State::Over;
        self.attachments = None;
        self.transmits = Vec::new();
    }
}

impl ConnectAuth {
    fn decode(payload: Option<&str>) -> Result<Self, Violation> {
        match payload {
            Some(payload) => serde_json::from_str(payload).map_err(|_| Violation::Payload),
            None => Ok(Self::default()),
        }
    }
}

/// Shows which members are there, never their values: they are credentials.
impl fmt::Debug for ConnectAuth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ConnectAuth")
            .field("token", &self.token.is_some())
            .field("session_id", &self.session_id.is_some())
            .field("pid", &self.pid.is_some())
            .field("offset", &self.offset.is_some())
            .finish()
    }
}

impl<'de> Deserialize<'de> for ConnectAuth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ConnectAuthVisitor)
    }
}

/// Reads an object of which any member may have any type.
struct ConnectAuthVisitor;

impl<'de> Visitor<'de> for ConnectAuthVisitor {
    type Value = ConnectAuth;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an auth object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut auth = ConnectAuth::default();
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            let member = match key.get() {
                "\"token\"" => &mut auth.token,
                "\"sessionId\"" => &mut auth.session_id,
                "\"pid\"" => &mut auth.pid,
                "\"offset\"" => &mut auth.offset,
                _ => continue,
            };
            *member = serde_json::from_str(value.get()).ok();
        }
        Ok(auth)
    }
}

#[derive(Serialize)]
struct Accepted<'a> {
    sid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<&'a str>,
}

#[derive(Serialize)]
struct Refused<'a> {
    message: &'a str,
}

fn refusal(namespace: &str, message: &str) -> String {
    let payload = json(&Refused { message });
    socketio::Packet::ConnectError {
        namespace,
        payload: &payload,
    }
    .encode_frame()
}

/// Takes the first item, and with the last one gives the memory back: an idle peer owns none.
fn take_first<T>(queue: &mut Vec<T>) -> Option<T> {
    if queue.len() > 1 {
        return Some(queue.remove(0));
    }
    std::mem::take(queue).pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: PeerConfig = PeerConfig {
        ping_interval_ms: 25_000,
        ping_timeout_ms: 60_000,
        connect_timeout_ms: 45_000,
        max_payload_bytes: 1_048_576,
    };

    #[test]
    fn a_drained_peer_owns_no_heap_memory() {
        let now = Millis::new(0);
        let mut peer = Peer::new("e1", &CONFIG, now);
        for text in ["40/a", "40/b", "40{\"token\":\"t\"}"] {
            peer.handle_text(text, now).unwrap();
        }
        peer.accept("s1", None);
        for _ in 0..3 {
            peer.handle_text("42[\"joinRoom\",\"r1\"]", now).unwrap();
        }
        peer.handle_text("451-[\"a\"]", now).unwrap();
        peer.handle_binary(&[1], now).unwrap();
        peer.handle_timeout(Millis::new(25_000));

        assert_eq!(std::iter::from_fn(|| peer.poll_event()).count(), 5);
        assert_eq!(std::iter::from_fn(|| peer.poll_transmit()).count(), 5);

        assert_eq!(peer.events.capacity(), 0);
        assert_eq!(peer.transmits.capacity(), 0);
        assert!(peer.attachments.is_none());
    }

    #[test]
    fn what_waits_comes_out_in_order() {
        let mut queue = vec![1, 2, 3];
        assert_eq!(
            std::iter::from_fn(|| take_first(&mut queue)).collect::<Vec<_>>(),
            [1, 2, 3]
        );
    }
}
