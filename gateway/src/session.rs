//! Who sits behind a connection, as this gateway knows it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use slotcast_proto::{
    id::{RoomId, SessionId, UserId},
    wire::event::User as UserView,
};
use tokio::time::Instant;

use crate::store::HeldConnection;

/// A session is checked and put off in Redis at most this often for a user who keeps writing.
const CHECK_INTERVAL_SECONDS: u32 = 60;

/// The login behind one connection; set once, when the client's CONNECT is accepted.
pub(crate) struct Session {
    pub(crate) user: Arc<User>,
    pub(crate) id: SessionId,
    /// Which of the connections it is that went on under the same private id.
    pub(crate) generation: u64,
    /// Names the connection to whichever gateway it comes back to; set before the client knows it.
    pid: AtomicU64,
    rooms: Mutex<Vec<RoomId>>,
    /// Second of the last check since the process started, or [`DOUBTED`], or [`ENDED`].
    checked: AtomicU32,
}

/// The session is over.
const ENDED: u32 = u32::MAX;

/// News of the session may have been missed.
const DOUBTED: u32 = u32::MAX - 1;

impl Session {
    pub(crate) fn new(user: Arc<User>, id: SessionId, generation: u64, now_seconds: u32) -> Self {
        Self {
            user,
            id,
            generation,
            pid: AtomicU64::new(0),
            rooms: Mutex::default(),
            checked: AtomicU32::new(now_seconds),
        }
    }

    /// The private id, as the client knows it.
    pub(crate) fn pid(&self) -> String {
        key_text(self.pid.load(Ordering::Relaxed))
    }

    /// Sets the private id.
    pub(crate) fn set_pid(&self, pid: u64) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// Whether the client was let in, and Redis remembers the connection under its private id.
    pub(crate) fn has_pid(&self) -> bool {
        self.pid.load(Ordering::Relaxed) != 0
    }

    /// The rooms that this connection joined.
    pub(crate) fn rooms(&self) -> Vec<RoomId> {
        self.lock_rooms().clone()
    }

    pub(crate) fn is_in(&self, room: RoomId) -> bool {
        self.lock_rooms().contains(&room)
    }

    pub(crate) fn enter(&self, room: RoomId) {
        let mut rooms = self.lock_rooms();
        if !rooms.contains(&room) {
            rooms.push(room);
        }
    }

    /// True if the connection was in the room.
    pub(crate) fn exit(&self, room: RoomId) -> bool {
        let mut rooms = self.lock_rooms();
        let place = rooms.iter().position(|other| *other == room);
        place.map(|place| rooms.swap_remove(place)).is_some()
    }

    /// What is to be remembered of the connection while it lives.
    pub(crate) fn held<'a>(&'a self, rooms: &'a [RoomId]) -> HeldConnection<'a> {
        HeldConnection {
            user: self.user.id,
            session: self.id,
            pid: self.pid(),
            generation: self.generation,
            is_parked: false,
            rooms,
        }
    }

    fn lock_rooms(&self) -> MutexGuard<'_, Vec<RoomId>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn end(&self) {
        self.checked.store(ENDED, Ordering::Relaxed);
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.checked.load(Ordering::Relaxed) == ENDED
    }

    /// Whether the session was not checked for a while.
    pub(crate) fn wants_check(&self, now_seconds: u32) -> bool {
        let checked = self.checked.load(Ordering::Relaxed);
        checked == DOUBTED || now_seconds.saturating_sub(checked) >= CHECK_INTERVAL_SECONDS
    }

    /// Notes a check that found the session alive, unless it ended meanwhile.
    pub(crate) fn note_check(&self, now_seconds: u32) {
        self.replace_check(now_seconds);
    }

    /// Asks for a check before the next message: news of the session may have been missed.
    pub(crate) fn doubt(&self) {
        self.replace_check(DOUBTED);
    }

    fn replace_check(&self, seconds: u32) {
        let alive = |checked| (checked != ENDED).then_some(seconds);
        let _ = self
            .checked
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, alive);
    }
}

/// A random key as text: 16 lowercase hexadecimal digits.
pub(crate) fn key_text(key: u64) -> String {
    format!("{key:016x}")
}

/// Reads what [`key_text`] wrote.
pub(crate) fn parse_key(text: &str) -> Option<u64> {
    let key = u64::from_str_radix(text, 16).ok()?;
    (key_text(key) == text).then_some(key)
}

/// A user with at least one connection here; shared by them.
pub(crate) struct User {
    pub(crate) id: UserId,
    profile: RwLock<Profile>,
    sent: Mutex<RateWindow>,
}

