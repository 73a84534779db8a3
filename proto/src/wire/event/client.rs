//! What a client may ask.

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
    /// `markMessagesAsRead`: at most [`limits::MARKED_MESSAGES_MAX`](crate::limits::MARKED_MESSAGES_MAX) ids, perhaps
    /// none.
    MarkMessagesAsRead {
        /// Messages the user has seen.
        message_ids: Vec<String>,
    },
    /// `messageReaction`: put a reaction to a message or take it back.
    MessageReaction {
        /// Message reacted to.
        message_id: String,
        /// The emoji, at most [`limits::REACTION_BYTES_MAX`](crate::limits::REACTION_BYTES_MAX) bytes.
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

/// Payload of `chatMessage`. Every field is what the client sent; defaults and checks are the handler's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatMessage {
    /// Room id.
    pub room: Option<String>,
    /// `text` or `file`; `None` means `text`. On the wire: `type`.
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileData {
    /// File id. On the wire: `_id`.
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

/// Decodes the payload of an EVENT packet: a JSON array of the event's name and its arguments.
///
/// # Errors
/// [`Violation::Payload`] if `payload` is no JSON array that starts with a name, [`Violation::ReservedEvent`] if the
/// name belongs to Socket.IO.
pub fn decode_arguments(payload: &str) -> Result<Decoded, Violation> {
    let _ = payload;
    Err(Violation::Payload)
}
