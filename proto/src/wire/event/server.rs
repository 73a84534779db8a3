//! What a server tells a client.

use serde::Serialize;

use crate::wire::socketio::AckId;

/// The packet of an event with one argument, `42["name",payload]`, as the content of a text frame.
///
/// `payload_json` goes out as it is: it must be JSON.
#[must_use]
pub fn event_packet(name: &str, payload_json: &str) -> String {
    format!("42[{name:?},{payload_json}]")
}

/// The packet of an event with one argument and the offset under which a client recovers: `42["name",payload,"offset"]`.
#[must_use]
pub fn event_packet_with_offset(name: &str, payload_json: &str, offset: &str) -> String {
    format!("42[{name:?},{payload_json},{offset:?}]")
}

/// The packet of an event without argument, `42["name"]`.
#[must_use]
pub fn signal_packet(name: &str) -> String {
    format!("42[{name:?}]")
}

/// The packet that answers an event, `43<ack>[payload]`, or `43<ack>[]` without one.
#[must_use]
pub fn ack_packet(ack: AckId, payload_json: Option<&str>) -> String {
    format!("43{ack}[{}]", payload_json.unwrap_or_default())
}

/// A payload that belongs to one event.
pub trait ServerEvent: Serialize {
    /// The event's name.
    const NAME: &'static str;

    /// The payload as JSON.
    #[must_use]
    fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The event as the content of a text frame.
    #[must_use]
    fn packet(&self) -> String {
        event_packet(Self::NAME, &self.json())
    }
}
