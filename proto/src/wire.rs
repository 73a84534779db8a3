//! What a client and a gateway say to each other: Engine.IO v4, inside it Socket.IO v5, inside it
//! the chat's events.
//!
//! ```text
//! frame (RFC 6455) -> engineio::Packet -> socketio::Packet -> event::ClientEvent
//!        `------------------- peer::Peer keeps the state between frames
//! ```
//!
//! Nothing here opens a socket, reads a clock or draws a random number: time and ids come in as
//! arguments, packets go out as text. Whatever bytes a client sends end as an event, a packet that
//! is ignored, or a [`Violation`].

use std::ops::Add;

use serde::Serialize;

pub mod engineio;
pub mod event;
pub mod offset;
pub mod peer;
pub mod socketio;

/// A moment, in milliseconds since an origin the caller chose and keeps for the process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(u64);

impl Millis {
    /// The moment that does not come: the deadline of something that has none.
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment `ms` milliseconds after the origin.
    #[must_use]
    pub const fn new(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the origin.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl Add<u32> for Millis {
    type Output = Self;

    /// The moment `ms` milliseconds later.
    fn add(self, ms: u32) -> Self {
        Self(self.0.saturating_add(u64::from(ms)))
    }
}

/// What a client did that the protocol forbids. It ends that client's connection and nobody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// A frame, or the attachments of one packet together, are larger than announced in the
    /// handshake.
    #[error("payload of {bytes} bytes exceeds {bytes_max}")]
    TooBig {
        /// Size of what was received, in bytes.
        bytes: usize,
        /// Largest size allowed at this point, in bytes.
        bytes_max: usize,
    },
    /// The frame is empty or its first character names no Engine.IO packet type.
    #[error("unknown Engine.IO packet type")]
    EngineType,
    /// An Engine.IO packet only a server sends, or one that has no place outside a transport
    /// upgrade.
    #[error("Engine.IO packet in the wrong direction")]
    EngineDirection,
    /// The message is empty or its first character names no Socket.IO packet type.
    #[error("unknown Socket.IO packet type")]
    SocketType,
    /// A Socket.IO packet only a server sends: CONNECT_ERROR.
    #[error("Socket.IO packet in the wrong direction")]
    SocketDirection,
    /// The namespace is longer than
    /// [`limits::NAMESPACE_BYTES_MAX`](crate::limits::NAMESPACE_BYTES_MAX).
    #[error("namespace too long")]
    Namespace,
    /// The acknowledgement id is missing where one is needed, or has more than
    /// [`limits::ACK_ID_DIGITS_MAX`](crate::limits::ACK_ID_DIGITS_MAX) digits.
    #[error("bad acknowledgement id")]
    AckId,
    /// The attachment count is no number or is above
    /// [`limits::ATTACHMENTS_MAX`](crate::limits::ATTACHMENTS_MAX).
    #[error("bad attachment count")]
    Attachments,
    /// The packet's payload is missing, not JSON, or not the kind of JSON its type needs.
    #[error("malformed payload")]
    Payload,
    /// The event has a name that Socket.IO keeps for itself, like `connect` or `disconnect`.
    #[error("reserved event name")]
    ReservedEvent,
    /// A packet for a namespace this connection has not been accepted in.
    #[error("packet for a namespace that is not connected")]
    NotConnected,
    /// A CONNECT for the namespace that is connected or being decided on.
    #[error("second CONNECT")]
    ConnectedTwice,
    /// A binary frame no packet announced.
    #[error("binary frame without announcement")]
    UnannouncedBinary,
    /// A Socket.IO packet while announced binary frames are outstanding.
    #[error("packet between binary attachments")]
    AttachmentsInterrupted,
    /// More packets than their owner takes:
    /// [`limits::PEER_EVENTS_MAX`](crate::limits::PEER_EVENTS_MAX) events or
    /// [`limits::PEER_TRANSMITS_MAX`](crate::limits::PEER_TRANSMITS_MAX) answers are waiting.
    #[error("too many packets at once")]
    Flood,
}

impl Violation {
    /// The WebSocket close code to answer with (RFC 6455, 7.4.1).
    #[must_use]
    pub const fn close_code(&self) -> u16 {
        match self {
            Self::TooBig { .. } => 1009,
            Self::Payload => 1007,
            Self::ReservedEvent | Self::Flood => 1008,
            Self::EngineType
            | Self::EngineDirection
            | Self::SocketType
            | Self::SocketDirection
            | Self::Namespace
            | Self::AckId
            | Self::Attachments
            | Self::NotConnected
            | Self::ConnectedTwice
            | Self::UnannouncedBinary
            | Self::AttachmentsInterrupted => 1002,
        }
    }

    /// A short fixed word for a log field or a metric label.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::TooBig { .. } => "too_big",
            Self::EngineType => "engine_type",
            Self::EngineDirection => "engine_direction",
            Self::SocketType => "socket_type",
            Self::SocketDirection => "socket_direction",
            Self::Namespace => "namespace",
            Self::AckId => "ack_id",
            Self::Attachments => "attachments",
            Self::Payload => "payload",
            Self::ReservedEvent => "reserved_event",
            Self::NotConnected => "not_connected",
            Self::ConnectedTwice => "connected_twice",
            Self::UnannouncedBinary => "unannounced_binary",
            Self::AttachmentsInterrupted => "attachments_interrupted",
            Self::Flood => "flood",
        }
    }
}

/// The JSON of a payload of this crate's own types.
#[expect(
    clippy::expect_used,
    reason = "none of these types has a failing serializer or a non-string key"
)]
fn json<T: Serialize>(payload: &T) -> String {
    serde_json::to_string(payload).expect("payloads serialize")
}
