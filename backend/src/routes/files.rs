//! Files of messages.

use std::sync::Arc;

use axum::{
    Json as JsonBody,
    extract::{Request, State},
    http::{HeaderMap, Method},
    response::Response,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    app::App,
    clock,
    delivery::{self, Content},
    error::{Action, ApiError, FieldError, FileError, Form},
    extract::{Authenticated, FilePath, Json, StoredNamePath},
    media::{Media, Purpose},
    objects::Presigned,
    store::{FileRecord, StoreError},
    stored_name::StoredName,
    uploads::{self, Stored, Wish},
};

use super::Done;

/// A stored file.
#[derive(Serialize, ToSchema)]
pub(crate) struct Uploaded {
    success: bool,
    message: &'static str,
    file: FileView,
}

/// A file as its uploader sees it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FileView {
    #[serde(rename = "_id")]
    id: String,
    /// Stored name, for the URLs to view and download.
    filename: String,
    /// Name as uploaded.
    #[serde(rename = "originalname")]
    original_name: String,
    #[serde(rename = "mimetype")]
    mime_type: String,
    /// Bytes.
    size: u64,
    /// ISO 8601, UTC; absent before there is a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    upload_date: Option<String>,
}

/// A wish to upload straight to the object store.
#[derive(Deserialize, ToSchema)]
pub(crate) struct PresignForm {
    /// Name with an ending that fits the type.
    originalname: Option<String>,
    /// Media type, as for a form.
    mimetype: Option<String>,
    /// Exact number of bytes.
    #[schema(value_type = Option<u64>)]
    size: Option<serde_json::Value>,
}

/// A place to upload to.
#[derive(Serialize, ToSchema)]
pub(crate) struct PresignedFile {
    success: bool,
    file: FileView,
    upload: PresignedUpload,
}

/// How the bytes are to be sent: exactly as many as were named, of the type that was named.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PresignedUpload {
    method: &'static str,
    url: String,
    headers: UploadHeaders,
    /// ISO 8601, UTC.
    expires_at: String,
}

/// Headers that the upload must have; `content-length` comes of itself.
#[derive(Serialize, ToSchema)]
pub(crate) struct UploadHeaders {
    #[serde(rename = "content-type")]
    content_type: String,
}

impl FileView {
    pub(super) fn of(record: &FileRecord, upload_date: Option<u64>) -> Self {
        Self {
            id: record.id.to_string(),
            filename: record.filename.clone(),
            original_name: record.original_name.clone(),
            mime_type: record.mime_type.clone(),
            size: record.size,
            upload_date: upload_date.map(clock::iso),
        }
    }
}

impl PresignedUpload {
    pub(super) fn of(presigned: &Presigned, content_type: &str) -> Self {
        Self {
            method: "PUT",
            url: presigned.url.to_string(),
            headers: UploadHeaders {
                content_type: content_type.to_owned(),
            },
            expires_at: clock::iso(presigned.expires_at),
        }
    }
}

impl PresignForm {
    /// Names and types are checked like those of a form, a size must be there.
    pub(super) fn wish(&self) -> Result<Wish<'_>, ApiError> {
        let size = self.size.as_ref().and_then(serde_json::Value::as_u64);
        let field = FieldError {
            field: "size",
            message: "바이트 수여야 합니다.",
        };
        Ok(Wish {
            original_name: self.originalname.as_deref().unwrap_or_default(),
            declared_type: self.mimetype.as_deref().unwrap_or_default(),
            size: size.ok_or_else(|| ApiError::Invalid(Form::Resource, vec![field]))?,
        })
    }
}

/// Uploads a file through this tier: multipart field `file`.
#[utoipa::path(post, path = "/api/files/upload", tag = "files", security(("token" = [])),
    request_body(content = String, content_type = "multipart/form-data"),
    responses(
        (status = 200, body = Uploaded),
        (status = 400, description = "The file, its name or its type is not taken"),
        (status = 401),
        (status = 411, description = "The request has no Content-Length"),
        (status = 413, description = "The file is too large"),
        (status = 415, description = "The body is no form"),
        (status = 501, description = "No object store is configured"),
        (status = 503, description = "Too many uploads, or the object store is away"),
    ))]
