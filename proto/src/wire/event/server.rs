//! What a server tells a client.
//!
//! Pieces that other processes stored as JSON (users, messages, rooms) are put together as text:
//! they are not parsed to be written again. Members without a value are left out, never null.

use serde::Serialize;

use crate::id::RoomId;
use crate::wire::json;
use crate::wire::offset::{Cursor, write_offset};
use crate::wire::socketio::{AckId, Packet, ROOT};

/// `message`, to everybody in the room; its payload is a stored message.
pub const MESSAGE: &str = "message";
/// `messageLoadStart`, without payload, before a page of history.
pub const MESSAGE_LOAD_START: &str = "messageLoadStart";
/// `roomCreated`, to every connection; its payload is a room.
pub const ROOM_CREATED: &str = "roomCreated";
/// `roomUpdated`, to everybody in the room; its payload is the room.
pub const ROOM_UPDATED: &str = "roomUpdated";

/// The frame of an event with one argument: `42["name",payload]`.
///
/// The payload goes out as it is: it must be JSON.
#[must_use]
pub fn event_packet(name: &str, payload_json: &str) -> String {
    frame(None, &["[", &json(&name), ",", payload_json, "]"])
}

/// The same event with an offset as its last argument: `42["name",payload,"offset"]`. A client that
/// reconnects says the last one it saw.
#[must_use]
pub fn with_offset(event_packet: &str, rooms: &[(RoomId, Cursor)]) -> String {
    let mut packet = String::with_capacity(event_packet.len() + 3 + 64 * rooms.len());
    packet.push_str(event_packet.strip_suffix(']').unwrap_or(event_packet));
    packet.push_str(",\"");
    let _ = write_offset(rooms, &mut packet); // a String takes everything
    packet.push_str("\"]");
    packet
}

/// The frame of an event without argument: `42["name"]`.
#[must_use]
pub fn signal_packet(name: &str) -> String {
    frame(None, &["[", &json(&name), "]"])
}

/// The frame that answers an event: `43<ack>[payload]`, or `43<ack>[]` without payload.
#[must_use]
pub fn ack_packet(ack: AckId, payload_json: Option<&str>) -> String {
    frame(Some(ack), &["[", payload_json.unwrap_or_default(), "]"])
}

fn frame(answered: Option<AckId>, payload: &[&str]) -> String {
    let payload = payload.concat();
    match answered {
        Some(ack) => Packet::Ack {
            namespace: ROOT,
            ack,
            payload: &payload,
        }
        .encode_frame(),
        None => Packet::Event {
            namespace: ROOT,
            ack: None,
            payload: &payload,
        }
        .encode_frame(),
    }
}

/// A payload that belongs to one event.
pub trait ServerEvent {
    /// The event's name.
    const NAME: &'static str;

    /// The payload.
    #[must_use]
    fn json(&self) -> String;

    /// The event as the content of a text frame.
    #[must_use]
    fn packet(&self) -> String {
        event_packet(Self::NAME, &self.json())
    }
}

/// Makes a serializable type the payload of the event with this name.
macro_rules! server_event {
    ($name:literal, $payload:ident $(, $bound:ident)?) => {
        impl<$($bound: Serialize)?> ServerEvent for $payload<'_ $(, $bound)?> {
            const NAME: &'static str = $name;

            fn json(&self) -> String {
                json(self)
            }
        }
    };
}

/// A user inside other payloads, under both of the keys front-ends read: `_id` and `id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User<'a> {
    /// User id.
    pub id: &'a str,
    /// Name shown.
    pub name: &'a str,
    /// E-mail address.
    pub email: &'a str,
    /// Path of the profile image; empty without one.
    pub profile_image: &'a str,
}

impl Serialize for User<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Members<'a> {
            #[serde(rename = "_id")]
            old_id: &'a str,
            id: &'a str,
            name: &'a str,
            email: &'a str,
            profile_image: &'a str,
        }
        let Self {
            id,
            name,
            email,
            profile_image,
        } = *self;
        Members {
            old_id: id,
            id,
            name,
            email,
            profile_image,
        }
        .serialize(serializer)
    }
}

impl User<'_> {
    /// The user as JSON, a piece for [`ParticipantsUpdate`] and [`RoomState`].
    #[must_use]
    pub fn json(&self) -> String {
        json(self)
    }
}

