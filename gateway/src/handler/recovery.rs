//! Connection state recovery (Socket.IO): a client that comes back within the window, to any gateway,
//! gets what its rooms said meanwhile and goes on, or is told that it must load them anew.
//!
//! ```text
//! client                                  gateway
//!   40{"pid":..,"offset":..,..}   -->      each room: hold its frames, read what came after the offset,
//!                                          take the seat again
//!                                 <--      40{"sid":..,"pid":<the same>}
//!                                 <--      what was missed, the participants, what was held; then live
//! ```
//!
//! All rooms or none: a client is never told that it recovered when a part is missing.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};
use slotcast_proto::{
    id::RoomId,
    wire::{
        event::{ParticipantsUpdate, ServerEvent},
        offset::{Cursor, Offset},
    },
};
use tracing::{debug, warn};

use super::room;
use crate::{
    app::App,
    cluster::StoreError,
    connection::Connection,
    feed::{Item, Part},
    outbox::Opening,
    session::Session,
    store::{Allowance, Joined, Welcome},
};

/// Most bytes that are read, and then sent to a client, of what it missed; above, it loads its rooms
/// anew, page by page.
const MISSED_BYTES_MAX: usize = 1024 * 1024;

/// Rooms of one client that are read at one time.
const ROOMS_AT_ONCE: usize = 8;

/// One room of a client that recovers.
pub(super) struct Recovery {
    room: RoomId,
    /// How far the client had got.
    cursor: Cursor,
    /// How far it gets by what it missed.
    newest: Cursor,
    missed: Vec<Part>,
}

/// Why a room cannot be recovered.
enum Failure {
    /// The client's offset says nothing of a room that it was in.
    Unmentioned,
    /// The room does not remember that far back, or too much came since.
    TooFar,
    /// The user may not enter the room any more.
    Refused,
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Prepares the rooms of a client that comes back: their frames wait on the connection until
/// [`conclude`]. `None` when something would be missing; then nothing was done.
pub(super) async fn recover(
    app: &Arc<App>,
    connection: &Arc<Connection>,
    welcome: &Welcome,
    offset: &str,
) -> Option<Vec<Recovery>> {
    let session = connection.session().get()?;
    let offset: Offset = offset.parse().ok()?;
    if welcome.generation == 0 {
        return None;
    }
    match enter_all(app, connection, session, &welcome.rooms, &offset).await {
        Ok(recoveries) => Some(recoveries),
        Err(failure) => {
            for room in &welcome.rooms {
                app.hub.exit(*room, connection);
                connection.forget(*room);
            }
            match failure {
                Failure::Store(error) => warn!(%error, "cannot recover a connection"),
                Failure::Unmentioned => debug!("a room is not in the offset"),
                Failure::TooFar => debug!("a room does not remember what was missed"),
                Failure::Refused => debug!("a room does not let its member in again"),
            }
            None
        }
    }
}

async fn enter_all(
    app: &Arc<App>,
    connection: &Arc<Connection>,
    session: &Session,
    rooms: &[RoomId],
    offset: &Offset,
) -> Result<Vec<Recovery>, Failure> {
    let allowance = &Allowance::new(app.config.recovery_max_messages, MISSED_BYTES_MAX);
    let enter = |room| async move {
        let cursor = offset.cursor(room).ok_or(Failure::Unmentioned)?;
        enter(app, connection, room, cursor, allowance).await
    };
    let entered = stream::iter(rooms.to_vec()).map(enter);
    let entered = entered.buffer_unordered(ROOMS_AT_ONCE);
    let mut recoveries: Vec<_> = entered.try_collect().await?;
    let own_offset = if rooms.len() > 1 {
        offset.to_string().len()
    } else {
        0
    };
    let bytes: usize = recoveries.iter().map(|one| one.bytes(own_offset)).sum();
    if bytes > MISSED_BYTES_MAX {
        return Err(Failure::TooFar);
    }
    let seating = recoveries
        .iter_mut()
        .map(|recovery| sit_down(app, session, recovery));
    try_join_all(seating).await?;
    Ok(recoveries)
}

/// First the channel, then the log: no message can pass between them.
async fn enter(
    app: &Arc<App>,
    connection: &Arc<Connection>,
    room: RoomId,
    cursor: Cursor,
    allowance: &Allowance,
) -> Result<Recovery, Failure> {
    connection.hold(room);
    connection.note_cursor(room, cursor);
    let live = app.hub.enter(room, connection, || app.subscribe(room));
    live.wait().await?;
    let turn = app.turn_to_read(room).await;
    let missed = app.store.missed(room, cursor, allowance).await?;
    drop(turn);
    let mut newest = cursor;
    let mut parts = Vec::new();
    for item in Item::missed(&missed.ok_or(Failure::TooFar)?, cursor) {
        let part = item.part(room, newest);
        newest = part.reach.map_or(newest, |reach| reach.cursor);
        parts.push(part);
    }
    Ok(Recovery {
        room,
        cursor,
        newest,
        missed: parts,
    })
}

/// Takes the seat that the user still has, or a new one if the grace period is over, and notes who
/// is in the room.
async fn sit_down(app: &App, session: &Session, recovery: &mut Recovery) -> Result<(), Failure> {
    let room = recovery.room;
    let gateway = app.lease.cover(app, room.slot()).await?;
    let user = &session.user;
    if app.store.restore(room, user.id, gateway).await?.is_none() {
        match room::request_seat(app, user, room).await? {
            Joined::Entered { .. } | Joined::Seated { .. } => {}
            Joined::UnknownRoom | Joined::Refused => return Err(Failure::Refused),
        }
    }
    let participants = app.store.participants(room).await?;
    let update = ParticipantsUpdate {
        participants: &participants,
    };
    let part = Item::event(update.packet()).part(room, recovery.newest);
    recovery.missed.push(part);
    Ok(())
}

/// Sends what was missed; from there on the room is live.
pub(super) fn conclude(app: &Arc<App>, connection: &Arc<Connection>, recovery: &Recovery) {
    room::start(app, recovery.room, recovery.newest);
    let opening = Opening {
        cursor: recovery.cursor,
        answer: None,
        missed: &recovery.missed,
    };
    connection.release(recovery.room, opening);
}

impl Recovery {
    /// Bytes to send; `own_offset` of them in every event besides its own.
    fn bytes(&self, own_offset: usize) -> usize {
        let sizes = self
            .missed
            .iter()
            .map(|part| part.frames.len() + own_offset);
        sizes.sum()
    }
}
