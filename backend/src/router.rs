//! The URL map, and the layers around every handler.
//!
//! From the outside: metrics and log, security headers, CORS, error bodies, and last a task of its
//! own for every handler, so that it runs to its end when the client goes away.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use futures_util::FutureExt;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::{
    admin,
    app::App,
    config::AllowedOrigins,
    error::{self, Action, ApiError, Fault},
    extract,
    routes::{auth, docs, files, health, images, messages, rooms, users},
};

/// All that clients are answered.
pub fn router(app: Arc<App>) -> Router {
    let routes = Router::new()
        .route("/health", get(health::health))
        .route("/api/health", get(health::health))
        .route("/api/v1/health", get(health::balancer))
        .route("/api", get(health::about))
        .route("/api/auth", get(health::about_auth))
        .route("/actuator/health", get(health::actuator_health))
        .route("/actuator/info", get(health::actuator_info))
        .route("/actuator/metrics", get(health::actuator_metrics))
        .route("/actuator/prometheus", get(admin::metrics_text))
        .route("/api/auth/register", post(auth::register))
        .route("/api/auth/login", post(auth::login))
        .route("/api/auth/logout", post(auth::logout))
        .route("/api/auth/verify-token", post(auth::verify_token))
        .route("/api/auth/refresh-token", post(auth::refresh_token))
        .route("/api/users/status", get(users::status))
        .route(
            "/api/users/profile",
            get(users::profile).put(users::update_profile),
        )
        .route("/api/users/password", post(users::change_password))
        .route("/api/users/account", delete(users::delete_account))
        .route("/api/rooms", get(rooms::list).post(rooms::create))
        .route("/api/rooms/health", get(rooms::health))
        .route("/api/rooms/{roomId}", get(rooms::read))
        .route("/api/rooms/{roomId}/join", post(rooms::join))
        .route("/api/message/rooms/{roomId}/messages", get(messages::list))
        .route("/api/files/upload", post(files::upload))
        .route("/api/files/presign", post(files::presign))
        .route("/api/files/{id}/complete", post(files::complete))
        .route("/api/files/{id}", delete(files::remove))
        .route("/api/files/view/{filename}", get(files::view))
        .route("/api/files/download/{filename}", get(files::download))
        .route(
            "/api/users/profile-image",
            post(images::upload).delete(images::remove),
        )
        .route("/api/users/profile-image/presign", post(images::presign))
        .route(
            "/api/users/profile-image/{id}/complete",
            post(images::complete),
        )
        .route("/api/uploads/profiles/{filename}", get(images::view))
        .route("/uploads/profiles/{filename}", get(images::view))
        .route("/uploads/{filename}", get(images::view))
        .route("/api/v3/api-docs", get(docs::document))
        .route("/api/swagger-ui.html", get(docs::page))
        .route("/api/docs", get(docs::page))
        .fallback(unknown_path)
        .method_not_allowed_fallback(async || ApiError::WrongMethod);
    routes
        .layer(middleware::from_fn_with_state(Arc::clone(&app), detach))
        .layer(middleware::from_fn(error::render))
        .layer(cors(&app.config.allowed_origins))
        .layer(middleware::from_fn(secure))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), observe))
        .with_state(app)
}

/// Under `/api` only callers with a session learn what does not exist.
async fn unknown_path(State(app): State<Arc<App>>, request: Request) -> ApiError {
    const PUBLIC: [&str; 4] = [
        "/api/auth/",
        "/api/docs/",
        "/api/v3/api-docs/",
        "/api/swagger-ui/",
    ];
    let path = request.uri().path();
    if !path.starts_with("/api/") || PUBLIC.iter().any(|public| path.starts_with(public)) {
        return ApiError::UnknownPath;
    }
    let (parts, _) = request.into_parts();
    match extract::authenticate(&parts, &app).await {
        Ok(_) => ApiError::UnknownPath,
        Err(refusal) => refusal,
    }
}

