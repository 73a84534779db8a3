//! Socket.IO v5 packets: the text of an Engine.IO message (protocol revision 5, "Packet encoding").
//!
//! ```text
//! <type>[<attachments>-][<namespace>,][<ack id>][<JSON payload>]
//! ```
//!
//! The codec cuts the text into slices and bounds what stands in front of the payload. Of the JSON
//! it looks at the first character only: whoever needs the payload parses it.

use std::fmt;

use super::Violation;
use crate::limits::{
    ACK_ID_DIGITS_MAX, ATTACHMENT_DIGITS_MAX, ATTACHMENTS_MAX, NAMESPACE_BYTES_MAX,
};

/// The namespace clients are served in. It is the one that is not written in a packet.
pub const ROOT: &str = "/";

/// Number under which the sender of an event awaits the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AckId(u64);

impl AckId {
    /// The id with this number, or `None` if it has more than [`ACK_ID_DIGITS_MAX`] digits.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        match number.checked_ilog10() {
            Some(log) if log as usize >= ACK_ID_DIGITS_MAX => None,
            Some(_) | None => Some(Self(number)),
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
    /// `0`: a client asks for a namespace, with its auth object; a server grants it, with the
    /// connection's `sid` and perhaps a `pid`.
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
        /// JSON object with a `message`, or a bare JSON string.
        payload: &'a str,
    },
    /// `5`, both: an event whose arguments hold placeholders for the binary frames that follow.
    BinaryEvent {
        /// Namespace of the event.
        namespace: &'a str,
        /// Set if the sender awaits an answer.
        ack: Option<AckId>,
        /// Binary frames that follow, at least one.
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
        /// Binary frames that follow, at least one.
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
        let mut characters = text.chars();
        let packet_type = characters.next().ok_or(Violation::SocketType)?;
        let (attachments, rest) = match packet_type {
            '0'..='4' => (0, characters.as_str()),
            '5' | '6' => split_attachments(characters.as_str())?,
            _ => return Err(Violation::SocketType),
        };
        let (namespace, rest) = split_namespace(rest)?;
        let (ack, payload) = split_ack(rest)?;
        match packet_type {
            '0' => {
                forbid(ack)?;
                let payload = if payload.is_empty() {
                    None
                } else {
                    Some(object(payload)?)
                };
                Ok(Self::Connect { namespace, payload })
            }
            '1' => {
                forbid(ack)?;
                if !payload.is_empty() {
                    return Err(Violation::Payload);
                }
                Ok(Self::Disconnect { namespace })
            }
            '2' => Ok(Self::Event {
                namespace,
                ack,
                payload: array(payload)?,
            }),
            '3' => {
                let ack = ack.ok_or(Violation::AckId)?;
                Ok(Self::Ack {
                    namespace,
                    ack,
                    payload: array(payload)?,
                })
            }
            '4' => {
                forbid(ack)?;
                let payload = if payload.starts_with('"') {
                    payload
                } else {
                    object(payload)?
                };
                Ok(Self::ConnectError { namespace, payload })
            }
            '5' => Ok(Self::BinaryEvent {
                namespace,
                ack,
                attachments,
                payload: array(payload)?,
            }),
            _ => {
                let ack = ack.ok_or(Violation::AckId)?;
                Ok(Self::BinaryAck {
                    namespace,
                    ack,
                    attachments,
                    payload: array(payload)?,
                })
            }
        }
    }

    /// The packet as the text of an Engine.IO message.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        self.encode_onto(&mut text);
        text
    }

    /// The packet as the content of a text frame: the Engine.IO message that carries it.
    #[must_use]
    pub fn encode_frame(&self) -> String {
        let mut text = String::from("4");
        self.encode_onto(&mut text);
        text
    }

    fn encode_onto(&self, text: &mut String) {
        let (packet_type, attachments, namespace, ack, payload) = match *self {
            Self::Connect { namespace, payload } => {
                ('0', None, namespace, None, payload.unwrap_or_default())
            }
            Self::Disconnect { namespace } => ('1', None, namespace, None, ""),
            Self::Event {
                namespace,
                ack,
                payload,
            } => ('2', None, namespace, ack, payload),
            Self::Ack {
                namespace,
                ack,
                payload,
            } => ('3', None, namespace, Some(ack), payload),
            Self::ConnectError { namespace, payload } => ('4', None, namespace, None, payload),
            Self::BinaryEvent {
                namespace,
                ack,
                attachments,
                payload,
            } => ('5', Some(attachments), namespace, ack, payload),
            Self::BinaryAck {
                namespace,
                ack,
                attachments,
                payload,
            } => ('6', Some(attachments), namespace, Some(ack), payload),
        };
        let front_bytes = 1 + ATTACHMENT_DIGITS_MAX + 1 + namespace.len() + 1 + ACK_ID_DIGITS_MAX;
        text.reserve(front_bytes + payload.len());
        text.push(packet_type);
        if let Some(attachments) = attachments {
            text.push_str(&attachments.to_string());
            text.push('-');
        }
        if namespace != ROOT {
            text.push_str(namespace);
            text.push(',');
        }
        if let Some(ack) = ack {
            text.push_str(&ack.to_string());
        }
        text.push_str(payload);
    }
}

