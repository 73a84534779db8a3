//! How far a client has got, as the last argument of its rooms' events says it (Socket.IO connection
//! state recovery): a client that reconnects sends the last one it saw.
//!
//! ```text
//! <room>:<message position>:<change id>,<room>:...      one part for each room the client is in
//! 1555a1b2c3d4:1795332662035-41:1795332990123-0
//! ```
//!
//! `<room>` is the first 12 digits of a room id. For everybody who is in one room only, the offset of
//! an event is the same, so its frame is too.

use std::{fmt, str::FromStr};

use crate::{
    id::{InvalidId, RoomId, StreamPosition},
    limits::OFFSET_ROOMS_MAX,
};

/// How far a reader of a room has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The newest message of the log that the reader has.
    pub message: StreamPosition,
    /// The newest change (reaction, read marks) that the reader has; zero before the first.
    pub change: StreamPosition,
}

impl Cursor {
    /// As far as the less far of both, in messages and in changes.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self {
            message: self.message.min(other.message),
            change: self.change.min(other.change),
        }
    }

    /// As far as the further of both, in messages and in changes.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            message: self.message.max(other.message),
            change: self.change.max(other.change),
        }
    }
}

/// How far a client has got in each of its rooms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offset(pub Vec<(RoomId, Cursor)>);

impl Offset {
    /// How far the client has got in `room`.
    #[must_use]
    pub fn cursor(&self, room: RoomId) -> Option<Cursor> {
        self.0
            .iter()
            .find(|(other, _)| *other == room)
            .map(|(_, cursor)| *cursor)
    }
}

/// Writes an offset.
///
/// # Errors
/// Those of `f`.
pub fn write_offset(rooms: &[(RoomId, Cursor)], f: &mut impl fmt::Write) -> fmt::Result {
    for (at, (room, Cursor { message, change })) in rooms.iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        write!(f, "{comma}{}:{message}:{change}", room.prefix())?;
    }
    Ok(())
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_offset(&self.0, f)
    }
}

impl FromStr for Offset {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let mut rooms = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            if rooms.len() == OFFSET_ROOMS_MAX {
                return Err(InvalidId);
            }
            let (room, cursor) = part.split_once(':').ok_or(InvalidId)?;
            let (message, change) = cursor.split_once(':').ok_or(InvalidId)?;
            let cursor = Cursor {
                message: message.parse()?,
                change: change.parse()?,
            };
            rooms.push((RoomId::from_prefix(room)?, cursor));
        }
        Ok(Self(rooms))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::slot::Slot;

    fn position(epoch: u64, number: u64) -> StreamPosition {
        StreamPosition { epoch, number }
    }

    #[test]
    fn offset_of_two_rooms_reads_back() {
        let cursor = |number| Cursor {
            message: position(17, number),
            change: position(1_795_332_990_123, 0),
        };
        let room = |number| RoomId::new(Slot::new(1).unwrap(), number);
        let offset = Offset(vec![(room(2), cursor(4)), (room(3), cursor(0))]);
        let text = offset.to_string();
        assert_eq!(
            text,
            "000100000002:17-4:1795332990123-0,000100000003:17-0:1795332990123-0"
        );
        assert_eq!(text.parse(), Ok(offset.clone()));
        assert_eq!(offset.cursor(room(2)), Some(cursor(4)));
        assert_eq!(offset.cursor(room(4)), None);
    }

    #[test]
    fn offset_without_rooms_is_empty() {
        assert_eq!("".parse(), Ok(Offset::default()));
        assert_eq!(Offset::default().to_string(), "");
    }

    #[test]
    fn what_is_no_offset_is_refused() {
        for text in [
            "x",
            "000100000002",
            "000100000002:1-1",
            "000100000002:1-1:1",
            "zz:1-1:1-1",
        ] {
            assert_eq!(text.parse::<Offset>(), Err(InvalidId), "{text}");
        }
        let long = vec!["000100000002:1-1:1-1"; OFFSET_ROOMS_MAX + 1].join(",");
        assert_eq!(long.parse::<Offset>(), Err(InvalidId));
    }

    #[test]
    fn two_cursors_are_compared_part_by_part() {
        let one = Cursor {
            message: position(1, 5),
            change: position(9, 0),
        };
        let other = Cursor {
            message: position(2, 1),
            change: position(8, 7),
        };
        let both = Cursor {
            message: position(2, 1),
            change: position(9, 0),
        };
        assert_eq!((one.max(other), other.max(one)), (both, both));
        let neither = Cursor {
            message: position(1, 5),
            change: position(8, 7),
        };
        assert_eq!((one.min(other), other.min(one)), (neither, neither));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "([0-9a-f]{12}:[0-9]{1,3}-[0-9]:[0-9]-[0-9],?)*.{0,9}") {
            let _ = text.parse::<Offset>();
        }
    }
}
