//! Every question that this tier asks Redis. Each is one round trip to one node unless it says
//! otherwise; what happens inside stands in the function library.
//!
//! # Repeated calls
//! A call whose answer was lost is made again. That is safe, call by call:
//!
//! | call | when it ran before |
//! |---|---|
//! | `append` | is found by its key among the recent entries, and answered with the same ids |
//! | `join` | the user has a seat, the announcement is found by its key: the same answer |
//! | `leave` | the seat is gone, so nothing is announced again |
//! | `restore` | the gateway has the seat already |
//! | `connect` | the older sockets were told; the rooms that it took are taken again |
//! | `hold_connection`, `update_participant` | writes the same record |
//! | `touch_session` | puts the same end off |
//! | `mark_read` | adds no run, so nothing is published again |
//! | `react` | the user is in the list or is not; the same list is published |
//! | `share_file` | the room is the last in the list already |
//! | `renew_lease` | may hand out another dead gateway; the first is handed out when its claim ends |
//! | `note_slot`, `forget_connection`, `forget_gateway` | sets and removals |
//!
//! What a failover lost is written anew by the repetition. `append` and `join` find an earlier
//! attempt only among the last thousand entries of two minutes.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, FromRedisValue, Value, cmd};
use slotcast_proto::{
    id::{FileId, GatewayId, MessageId, RoomId, SessionId, StreamPosition, UserId},
    schema::{
        bus,
        key::{self, Channel},
        library::Function,
        record,
    },
    slot::Slot,
    wire::offset::Cursor,
};
use tokio::time::{sleep, timeout};

use crate::{
    cluster::{Address, CALL_DEADLINE, Cluster, Confirmation, StoreError, Subject},
    config::Durability,
    session::key_text,
};

/// Entries read from a log or journal at once when catching up.
const CATCH_UP_PAGE: usize = 100;

/// Messages that a client gets when it joins a room.
pub(crate) const JOIN_PAGE: i64 = 30;

/// Pause before a message is appended again that may be lost with its master.
const APPEND_AGAIN_PAUSE: Duration = Duration::from_millis(50);

/// Kinds of reactions to one message.
const REACTION_KINDS_MAX: u32 = 50;

pub(crate) struct Store {
    cluster: Arc<Cluster>,
    session_ttl_ms: u64,
    /// How long what a lost connection needs is kept.
    recovery_window_ms: u64,
    /// Messages kept a room; `None` keeps all.
    log_length_max: Option<u64>,
    durability: Durability,
}

/// Outcome of CONNECT.
pub(crate) enum Connected {
    /// Admitted.
    Welcome(Welcome),
    /// The session is not the user's, or no longer.
    InvalidSession,
    /// The user's record is gone.
    UserGone,
}

pub(crate) struct Welcome {
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) profile_image: String,
    /// Which of the connections under its private id it is; 0 if that is not known.
    pub(crate) generation: u64,
    /// Rooms of the connection that this one succeeds.
    pub(crate) rooms: Vec<RoomId>,
}

/// What identifies a socket that connects.
pub(crate) struct Arrival<'a> {
    pub(crate) user: UserId,
    pub(crate) session: SessionId,
    /// The connection that the client had before.
    pub(crate) previous_pid: Option<u64>,
    /// Private id of a connection that succeeds none.
    pub(crate) new_pid: u64,
    /// Payload of `duplicate_login` for the user's other sessions.
    pub(crate) notice: &'a str,
}

/// A connection and its rooms, as remembered for when it comes back.
pub(crate) struct HeldConnection<'a> {
    pub(crate) user: UserId,
    pub(crate) session: SessionId,
    pub(crate) pid: String,
    pub(crate) generation: u64,
    /// Lost: who comes back without knowing `pid` may have its rooms too.
    pub(crate) is_parked: bool,
    pub(crate) rooms: &'a [RoomId],
}

/// An appended message.
#[derive(Debug)]
pub(crate) struct Appended {
    pub(crate) position: StreamPosition,
    pub(crate) message: String,
    pub(crate) timestamp: u64,
}

