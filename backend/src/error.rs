//! Everything a client may be refused with: the one place where status, code and text are chosen.
//!
//! Handlers return an [`ApiError`]; it travels as an extension of an empty response until the
//! [`render`] layer, which knows the request's path, writes the body.

mod file;

use std::time::Duration;

use axum::{
    Json,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

pub(crate) use self::file::FileError;
use crate::{objects::ObjectError, password::PasswordError, store::StoreError};

/// Why a request is refused.
#[derive(Clone, Debug)]
pub(crate) enum ApiError {
    /// The path needs a valid token and its live session.
    Unauthenticated(Credential),
    /// Fields of the body are missing or wrong.
    Invalid(Form, Vec<FieldError>),
    /// The body is not the JSON that is wanted.
    MalformedBody,
    /// The body did not arrive in time.
    BodyTooSlow,
    /// The body is larger than [`crate::extract::BODY_BYTES_MAX`].
    BodyTooLarge,
    /// The body is declared as something else than JSON.
    NotJson,
    /// A query parameter is not of its type.
    InvalidParameter(&'static str),
    /// Nothing has this path.
    UnknownPath,
    /// The path does not answer this method.
    WrongMethod,
    /// Too many room lists from one address.
    RateLimited {
        /// Requests allowed in a window.
        requests_max: u32,
        /// The window.
        window: Duration,
        /// Until the next window.
        retry_after: Duration,
    },
    /// Unknown e-mail or wrong password: which of them is not told.
    LoginFailed,
    /// The e-mail is registered.
    EmailTaken,
    /// A logout names no session.
    SessionIdMissing,
    /// A token is not confirmed.
    NotVerified(TokenProblem),
    /// A token is not renewed.
    NotRefreshed(TokenProblem),
    /// The caller's account is gone.
    UserNotFound,
    /// No room has this id.
    RoomNotFound,
    /// The room's password is missing or wrong.
    RoomPasswordMismatch,
    /// The caller is no participant of the room.
    NotAParticipant,
    /// A file or an image is not taken or not given.
    File(FileError),
    /// More requests are in work than the operator allows.
    Overloaded,
    /// Something of ours failed while doing what the client asked.
    Failed(Action, Fault),
}

/// What is wrong with a request's credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    /// There is no token.
    Missing,
    /// The token is not ours.
    InvalidToken,
    /// The token has expired.
    ExpiredToken,
    /// The session was replaced, ended or idle for too long.
    DeadSession,
}

/// Why a token is neither confirmed nor renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenProblem {
    /// Token or session id is missing.
    Missing,
    /// The token is not ours, or has expired for too long.
    Invalid,
    /// The account is gone.
    UserNotFound,
    /// The session is not the user's live one.
    DeadSession,
    /// Something of ours failed.
    Failed(Fault),
}

/// Which form a validation error answers: the two forms differ in the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Registration and login: no path.
    Auth,
    /// Everything else.
    Resource,
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// Name of the field.
    pub(crate) field: &'static str,
    /// For the user to read.
    pub(crate) message: &'static str,
}

/// What the client asked for when something of ours failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Authenticate,
    Register,
    Login,
    ReadProfile,
    UpdateProfile,
    ChangePassword,
    DeleteAccount,
    ListRooms,
    CreateRoom,
    ReadRoom,
    JoinRoom,
    ReadMessages,
    UploadFile,
    ReadFile,
    DeleteFile,
    UploadImage,
    DeleteImage,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Redis or the object store does not answer, or refuses for now: worth another try.
    Unavailable,
    /// All hashing threads are busy and their queue is full: worth another try later.
    Busy,
    /// A bug, or data that makes no sense.
    Internal,
}

impl StoreError {
    /// Names what the client asked for.
    pub(crate) const fn during(self, action: Action) -> ApiError {
        ApiError::Failed(action, self.fault())
    }

    /// Whose fault it is.
    pub(crate) const fn fault(self) -> Fault {
        match self {
            Self::Unavailable => Fault::Unavailable,
            Self::Corrupt => Fault::Internal,
        }
    }
}

