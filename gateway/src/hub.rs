//! Rooms and users of this gateway, and the fan-out to their sockets.
//!
//! The bus brings messages in; the hub puts each room's into order, frames them once and hands the
//! same bytes to every member's connection. It never asks Redis: where something is missing it
//! returns a [`Chore`] for the receiver.
//!
//! # Order
//! A message, or a change to one, is delivered when the predecessor that it names is the last one
//! delivered here. An older position was seen already (or comes from a master that no longer is one)
//! and is dropped; anything else is a gap: the room waits for [`Hub::fill`] while what arrives queues
//! up. A gap that Redis does not remember ends in [`Hub::dismiss`].

mod room;

use std::{
    collections::{
        HashMap,
        hash_map::{Entry, RandomState},
    },
    hash::{BuildHasher, Hash},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use slotcast_proto::{
    id::{RoomId, UserId},
    schema::bus::RoomMessage,
    slot::Slot,
    wire::{event::event_packet, offset::Cursor},
};
use tokio::{
    runtime::Handle,
    task::{JoinSet, yield_now},
    time::Instant,
};

use self::room::{Batch, Room, Step};
use crate::{
    bus::{Live, Subscription},
    close::Close,
    connection::Connection,
    session::{Profile, User},
    store::Missed,
    websocket::append_text_frame,
};

/// Locks per map: more than cores, so that two rarely meet.
const LOCKS: usize = 64;

/// Sockets written between two chances for other tasks to run.
const FAN_OUT_SLICE: usize = 256;

/// Fewer sockets than this are not worth a task of their own.
const FAN_OUT_MIN: usize = 1024;

/// Work that the hub cannot do itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Chore {
    /// Read what came after this in the room, then call [`Hub::fill`], or [`Hub::dismiss`] if it is
    /// not known any more.
    Fill(RoomId, Cursor),
    /// Wait this long, read the room's participants, then call [`Hub::announce_participants`].
    Participants(RoomId, Duration),
}

/// Everything that this gateway's sockets share.
pub(crate) struct Hub {
    rooms: LockMap<RoomId, Room>,
    users: LockMap<UserId, Presence>,
    /// Seats of connections that were lost and may come back.
    parked: Mutex<HashMap<(UserId, RoomId), usize>>,
    /// Control messages taken in so far.
    control_news: AtomicU64,
    lobby: Mutex<Vec<u8>>,
    participants_interval: Duration,
}

/// A user's connections here.
struct Presence {
    user: Arc<User>,
    connections: Vec<Arc<Connection>>,
    /// Keeps control messages for the user coming.
    _control: Subscription,
}

impl Hub {
    pub(crate) fn new(participants_interval: Duration) -> Self {
        Self {
            rooms: LockMap::new(),
            users: LockMap::new(),
            parked: Mutex::default(),
            control_news: AtomicU64::new(0),
            lobby: Mutex::default(),
            participants_interval,
        }
    }

    // ------------------------------------------------------------------------------------- users

    /// Adds a connection of a user; the record that all of them share.
    pub(crate) fn add_connection(
        &self,
        id: UserId,
        profile: Profile,
        connection: &Arc<Connection>,
        control: Subscription,
    ) -> Arc<User> {
        let mut users = self.users.lock(&id);
        let presence = match users.entry(id) {
            Entry::Occupied(known) => {
                known.get().user.set_profile(profile);
                known.into_mut()
            }
            Entry::Vacant(place) => place.insert(Presence {
                user: Arc::new(User::new(id, profile)),
                connections: Vec::with_capacity(1),
                _control: control,
            }),
        };
        presence.connections.push(Arc::clone(connection));
        Arc::clone(&presence.user)
    }

    pub(crate) fn remove_connection(&self, user: UserId, connection: &Arc<Connection>) {
        let mut users = self.users.lock(&user);
        let Some(presence) = users.get_mut(&user) else {
            return;
        };
        presence
            .connections
            .retain(|other| !Arc::ptr_eq(other, connection));
        if presence.connections.is_empty() {
            users.remove(&user);
        }
    }

    pub(crate) fn connections_of(&self, user: UserId) -> Vec<Arc<Connection>> {
        let users = self.users.lock(&user);
        users
            .get(&user)
            .map(|presence| presence.connections.clone())
            .unwrap_or_default()
    }

