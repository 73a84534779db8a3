//! The caller's own account.

use std::sync::Arc;

use axum::{Json as JsonBody, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    app::App,
    clock,
    error::{Action, ApiError, Form},
    extract::{Authenticated, Client, Json},
    input::{DisplayName, Fields, Password},
    store::User,
    view::UserView,
};

use super::Done;

/// The caller's profile.
#[derive(Serialize, ToSchema)]
pub(crate) struct Profile {
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
    user: UserView,
}

/// A changed profile.
#[derive(Deserialize, ToSchema)]
pub(crate) struct ProfileChange {
    /// At least 2 characters; stored as sent.
    name: Option<String>,
}

/// A changed password.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PasswordChange {
    current_password: Option<String>,
    /// At least 6 characters, at most 72 bytes.
    new_password: Option<String>,
}

/// The API of users is there.
#[derive(Serialize, ToSchema)]
pub(crate) struct Status {
    success: bool,
    message: &'static str,
    timestamp: String,
}

/// Says that the API of users is there.
#[utoipa::path(get, path = "/api/users/status", tag = "users", security(("token" = [])),
    responses((status = 200, body = Status), (status = 401)))]
pub(crate) async fn status(_: Authenticated) -> JsonBody<Status> {
    JsonBody(Status {
        success: true,
        message: "User API is running",
        timestamp: clock::iso_now(),
    })
}

/// Shows the caller's profile, at most a moment old.
#[utoipa::path(get, path = "/api/users/profile", tag = "users", security(("token" = [])),
    responses((status = 200, body = Profile), (status = 401), (status = 404, description = "The account is gone")))]
pub(crate) async fn profile(
    State(app): State<Arc<App>>,
    caller: Authenticated,
) -> Result<JsonBody<Profile>, ApiError> {
    let user = app.store.user_lately(caller.user).await;
    let user = user
        .map_err(|error| error.during(Action::ReadProfile))?
        .ok_or(ApiError::UserNotFound)?;
    Ok(JsonBody(Profile {
        success: true,
        message: None,
        user: UserView::of(&user),
    }))
}

/// Renames the caller.
#[utoipa::path(put, path = "/api/users/profile", tag = "users", security(("token" = [])),
    request_body = ProfileChange,
    responses(
        (status = 200, body = Profile),
        (status = 400, description = "The name is missing or wrong"),
        (status = 401),
        (status = 404, description = "The account is gone"),
    ))]
pub(crate) async fn update_profile(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Json(form): Json<ProfileChange>,
) -> Result<JsonBody<Profile>, ApiError> {
    let mut fields = Fields::of(Form::Resource);
    let name = fields.take("name", DisplayName::parse_for_profile(form.name.as_deref()));
    let Some(name) = name else {
        return Err(fields.refusal());
    };
    let mut user = account(&app, &caller, Action::UpdateProfile).await?;
    name.as_str().clone_into(&mut user.name);
    let renamed = app.store.rename_user(&user).await;
    renamed.map_err(|error| error.during(Action::UpdateProfile))?;
    Ok(JsonBody(Profile {
        success: true,
        message: Some("프로필이 업데이트되었습니다."),
        user: UserView::of(&user),
    }))
}

/// Changes the caller's password; whoever logged in elsewhere in the meantime is logged out.
#[utoipa::path(post, path = "/api/users/password", tag = "users", security(("token" = [])),
    request_body = PasswordChange,
    responses(
        (status = 200, body = Done),
        (status = 400, description = "A field is missing or wrong, or the current password is not this one"),
        (status = 401),
        (status = 404, description = "The account is gone"),
        (status = 503, description = "Too busy, or Redis does not answer; try again"),
    ))]
pub(crate) async fn change_password(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    client: Client,
    Json(form): Json<PasswordChange>,
) -> Result<JsonBody<Done>, ApiError> {
    let action = Action::ChangePassword;
    let mut fields = Fields::of(Form::Resource);
    let current = fields.take(
        "currentPassword",
        Password::parse_for_login(form.current_password.as_deref()),
    );
    let new = fields.take("newPassword", Password::parse(form.new_password.as_deref()));
    let (Some(current), Some(new)) = (current, new) else {
        return Err(fields.refusal());
    };
    let user = account(&app, &caller, action).await?;
    let verified = app.passwords.verify(current, user.password_hash).await;
    if !verified.map_err(|error| error.during(action))? {
        let mismatch: Result<(), _> = Err("현재 비밀번호가 일치하지 않습니다.");
        fields.take("currentPassword", mismatch);
        return Err(fields.refusal());
    }
    let hash = app.passwords.hash(new).await;
    let hash = hash.map_err(|error| error.during(action))?;
    let stored = app.store.set_password(user.id, &hash).await;
    stored.map_err(|error| error.during(action))?;
    // The caller's session again, as the only one: it displaces a login with the old password.
    let replaced = app
        .store
        .replace_session(user.id, caller.session, &client, clock::now_ms());
    replaced.await.map_err(|error| error.during(action))?;
    Ok(JsonBody(Done::saying("비밀번호가 변경되었습니다.")))
}

/// Deletes the caller's account; rooms and messages stay.
#[utoipa::path(delete, path = "/api/users/account", tag = "users", security(("token" = [])),
    responses((status = 200, body = Done), (status = 401), (status = 404, description = "The account is gone")))]
pub(crate) async fn delete_account(
    State(app): State<Arc<App>>,
    caller: Authenticated,
) -> Result<JsonBody<Done>, ApiError> {
    let user = account(&app, &caller, Action::DeleteAccount).await?;
    let deleted = app.store.delete_user(&user).await;
    deleted.map_err(|error| error.during(Action::DeleteAccount))?;
    Ok(JsonBody(Done::saying("회원 탈퇴가 완료되었습니다.")))
}

/// The caller's record as it is.
pub(super) async fn account(
    app: &App,
    caller: &Authenticated,
    action: Action,
) -> Result<User, ApiError> {
    let user = app.store.user(caller.user).await;
    user.map_err(|error| error.during(action))?
        .ok_or(ApiError::UserNotFound)
}