impl ObjectError {
    /// Names what the client asked for.
    pub(crate) const fn during(self, action: Action) -> ApiError {
        match self {
            Self::NotFound => ApiError::File(FileError::NotFound),
            Self::Unavailable => ApiError::Failed(action, Fault::Unavailable),
            Self::Changed | Self::Refused => ApiError::Failed(action, Fault::Internal),
        }
    }
}

impl PasswordError {
    /// Names what the client asked for.
    pub(crate) const fn during(self, action: Action) -> ApiError {
        let fault = match self {
            Self::Busy => Fault::Busy,
            Self::Failed => Fault::Internal,
        };
        ApiError::Failed(action, fault)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the body of whatever was refused below this layer.
pub(crate) async fn render(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    let Some(error) = response.extensions_mut().remove::<ApiError>() else {
        return response;
    };
    if let ApiError::Failed(action, Fault::Internal) = &error {
        tracing::error!(?action, path, "a request failed for a reason of our own");
    }
    let mut rendered = (error.status(), Json(error.body(&path))).into_response();
    let headers = rendered.headers_mut();
    for (name, value) in response.headers() {
        if name != header::CONTENT_LENGTH && name != header::CONTENT_TYPE {
            headers.append(name, value.clone());
        }
    }
    if let Some(challenge) = error.challenge() {
        headers.insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static(challenge),
        );
    }
    if let Some(seconds) = error.retry_after_seconds() {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if let Some(size) = error.size_of_range() {
        headers.insert(header::CONTENT_RANGE, size);
    }
    rendered
}

impl ApiError {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Unauthenticated(_) | Self::LoginFailed | Self::RoomPasswordMismatch => {
                StatusCode::UNAUTHORIZED
            }
            Self::Invalid(..)
            | Self::MalformedBody
            | Self::InvalidParameter(_)
            | Self::SessionIdMissing => StatusCode::BAD_REQUEST,
            Self::NotVerified(problem) | Self::NotRefreshed(problem) => problem.status(),
            Self::NotAParticipant => StatusCode::FORBIDDEN,
            Self::UnknownPath | Self::UserNotFound | Self::RoomNotFound => StatusCode::NOT_FOUND,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::EmailTaken => StatusCode::CONFLICT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::File(error) => error.status(),
            Self::Failed(_, fault) => fault.status(),
        }
    }