/// `joinRoomSuccess`, the one answer to `joinRoom`.
#[derive(Clone, Copy, Debug)]
pub struct JoinRoomSuccess<'a, S> {
    /// Room entered.
    pub room_id: &'a str,
    /// The room as it is; `None` if the user was in it already, then the answer is the id alone.
    pub state: Option<RoomState<'a, S>>,
}

/// What somebody who enters a room sees.
#[derive(Clone, Copy, Debug)]
pub struct RoomState<'a, S> {
    /// JSON of each participant.
    pub participants: &'a [S],
    /// JSON of the newest messages, ascending.
    pub messages: &'a [S],
    /// Whether there are older messages.
    pub has_more: bool,
}

impl<S: AsRef<str>> ServerEvent for JoinRoomSuccess<'_, S> {
    const NAME: &'static str = "joinRoomSuccess";

    fn json(&self) -> String {
        let room_id = json(&self.room_id);
        let Some(RoomState {
            participants,
            messages,
            has_more,
        }) = &self.state
        else {
            return format!(r#"{{"roomId":{room_id}}}"#);
        };
        let participants = json_array(participants);
        let messages = json_array(messages);
        format!(
            r#"{{"roomId":{room_id},"participants":{participants},"messages":{messages},"hasMore":{has_more},"activeStreams":[]}}"#
        )
    }
}

/// `participantsUpdate`, to everybody in the room.
#[derive(Clone, Copy, Debug)]
pub struct ParticipantsUpdate<'a, S> {
    /// JSON of each participant.
    pub participants: &'a [S],
}

impl<S: AsRef<str>> ServerEvent for ParticipantsUpdate<'_, S> {
    const NAME: &'static str = "participantsUpdate";

    fn json(&self) -> String {
        json_array(self.participants)
    }
}

/// `previousMessagesLoaded`, the answer to `fetchPreviousMessages`.
#[derive(Clone, Copy, Debug)]
pub struct PreviousMessagesLoaded<'a, S> {
    /// JSON of each message, ascending.
    pub messages: &'a [S],
    /// Whether there are older messages.
    pub has_more: bool,
}

impl<S: AsRef<str>> ServerEvent for PreviousMessagesLoaded<'_, S> {
    const NAME: &'static str = "previousMessagesLoaded";

    fn json(&self) -> String {
        let messages = json_array(self.messages);
        format!(r#"{{"messages":{messages},"hasMore":{}}}"#, self.has_more)
    }
}

fn json_array<S: AsRef<str>>(items: &[S]) -> String {
    let bytes: usize = items.iter().map(|item| item.as_ref().len() + 1).sum();
    let mut text = String::with_capacity(bytes + 2);
    text.push('[');
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            text.push(',');
        }
        text.push_str(item.as_ref());
    }
    text.push(']');
    text
}

/// `joinRoomError`, to the one who asked.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct JoinRoomError<'a> {
    /// Text shown.
    pub message: &'a str,
    /// Cause for programs; the front-ends read none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'a str>,
}
server_event!("joinRoomError", JoinRoomError);

/// `userLeft`, to everybody still in the room.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(into = "UserLeftMembers<'_>")]
pub struct UserLeft<'a> {
    /// Who left.
    pub user_id: &'a str,
    /// Their name. On the wire: `userName` and `name`.
    pub name: &'a str,
}
server_event!("userLeft", UserLeft);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UserLeftMembers<'a> {
    user_id: &'a str,
    user_name: &'a str,
    name: &'a str,
}

impl<'a> From<UserLeft<'a>> for UserLeftMembers<'a> {
    fn from(UserLeft { user_id, name }: UserLeft<'a>) -> Self {
        Self {
            user_id,
            user_name: name,
            name,
        }
    }
}

/// `messagesRead`, to everybody in the room, the reader included.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MessagesRead<'a, S> {
    /// Who read.
    pub user_id: &'a str,
    /// What they read.
    pub message_ids: &'a [S],
}
server_event!("messagesRead", MessagesRead, S);

/// `messageReactionUpdate`, to everybody in the room.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageReactionUpdate<'a, R> {
    /// Message reacted to.
    pub message_id: &'a str,
    /// All its reactions: a map from emoji to the list of user ids.
    pub reactions: R,
}
server_event!("messageReactionUpdate", MessageReactionUpdate, R);

