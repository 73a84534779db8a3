//! Registration, login, and what becomes of a token.

use std::sync::Arc;

use axum::{
    Json as JsonBody,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use slotcast_proto::{
    id::{SessionId, UserId},
    token::Claims,
};
use utoipa::ToSchema;

use crate::{
    app::App,
    clock,
    error::{Action, ApiError, Fault, Form, TokenProblem},
    extract::{self, Client, Json},
    input::{DisplayName, Email, Fields, Password},
    store::{StoreError, User},
    view::AccountView,
};

use super::Done;

/// Who wants to register.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Registration {
    /// At least 2 characters.
    name: Option<String>,
    /// Stored in lower case.
    email: Option<String>,
    /// At least 6 characters, at most 72 bytes.
    password: Option<String>,
}

/// Who wants to log in.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Login {
    email: Option<String>,
    password: Option<String>,
}

/// A user who is logged in.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LoggedIn {
    success: bool,
    /// Null when the account exists but its session could not be stored: a login will do.
    token: Option<String>,
    /// 32 hexadecimal digits.
    session_id: Option<String>,
    user: AccountView,
    message: Option<&'static str>,
}

/// A confirmed token.
#[derive(Serialize, ToSchema)]
pub(crate) struct Verified {
    success: bool,
    message: &'static str,
    user: AccountView,
}

/// A renewed token.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Refreshed {
    success: bool,
    message: &'static str,
    token: String,
    /// The same as before.
    session_id: String,
}

/// A session that was just made.
struct Session {
    token: String,
    id: SessionId,
}

/// Registers a user and logs them in.
#[utoipa::path(post, path = "/api/auth/register", tag = "auth", request_body = Registration, responses(
    (status = 201, body = LoggedIn),
    (status = 400, description = "Fields are missing or wrong"),
    (status = 409, description = "The e-mail address is registered"),
    (status = 503, description = "Too busy, or Redis does not answer; try again"),
))]
pub(crate) async fn register(
    State(app): State<Arc<App>>,
    client: Client,
    Json(form): Json<Registration>,
) -> Result<Response, ApiError> {
    let mut fields = Fields::of(Form::Auth);
    let name = fields.take("name", DisplayName::parse(form.name.as_deref()));
    let email = fields.take("email", Email::parse(form.email.as_deref()));
    let password = fields.take("password", Password::parse(form.password.as_deref()));
    let (Some(name), Some(email), Some(password)) = (name, email, password) else {
        return Err(fields.refusal());
    };
    let failed = |error: StoreError| error.during(Action::Register);

    // Spares a hash; the claim below decides.
    let owner = app.store.user_of_email(email.as_str()).await;
    if owner.map_err(failed)?.is_some() {
        return Err(ApiError::EmailTaken);
    }
    let hashed = app.passwords.hash(password).await;
    let user = User {
        id: UserId::new(app.config.shards.pick(rand::random()), rand::random()),
        name: name.as_str().to_owned(),
        email: email.as_str().to_owned(),
        password_hash: hashed.map_err(|error| error.during(Action::Register))?,
        profile_image: None,
    };
    let claimed = app.store.register(&user, clock::now_ms()).await;
    if !claimed.map_err(failed)? {
        return Err(ApiError::EmailTaken);
    }
    // The account exists from here on, so whatever fails must not look like a refusal.
    let session = begin_session(&app, &user, &client).await.ok();
    Ok(logged_in(
        StatusCode::CREATED,
        &user,
        session,
        Some("회원가입이 완료되었습니다."),
    ))
}

/// Logs a user in; earlier sessions of the user end.
#[utoipa::path(post, path = "/api/auth/login", tag = "auth", request_body = Login, responses(
    (status = 200, body = LoggedIn),
    (status = 400, description = "Fields are missing or wrong"),
    (status = 401, description = "Unknown e-mail address or wrong password"),
    (status = 503, description = "Too busy, or Redis does not answer; try again"),
))]
pub(crate) async fn login(
    State(app): State<Arc<App>>,
    client: Client,
    Json(form): Json<Login>,
) -> Result<Response, ApiError> {
    let mut fields = Fields::of(Form::Auth);
    let email = fields.take("email", Email::parse_for_login(form.email.as_deref()));
    let password = fields.take(
        "password",
        Password::parse_for_login(form.password.as_deref()),
    );
    let (Some(email), Some(password)) = (email, password) else {
        return Err(fields.refusal());
    };
    let failed = |error: StoreError| error.during(Action::Login);

    let id = app
        .store
        .user_of_email(email.as_str())
        .await
        .map_err(failed)?;
    let user = match id {
        Some(id) => app.store.user(id).await.map_err(failed)?,
        None => None,
    };
    let Some(user) = user else {
        let spent = app.passwords.verify_nothing(password).await;
        spent.map_err(|error| error.during(Action::Login))?;
        return Err(ApiError::LoginFailed);
    };
    let verified = app.passwords.verify(password, user.password_hash.clone());
    if !verified
        .await
        .map_err(|error| error.during(Action::Login))?
    {
        return Err(ApiError::LoginFailed);
    }
    let session = begin_session(&app, &user, &client).await.map_err(failed)?;
    Ok(logged_in(StatusCode::OK, &user, Some(session), None))
}

/// Makes a session the user's only one.
async fn begin_session(app: &App, user: &User, client: &Client) -> Result<Session, StoreError> {
    let id = SessionId::new(rand::random());
    let token = sign(app, user, id)?;
    let stored = app
        .store
        .replace_session(user.id, id, client, clock::now_ms());
    stored.await?;
    Ok(Session { token, id })
}

