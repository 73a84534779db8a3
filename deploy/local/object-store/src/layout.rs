//! Which files s3s-fs keeps an object in: its bytes in the bucket's folder, and two side files in the root.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use base64_simd::URL_SAFE_NO_PAD;

/// Letters of an upload's id, a UUID.
const UPLOAD_ID_LENGTH: usize = 36;

/// The three files of an object.
pub(crate) struct ObjectFiles {
    pub(crate) bytes: PathBuf,
    attributes: PathBuf,
    checksums: PathBuf,
}

impl ObjectFiles {
    /// Those of `key` in `bucket`.
    pub(crate) fn new(root: &Path, bucket: &str, key: &str) -> Self {
        let name = side_name(bucket, key);
        Self {
            bytes: root.join(bucket).join(key),
            attributes: root.join(format!("{name}.metadata.json")),
            checksums: root.join(format!("{name}.internal.json")),
        }
    }

    /// Makes these the files of another object, whose own are replaced.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn rename(&self, to: &Self) -> io::Result<()> {
        if let Some(folder) = to.bytes.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::rename(&self.attributes, &to.attributes)?;
        fs::rename(&self.checksums, &to.checksums)?;
        fs::rename(&self.bytes, &to.bytes)
    }

    /// Removes those that are there.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for file in [&self.bytes, &self.attributes, &self.checksums] {
            remove_if_there(file)?;
        }
        Ok(())
    }
}

/// The file of what a multipart upload was created with; there as long as the upload is open.
pub(crate) fn upload_file(root: &Path, bucket: &str, key: &str, upload: &str) -> PathBuf {
    let name = side_name(bucket, key);
    root.join(format!("{name}.upload-{upload}.metadata.json"))
}

/// The id of the multipart upload that a file in the root belongs to.
pub(crate) fn upload_of(file_name: &str) -> Option<&str> {
    let (_, rest) = file_name
        .split_once(".upload-")
        .or_else(|| file_name.split_once(".upload_id-"))?;
    rest.get(..UPLOAD_ID_LENGTH)
}

/// Whether a file in the root is a side file of an object in `bucket`.
pub(crate) fn is_side_file(file_name: &str, bucket: &str) -> bool {
    file_name.starts_with(&side_prefix(bucket)) && upload_of(file_name).is_none()
}

/// Removes a file, if it is there.
///
/// # Errors
/// The file system's.
pub(crate) fn remove_if_there(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn side_name(bucket: &str, key: &str) -> String {
    side_prefix(bucket) + &URL_SAFE_NO_PAD.encode_to_string(key)
}

fn side_prefix(bucket: &str) -> String {
    format!(
        ".bucket-{}.object-",
        URL_SAFE_NO_PAD.encode_to_string(bucket)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_uploads_are_told_from_those_of_objects() {
        let id = "0b6d93d0-5b3e-4b8e-9a57-2f6d4a3a1c11";
        for name in [
            format!(".upload-{id}.json"),
            format!(".upload_id-{id}.part-3"),
            format!(".bucket-YQ.object-Yg.upload-{id}.metadata.json"),
        ] {
            assert_eq!(upload_of(&name), Some(id), "{name}");
            assert!(!is_side_file(&name, "a"), "{name}");
        }
        assert_eq!(upload_of(".bucket-YQ.object-Yg.metadata.json"), None);
        assert!(is_side_file(".bucket-YQ.object-Yg.metadata.json", "a"));
        assert!(!is_side_file(".bucket-YQ.object-Yg.metadata.json", "b"));
    }
}
