//! Messages on the shard channels. One letter for the kind, then fields separated by spaces; JSON,
//! which may hold spaces, comes last. `library.lua` writes most of them.
//!
//! | kind | channel | fields | meaning |
//! |---|---|---|---|
//! | `m` | rooms | room position previous json | a message was appended to the log |
//! | `r` | rooms | room id previous {user message,message...}... | members read messages |
//! | `a` | rooms | room id previous message json | the reactions to a message |
//! | `p` | rooms | room \[json\] | participants changed; the leaver, if one left |
//! | `e` | rooms | room event json | a ready event for the room's sockets |
//! | `g` | rooms | room | something was written where nobody listens: read the log |
//! | `s` | users | user session | the user's one session is this |
//! | `o` | users | user | the user logged out |
//! | `t` | users | user pid generation | a connection goes on as this generation of itself |
//! | `c` | users | user session json | a socket of this session connected; the notice for others |
//! | `n` | users | user json | the user's profile changed |
//! | `d` | users | user | the same of the user: check the session before it writes |
//! | `l` | lobby | event json | a ready event for every socket |

use thiserror::Error;

use crate::id::{MessageId, RoomId, SessionId, StreamPosition, UserId};

/// One message of the bus, borrowing from the bytes that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusMessage<'a> {
    /// Concerns the sockets in one room.
    Room(RoomId, RoomMessage<'a>),
    /// Concerns the sockets of one user.
    User(UserId, UserMessage<'a>),
    /// Concerns every socket.
    Lobby(Event<'a>),
}

/// What happened in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoomMessage<'a> {
    /// A message was appended to the room's log.
    Appended(Appended<'a>),
    /// Something happened to messages after they were sent.
    Changed {
        /// Its place in the room's journal of changes.
        id: StreamPosition,
        /// The place of its predecessor, by which a gap shows; zero if there was none.
        previous: StreamPosition,
        /// What happened.
        change: Change<'a>,
    },
    /// Somebody joined or left; `leaver` is the payload of `userLeft`.
    Participants {
        /// JSON object of the user who left, if one did.
        leaver: Option<&'a str>,
    },
    /// A ready event.
    Event(Event<'a>),
    /// Something was written on a node where no gateway listens, as while a slot moves.
    Unheard,
}

/// What can happen to messages after they were sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// Members read messages, in the order of the marks.
    Read(Vec<(UserId, Vec<MessageId>)>),
    /// The reactions to a message are now these.
    Reactions {
        /// The message.
        message: MessageId,
        /// Users by reaction, a JSON object.
        json: &'a str,
    },
}

/// A message as appended to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended<'a> {
    /// Its place in the log.
    pub position: StreamPosition,
    /// The place of its predecessor, by which a gap shows.
    pub previous: StreamPosition,
    /// The message object as clients see it.
    pub json: &'a str,
}

/// What concerns a user's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserMessage<'a> {
    /// The user's only session is this one.
    SessionReplaced(SessionId),
    /// The user logged out.
    LoggedOut,
    /// A connection goes on under the private id of one before it, which may not know yet.
    TakenOver {
        /// Private id of both.
        pid: &'a str,
        /// Its generation; the one before it has a smaller one.
        generation: u64,
    },
    /// A socket of this session connected; sockets of other sessions get the notice.
    Connected {
        /// The session that connected.
        session: SessionId,
        /// Payload of `duplicate_login`, a JSON object.
        notice: &'a str,
    },
    /// The user's object as clients see it is now this.
    ProfileChanged {
        /// JSON object.
        json: &'a str,
    },
    /// Something was written on a node where no gateway listens, as while a slot moves.
    Unheard,
}

/// An event ready for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Name of the event; holds no space.
    pub name: &'a str,
    /// Payload.
    pub json: &'a str,
}

/// Bytes on a channel that this version does not understand.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not a bus message of this version")]
pub struct UnknownBusMessage;

impl<'a> BusMessage<'a> {
    /// Reads what arrived on a channel.
    ///
    /// # Errors
    /// [`UnknownBusMessage`]: another release may publish kinds that this one must ignore.
    pub fn parse(text: &'a str) -> Result<Self, UnknownBusMessage> {
        parse(text).ok_or(UnknownBusMessage)
    }
}

