//! Takes what the links read to the hub, and does what the hub cannot: asks the store.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use slotcast_proto::{
    id::{RoomId, UserId},
    schema::{
        bus::{BusMessage, RoomMessage, UserMessage},
        key::Channel,
    },
};
use tokio::time::sleep;
use tracing::warn;

use crate::{app::App, cluster::StoreError, handler, hub::Chore};

/// Rooms with more members than this are written by a task of their own, so that small rooms on the
/// same link do not wait.
const INLINE_MEMBERS_MAX: usize = 256;

/// Longest gap that is filled, in messages; beyond it members load the room anew, which costs less.
const GAP_MESSAGES_MAX: usize = 10_000;

/// Pause before a store that did not answer is asked again for a room's log.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The way from the bus to the hub.
pub(crate) struct Receiver {
    app: Arc<App>,
}

impl Receiver {
    pub(crate) const fn new(app: Arc<App>) -> Self {
        Self { app }
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
        if let RoomMessage::Participants { leaver } = message {
            let chore = self.app.hub.participants_changed(room, *leaver);
            self.spawn(chore);
            return false;
        }
        self.app.hub.accept(room, message)
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

    /// A channel is subscribed, for the first time or again: what it carried meanwhile is caught up.
    pub(super) fn catch_up(&self, channel: Channel, lost_for: Option<Duration>) {
        if let Some(lost_for) = lost_for {
            self.app
                .metrics
                .bus_resubscribe_seconds
                .observe(lost_for.as_secs_f64());
        }
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
                for connection in self.app.hub.connections_in(slot) {
                    if let Some(session) = connection.session().get() {
                        session.doubt();
                    }
                }
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
                let read = app.store.missed(room, after, GAP_MESSAGES_MAX).await;
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