/// A message to append.
pub(crate) struct Draft<'a> {
    pub(crate) room: RoomId,
    /// Tells a repeated append from a second message.
    pub(crate) key: &'a str,
    /// Whether the client may have sent it before.
    pub(crate) may_repeat: bool,
    /// The message's JSON members, see [`record::message_body`].
    pub(crate) body: &'a str,
}

/// How much of what was missed is worth reading; beyond it, rooms are loaded anew, page by page.
pub(crate) struct Allowance {
    /// Messages of one room.
    messages: usize,
    /// Bytes of all rooms together that are left.
    bytes: AtomicUsize,
}

impl Allowance {
    pub(crate) const fn new(messages: usize, bytes: usize) -> Self {
        let bytes = AtomicUsize::new(bytes);
        Self { messages, bytes }
    }

    /// False when a page of entries is more than what is left.
    fn take(&self, page: &[(String, String)]) -> bool {
        let bytes = page.iter().map(|(_, text)| text.len()).sum();
        let less = |left: usize| left.checked_sub(bytes);
        let taken = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.is_ok()
    }
}

/// What a reader of a room has missed.
#[derive(Debug, Default)]
pub(crate) struct Missed {
    /// Every message appended from here on bears this epoch or a later one.
    pub(crate) epoch: u64,
    /// Position and JSON, oldest first.
    pub(crate) messages: Vec<(StreamPosition, String)>,
    /// Id and text ([`Change::parse`](slotcast_proto::schema::bus::Change::parse)), oldest first.
    pub(crate) changes: Vec<(StreamPosition, String)>,
}

/// Outcome of a join.
pub(crate) enum Joined {
    /// The user is new in the room.
    Entered {
        /// What the page shows.
        shown: Cursor,
        members: Vec<String>,
        page: Page,
    },
    /// The user was there already.
    Seated {
        newest: Cursor,
    },
    UnknownRoom,
    /// The room has a password that the user never gave.
    Refused,
}

/// A user's place in a room, as seats are taken and given up.
pub(crate) struct Seat<'a> {
    pub(crate) room: RoomId,
    pub(crate) user: UserId,
    pub(crate) gateway: GatewayId,
    /// User object.
    pub(crate) user_json: &'a str,
    /// Message that announces the user, and its idempotency key.
    pub(crate) body: &'a str,
    pub(crate) key: &'a str,
}

/// Messages as clients see them.
#[derive(Default)]
pub(crate) struct Page {
    pub(crate) messages: Vec<String>,
    pub(crate) has_more: bool,
}

/// Outcome of a reaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reacted {
    Done,
    NotAMember,
    UnknownMessage,
    TooManyKinds,
}

/// A file that a message refers to.
pub(crate) struct File {
    pub(crate) filename: String,
    pub(crate) original_name: String,
    pub(crate) mime_type: String,
    pub(crate) size: u64,
}

/// A gateway's lease after it was to be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lease {
    /// It holds; another gateway's may have run out, for the caller to reap.
    Renewed { dead: Option<GatewayId> },
    /// Others took the gateway for dead.
    Lost,
}

impl Store {
    pub(crate) const fn new(
        cluster: Arc<Cluster>,
        session_ttl: Duration,
        recovery_window: Duration,
        log_length_max: Option<u64>,
        durability: Durability,
    ) -> Self {
        Self {
            cluster,
            session_ttl_ms: session_ttl.as_secs().saturating_mul(1000),
            recovery_window_ms: recovery_window.as_secs().saturating_mul(1000),
            log_length_max,
            durability,
        }
    }

    // ---------------------------------------------------------------------------------- sessions

