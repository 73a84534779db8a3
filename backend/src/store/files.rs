//! What this tier asks Redis about files.

use redis::cmd;
use serde::{Deserialize, Serialize};
use slotcast_proto::{
    id::{FileId, RoomId, UserId},
    schema::{bus, key, key::Channel, library::Function, record},
};
use std::{collections::HashMap, time::Duration};

use super::{Manner, Store, StoreError, Value, fcall};
use crate::view::UserView;

/// A file's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileRecord {
    pub(crate) id: FileId,
    pub(crate) owner: UserId,
    pub(crate) filename: String,
    pub(crate) original_name: String,
    pub(crate) mime_type: String,
    pub(crate) size: u64,
}

/// What a presigned upload was promised to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PendingUpload {
    pub(crate) owner: UserId,
    pub(crate) filename: String,
    pub(crate) original_name: String,
    pub(crate) mime_type: String,
    pub(crate) size: u64,
    pub(crate) profile_image: bool,
}

impl Store {
    /// Stores a file's metadata; again does no harm.
    pub(crate) async fn create_file(&self, file: &FileRecord) -> Result<(), StoreError> {
        let mut command = cmd("HSET");
        command
            .arg(key::file(file.id))
            .arg(record::file::OWNER)
            .arg(file.owner.to_string())
            .arg(record::file::FILENAME)
            .arg(&file.filename)
            .arg(record::file::ORIGINAL_NAME)
            .arg(&file.original_name)
            .arg(record::file::MIME_TYPE)
            .arg(&file.mime_type)
            .arg(record::file::SIZE)
            .arg(file.size);
        let _: Value = self.ask("create_file", Manner::Fresh, &command).await?;
        Ok(())
    }

    /// A file's metadata and the rooms that show it.
    pub(crate) async fn file(
        &self,
        id: FileId,
    ) -> Result<Option<(FileRecord, Vec<RoomId>)>, StoreError> {
        let mut command = cmd("HGETALL");
        command.arg(key::file(id));
        let mut fields: HashMap<String, String> = self.ask("file", Manner::Fresh, &command).await?;
        let mut field = |name| fields.remove(name);
        let (Some(owner), Some(filename), Some(original_name), Some(mime_type), Some(size)) = (
            field(record::file::OWNER),
            field(record::file::FILENAME),
            field(record::file::ORIGINAL_NAME),
            field(record::file::MIME_TYPE),
            field(record::file::SIZE),
        ) else {
            return Ok(None);
        };
        let rooms = field(record::file::ROOMS).unwrap_or_default();
        let rooms = rooms.split_ascii_whitespace().map(str::parse);
        let file = FileRecord {
            id,
            owner: owner.parse().map_err(|_| StoreError::Corrupt)?,
            filename,
            original_name,
            mime_type,
            size: size.parse().map_err(|_| StoreError::Corrupt)?,
        };
        let rooms = rooms.collect::<Result<_, _>>();
        Ok(Some((file, rooms.map_err(|_| StoreError::Corrupt)?)))
    }

    /// Forgets a file; its messages stay.
    pub(crate) async fn delete_file(&self, id: FileId) -> Result<(), StoreError> {
        let mut command = cmd("DEL");
        command.arg(key::file(id));
        let _: Value = self.ask("delete_file", Manner::Fresh, &command).await?;
        Ok(())
    }

    /// Whether a user is a participant of a room.
    pub(crate) async fn is_participant(
        &self,
        room: RoomId,
        user: UserId,
    ) -> Result<bool, StoreError> {
        let mut command = cmd("HEXISTS");
        command.arg(key::members(room)).arg(user.to_string());
        self.ask("is_participant", Manner::Fresh, &command).await
    }

    /// Remembers what a presigned upload was promised to be.
    pub(crate) async fn begin_upload(
        &self,
        id: FileId,
        upload: &PendingUpload,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let json = serde_json::to_string(upload).map_err(|_| StoreError::Corrupt)?;
        let mut command = cmd("SET");
        command
            .arg(key::upload(id))
            .arg(json)
            .arg("EX")
            .arg(ttl.as_secs());
        let _: Value = self.ask("begin_upload", Manner::Fresh, &command).await?;
        Ok(())
    }

    /// What a presigned upload was promised to be, and the ETag of the object that completes it.
    pub(crate) async fn pending_upload(
        &self,
        id: FileId,
    ) -> Result<Option<(PendingUpload, Option<String>)>, StoreError> {
        let mut command = cmd("MGET");
        command.arg(key::upload(id)).arg(key::uploaded(id));
        let (upload, etag): (Option<String>, Option<String>) =
            self.ask("pending_upload", Manner::Fresh, &command).await?;
        let Some(upload) = upload else {
            return Ok(None);
        };
        let upload = serde_json::from_str(&upload).map_err(|_| StoreError::Corrupt)?;
        Ok(Some((upload, etag)))
    }

    /// Decides which object completes a presigned upload: the first one named, for ever.
    pub(crate) async fn claim_upload(
        &self,
        id: FileId,
        etag: &str,
        ttl: Duration,
    ) -> Result<String, StoreError> {
        let mut command = cmd("SET");
        command
            .arg(key::uploaded(id))
            .arg(etag)
            .arg("NX")
            .arg("GET")
            .arg("EX")
            .arg(ttl.as_secs());
        let earlier: Option<String> = self.ask("claim_upload", Manner::Fresh, &command).await?;
        Ok(earlier.unwrap_or_else(|| etag.to_owned()))
    }

    /// Replaces a user's profile image (empty for none) and tells the gateways; the image before,
    /// or `None` when the account is gone.
    pub(crate) async fn set_profile_image(
        &self,
        user: UserId,
        image: &str,
    ) -> Result<Option<String>, StoreError> {
        let mut command = fcall(Function::SetProfileImage, &[key::user(user)]);
        command.arg(image);
        let answer: Vec<String> = self
            .ask("set_profile_image", Manner::Fresh, &command)
            .await?;
        let [_, name, email, before] = answer.as_slice() else {
            return Ok(None);
        };
        let view = UserView::new(user, name, email, image);
        let message = bus::profile_changed(user, &view.json()?);
        self.publish(Channel::Users(user.slot()), &message).await;
        Ok(Some(before.clone()))
    }
}
