//! Engine.IO v4 packets over WebSocket: one frame is one packet (protocol revision 4, "WebSocket").
//!
//! Long polling packs several packets into one body and writes binary as base64; neither happens
//! here.

use serde::{Deserialize, Serialize};

use super::Violation;

/// An Engine.IO packet that borrows its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// `0`, server only: the handshake, an [`OpenHandshake`] as JSON.
    Open(&'a str),
    /// `1`, both: the sender is about to close the transport.
    Close,
    /// `2`, server (heartbeat) or, with the text `probe`, a client that tests an upgrade.
    Ping(&'a str),
    /// `3`, the answer to [`Packet::Ping`] with the same text.
    Pong(&'a str),
    /// `4`, both: a text message.
    Message(&'a str),
    /// A binary frame as it is, both: a binary message.
    Binary(&'a [u8]),
    /// `5`, client only: the upgrade is done.
    Upgrade,
    /// `6`, server only: ends a pending poll during an upgrade.
    Noop,
}

/// A packet ready to be a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encoded<'a> {
    /// Content of a text frame.
    Text(String),
    /// Content of a binary frame.
    Binary(&'a [u8]),
}

impl<'a> Packet<'a> {
    /// The packet in a text frame.
    ///
    /// # Errors
    /// [`Violation::EngineType`] if the frame is empty, names an unknown type, or has text after a
    /// type that takes none.
    pub fn decode_text(text: &'a str) -> Result<Self, Violation> {
        let mut characters = text.chars();
        let packet_type = characters.next().ok_or(Violation::EngineType)?;
        let payload = characters.as_str();
        match (packet_type, payload) {
            ('0', _) => Ok(Self::Open(payload)),
            ('1', "") => Ok(Self::Close),
            ('2', _) => Ok(Self::Ping(payload)),
            ('3', _) => Ok(Self::Pong(payload)),
            ('4', _) => Ok(Self::Message(payload)),
            ('5', "") => Ok(Self::Upgrade),
            ('6', "") => Ok(Self::Noop),
            _ => Err(Violation::EngineType),
        }
    }

    /// The packet in a binary frame: every one is a message.
    #[must_use]
    pub const fn decode_binary(bytes: &'a [u8]) -> Self {
        Self::Binary(bytes)
    }

    /// The content of the frame that carries this packet.
    #[must_use]
    pub fn encode(&self) -> Encoded<'a> {
        let (packet_type, payload) = match *self {
            Self::Open(handshake) => ('0', handshake),
            Self::Close => ('1', ""),
            Self::Ping(payload) => ('2', payload),
            Self::Pong(payload) => ('3', payload),
            Self::Message(payload) => ('4', payload),
            Self::Upgrade => ('5', ""),
            Self::Noop => ('6', ""),
            Self::Binary(bytes) => return Encoded::Binary(bytes),
        };
        let mut text = String::with_capacity(1 + payload.len());
        text.push(packet_type);
        text.push_str(payload);
        Encoded::Text(text)
    }
}

/// The payload of the first packet of a connection (protocol revision 4, "Handshake").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenHandshake<'a> {
    /// Id of the Engine.IO session. Clients show it as `socket.io.engine.id`.
    pub sid: &'a str,
    /// Transports the client may upgrade to; empty over WebSocket.
    #[serde(borrow)]
    pub upgrades: Vec<&'a str>,
    /// Interval between two pings, in milliseconds.
    pub ping_interval: u32,
    /// How long a ping may stay unanswered, in milliseconds.
    pub ping_timeout: u32,
    /// Largest frame the server takes, in bytes.
    pub max_payload: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_a_ping_with_a_text() {
        assert_eq!(Packet::decode_text("2probe"), Ok(Packet::Ping("probe")));
        assert_eq!(Packet::decode_text("2"), Ok(Packet::Ping("")));
    }

    #[test]
    fn types_without_payload_take_none() {
        for text in ["", "7", "1x", "5x", "6x", "bAQI=", "\u{1}", "\u{c774}"] {
            assert_eq!(
                Packet::decode_text(text),
                Err(Violation::EngineType),
                "{text:?}"
            );
        }
    }

    #[test]
    fn the_handshake_reads_as_the_reference_writes_it() {
        let json = r#"{"sid":"e1","upgrades":[],"pingInterval":25000,"pingTimeout":60000,"maxPayload":1048576}"#;
        let handshake = OpenHandshake {
            sid: "e1",
            upgrades: Vec::new(),
            ping_interval: 25_000,
            ping_timeout: 60_000,
            max_payload: 1_048_576,
        };
        assert_eq!(serde_json::to_string(&handshake).unwrap(), json);
        assert_eq!(
            serde_json::from_str::<OpenHandshake<'_>>(json).unwrap(),
            handshake
        );
    }
}