    /// Checks and touches the session behind a CONNECT, and takes over its earlier rooms.
    pub(crate) async fn connect(&self, arrival: &Arrival<'_>) -> Result<Connected, StoreError> {
        let user = arrival.user;
        let keys = [key::user(user), key::session(user), key::connections(user)];
        let value = self
            .cluster
            .call(user, |attempt| {
                function(Function::Connect, &keys)
                    .arg(Channel::Users(user.slot()).to_string())
                    .arg(user.to_string())
                    .arg(arrival.session.to_string())
                    .arg(self.session_ttl_ms)
                    .arg(arrival.previous_pid.map(key_text).unwrap_or_default())
                    .arg(arrival.notice)
                    .arg(self.recovery_window_ms)
                    .arg(flag(attempt.may_repeat))
                    .arg(key_text(arrival.new_pid))
                    .to_owned()
            })
            .await?;
        let answer = Answer::of("connect", value)?;
        match answer.reason.as_str() {
            "ok" => {
                let (name, email, profile_image, generation, rooms): (_, _, _, _, Vec<String>) =
                    answer.rest()?;
                let rooms = rooms
                    .iter()
                    .filter_map(|room| RoomId::from_prefix(room).ok());
                // Two lost connections may have been in one.
                let rooms: BTreeSet<_> = rooms.collect();
                let rooms = rooms.into_iter().collect();
                Ok(Connected::Welcome(Welcome {
                    name,
                    email,
                    profile_image,
                    generation,
                    rooms,
                }))
            }
            "gone" => Ok(Connected::UserGone),
            _ => Ok(Connected::InvalidSession),
        }
    }

    /// Puts the session's end off; false when it is no longer the user's.
    pub(crate) async fn touch_session(
        &self,
        user: UserId,
        session: SessionId,
    ) -> Result<bool, StoreError> {
        let call = function(
            Function::TouchSession,
            &[key::session(user), key::connections(user)],
        )
        .arg(session.to_string())
        .arg(self.session_ttl_ms)
        .to_owned();
        let answer = Answer::of("touch_session", self.call(user.slot(), call).await?)?;
        Ok(answer.reason == "ok")
    }

    /// Remembers the rooms of a connection, for when it comes back.
    pub(crate) async fn hold_connection(
        &self,
        held: &HeldConnection<'_>,
    ) -> Result<(), StoreError> {
        let state = if held.is_parked { "parked" } else { "live" };
        let rooms = held.rooms.iter().map(|room| format!(" {}", room.prefix()));
        let rooms: String = rooms.collect();
        let call = function(Function::HoldConnection, &[key::connections(held.user)])
            .arg(&held.pid)
            .arg(held.session.to_string())
            .arg(state)
            .arg(held.generation)
            .arg(rooms)
            .arg(self.session_ttl_ms)
            .to_owned();
        self.call(held.user.slot(), call).await.map(drop)
    }

    /// Tells a user's older connection under this private id that its seats are taken.
    pub(crate) async fn announce_take_over(
        &self,
        user: UserId,
        pid: &str,
        generation: u64,
    ) -> Result<(), StoreError> {
        let call = cmd("SPUBLISH")
            .arg(Channel::Users(user.slot()).to_string())
            .arg(bus::taken_over(user, pid, generation))
            .to_owned();
        self.call(user.slot(), call).await.map(drop)
    }

    /// Forgets a connection, unless another one goes on under its private id.
    pub(crate) async fn forget_connection(
        &self,
        user: UserId,
        pid: &str,
        generation: u64,
    ) -> Result<(), StoreError> {
        let call = function(Function::ForgetConnection, &[key::connections(user)])
            .arg(pid)
            .arg(generation)
            .to_owned();
        self.call(user.slot(), call).await.map(drop)
    }

    // ------------------------------------------------------------------------------------- rooms

    /// Appends a message to its room's log and publishes it: the hot path. Answers when the message has
    /// reached what [`Durability`] asks for.
    ///
    /// # Errors
    /// [`StoreError::Unconfirmed`] if that is a replica, and none was seen to have it.
    pub(crate) async fn append(&self, draft: &Draft<'_>) -> Result<Appended, StoreError> {
        if self.durability == Durability::Master {
            let (appended, _) = self.append_to_master(draft, draft.may_repeat).await?;
            return Ok(appended);
        }
        let mut is_stored = false;
        let append = self.append_to_replica(draft, &mut is_stored);
        match timeout(CALL_DEADLINE, append).await {
            Ok(outcome) => outcome,
            Err(_) if is_stored => Err(StoreError::Unconfirmed),
            Err(_) => Err(StoreError::Unavailable("no answer in time".to_owned())),
        }
    }

