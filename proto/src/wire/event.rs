//! The chat's events: what a client may ask ([`ClientEvent`]) and what a server tells it
//! ([`ServerEvent`]).

mod client;
mod server;

pub use client::{
    ChatMessage, ClientEvent, Decoded, EventName, FileData, ReactionOp, decode_event,
};
pub use server::{
    DuplicateLogin, ErrorCode, ErrorEvent, JoinRoomError, JoinRoomSuccess, MESSAGE,
    MESSAGE_LOAD_START, MessageAccepted, MessageReactionUpdate, MessageRefused, MessagesRead,
    ParticipantsUpdate, PreviousMessagesLoaded, ROOM_CREATED, ROOM_UPDATED, RoomState, ServerEvent,
    SessionEnded, SessionEndedReason, User, UserLeft, ack_packet, event_packet, signal_packet,
    with_offset,
};