/// Code of an [`ErrorEvent`] or a [`MessageRefused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// The message cannot be taken.
    MessageError,
    /// The login behind the connection is over.
    SessionExpired,
    /// Too many messages.
    RateLimitExceeded,
    /// The message holds a banned word. The only code that leaves a front-end's room page open.
    MessageRejected,
    /// A page of history cannot be had.
    LoadError,
    /// The connection has no user.
    Unauthorized,
}

/// `error`, to the one whose event failed. Front-ends replace the room's page by its text, unless
/// the code is [`ErrorCode::MessageRejected`].
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorEvent<'a> {
    /// Cause, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    /// Text shown.
    pub message: &'a str,
    /// When to try again, in seconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u32>,
}
server_event!("error", ErrorEvent);

/// `duplicate_login`, to the connection of the older session.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "type", rename = "new_login_attempt", rename_all = "camelCase")]
pub struct DuplicateLogin<'a> {
    /// User agent of the new connection; must not be empty.
    pub device_info: &'a str,
    /// Address of the new connection; must not be empty.
    pub ip_address: &'a str,
    /// Moment of the login, in milliseconds since the Unix epoch.
    pub timestamp: u64,
}
server_event!("duplicate_login", DuplicateLogin);

/// Reason of a [`SessionEnded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionEndedReason {
    /// The user logged in elsewhere.
    DuplicateLogin,
    /// The user logged out.
    Logout,
    /// The user asked for it with `force_login`.
    ForceLogout,
}

/// `session_ended`, to the connections of a session that is over.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SessionEnded<'a> {
    /// Why.
    pub reason: SessionEndedReason,
    /// Text shown.
    pub message: &'a str,
}
server_event!("session_ended", SessionEnded);

/// Answer to a `chatMessage` that is in the room's log.
#[derive(Clone, Copy, Debug)]
pub struct MessageAccepted<'a> {
    /// Id of the message.
    pub message_id: &'a str,
    /// Its entry in the room's log, `<epoch>-<n>`.
    pub id: &'a str,
    /// Its moment, in milliseconds since the Unix epoch.
    pub timestamp: u64,
}

impl MessageAccepted<'_> {
    /// The frame that answers the event with this ack id.
    #[must_use]
    pub fn packet(&self, ack: AckId) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Members<'a> {
            ok: bool,
            message_id: &'a str,
            id: &'a str,
            timestamp: u64,
        }
        let Self {
            message_id,
            id,
            timestamp,
        } = *self;
        ack_packet(
            ack,
            Some(&json(&Members {
                ok: true,
                message_id,
                id,
                timestamp,
            })),
        )
    }
}

/// Answer to a `chatMessage` that was not taken.
#[derive(Clone, Copy, Debug)]
pub struct MessageRefused<'a> {
    /// Cause, for programs.
    pub code: ErrorCode,
    /// Text shown.
    pub message: &'a str,
    /// When to try again, in seconds from now.
    pub retry_after: Option<u32>,
}