    /// Appends until a replica has the message: again when its master was replaced meanwhile, where the
    /// new one may have it or not.
    async fn append_to_replica(
        &self,
        draft: &Draft<'_>,
        is_stored: &mut bool,
    ) -> Result<Appended, StoreError> {
        loop {
            let may_repeat = draft.may_repeat || *is_stored;
            let (appended, node) = self.append_to_master(draft, may_repeat).await?;
            *is_stored = true;
            match self.cluster.confirm(&node, draft.room.slot()).await {
                Confirmation::Replicated => return Ok(appended),
                Confirmation::Unsure => sleep(APPEND_AGAIN_PAUSE).await,
            }
        }
    }

    /// Appends once; also answers which node has the message.
    async fn append_to_master(
        &self,
        draft: &Draft<'_>,
        may_repeat: bool,
    ) -> Result<(Appended, Address), StoreError> {
        let room = draft.room;
        let keys = [key::log(room)];
        let channel = Channel::Rooms(room.slot()).to_string();
        let prefix = room.prefix().to_string();
        let (value, node) = self
            .cluster
            .call_somewhere(room, |attempt| {
                function(Function::AppendMessage, &keys)
                    .arg(&channel)
                    .arg(&prefix)
                    .arg(draft.key)
                    .arg(self.length_max())
                    .arg(draft.body)
                    .arg(flag(may_repeat || attempt.may_repeat))
                    .arg(attempt.not_after_ms)
                    .to_owned()
            })
            .await?;
        let answer = Answer::of("append_message", value)?;
        let (position, message, timestamp, _): (String, _, _, String) = answer.rest()?;
        let appended = Appended {
            position: parse_position(&position)?,
            message,
            timestamp,
        };
        Ok((appended, node))
    }

    /// Takes a seat and announces the user, unless they had one.
    pub(crate) async fn join(&self, seat: &Seat<'_>) -> Result<Joined, StoreError> {
        let room = seat.room;
        let keys = [
            key::room(room),
            key::members(room),
            key::admitted(room),
            key::seats(room),
            key::held(room.slot(), seat.gateway),
            key::log(room),
            key::reads(room),
            key::reactions(room),
            key::changes(room),
        ];
        let value = self
            .cluster
            .call(room, |attempt| {
                function(Function::Join, &keys)
                    .arg(Channel::Rooms(room.slot()).to_string())
                    .arg(room.prefix().to_string())
                    .arg(seat.user.to_string())
                    .arg(seat.gateway.to_string())
                    .arg(seat.user_json)
                    .arg(seat.key)
                    .arg(self.length_max())
                    .arg(seat.body)
                    .arg(JOIN_PAGE)
                    .arg(flag(attempt.may_repeat))
                    .to_owned()
            })
            .await?;
        let mut answer = Answer::of("join", value)?;
        match answer.reason.as_str() {
            "joined" => {
                let page = answer.take_page()?;
                let (change, _, previous, listed): (String, String, String, Vec<_>) =
                    answer.rest()?;
                let members = match listed.is_empty() {
                    true => self.participants(room).await?,
                    false => listed,
                };
                Ok(Joined::Entered {
                    shown: parse_cursor(&previous, &change)?,
                    members,
                    page,
                })
            }
            "seated" => {
                let (change, position): (String, String) = answer.rest()?;
                Ok(Joined::Seated {
                    newest: parse_cursor(&position, &change)?,
                })
            }
            "refused" => Ok(Joined::Refused),
            _ => Ok(Joined::UnknownRoom),
        }
    }