    const fn code(&self) -> Option<&'static str> {
        match self {
            Self::Unauthenticated(Credential::InvalidToken) => Some("INVALID_TOKEN"),
            Self::Unauthenticated(Credential::ExpiredToken) => Some("TOKEN_EXPIRED"),
            Self::Unauthenticated(_) => Some("UNAUTHORIZED"),
            Self::Invalid(..) => Some("VALIDATION_ERROR"),
            Self::MalformedBody => Some("MALFORMED_BODY"),
            Self::BodyTooSlow => Some("REQUEST_TIMEOUT"),
            Self::BodyTooLarge => Some("PAYLOAD_TOO_LARGE"),
            Self::NotJson => Some("UNSUPPORTED_MEDIA_TYPE"),
            Self::InvalidParameter(_) => Some("INVALID_PARAMETER"),
            Self::WrongMethod => Some("METHOD_NOT_ALLOWED"),
            Self::RateLimited { .. } => Some("TOO_MANY_REQUESTS"),
            Self::Overloaded | Self::Failed(_, Fault::Busy) => Some("OVERLOADED"),
            Self::File(error) => error.code(),
            Self::Failed(_, Fault::Unavailable) => Some("SERVICE_UNAVAILABLE"),
            Self::Failed(_, Fault::Internal) => Some("INTERNAL_SERVER_ERROR"),
            Self::LoginFailed
            | Self::EmailTaken
            | Self::SessionIdMissing
            | Self::NotVerified(_)
            | Self::NotRefreshed(_)
            | Self::UnknownPath
            | Self::UserNotFound
            | Self::RoomNotFound
            | Self::NotAParticipant
            | Self::RoomPasswordMismatch => None,
        }
    }

    const fn message(&self) -> &'static str {
        match self {
            Self::Unauthenticated(_) => "인증이 필요합니다.",
            Self::Invalid(..) => "입력값이 올바르지 않습니다.",
            Self::MalformedBody => "요청 본문이 올바른 JSON 형식이 아닙니다.",
            Self::BodyTooSlow => "요청 본문을 제시간에 받지 못했습니다.",
            Self::BodyTooLarge => "요청 본문이 너무 큽니다.",
            Self::NotJson => "Content-Type은 application/json이어야 합니다.",
            Self::InvalidParameter(_) => "요청 매개변수가 올바르지 않습니다.",
            Self::UnknownPath => "요청하신 리소스를 찾을 수 없습니다.",
            Self::WrongMethod => "지원하지 않는 요청 메서드입니다.",
            Self::RateLimited { .. } => "너무 많은 요청이 발생했습니다. 잠시 후 다시 시도해주세요.",
            Self::LoginFailed => "이메일 또는 비밀번호가 올바르지 않습니다.",
            Self::EmailTaken => "이미 등록된 이메일입니다.",
            Self::SessionIdMissing => "x-session-id 헤더가 필요합니다.",
            Self::NotVerified(TokenProblem::Invalid) => "유효하지 않은 토큰입니다.",
            Self::NotVerified(TokenProblem::Failed(_)) => "토큰 검증 중 오류가 발생했습니다.",
            Self::NotRefreshed(TokenProblem::Invalid | TokenProblem::Failed(_)) => {
                "토큰 갱신 중 오류가 발생했습니다."
            }
            Self::NotVerified(problem) | Self::NotRefreshed(problem) => problem.common_message(),
            Self::UserNotFound => "사용자를 찾을 수 없습니다.",
            Self::RoomNotFound => "채팅방을 찾을 수 없습니다.",
            Self::NotAParticipant => "채팅방 접근 권한이 없습니다.",
            Self::RoomPasswordMismatch => "비밀번호가 일치하지 않습니다.",
            Self::Overloaded | Self::Failed(_, Fault::Busy) => {
                "요청이 많아 처리할 수 없습니다. 잠시 후 다시 시도해주세요."
            }
            Self::File(error) => error.message(),
            Self::Failed(action, _) => action.failure_message(),
        }
    }

    /// Whether the body names the request's path, as the reference does for some answers.
    const fn names_path(&self) -> bool {
        match self {
            Self::File(error) => error.names_path(),
            Self::Unauthenticated(_)
            | Self::Invalid(Form::Resource, _)
            | Self::MalformedBody
            | Self::BodyTooSlow
            | Self::BodyTooLarge
            | Self::NotJson
            | Self::InvalidParameter(_)
            | Self::UnknownPath
            | Self::WrongMethod
            | Self::Overloaded
            | Self::Failed(Action::Authenticate, _) => true,
            Self::Invalid(Form::Auth, _)
            | Self::RateLimited { .. }
            | Self::LoginFailed
            | Self::EmailTaken
            | Self::SessionIdMissing
            | Self::NotVerified(_)
            | Self::NotRefreshed(_)
            | Self::UserNotFound
            | Self::RoomNotFound
            | Self::RoomPasswordMismatch
            | Self::NotAParticipant
            | Self::Failed(..) => false,
        }
    }

    /// The `WWW-Authenticate` header of a 401 (RFC 6750, section 3).
    fn challenge(&self) -> Option<&'static str> {
        if self.status() != StatusCode::UNAUTHORIZED {
            return None;
        }
        let Self::Unauthenticated(credential) = self else {
            return Some("Bearer");
        };
        Some(match credential {
            Credential::Missing | Credential::DeadSession => "Bearer",
            Credential::InvalidToken => {
                "Bearer error=\"invalid_token\", error_description=\"Malformed or foreign token\""
            }
            Credential::ExpiredToken => {
                "Bearer error=\"invalid_token\", error_description=\"Expired token\""
            }
        })
    }

    fn retry_after_seconds(&self) -> Option<u64> {
        if let Self::RateLimited { retry_after, .. } = self {
            return Some(retry_after.as_secs().max(1));
        }
        (self.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(1)
    }

    /// The `Content-Range` header of a 416 (RFC 9110, section 14.4).
    fn size_of_range(&self) -> Option<HeaderValue> {
        let Self::File(FileError::RangeNotSatisfiable(size)) = self else {
            return None;
        };
        HeaderValue::try_from(format!("bytes */{size}")).ok()
    }

    fn body(&self, path: &str) -> Value {
        let mut body = Map::new();
        body.insert("success".to_owned(), false.into());
        body.insert("message".to_owned(), self.message().into());
        if let Some(code) = self.code() {
            body.insert("code".to_owned(), code.into());
        }
        if self.names_path() {
            body.insert("path".to_owned(), path.into());
        }
        match self {
            Self::Invalid(_, fields) => {
                body.insert("errors".to_owned(), json!(fields));
            }
            Self::InvalidParameter(name) => {
                let field = FieldError {
                    field: name,
                    message: "숫자여야 합니다.",
                };
                body.insert("errors".to_owned(), json!([field]));
            }
            Self::NotVerified(_) => {
                body.insert("user".to_owned(), Value::Null);
            }
            Self::NotRefreshed(_) => {
                body.insert("token".to_owned(), Value::Null);
                body.insert("sessionId".to_owned(), Value::Null);
            }
            Self::RateLimited {
                requests_max,
                window,
                ..
            } => {
                let meta = json!({
                    "code": "TOO_MANY_REQUESTS",
                    "maxRequests": requests_max,
                    "windowMs": u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
                    "retryAfter": self.retry_after_seconds(),
                });
                body.insert("meta".to_owned(), meta);
            }
            Self::Unauthenticated(_)
            | Self::MalformedBody
            | Self::BodyTooSlow
            | Self::BodyTooLarge
            | Self::NotJson
            | Self::UnknownPath
            | Self::WrongMethod
            | Self::LoginFailed
            | Self::EmailTaken
            | Self::SessionIdMissing
            | Self::UserNotFound
            | Self::RoomNotFound
            | Self::RoomPasswordMismatch
            | Self::NotAParticipant
            | Self::File(_)
            | Self::Overloaded
            | Self::Failed(..) => {}
        }
        body.into()
    }
}

