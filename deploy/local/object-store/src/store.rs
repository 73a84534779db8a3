//! One bucket on s3s-fs, whose objects change in one step.
//!
//! s3s-fs writes an object's bytes before its attributes, checks a checksum after it has replaced the
//! object, copies into the file that others read, and leaves attributes behind when it deletes. So every
//! write goes to a draft, in a bucket that no request can name, and its files are moved to their place while
//! nobody is between two looks at an object.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use s3s::{
    S3, S3Error, S3Request, S3Response, S3Result,
    dto::{
        AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
        CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput, CopySource,
        CreateMultipartUploadInput, CreateMultipartUploadOutput, DeleteObjectInput,
        DeleteObjectOutput, GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput,
        HeadObjectInput, HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output, PutObjectInput,
        PutObjectOutput, UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput,
        UploadPartOutput,
    },
    s3_error,
};
use s3s_fs::FileSystem;
use tokio::sync::RwLock;

use crate::layout::{self, ObjectFiles};

/// The bucket of drafts and open multipart uploads; no bucket's name may begin with a dot.
const DRAFTS: &str = ".drafts";

/// The bucket. Clones are the same bucket.
#[derive(Clone)]
pub(crate) struct Store {
    root: Arc<Path>,
    bucket: Arc<str>,
    files: Arc<FileSystem>,
    drafts_made: Arc<AtomicU64>,
    /// Held to move or remove an object's files; shared by who looks at several of them.
    changes: Arc<RwLock<()>>,
}

/// An object that is being written. What was not published is removed with it.
struct Draft {
    key: String,
    files: ObjectFiles,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Err(error) = self.files.remove() {
            tracing::warn!(%error, "a draft could not be removed");
        }
    }
}

impl Store {
    /// Opens a bucket, and makes it if it is not there. Drafts of an earlier process are removed.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn open(root: &Path, bucket: &str) -> io::Result<Self> {
        fs::create_dir_all(root.join(bucket))?;
        for entry in fs::read_dir(root)? {
            let name = entry?.file_name();
            if layout::is_side_file(&name.to_string_lossy(), DRAFTS) {
                fs::remove_file(root.join(name))?;
            }
        }
        match fs::remove_dir_all(root.join(DRAFTS)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir(root.join(DRAFTS))?,
        }
        let files =
            FileSystem::new(root).map_err(|error| io::Error::other(format!("{error:?}")))?;
        Ok(Self {
            root: root.into(),
            bucket: bucket.into(),
            files: Arc::new(files),
            drafts_made: Arc::default(),
            changes: Arc::default(),
        })
    }

    /// Removes the objects under a prefix that were written before a moment, and says how many.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn expire(&self, prefix: &str, before: SystemTime) -> io::Result<usize> {
        let mut expired = 0;
        for key in self.keys()? {
            let files = ObjectFiles::new(&self.root, &self.bucket, &key);
            let _change = self.changes.blocking_write();
            if key.starts_with(prefix) && is_older(&files.bytes, before)? {
                files.remove()?;
                expired += 1;
            }
        }
        Ok(expired)
    }

    /// Removes all that is left of multipart uploads which began before a moment, and says how many.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn abort_uploads(&self, before: SystemTime) -> io::Result<usize> {
        let mut uploads: HashMap<String, Vec<PathBuf>> = HashMap::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            if let Some(upload) = layout::upload_of(&name.to_string_lossy()) {
                uploads
                    .entry(upload.to_owned())
                    .or_default()
                    .push(entry.path());
            }
        }
        let mut aborted = 0;
        for files in uploads.values() {
            let mut is_old = false;
            for file in files {
                is_old |= is_older(file, before)?;
            }
            if is_old {
                files
                    .iter()
                    .try_for_each(|file| layout::remove_if_there(file))?;
                aborted += 1;
            }
        }
        Ok(aborted)
    }

    /// The keys of all objects.
    fn keys(&self) -> io::Result<Vec<String>> {
        let bucket = self.root.join(&*self.bucket);
        let mut keys = Vec::new();
        let mut folders = vec![bucket.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else if let Ok(key) = entry.path().strip_prefix(&bucket) {
                    keys.extend(key.to_str().map(str::to_owned));
                }
            }
        }
        Ok(keys)
    }

    fn draft(&self) -> Draft {
        let number = self.drafts_made.fetch_add(1, Ordering::Relaxed);
        let key = number.to_string();
        let files = ObjectFiles::new(&self.root, DRAFTS, &key);
        Draft { key, files }
    }

    /// Makes a draft the object of a key.
    async fn publish(&self, draft: Draft, key: &str) -> S3Result<()> {
        let object = ObjectFiles::new(&self.root, &self.bucket, key);
        let _change = self.changes.write().await;
        draft.files.rename(&object).map_err(S3Error::internal_error)
    }

    /// Whether a copy's source is an object here.
    fn check_source(&self, source: &CopySource) -> S3Result<()> {
        match source {
            CopySource::Bucket { bucket, key, .. } if **bucket == *self.bucket => check_key(key),
            CopySource::Bucket { .. } => Err(s3_error!(NoSuchBucket)),
            CopySource::AccessPoint { .. } | CopySource::Outpost { .. } => {
                Err(s3_error!(NotImplemented))
            }
        }
    }

    /// The file of an open multipart upload of a key.
    fn upload(&self, key: &str, upload: &str) -> S3Result<PathBuf> {
        let file = layout::upload_file(&self.root, DRAFTS, key, upload);
        let is_open = !upload.contains('/') && file.exists();
        is_open
            .then_some(file)
            .ok_or_else(|| s3_error!(NoSuchUpload))
    }
}