    /// Takes a seat for a user who still has one; the newest of the room then, or `None`.
    pub(crate) async fn restore(
        &self,
        room: RoomId,
        user: UserId,
        gateway: GatewayId,
    ) -> Result<Option<Cursor>, StoreError> {
        let keys = [
            key::seats(room),
            key::held(room.slot(), gateway),
            key::log(room),
            key::changes(room),
        ];
        let call = function(Function::Restore, &keys)
            .arg(room.prefix().to_string())
            .arg(user.to_string())
            .arg(gateway.to_string())
            .to_owned();
        let answer = Answer::of("restore", self.call(room.slot(), call).await?)?;
        if answer.reason != "ok" {
            return Ok(None);
        }
        let (change, position): (String, String) = answer.rest()?;
        parse_cursor(&position, &change).map(Some)
    }

    /// Gives a seat up; announces the leave when it was the user's last.
    pub(crate) async fn leave(&self, seat: &Seat<'_>, leaver_json: &str) -> Result<(), StoreError> {
        let room = seat.room;
        let keys = [
            key::members(room),
            key::seats(room),
            key::held(room.slot(), seat.gateway),
            key::log(room),
            key::changes(room),
        ];
        let call = function(Function::Leave, &keys)
            .arg(Channel::Rooms(room.slot()).to_string())
            .arg(room.prefix().to_string())
            .arg(seat.user.to_string())
            .arg(seat.gateway.to_string())
            .arg(seat.key)
            .arg(self.length_max())
            .arg(seat.body)
            .arg(leaver_json)
            .arg(self.recovery_window_ms)
            .to_owned();
        self.call(room, call).await.map(drop)
    }

