//! What a client may ask.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::limits::{MARKED_MESSAGES_MAX, REACTION_BYTES_MAX};
use crate::wire::Violation;

/// An event of a client, decoded and bounded, but not yet checked against rooms, rights or rates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// `joinRoom`: enter the room with this id.
    JoinRoom(String),
    /// `leaveRoom`: leave the room with this id.
    LeaveRoom(String),
    /// `chatMessage`; `None` if the payload is missing or null, which has an answer of its own.
    ChatMessage(Option<ChatMessage>),
    /// `fetchPreviousMessages`: a page of history.
    FetchPreviousMessages {
        /// Room to read from.
        room_id: String,
        /// Messages wanted; not yet defaulted or capped.
        limit: Option<i64>,
        /// Only messages before this moment, in milliseconds since the Unix epoch.
        before: Option<i64>,
    },
    /// `markMessagesAsRead`: at most
    /// [`limits::MARKED_MESSAGES_MAX`](crate::limits::MARKED_MESSAGES_MAX) ids, perhaps none.
    MarkMessagesAsRead {
        /// Messages the user has seen.
        message_ids: Vec<String>,
    },
    /// `messageReaction`: put a reaction to a message or take it back.
    MessageReaction {
        /// Message reacted to.
        message_id: String,
        /// The emoji, at most [`limits::REACTION_BYTES_MAX`](crate::limits::REACTION_BYTES_MAX)
        /// bytes.
        reaction: String,
        /// What to do with it.
        op: ReactionOp,
    },
    /// `force_login`: end this connection in favour of another login.
    ForceLogin {
        /// Access token of the same user.
        token: Option<String>,
    },
    /// `ping` of the front-ends' own heartbeat; has no answer.
    Ping,
    /// `joinRoomList`; has no answer, every connection is in the room list.
    JoinRoomList,
    /// Any other event, and every event with binary attachments; has no answer.
    Unknown,
}

/// Payload of `chatMessage`. Every field is what the client sent; defaults and checks are the
/// handler's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatMessage {
    /// Room id.
    pub room: Option<String>,
    /// `text` or `file`; `None` means `text`. On the wire: `type`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Text, or caption of a file.
    pub content: Option<String>,
    /// Old name of `content`, used when that is blank.
    pub msg: Option<String>,
    /// The file of a `file` message.
    pub file_data: Option<FileData>,
    /// Id under which a retry is recognised.
    pub client_message_id: Option<String>,
}

/// The file a `chatMessage` refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct FileData {
    /// File id. On the wire: `_id`.
    #[serde(rename = "_id")]
    pub id: Option<String>,
}

/// What a `messageReaction` does. On the wire: `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReactionOp {
    /// `add`.
    Add,
    /// `remove`.
    Remove,
    /// Anything else, or nothing; has an error of its own as answer.
    Other,
}

/// Name of an event this server knows, a fixed small set fit for logs and metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventName {
    /// `joinRoom`.
    JoinRoom,
    /// `leaveRoom`.
    LeaveRoom,
    /// `chatMessage`.
    ChatMessage,
    /// `fetchPreviousMessages`.
    FetchPreviousMessages,
    /// `markMessagesAsRead`.
    MarkMessagesAsRead,
    /// `messageReaction`.
    MessageReaction,
    /// `force_login`.
    ForceLogin,
    /// `ping`.
    Ping,
    /// `joinRoomList`.
    JoinRoomList,
    /// Every other name.
    Unknown,
}

/// Outcome of decoding an event whose packet was well-formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// An event to handle.
    Event(ClientEvent),
    /// The name is known but its payload is not what that event needs: to be dropped in silence.
    Undecodable(EventName),
}

impl EventName {
    /// The name on the wire; `unknown` for [`EventName::Unknown`].
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JoinRoom => "joinRoom",
            Self::LeaveRoom => "leaveRoom",
            Self::ChatMessage => "chatMessage",
            Self::FetchPreviousMessages => "fetchPreviousMessages",
            Self::MarkMessagesAsRead => "markMessagesAsRead",
            Self::MessageReaction => "messageReaction",
            Self::ForceLogin => "force_login",
            Self::Ping => "ping",
            Self::JoinRoomList => "joinRoomList",
            Self::Unknown => "unknown",
        }
    }
}