fn parse(text: &str) -> Option<BusMessage<'_>> {
    let (kind, rest) = text.split_once(' ')?;
    match kind {
        "l" => return Some(BusMessage::Lobby(parse_event(rest)?)),
        "s" | "o" | "t" | "c" | "n" | "d" => {
            let (user, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            return Some(BusMessage::User(
                user.parse().ok()?,
                parse_user(kind, rest)?,
            ));
        }
        _ => {}
    }
    let (room, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    Some(BusMessage::Room(
        RoomId::from_prefix(room).ok()?,
        parse_room(kind, rest)?,
    ))
}

fn parse_user<'a>(kind: &str, rest: &'a str) -> Option<UserMessage<'a>> {
    match kind {
        "s" => Some(UserMessage::SessionReplaced(rest.parse().ok()?)),
        "o" => Some(UserMessage::LoggedOut),
        "t" => {
            let (pid, generation) = rest.split_once(' ')?;
            Some(UserMessage::TakenOver {
                pid,
                generation: generation.parse().ok()?,
            })
        }
        "c" => {
            let (session, notice) = rest.split_once(' ')?;
            Some(UserMessage::Connected {
                session: session.parse().ok()?,
                notice,
            })
        }
        "n" => Some(UserMessage::ProfileChanged { json: rest }),
        "d" => Some(UserMessage::Unheard),
        _ => None,
    }
}

fn parse_room<'a>(kind: &str, rest: &'a str) -> Option<RoomMessage<'a>> {
    match kind {
        "m" => {
            let (position, rest) = rest.split_once(' ')?;
            let (previous, json) = rest.split_once(' ')?;
            Some(RoomMessage::Appended(Appended {
                position: position.parse().ok()?,
                previous: previous.parse().ok()?,
                json,
            }))
        }
        "r" | "a" => {
            let (id, rest) = rest.split_once(' ')?;
            let (previous, rest) = rest.split_once(' ')?;
            Some(RoomMessage::Changed {
                id: id.parse().ok()?,
                previous: previous.parse().ok()?,
                change: parse_change(kind, rest)?,
            })
        }
        "p" => Some(RoomMessage::Participants {
            leaver: (!rest.is_empty()).then_some(rest),
        }),
        "e" => Some(RoomMessage::Event(parse_event(rest)?)),
        "g" => Some(RoomMessage::Unheard),
        _ => None,
    }
}

impl<'a> Change<'a> {
    /// Reads an entry of the journal: the kind, then the fields behind `previous`.
    ///
    /// # Errors
    /// [`UnknownBusMessage`]: another release may write kinds that this one must ignore.
    pub fn parse(text: &'a str) -> Result<Self, UnknownBusMessage> {
        let (kind, rest) = text.split_once(' ').ok_or(UnknownBusMessage)?;
        parse_change(kind, rest).ok_or(UnknownBusMessage)
    }
}

fn parse_change<'a>(kind: &str, rest: &'a str) -> Option<Change<'a>> {
    match kind {
        "r" => {
            let mut words = rest.split(' ');
            let mut readers = Vec::new();
            while let (Some(user), Some(messages)) = (words.next(), words.next()) {
                let messages = messages
                    .split(',')
                    .map(str::parse)
                    .collect::<Result<_, _>>()
                    .ok()?;
                readers.push((user.parse().ok()?, messages));
            }
            Some(Change::Read(readers))
        }
        "a" => {
            let (message, json) = rest.split_once(' ')?;
            Some(Change::Reactions {
                message: message.parse().ok()?,
                json,
            })
        }
        _ => None,
    }
}

fn parse_event(text: &str) -> Option<Event<'_>> {
    let (name, json) = text.split_once(' ')?;
    Some(Event { name, json })
}

/// Writes an `e` message: an event for the sockets in a room.
#[must_use]
pub fn room_event(room: RoomId, name: &str, json: &str) -> String {
    format!("e {} {name} {json}", room.prefix())
}

/// Writes an `l` message: an event for every socket.
#[must_use]
pub fn lobby_event(name: &str, json: &str) -> String {
    format!("l {name} {json}")
}

/// Writes an `n` message: the user's object as clients see it.
#[must_use]
pub fn profile_changed(user: UserId, json: &str) -> String {
    format!("n {user} {json}")
}

