//! Every Redis key and channel name. A room's keys and channel share its slot's hash tag, a user's
//! keys and channel share theirs, so whatever belongs together is reached by one call on one node.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `{tag}:room:<room>` | hash | the room's record |
//! | `{tag}:log:<room>` | stream | its messages |
//! | `{tag}:members:<room>` | hash | user -> user object as clients see it |
//! | `{tag}:seats:<room>` | hash | user -> gateways that hold a socket of the user in the room |
//! | `{tag}:admitted:<room>` | set | users who passed the room's password |
//! | `{tag}:reads:<room>` | hash | user, or `~` and user -> runs of message numbers read |
//! | `{tag}:reactions:<room>` | hash | message number -> reactions |
//! | `{tag}:changes:<room>` | stream | reactions and read marks of late, for whoever was away |
//! | `{tag}:held:<gateway>` | set | `<room> <user>` seats of one gateway in this slot |
//! | `{tag}:user:<user>` | hash | the user's record |
//! | `{tag}:session:<user>` | hash | the user's one session |
//! | `{tag}:connections:<user>` | hash | pid -> the rooms that a connection had |
//! | `{tag}:file:<file>` | hash | a file's metadata |
//! | `{tag}:upload:<file>` | string | what a presigned upload was promised to be, JSON; expires |
//! | `{tag}:uploaded:<file>` | string | ETag of the object that completes it; expires |
//! | `{tag}:confirmed` | string | empty: written to learn whether replicas keep up; expires |
//! | `email:<e-mail>` | string | the user who registered it |
//! | `{rooms}:by-creation` | sorted set | every room by its creation time in ms |
//! | `{gateways}:leases`, `{gateways}:reaping` | sorted set | gateway -> end of lease or claim, in ms |
//! | `{gateways}:slots:<gateway>` | set | slots in which the gateway may hold seats |
//!
//! `<room>` is the first 12 digits of a room's id. Channels: `{tag}:rooms`, `{tag}:users`,
//! `{lobby}:lobby`.

use crate::{
    id::{FileId, GatewayId, RoomId, UserId},
    slot::Slot,
};

macro_rules! room_keys {
    ($($(#[$doc:meta])* $name:ident = $kind:literal;)+) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(room: RoomId) -> String {
            format!(concat!("{{{}}}:", $kind, ":{}"), room.slot().tag(), room.prefix())
        }
    )+};
}

room_keys! {
    /// The room's record, see [`super::record::room`].
    room = "room";
    /// The room's messages.
    log = "log";
    /// The room's participants: user id to user object.
    members = "members";
    /// Which gateways hold a socket of a user in the room.
    seats = "seats";
    /// Users who once passed the room's password, and its creator.
    admitted = "admitted";
    /// What each member has read.
    reads = "reads";
    /// Reactions by message number.
    reactions = "reactions";
    /// Reactions and read marks in the order in which they came.
    changes = "changes";
}

macro_rules! user_keys {
    ($($(#[$doc:meta])* $name:ident = $kind:literal;)+) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(user: UserId) -> String {
            format!(concat!("{{{}}}:", $kind, ":{}"), user.slot().tag(), user)
        }
    )+};
}

user_keys! {
    /// The user's record, see [`super::record::user`].
    user = "user";
    /// The user's one session, see [`super::record::session`].
    session = "session";
    /// The rooms of the user's connections.
    connections = "connections";
}

macro_rules! file_keys {
    ($($(#[$doc:meta])* $name:ident = $kind:literal;)+) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(file: FileId) -> String {
            format!(concat!("{{{}}}:", $kind, ":{}"), file.slot().tag(), file)
        }
    )+};
}

file_keys! {
    /// The metadata of a file, see [`super::record::file`].
    file = "file";
    /// A presigned upload that is not completed yet.
    upload = "upload";
    /// Which object completes a presigned upload.
    uploaded = "uploaded";
}

/// The user who registered an e-mail address (lower case).
#[must_use]
pub fn email(address: &str) -> String {
    format!("email:{address}")
}

/// Every room, by creation time in milliseconds.
pub const ROOMS_BY_CREATION: &str = "{rooms}:by-creation";