impl ClientEvent {
    /// The event's name.
    #[must_use]
    pub const fn name(&self) -> EventName {
        match self {
            Self::JoinRoom(_) => EventName::JoinRoom,
            Self::LeaveRoom(_) => EventName::LeaveRoom,
            Self::ChatMessage(_) => EventName::ChatMessage,
            Self::FetchPreviousMessages { .. } => EventName::FetchPreviousMessages,
            Self::MarkMessagesAsRead { .. } => EventName::MarkMessagesAsRead,
            Self::MessageReaction { .. } => EventName::MessageReaction,
            Self::ForceLogin { .. } => EventName::ForceLogin,
            Self::Ping => EventName::Ping,
            Self::JoinRoomList => EventName::JoinRoomList,
            Self::Unknown => EventName::Unknown,
        }
    }
}

/// Names Socket.IO keeps for itself (`RESERVED_EVENTS` of the reference parser).
const RESERVED_NAMES: [&str; 6] = [
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
];

/// Decodes the payload of an EVENT packet: a JSON array of the event's name and its arguments.
///
/// # Errors
/// [`Violation::Payload`] if `payload` is no JSON array that starts with a name (a string, or as in
/// the reference a number), [`Violation::ReservedEvent`] if the name belongs to Socket.IO.
pub fn decode_event(payload: &str) -> Result<Decoded, Violation> {
    let Arguments { name, first } =
        serde_json::from_str(payload).map_err(|_| Violation::Payload)?;
    let name = decode_name(name)?;
    let event = match name {
        EventName::JoinRoom => decode_text(first).map(ClientEvent::JoinRoom),
        EventName::LeaveRoom => decode_text(first).map(ClientEvent::LeaveRoom),
        EventName::ChatMessage => decode_chat_message(first),
        EventName::FetchPreviousMessages => decode_fetch(first),
        EventName::MarkMessagesAsRead => decode_marks(first),
        EventName::MessageReaction => decode_reaction(first),
        EventName::ForceLogin => {
            decode_object(first).map(|ForceLogin { token }| ClientEvent::ForceLogin { token })
        }
        EventName::Ping => Some(ClientEvent::Ping),
        EventName::JoinRoomList => Some(ClientEvent::JoinRoomList),
        EventName::Unknown => Some(ClientEvent::Unknown),
    };
    Ok(event.map_or(Decoded::Undecodable(name), Decoded::Event))
}

fn decode_name(raw: &RawValue) -> Result<EventName, Violation> {
    if raw
        .get()
        .starts_with(|first: char| first == '-' || first.is_ascii_digit())
    {
        return Ok(EventName::Unknown);
    }
    if !raw.get().starts_with('"') {
        return Err(Violation::Payload);
    }
    // A name with half a surrogate pair is JSON, and a name nobody listens to.
    let Ok(Text(name)) = serde_json::from_str(raw.get()) else {
        return Ok(EventName::Unknown);
    };
    Ok(match &*name {
        "joinRoom" => EventName::JoinRoom,
        "leaveRoom" => EventName::LeaveRoom,
        "chatMessage" => EventName::ChatMessage,
        "fetchPreviousMessages" => EventName::FetchPreviousMessages,
        "markMessagesAsRead" => EventName::MarkMessagesAsRead,
        "messageReaction" => EventName::MessageReaction,
        "force_login" => EventName::ForceLogin,
        "ping" => EventName::Ping,
        "joinRoomList" => EventName::JoinRoomList,
        reserved if RESERVED_NAMES.contains(&reserved) => return Err(Violation::ReservedEvent),
        _ => EventName::Unknown,
    })
}

fn decode_text(first: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(first?.get()).ok()
}

/// Decodes an object; a struct's derived decoder alone would take an array, too.
fn decode_object<'a, T: Deserialize<'a>>(first: Option<&'a RawValue>) -> Option<T> {
    let json = first?.get();
    if json.starts_with('{') {
        serde_json::from_str(json).ok()
    } else {
        None
    }
}

fn decode_chat_message(first: Option<&RawValue>) -> Option<ClientEvent> {
    match first.map(RawValue::get) {
        None | Some("null") => Some(ClientEvent::ChatMessage(None)),
        Some(_) => decode_object(first).map(|message| ClientEvent::ChatMessage(Some(message))),
    }
}

