//! Pages of history: the frame that asks for one, and what the answers begin with.

use anyhow::{Context, Result};

use crate::websocket::text_frame;

const ROOM_BYTES: usize = 24;
const OF: &str = r#"42["fetchPreviousMessages",{"roomId":""#;
const END: &str = r#"","limit":30}]"#;

/// How the answer begins.
pub(super) const PAGE: &[u8] = br#"42["previousMessagesLoaded""#;

/// How the answer begins when nothing could be read: whoever asks has said something in the room.
pub(super) const EMPTY_PAGE: &[u8] = br#"42["previousMessagesLoaded",{"messages":[]"#;

/// Code of the error that comes in place of a page.
pub(super) const REFUSED_PAGE: &str = "LOAD_ERROR";

/// The frame of a question, made once: for each question only the room is written into it.
pub(super) struct PageLetter {
    frame: Vec<u8>,
    room_at: usize,
}

impl PageLetter {
    pub(super) fn new() -> Result<Self> {
        let packet = [OF, &" ".repeat(ROOM_BYTES), END].concat();
        let frame = text_frame(packet.as_bytes())?;
        let header = frame.len().checked_sub(packet.len());
        let room_at = header.context("a frame is longer than its packet")? + OF.len();
        Ok(Self { frame, room_at })
    }

    /// The frame that asks for the newest page of a room.
    pub(super) fn write(&mut self, room: &[u8; ROOM_BYTES]) -> &[u8] {
        if let Some(place) = self.frame.get_mut(self.room_at..self.room_at + ROOM_BYTES) {
            place.copy_from_slice(room);
        }
        &self.frame
    }
}

#[cfg(test)]
mod tests {
    use slotcast_proto::wire::event::{ErrorCode, PreviousMessagesLoaded, ServerEvent};

    use super::*;

    #[test]
    fn a_question_names_its_room_and_thirty_messages() {
        let room = b"0123456789ab000000000000";
        let mut letter = PageLetter::new().unwrap();
        letter.write(b"ffffffffffff000000000000");
        let frame = letter.write(room);
        let event: serde_json::Value = serde_json::from_slice(&frame[6 + 2..]).unwrap();
        assert_eq!(event[0], "fetchPreviousMessages");
        assert_eq!(event[1]["roomId"], str::from_utf8(room).unwrap());
        assert_eq!(event[1]["limit"], 30);
    }

    #[test]
    fn pages_begin_as_the_gateway_writes_them() {
        let begins = |messages: &[&str], start: &[u8]| {
            let page = PreviousMessagesLoaded {
                messages,
                has_more: false,
            };
            page.packet().as_bytes().starts_with(start)
        };
        assert!(begins(&[], PAGE) && begins(&[], EMPTY_PAGE));
        assert!(begins(&["{}"], PAGE) && !begins(&["{}"], EMPTY_PAGE));
        let code = serde_json::to_value(ErrorCode::LoadError).unwrap();
        assert_eq!(code, REFUSED_PAGE);
    }
}