/// Writes a `t` message: under the private id `pid` goes on a connection of this generation.
#[must_use]
pub fn taken_over(user: UserId, pid: &str, generation: u64) -> String {
    format!("t {user} {pid} {generation}")
}

/// Writes a `g` message: something was written about a room where nobody listens.
#[must_use]
pub fn room_unheard(room: RoomId) -> String {
    format!("g {}", room.prefix())
}

/// Writes a `d` message: something was written about a user where nobody listens.
#[must_use]
pub fn user_unheard(user: UserId) -> String {
    format!("d {user}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::slot::Slot;

    #[test]
    fn appended_message_names_its_place_and_predecessor() {
        let parsed = BusMessage::parse("m 000100000002 17-4 17-3 {\"a\": 1}");
        let position = |number| StreamPosition { epoch: 17, number };
        let appended = Appended {
            position: position(4),
            previous: position(3),
            json: "{\"a\": 1}",
        };
        assert_eq!(
            parsed,
            Ok(BusMessage::Room(room(), RoomMessage::Appended(appended)))
        );
    }

    #[test]
    fn read_marks_keep_their_readers_apart() {
        let user = UserId::new(Slot::new(3).unwrap(), 4);
        let id = |number| {
            MessageId::new(room(), StreamPosition { epoch: 17, number }).expect("in range")
        };
        let marks = format!("{user} {},{} {user} {}", id(1), id(2), id(3));
        let read = Change::Read(vec![(user, vec![id(1), id(2)]), (user, vec![id(3)])]);
        assert_eq!(Change::parse(&format!("r {marks}")), Ok(read.clone()));
        let position = |epoch| StreamPosition { epoch, number: 0 };
        let changed = RoomMessage::Changed {
            id: position(9),
            previous: position(8),
            change: read,
        };
        assert_eq!(
            BusMessage::parse(&format!("r 000100000002 9-0 8-0 {marks}")),
            Ok(BusMessage::Room(room(), changed))
        );
    }

    #[test]
    fn events_parse_back() {
        let event = Event {
            name: "roomUpdated",
            json: "{\"name\":\"a b\"}",
        };
        let text = room_event(room(), event.name, event.json);
        assert_eq!(
            BusMessage::parse(&text),
            Ok(BusMessage::Room(room(), RoomMessage::Event(event)))
        );
        let text = lobby_event(event.name, event.json);
        assert_eq!(BusMessage::parse(&text), Ok(BusMessage::Lobby(event)));
    }

    #[test]
    fn participants_may_name_a_leaver() {
        let participants = |leaver| {
            Ok(BusMessage::Room(
                room(),
                RoomMessage::Participants { leaver },
            ))
        };
        assert_eq!(BusMessage::parse("p 000100000002"), participants(None));
        assert_eq!(
            BusMessage::parse("p 000100000002 {}"),
            participants(Some("{}"))
        );
    }

    #[test]
    fn control_messages_of_a_user_parse() {
        let user = UserId::new(Slot::new(3).unwrap(), 4);
        let session = SessionId::new(5);
        let parsed = |text: &str| match BusMessage::parse(text) {
            Ok(BusMessage::User(of, _)) => of == user,
            _ => false,
        };
        assert!(parsed(&format!("s {user} {session}")));
        assert!(parsed(&format!("o {user}")));
        assert!(parsed(&taken_over(user, "pid", 2)));
        assert!(parsed(&format!("c {user} {session} {{\"type\":\"x\"}}")));
        assert!(parsed(&profile_changed(user, "{}")));
    }

    #[test]
    fn what_was_written_unheard_names_its_room_or_user() {
        assert_eq!(
            BusMessage::parse(&room_unheard(room())),
            Ok(BusMessage::Room(room(), RoomMessage::Unheard))
        );
        let user = UserId::new(Slot::new(3).unwrap(), 4);
        assert_eq!(
            BusMessage::parse(&user_unheard(user)),
            Ok(BusMessage::User(user, UserMessage::Unheard))
        );
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "([mrapegstocndlz] )?([0-9a-f]{12} )?.*") {
            let _ = BusMessage::parse(&text);
        }
    }

    fn room() -> RoomId {
        RoomId::new(Slot::new(1).unwrap(), 2)
    }
}
