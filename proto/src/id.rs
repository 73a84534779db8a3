//! Ids, parsed at the edge and never bare strings inside.
//!
//! Users, rooms, messages and files have 24 lowercase hexadecimal digits. The first four are the
//! Redis Cluster slot of everything stored about them, so an id says where to look:
//!
//! ```text
//! user, file   ssss rrrrrrrrrrrrrrrrrrrr      slot, 80 random bits
//! room         ssss rrrrrrrr 000000000000     slot, 32 random bits (checked for uniqueness), zeros
//! message      ssss rrrrrrrr nnnnnnnn eeee    its room, its number there, low bits of its epoch
//! ```
//!
//! A message id thus leads to its room and its place in the log without a look-up. The epoch bits
//! keep a number that a failover hands out again from naming two different messages.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::slot::Slot;

/// Text that is not an id of the wanted kind.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not an id of this kind")]
pub struct InvalidId;

/// Reads exactly `N` bytes of lowercase hexadecimal.
fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], InvalidId> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return Err(InvalidId);
    };
    let mut bytes = [0; N];
    if pairs.len() != N {
        return Err(InvalidId);
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Ok(bytes)
}

const fn digit(byte: u8) -> Result<u8, InvalidId> {
    match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(InvalidId),
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Derives text and JSON forms from `Display` and `FromStr`.
macro_rules! text_forms {
    ($($id:ident),+) => {$(
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl Serialize for $id {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $id {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    )+};
}
text_forms!(UserId, FileId, RoomId, MessageId, SessionId, GatewayId);

/// Defines an id of a slot and 80 random bits.
macro_rules! slotted_id {
    ($(#[$doc:meta])* $id:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $id([u8; 12]);

        impl $id {
            /// Makes an id that lives in `slot`, unique by 80 of the given random bits.
            #[must_use]
            pub fn new(slot: Slot, random: u128) -> Self {
                let [s0, s1] = slot.number().to_be_bytes();
                let [.., r0, r1, r2, r3, r4, r5, r6, r7, r8, r9] = random.to_be_bytes();
                Self([s0, s1, r0, r1, r2, r3, r4, r5, r6, r7, r8, r9])
            }

            /// The slot of everything stored under this id.
            #[must_use]
            pub fn slot(self) -> Slot {
                let [high, low, ..] = self.0;
                slot_of([high, low]).unwrap_or(ZERO_SLOT)
            }
        }

        impl FromStr for $id {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let bytes @ [high, low, ..] = parse_hex::<12>(text)?;
                slot_of([high, low])?;
                Ok(Self(bytes))
            }
        }

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }
    };
}

const ZERO_SLOT: Slot = match Slot::new(0) {
    Some(slot) => slot,
    None => unreachable!(),
};

fn slot_of(bytes: [u8; 2]) -> Result<Slot, InvalidId> {
    Slot::new(u16::from_be_bytes(bytes)).ok_or(InvalidId)
}

slotted_id! {
    /// A registered user. The user's record, session and control messages live in its slot.
    UserId
}
slotted_id! {
    /// An uploaded file's metadata record.
    FileId
}

/// A chat room. Its log, members and channel live in its slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomId {
    slot: Slot,
    number: u32,
}

impl RoomId {
    /// Names room `number` of `slot`; whoever creates a room makes sure that the number is free.
    #[must_use]
    pub const fn new(slot: Slot, number: u32) -> Self {
        Self { slot, number }
    }

    /// The slot of everything stored about the room.
    #[must_use]
    pub const fn slot(self) -> Slot {
        self.slot
    }

    /// The first 12 digits, which the ids of its messages share; keys and the bus use them.
    #[must_use]
    pub const fn prefix(self) -> RoomPrefix {
        RoomPrefix(self)
    }

    /// Reads the 12 digits that [`RoomId::prefix`] writes.
    ///
    /// # Errors
    /// [`InvalidId`] for anything else.
    pub fn from_prefix(text: &str) -> Result<Self, InvalidId> {
        let [s0, s1, r0, r1, r2, r3] = parse_hex::<6>(text)?;
        Ok(Self::new(
            slot_of([s0, s1])?,
            u32::from_be_bytes([r0, r1, r2, r3]),
        ))
    }
}

impl FromStr for RoomId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::from_prefix(text.strip_suffix("000000000000").ok_or(InvalidId)?)
    }
}

impl fmt::Display for RoomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}000000000000", self.prefix())
    }
}

/// The first 12 digits of a room's id, as text.
#[derive(Clone, Copy, Debug)]
pub struct RoomPrefix(RoomId);

impl fmt::Display for RoomPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}{:08x}", self.0.slot.number(), self.0.number)
    }
}

/// A message of a room's log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    room: RoomId,
    number: u32,
    epoch_bits: u16,
}

impl MessageId {
    /// Names the message at `position` of `room`; `None` past 4,294,967,295 messages.
    #[must_use]
    pub fn new(room: RoomId, position: StreamPosition) -> Option<Self> {
        let number = u32::try_from(position.number).ok()?;
        let epoch_bits = u16::try_from(position.epoch & 0xffff).ok()?;
        Some(Self {
            room,
            number,
            epoch_bits,
        })
    }

