//! Takes what the links read to the hub, and does what the hub cannot: asks the store.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use slotcast_proto::{
    id::{RoomId, UserId},
    schema::{
        bus::{BusMessage, RoomMessage, UserMessage},
        key::Channel,
    },
};
use tokio::time::sleep;
use tracing::warn;

use crate::{
    app::App, cluster::StoreError, connection::Connection, handler, hub::Chore, store::Allowance,
};

/// Rooms with more members than this are written by a task of their own, so that small rooms on the
/// same link do not wait.
const INLINE_MEMBERS_MAX: usize = 256;

/// Longest gap that is filled, in messages; beyond it members load the room anew, which costs less.
const GAP_MESSAGES_MAX: usize = 10_000;

/// Longest gap that is filled, in bytes.
const GAP_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Pause before a store that did not answer is asked again for a room's log.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Time in which further hints of one room cost no reading of its log.
const HINT_WINDOW: Duration = Duration::from_millis(20);

/// The way from the bus to the hub.
pub(crate) struct Receiver {
    app: Arc<App>,
    hinted: Arc<HintedRooms>,
}

impl Receiver {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self {
            app,
            hinted: Arc::default(),
        }
    }

    /// Takes messages in, in the order of their arrival, and delivers to the rooms they concern.
    pub(super) async fn receive(&self, messages: &[&[u8]]) {
        let mut rooms: Vec<RoomId> = Vec::new();
        for message in messages {
            let parsed = simdutf8::basic::from_utf8(message)
                .ok()
                .map(BusMessage::parse);
            match parsed {
                Some(Ok(BusMessage::Room(room, message))) => {
                    if self.take_room_message(room, &message) && !rooms.contains(&room) {
                        rooms.push(room);
                    }
                }
                Some(Ok(BusMessage::User(user, message))) => self.take_user_message(user, &message),
                Some(Ok(BusMessage::Lobby(event))) => self.take_lobby(event.name, event.json),
                _ => {
                    self.app.metrics.bus_unknown_messages.inc();
                }
            }
        }
        for room in rooms {
            self.deliver(room).await;
        }
    }

    /// True if the room waits for delivery.
    fn take_room_message(&self, room: RoomId, message: &RoomMessage<'_>) -> bool {
        match message {
            RoomMessage::Participants { leaver } => {
                let chore = self.app.hub.participants_changed(room, *leaver);
                self.spawn(chore);
                false
            }
            RoomMessage::Unheard => {
                self.read(room, true);
                false
            }
            RoomMessage::Appended(_) | RoomMessage::Changed { .. } if self.app.is_suspect(room) => {
                self.read(room, false);
                false
            }
            RoomMessage::Appended(_) | RoomMessage::Changed { .. } | RoomMessage::Event(_) => {
                self.app.hub.accept(room, message)
            }
        }
    }

    /// Has the room's log say what there is to deliver; the participants may have changed as well.
    fn read(&self, room: RoomId, participants: bool) {
        if self.hinted.note(room, participants) {
            let (app, hinted) = (Arc::clone(&self.app), Arc::clone(&self.hinted));
            tokio::spawn(async move { hinted.read(&app, room).await });
        }
    }

    fn take_user_message(&self, user: UserId, message: &UserMessage<'_>) {
        self.app.hub.note_control_news();
        match message {
            UserMessage::SessionReplaced(session) => {
                handler::session::replaced(&self.app, user, *session);
            }
            UserMessage::LoggedOut => handler::session::logged_out(&self.app, user),
            UserMessage::TakenOver { pid, generation } => {
                handler::session::taken_over(&self.app, user, pid, *generation);
            }
            UserMessage::Connected { session, notice } => {
                handler::session::connected_elsewhere(&self.app, user, *session, notice);
            }
            UserMessage::ProfileChanged { json } => {
                handler::session::profile_changed(&self.app, user, json);
            }
            UserMessage::Unheard => doubt_sessions(&self.app.hub.connections_of(user)),
        }
    }

    fn take_lobby(&self, name: &str, json: &str) {
        if self.app.hub.gather_lobby(name, json) {
            let app = Arc::clone(&self.app);
            tokio::spawn(async move {
                sleep(app.config.gather_window).await;
                app.hub.flush_lobby().await;
            });
        }
    }

    /// Counts how long a channel was gone.
    pub(super) fn observe_loss(&self, lost_for: Duration) {
        self.app
            .metrics
            .bus_resubscribe_seconds
            .observe(lost_for.as_secs_f64());
    }

    /// A channel is subscribed again, or its slot has another master: what it carried meanwhile is caught up.
    pub(super) fn catch_up(&self, channel: Channel) {
        match channel {
            Channel::Rooms(slot) => {
                for room in self.app.hub.doubt_rooms(slot) {
                    let app = Arc::clone(&self.app);
                    let chore = app.hub.participants_changed(room, None);
                    self.spawn(chore);
                    tokio::spawn(deliver(app, room));
                }
            }
            Channel::Users(slot) => {
                doubt_sessions(&self.app.hub.connections_in(slot));
            }
            Channel::Lobby => {}
        }
    }

    async fn deliver(&self, room: RoomId) {
        if self.app.hub.member_count(room) > INLINE_MEMBERS_MAX {
            tokio::spawn(deliver(Arc::clone(&self.app), room));
            return;
        }
        let chore = self.app.hub.deliver(room).await;
        self.spawn(chore);
    }

    fn spawn(&self, chore: Option<Chore>) {
        if chore.is_some() {
            let app = Arc::clone(&self.app);
            tokio::spawn(async move { perform(&app, chore).await });
        }
    }
}