impl MessageRefused<'_> {
    /// The frame that answers the event with this ack id.
    #[must_use]
    pub fn packet(&self, ack: AckId) -> String {
        #[derive(Serialize)]
        struct Members<'a> {
            ok: bool,
            #[serde(flatten)]
            refusal: ErrorEvent<'a>,
        }
        let Self {
            code,
            message,
            retry_after,
        } = *self;
        let refusal = ErrorEvent {
            code: Some(code),
            message,
            retry_after,
        };
        ack_packet(ack, Some(&json(&Members { ok: false, refusal })))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn packets_are_written_as_the_reference_writes_them() {
        let ack = AckId::new(7).unwrap();
        assert_eq!(
            event_packet(MESSAGE, "{\"a\":1}"),
            r#"42["message",{"a":1}]"#
        );
        assert_eq!(
            signal_packet(MESSAGE_LOAD_START),
            r#"42["messageLoadStart"]"#
        );
        assert_eq!(ack_packet(ack, None), "437[]");
        assert_eq!(ack_packet(ack, Some("{}")), "437[{}]");
    }

    #[test]
    fn a_join_is_answered_with_the_room_or_its_id_alone() {
        let user = User {
            id: "u1",
            name: "\u{d64d}",
            email: "a@b.c",
            profile_image: "",
        }
        .json();
        assert_eq!(
            user,
            "{\"_id\":\"u1\",\"id\":\"u1\",\"name\":\"\u{d64d}\",\"email\":\"a@b.c\",\"profileImage\":\"\"}"
        );
        let state = RoomState {
            participants: &[&*user],
            messages: &["{}", "{}"],
            has_more: true,
        };
        assert_eq!(
            JoinRoomSuccess {
                room_id: "r1",
                state: Some(state)
            }
            .packet(),
            format!(
                r#"42["joinRoomSuccess",{{"roomId":"r1","participants":[{user}],"messages":[{{}},{{}}],"hasMore":true,"activeStreams":[]}}]"#
            )
        );
        assert_eq!(
            JoinRoomSuccess::<&str> {
                room_id: "r1",
                state: None
            }
            .packet(),
            r#"42["joinRoomSuccess",{"roomId":"r1"}]"#
        );
    }

    #[test]
    fn room_events_have_the_members_front_ends_read() {
        let empty: &[&str] = &[];
        assert_eq!(
            ParticipantsUpdate {
                participants: &["{}", "{}"]
            }
            .packet(),
            r#"42["participantsUpdate",[{},{}]]"#
        );
        assert_eq!(
            PreviousMessagesLoaded {
                messages: empty,
                has_more: false
            }
            .packet(),
            r#"42["previousMessagesLoaded",{"messages":[],"hasMore":false}]"#
        );
        assert_eq!(
            UserLeft {
                user_id: "u1",
                name: "n"
            }
            .packet(),
            r#"42["userLeft",{"userId":"u1","userName":"n","name":"n"}]"#
        );
        assert_eq!(
            MessagesRead {
                user_id: "u1",
                message_ids: &["m1", "m2"]
            }
            .packet(),
            r#"42["messagesRead",{"userId":"u1","messageIds":["m1","m2"]}]"#
        );
        let reactions = BTreeMap::from([("+", vec!["u1"])]);
        assert_eq!(
            MessageReactionUpdate {
                message_id: "m1",
                reactions
            }
            .packet(),
            r#"42["messageReactionUpdate",{"messageId":"m1","reactions":{"+":["u1"]}}]"#
        );
    }

    #[test]
    fn errors_leave_out_what_they_do_not_have() {
        assert_eq!(
            ErrorEvent {
                code: None,
                message: "m",
                retry_after: None
            }
            .packet(),
            r#"42["error",{"message":"m"}]"#
        );
        let limited = Some(ErrorCode::RateLimitExceeded);
        assert_eq!(
            ErrorEvent {
                code: limited,
                message: "m",
                retry_after: Some(3)
            }
            .packet(),
            r#"42["error",{"code":"RATE_LIMIT_EXCEEDED","message":"m","retryAfter":3}]"#
        );
        assert_eq!(
            JoinRoomError {
                message: "m",
                code: None
            }
            .packet(),
            r#"42["joinRoomError",{"message":"m"}]"#
        );
    }

    #[test]
    fn session_events_carry_their_reason() {
        assert_eq!(
            DuplicateLogin {
                device_info: "d",
                ip_address: "i",
                timestamp: 5
            }
            .packet(),
            r#"42["duplicate_login",{"type":"new_login_attempt","deviceInfo":"d","ipAddress":"i","timestamp":5}]"#
        );
        let reason = SessionEndedReason::DuplicateLogin;
        assert_eq!(
            SessionEnded {
                reason,
                message: "m"
            }
            .packet(),
            r#"42["session_ended",{"reason":"duplicate_login","message":"m"}]"#
        );
    }

    #[test]
    fn a_chat_message_is_answered_with_its_place_in_the_log() {
        let ack = AckId::new(0).unwrap();
        assert_eq!(
            MessageAccepted {
                message_id: "m1",
                id: "5-1",
                timestamp: 9
            }
            .packet(ack),
            r#"430[{"ok":true,"messageId":"m1","id":"5-1","timestamp":9}]"#
        );
        let code = ErrorCode::MessageRejected;
        assert_eq!(
            MessageRefused {
                code,
                message: "m",
                retry_after: None
            }
            .packet(ack),
            r#"430[{"ok":false,"code":"MESSAGE_REJECTED","message":"m"}]"#
        );
    }
}