fn sign(app: &App, user: &User, session: SessionId) -> Result<String, StoreError> {
    let key = &app.config.token_key;
    key.sign(&user.email, user.id, session, clock::now().as_secs())
        .map_err(|_| StoreError::Corrupt)
}

fn logged_in(
    status: StatusCode,
    user: &User,
    session: Option<Session>,
    message: Option<&'static str>,
) -> Response {
    let mut headers = HeaderMap::new();
    if let Some(session) = &session {
        let bearer = HeaderValue::try_from(format!("Bearer {}", session.token));
        let id = HeaderValue::try_from(session.id.to_string());
        if let (Ok(bearer), Ok(id)) = (bearer, id) {
            headers.insert(header::AUTHORIZATION, bearer);
            headers.insert("x-session-id", id);
        }
    }
    let (token, session_id) = session
        .map(|session| (session.token, session.id.to_string()))
        .unzip();
    let body = LoggedIn {
        success: true,
        token,
        session_id,
        user: AccountView::of(user),
        message,
    };
    (status, headers, JsonBody(body)).into_response()
}

/// Ends the session that the header `x-session-id` names, if the token's user has it.
#[utoipa::path(post, path = "/api/auth/logout", tag = "auth",
    params(("x-session-id" = String, Header, description = "Or parameter `sessionId`")),
    responses(
        (status = 200, body = Done, description = "Also without a valid token"),
        (status = 400, description = "No session is named"),
        (status = 503, description = "Redis does not answer; the session may be alive"),
    ))]
pub(crate) async fn logout(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<JsonBody<Done>, ApiError> {
    let session = extract::session_id(&headers, &uri).ok_or(ApiError::SessionIdMissing)?;
    let claims = extract::token(&headers, &uri).and_then(|token| claims_lately(&app, &token));
    if let (Some(claims), Ok(session)) = (claims, session.parse()) {
        let ended = app.store.end_session(claims.user_id, session).await;
        ended.map_err(|error| error.during(Action::Authenticate))?;
    }
    Ok(JsonBody(Done::saying("로그아웃이 완료되었습니다.")))
}

/// Confirms a token and its session.
#[utoipa::path(post, path = "/api/auth/verify-token", tag = "auth",
    params(
        ("x-auth-token" = String, Header, description = "Or parameter `token`, or `Authorization: Bearer`"),
        ("x-session-id" = String, Header, description = "Or parameter `sessionId`"),
    ),
    responses(
        (status = 200, body = Verified),
        (status = 400, description = "Token or session id is missing"),
        (status = 401, description = "The token, its user or its session is not valid any more"),
    ))]
pub(crate) async fn verify_token(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<JsonBody<Verified>, ApiError> {
    let verify = |token: &str| {
        let key = &app.config.token_key;
        key.verify(token, clock::now().as_secs()).ok()
    };
    let checked = check_session(&app, &headers, &uri, verify).await;
    let (user, _) = checked.map_err(ApiError::NotVerified)?;
    Ok(JsonBody(Verified {
        success: true,
        message: "토큰이 유효합니다.",
        user: AccountView::of(&user),
    }))
}

/// Renews a token, also one that expired less than a session's life ago; the session stays.
#[utoipa::path(post, path = "/api/auth/refresh-token", tag = "auth",
    params(
        ("x-auth-token" = String, Header, description = "Or parameter `token`, or `Authorization: Bearer`"),
        ("x-session-id" = String, Header, description = "Or parameter `sessionId`"),
    ),
    responses(
        (status = 200, body = Refreshed),
        (status = 400, description = "Token or session id is missing"),
        (status = 401, description = "The token, its user or its session is not valid any more"),
    ))]
pub(crate) async fn refresh_token(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<JsonBody<Refreshed>, ApiError> {
    let checked = check_session(&app, &headers, &uri, |token| claims_lately(&app, token)).await;
    let (user, session) = checked.map_err(ApiError::NotRefreshed)?;
    let broken = |_| ApiError::NotRefreshed(TokenProblem::Failed(Fault::Internal));
    Ok(JsonBody(Refreshed {
        success: true,
        message: "토큰이 갱신되었습니다.",
        token: sign(&app, &user, session).map_err(broken)?,
        session_id: session.to_string(),
    }))
}

/// The claims of a token that is valid or expired less than a session's life ago.
fn claims_lately(app: &App, token: &str) -> Option<Claims> {
    let grace = app.config.session_ttl.as_secs();
    let key = &app.config.token_key;
    key.verify_expired_up_to(token, clock::now().as_secs(), grace)
        .ok()
}

/// The user of a token and the session named beside it, if that is the user's live one.
async fn check_session(
    app: &App,
    headers: &HeaderMap,
    uri: &Uri,
    verify: impl FnOnce(&str) -> Option<Claims>,
) -> Result<(User, SessionId), TokenProblem> {
    let failed = |error: StoreError| TokenProblem::Failed(error.fault());
    let token = extract::token(headers, uri).ok_or(TokenProblem::Missing)?;
    let session = extract::session_id(headers, uri).ok_or(TokenProblem::Missing)?;
    let claims = verify(&token).ok_or(TokenProblem::Invalid)?;
    let user = app.store.user(claims.user_id).await.map_err(failed)?;
    let user = user.ok_or(TokenProblem::UserNotFound)?;
    let session = session.parse().map_err(|_| TokenProblem::DeadSession)?;
    let alive = app.store.touch_session(user.id, session).await;
    if alive.map_err(failed)? {
        Ok((user, session))
    } else {
        Err(TokenProblem::DeadSession)
    }
}
