//! Rooms: list, create, look at, join.

use std::sync::Arc;

use axum::{
    Json as JsonBody,
    extract::State,
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    app::App,
    clock,
    directory::{Page, Search, SortField},
    error::{Action, ApiError, Form},
    extract::{Authenticated, Client, Json, RoomPath, query_value},
    input::{Fields, Password, RoomName},
    store::{Door, NewRoom, StoreError},
    view::{Room, RoomView, UserView},
};

use super::users::account;

/// Rooms of a page at most; the default.
const PAGE_SIZE_MAX: u64 = 50;
const PAGE_SIZE: u64 = 10;

/// A front-end asks for the list twice per page load: the second is answered by its own cache.
const LIST_CACHING: HeaderValue = HeaderValue::from_static("private, max-age=1");

/// A room to be.
#[derive(Deserialize, ToSchema)]
pub(crate) struct RoomForm {
    /// 2 to 100 characters.
    name: Option<String>,
    /// 4 to 100 characters, at most 72 bytes; absent or null for an open room.
    password: Option<String>,
}

/// What a caller says at a room's door.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Knock {
    password: Option<String>,
}

/// One room.
#[derive(Serialize, ToSchema)]
pub(crate) struct RoomAnswer<'a> {
    success: bool,
    data: RoomView<'a>,
}

/// A page of rooms.
#[derive(Serialize, ToSchema)]
pub(crate) struct RoomList<'a> {
    success: bool,
    data: Vec<RoomView<'a>>,
    metadata: ListMetadata,
}

/// Where a page stands.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListMetadata {
    total: u64,
    page: u64,
    page_size: u64,
    total_pages: u64,
    has_more: bool,
    current_count: usize,
    sort: Sort,
}

/// How a list is sorted.
#[derive(Serialize, ToSchema)]
pub(crate) struct Sort {
    field: &'static str,
    order: &'static str,
}

/// Whether rooms can be read.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RoomsHealth {
    success: bool,
    timestamp: String,
    services: Services,
    /// Creation of the newest room.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_activity: Option<String>,
}

/// What rooms need.
#[derive(Serialize, ToSchema)]
pub(crate) struct Services {
    database: Database,
}

/// The database, as probed within the last seconds.
#[derive(Serialize, ToSchema)]
pub(crate) struct Database {
    connected: bool,
    /// Milliseconds.
    latency: u64,
}

/// A question for a page of rooms, with everything clamped to what is served.
struct ListQuery {
    page: u64,
    page_size: u64,
    field: SortField,
    descending: bool,
    search: String,
}

/// Lists rooms.
///
/// Newest first is exact at once. Sorting by name or participants and searching answer from a
/// snapshot that is at most a second old, of the newest 100,000 rooms.
#[utoipa::path(get, path = "/api/rooms", tag = "rooms", security(("token" = [])),
    params(
        ("page" = Option<i64>, Query, description = "From 0, the default"),
        ("pageSize" = Option<i64>, Query, description = "1 to 50, default 10"),
        ("sortField" = Option<String>, Query, description = "createdAt (default), name, participantsCount"),
        ("sortOrder" = Option<String>, Query, description = "desc (default), asc"),
        ("search" = Option<String>, Query, description = "Part of the name, upper and lower case alike"),
    ),
    responses(
        (status = 200, body = RoomList<'static>),
        (status = 400, description = "page or pageSize is no number"),
        (status = 401),
        (status = 429, description = "Too many requests from this address"),
        (status = 503, description = "Redis does not answer; try again"),
    ))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    client: Client,
    uri: Uri,
) -> Response {
    let allowance = app.rooms_rate.count(client.address, clock::now());
    let answer = if allowance.allowed {
        list_page(&app, &caller, &uri).await
    } else {
        Err(ApiError::RateLimited {
            requests_max: allowance.limit.requests,
            window: allowance.limit.window,
            retry_after: allowance.retry_after,
        })
    };
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    allowance.write(response.headers_mut());
    response
}

async fn list_page(app: &App, caller: &Authenticated, uri: &Uri) -> Result<Response, ApiError> {
    let query = ListQuery::parse(uri)?;
    let failed = |error: StoreError| error.during(Action::ListRooms);
    let page = find_page(app, &query).await.map_err(failed)?;
    let rooms = app.store.rooms_lately(&page.rooms).await.map_err(failed)?;
    let list = RoomList {
        success: true,
        metadata: query.metadata(page.total, rooms.len()),
        data: rooms.iter().map(|room| room.view(caller.user)).collect(),
    };
    Ok(([(header::CACHE_CONTROL, LIST_CACHING)], JsonBody(list)).into_response())
}

