//! `markMessagesAsRead` and `messageReaction`: what changes a message after it was sent.

use slotcast_proto::{id::MessageId, wire::event::ReactionOp};
use tracing::warn;

use super::send_error;
use crate::{app::App, connection::Connection, store::Reacted};

/// Gathers marks for the room of the first message. What cannot be marked is ignored: an `error`
/// would cost the user the page.
pub(super) fn mark_as_read(app: &App, connection: &Connection, message_ids: &[String]) {
    let Some(session) = connection.session().get() else {
        return;
    };
    let mut messages: Vec<MessageId> = message_ids
        .iter()
        .filter_map(|id| id.parse().ok())
        .collect();
    let Some(room) = messages.first().map(|message| message.room()) else {
        return;
    };
    messages.retain(|message| message.room() == room);
    if !app.marks.add(room, session.user.id, messages) {
        app.metrics.marks_dropped.inc();
    }
}

/// Puts a reaction to a message or takes it back.
pub(super) async fn react(
    app: &App,
    connection: &Connection,
    message_id: &str,
    reaction: &str,
    op: ReactionOp,
) {
    let Some(session) = connection.session().get() else {
        return send_error(connection, None, "Unauthorized");
    };
    let unsupported = "지원하지 않는 리액션 타입입니다.";
    let add = match op {
        ReactionOp::Add => true,
        ReactionOp::Remove => false,
        ReactionOp::Other => return send_error(connection, None, unsupported),
    };
    if reaction.trim().is_empty() {
        return send_error(connection, None, unsupported);
    }
    let Ok(message) = message_id.parse::<MessageId>() else {
        return send_error(connection, None, "메시지를 찾을 수 없습니다.");
    };
    let refusal = match app
        .store
        .react(message, session.user.id, reaction, add)
        .await
    {
        Ok(Reacted::Done) => return,
        Ok(Reacted::UnknownMessage) => "메시지를 찾을 수 없습니다.",
        Ok(Reacted::NotAMember) => "채팅방 접근 권한이 없습니다.",
        Ok(Reacted::TooManyKinds) => unsupported,
        Err(error) => {
            warn!(%message, %error, "cannot store a reaction");
            "리액션 처리 중 오류가 발생했습니다."
        }
    };
    send_error(connection, None, refusal);
}