    /// Counts control messages for users: whoever finds it changed may have missed one.
    pub(crate) fn control_news(&self) -> u64 {
        self.control_news.load(Ordering::Acquire)
    }

    /// Notes that a control message is being taken in.
    pub(crate) fn note_control_news(&self) {
        self.control_news.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether a connection of the user is in the room here, or may come back to it.
    pub(crate) fn is_seated(&self, user: UserId, room: RoomId) -> bool {
        let is_in = |connection: &Arc<Connection>| {
            connection
                .session()
                .get()
                .is_some_and(|session| session.is_in(room))
        };
        self.lock_parked().contains_key(&(user, room))
            || self.connections_of(user).iter().any(is_in)
    }

    /// Keeps the seats of a lost connection.
    pub(crate) fn park(&self, user: UserId, rooms: &[RoomId]) {
        let mut parked = self.lock_parked();
        for room in rooms {
            *parked.entry((user, *room)).or_default() += 1;
        }
    }

    /// Ends what [`Hub::park`] began.
    pub(crate) fn unpark(&self, user: UserId, rooms: &[RoomId]) {
        let mut parked = self.lock_parked();
        for room in rooms {
            if let Some(count) = parked.get_mut(&(user, *room)) {
                *count -= 1;
                if *count == 0 {
                    parked.remove(&(user, *room));
                }
            }
        }
    }

    fn lock_parked(&self) -> MutexGuard<'_, HashMap<(UserId, RoomId), usize>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connections of all users in `slot`.
    pub(crate) fn connections_in(&self, slot: Slot) -> Vec<Arc<Connection>> {
        let mut found = Vec::new();
        self.users.for_each(|user, presence| {
            if user.slot() == slot {
                found.extend(presence.connections.iter().cloned());
            }
        });
        found
    }

    // ------------------------------------------------------------------------------------- lobby

    /// Gathers an event for every socket; true if it is the first since the last
    /// [`Hub::flush_lobby`], which the caller then owes.
    pub(crate) fn gather_lobby(&self, name: &str, json: &str) -> bool {
        let mut lobby = self.lobby.lock().unwrap_or_else(PoisonError::into_inner);
        let first = lobby.is_empty();
        append_text_frame(&mut lobby, &event_packet(name, json));
        first
    }

    /// Sends what was gathered for the lobby.
    pub(crate) async fn flush_lobby(&self) {
        let gathered = {
            let mut lobby = self.lobby.lock().unwrap_or_else(PoisonError::into_inner);
            Bytes::from(std::mem::take(&mut *lobby))
        };
        for part in 0..LOCKS {
            let mut connections = Vec::new();
            self.users.for_part(part, |presence: &Presence| {
                connections.extend(presence.connections.iter().cloned());
            });
            for slice in connections.chunks(FAN_OUT_SLICE) {
                for connection in slice {
                    connection.send(&gathered);
                }
                yield_now().await;
            }
        }
    }

    // ------------------------------------------------------------------------------------- rooms

    /// Puts a connection into a room, creating the room here for its first member.
    ///
    /// Whoever joins holds the room on the connection before ([`Connection::hold`]) and calls
    /// [`Hub::start`] when Redis has answered.
    pub(crate) fn enter(
        &self,
        room: RoomId,
        connection: &Arc<Connection>,
        subscribe: impl FnOnce() -> Subscription,
    ) -> Live {
        let mut rooms = self.rooms.lock(&room);
        let entry = rooms
            .entry(room)
            .or_insert_with(|| Room::new(room, subscribe()));
        entry.add(connection);
        entry.subscription.live()
    }

    /// Takes a connection out of a room, and the room away with its last member.
    pub(crate) fn exit(&self, room: RoomId, connection: &Arc<Connection>) {
        let mut rooms = self.rooms.lock(&room);
        let Some(entry) = rooms.get_mut(&room) else {
            return;
        };
        entry.remove(connection);
        if entry.member_count() == 0 {
            rooms.remove(&room);
        }
    }

    /// Tells a room where it stood when a member joined: what comes after is delivered. True if
    /// something waited for that, then the caller owes [`Hub::deliver`].
    pub(crate) fn start(&self, room: RoomId, cursor: Cursor) -> bool {
        let mut rooms = self.rooms.lock(&room);
        rooms.get_mut(&room).is_some_and(|entry| {
            entry.start(cursor);
            entry.is_ready()
        })
    }

    /// Takes a message of the bus in; true if the room has something to deliver and nobody at it,
    /// then the caller owes [`Hub::deliver`].
    pub(crate) fn accept(&self, room: RoomId, message: &RoomMessage<'_>) -> bool {
        match self.rooms.lock(&room).get_mut(&room) {
            Some(entry) => {
                entry.push(message);
                entry.is_ready()
            }
            None => false,
        }
    }

    /// Delivers what a room has queued, in order, until nothing is left or something is missing.
    pub(crate) async fn deliver(&self, room: RoomId) -> Option<Chore> {
        if !self.claim(room) {
            return None;
        }
        loop {
            let step = self.rooms.lock(&room).get_mut(&room).map(Room::step);
            match step {
                Some(Step::Send(batch)) => fan_out(room, batch).await,
                Some(Step::Missing(after)) => return Some(Chore::Fill(room, after)),
                Some(Step::Done) | None => return None,
            }
        }
    }

    /// Marks the room as being delivered; false if it is already, or waits for its log.
    fn claim(&self, room: RoomId) -> bool {
        self.rooms
            .lock(&room)
            .get_mut(&room)
            .is_some_and(Room::claim)
    }

    /// Gives a room what it missed, up to the newest.
    pub(crate) async fn fill(&self, room: RoomId, missed: &Missed) -> Option<Chore> {
        if let Some(entry) = self.rooms.lock(&room).get_mut(&room) {
            entry.fill(missed);
        }
        self.deliver(room).await
    }

    /// Closes everybody in a room: what they missed is not known any more, so they must load the room
    /// anew.
    pub(crate) fn dismiss(&self, room: RoomId) {
        let entry = self.rooms.lock(&room).remove(&room);
        for member in entry.iter().flat_map(Room::members) {
            member.close(Close::Behind);
        }
    }

    /// The rooms of which it is known how far their members have got.
    pub(crate) fn begun_rooms(&self) -> Vec<RoomId> {
        let mut begun = Vec::new();
        self.rooms.for_each(|room, entry| {
            if entry.has_begun() {
                begun.push(*room);
            }
        });
        begun
    }

    /// Whether a room's members have not got this far.
    pub(crate) fn is_behind(&self, room: RoomId, cursor: Cursor) -> bool {
        let rooms = self.rooms.lock(&room);
        rooms
            .get(&room)
            .is_some_and(|entry| entry.is_behind(cursor))
    }

    /// Doubts every room of a slot, whose channel was gone for a while; each wants
    /// [`Hub::deliver`] and its participants announced. A room whose first member's join is still being
    /// answered begins in doubt.
    pub(crate) fn doubt_rooms(&self, slot: Slot) -> Vec<RoomId> {
        let mut doubted = Vec::new();
        self.rooms.for_each_mut(|room, entry| {
            if room.slot() == slot {
                entry.doubt();
                if entry.has_begun() {
                    doubted.push(*room);
                }
            }
        });
        doubted
    }

    /// Doubts one room, which then wants [`Hub::deliver`] and its participants announced; false if it
    /// is none of this gateway's, or begins only.
    pub(crate) fn doubt(&self, room: RoomId) -> bool {
        match self.rooms.lock(&room).get_mut(&room) {
            Some(entry) => {
                entry.doubt();
                entry.has_begun()
            }
            None => false,
        }
    }

    /// Connections in the room here.
    pub(crate) fn member_count(&self, room: RoomId) -> usize {
        self.rooms
            .lock(&room)
            .get(&room)
            .map_or(0, Room::member_count)
    }

    /// Notes that a room's participants changed; a chore if no announcement is on its way.
    pub(crate) fn participants_changed(&self, room: RoomId, leaver: Option<&str>) -> Option<Chore> {
        let mut rooms = self.rooms.lock(&room);
        let wait = rooms
            .get_mut(&room)?
            .participants_changed(leaver, Instant::now())?;
        Some(Chore::Participants(room, wait))
    }

    /// Begins an announcement of a room's participants: what changes from here on is news again, so
    /// the caller reads the participants after this.
    pub(crate) fn begin_announcement(&self, room: RoomId) {
        if let Some(entry) = self.rooms.lock(&room).get_mut(&room) {
            entry.begin_announcement();
        }
    }

    /// Queues a room's participants (JSON user objects), then who left; the caller owes
    /// [`Hub::deliver`], and the chore if participants changed meanwhile.
    pub(crate) fn announce_participants(
        &self,
        room: RoomId,
        participants: &[String],
    ) -> Option<Chore> {
        let mut rooms = self.rooms.lock(&room);
        let entry = rooms.get_mut(&room)?;
        let now = Instant::now();
        let wait = entry.announce_participants(participants, self.participants_interval, now)?;
        Some(Chore::Participants(room, wait))
    }

    /// The seats that this gateway holds: each user of each room once.
    pub(crate) fn seats(&self) -> Vec<(RoomId, Arc<User>)> {
        let mut seats = Vec::new();
        self.users.for_each(|_, presence| {
            let mut rooms: Vec<_> = presence
                .connections
                .iter()
                .filter_map(|connection| connection.session().get())
                .flat_map(|session| session.rooms())
                .collect();
            rooms.sort_unstable();
            rooms.dedup();
            seats.extend(
                rooms
                    .into_iter()
                    .map(|room| (room, Arc::clone(&presence.user))),
            );
        });
        seats
    }
}

/// Writes a batch to every member: those of a large room by as many tasks as there are workers.
/// Members were fixed when the batch was taken; whoever joins later starts after it.
async fn fan_out(room: RoomId, batch: Batch) {
    let members = batch.members.len();
    let tasks = (members / FAN_OUT_MIN).clamp(1, Handle::current().metrics().num_workers());
    if tasks == 1 {
        return write(room, &batch, 0..members).await;
    }
    let batch = Arc::new(batch);
    let share = members.div_ceil(tasks);
    let ranges = (0..tasks).map(|task| task * share..members.min((task + 1) * share));
    let mut set = JoinSet::new();
    for range in ranges {
        let batch = Arc::clone(&batch);
        set.spawn(async move { write(room, &batch, range).await });
    }
    // The next batch must find this one with everybody.
    while set.join_next().await.is_some() {}
}

/// Writes a batch to some of its members, letting others run in between.
async fn write(room: RoomId, batch: &Batch, range: Range<usize>) {
    let members = batch.members.get(range).unwrap_or_default();
    for (at, slice) in members.chunks(FAN_OUT_SLICE).enumerate() {
        if at > 0 {
            yield_now().await;
        }
        for (member, next) in slice
            .iter()
            .zip(slice.iter().skip(1).map(Some).chain([None]))
        {
            if let Some(next) = next {
                next.prefetch();
            }
            member.deliver(room, &batch.all, &batch.parts);
        }
    }
}

/// A map cut into parts with a lock each.
struct LockMap<K, V> {
    hasher: RandomState,
    parts: Vec<Mutex<HashMap<K, V>>>,
}

impl<K: Hash + Eq, V> LockMap<K, V> {
    fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            parts: (0..LOCKS).map(|_| Mutex::default()).collect(),
        }
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the remainder is smaller than the count of parts"
    )]
    fn lock(&self, key: &K) -> MutexGuard<'_, HashMap<K, V>> {
        let hash = usize::try_from(self.hasher.hash_one(key) % LOCKS as u64).unwrap_or_default();
        self.parts[hash]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn for_part(&self, part: usize, mut visit: impl FnMut(&V)) {
        if let Some(part) = self.parts.get(part) {
            part.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .values()
                .for_each(&mut visit);
        }
    }

    fn for_each(&self, mut visit: impl FnMut(&K, &V)) {
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.iter().for_each(|(key, value)| visit(key, value));
        }
    }

    fn for_each_mut(&self, mut visit: impl FnMut(&K, &mut V)) {
        for part in &self.parts {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.iter_mut().for_each(|(key, value)| visit(key, value));
        }
    }
}
