//! From a client's bytes to a stored object.
//!
//! Every upload first lies under `uploads/`, which a lifecycle rule of the bucket clears: whatever
//! breaks off there leaves nothing behind. What is complete is copied to its own key, in the store.
//!
//! *A form* streams through this process. The store wants to know an object's length before its first
//! byte; a form only tells its own. So the object gets the length of the form, with zeros behind the
//! file, and the file alone is copied out.
//!
//! *A presigned upload* does not touch this process. Its URL names a key under `uploads/` for ever:
//! what it still writes after the upload was completed reaches nobody.

use std::{pin::pin, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::Request,
};
use http_body_util::channel::{Channel, Sender};
use slotcast_proto::id::{FileId, UserId};
use tokio::time::timeout;

use crate::{
    app::App,
    clock,
    error::{Action, ApiError, Fault, FileError},
    form::{AROUND_BYTES_MAX, FileForm, FilePart},
    media::{Candidate, IMAGE_TOO_LARGE, Purpose, Refusal},
    metrics::Way,
    objects::{ObjectError, ObjectStore, Presigned, http::BUFFER_BYTES},
    store::{FileRecord, PendingUpload},
    stored_name::StoredName,
};

/// Time for the store to take the next bytes, and to answer after the last.
const STORE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a form may take at most, its fields beside the file included: as long as one of this rate,
/// and some time for the slowest start. Whoever is slower keeps others from uploading.
const BYTES_PER_SECOND_MIN: u64 = 32 * 1024;
const IN_TIME_FOR_ANY: Duration = Duration::from_secs(30);

/// How long a presigned upload can be completed after its URL has ended.
const COMPLETE_WITHIN: Duration = Duration::from_secs(3600);

static ZEROS: [u8; BUFFER_BYTES] = [0; BUFFER_BYTES];

/// An object that is there, for ever the same.
pub(crate) struct Stored {
    pub(crate) name: StoredName,
    pub(crate) record: FileRecord,
}

/// A wish to upload by a presigned URL.
pub(crate) struct Wish<'a> {
    pub(crate) original_name: &'a str,
    pub(crate) declared_type: &'a str,
    pub(crate) size: u64,
}

impl Purpose {
    const fn action(self) -> Action {
        match self {
            Self::Attachment => Action::UploadFile,
            Self::ProfileImage => Action::UploadImage,
        }
    }

    /// The part of a form that holds the file.
    const fn field(self) -> &'static str {
        match self {
            Self::Attachment => "file",
            Self::ProfileImage => "profileImage",
        }
    }

    /// The object's key.
    pub(crate) fn key(self, name: &StoredName) -> String {
        match self {
            Self::Attachment => format!("files/{name}"),
            Self::ProfileImage => format!("profiles/{name}"),
        }
    }
}

fn staging_key(id: FileId) -> String {
    format!("uploads/{id}")
}

// ---------------------------------------------------------------------------------------- forms

/// Takes the file of a form.
pub(crate) async fn from_form(
    app: &App,
    owner: UserId,
    purpose: Purpose,
    request: Request,
) -> Result<Stored, ApiError> {
    let form = open(purpose, request)?;
    let objects = app.objects()?;
    let _place = app.uploads.enter().ok_or(ApiError::Overloaded)?;
    let in_time = IN_TIME_FOR_ANY + Duration::from_secs(form.length / BYTES_PER_SECOND_MIN);
    let staged = timeout(in_time, stage(objects, owner, purpose, form)).await;
    let (name, file, size) = staged.map_err(|_| ApiError::BodyTooSlow)??;
    let (staging, key) = (staging_key(name.id), purpose.key(&name));
    let copied = objects.copy_beginning(&staging, &key, size, file.media.essence);
    let copied = copied.await;
    clear(objects, &staging).await;
    copied.map_err(|error| error.during(purpose.action()))?;
    app.metrics.uploaded(purpose, Way::Form, size);
    Ok(Stored {
        record: FileRecord {
            id: name.id,
            owner,
            filename: name.to_string(),
            original_name: file.original_name,
            mime_type: file.media.essence.to_owned(),
            size,
        },
        name,
    })
}

/// Finds the file of a form and streams it to its first place; its name, itself, and its size.
async fn stage(
    objects: &ObjectStore,
    owner: UserId,
    purpose: Purpose,
    mut form: FileForm,
) -> Result<(StoredName, Candidate, u64), ApiError> {
    let part = form.file(purpose.field()).await?;
    let mut part = part.ok_or(Refusal::Empty(purpose))?;
    let begin = part.chunk().await?.ok_or(Refusal::Empty(purpose))?;
    let file = Candidate::check(purpose, &part.name, &part.declared_type)?;
    if form.length.saturating_sub(AROUND_BYTES_MAX) > file.bytes_max() {
        return Err(file.too_large().into());
    }
    let name = new_name(owner, &file);
    let upload = FormUpload {
        objects,
        action: purpose.action(),
        staging: &staging_key(name.id),
        file: &file,
    };
    let size = upload.stream(form, part, begin).await?;
    Ok((name, file, size))
}

