//! What ends a login's sockets: another login, a logout, the user's own wish.

use std::sync::Arc;

use slotcast_proto::{
    id::{SessionId, UserId},
    wire::event::{DuplicateLogin, ServerEvent, SessionEnded, SessionEndedReason, event_packet},
};
use tokio::time::sleep;
use tracing::warn;

use super::{send_error, send_packet};
use crate::{
    app::{App, unix_seconds},
    close::Close,
    connection::Connection,
    session::Profile,
};

const DUPLICATE_LOGIN: &str = "다른 기기에서 로그인하여 현재 세션이 종료되었습니다.";
const LOGGED_OUT: &str = "로그아웃되었습니다.";
const FORCE_LOGIN_FAILED: &str = "세션 종료 중 오류가 발생했습니다.";

/// The user's one session was `current` when this was said: connections of others are looked up before
/// they write again.
pub(crate) fn replaced(app: &App, user: UserId, current: SessionId) {
    for connection in of_other_sessions(app, user, current) {
        if let Some(session) = connection.session().get() {
            session.doubt();
        }
    }
}

/// The user logged out: every socket hears of it and may no longer write.
pub(crate) fn logged_out(app: &App, user: UserId) {
    let ended = SessionEnded {
        reason: SessionEndedReason::Logout,
        message: LOGGED_OUT,
    }
    .packet();
    for connection in app.hub.connections_of(user) {
        if let Some(session) = connection.session().get() {
            session.end();
        }
        send_packet(&connection, &ended);
    }
}

/// A socket of session `current` connected: sockets of older sessions are told, and closed after a
/// while in which their user may see why. Which sessions are older, Redis is asked: the news may come
/// later than the socket of a session that came after.
pub(crate) fn connected_elsewhere(
    app: &Arc<App>,
    user: UserId,
    current: SessionId,
    notice_json: &str,
) {
    let notice = event_packet(DuplicateLogin::NAME, notice_json);
    for connection in of_other_sessions(app, user, current) {
        let (app, notice) = (Arc::clone(app), notice.clone());
        tokio::spawn(async move {
            if is_older(&app, &connection).await {
                send_packet(&connection, &notice);
                let delay = app.config.duplicate_login_delay;
                let waiting = Arc::downgrade(&connection);
                drop(connection);
                sleep(delay).await;
                if let Some(connection) = waiting.upgrade() {
                    end(&connection, SessionEndedReason::DuplicateLogin);
                }
            }
        });
    }
}

/// Whether the session behind a connection is over.
async fn is_older(app: &App, connection: &Connection) -> bool {
    let Some(session) = connection.session().get() else {
        return false;
    };
    let is_current = app.store.touch_session(session.user.id, session.id).await;
    !is_current.unwrap_or(false)
}

/// Another connection goes on under `pid`: what is left of older ones may go.
pub(crate) fn taken_over(app: &App, user: UserId, pid: &str, generation: u64) {
    for connection in app.hub.connections_of(user) {
        let session = connection.session().get();
        if session.is_some_and(|session| session.pid() == pid && session.generation < generation) {
            connection.close(Close::TakenOver);
        }
    }
}

fn of_other_sessions(app: &App, user: UserId, current: SessionId) -> Vec<Arc<Connection>> {
    let mut connections = app.hub.connections_of(user);
    connections.retain(|connection| {
        connection
            .session()
            .get()
            .is_some_and(|session| session.id != current)
    });
    connections
}

fn end(connection: &Connection, reason: SessionEndedReason) {
    if !connection.is_closing() {
        send_packet(
            connection,
            &SessionEnded {
                reason,
                message: DUPLICATE_LOGIN,
            }
            .packet(),
        );
        connection.close(Close::Replaced);
    }
}

/// The user's object changed: messages carry the new one from now on, and rooms are told.
pub(crate) fn profile_changed(app: &Arc<App>, user: UserId, json: &str) {
    let connections = app.hub.connections_of(user);
    let Some(session) = connections
        .first()
        .and_then(|connection| connection.session().get())
    else {
        return;
    };
    let Some(profile) = Profile::from_json(json) else {
        return;
    };
    session.user.set_profile(profile);
    let mut rooms: Vec<_> = connections
        .iter()
        .filter_map(|connection| connection.session().get())
        .flat_map(|session| session.rooms())
        .collect();
    rooms.sort_unstable();
    rooms.dedup();
    let (app, json) = (Arc::clone(app), json.to_owned());
    tokio::spawn(async move {
        for room in rooms {
            if let Err(error) = app.store.update_participant(room, user, &json).await {
                warn!(%room, %error, "a room keeps an old profile");
            }
        }
    });
}

/// `force_login`: ends this connection, if the token is the same user's.
pub(super) fn force_login(app: &App, connection: &Connection, token: Option<String>) {
    let claims = token.and_then(|token| app.tokens.verify(&token, unix_seconds()).ok());
    let own = connection.session().get().map(|session| session.user.id);
    match claims {
        Some(claims) if Some(claims.user_id) == own => {
            end(connection, SessionEndedReason::ForceLogout);
        }
        _ => send_error(connection, None, FORCE_LOGIN_FAILED),
    }
}