    /// Messages before a moment, which count as read by the user from then on; `None` for a user
    /// who is no participant.
    pub(crate) async fn history(
        &self,
        room: RoomId,
        user: UserId,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Option<Page>, StoreError> {
        let keys = [
            key::log(room),
            key::reads(room),
            key::reactions(room),
            key::members(room),
        ];
        let before = before.map(|before| before.to_string()).unwrap_or_default();
        let call = function(Function::History, &keys)
            .arg(user.to_string())
            .arg(before)
            .arg(limit)
            .to_owned();
        let mut answer = Answer::of("history", self.call(room.slot(), call).await?)?;
        if answer.reason != "ok" {
            return Ok(None);
        }
        answer.take_page().map(Some)
    }

    /// Everything that happened in a room after `cursor`, or `None` when the room does not remember
    /// that far back or more happened than is allowed. Long gaps take several round trips.
    pub(crate) async fn missed(
        &self,
        room: RoomId,
        cursor: Cursor,
        allowance: &Allowance,
    ) -> Result<Option<Missed>, StoreError> {
        let (log, changes) = tokio::try_join!(
            self.messages_after(room, cursor.message, allowance),
            self.changes_after(room, cursor.change, allowance)
        )?;
        Ok(log.zip(changes).map(|((epoch, messages), changes)| Missed {
            epoch,
            messages,
            changes,
        }))
    }

    async fn messages_after(
        &self,
        room: RoomId,
        mut after: StreamPosition,
        allowance: &Allowance,
    ) -> Result<Option<(u64, Vec<(StreamPosition, String)>)>, StoreError> {
        let mut messages = Vec::new();
        loop {
            let call = function(Function::ReadLog, &[key::log(room)])
                .arg(after.to_string())
                .arg(CATCH_UP_PAGE)
                .to_owned();
            let answer = Answer::of("read_log", self.call(room.slot(), call).await?)?;
            if answer.reason != "ok" {
                return Ok(None);
            }
            let (epoch, page): (u64, Vec<(String, String)>) = answer.rest()?;
            let count = page.len();
            if messages.len() + count > allowance.messages || !allowance.take(&page) {
                return Ok(None);
            }
            for (position, json) in page {
                after = parse_position(&position)?;
                messages.push((after, json));
            }
            if count < CATCH_UP_PAGE {
                return Ok(Some((epoch, messages)));
            }
        }
    }

    async fn changes_after(
        &self,
        room: RoomId,
        mut after: StreamPosition,
        allowance: &Allowance,
    ) -> Result<Option<Vec<(StreamPosition, String)>>, StoreError> {
        let mut changes = Vec::new();
        loop {
            let call = function(Function::ReadChanges, &[key::changes(room)])
                .arg(after.to_string())
                .arg(CATCH_UP_PAGE)
                .to_owned();
            let answer = Answer::of("read_changes", self.call(room.slot(), call).await?)?;
            if answer.reason != "ok" {
                return Ok(None);
            }
            let (page,): (Vec<(String, String)>,) = answer.rest()?;
            let count = page.len();
            if !allowance.take(&page) {
                return Ok(None);
            }
            for (id, change) in page {
                after = parse_position(&id)?;
                changes.push((after, change));
            }
            if count < CATCH_UP_PAGE {
                return Ok(Some(changes));
            }
        }
    }

    /// How far rooms of one slot have got, in their order.
    pub(crate) async fn tails(&self, rooms: &[RoomId]) -> Result<Vec<Cursor>, StoreError> {
        let Some(first) = rooms.first() else {
            return Ok(Vec::new());
        };
        let keys = rooms
            .iter()
            .flat_map(|room| [key::log(*room), key::changes(*room)]);
        let call = function(Function::ReadTails, &keys.collect::<Vec<_>>());
        let answer = Answer::of("read_tails", self.call(first.slot(), call).await?)?;
        let (tails,): (Vec<(String, String)>,) = answer.rest()?;
        tails
            .iter()
            .map(|(position, change)| parse_cursor(position, change))
            .collect()
    }

    /// User objects of a room's participants.
    pub(crate) async fn participants(&self, room: RoomId) -> Result<Vec<String>, StoreError> {
        let call = cmd("HVALS").arg(key::members(room)).to_owned();
        convert("HVALS", self.call(room.slot(), call).await?)
    }

    pub(crate) async fn is_participant(
        &self,
        room: RoomId,
        user: UserId,
    ) -> Result<bool, StoreError> {
        let call = cmd("HEXISTS")
            .arg(key::members(room))
            .arg(user.to_string())
            .to_owned();
        convert("HEXISTS", self.call(room.slot(), call).await?)
    }

    /// The user object of a participant.
    pub(crate) async fn participant(
        &self,
        room: RoomId,
        user: UserId,
    ) -> Result<Option<String>, StoreError> {
        let call = cmd("HGET")
            .arg(key::members(room))
            .arg(user.to_string())
            .to_owned();
        convert("HGET", self.call(room.slot(), call).await?)
    }

    /// Replaces the user object of a participant and tells the room; nothing for anybody else.
    pub(crate) async fn update_participant(
        &self,
        room: RoomId,
        user: UserId,
        user_json: &str,
    ) -> Result<(), StoreError> {
        let call = function(Function::UpdateMember, &[key::members(room)])
            .arg(Channel::Rooms(room.slot()).to_string())
            .arg(room.prefix().to_string())
            .arg(user.to_string())
            .arg(user_json)
            .to_owned();
        self.call(room, call).await.map(drop)
    }

    /// Marks messages of one room as read, for many readers at once.
    pub(crate) async fn mark_read(
        &self,
        room: RoomId,
        marks: &[(UserId, Vec<MessageId>)],
    ) -> Result<(), StoreError> {
        let keys = [
            key::log(room),
            key::members(room),
            key::reads(room),
            key::changes(room),
        ];
        let mut call = function(Function::MarkRead, &keys);
        call.arg(Channel::Rooms(room.slot()).to_string())
            .arg(room.prefix().to_string())
            .arg(self.recovery_window_ms);
        for (user, messages) in marks {
            let messages: Vec<_> = messages.iter().map(MessageId::to_string).collect();
            call.arg(user.to_string()).arg(messages.join(","));
        }
        self.call(room, call).await.map(drop)
    }

    /// Adds or removes a reaction and tells the room.
    pub(crate) async fn react(
        &self,
        message: MessageId,
        user: UserId,
        reaction: &str,
        add: bool,
    ) -> Result<Reacted, StoreError> {
        let room = message.room();
        let keys = [
            key::log(room),
            key::members(room),
            key::reactions(room),
            key::changes(room),
        ];
        let call = function(Function::React, &keys)
            .arg(Channel::Rooms(room.slot()).to_string())
            .arg(room.prefix().to_string())
            .arg(message.to_string())
            .arg(user.to_string())
            .arg(reaction)
            .arg(if add { "add" } else { "remove" })
            .arg(REACTION_KINDS_MAX)
            .arg(self.recovery_window_ms)
            .to_owned();
        let answer = Answer::of("react", self.call(room, call).await?)?;
        Ok(match answer.reason.as_str() {
            "ok" => Reacted::Done,
            "refused" => Reacted::NotAMember,
            "full" => Reacted::TooManyKinds,
            _ => Reacted::UnknownMessage,
        })
    }

    // ------------------------------------------------------------------------------------- files

    /// The metadata of a file that `user` has uploaded, from then on readable by the participants of
    /// `room`; `None` when there is none.
    pub(crate) async fn share_file(
        &self,
        file: FileId,
        user: UserId,
        room: RoomId,
    ) -> Result<Option<File>, StoreError> {
        let call = function(Function::ShareFile, &[key::file(file)])
            .arg(user.to_string())
            .arg(room.to_string())
            .to_owned();
        let answer = Answer::of("share_file", self.call(file.slot(), call).await?)?;
        if answer.reason == "unknown" {
            return Ok(None);
        }
        let (filename, original_name, mime_type, size) = answer.rest()?;
        Ok(Some(File {
            filename,
            original_name,
            mime_type,
            size,
        }))
    }

    // ---------------------------------------------------------------------------------- gateways

    /// Renews this gateway's lease; `has_held` tells Redis that the gateway had one before.
    pub(crate) async fn renew_lease(
        &self,
        gateway: GatewayId,
        ttl: Duration,
        has_held: bool,
    ) -> Result<Lease, StoreError> {
        let slot = Slot::of_key(key::GATEWAY_LEASES.as_bytes());
        let keys = [
            key::GATEWAY_LEASES.to_owned(),
            key::GATEWAYS_REAPING.to_owned(),
        ];
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let call = function(Function::RenewLease, &keys)
            .arg(gateway.to_string())
            .arg(ttl_ms)
            .arg(flag(has_held))
            .to_owned();
        let answer = Answer::of("renew_lease", self.call(slot, call).await?)?;
        if answer.reason != "ok" {
            return Ok(Lease::Lost);
        }
        let (dead,): (String,) = answer.rest()?;
        Ok(Lease::Renewed {
            dead: dead.parse().ok(),
        })
    }

    /// Notes that a gateway may hold seats in a slot.
    pub(crate) async fn note_slot(&self, gateway: GatewayId, slot: Slot) -> Result<(), StoreError> {
        let slots = key::gateway_slots(gateway);
        let own = Slot::of_key(slots.as_bytes());
        let call = cmd("SADD").arg(slots).arg(slot.number()).to_owned();
        self.call(own, call).await.map(drop)
    }

    /// Slots in which a gateway may hold seats.
    pub(crate) async fn slots_of(&self, gateway: GatewayId) -> Result<Vec<Slot>, StoreError> {
        let slots = key::gateway_slots(gateway);
        let own = Slot::of_key(slots.as_bytes());
        let call = cmd("SMEMBERS").arg(slots).to_owned();
        let slots: Vec<u16> = convert("SMEMBERS", self.call(own, call).await?)?;
        Ok(slots.into_iter().filter_map(Slot::new).collect())
    }

    /// Some of the seats that a gateway holds in a slot; giving them up removes them.
    pub(crate) async fn held_seats(
        &self,
        gateway: GatewayId,
        slot: Slot,
        count: u32,
    ) -> Result<Vec<(RoomId, UserId)>, StoreError> {
        let call = cmd("SRANDMEMBER")
            .arg(key::held(slot, gateway))
            .arg(count)
            .to_owned();
        let held: Vec<String> = convert("SRANDMEMBER", self.call(slot, call).await?)?;
        let seat = |text: &String| {
            let (room, user) = text.split_once(' ')?;
            Some((RoomId::from_prefix(room).ok()?, user.parse().ok()?))
        };
        Ok(held.iter().filter_map(seat).collect())
    }

    /// Forgets a gateway whose seats were all given up. Three commands, one slot.
    pub(crate) async fn forget_gateway(&self, gateway: GatewayId) -> Result<(), StoreError> {
        let slot = Slot::of_key(key::GATEWAY_LEASES.as_bytes());
        let gateway_text = gateway.to_string();
        let forget = |key: &str| cmd("ZREM").arg(key).arg(&gateway_text).to_owned();
        self.call(slot, forget(key::GATEWAY_LEASES)).await?;
        self.call(slot, forget(key::GATEWAYS_REAPING)).await?;
        let call = cmd("DEL").arg(key::gateway_slots(gateway)).to_owned();
        self.call(slot, call).await.map(drop)
    }

    // -------------------------------------------------------------------------------------- calls

    /// Calls what may be called twice without harm.
    async fn call(&self, subject: impl Into<Subject>, call: Cmd) -> Result<Value, StoreError> {
        self.cluster.call(subject, |_| call.clone()).await
    }

    fn length_max(&self) -> String {
        self.log_length_max
            .map(|length| length.to_string())
            .unwrap_or_default()
    }
}

/// What `read_page` of the function library answers: whether there are older messages, number and
/// JSON of each, its reactions, and what each member has read.
type RawPage = (
    bool,
    Vec<(u64, String)>,
    Vec<Option<String>>,
    Vec<(String, String)>,
);

impl Page {
    /// Puts reactions and readers into the messages of a page.
    fn new((has_more, messages, reactions, reads): RawPage) -> Self {
        Self {
            messages: record::page_messages(&messages, &reactions, &reads),
            has_more,
        }
    }
}

/// An answer of the function library: a reason and what follows it.
struct Answer {
    function: &'static str,
    reason: String,
    rest: Vec<Value>,
}

impl Answer {
    fn of(function: &'static str, value: Value) -> Result<Self, StoreError> {
        let Value::Array(mut rest) = value else {
            return Err(StoreError::Unexpected(function));
        };
        if rest.is_empty() {
            return Err(StoreError::Unexpected(function));
        }
        let reason = convert(function, rest.remove(0))?;
        Ok(Self {
            function,
            reason,
            rest,
        })
    }