async fn find_page(app: &App, query: &ListQuery) -> Result<Page, StoreError> {
    let skip = query.page.saturating_mul(query.page_size);
    let count = query.page_size;
    if !query.search.is_empty() || query.field != SortField::CreatedAt {
        let search = Search {
            text: &query.search,
            field: query.field,
            descending: query.descending,
            skip,
            count,
        };
        return app.directory.search(&app.store, &search).await;
    }
    let (total, rooms) = if query.descending {
        app.store.newest_rooms(skip, count).await?
    } else {
        app.store.oldest_rooms(skip, count).await?
    };
    Ok(Page { total, rooms })
}

impl ListQuery {
    fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let number = |name, default: u64| match query_value(uri, name) {
            None => Ok(default),
            Some(text) => text
                .trim()
                .parse::<i64>()
                .map(|number| u64::try_from(number).unwrap_or(0))
                .map_err(|_| ApiError::InvalidParameter(name)),
        };
        let text = |name| query_value(uri, name).unwrap_or_default();
        Ok(Self {
            page: number("page", 0)?,
            page_size: number("pageSize", PAGE_SIZE)?.clamp(1, PAGE_SIZE_MAX),
            field: match text("sortField").as_str() {
                "name" => SortField::Name,
                "participantsCount" => SortField::ParticipantsCount,
                _ => SortField::CreatedAt,
            },
            descending: text("sortOrder") != "asc",
            search: text("search").trim().to_owned(),
        })
    }

    fn metadata(&self, total: u64, current_count: usize) -> ListMetadata {
        let total_pages = total.div_ceil(self.page_size);
        ListMetadata {
            total,
            page: self.page,
            page_size: self.page_size,
            total_pages,
            has_more: self.page.saturating_add(1) < total_pages,
            current_count,
            sort: Sort {
                field: match self.field {
                    SortField::CreatedAt => "createdAt",
                    SortField::Name => "name",
                    SortField::ParticipantsCount => "participantsCount",
                },
                order: if self.descending { "desc" } else { "asc" },
            },
        }
    }
}

/// Creates a room with the caller as its first participant; every socket hears of it.
#[utoipa::path(post, path = "/api/rooms", tag = "rooms", security(("token" = [])),
    request_body = RoomForm,
    responses(
        (status = 201, body = RoomAnswer<'static>),
        (status = 400, description = "Fields are missing or wrong"),
        (status = 401),
        (status = 404, description = "The account is gone"),
        (status = 503, description = "Too busy, or Redis does not answer; try again"),
    ))]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Json(form): Json<RoomForm>,
) -> Result<Response, ApiError> {
    let action = Action::CreateRoom;
    let mut fields = Fields::of(Form::Resource);
    let name = fields.take("name", RoomName::parse(form.name.as_deref()));
    let password = form.password.as_deref().map(Password::parse_for_room);
    let password = fields.take("password", password.transpose());
    let (Some(name), Some(password)) = (name, password) else {
        return Err(fields.refusal());
    };
    let creator = UserView::of(&account(&app, &caller, action).await?);
    let password_hash = match password {
        Some(password) => {
            let hash = app.passwords.hash(password).await;
            Some(hash.map_err(|error| error.during(action))?)
        }
        None => None,
    };
    let new = NewRoom {
        name: name.as_str(),
        password_hash,
        creator: &creator,
        created_at: clock::now_ms(),
    };
    let room = app.store.create_room(&new).await;
    let room = room.map_err(|error| error.during(action))?;
    Ok((StatusCode::CREATED, answer(&room, &caller)).into_response())
}

/// Shows a room; the caller need not be a participant.
#[utoipa::path(get, path = "/api/rooms/{roomId}", tag = "rooms", security(("token" = [])),
    params(("roomId" = String, Path)),
    responses(
        (status = 200, body = RoomAnswer<'static>),
        (status = 401),
        (status = 404, description = "No room has this id"),
    ))]
pub(crate) async fn read(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    RoomPath(id): RoomPath,
) -> Result<Response, ApiError> {
    let room = app.store.room(id).await;
    let room = room
        .map_err(|error| error.during(Action::ReadRoom))?
        .ok_or(ApiError::RoomNotFound)?;
    Ok(answer(&room, &caller).into_response())
}

