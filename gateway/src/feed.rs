//! What the members of a room see, as frames: messages and changes, each saying how far it takes
//! whoever has it.

use bytes::Bytes;
use slotcast_proto::{
    id::{RoomId, StreamPosition},
    schema::bus::{Appended, Change, RoomMessage},
    wire::{
        event::{
            MESSAGE, MessageReactionUpdate, MessagesRead, ServerEvent, event_packet, with_offset,
        },
        offset::Cursor,
    },
};

use crate::{
    store::Missed,
    websocket::{append_text_frame, text_of_frame},
};

/// Where something stands that the room remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the log.
    Message(StreamPosition),
    /// In the journal of changes.
    Change(StreamPosition),
}

/// One thing for the members of a room.
#[derive(Debug)]
pub(crate) struct Item {
    /// Its place and its predecessor's; `None` for what goes out as it comes and is not remembered.
    pub(crate) place: Option<(Place, StreamPosition)>,
    /// Its events.
    packets: Vec<String>,
}

/// Frames for the members of a room.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Set for what the room remembers.
    pub(crate) reach: Option<Reach>,
    pub(crate) frames: Bytes,
    /// Where the last frame begins: it tells the offset.
    last_frame: usize,
}

/// How far a part takes whoever has it and all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    pub(crate) place: Place,
    /// The place before; whoever has not got there yet misses something.
    pub(crate) previous: StreamPosition,
    pub(crate) cursor: Cursor,
}

impl Place {
    /// Whether who has got this far has it.
    pub(crate) fn is_within(self, cursor: Cursor) -> bool {
        let (Self::Message(position) | Self::Change(position)) = self;
        position <= self.newest_in(cursor)
    }

    /// What who has got this far has of its kind.
    pub(crate) const fn newest_in(self, cursor: Cursor) -> StreamPosition {
        match self {
            Self::Message(_) => cursor.message,
            Self::Change(_) => cursor.change,
        }
    }

    /// How far it takes whoever was at `cursor`.
    pub(crate) const fn advance(self, cursor: Cursor) -> Cursor {
        match self {
            Self::Message(message) => Cursor { message, ..cursor },
            Self::Change(change) => Cursor { change, ..cursor },
        }
    }
}

impl Reach {
    /// Whether it is the next for who has got this far: news, and nothing is missing before it.
    pub(crate) fn is_next(self, cursor: Cursor) -> bool {
        let newest = self.place.newest_in(cursor);
        !self.place.is_within(cursor) && self.previous <= newest
    }
}

impl Item {
    /// An event that is not remembered.
    pub(crate) fn event(packet: String) -> Self {
        Self {
            place: None,
            packets: vec![packet],
        }
    }

    /// What the bus said; `None` where members see nothing of it as it is.
    pub(crate) fn of_bus(message: &RoomMessage<'_>) -> Option<Self> {
        Some(match message {
            RoomMessage::Appended(Appended {
                position,
                previous,
                json,
            }) => Self::message(*position, *previous, json),
            RoomMessage::Changed {
                id,
                previous,
                change,
            } => Self::change(*id, *previous, change),
            RoomMessage::Event(event) => Self::event(event_packet(event.name, event.json)),
            RoomMessage::Participants { .. } | RoomMessage::Unheard => return None,
        })
    }

    fn message(position: StreamPosition, previous: StreamPosition, json: &str) -> Self {
        Self {
            place: Some((Place::Message(position), previous)),
            packets: vec![event_packet(MESSAGE, json)],
        }
    }

    fn change(id: StreamPosition, previous: StreamPosition, change: &Change<'_>) -> Self {
        let packets = match change {
            Change::Read(readers) => readers.iter().map(read_packet).collect(),
            Change::Reactions { message, json } => {
                let packet = serde_json::from_str(json).map(|reactions| {
                    let message_id = &message.to_string();
                    MessageReactionUpdate::<&serde_json::value::RawValue> {
                        message_id,
                        reactions,
                    }
                    .packet()
                });
                packet.into_iter().collect()
            }
        };
        Self {
            place: Some((Place::Change(id), previous)),
            packets,
        }
    }

    /// What was missed after `cursor`: messages first, then what happened to messages.
    pub(crate) fn missed(missed: &Missed, cursor: Cursor) -> Vec<Self> {
        let mut items = Vec::with_capacity(missed.messages.len() + missed.changes.len());
        let mut previous = cursor.message;
        for (position, json) in &missed.messages {
            items.push(Self::message(*position, previous, json));
            previous = *position;
        }
        let mut previous = cursor.change;
        for (id, text) in &missed.changes {
            items.push(match Change::parse(text) {
                Ok(change) => Self::change(*id, previous, &change),
                // Of another release, or none at all: a place to count from.
                Err(_) => Self {
                    place: Some((Place::Change(*id), previous)),
                    packets: Vec::new(),
                },
            });
            previous = *id;
        }
        items
    }

    /// The frames, for members who are at `cursor` of `room` and in no other; they are at the cursor
    /// of the part's reach then.
    pub(crate) fn part(&self, room: RoomId, cursor: Cursor) -> Part {
        let mut frames = Vec::new();
        let mut last_frame = 0;
        let reach = self.place.map(|(place, previous)| Reach {
            place,
            previous,
            cursor: place.advance(cursor),
        });
        for (at, packet) in self.packets.iter().enumerate() {
            last_frame = frames.len();
            match reach {
                // Only the last of several: a client that saw some of them sees all of them again.
                Some(Reach { cursor, .. }) if at + 1 == self.packets.len() => {
                    append_text_frame(&mut frames, &with_offset(packet, &[(room, cursor)]));
                }
                _ => append_text_frame(&mut frames, packet),
            }
        }
        Part {
            reach,
            frames: frames.into(),
            last_frame,
        }
    }
}

fn read_packet<U: std::fmt::Display, M: serde::Serialize>(
    (user, message_ids): &(U, Vec<M>),
) -> String {
    MessagesRead {
        user_id: &user.to_string(),
        message_ids,
    }
    .packet()
}

impl Part {
    /// Writes the same frames for a client that has another offset: it is in several rooms, or further
    /// in this one than the other members.
    pub(crate) fn append_with_offset(&self, offset: &[(RoomId, Cursor)], frames: &mut Vec<u8>) {
        let (before, last) = self.frames.split_at(self.last_frame.min(self.frames.len()));
        frames.extend_from_slice(before);
        match text_of_frame(last).and_then(|packet| packet.rsplit_once(",\"")) {
            Some((event, _)) => {
                append_text_frame(frames, &with_offset(&format!("{event}]"), offset));
            }
            None => frames.extend_from_slice(last),
        }
    }
}