impl Fault {
    const fn status(self) -> StatusCode {
        match self {
            Self::Unavailable | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl TokenProblem {
    const fn status(self) -> StatusCode {
        match self {
            Self::Missing => StatusCode::BAD_REQUEST,
            Self::Invalid | Self::UserNotFound | Self::DeadSession => StatusCode::UNAUTHORIZED,
            Self::Failed(fault) => fault.status(),
        }
    }

    /// The texts that verification and renewal share.
    const fn common_message(self) -> &'static str {
        match self {
            Self::Missing => "토큰 또는 세션 ID가 필요합니다.",
            Self::UserNotFound => "사용자를 찾을 수 없습니다.",
            Self::DeadSession => "만료된 세션입니다.",
            Self::Invalid | Self::Failed(_) => "유효하지 않은 토큰입니다.",
        }
    }
}

impl Action {
    const fn failure_message(self) -> &'static str {
        match self {
            Self::Authenticate => "서버 내부 오류가 발생했습니다.",
            Self::Register => "회원가입 처리 중 오류가 발생했습니다.",
            Self::Login => "로그인 처리 중 오류가 발생했습니다.",
            Self::ReadProfile => "프로필 조회 중 오류가 발생했습니다.",
            Self::UpdateProfile => "프로필 업데이트 중 오류가 발생했습니다.",
            Self::ChangePassword => "비밀번호 변경 중 오류가 발생했습니다.",
            Self::DeleteAccount => "회원 탈퇴 처리 중 오류가 발생했습니다.",
            Self::ListRooms => "채팅방 목록을 불러오는데 실패했습니다.",
            Self::CreateRoom => "채팅방 생성에 실패했습니다.",
            Self::ReadRoom => "채팅방 정보를 불러오는데 실패했습니다.",
            Self::JoinRoom => "채팅방 참여에 실패했습니다.",
            Self::ReadMessages => "메시지를 불러오는데 실패했습니다.",
            Self::UploadFile => "파일 업로드 중 오류가 발생했습니다.",
            Self::ReadFile => "파일 처리 중 오류가 발생했습니다.",
            Self::DeleteFile => "파일 삭제 중 오류가 발생했습니다.",
            Self::UploadImage => "이미지 업로드 중 오류가 발생했습니다.",
            Self::DeleteImage => "프로필 이미지 삭제 중 오류가 발생했습니다.",
        }
    }
}