/// A key is a path, which must name one file.
fn check_key(key: &str) -> S3Result<()> {
    if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(s3_error!(
            InvalidArgument,
            "this object store cannot keep that key"
        ));
    }
    Ok(())
}

fn is_older(file: &Path, before: SystemTime) -> io::Result<bool> {
    match fs::metadata(file).and_then(|about| about.modified()) {
        Ok(written) => Ok(written < before),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[async_trait::async_trait]
impl S3 for Store {
    async fn head_bucket(
        &self,
        _: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let _look = self.changes.read().await;
        self.files.list_objects_v2(request).await
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        check_key(&request.input.key)?;
        let _look = self.changes.read().await;
        self.files.head_object(request).await
    }

    /// The answer's body comes from the file that was opened, whatever becomes of the object meanwhile.
    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        check_key(&request.input.key)?;
        let _look = self.changes.read().await;
        self.files.get_object(request).await
    }

    async fn put_object(
        &self,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let input = &mut request.input;
        check_key(&input.key)?;
        if input.if_match.is_some() || input.if_none_match.is_some() {
            return Err(s3_error!(
                NotImplemented,
                "conditional writes are not implemented"
            ));
        }
        if input.content_length.is_none() {
            return Err(s3_error!(MissingContentLength));
        }
        let draft = self.draft();
        input.bucket = DRAFTS.into();
        let key = std::mem::replace(&mut input.key, draft.key.clone());
        let response = self.files.put_object(request).await?;
        self.publish(draft, &key).await?;
        Ok(response)
    }

    async fn copy_object(
        &self,
        mut request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let input = &mut request.input;
        check_key(&input.key)?;
        self.check_source(&input.copy_source)?;
        let draft = self.draft();
        input.bucket = DRAFTS.into();
        let key = std::mem::replace(&mut input.key, draft.key.clone());
        // The condition on the source must still hold when its bytes are copied.
        let look = self.changes.read().await;
        let response = self.files.copy_object(request).await?;
        drop(look);
        self.publish(draft, &key).await?;
        Ok(response)
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        check_key(&request.input.key)?;
        let files = ObjectFiles::new(&self.root, &self.bucket, &request.input.key);
        let _change = self.changes.write().await;
        files.remove().map_err(S3Error::internal_error)?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn create_multipart_upload(
        &self,
        mut request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        check_key(&request.input.key)?;
        request.input.bucket = DRAFTS.into();
        let mut response = self.files.create_multipart_upload(request).await?;
        response.output.bucket = Some((*self.bucket).into());
        Ok(response)
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.upload(&request.input.key, &request.input.upload_id)?;
        self.files.upload_part(request).await
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let input = &request.input;
        self.upload(&input.key, &input.upload_id)?;
        self.check_source(&input.copy_source)?;
        if input.copy_source_if_match.is_some()
            || input.copy_source_if_none_match.is_some()
            || input.copy_source_if_modified_since.is_some()
            || input.copy_source_if_unmodified_since.is_some()
        {
            return Err(s3_error!(
                NotImplemented,
                "conditional copies of parts are not implemented"
            ));
        }
        self.files.upload_part_copy(request).await
    }

    async fn complete_multipart_upload(
        &self,
        mut request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = &mut request.input;
        if input.if_match.is_some() || input.if_none_match.is_some() {
            return Err(s3_error!(
                NotImplemented,
                "conditional writes are not implemented"
            ));
        }
        let open = self.upload(&input.key, &input.upload_id)?;
        let draft = self.draft();
        // Whoever moves this file has the upload; another request to complete it finds none.
        let taken = layout::upload_file(&self.root, DRAFTS, &draft.key, &input.upload_id);
        fs::rename(open, taken).map_err(|error| s3_error!(error, NoSuchUpload))?;
        input.bucket = DRAFTS.into();
        let key = std::mem::replace(&mut input.key, draft.key.clone());
        let response = self.files.complete_multipart_upload(request).await?;
        let mut output = match response.output.future {
            Some(completed) => completed.await?,
            None => response.output,
        };
        self.publish(draft, &key).await?;
        output.bucket = Some((*self.bucket).into());
        output.key = Some(key);
        Ok(S3Response::new(output))
    }

    async fn abort_multipart_upload(
        &self,
        mut request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.upload(&request.input.key, &request.input.upload_id)?;
        request.input.bucket = DRAFTS.into();
        self.files.abort_multipart_upload(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_must_name_one_file() {
        for key in ["a", "uploads/a", "uploads/.a", "..a/b"] {
            assert!(check_key(key).is_ok(), "{key}");
        }
        for key in ["", "/a", "a/", "a//b", "..", "a/../b", "a/./b"] {
            assert!(check_key(key).is_err(), "{key}");
        }
    }
}
