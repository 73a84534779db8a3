//! The frame of a chat message, made once: for each message only what differs is written into it.

use anyhow::{Context, Result};

use super::{
    member::Member,
    tag::{TAG_BYTES, Tag},
};
use crate::websocket::text_frame;

/// A frame with places for a room and a tag.
pub(super) struct Letter {
    frame: Vec<u8>,
    room_at: usize,
    tag_at: usize,
}

const ROOM_BYTES: usize = 24;
const TO: &str = r#"42["chatMessage",{"room":""#;
const ABOUT: &str = r#"","type":"text","content":""#;
const END: &str = r#""}]"#;

impl Letter {
    pub(super) fn new() -> Result<Self> {
        let (room, tag) = (" ".repeat(ROOM_BYTES), " ".repeat(TAG_BYTES));
        let packet = [TO, &room, ABOUT, &tag, END].concat();
        let frame = text_frame(packet.as_bytes())?;
        let header = frame.len().checked_sub(packet.len());
        let room_at = header.context("a frame is longer than its packet")? + TO.len();
        Ok(Self {
            frame,
            room_at,
            tag_at: room_at + ROOM_BYTES + ABOUT.len(),
        })
    }

    /// The frame of a member's newest message.
    pub(super) fn write(
        &mut self,
        room: &[u8; ROOM_BYTES],
        run: u32,
        member: &Member,
        intended_ns: u64,
    ) -> &[u8] {
        let tag = Tag {
            run,
            sender: member.index,
            number: member.sent,
            intended_ns,
        };
        let parts = [(self.room_at, &room[..]), (self.tag_at, &tag.text()[..])];
        for (at, part) in parts {
            if let Some(place) = self.frame.get_mut(at..at + part.len()) {
                place.copy_from_slice(part);
            }
        }
        &self.frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_a_chat_message() {
        let mut member = Member::new(7, 0);
        member.sent = 3;
        let room = b"0123456789ab000000000000";
        let frame = Letter::new().unwrap().write(room, 5, &member, 9).to_vec();
        let packet = str::from_utf8(&frame[8..]).unwrap();
        let event: serde_json::Value = serde_json::from_str(&packet[2..]).unwrap();
        let tag = Tag {
            run: 5,
            sender: 7,
            number: 3,
            intended_ns: 9,
        };
        assert_eq!(event[0], "chatMessage");
        assert_eq!(event[1]["room"], str::from_utf8(room).unwrap());
        assert_eq!(event[1]["content"], str::from_utf8(&tag.text()).unwrap());
        assert!((144..=147).contains(&packet.len()), "{}", packet.len());
    }
}