/// What others see of a user: the user object as clients see it, JSON with at least a name.
#[derive(Clone)]
pub(crate) struct Profile(Arc<str>);

impl Profile {
    pub(crate) fn new(id: UserId, name: &str, email: &str, profile_image: &str) -> Self {
        let id = id.to_string();
        let view = UserView {
            id: &id,
            name,
            email,
            profile_image,
        };
        Self(view.json().into())
    }

    /// Takes a user object as another process wrote it.
    pub(crate) fn from_json(json: &str) -> Option<Self> {
        let profile = Self(json.into());
        let has_name = profile.read_name().is_some();
        has_name.then_some(profile)
    }

    pub(crate) fn json(&self) -> &str {
        &self.0
    }

    /// The name, read from the JSON: only coming and going ask for it.
    pub(crate) fn name(&self) -> String {
        self.read_name().unwrap_or_default()
    }

    fn read_name(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Named {
            name: String,
        }
        let Named { name } = serde_json::from_str(&self.0).ok()?;
        Some(name)
    }
}

impl User {
    pub(crate) fn new(id: UserId, profile: Profile) -> Self {
        Self {
            id,
            profile: RwLock::new(profile),
            sent: Mutex::default(),
        }
    }

    pub(crate) fn profile(&self) -> Profile {
        self.profile
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_profile(&self, profile: Profile) {
        *self.profile.write().unwrap_or_else(PoisonError::into_inner) = profile;
    }

    /// Counts one message; after `limit` of them in a window, how long the window still lasts.
    pub(crate) fn count_message(
        &self,
        limit: u32,
        window: Duration,
        now: Instant,
    ) -> Result<(), Duration> {
        self.sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .count(limit, window, now)
    }
}

/// Messages counted in a fixed window that opens with the first one.
#[derive(Default)]
struct RateWindow {
    opened: Option<Instant>,
    count: u32,
}

impl RateWindow {
    fn count(&mut self, limit: u32, window: Duration, now: Instant) -> Result<(), Duration> {
        let age = self
            .opened
            .map(|opened| now.saturating_duration_since(opened));
        match age {
            Some(age) if age < window => {
                if self.count >= limit {
                    return Err(window - age);
                }
                self.count += 1;
            }
            _ => {
                *self = Self {
                    opened: Some(now),
                    count: 1,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use slotcast_proto::slot::Slot;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn messages_beyond_the_limit_wait_for_the_next_window() {
        let window = Duration::from_secs(60);
        let start = Instant::now();
        let mut sent = RateWindow::default();
        assert!(sent.count(2, window, start).is_ok());
        assert!(
            sent.count(2, window, start + Duration::from_secs(1))
                .is_ok()
        );
        let refused = sent.count(2, window, start + Duration::from_secs(15));
        assert_eq!(refused, Err(Duration::from_secs(45)));
        assert!(sent.count(2, window, start + window).is_ok());
    }

    #[test]
    fn ended_session_stays_ended() {
        let session = session();
        session.end();
        session.note_check(5);
        session.doubt();
        assert!(session.is_ended());
    }

    #[test]
    fn session_wants_a_check_after_a_minute_or_in_doubt() {
        let session = session();
        session.note_check(100);
        assert!(!session.wants_check(159));
        assert!(session.wants_check(160));
        session.note_check(160);
        session.doubt();
        assert!(session.wants_check(161) && !session.is_ended());
    }

    #[test]
    fn rooms_are_entered_once_and_left_once() {
        let session = session();
        let room = RoomId::new(Slot::new(1).unwrap(), 2);
        session.enter(room);
        session.enter(room);
        assert_eq!(session.rooms(), [room]);
        assert!(session.exit(room) && !session.exit(room) && !session.is_in(room));
    }

    #[test]
    fn profile_reads_the_name_of_a_user_object() {
        let id = UserId::new(Slot::new(1).unwrap(), 2);
        let profile = Profile::new(id, "홍길동", "a@b.c", "");
        assert_eq!(profile.name(), "홍길동");
        assert_eq!(Profile::from_json(profile.json()).unwrap().name(), "홍길동");
        assert!(Profile::from_json("[]").is_none());
    }

    fn session() -> Session {
        let id = UserId::new(Slot::new(1).unwrap(), 2);
        let user = Arc::new(User::new(id, Profile::new(id, "name", "a@b.c", "")));
        Session::new(user, SessionId::new(3), 4, 0)
    }
}
