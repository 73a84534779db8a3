//! What handlers ask of a request, read or refused before they run.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    body,
    extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request},
    http::{HeaderMap, Uri, header, request::Parts},
};
use serde::de::DeserializeOwned;
use slotcast_proto::{
    id::{FileId, RoomId, SessionId, UserId},
    token::TokenError,
};
use tokio::time::timeout;

use crate::{
    app::App,
    clock,
    error::{Action, ApiError, Credential, FileError},
    stored_name::StoredName,
};

/// The largest JSON body: a room name and a password are the longest things sent.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A `User-Agent` is stored with the session and shown to the user's other device.
const USER_AGENT_BYTES_MAX: usize = 512;

/// A caller with a valid token whose session is alive; asking for it puts the session's end off.
pub(crate) struct Authenticated {
    pub(crate) user: UserId,
    pub(crate) session: SessionId,
}

impl FromRequestParts<Arc<App>> for Authenticated {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        authenticate(parts, app).await
    }
}

/// See [`Authenticated`].
pub(crate) async fn authenticate(parts: &Parts, app: &App) -> Result<Authenticated, ApiError> {
    let refuse = |credential| Err(ApiError::Unauthenticated(credential));
    let Some(token) = token(&parts.headers, &parts.uri) else {
        return refuse(Credential::Missing);
    };
    let claims = match app.config.token_key.verify(&token, clock::now().as_secs()) {
        Ok(claims) => claims,
        Err(TokenError::Invalid) => return refuse(Credential::InvalidToken),
        Err(TokenError::Expired) => return refuse(Credential::ExpiredToken),
    };
    let touched = app.store.touch_session(claims.user_id, claims.session_id);
    let alive = touched
        .await
        .map_err(|error| error.during(Action::Authenticate))?;
    if !alive {
        return refuse(Credential::DeadSession);
    }
    Ok(Authenticated {
        user: claims.user_id,
        session: claims.session_id,
    })
}

/// The token that a request brings: header `x-auth-token`, else parameter `token`, else
/// `Authorization: Bearer` (upper and lower case as written, one space).
pub(crate) fn token(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    header_text(headers, "x-auth-token")
        .or_else(|| query_value(uri, "token"))
        .or_else(|| {
            let bearer = header_text(headers, header::AUTHORIZATION.as_str())?;
            bearer.strip_prefix("Bearer ").map(str::to_owned)
        })
}

/// The session that logout, verification and renewal are about: header `x-session-id`, else
/// parameter `sessionId`.
pub(crate) fn session_id(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    header_text(headers, "x-session-id").or_else(|| query_value(uri, "sessionId"))
}

fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?;
    // What is not ASCII is no token either; as text it is refused like one.
    let text = String::from_utf8_lossy(value.as_bytes());
    Some(text.into_owned()).filter(|text| !text.is_empty())
}

/// The first value of a query parameter that is not empty.
pub(crate) fn query_value(uri: &Uri, name: &str) -> Option<String> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).ok()?;
    pairs
        .into_iter()
        .find(|(key, value)| key == name && !value.is_empty())
        .map(|(_, value)| value)
}

/// The peer of the connection; put into every request by the server.
#[derive(Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Who is at the other end.
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    pub(crate) user_agent: Option<String>,
}

impl FromRequestParts<Arc<App>> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<Peer>();
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
        let address = if app.config.trust_forwarded_for {
            forwarded_address(&parts.headers).unwrap_or(peer)
        } else {
            peer
        };
        let user_agent = header_text(&parts.headers, header::USER_AGENT.as_str());
        Ok(Self {
            address: address.to_canonical(),
            user_agent: user_agent.map(|text| cut(text, USER_AGENT_BYTES_MAX)),
        })
    }
}

/// The first item of `X-Forwarded-For`, else `X-Real-IP`; what is no address is passed over.
fn forwarded_address(headers: &HeaderMap) -> Option<IpAddr> {
    let address = |name| {
        let value = headers.get(name)?.to_str().ok()?;
        let first = value.split(',').next()?.trim();
        let with_port = || first.parse().ok().map(|address: SocketAddr| address.ip());
        first.parse().ok().or_else(with_port)
    };
    address("x-forwarded-for").or_else(|| address("x-real-ip"))
}

