//! Whom a call is about.

use slotcast_proto::{
    id::{RoomId, UserId},
    schema::{
        bus::{room_unheard, user_unheard},
        key::Channel,
    },
    slot::Slot,
};

/// Whom a call is about: it runs on the master of their slot, and those who listen for them hear of
/// it even while the slot moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Room(RoomId),
    User(UserId),
    /// Nobody: the call publishes nothing.
    Slot(Slot),
}

impl Subject {
    pub(super) fn slot(self) -> Slot {
        match self {
            Self::Room(room) => room.slot(),
            Self::User(user) => user.slot(),
            Self::Slot(slot) => slot,
        }
    }

    /// The channel of those who listen, and what tells them that they may have missed something.
    pub(super) fn hint(self) -> Option<(String, String)> {
        match self {
            Self::Room(room) => Some((Channel::Rooms(room.slot()).to_string(), room_unheard(room))),
            Self::User(user) => Some((Channel::Users(user.slot()).to_string(), user_unheard(user))),
            Self::Slot(_) => None,
        }
    }
}

impl From<RoomId> for Subject {
    fn from(room: RoomId) -> Self {
        Self::Room(room)
    }
}

impl From<UserId> for Subject {
    fn from(user: UserId) -> Self {
        Self::User(user)
    }
}

impl From<Slot> for Subject {
    fn from(slot: Slot) -> Self {
        Self::Slot(slot)
    }
}