pub(crate) async fn upload(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    request: Request,
) -> Result<JsonBody<Uploaded>, ApiError> {
    let stored = uploads::from_form(&app, caller.user, Purpose::Attachment, request).await?;
    let kept = keep(&app, &stored).await;
    if kept.is_err() {
        uploads::discard(&app, Purpose::Attachment, &stored.name).await;
    }
    kept
}

/// Hands out a URL to upload a file to.
#[utoipa::path(post, path = "/api/files/presign", tag = "files", security(("token" = [])),
    request_body = PresignForm,
    responses(
        (status = 200, body = PresignedFile),
        (status = 400, description = "The file, its name or its type is not taken"),
        (status = 401),
        (status = 413, description = "The file is too large"),
        (status = 501, description = "No object store is configured"),
    ))]
pub(crate) async fn presign(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    Json(form): Json<PresignForm>,
) -> Result<JsonBody<PresignedFile>, ApiError> {
    let wish = form.wish()?;
    let presigned = uploads::presign(&app, caller.user, Purpose::Attachment, &wish).await?;
    let (promised, presigned) = presigned;
    Ok(JsonBody(PresignedFile {
        success: true,
        file: FileView::of(&promised.record, None),
        upload: PresignedUpload::of(&presigned, &promised.record.mime_type),
    }))
}

/// Makes what was uploaded to a presigned URL a file. May be repeated.
#[utoipa::path(post, path = "/api/files/{id}/complete", tag = "files", security(("token" = [])),
    params(("id" = String, Path, description = "`_id` of the presigned file")),
    responses(
        (status = 200, body = Uploaded),
        (status = 400, description = "What was uploaded is not what was promised"),
        (status = 401),
        (status = 404, description = "The caller has no such upload"),
        (status = 409, description = "Nothing was uploaded yet"),
    ))]
pub(crate) async fn complete(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    FilePath(id): FilePath,
) -> Result<JsonBody<Uploaded>, ApiError> {
    let stored = uploads::complete(&app, caller.user, Purpose::Attachment, id).await?;
    let kept = keep(&app, &stored).await?;
    uploads::settle(&app, &stored).await;
    Ok(kept)
}

/// Stores the metadata of an object. The record comes last: what has one is there to be read.
async fn keep(app: &App, stored: &Stored) -> Result<JsonBody<Uploaded>, ApiError> {
    let created = app.store.create_file(&stored.record).await;
    created.map_err(|error| error.during(Action::UploadFile))?;
    Ok(JsonBody(Uploaded {
        success: true,
        message: "파일 업로드 성공",
        file: FileView::of(&stored.record, Some(stored.name.created_at)),
    }))
}

/// Shows a file in place, to participants of a room with a message that refers to it.
#[utoipa::path(get, path = "/api/files/view/{filename}", tag = "files", security(("token" = [])),
    params(
        ("filename" = String, Path),
        ("token" = Option<String>, Query, description = "Instead of a header"),
    ),
    responses(
        (status = 200, description = "The file"),
        (status = 206, description = "A range of it"),
        (status = 302, description = "Where a browser finds it"),
        (status = 304, description = "The caller has it"),
        (status = 400, description = "No stored name"),
        (status = 401),
        (status = 403, description = "The caller is in no room that shows it"),
        (status = 404, description = "There is no such file"),
        (status = 415, description = "Browsers do not show such files"),
        (status = 416, description = "No byte in this range"),
    ))]
pub(crate) async fn view(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    StoredNamePath(name): StoredNamePath,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let file = readable(&app, &caller, &name).await?;
    if !Media::named(&file.mime_type).is_some_and(|media| media.previewable) {
        return Err(FileError::NoPreview.into());
    }
    let disposition = delivery::inline(&file.original_name);
    let cache_control = "private, max-age=31536000, immutable";
    let content = content(&file, &name, disposition, cache_control);
    delivery::deliver(&app, &method, &headers, &content).await
}

