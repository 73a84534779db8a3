//! Socket.IO v5 packets: the text of an Engine.IO message (protocol revision 5, "Packet encoding").
//!
//! ```text
//! <type>[<attachments>-][<namespace>,][<ack id>][<JSON payload>]
//! ```
//!
//! The codec cuts the text into slices and bounds the numbers in front; it does not look into the JSON.

use std::fmt;

use super::Violation;

/// Namespace every client is served in.
pub const ROOT: &str = "/";

/// Number under which the sender of an event awaits the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AckId(u64);

impl AckId {
    /// The id with this number; `None` above [`limits::ACK_ID_DIGITS_MAX`](crate::limits::ACK_ID_DIGITS_MAX) digits.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        if number < 10_u64.pow(16) {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The id's number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for AckId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A Socket.IO packet that borrows its namespace and payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// `0`: a client asks for a namespace, with its auth object; a server grants it, with `sid` and perhaps `pid`.
    Connect {
        /// Namespace asked for or granted.
        namespace: &'a str,
        /// JSON object, if any.
        payload: Option<&'a str>,
    },
    /// `1`, both: the sender leaves the namespace.
    Disconnect {
        /// Namespace left.
        namespace: &'a str,
    },
    /// `2`, both: an event.
    Event {
        /// Namespace of the event.
        namespace: &'a str,
        /// Set if the sender awaits an answer.
        ack: Option<AckId>,
        /// JSON array: the name, then the arguments.
        payload: &'a str,
    },
    /// `3`, both: the answer to an event.
    Ack {
        /// Namespace of the event.
        namespace: &'a str,
        /// Id the event had.
        ack: AckId,
        /// JSON array of the answer's arguments.
        payload: &'a str,
    },
    /// `4`, server only: a namespace refused.
    ConnectError {
        /// Namespace refused.
        namespace: &'a str,
        /// JSON; an object with `message` by this server.
        payload: &'a str,
    },
    /// `5`, both: an event whose arguments hold placeholders for the binary frames that follow.
    BinaryEvent {
        /// Namespace of the event.
        namespace: &'a str,
        /// Set if the sender awaits an answer.
        ack: Option<AckId>,
        /// Binary frames that follow.
        attachments: u8,
        /// JSON array: the name, then the arguments.
        payload: &'a str,
    },
    /// `6`, both: an answer with placeholders for the binary frames that follow.
    BinaryAck {
        /// Namespace of the event.
        namespace: &'a str,
        /// Id the event had.
        ack: AckId,
        /// Binary frames that follow.
        attachments: u8,
        /// JSON array of the answer's arguments.
        payload: &'a str,
    },
}

impl<'a> Packet<'a> {
    /// The packet in the text of an Engine.IO message.
    ///
    /// # Errors
    /// The [`Violation`] that names the first part that is wrong.
    pub fn decode(text: &'a str) -> Result<Self, Violation> {
        let _ = text;
        Err(Violation::SocketType)
    }
}
