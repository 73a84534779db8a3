//! Profile images.

use std::sync::Arc;

use axum::{
    Json as JsonBody,
    extract::{Request, State},
    http::{HeaderMap, Method},
    response::Response,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    app::App,
    delivery::{self, Content},
    error::{Action, ApiError, FileError},
    extract::{Authenticated, FilePath, Json, StoredNamePath},
    media::{Media, Purpose},
    uploads::{self, Stored},
};

use super::{
    Done,
    files::{FileView, PresignForm, PresignedUpload},
};

/// Where the image is: a path of this tier, without token.
const PATH: &str = "/api/uploads/profiles/";

/// A new profile image.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageUploaded {
    success: bool,
    message: &'static str,
    /// Path of the image at this tier.
    image_url: String,
}

/// A place to upload an image to.
#[derive(Serialize, ToSchema)]
pub(crate) struct PresignedImage {
    success: bool,
    image: FileView,
    upload: PresignedUpload,
}

/// Uploads the caller's profile image through this tier: multipart field `profileImage`.
#[utoipa::path(post, path = "/api/users/profile-image", tag = "users", security(("token" = [])),
    request_body(content = String, content_type = "multipart/form-data"),
    responses(
        (status = 200, body = ImageUploaded),
        (status = 400, description = "The image is missing, too large or not taken"),
        (status = 401),
        (status = 404, description = "The account is gone"),
        (status = 415, description = "The body is no form"),
    ))]
pub(crate) async fn upload(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    request: Request,
) -> Result<JsonBody<ImageUploaded>, ApiError> {
    let stored = uploads::from_form(&app, caller.user, Purpose::ProfileImage, request).await?;
    let shown = show(&app, &caller, &stored).await;
    // Whether the account has it is not known after any other failure.
    if matches!(shown, Err(ApiError::UserNotFound)) {
        uploads::discard(&app, Purpose::ProfileImage, &stored.name).await;
    }
    shown
}

/// Hands out a URL to upload a profile image to.
#[utoipa::path(post, path = "/api/users/profile-image/presign", tag = "users", security(("token" = [])),
    request_body = PresignForm,
    responses(
        (status = 200, body = PresignedImage),
        (status = 400, description = "The image is too large or not taken"),
        (status = 401),
    ))]
pub(crate) async fn presign(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Json(form): Json<PresignForm>,
) -> Result<JsonBody<PresignedImage>, ApiError> {
    let wish = form.wish()?;
    let presigned = uploads::presign(&app, caller.user, Purpose::ProfileImage, &wish).await?;
    let (promised, presigned) = presigned;
    Ok(JsonBody(PresignedImage {
        success: true,
        image: FileView::of(&promised.record, None),
        upload: PresignedUpload::of(&presigned, &promised.record.mime_type),
    }))
}

/// Makes what was uploaded to a presigned URL the caller's profile image. May be repeated.
#[utoipa::path(post, path = "/api/users/profile-image/{id}/complete", tag = "users", security(("token" = [])),
    params(("id" = String, Path, description = "`_id` of the presigned image")),
    responses(
        (status = 200, body = ImageUploaded),
        (status = 400, description = "What was uploaded is not what was promised"),
        (status = 401),
        (status = 404, description = "The caller has no such upload"),
        (status = 409, description = "Nothing was uploaded yet"),
    ))]
pub(crate) async fn complete(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    FilePath(id): FilePath,
) -> Result<JsonBody<ImageUploaded>, ApiError> {
    let stored = uploads::complete(&app, caller.user, Purpose::ProfileImage, id).await?;
    let shown = show(&app, &caller, &stored).await?;
    uploads::settle(&app, &stored).await;
    Ok(shown)
}

/// Puts an image beside the caller's name; the one before goes.
async fn show(
    app: &App,
    caller: &Authenticated,
    stored: &Stored,
) -> Result<JsonBody<ImageUploaded>, ApiError> {
    let image_url = format!("{PATH}{}", stored.name);
    replace(app, caller, &image_url, Action::UploadImage).await?;
    Ok(JsonBody(ImageUploaded {
        success: true,
        message: "프로필 이미지가 업데이트되었습니다.",
        image_url,
    }))
}

/// Removes the caller's profile image, if there is one.
#[utoipa::path(delete, path = "/api/users/profile-image", tag = "users", security(("token" = [])),
    responses((status = 200, body = Done), (status = 401), (status = 404, description = "The account is gone")))]
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    caller: Authenticated,
) -> Result<JsonBody<Done>, ApiError> {
    replace(&app, &caller, "", Action::DeleteImage).await?;
    Ok(JsonBody(Done::saying("프로필 이미지가 삭제되었습니다.")))
}

async fn replace(
    app: &App,
    caller: &Authenticated,
    image: &str,
    action: Action,
) -> Result<(), ApiError> {
    let before = app.store.set_profile_image(caller.user, image).await;
    let before = before.map_err(|error| error.during(action))?;
    let before = before.ok_or(ApiError::UserNotFound)?;
    let old = before.strip_prefix(PATH).filter(|_| before != image);
    let old = old.and_then(|old| old.parse().ok());
    if let Some(old) = old {
        uploads::discard(app, Purpose::ProfileImage, &old).await;
    }
    Ok(())
}

/// Shows a profile image to anybody: the name cannot be guessed, `<img>` sends no token.
#[utoipa::path(get, path = "/api/uploads/profiles/{filename}", tag = "users",
    params(("filename" = String, Path)),
    responses(
        (status = 200, description = "The image"),
        (status = 304, description = "The caller has it"),
        (status = 404, description = "There is no such image"),
    ))]
pub(crate) async fn view(
    State(app): State<Arc<App>>,
    name: Result<StoredNamePath, ApiError>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    // Older clients ask for images of older names.
    let StoredNamePath(name) = name.map_err(|_| FileError::NotFound)?;
    let media = Media::of_image_ending(name.ending()).ok_or(FileError::NotFound)?;
    let content = Content {
        key: Purpose::ProfileImage.key(&name),
        etag: format!("\"{}\"", name.id),
        content_type: media.essence,
        size: None,
        disposition: None,
        cache_control: "public, max-age=31536000, immutable",
        may_redirect: false,
    };
    delivery::deliver(&app, &method, &headers, &content).await
}

/// The same image where older clients look for it.
#[utoipa::path(get, path = "/uploads/profiles/{filename}", tag = "users",
    params(("filename" = String, Path)), responses((status = 200), (status = 404)))]
#[expect(dead_code, reason = "documents a second path of `view`")]
fn view_beside_api() {}

/// The same image where the oldest clients look for it.
#[utoipa::path(get, path = "/uploads/{filename}", tag = "users",
    params(("filename" = String, Path)), responses((status = 200), (status = 404)))]
#[expect(dead_code, reason = "documents a third path of `view`")]
fn view_without_folder() {}