    /// The room that the message belongs to.
    #[must_use]
    pub const fn room(self) -> RoomId {
        self.room
    }

    /// The message's number in its room, from 1.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.number
    }
}

impl FromStr for MessageId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (prefix, place) = text.split_at_checked(12).ok_or(InvalidId)?;
        let [n0, n1, n2, n3, e0, e1] = parse_hex::<6>(place)?;
        Ok(Self {
            room: RoomId::from_prefix(prefix)?,
            number: u32::from_be_bytes([n0, n1, n2, n3]),
            epoch_bits: u16::from_be_bytes([e0, e1]),
        })
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{:08x}{:04x}",
            self.room.prefix(),
            self.number,
            self.epoch_bits
        )
    }
}

/// A place in a room's log: the Redis stream entry id `<epoch>-<number>`.
///
/// `number` counts the room's messages without a gap. `epoch` rises whenever another Redis process
/// took over (or the log began anew), so positions rise even where a failover lost entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamPosition {
    /// Start of the writing function library, in milliseconds since 1970 at the earliest.
    pub epoch: u64,
    /// The message's number in its room, from 1; 0 is before the first.
    pub number: u64,
}

impl FromStr for StreamPosition {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (epoch, number) = text.split_once('-').ok_or(InvalidId)?;
        let decimal = |digits: &str| {
            let canonical = digits.bytes().all(|byte| byte.is_ascii_digit());
            if canonical {
                digits.parse().map_err(|_| InvalidId)
            } else {
                Err(InvalidId)
            }
        };
        Ok(Self {
            epoch: decimal(epoch)?,
            number: decimal(number)?,
        })
    }
}

impl fmt::Display for StreamPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.number)
    }
}

/// A login: 32 lowercase hexadecimal digits, unguessable.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// Makes a session id of 128 bits from a cryptographically secure source.
    #[must_use]
    pub const fn new(random: u128) -> Self {
        Self(random.to_be_bytes())
    }
}

impl FromStr for SessionId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        parse_hex::<16>(text).map(Self)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// One run of a gateway process: 8 lowercase hexadecimal digits, drawn anew at every start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayId(u32);

impl GatewayId {
    /// Makes a gateway id from random bits.
    #[must_use]
    pub const fn new(random: u32) -> Self {
        Self(random)
    }
}

impl FromStr for GatewayId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        parse_hex::<4>(text).map(|bytes| Self(u32::from_be_bytes(bytes)))
    }
}

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn room_ids_have_24_digits_and_carry_their_slot() {
        let slot = Slot::new(0x2abc).unwrap();
        let room = RoomId::new(slot, 0x00c0_ffee);
        assert_eq!(room.to_string(), "2abc00c0ffee000000000000");
        assert_eq!("2abc00c0ffee000000000000".parse(), Ok(room));
        assert_eq!(room.slot(), slot);
    }

    #[test]
    fn message_id_leads_to_its_room_and_place() {
        let room = RoomId::new(Slot::new(7).unwrap(), 9);
        let position = StreamPosition {
            epoch: 0x0001_a2b3_c4d5,
            number: 17,
        };
        let message = MessageId::new(room, position).unwrap();
        assert_eq!(message.to_string(), "00070000000900000011c4d5");
        assert_eq!((message.room(), message.number()), (room, 17));
    }

    #[test]
    fn malformed_ids_are_refused() {
        for text in [
            "",
            "2abc00c0ffee00000000000",
            "2abc00c0ffee0000000000000",
            "2ABC00C0FFEE000000000000",
            "2abc00c0ffee000000000001",
            "4000000000000000000000000",
            "400000c0ffee000000000000",
            "é2bc00c0ffee00000000000",
            "2abc00c0ffe\u{e9}00000000000",
        ] {
            assert_eq!(text.parse::<RoomId>(), Err(InvalidId), "{text}");
        }
        assert!("ffff00000000000000000000".parse::<UserId>().is_err());
        assert!("1-+2".parse::<StreamPosition>().is_err());
    }

    proptest! {
        #[test]
        fn text_of_an_id_parses_back(slot in 0_u16..16_384, random: u128, number: u32, epoch: u64) {
            let slot = Slot::new(slot).unwrap();
            let user = UserId::new(slot, random);
            prop_assert_eq!(user.to_string().parse(), Ok(user));
            prop_assert_eq!(user.slot(), slot);
            let room = RoomId::new(slot, number);
            prop_assert_eq!(room.to_string().parse(), Ok(room));
            let position = StreamPosition { epoch, number: u64::from(number) };
            prop_assert_eq!(position.to_string().parse(), Ok(position));
            let message = MessageId::new(room, position).unwrap();
            prop_assert_eq!(message.to_string().parse(), Ok(message));
            let session = SessionId::new(random);
            prop_assert_eq!(session.to_string().parse(), Ok(session));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text: String) {
            let _ = (text.parse::<UserId>(), text.parse::<RoomId>(), text.parse::<MessageId>());
            let _ = (text.parse::<SessionId>(), text.parse::<StreamPosition>());
        }
    }
}
