//! A room's messages for callers without a socket.

use std::sync::Arc;

use axum::{Json as JsonBody, extract::State, http::Uri};
use serde::Serialize;
use serde_json::value::RawValue;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;

use crate::{
    app::App,
    error::{Action, ApiError},
    extract::{Authenticated, RoomPath, query_value},
    store::StoreError,
};

/// Messages of a page: default and at most, as on sockets.
const LIMIT: usize = 30;
const LIMIT_MAX: usize = 100;

/// A page of messages, oldest first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Messages {
    success: bool,
    #[schema(value_type = Vec<Object>)]
    messages: Vec<Box<RawValue>>,
    /// Whether there are older ones.
    has_more: bool,
}

/// Reads messages as a participant, marking nothing as read.
#[utoipa::path(get, path = "/api/message/rooms/{roomId}/messages", tag = "rooms",
    security(("token" = [])),
    params(
        ("roomId" = String, Path),
        ("before" = Option<String>, Query, description = "Milliseconds since 1970 or ISO 8601; default: now"),
        ("limit" = Option<i64>, Query, description = "1 to 100, default 30"),
    ),
    responses(
        (status = 200, body = Messages),
        (status = 400, description = "before or limit makes no sense"),
        (status = 401),
        (status = 403, description = "The caller is no participant"),
        (status = 404, description = "No room has this id"),
    ))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    RoomPath(room): RoomPath,
    uri: Uri,
) -> Result<JsonBody<Messages>, ApiError> {
    let (before, limit) = (before(&uri)?, limit(&uri)?);
    let failed = |error: StoreError| error.during(Action::ReadMessages);
    let door = app.store.door(room).await.map_err(failed)?;
    door.ok_or(ApiError::RoomNotFound)?;
    let page = app.store.look_back(room, caller.user, before, limit).await;
    let page = page.map_err(failed)?.ok_or(ApiError::NotAParticipant)?;
    let messages = page.messages.into_iter().map(RawValue::from_string);
    let messages = messages.collect::<Result<_, _>>();
    Ok(JsonBody(Messages {
        success: true,
        messages: messages.map_err(|_| failed(StoreError::Corrupt))?,
        has_more: page.has_more,
    }))
}

fn before(uri: &Uri) -> Result<Option<u64>, ApiError> {
    let Some(text) = query_value(uri, "before") else {
        return Ok(None);
    };
    let iso = || {
        let moment = OffsetDateTime::parse(&text, &Rfc3339).ok()?;
        u64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok()
    };
    let ms = text.parse().ok().or_else(iso);
    ms.map(Some).ok_or(ApiError::InvalidParameter("before"))
}

fn limit(uri: &Uri) -> Result<usize, ApiError> {
    let Some(text) = query_value(uri, "limit") else {
        return Ok(LIMIT);
    };
    let limit: i64 = text
        .parse()
        .map_err(|_| ApiError::InvalidParameter("limit"))?;
    Ok(match usize::try_from(limit) {
        Ok(0) | Err(_) => LIMIT,
        Ok(limit) => limit.min(LIMIT_MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_is_milliseconds_or_a_date() {
        let of = |uri: &'static str| before(&Uri::from_static(uri)).ok();
        assert_eq!(of("/"), Some(None));
        assert_eq!(of("/?before=17"), Some(Some(17)));
        assert_eq!(of("/?before=1970-01-01T00:00:01.500Z"), Some(Some(1500)));
        assert_eq!(of("/?before=yesterday"), None);
    }

    #[test]
    fn limit_falls_back_and_is_capped() {
        let of = |uri: &'static str| limit(&Uri::from_static(uri)).ok();
        assert_eq!(of("/?limit=0"), Some(30));
        assert_eq!(of("/?limit=-4"), Some(30));
        assert_eq!(of("/?limit=1000"), Some(100));
        assert_eq!(of("/?limit=x"), None);
    }
}