/// Runs the handler in a task of its own: hyper drops what it awaits when the client leaves, and
/// a registration that a page sent just before it navigated away must still happen.
async fn detach(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let Some(running) = app.in_flight.enter() else {
        return ApiError::Overloaded.into_response();
    };
    let handler = tokio::spawn(async move {
        let response = AssertUnwindSafe(next.run(request)).catch_unwind().await;
        drop(running);
        response.unwrap_or_else(|_| {
            app.metrics.task_panics.inc();
            ApiError::Failed(Action::Authenticate, Fault::Internal).into_response()
        })
    });
    let broken = || ApiError::Failed(Action::Authenticate, Fault::Internal).into_response();
    handler.await.unwrap_or_else(|_| broken())
}

/// Security headers, and "do not cache" unless the handler decided otherwise.
async fn secure(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::X_XSS_PROTECTION, "0");
    if !headers.contains_key(header::CACHE_CONTROL) {
        let mut set = |name: HeaderName, value| {
            headers.insert(name, HeaderValue::from_static(value));
        };
        set(
            header::CACHE_CONTROL,
            "no-cache, no-store, max-age=0, must-revalidate",
        );
        set(header::PRAGMA, "no-cache");
        set(header::EXPIRES, "0");
    }
    response
}

/// Counts and logs every answer.
async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let pattern = request.extensions().get::<MatchedPath>();
    let uri = pattern.map_or_else(|| "UNKNOWN".to_owned(), |path| path.as_str().to_owned());
    let response = next.run(request).await;
    let (status, time) = (response.status(), begun.elapsed());
    tracing::debug!(%method, uri, status = status.as_u16(), duration_ms = time.as_millis(), "answered");
    app.metrics.answered(&method, uri, status, time);
    response
}

fn cors(origins: &AllowedOrigins) -> CorsLayer {
    let origins = match origins {
        AllowedOrigins::Any => AllowOrigin::mirror_request(),
        AllowedOrigins::List(list) => AllowOrigin::list(list.iter().cloned()),
    };
    let auth_token = HeaderName::from_static("x-auth-token");
    let session_id = HeaderName::from_static("x-session-id");
    CorsLayer::new()
        .allow_origin(origins)
        .allow_credentials(true)
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::DELETE,
            Method::OPTIONS,
        ])
        .allow_headers([
            header::CONTENT_TYPE,
            header::AUTHORIZATION,
            auth_token.clone(),
            session_id.clone(),
            header::CACHE_CONTROL,
            header::PRAGMA,
        ])
        .expose_headers([
            auth_token,
            session_id,
            header::CONTENT_DISPOSITION,
            header::CONTENT_RANGE,
            header::ETAG,
            header::RETRY_AFTER,
        ])
        .max_age(std::time::Duration::from_secs(3600))
}

#[cfg(test)]
mod tests {
    use axum::{
        body::{Body, to_bytes},
        http::StatusCode,
    };
    use tower::ServiceExt;

    use super::*;
    use crate::config::Config;

    #[tokio::test]
    async fn panicking_handler_is_a_counted_500_in_json() {
        let app = App::new(config()).unwrap();
        let router: Router = Router::new()
            .route("/boom", get(async || -> String { panic!("on purpose") }))
            .layer(middleware::from_fn_with_state(Arc::clone(&app), detach))
            .layer(middleware::from_fn(error::render));
        let request = Request::get("/boom").body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = to_bytes(response.into_body(), 1000).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let wanted = serde_json::json!({"success": false, "path": "/boom",
            "message": "서버 내부 오류가 발생했습니다.", "code": "INTERNAL_SERVER_ERROR"});
        assert_eq!(body, wanted);
        assert_eq!(app.metrics.task_panics.get(), 1);
        app.finish_requests().await;
    }

    fn config() -> Config {
        let variables = [
            ("SLOTCAST_JWT_SECRET", "0123456789abcdef0123456789abcdef"),
            ("SLOTCAST_REDIS_URLS", "redis://127.0.0.1:1"),
            ("SLOTCAST_ARGON2_MEMORY_KIB", "64"),
        ];
        let config = Config::from_lookup(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        });
        config.ok().unwrap()
    }
}
