//! `fetchPreviousMessages`.

use slotcast_proto::{
    id::RoomId,
    wire::event::{
        ErrorCode, MESSAGE_LOAD_START, PreviousMessagesLoaded, ServerEvent, signal_packet,
    },
};
use tracing::warn;

use super::{send_error, send_packet};
use crate::{app::App, connection::Connection, store::Page};

const LIMIT_DEFAULT: i64 = 30;
const LIMIT_MAX: i64 = 100;

const NO_ACCESS: &str = "채팅방 접근 권한이 없습니다.";

/// Sends the messages before a moment, newest `limit` of them, oldest first.
pub(super) async fn fetch(
    app: &App,
    connection: &Connection,
    room_id: &str,
    limit: Option<i64>,
    before: Option<i64>,
) {
    let Some(session) = connection.session().get() else {
        return send_error(
            connection,
            Some(ErrorCode::Unauthorized),
            "인증이 필요합니다.",
        );
    };
    let Ok(room) = room_id.parse::<RoomId>() else {
        return send_error(connection, Some(ErrorCode::LoadError), NO_ACCESS);
    };
    let limit = limit
        .filter(|limit| *limit > 0)
        .unwrap_or(LIMIT_DEFAULT)
        .min(LIMIT_MAX);
    let page = match app
        .store
        .history(room, session.user.id, before, limit)
        .await
    {
        Ok(Some(page)) => page,
        Ok(None) => return send_error(connection, Some(ErrorCode::LoadError), NO_ACCESS),
        Err(error) => {
            warn!(%room, %error, "cannot read a page of history");
            Page::default()
        }
    };
    connection.send_with_offset(&signal_packet(MESSAGE_LOAD_START));
    let loaded = PreviousMessagesLoaded {
        messages: &page.messages,
        has_more: page.has_more,
    };
    send_packet(connection, &loaded.packet());
}
