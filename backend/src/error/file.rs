//! Refusals around files and images.

use axum::http::StatusCode;

use super::ApiError;
use crate::{
    media::{Purpose, Refusal},
    stored_name::InvalidName,
};

/// Why a file is not taken or not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileError {
    /// No object store is configured.
    NoObjectStore,
    /// The body is no form.
    NotAForm,
    /// The length of the form is not told.
    LengthRequired,
    /// The form cannot be read to its end.
    MalformedForm,
    /// The request is larger than any file.
    RequestTooLarge,
    /// The file is not taken.
    NotTaken(Refusal),
    /// The name in the path is no stored name.
    InvalidName(InvalidName),
    /// There is no such file, for this caller.
    NotFound,
    /// The caller is in no room that shows the file.
    NotReadable,
    /// The caller is not the uploader.
    NotYours,
    /// Browsers cannot show such files in place.
    NoPreview,
    /// No byte in the wanted range; the file's size.
    RangeNotSatisfiable(u64),
    /// A presigned upload is to be completed before it has happened.
    NotUploaded,
    /// What was uploaded is not what was presigned.
    UploadMismatch,
}

impl From<FileError> for ApiError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::File(FileError::NotTaken(refusal))
    }
}

impl FileError {
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::NoObjectStore => StatusCode::NOT_IMPLEMENTED,
            Self::NotAForm | Self::NoPreview => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::LengthRequired => StatusCode::LENGTH_REQUIRED,
            Self::RequestTooLarge | Self::NotTaken(Refusal::TooLarge(_)) => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Self::MalformedForm
            | Self::NotTaken(_)
            | Self::InvalidName(_)
            | Self::UploadMismatch => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::NotReadable | Self::NotYours => StatusCode::FORBIDDEN,
            Self::RangeNotSatisfiable(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::NotUploaded => StatusCode::CONFLICT,
        }
    }

    pub(super) const fn code(self) -> Option<&'static str> {
        match self {
            Self::NoObjectStore => Some("NOT_CONFIGURED"),
            Self::NotAForm => Some("UNSUPPORTED_MEDIA_TYPE"),
            Self::LengthRequired => Some("LENGTH_REQUIRED"),
            Self::MalformedForm => Some("MALFORMED_BODY"),
            Self::RequestTooLarge | Self::NotTaken(Refusal::TooLarge(_)) => Some("FILE_TOO_LARGE"),
            Self::RangeNotSatisfiable(_) => Some("RANGE_NOT_SATISFIABLE"),
            Self::NotUploaded => Some("NOT_UPLOADED"),
            Self::UploadMismatch => Some("UPLOAD_MISMATCH"),
            Self::NotTaken(_)
            | Self::InvalidName(_)
            | Self::NotFound
            | Self::NotReadable
            | Self::NotYours
            | Self::NoPreview => None,
        }
    }

    pub(super) const fn message(self) -> &'static str {
        match self {
            Self::NoObjectStore => "파일 저장소가 설정되지 않았습니다.",
            Self::NotAForm => "Content-Type은 multipart/form-data여야 합니다.",
            Self::LengthRequired => "Content-Length 헤더가 필요합니다.",
            Self::MalformedForm => "요청 본문이 올바른 multipart 형식이 아닙니다.",
            Self::RequestTooLarge => "파일 크기는 50MB를 초과할 수 없습니다.",
            Self::NotTaken(Refusal::Empty(Purpose::Attachment)) => "파일이 비어있습니다.",
            Self::NotTaken(Refusal::Empty(Purpose::ProfileImage)) => {
                "이미지가 제공되지 않았습니다."
            }
            Self::NotTaken(Refusal::Unfit(text) | Refusal::TooLarge(text)) => text,
            Self::InvalidName(InvalidName::Path) => "잘못된 파일 경로입니다.",
            Self::InvalidName(InvalidName::Form) => "잘못된 파일명입니다.",
            Self::NotFound => "파일을 찾을 수 없습니다.",
            Self::NotReadable => "파일에 접근할 권한이 없습니다.",
            Self::NotYours => "파일을 삭제할 권한이 없습니다.",
            Self::NoPreview => "미리보기를 지원하지 않는 파일 형식입니다.",
            Self::RangeNotSatisfiable(_) => "요청한 범위를 제공할 수 없습니다.",
            Self::NotUploaded => "파일이 아직 업로드되지 않았습니다.",
            Self::UploadMismatch => "업로드된 파일이 요청과 다릅니다.",
        }
    }

    /// Whether the body names the request's path: for what stands in the head of the request.
    pub(super) const fn names_path(self) -> bool {
        matches!(
            self,
            Self::NoObjectStore
                | Self::NotAForm
                | Self::LengthRequired
                | Self::MalformedForm
                | Self::RequestTooLarge
        )
    }
}
