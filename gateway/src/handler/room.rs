//! `joinRoom`, `leaveRoom`, and coming back to rooms.

use std::sync::Arc;

use slotcast_proto::{
    id::{GatewayId, RoomId, UserId},
    wire::{
        event::{JoinRoomError, JoinRoomSuccess, RoomState, ServerEvent, UserLeft},
        offset::Cursor,
    },
};
use tracing::warn;

use super::{Seats, send_error, send_packet, system_message};
use crate::{
    app::App,
    bus,
    cluster::StoreError,
    connection::Connection,
    outbox::Opening,
    session::{Session, User, key_text},
    store::{Joined, Page, Seat},
};

const UNAUTHORIZED: &str = "Unauthorized";
const UNKNOWN_ROOM: &str = "채팅방을 찾을 수 없습니다.";
const WRONG_PASSWORD: &str = "비밀번호가 일치하지 않습니다.";
const JOIN_FAILED: &str = "채팅방 입장에 실패했습니다.";
const LEAVE_FAILED: &str = "채팅방 퇴장 중 오류가 발생했습니다.";

/// Puts a connection into a room. The answer comes before anything that happens in the room, and
/// nothing falls between the page of messages in it and what follows live.
pub(super) async fn join(app: &Arc<App>, connection: &Arc<Connection>, room_id: &str) {
    let Some(session) = connection.session().get() else {
        return refuse(connection, UNAUTHORIZED);
    };
    let Ok(room) = room_id.parse::<RoomId>() else {
        return refuse(connection, UNKNOWN_ROOM);
    };
    if session.is_in(room) {
        return connection.send_with_offset(&answer(room, None));
    }
    // From here on the room counts as the connection's: whoever leaves meanwhile leaves the seat,
    // and if this handler is given up, the end of the connection cleans up behind it.
    session.enter(room);
    connection.hold(room);
    match take_seat(app, connection, session, room).await {
        Ok(Joined::Entered {
            shown,
            members,
            page,
        }) => {
            let answer = answer(room, Some((&members, &page)));
            open(app, connection, room, shown, Some(&answer));
        }
        Ok(Joined::Seated { newest }) => {
            open(app, connection, room, newest, Some(&answer(room, None)));
        }
        Ok(Joined::UnknownRoom) => turn_away(app, connection, session, room, UNKNOWN_ROOM),
        Ok(Joined::Refused) => turn_away(app, connection, session, room, WRONG_PASSWORD),
        Err(error) => {
            warn!(%room, %error, "cannot join a room");
            turn_away(app, connection, session, room, JOIN_FAILED);
            // Nobody knows whether Redis gave the seat.
            Seats::one(session, room).give_up_in_background(app);
        }
    }
}

/// First the channel, then the seat: no message can pass between them.
async fn take_seat(
    app: &App,
    connection: &Arc<Connection>,
    session: &Session,
    room: RoomId,
) -> Result<Joined, StoreError> {
    let live = app.hub.enter(room, connection, || app.subscribe(room));
    live.wait().await?;
    let rooms = session.rooms();
    let held = session.held(&rooms);
    let (joined, held) = tokio::join!(
        request_seat(app, &session.user, room),
        app.store.hold_connection(&held)
    );
    if let Err(error) = held {
        warn!(%error, "a connection will not find its rooms again");
    }
    joined
}

pub(super) async fn request_seat(
    app: &App,
    user: &User,
    room: RoomId,
) -> Result<Joined, StoreError> {
    let gateway = app.lease.cover(app, room.slot()).await?;
    let profile = user.profile();
    let seat = Seat {
        room,
        user: user.id,
        gateway,
        user_json: profile.json(),
        body: &announcement(room, &profile.name(), "님이 입장하였습니다."),
        key: &random_key(),
    };
    app.store.join(&seat).await
}

/// Takes a seat for a user whose connection is in the room already.
pub(crate) async fn take_seat_again(
    app: &App,
    user: &User,
    room: RoomId,
) -> Result<(), StoreError> {
    request_seat(app, user, room).await.map(drop)
}

/// Lets a connection see what happens in a room from `cursor` on.
fn open(
    app: &Arc<App>,
    connection: &Connection,
    room: RoomId,
    cursor: Cursor,
    answer: Option<&str>,
) {
    start(app, room, cursor);
    let opening = Opening {
        cursor,
        answer,
        missed: &[],
    };
    connection.release(room, opening);
}

