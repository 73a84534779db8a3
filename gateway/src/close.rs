//! Why a connection ended: log word, metric label and wire reason at once.

use bytes::Bytes;
use slotcast_proto::wire::Violation;

use crate::websocket::{FrameViolation, close_frame};

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Close {
    /// The client closed the transport in order: an Engine.IO close or a close frame 1000 or 1001.
    ClientClosed,
    /// The client left the namespace (`41`).
    ClientDisconnected,
    /// End of stream, a reset, or a close frame with another code.
    ConnectionLost,
    /// A heartbeat stayed unanswered.
    Silent,
    /// No CONNECT was accepted in time.
    ConnectTimeout,
    /// A CONNECT was refused and the client stayed.
    Refused,
    /// The client reads more slowly than its rooms write.
    Slow,
    /// A handler did not end in time.
    Overloaded,
    /// The client broke the Engine.IO or Socket.IO protocol.
    Violation(Violation),
    /// The client broke the WebSocket protocol.
    BadFrame(FrameViolation),
    /// The login behind the connection ended, or another took its place.
    Replaced,
    /// The client came back on another connection, which has its rooms.
    TakenOver,
    /// A room went on without the client for longer than Redis remembers: it must load the room anew.
    Behind,
    /// The gateway is shutting down.
    Draining,
    /// A handler panicked.
    Panicked,
}

impl Close {
    /// Whether the client meant to leave, or may not come back with this session: its rooms are left
    /// at once, without a grace period.
    pub(crate) const fn is_orderly(self) -> bool {
        matches!(
            self,
            Self::ClientClosed | Self::ClientDisconnected | Self::Replaced | Self::TakenOver
        )
    }

    /// A short fixed word for logs and metrics, and the reason that the client sees.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::ClientDisconnected => "client_disconnected",
            Self::ConnectionLost => "connection_lost",
            Self::Silent => "silent",
            Self::ConnectTimeout => "connect_timeout",
            Self::Refused => "refused",
            Self::Slow => "slow",
            Self::Overloaded => "overloaded",
            Self::Violation(violation) => violation.label(),
            Self::BadFrame(violation) => violation.label(),
            Self::Replaced => "replaced",
            Self::TakenOver => "taken_over",
            Self::Behind => "behind",
            Self::Draining => "draining",
            Self::Panicked => "panicked",
        }
    }

    /// The close code on the wire (RFC 6455, 7.4.1); `None` where nobody is left to read it.
    pub(crate) const fn code(self) -> Option<u16> {
        match self {
            Self::ConnectionLost => None,
            Self::ClientClosed | Self::ClientDisconnected | Self::Replaced | Self::TakenOver => {
                Some(1000)
            }
            Self::Silent => Some(1001),
            Self::ConnectTimeout | Self::Refused | Self::Slow => Some(1008),
            Self::Violation(violation) => Some(violation.close_code()),
            Self::BadFrame(violation) => Some(violation.close_code()),
            Self::Panicked => Some(1011),
            Self::Behind | Self::Draining => Some(1012),
            Self::Overloaded => Some(1013),
        }
    }

    /// The close frame.
    pub(crate) fn frame(self) -> Option<Bytes> {
        self.code().map(|code| close_frame(code, self.label()))
    }
}