    /// Takes the page off that the answer ends in.
    fn take_page(&mut self) -> Result<Page, StoreError> {
        let start = self
            .rest
            .len()
            .checked_sub(4)
            .ok_or(StoreError::Unexpected(self.function))?;
        let page = self.rest.split_off(start);
        convert(self.function, Value::Array(page)).map(Page::new)
    }

    fn rest<T: FromRedisValue>(self) -> Result<T, StoreError> {
        convert(self.function, Value::Array(self.rest))
    }
}

fn convert<T: FromRedisValue>(call: &'static str, value: Value) -> Result<T, StoreError> {
    T::from_redis_value(value).map_err(|_| StoreError::Unexpected(call))
}

fn parse_position(text: &str) -> Result<StreamPosition, StoreError> {
    text.parse()
        .map_err(|_| StoreError::Unexpected("a stream position"))
}

fn parse_cursor(position: &str, change: &str) -> Result<Cursor, StoreError> {
    Ok(Cursor {
        message: parse_position(position)?,
        change: parse_position(change)?,
    })
}

fn function(function: Function, keys: &[String]) -> Cmd {
    let mut call = cmd("FCALL");
    call.arg(function.name()).arg(keys.len()).arg(keys);
    call
}

const fn flag(set: bool) -> &'static str {
    if set { "1" } else { "0" }
}