/// Lets a room go on from where it stood when a member came.
pub(super) fn start(app: &Arc<App>, room: RoomId, cursor: Cursor) {
    if app.hub.start(room, cursor) {
        // Not within the handler, which may be given up half-way.
        tokio::spawn(bus::deliver(Arc::clone(app), room));
    }
}

fn turn_away(
    app: &App,
    connection: &Arc<Connection>,
    session: &Session,
    room: RoomId,
    message: &str,
) {
    step_out(app, connection, session, room);
    refuse(connection, message);
}

/// Takes a connection out of a room on this gateway; true if it was there.
fn step_out(app: &App, connection: &Arc<Connection>, session: &Session, room: RoomId) -> bool {
    let was_there = session.exit(room);
    app.hub.exit(room, connection);
    connection.forget(room);
    was_there
}

fn refuse(connection: &Connection, message: &str) {
    send_packet(
        connection,
        &JoinRoomError {
            message,
            code: None,
        }
        .packet(),
    );
}

fn answer(room: RoomId, state: Option<(&[String], &Page)>) -> String {
    let state = state.map(|(participants, page)| RoomState {
        participants,
        messages: &page.messages,
        has_more: page.has_more,
    });
    JoinRoomSuccess {
        room_id: &room.to_string(),
        state,
    }
    .packet()
}

/// Brings a connection back into a room where its user still has a seat, without a word to anybody.
pub(super) async fn restore(
    app: &Arc<App>,
    connection: &Arc<Connection>,
    session: &Session,
    room: RoomId,
) -> Result<(), StoreError> {
    connection.hold(room);
    match restore_seat(app, connection, session, room).await {
        Ok(Some(newest)) => {
            open(app, connection, room, newest, None);
            Ok(())
        }
        outcome => {
            step_out(app, connection, session, room);
            if outcome.is_err() {
                Seats::one(session, room).give_up_in_background(app);
            }
            outcome.map(drop)
        }
    }
}

async fn restore_seat(
    app: &App,
    connection: &Arc<Connection>,
    session: &Session,
    room: RoomId,
) -> Result<Option<Cursor>, StoreError> {
    let live = app.hub.enter(room, connection, || app.subscribe(room));
    live.wait().await?;
    let gateway = app.lease.cover(app, room.slot()).await?;
    app.store.restore(room, session.user.id, gateway).await
}

/// Takes a connection out of a room; ignored if it is not there.
pub(super) async fn leave(app: &Arc<App>, connection: &Arc<Connection>, room_id: &str) {
    let Some(session) = connection.session().get() else {
        return;
    };
    let Ok(room) = room_id.parse::<RoomId>() else {
        return;
    };
    if !step_out(app, connection, session, room) {
        return;
    }
    let rooms = session.rooms();
    let held = session.held(&rooms);
    let (left, remembered) = tokio::join!(
        leave_seat(app, &session.user, room),
        app.store.hold_connection(&held)
    );
    if let Err(error) = remembered {
        warn!(%error, "a connection may find a room again that it left");
    }
    if let Err(error) = left {
        warn!(%room, %error, "cannot leave a room; will try again");
        send_error(connection, None, LEAVE_FAILED);
        Seats::one(session, room).give_up_in_background(app);
    }
}

/// Gives up this gateway's seat of a user, unless another connection of the user needs it.
pub(super) async fn leave_seat(app: &App, user: &User, room: RoomId) -> Result<(), StoreError> {
    if app.hub.is_seated(user.id, room) {
        return Ok(());
    }
    let name = &user.profile().name();
    give_up_seat(app, app.lease.gateway(), room, user.id, name).await?;
    if app.hub.is_seated(user.id, room) {
        // Another connection came while the seat was given up, and may have found it still taken.
        take_seat_again(app, user, room).await?;
    }
    Ok(())
}

/// Gives up a gateway's seat; if it was the user's last in the room, the room is told.
pub(crate) async fn give_up_seat(
    app: &App,
    gateway: GatewayId,
    room: RoomId,
    user: UserId,
    name: &str,
) -> Result<(), StoreError> {
    let leaver = UserLeft {
        user_id: &user.to_string(),
        name,
    }
    .json();
    let seat = Seat {
        room,
        user,
        gateway,
        user_json: "",
        body: &announcement(room, name, "님이 퇴장하였습니다."),
        key: &random_key(),
    };
    app.store.leave(&seat, &leaver).await
}

/// The system message that tells of a user's coming or going.
pub(crate) fn announcement(room: RoomId, name: &str, what: &str) -> String {
    system_message(room, &format!("{name}{what}"))
}

/// An idempotency key that no other message has.
pub(crate) fn random_key() -> String {
    key_text(fastrand::u64(..))
}