fn split_attachments(text: &str) -> Result<(u8, &str), Violation> {
    let (digits, rest) = split_digits(text);
    if digits.len() > ATTACHMENT_DIGITS_MAX {
        return Err(Violation::Attachments);
    }
    let count = digits.parse().map_err(|_| Violation::Attachments)?;
    if !(1..=ATTACHMENTS_MAX).contains(&count) {
        return Err(Violation::Attachments);
    }
    let rest = rest.strip_prefix('-').ok_or(Violation::Attachments)?;
    Ok((count, rest))
}

fn split_namespace(text: &str) -> Result<(&str, &str), Violation> {
    if !text.starts_with('/') {
        return Ok((ROOT, text));
    }
    let (namespace, rest) = text.split_once(',').unwrap_or((text, ""));
    if namespace.len() > NAMESPACE_BYTES_MAX {
        return Err(Violation::Namespace);
    }
    Ok((namespace, rest))
}

fn split_ack(text: &str) -> Result<(Option<AckId>, &str), Violation> {
    let (digits, rest) = split_digits(text);
    if digits.is_empty() {
        return Ok((None, rest));
    }
    if digits.len() > ACK_ID_DIGITS_MAX {
        return Err(Violation::AckId);
    }
    let number = digits.parse().map_err(|_| Violation::AckId)?;
    Ok((Some(AckId(number)), rest))
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

fn forbid(ack: Option<AckId>) -> Result<(), Violation> {
    if ack.is_some() {
        Err(Violation::AckId)
    } else {
        Ok(())
    }
}

fn object(payload: &str) -> Result<&str, Violation> {
    if payload.starts_with('{') {
        Ok(payload)
    } else {
        Err(Violation::Payload)
    }
}

fn array(payload: &str) -> Result<&str, Violation> {
    if payload.starts_with('[') {
        Ok(payload)
    } else {
        Err(Violation::Payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_cut_into_namespace_ack_and_payload() {
        assert_eq!(
            Packet::decode("2/admin,12[\"a\",1]"),
            Ok(Packet::Event {
                namespace: "/admin",
                ack: AckId::new(12),
                payload: "[\"a\",1]"
            })
        );
    }

    #[test]
    fn the_root_namespace_may_be_written_or_left_out() {
        let left_out = Packet::decode("2[\"a\"]").unwrap();
        assert_eq!(Packet::decode("2/,[\"a\"]"), Ok(left_out));
        assert_eq!(left_out.encode(), "2[\"a\"]");
    }

    #[test]
    fn a_namespace_may_end_the_packet_with_or_without_comma() {
        let left = Packet::Disconnect {
            namespace: "/admin",
        };
        assert_eq!(Packet::decode("1/admin"), Ok(left));
        assert_eq!(Packet::decode("1/admin,"), Ok(left));
    }

    #[test]
    fn numbers_in_front_are_bounded() {
        let longest = "9".repeat(ACK_ID_DIGITS_MAX);
        assert!(Packet::decode(&format!("2{longest}[\"a\"]")).is_ok());
        assert_eq!(
            Packet::decode(&format!("29{longest}[\"a\"]")),
            Err(Violation::AckId)
        );
        assert!(Packet::decode("510-[\"a\"]").is_ok());
        for text in [
            "511-[\"a\"]",
            "50-[\"a\"]",
            "5-[\"a\"]",
            "5001-[\"a\"]",
            "52[\"a\"]",
            "5",
        ] {
            assert_eq!(Packet::decode(text), Err(Violation::Attachments), "{text}");
        }
        assert_eq!(AckId::new(10_u64.pow(16)), None);
        assert_eq!(AckId::new(0).map(AckId::as_u64), Some(0));
    }

    #[test]
    fn a_namespace_is_bounded() {
        let fits = format!("1/{}", "n".repeat(NAMESPACE_BYTES_MAX - 1));
        assert!(Packet::decode(&fits).is_ok());
        assert_eq!(
            Packet::decode(&format!("{fits}n")),
            Err(Violation::Namespace)
        );
    }

    #[test]
    fn a_payload_of_the_wrong_kind_is_refused() {
        for text in [
            "0[]",
            "0null",
            "1{}",
            "2",
            "2{}",
            "2 [\"a\"]",
            "31{}",
            "4",
            "51-{}",
            "61-1",
        ] {
            assert_eq!(Packet::decode(text), Err(Violation::Payload), "{text}");
        }
    }

    #[test]
    fn an_ack_id_stands_where_it_belongs() {
        for text in ["01{}", "11", "3[]", "41{}", "61-[]"] {
            assert_eq!(Packet::decode(text), Err(Violation::AckId), "{text}");
        }
    }

    #[test]
    fn unknown_types_are_refused() {
        for text in ["", "7", "9[]", "x", "\u{c774}"] {
            assert_eq!(Packet::decode(text), Err(Violation::SocketType), "{text}");
        }
    }
}