fn decode_fetch(first: Option<&RawValue>) -> Option<ClientEvent> {
    let Fetch {
        room_id,
        limit,
        before,
    } = decode_object(first)?;
    Some(ClientEvent::FetchPreviousMessages {
        room_id,
        limit: limit.0,
        before: before.0,
    })
}

fn decode_marks(first: Option<&RawValue>) -> Option<ClientEvent> {
    let Marks { message_ids } = decode_object(first)?;
    Some(ClientEvent::MarkMessagesAsRead {
        message_ids: message_ids.0,
    })
}

fn decode_reaction(first: Option<&RawValue>) -> Option<ClientEvent> {
    let Reaction {
        message_id,
        reaction,
        emoji,
        op,
    } = decode_object(first)?;
    let reaction = reaction.or(emoji)?;
    if reaction.len() > REACTION_BYTES_MAX {
        return None;
    }
    let op = match op.as_deref() {
        Some("add") => ReactionOp::Add,
        Some("remove") => ReactionOp::Remove,
        Some(_) | None => ReactionOp::Other,
    };
    Some(ClientEvent::MessageReaction {
        message_id,
        reaction,
        op,
    })
}

/// The array of an event's packet: its name and first argument. Further arguments are only checked
/// to be JSON.
struct Arguments<'a> {
    name: &'a RawValue,
    first: Option<&'a RawValue>,
}

impl<'de> Deserialize<'de> for Arguments<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ArgumentsVisitor)
    }
}

struct ArgumentsVisitor;

impl<'de> Visitor<'de> for ArgumentsVisitor {
    type Value = Arguments<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of a name and arguments")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let name = sequence
            .next_element()?
            .ok_or_else(|| Error::invalid_length(0, &self))?;
        let first = sequence.next_element()?;
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Arguments { name, first })
    }
}

/// A string that is copied only if it holds escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fetch {
    room_id: String,
    #[serde(default)]
    limit: Count,
    #[serde(default)]
    before: Moment,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marks {
    #[serde(default)]
    message_ids: MessageIds,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reaction {
    message_id: String,
    reaction: Option<String>,
    emoji: Option<String>,
    #[serde(rename = "type")]
    op: Option<String>,
}

#[derive(Deserialize)]
struct ForceLogin {
    token: Option<String>,
}

/// A whole number: a number, a numeric string, or nothing (null, a blank string).
#[derive(Default)]
struct Count(Option<i64>);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parse_text = |text: &str| text.parse().ok();
        deserializer
            .deserialize_any(NumberVisitor { parse_text })
            .map(Self)
    }
}

/// Milliseconds since the Unix epoch: like [`Count`], or an ISO 8601 date and time with its zone
/// (RFC 3339).
#[derive(Default)]
struct Moment(Option<i64>);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parse_text = |text: &str| text.parse().ok().or_else(|| parse_timestamp_ms(text));
        deserializer
            .deserialize_any(NumberVisitor { parse_text })
            .map(Self)
    }
}

fn parse_timestamp_ms(text: &str) -> Option<i64> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000_000)).ok()
}

struct NumberVisitor<F> {
    parse_text: F,
}

impl<F: Fn(&str) -> Option<i64>> Visitor<'_> for NumberVisitor<F> {
    type Value = Option<i64>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a number, a string that holds one, or null")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Some(i64::try_from(number).unwrap_or(i64::MAX)))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "fractions are cut off, the rest saturates"
        )]
        Ok(Some(number as i64))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        (self.parse_text)(text)
            .map(Some)
            .ok_or_else(|| E::custom("not a number"))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// At most [`MARKED_MESSAGES_MAX`] strings, or null.
#[derive(Default)]
struct MessageIds(Vec<String>);

impl<'de> Deserialize<'de> for MessageIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MessageIdsVisitor).map(Self)
    }
}

struct MessageIdsVisitor;