fn open(purpose: Purpose, request: Request) -> Result<FileForm, ApiError> {
    FileForm::open(request, purpose.bytes_max()).map_err(|error| match (error, purpose) {
        (FileError::RequestTooLarge, Purpose::ProfileImage) => IMAGE_TOO_LARGE.into(),
        (error, _) => error.into(),
    })
}

fn new_name(owner: UserId, file: &Candidate) -> StoredName {
    StoredName::new(owner.slot(), rand::random(), clock::now_ms(), file.ending)
}

/// A form's file on its way to the store.
struct FormUpload<'a> {
    objects: &'a ObjectStore,
    action: Action,
    staging: &'a str,
    file: &'a Candidate,
}

impl FormUpload<'_> {
    /// Sends the file, then zeros up to the form's length; the file's size.
    async fn stream(&self, form: FileForm, part: FilePart, begin: Bytes) -> Result<u64, ApiError> {
        let (sender, body) = Channel::new(1);
        let length = form.length;
        let content_type = self.file.media.essence;
        let mut put = pin!(
            self.objects
                .put(self.staging, length, content_type, Body::new(body))
        );
        // Whichever ends early takes the other with it: the store drops an object that is cut short.
        let size = tokio::select! {
            answer = put.as_mut() => {
                answer.map_err(|error| error.during(self.action))?;
                return Err(self.store_failed());
            }
            size = self.pump(form, part, begin, sender) => size?,
        };
        let stored = timeout(STORE_TIMEOUT, put).await;
        stored
            .map_err(|_| self.store_failed())?
            .map_err(|error| error.during(self.action))?;
        Ok(size)
    }

    async fn pump(
        &self,
        mut form: FileForm,
        mut part: FilePart,
        begin: Bytes,
        mut sender: Sender<Bytes>,
    ) -> Result<u64, ApiError> {
        let mut size = 0_u64;
        let mut next = Some(begin);
        while let Some(chunk) = next {
            size += chunk.len() as u64;
            if size > self.file.bytes_max() {
                return Err(self.file.too_large().into());
            }
            self.send(&mut sender, chunk).await?;
            next = part.chunk().await?;
        }
        drop(part);
        form.finish().await?;
        let mut padding = form.length.saturating_sub(size);
        while let Ok(zeros @ 1..) = usize::try_from(padding.min(BUFFER_BYTES as u64)) {
            let zeros = ZEROS.get(..zeros).unwrap_or_default();
            self.send(&mut sender, Bytes::from_static(zeros)).await?;
            padding -= zeros.len() as u64;
        }
        Ok(size)
    }

    async fn send(&self, sender: &mut Sender<Bytes>, chunk: Bytes) -> Result<(), ApiError> {
        let sent = timeout(STORE_TIMEOUT, sender.send_data(chunk)).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(self.store_failed()),
        }
    }

    const fn store_failed(&self) -> ApiError {
        ApiError::Failed(self.action, Fault::Unavailable)
    }
}

/// Deletes what is not needed any more; if that fails, the lifecycle rule does it.
async fn clear(objects: &ObjectStore, staging: &str) {
    if objects.delete(staging).await.is_err() {
        tracing::info!("an upload's first copy stays until the lifecycle rule ends it");
    }
}

/// Removes an object that no record names, or not any more.
pub(crate) async fn discard(app: &App, purpose: Purpose, name: &StoredName) {
    let Ok(objects) = app.objects() else { return };
    let key = purpose.key(name);
    if objects.delete(&key).await.is_err() {
        tracing::warn!(key, "an object without a record stays");
    }
}

// ------------------------------------------------------------------------------------ presigned

/// Hands out a URL to upload to.
pub(crate) async fn presign(
    app: &App,
    owner: UserId,
    purpose: Purpose,
    wish: &Wish<'_>,
) -> Result<(Stored, Presigned), ApiError> {
    let objects = app.objects()?;
    if wish.size == 0 {
        return Err(Refusal::Empty(purpose).into());
    }
    let file = Candidate::check(purpose, wish.original_name, wish.declared_type)?;
    file.check_size(wish.size)?;
    let name = new_name(owner, &file);
    let presigned = objects
        .upload_url(&staging_key(name.id), file.media.essence, wish.size)
        .await
        .map_err(|error| error.during(purpose.action()))?;
    let upload = PendingUpload {
        owner,
        filename: name.to_string(),
        original_name: file.original_name,
        mime_type: file.media.essence.to_owned(),
        size: wish.size,
        profile_image: purpose == Purpose::ProfileImage,
    };
    let begun = app
        .store
        .begin_upload(name.id, &upload, pending_ttl(objects));
    let begun = begun.await;
    begun.map_err(|error| error.during(purpose.action()))?;
    Ok((upload.stored(name), presigned))
}