/// Seats of one gateway in one slot.
#[must_use]
pub fn held(slot: Slot, gateway: GatewayId) -> String {
    format!("{{{}}}:held:{gateway}", slot.tag())
}

/// Written to learn whether the replicas of a slot's master have what came before.
#[must_use]
pub fn confirmed(slot: Slot) -> String {
    format!("{{{}}}:confirmed", slot.tag())
}

/// End of every living gateway's lease.
pub const GATEWAY_LEASES: &str = "{gateways}:leases";

/// Dead gateways, with the end of their reaper's claim.
pub const GATEWAYS_REAPING: &str = "{gateways}:reaping";

/// Slots in which a gateway may hold seats.
#[must_use]
pub fn gateway_slots(gateway: GatewayId) -> String {
    format!("{{gateways}}:slots:{gateway}")
}

/// A sharded pub/sub channel (`SSUBSCRIBE`, `SPUBLISH`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// What happens in the rooms of a slot.
    Rooms(Slot),
    /// Control messages for the users of a slot.
    Users(Slot),
    /// What every socket hears.
    Lobby,
}

const LOBBY: &str = "{lobby}:lobby";

impl Channel {
    /// The slot whose nodes carry the channel.
    #[must_use]
    pub fn slot(self) -> Slot {
        match self {
            Self::Rooms(slot) | Self::Users(slot) => slot,
            Self::Lobby => Slot::of_key(LOBBY.as_bytes()),
        }
    }

    /// Reads a channel's name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        if name == LOBBY {
            return Some(Self::Lobby);
        }
        let (tag, kind) = name.strip_prefix('{')?.split_once("}:")?;
        let slot = Slot::of_key(tag.as_bytes());
        match kind {
            _ if slot.tag() != tag => None,
            "rooms" => Some(Self::Rooms(slot)),
            "users" => Some(Self::Users(slot)),
            _ => None,
        }
    }
}

impl std::fmt::Display for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rooms(slot) => write!(f, "{{{}}}:rooms", slot.tag()),
            Self::Users(slot) => write!(f, "{{{}}}:users", slot.tag()),
            Self::Lobby => f.write_str(LOBBY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_room_lie_in_its_slot_with_its_channel() {
        let id = RoomId::new(Slot::new(5461).unwrap(), 42);
        let gateway = GatewayId::new(1);
        let keys = [
            room(id),
            log(id),
            members(id),
            seats(id),
            admitted(id),
            reads(id),
        ];
        for key in keys
            .iter()
            .chain([&reactions(id), &changes(id), &held(id.slot(), gateway)])
        {
            assert_eq!(Slot::of_key(key.as_bytes()), id.slot(), "{key}");
        }
        assert_eq!(Channel::Rooms(id.slot()).slot(), id.slot());
        assert_eq!(
            Slot::of_key(Channel::Rooms(id.slot()).to_string().as_bytes()),
            id.slot()
        );
    }

    #[test]
    fn keys_of_a_user_lie_in_its_slot_with_its_channel() {
        let id = UserId::new(Slot::new(16_383).unwrap(), 42);
        for key in [
            user(id),
            session(id),
            connections(id),
            Channel::Users(id.slot()).to_string(),
        ] {
            assert_eq!(Slot::of_key(key.as_bytes()), id.slot(), "{key}");
        }
    }

    #[test]
    fn channel_names_parse_back() {
        let slot = Slot::new(77).unwrap();
        for channel in [Channel::Rooms(slot), Channel::Users(slot), Channel::Lobby] {
            assert_eq!(Channel::parse(&channel.to_string()), Some(channel));
        }
        for name in ["", "{a}", "{a}:other", "{zzzzzz}:rooms", "lobby"] {
            assert_eq!(Channel::parse(name), None, "{name}");
        }
    }

    #[test]
    fn gateway_keys_share_a_slot() {
        let slots = [
            GATEWAY_LEASES,
            GATEWAYS_REAPING,
            &gateway_slots(GatewayId::new(7)),
        ]
        .map(|key| Slot::of_key(key.as_bytes()));
        assert!(slots.iter().all(|slot| *slot == slots[0]));
    }
}