/// Makes the caller a participant; the sockets in the room hear of it.
#[utoipa::path(post, path = "/api/rooms/{roomId}/join", tag = "rooms", security(("token" = [])),
    params(("roomId" = String, Path)), request_body = Knock,
    responses(
        (status = 200, body = RoomAnswer<'static>),
        (status = 401, description = "Also: the room's password is missing or wrong"),
        (status = 404, description = "No room has this id"),
        (status = 503, description = "Too busy, or Redis does not answer; try again"),
    ))]
pub(crate) async fn join(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    RoomPath(id): RoomPath,
    Json(knock): Json<Knock>,
) -> Result<Response, ApiError> {
    let action = Action::JoinRoom;
    let failed = |error: StoreError| error.during(action);
    let door = app.store.door(id).await.map_err(failed)?;
    pass(&app, door.ok_or(ApiError::RoomNotFound)?, knock).await?;
    let user = UserView::of(&account(&app, &caller, action).await?);
    if !app.store.admit(id, &user).await.map_err(failed)? {
        return Err(ApiError::RoomNotFound);
    }
    let room = app.store.room(id).await.map_err(failed)?;
    let room = room.ok_or(ApiError::RoomNotFound)?;
    app.store.publish_room(&room).await.map_err(failed)?;
    Ok(answer(&room, &caller).into_response())
}

/// Checks what was said at the door.
async fn pass(app: &App, door: Door, knock: Knock) -> Result<(), ApiError> {
    let Some(hash) = door.password_hash else {
        return Ok(());
    };
    let said = knock.password.filter(|said| !said.is_empty());
    let said = said.ok_or(ApiError::RoomPasswordMismatch)?;
    let verified = app.passwords.verify(Password::typed(&said), hash).await;
    if verified.map_err(|error| error.during(Action::JoinRoom))? {
        Ok(())
    } else {
        Err(ApiError::RoomPasswordMismatch)
    }
}

fn answer<'a>(room: &'a Room, caller: &Authenticated) -> JsonBody<RoomAnswer<'a>> {
    JsonBody(RoomAnswer {
        success: true,
        data: room.view(caller.user),
    })
}

/// Says whether rooms can be read, as probed within the last seconds.
#[utoipa::path(get, path = "/api/rooms/health", tag = "health",
    responses((status = 200, body = RoomsHealth), (status = 503, body = RoomsHealth)))]
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    let probe = app.readiness.newest_probe();
    let latency = probe.map_or(0, |probe| probe.latency.as_millis());
    let body = RoomsHealth {
        success: probe.is_some(),
        timestamp: clock::iso_now(),
        services: Services {
            database: Database {
                connected: probe.is_some(),
                latency: u64::try_from(latency).unwrap_or(u64::MAX),
            },
        },
        last_activity: probe.and_then(|probe| probe.last_activity).map(clock::iso),
    };
    let status = if probe.is_some() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, JsonBody(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_queries_are_clamped_and_unknown_sorts_fall_back() {
        let query =
            parse("/?page=-3&pageSize=500&sortField=x&sortOrder=up&search=%20a%20").unwrap();
        assert_eq!((query.page, query.page_size), (0, 50));
        assert_eq!(
            (query.field, query.descending),
            (SortField::CreatedAt, true)
        );
        assert_eq!(query.search, "a");
        assert_eq!(parse("/?pageSize=0").unwrap().page_size, 1);
        let plain = parse("/").unwrap();
        assert_eq!((plain.page, plain.page_size), (0, 10));
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        for uri in ["/?page=x", "/?pageSize=1.5", "/?page=99999999999999999999"] {
            assert!(
                matches!(parse(uri), Err(ApiError::InvalidParameter(_))),
                "{uri}"
            );
        }
    }

    #[test]
    fn metadata_counts_pages() {
        let query = parse("/?page=5&pageSize=10").unwrap();
        let last = query.metadata(57, 7);
        assert_eq!((last.total_pages, last.has_more), (6, false));
        assert!(parse("/?page=4").unwrap().metadata(57, 10).has_more);
        assert!(!parse("/").unwrap().metadata(0, 0).has_more);
    }

    fn parse(uri: &'static str) -> Result<ListQuery, ApiError> {
        ListQuery::parse(&Uri::from_static(uri))
    }
}