impl<'de> Visitor<'de> for MessageIdsVisitor {
    type Value = Vec<String>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "at most {MARKED_MESSAGES_MAX} message ids")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut ids = Vec::new();
        while let Some(id) = sequence.next_element()? {
            if ids.len() == MARKED_MESSAGES_MAX {
                return Err(Error::invalid_length(ids.len() + 1, &self));
            }
            ids.push(id);
        }
        Ok(ids)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_events_take_a_string_and_nothing_else() {
        assert_eq!(
            event(r#"["joinRoom","r1"]"#),
            ClientEvent::JoinRoom("r1".into())
        );
        assert_eq!(
            event(r#"["leaveRoom","r1",{"x":[]}]"#),
            ClientEvent::LeaveRoom("r1".into())
        );
        for payload in [
            r#"["joinRoom"]"#,
            r#"["joinRoom",null]"#,
            r#"["joinRoom",{"id":"r1"}]"#,
        ] {
            assert_eq!(
                decode_event(payload),
                undecodable(EventName::JoinRoom),
                "{payload}"
            );
        }
    }

    #[test]
    fn a_chat_message_keeps_what_the_client_sent() {
        let payload = r#"["chatMessage",{"room":"r1","type":"file","content":"a","msg":"b",
            "fileData":{"_id":"f1","size":3},"clientMessageId":"c-1","unknown":{"deep":[1]}}]"#;
        assert_eq!(
            event(payload),
            ClientEvent::ChatMessage(Some(ChatMessage {
                room: Some("r1".into()),
                kind: Some("file".into()),
                content: Some("a".into()),
                msg: Some("b".into()),
                file_data: Some(FileData {
                    id: Some("f1".into())
                }),
                client_message_id: Some("c-1".into()),
            }))
        );
        assert_eq!(
            event(r#"["chatMessage",{"room":null,"fileData":null}]"#),
            ClientEvent::ChatMessage(Some(ChatMessage::default()))
        );
    }

    #[test]
    fn a_missing_chat_message_differs_from_an_undecodable_one() {
        for payload in [r#"["chatMessage"]"#, r#"["chatMessage",null]"#] {
            assert_eq!(event(payload), ClientEvent::ChatMessage(None), "{payload}");
        }
        for argument in [
            r#""text""#,
            "[]",
            "7",
            r#"{"room":7}"#,
            r#"{"content":"\ud800"}"#,
        ] {
            let payload = format!(r#"["chatMessage",{argument}]"#);
            assert_eq!(
                decode_event(&payload),
                undecodable(EventName::ChatMessage),
                "{payload}"
            );
        }
    }

    #[test]
    fn before_is_a_number_a_numeric_string_or_an_iso_date() {
        for (json, expected) in [
            ("1795332990123", Some(1_795_332_990_123)),
            ("1795332990123.9", Some(1_795_332_990_123)),
            (r#"" 1795332990123 ""#, Some(1_795_332_990_123)),
            (r#""2026-11-22T07:36:30.123Z""#, Some(1_795_332_990_123)),
            (
                r#""2026-11-22T16:36:30.123999+09:00""#,
                Some(1_795_332_990_123),
            ),
            (r#""1969-12-31T23:59:59.999Z""#, Some(-1)),
            ("18446744073709551615", Some(i64::MAX)),
            ("null", None),
            (r#""""#, None),
        ] {
            let payload = format!(r#"["fetchPreviousMessages",{{"roomId":"r","before":{json}}}]"#);
            let ClientEvent::FetchPreviousMessages { before, .. } = event(&payload) else {
                panic!("{payload}");
            };
            assert_eq!(before, expected, "{payload}");
        }
    }

    #[test]
    fn a_fetch_without_room_or_with_a_wrong_type_is_undecodable() {
        for argument in [
            r#"{"limit":30}"#,
            r#"{"roomId":"r","limit":"many"}"#,
            r#"{"roomId":"r","limit":true}"#,
            r#"{"roomId":"r","limit":"2026-11-22T07:16:30Z"}"#,
            r#"{"roomId":"r","before":"yesterday"}"#,
            r#"{"roomId":"r","before":{}}"#,
            r#"{"roomId":"r","before":1e999}"#,
        ] {
            let payload = format!(r#"["fetchPreviousMessages",{argument}]"#);
            assert_eq!(
                decode_event(&payload),
                undecodable(EventName::FetchPreviousMessages),
                "{payload}"
            );
        }
        assert_eq!(
            event(r#"["fetchPreviousMessages",{"roomId":"r","limit":"30"}]"#),
            ClientEvent::FetchPreviousMessages {
                room_id: "r".into(),
                limit: Some(30),
                before: None
            }
        );
    }

    #[test]
    fn read_marks_are_bounded_and_may_be_empty() {
        for argument in [
            "{}",
            r#"{"messageIds":null}"#,
            r#"{"messageIds":[],"roomId":"r"}"#,
        ] {
            let payload = format!(r#"["markMessagesAsRead",{argument}]"#);
            assert_eq!(
                event(&payload),
                ClientEvent::MarkMessagesAsRead {
                    message_ids: Vec::new()
                },
                "{payload}"
            );
        }
        let marks = |count| {
            let ids = vec![r#""m""#; count].join(",");
            decode_event(&format!(
                r#"["markMessagesAsRead",{{"messageIds":[{ids}]}}]"#
            ))
        };
        let Ok(Decoded::Event(ClientEvent::MarkMessagesAsRead { message_ids })) =
            marks(MARKED_MESSAGES_MAX)
        else {
            panic!("a full batch");
        };
        assert_eq!(message_ids.len(), MARKED_MESSAGES_MAX);
        assert_eq!(
            marks(MARKED_MESSAGES_MAX + 1),
            undecodable(EventName::MarkMessagesAsRead)
        );
    }

    #[test]
    fn a_reaction_may_be_called_emoji() {
        let heart = |reaction: &str, op| ClientEvent::MessageReaction {
            message_id: "m".into(),
            reaction: reaction.into(),
            op,
        };
        for (rest, expected) in [
            (
                r#""reaction":"+","type":"add""#,
                heart("+", ReactionOp::Add),
            ),
            (
                r#""emoji":"+","type":"remove""#,
                heart("+", ReactionOp::Remove),
            ),
            (
                r#""emoji":"-","reaction":"+","type":"x""#,
                heart("+", ReactionOp::Other),
            ),
            (r#""reaction":"+""#, heart("+", ReactionOp::Other)),
        ] {
            let payload = format!(r#"["messageReaction",{{"messageId":"m",{rest}}}]"#);
            assert_eq!(event(&payload), expected, "{payload}");
        }
        let long = "x".repeat(REACTION_BYTES_MAX + 1);
        let payload = format!(r#"["messageReaction",{{"messageId":"m","reaction":"{long}"}}]"#);
        assert_eq!(
            decode_event(&payload),
            undecodable(EventName::MessageReaction)
        );
    }

    #[test]
    fn events_without_answer_ignore_their_arguments() {
        assert_eq!(event(r#"["ping",null]"#), ClientEvent::Ping);
        assert_eq!(event(r#"["joinRoomList"]"#), ClientEvent::JoinRoomList);
        for payload in [
            r#"["typing",{"a":1}]"#,
            "[7]",
            "[-1.5,2]",
            r#"["\ud800"]"#,
            r#"[""]"#,
        ] {
            assert_eq!(event(payload), ClientEvent::Unknown, "{payload}");
        }
        assert_eq!(
            event(r#"["force_login",{"token":"t"}]"#),
            ClientEvent::ForceLogin {
                token: Some("t".into())
            }
        );
    }

    #[test]
    fn an_escaped_name_is_the_same_name() {
        assert_eq!(event(r#"["pin\u0067"]"#), ClientEvent::Ping);
        assert_eq!(
            decode_event(r#"["\u0063onnect"]"#),
            Err(Violation::ReservedEvent)
        );
    }

    #[test]
    fn what_is_no_event_is_a_violation() {
        for payload in [
            "",
            "[",
            "[]",
            "{}",
            "[null]",
            "[[]]",
            r#"["ping",]"#,
            r#"["ping"]x"#,
        ] {
            assert_eq!(decode_event(payload), Err(Violation::Payload), "{payload}");
        }
        for name in RESERVED_NAMES {
            let payload = format!(r#"["{name}"]"#);
            assert_eq!(
                decode_event(&payload),
                Err(Violation::ReservedEvent),
                "{payload}"
            );
        }
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        let ignored = format!(r#"["chatMessage",{{"room":"r","x":{deep}}},{deep}]"#);
        assert!(matches!(event(&ignored), ClientEvent::ChatMessage(Some(_))));
        let read = format!(r#"["chatMessage",{{"room":{deep}}}]"#);
        assert_eq!(decode_event(&read), undecodable(EventName::ChatMessage));
    }

    fn event(payload: &str) -> ClientEvent {
        match decode_event(payload) {
            Ok(Decoded::Event(event)) => event,
            other => panic!("{payload}: {other:?}"),
        }
    }

    fn undecodable(name: EventName) -> Result<Decoded, Violation> {
        Ok(Decoded::Undecodable(name))
    }
}
