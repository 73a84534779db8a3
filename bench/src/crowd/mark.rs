//! Read marks: what a member has yet to mark, and the frame that marks one message, as the official
//! client marks each message that it shows.

use std::ops::Range;

use anyhow::{Context, Result};

use super::desk::MESSAGE;
use crate::websocket::text_frame;

/// Digits of a room in the ids of its messages.
const ROOM_DIGITS: usize = 12;
const NUMBER_DIGITS: usize = 8;
const EPOCH_DIGITS: usize = 4;
const ID_DIGITS: usize = ROOM_DIGITS + NUMBER_DIGITS + EPOCH_DIGITS;

const TO: &str = r#"42["markMessagesAsRead",{"roomId":""#;
const WHAT: &str = r#"","messageIds":[""#;
const END: &str = r#""]}]"#;

/// The newest messages of its room that a member has seen and not marked: one run of numbers of one
/// epoch.
#[derive(Default)]
pub(super) struct Unread {
    numbers: Range<u32>,
    epoch: [u8; EPOCH_DIGITS],
}

impl Unread {
    /// Notes a message that was seen.
    pub(super) fn note(&mut self, number: u32, message: &[u8]) {
        let at = MESSAGE.len() + ROOM_DIGITS + NUMBER_DIGITS;
        let epoch = message.get(at..at + EPOCH_DIGITS);
        let Some(epoch) = epoch.and_then(|epoch| epoch.try_into().ok()) else {
            return;
        };
        if self.epoch != epoch || self.numbers.is_empty() {
            self.epoch = epoch;
            self.numbers = number..number;
        }
        self.numbers.end = self.numbers.end.max(number.saturating_add(1));
    }

    fn take(&mut self) -> Option<u32> {
        self.numbers.next()
    }
}

/// The frame of a mark, made once: for each mark only what differs is written into it.
pub(super) struct MarkLetter {
    frame: Vec<u8>,
    room_at: usize,
    message_at: usize,
}

impl MarkLetter {
    pub(super) fn new() -> Result<Self> {
        let id = " ".repeat(ID_DIGITS);
        let packet = [TO, &id, WHAT, &id, END].concat();
        let frame = text_frame(packet.as_bytes())?;
        let header = frame.len().checked_sub(packet.len());
        let room_at = header.context("a frame is longer than its packet")? + TO.len();
        Ok(Self {
            frame,
            room_at,
            message_at: room_at + id.len() + WHAT.len(),
        })
    }

    /// The frame that marks the oldest message which is not marked yet; `None` if all are.
    pub(super) fn write(&mut self, room: &[u8], unread: &mut Unread) -> Option<&[u8]> {
        let number = format!("{:08x}", unread.take()?);
        self.fill(&[
            (self.room_at, room),
            (self.message_at, room.get(..ROOM_DIGITS)?),
            (self.message_at + ROOM_DIGITS, number.as_bytes()),
            (self.message_at + ROOM_DIGITS + NUMBER_DIGITS, &unread.epoch),
        ])
    }

    /// The frame that marks this message; `None` if it has no whole id.
    pub(super) fn write_for(&mut self, room: &[u8], message: &[u8]) -> Option<&[u8]> {
        let id = message.get(MESSAGE.len()..MESSAGE.len() + ID_DIGITS)?;
        self.fill(&[(self.room_at, room), (self.message_at, id)])
    }

    fn fill(&mut self, parts: &[(usize, &[u8])]) -> Option<&[u8]> {
        for (at, part) in parts {
            self.frame
                .get_mut(*at..at + part.len())?
                .copy_from_slice(part);
        }
        Some(&self.frame)
    }
}

#[cfg(test)]
mod tests {
    use slotcast_proto::{
        id::{MessageId, RoomId, StreamPosition},
        slot::Slot,
    };

    use super::*;

    fn message(id: MessageId) -> Vec<u8> {
        format!(r#"42["message",{{"_id":"{id}","content":"hi"}}]"#).into_bytes()
    }

    fn id(room: RoomId, epoch: u64, number: u64) -> MessageId {
        MessageId::new(room, StreamPosition { epoch, number }).unwrap()
    }

    #[test]
    fn every_message_that_was_seen_is_marked_once() {
        let room = RoomId::new(Slot::new(77).unwrap(), 5);
        let mut unread = Unread::default();
        for number in [41, 42] {
            unread.note(number, &message(id(room, 9, number.into())));
        }
        let mut letter = MarkLetter::new().unwrap();
        let text = room.to_string();
        for number in [41, 42] {
            let frame = letter.write(text.as_bytes(), &mut unread).unwrap();
            let event: serde_json::Value = serde_json::from_slice(&frame[6 + 2..]).unwrap();
            assert_eq!(event[0], "markMessagesAsRead");
            assert_eq!(event[1]["roomId"], text);
            let expected = id(room, 9, number).to_string();
            assert_eq!(event[1]["messageIds"], serde_json::json!([expected]));
        }
        assert!(letter.write(text.as_bytes(), &mut unread).is_none());
    }

    #[test]
    fn a_message_that_has_just_come_is_marked_by_its_own_id() {
        let room = RoomId::new(Slot::new(77).unwrap(), 5);
        let mut letter = MarkLetter::new().unwrap();
        let (text, id) = (room.to_string(), id(room, 9, 41));
        let frame = letter.write_for(text.as_bytes(), &message(id)).unwrap();
        let event: serde_json::Value = serde_json::from_slice(&frame[6 + 2..]).unwrap();
        assert_eq!(event[0], "markMessagesAsRead");
        assert_eq!(event[1]["roomId"], text);
        assert_eq!(event[1]["messageIds"], serde_json::json!([id.to_string()]));
        assert!(letter.write_for(text.as_bytes(), MESSAGE).is_none());
    }

    #[test]
    fn a_new_epoch_begins_anew() {
        let room = RoomId::new(Slot::new(77).unwrap(), 5);
        let mut unread = Unread::default();
        unread.note(41, &message(id(room, 9, 41)));
        unread.note(42, &message(id(room, 10, 42)));
        assert_eq!([unread.take(), unread.take()], [Some(42), None]);
    }
}