fn cut(mut text: String, bytes_max: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

/// A room id in the path; a malformed one names no room.
pub(crate) struct RoomPath(pub(crate) RoomId);

impl<S: Send + Sync> FromRequestParts<S> for RoomPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = path_parameter(parts, state).await;
        let id = text.parse().map_err(|_| ApiError::RoomNotFound)?;
        Ok(Self(id))
    }
}

/// A file id in the path; a malformed one names no file.
pub(crate) struct FilePath(pub(crate) FileId);

impl<S: Send + Sync> FromRequestParts<S> for FilePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = path_parameter(parts, state).await;
        let id = text.parse().map_err(|_| FileError::NotFound)?;
        Ok(Self(id))
    }
}

/// The name of a stored file in the path.
pub(crate) struct StoredNamePath(pub(crate) StoredName);

impl<S: Send + Sync> FromRequestParts<S> for StoredNamePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = path_parameter(parts, state).await;
        let name = text.parse().map_err(FileError::InvalidName)?;
        Ok(Self(name))
    }
}

/// The path's one parameter; empty when it is no text.
async fn path_parameter<S: Send + Sync>(parts: &mut Parts, state: &S) -> String {
    let params = RawPathParams::from_request_parts(parts, state).await;
    let value = params.ok().and_then(|params| {
        let (_, value) = params.iter().next()?;
        Some(value.to_owned())
    });
    value.unwrap_or_default()
}

/// A JSON body. Unknown fields are ignored; a missing field is null.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let headers = request.headers();
        let is_json = headers.get(header::CONTENT_TYPE).is_some_and(|value| {
            let text = value.to_str().unwrap_or_default();
            let essence = text.split(';').next().unwrap_or_default().trim();
            let essence = essence.to_ascii_lowercase();
            essence == "application/json"
                || (essence.starts_with("application/") && essence.ends_with("+json"))
        });
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|bytes| bytes > BODY_BYTES_MAX) {
            return Err(ApiError::BodyTooLarge);
        }
        let bytes = timeout(
            BODY_TIMEOUT,
            body::to_bytes(request.into_body(), BODY_BYTES_MAX),
        )
        .await
        .map_err(|_| ApiError::BodyTooSlow)?
        .map_err(|error| {
            let source = std::error::Error::source(&error);
            if source.is_some_and(|source| source.is::<http_body_util::LengthLimitError>()) {
                ApiError::BodyTooLarge
            } else {
                ApiError::MalformedBody
            }
        })?;
        if !is_json && !bytes.is_empty() {
            return Err(ApiError::NotJson);
        }
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|_| ApiError::MalformedBody)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn token_is_looked_for_in_the_order_of_the_contract() {
        let uri = |text: &'static str| Uri::from_static(text);
        let all = headers(&[("x-auth-token", "a"), ("authorization", "Bearer c")]);
        let bearer = headers(&[("x-auth-token", ""), ("authorization", "Bearer c")]);
        assert_eq!(token(&all, &uri("/?token=b")).unwrap(), "a");
        assert_eq!(token(&bearer, &uri("/?token=b")).unwrap(), "b");
        assert_eq!(token(&bearer, &uri("/?token=")).unwrap(), "c");
        for foreign in ["bearer c", "Basic c", "Bearer"] {
            assert_eq!(
                token(&headers(&[("authorization", foreign)]), &uri("/")),
                None
            );
        }
    }

    #[test]
    fn forwarded_address_is_the_first_one_that_is_an_address() {
        let of = |pairs: &[(&'static str, &'static str)]| forwarded_address(&headers(pairs));
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let both = [
            ("x-forwarded-for", " 203.0.113.7 , 10.0.0.1"),
            ("x-real-ip", "10.0.0.2"),
        ];
        assert_eq!(of(&both), address("203.0.113.7"));
        assert_eq!(
            of(&[("x-forwarded-for", "203.0.113.7:4711")]),
            address("203.0.113.7")
        );
        assert_eq!(
            of(&[("x-forwarded-for", "unknown"), both[1]]),
            address("10.0.0.2")
        );
        assert_eq!(
            of(&[("x-forwarded-for", "2001:db8::1")]),
            address("2001:db8::1")
        );
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn long_user_agents_are_cut_at_a_character() {
        assert_eq!(cut("가가".to_owned(), 4), "가");
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect()
    }
}