fn doubt_sessions(connections: &[Arc<Connection>]) {
    for connection in connections {
        if let Some(session) = connection.session().get() {
            session.doubt();
        }
    }
}

/// Rooms whose logs are being read because of a hint, each by one task: a room that is doubted again
/// and again while its log is read would never get to deliver.
#[derive(Default)]
struct HintedRooms {
    rooms: Mutex<HashMap<RoomId, Reading>>,
}

struct Reading {
    /// Another hint came since it began.
    again: bool,
    /// The participants may have changed.
    participants: bool,
}

impl HintedRooms {
    /// Notes a hint; true if the caller is to [`HintedRooms::read`].
    fn note(&self, room: RoomId, participants: bool) -> bool {
        match self.rooms().entry(room) {
            Entry::Occupied(mut reading) => {
                reading.get_mut().again = true;
                reading.get_mut().participants |= participants;
                false
            }
            Entry::Vacant(place) => {
                place.insert(Reading {
                    again: false,
                    participants,
                });
                true
            }
        }
    }

    /// Delivers what was not heard, until no hint has come for a while.
    async fn read(&self, app: &Arc<App>, room: RoomId) {
        loop {
            if app.hub.doubt(room) {
                deliver(Arc::clone(app), room).await;
                if self.take_participants(room) {
                    let chore = app.hub.participants_changed(room, None);
                    let app = Arc::clone(app);
                    tokio::spawn(async move { perform(&app, chore).await });
                }
            }
            sleep(HINT_WINDOW).await;
            if !self.again(room) {
                return;
            }
        }
    }

    fn take_participants(&self, room: RoomId) -> bool {
        let mut rooms = self.rooms();
        let reading = rooms.get_mut(&room);
        reading.is_some_and(|reading| std::mem::take(&mut reading.participants))
    }

    /// Whether there were hints since the last reading; forgets the room otherwise.
    fn again(&self, room: RoomId) -> bool {
        let mut rooms = self.rooms();
        let reading = rooms.get_mut(&room);
        let again = reading.is_some_and(|reading| std::mem::take(&mut reading.again));
        if !again {
            rooms.remove(&room);
        }
        again
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<RoomId, Reading>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Delivers what waits in a room, reading its log where something is missing.
pub(crate) async fn deliver(app: Arc<App>, room: RoomId) {
    let chore = app.hub.deliver(room).await;
    perform(&app, chore).await;
}

/// Does a chore, and those that follow from it.
async fn perform(app: &App, chore: Option<Chore>) {
    let mut chores: VecDeque<_> = chore.into_iter().collect();
    while let Some(chore) = chores.pop_front() {
        match chore {
            Chore::Fill(room, after) => {
                app.metrics.bus_gap_fills.inc();
                let turn = app.turn_to_read(room).await;
                let allowance = Allowance::new(GAP_MESSAGES_MAX, GAP_BYTES_MAX);
                let read = app.store.missed(room, after, &allowance).await;
                drop(turn);
                match read {
                    Ok(Some(missed)) => {
                        let count = u64::try_from(missed.messages.len()).unwrap_or(u64::MAX);
                        app.metrics.bus_gap_messages.inc_by(count);
                        chores.extend(app.hub.fill(room, &missed).await);
                    }
                    Ok(None) => {
                        warn!(%room, "the log does not reach back to where the room's members are");
                        app.metrics.bus_lost_gaps.inc();
                        app.hub.dismiss(room);
                    }
                    Err(error) => chores.extend(retry_later(app, room, &error, chore).await),
                }
            }
            Chore::Participants(room, wait) => {
                sleep(wait).await;
                let turn = app.turn_to_read(room).await;
                app.hub.begin_announcement(room);
                let read = app.store.participants(room).await;
                drop(turn);
                match read {
                    Ok(participants) => {
                        let again = app.hub.announce_participants(room, &participants);
                        chores.extend(app.hub.deliver(room).await);
                        chores.extend(again);
                    }
                    Err(error) => chores.extend(retry_later(app, room, &error, chore).await),
                }
            }
        }
    }
}

/// The chore again after a pause, while the room has members here.
async fn retry_later(app: &App, room: RoomId, error: &StoreError, chore: Chore) -> Option<Chore> {
    warn!(%room, %error, "cannot read a room; will try again");
    sleep(RETRY_PAUSE).await;
    (app.hub.member_count(room) > 0).then_some(chore)
}

#[cfg(test)]
mod tests {
    use slotcast_proto::slot::Slot;

    use super::*;

    #[test]
    fn hints_of_a_room_are_gathered_while_its_log_is_read() {
        let hinted = HintedRooms::default();
        let room = RoomId::new(Slot::new(1).unwrap(), 2);
        assert!(hinted.note(room, false), "the first hint begins a reading");
        assert!(!hinted.take_participants(room));
        assert!(!hinted.note(room, true) && !hinted.note(room, false));
        assert!(hinted.again(room), "what came meanwhile is read once more");
        assert!(hinted.take_participants(room) && !hinted.take_participants(room));
        assert!(!hinted.again(room));
        assert!(hinted.note(room, false), "and the next one begins another");
    }
}