/// Makes a presigned upload a stored object, if what lies there is what was promised. Again, it
/// changes nothing and answers the same. Whoever has recorded the object calls [`settle`].
pub(crate) async fn complete(
    app: &App,
    owner: UserId,
    purpose: Purpose,
    id: FileId,
) -> Result<Stored, ApiError> {
    let objects = app.objects()?;
    let failed = |error: crate::store::StoreError| error.during(purpose.action());
    let pending = app.store.pending_upload(id).await.map_err(failed)?;
    let (upload, claimed) = pending.ok_or(FileError::NotFound)?;
    if upload.owner != owner || upload.purpose() != purpose {
        return Err(FileError::NotFound.into());
    }
    let name: StoredName = upload
        .filename
        .parse()
        .map_err(|_| ApiError::Failed(purpose.action(), Fault::Internal))?;
    let key = purpose.key(&name);
    // What is there stays, whatever the URL has brought since.
    if is_there(objects, &key, purpose).await? {
        return Ok(upload.stored(name));
    }
    let promoted = promote(app, id, &upload, claimed, &key).await;
    // Another call may have completed it meanwhile, and taken away what this one looked for.
    if let Err(error) = promoted
        && !is_there(objects, &key, purpose).await?
    {
        return Err(error);
    }
    Ok(upload.stored(name))
}

/// Copies what was uploaded to its final key, if it is what was promised and nothing else is claimed.
async fn promote(
    app: &App,
    id: FileId,
    upload: &PendingUpload,
    claimed: Option<String>,
    key: &str,
) -> Result<(), ApiError> {
    let objects = app.objects()?;
    let purpose = upload.purpose();
    let staging = staging_key(id);
    let etag = match claimed {
        Some(etag) => etag,
        None => {
            let etag = verify(objects, &staging, upload).await?;
            let claimed = app
                .store
                .claim_upload(id, &etag, pending_ttl(objects))
                .await;
            claimed.map_err(|error| error.during(purpose.action()))?
        }
    };
    let copied = objects.copy(&staging, key, &etag, &upload.mime_type).await;
    copied.map_err(|error| match error {
        ObjectError::NotFound => FileError::NotFound.into(),
        ObjectError::Changed => FileError::UploadMismatch.into(),
        ObjectError::Unavailable | ObjectError::Refused => error.during(purpose.action()),
    })?;
    app.metrics.uploaded(purpose, Way::Presigned, upload.size);
    Ok(())
}

async fn is_there(objects: &ObjectStore, key: &str, purpose: Purpose) -> Result<bool, ApiError> {
    match objects.head(key).await {
        Ok(_) => Ok(true),
        Err(ObjectError::NotFound) => Ok(false),
        Err(error) => Err(error.during(purpose.action())),
    }
}

/// Ends a completed upload. Until then it can be completed again, should its record be missing.
pub(crate) async fn settle(app: &App, stored: &Stored) {
    if let Ok(objects) = app.objects() {
        clear(objects, &staging_key(stored.name.id)).await;
    }
}

/// How long a presigned upload and its claim are remembered. The claim comes later, so it ends later:
/// no second claim is possible while the upload is known.
fn pending_ttl(objects: &ObjectStore) -> Duration {
    objects.upload_url_ttl() + COMPLETE_WITHIN
}

/// The ETag of what lies there, if it is what was promised.
async fn verify(
    objects: &ObjectStore,
    staging: &str,
    upload: &PendingUpload,
) -> Result<String, ApiError> {
    let found = match objects.head(staging).await {
        Ok(found) => found,
        Err(ObjectError::NotFound) => return Err(FileError::NotUploaded.into()),
        Err(error) => return Err(error.during(upload.purpose().action())),
    };
    if found.size == upload.size && found.content_type == upload.mime_type {
        Ok(found.etag)
    } else {
        Err(FileError::UploadMismatch.into())
    }
}

impl PendingUpload {
    const fn purpose(&self) -> Purpose {
        if self.profile_image {
            Purpose::ProfileImage
        } else {
            Purpose::Attachment
        }
    }

    fn stored(self, name: StoredName) -> Stored {
        Stored {
            record: FileRecord {
                id: name.id,
                owner: self.owner,
                filename: self.filename,
                original_name: self.original_name,
                mime_type: self.mime_type,
                size: self.size,
            },
            name,
        }
    }
}
