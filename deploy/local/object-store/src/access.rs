//! Who may ask for what: whoever signs, for the one bucket, with every `x-amz-*` header signed.

use s3s::{
    S3Result,
    access::{S3Access, S3AccessContext},
    s3_error,
};

/// The rule of access.
pub(crate) struct Access {
    bucket: String,
}

impl Access {
    /// Everything in one bucket, to whoever signs.
    pub(crate) fn to_bucket(bucket: String) -> Self {
        Self { bucket }
    }
}

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, request: &mut S3AccessContext<'_>) -> S3Result<()> {
        if request.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        let bucket = request.s3_path().get_bucket_name();
        if bucket.is_some_and(|bucket| bucket != self.bucket) {
            return Err(s3_error!(NoSuchBucket));
        }
        let query = request.uri().query().unwrap_or_default();
        let signed = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("X-Amz-SignedHeaders="));
        let headers = request.headers().keys().map(|name| name.as_str());
        match signed {
            Some(signed) if !all_signed(signed, headers) => Err(s3_error!(
                AccessDenied,
                "There were headers present in the request which were not signed"
            )),
            _ => Ok(()),
        }
    }
}

/// Whether a presigned URL's list of signed headers has all that change what a request means: an unsigned
/// `x-amz-copy-source` would turn an upload into a copy.
fn all_signed<'a>(signed: &str, mut headers: impl Iterator<Item = &'a str>) -> bool {
    let signed = signed.to_ascii_lowercase().replace("%3b", ";");
    headers.all(|name| !name.starts_with("x-amz-") || signed.split(';').any(|one| one == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amazon_headers_must_be_signed_and_others_need_not() {
        for (signed, headers, all) in [
            ("host", &["host", "range"][..], true),
            (
                "content-length%3Bhost",
                &["host", "x-amz-copy-source"],
                false,
            ),
            (
                "host;x-amz-copy-source",
                &["host", "x-amz-copy-source"],
                true,
            ),
            ("host%3bx-amz-copy-source", &["x-amz-copy-source"], true),
            (
                "host;x-amz-copy-source-range",
                &["x-amz-copy-source"],
                false,
            ),
        ] {
            assert_eq!(all_signed(signed, headers.iter().copied()), all, "{signed}");
        }
    }
}
