//! `chatMessage`: the checks, in the order that clients rely on, and the append.

use std::{borrow::Cow, sync::Arc};

use slotcast_proto::{
    id::RoomId,
    schema::record,
    wire::{
        event::{ChatMessage, ErrorCode, ErrorEvent, MessageAccepted, MessageRefused, ServerEvent},
        socketio::AckId,
    },
};
use tokio::time::Instant;
use tracing::warn;

use super::{count_message, is_current, room::random_key, send_packet};
use crate::{
    app::App,
    cluster::StoreError,
    connection::Connection,
    metrics::{MessageLabels, MessageType, Status},
    session::Session,
    store::{Appended, Draft, File},
};

/// Longest message, in characters.
const CONTENT_CHARACTERS_MAX: usize = 10_000;

/// Longest client message id, in characters.
const CLIENT_MESSAGE_ID_MAX: usize = 64;

/// Seconds after which a store that did not answer may be asked again: about one failover.
const STORE_RETRY_SECONDS: u32 = 3;

/// Why a message is not taken.
enum Refusal {
    NoData,
    SessionExpired,
    TooMany {
        retry_after: u32,
    },
    NoRoom,
    NoAccess,
    Banned,
    TooLong,
    ClientMessageId,
    /// Said only to who asked for an answer.
    Blank,
    NoFile,
    UnknownFile,
    UnsupportedType(String),
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Takes a chat message. Everybody in the room sees it by way of the room's log, its sender too.
pub(super) async fn send(
    app: &Arc<App>,
    connection: &Arc<Connection>,
    message: Option<ChatMessage>,
    ack: Option<AckId>,
) {
    let started = Instant::now();
    let message_type = match message.as_ref().map(|message| message.kind.as_deref()) {
        Some(None | Some("text")) => MessageType::Text,
        Some(Some("file")) => MessageType::File,
        _ => MessageType::Unknown,
    };
    let outcome = append(app, connection, message).await;
    let status = if outcome.is_ok() {
        Status::Success
    } else {
        Status::Error
    };
    app.metrics.count_message(
        MessageLabels {
            status,
            message_type,
        },
        started.elapsed(),
    );
    match (outcome, ack) {
        (Ok(appended), Some(ack)) => {
            let accepted = MessageAccepted {
                message_id: &appended.message,
                id: &appended.position.to_string(),
                timestamp: appended.timestamp,
            };
            send_packet(connection, &accepted.packet(ack));
        }
        (Ok(_), None) => {}
        (Err(refusal), ack) => refuse(app, connection, &refusal, ack),
    }
}

async fn append(
    app: &App,
    connection: &Connection,
    message: Option<ChatMessage>,
) -> Result<Appended, Refusal> {
    let message = message.ok_or(Refusal::NoData)?;
    let session = connection.session().get().ok_or(Refusal::SessionExpired)?;
    if !is_current(app, session).await? {
        return Err(Refusal::SessionExpired);
    }
    count_message(app, &session.user).map_err(|retry_after| Refusal::TooMany { retry_after })?;
    let room = enter_room(app, session, message.room.as_deref().unwrap_or_default()).await?;
    let content = content(&message);
    if app.words.occur_in(content) {
        return Err(Refusal::Banned);
    }
    if content.chars().count() > CONTENT_CHARACTERS_MAX {
        return Err(Refusal::TooLong);
    }
    let client_id = client_message_id(&message)?;
    let attachment = attachment(app, session, room, &message, content).await?;
    let profile = session.user.profile();
    let body = body(room, content, profile.json(), client_id, &attachment);
    let key = client_id.map_or_else(random_key, |id| format!("{}:{id}", session.user.id));
    let draft = Draft {
        room,
        key: &key,
        may_repeat: client_id.is_some(),
        body: &body,
    };
    Ok(app.store.append(&draft).await?)
}

/// The room, if the user may write there: joined on this connection, or a participant by any way.
async fn enter_room(app: &App, session: &Session, room: &str) -> Result<RoomId, Refusal> {
    if room.trim().is_empty() {
        return Err(Refusal::NoRoom);
    }
    let room = room.parse().map_err(|_| Refusal::NoAccess)?;
    if session.is_in(room) || app.store.is_participant(room, session.user.id).await? {
        Ok(room)
    } else {
        Err(Refusal::NoAccess)
    }
}

fn content(message: &ChatMessage) -> &str {
    let content = message.content.as_deref().unwrap_or_default().trim();
    if content.is_empty() {
        message.msg.as_deref().unwrap_or_default().trim()
    } else {
        content
    }
}

fn client_message_id(message: &ChatMessage) -> Result<Option<&str>, Refusal> {
    let Some(id) = message.client_message_id.as_deref() else {
        return Ok(None);
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if (1..=CLIENT_MESSAGE_ID_MAX).contains(&id.len()) && id.bytes().all(plain) {
        Ok(Some(id))
    } else {
        Err(Refusal::ClientMessageId)
    }
}

/// What a message carries besides its text, as JSON members: type, file, metadata.
async fn attachment(
    app: &App,
    session: &Session,
    room: RoomId,
    message: &ChatMessage,
    content: &str,
) -> Result<Cow<'static, str>, Refusal> {
    match message.kind.as_deref().unwrap_or("text") {
        "text" if content.is_empty() => Err(Refusal::Blank),
        "text" => Ok(Cow::Borrowed(r#""type":"text","metadata":{}"#)),
        "file" => {
            let id = message
                .file_data
                .as_ref()
                .and_then(|file| file.id.as_deref());
            let id = id.filter(|id| !id.is_empty()).ok_or(Refusal::NoFile)?;
            let file_id = id.parse().map_err(|_| Refusal::UnknownFile)?;
            let file = app.store.share_file(file_id, session.user.id, room).await?;
            let file = file.ok_or(Refusal::UnknownFile)?;
            Ok(Cow::Owned(file_members(id, &file)))
        }
        other => Err(Refusal::UnsupportedType(other.to_owned())),
    }
}

fn file_members(id: &str, file: &File) -> String {
    let shown = serde_json::json!({
        "_id": id,
        "filename": file.filename,
        "originalname": file.original_name,
        "mimetype": file.mime_type,
        "size": file.size,
    });
    let metadata = serde_json::json!({
        "fileType": file.mime_type,
        "fileSize": file.size,
        "originalName": file.original_name,
    });
    format!(r#""type":"file","file":{shown},"metadata":{metadata}"#)
}

fn body(
    room: RoomId,
    content: &str,
    sender_json: &str,
    client_id: Option<&str>,
    attachment: &str,
) -> String {
    let content = serde_json::Value::from(content);
    let client_id = client_id
        .map(|id| format!(r#""clientMessageId":"{id}","#))
        .unwrap_or_default();
    record::message_body(&format!(
        r#""room":"{room}","content":{content},"sender":{sender_json},{client_id}{attachment}"#
    ))
}

fn refuse(app: &App, connection: &Connection, refusal: &Refusal, ack: Option<AckId>) {
    let (code, message) = refusal.shown();
    let retry_after = refusal.retry_after();
    if let Refusal::Store(error) = refusal {
        warn!(%error, "cannot append a message");
    }
    app.metrics.count_refusal(code);
    if !matches!(refusal, Refusal::Blank) {
        let error = ErrorEvent {
            code: Some(code),
            message: &message,
            retry_after,
        };
        send_packet(connection, &error.packet());
    }
    if let Some(ack) = ack {
        let refused = MessageRefused {
            code,
            message: &message,
            retry_after,
        };
        send_packet(connection, &refused.packet(ack));
    }
}

impl Refusal {
    /// Seconds after which the client may try again, where waiting helps.
    const fn retry_after(&self) -> Option<u32> {
        match self {
            Self::TooMany { retry_after } => Some(*retry_after),
            Self::Store(StoreError::Unavailable(_) | StoreError::Unconfirmed) => {
                Some(STORE_RETRY_SECONDS)
            }
            Self::NoData
            | Self::SessionExpired
            | Self::NoRoom
            | Self::NoAccess
            | Self::Banned
            | Self::TooLong
            | Self::ClientMessageId
            | Self::Blank
            | Self::NoFile
            | Self::UnknownFile
            | Self::UnsupportedType(_)
            | Self::Store(_) => None,
        }
    }

    /// What the client sees.
    fn shown(&self) -> (ErrorCode, Cow<'static, str>) {
        let (code, text) = match self {
            Self::NoData => (ErrorCode::MessageError, "메시지 데이터가 없습니다."),
            Self::SessionExpired => (
                ErrorCode::SessionExpired,
                "세션이 만료되었습니다. 다시 로그인해주세요.",
            ),
            Self::TooMany { .. } => (
                ErrorCode::RateLimitExceeded,
                "메시지 전송 횟수 제한을 초과했습니다. 잠시 후 다시 시도해주세요.",
            ),
            Self::NoRoom => (ErrorCode::MessageError, "채팅방 정보가 없습니다."),
            Self::NoAccess => (ErrorCode::MessageError, "채팅방 접근 권한이 없습니다."),
            Self::Banned => (
                ErrorCode::MessageRejected,
                "금칙어가 포함된 메시지는 전송할 수 없습니다.",
            ),
            Self::TooLong => (
                ErrorCode::MessageError,
                "메시지는 10000자를 초과할 수 없습니다.",
            ),
            Self::ClientMessageId => (
                ErrorCode::MessageError,
                "clientMessageId는 영문, 숫자, _, - 1~64자여야 합니다.",
            ),
            Self::Blank => (ErrorCode::MessageError, "메시지 내용이 없습니다."),
            Self::NoFile => (ErrorCode::MessageError, "파일 데이터가 올바르지 않습니다."),
            Self::UnknownFile => (
                ErrorCode::MessageError,
                "파일을 찾을 수 없거나 접근 권한이 없습니다.",
            ),
            Self::UnsupportedType(kind) => {
                let text = format!("Unsupported message type: {kind}");
                return (ErrorCode::MessageError, Cow::Owned(text));
            }
            Self::Store(error) => (ErrorCode::MessageError, store_refusal(error)),
        };
        (code, Cow::Borrowed(text))
    }
}

const fn store_refusal(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable(_) => {
            "메시지 전송 중 오류가 발생했습니다. 잠시 후 다시 시도해주세요."
        }
        StoreError::Unconfirmed => {
            "메시지 저장을 확인하지 못했습니다. 같은 clientMessageId로 다시 시도해주세요."
        }
        StoreError::Full(_) => "저장 공간이 부족하여 메시지를 저장할 수 없습니다.",
        StoreError::Refused(_) | StoreError::Unexpected(_) => "메시지 전송 중 오류가 발생했습니다.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_advised_only_where_it_helps() {
        let shown = |error: StoreError| {
            let refusal = Refusal::Store(error);
            let (code, text) = refusal.shown();
            assert_eq!(code, ErrorCode::MessageError);
            (text.into_owned(), refusal.retry_after())
        };
        let text = String::new;
        let away = shown(StoreError::Unavailable(text()));
        let unconfirmed = shown(StoreError::Unconfirmed);
        assert_eq!(unconfirmed.1, Some(STORE_RETRY_SECONDS));
        assert!(unconfirmed.0.contains("clientMessageId"));
        let full = shown(StoreError::Full(text()));
        let refused = shown(StoreError::Refused(text()));
        assert_eq!(away.1, Some(STORE_RETRY_SECONDS));
        assert_eq!((full.1, refused.1), (None, None));
        assert!(full.0 != refused.0 && away.0 != refused.0);
    }
}