/// Sends a file to be saved, to participants of a room with a message that refers to it.
#[utoipa::path(get, path = "/api/files/download/{filename}", tag = "files", security(("token" = [])),
    params(
        ("filename" = String, Path),
        ("token" = Option<String>, Query, description = "Instead of a header"),
    ),
    responses(
        (status = 200, description = "The file"),
        (status = 206, description = "A range of it"),
        (status = 302, description = "Where a browser finds it"),
        (status = 400, description = "No stored name"),
        (status = 401),
        (status = 403, description = "The caller is in no room that shows it"),
        (status = 404, description = "There is no such file"),
        (status = 416, description = "No byte in this range"),
    ))]
pub(crate) async fn download(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    StoredNamePath(name): StoredNamePath,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let file = readable(&app, &caller, &name).await?;
    let disposition = delivery::attachment(&file.original_name);
    let cache_control = "private, no-cache, no-store, must-revalidate";
    let content = content(&file, &name, disposition, cache_control);
    delivery::deliver(&app, &method, &headers, &content).await
}

fn content<'a>(
    file: &'a FileRecord,
    name: &StoredName,
    disposition: String,
    cache_control: &'static str,
) -> Content<'a> {
    Content {
        key: Purpose::Attachment.key(name),
        etag: format!("\"{}\"", file.id),
        content_type: &file.mime_type,
        size: Some(file.size),
        disposition: Some(disposition),
        cache_control,
        may_redirect: true,
    }
}

/// The file, if a room that shows it has the caller as a participant.
async fn readable(
    app: &App,
    caller: &Authenticated,
    name: &StoredName,
) -> Result<FileRecord, ApiError> {
    let failed = |error: StoreError| error.during(Action::ReadFile);
    let found = app.store.file(name.id).await.map_err(failed)?;
    let (file, rooms) = found.ok_or(FileError::NotFound)?;
    if file.filename != name.to_string() || rooms.is_empty() {
        return Err(FileError::NotFound.into());
    }
    for room in rooms.into_iter().rev() {
        if app
            .store
            .is_participant(room, caller.user)
            .await
            .map_err(failed)?
        {
            return Ok(file);
        }
    }
    Err(FileError::NotReadable.into())
}

/// Deletes a file of the caller; messages that refer to it stay.
#[utoipa::path(delete, path = "/api/files/{id}", tag = "files", security(("token" = [])),
    params(("id" = String, Path)),
    responses(
        (status = 200, body = Done),
        (status = 401),
        (status = 403, description = "The caller is not the uploader"),
        (status = 404, description = "There is no such file"),
    ))]
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    caller: Authenticated,
    FilePath(id): FilePath,
) -> Result<JsonBody<Done>, ApiError> {
    let failed = |error: StoreError| error.during(Action::DeleteFile);
    let objects = app.objects()?;
    let found = app.store.file(id).await.map_err(failed)?;
    let (file, _) = found.ok_or(FileError::NotFound)?;
    if file.owner != caller.user {
        return Err(FileError::NotYours.into());
    }
    let name: StoredName = file.filename.parse().map_err(FileError::InvalidName)?;
    // The object first: while the record stands, the deletion can be repeated.
    let deleted = objects.delete(&Purpose::Attachment.key(&name)).await;
    deleted.map_err(|error| error.during(Action::DeleteFile))?;
    app.store.delete_file(id).await.map_err(failed)?;
    Ok(JsonBody(Done::saying("파일이 삭제되었습니다.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_numbers_of_bytes() {
        let size = |json: &str| {
            let form: PresignForm = serde_json::from_str(json).unwrap();
            form.wish().ok().map(|wish| wish.size)
        };
        assert_eq!(size(r#"{"size":5}"#), Some(5));
        for bad in [
            "{}",
            r#"{"size":null}"#,
            r#"{"size":"5"}"#,
            r#"{"size":-1}"#,
            r#"{"size":1.5}"#,
        ] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }
}
