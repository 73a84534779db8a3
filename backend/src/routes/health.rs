//! Whether the tier is there, in the words of both reference implementations.

use std::sync::Arc;

use axum::{
    Json as JsonBody,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{app::App, clock, extract::Authenticated};

/// The tier answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    status: &'static str,
    timestamp: String,
    /// Name of the environment, by configuration.
    env: Option<String>,
}

/// Says that the tier answers; asks nothing of Redis.
#[utoipa::path(get, path = "/api/health", tag = "health", responses((status = 200, body = Health)))]
pub(crate) async fn health(State(app): State<Arc<App>>) -> JsonBody<Health> {
    JsonBody(Health {
        status: "ok",
        timestamp: clock::iso_now(),
        env: app.config.environment.clone(),
    })
}

/// The same as `/api/health`, where older clients look for it.
#[utoipa::path(get, path = "/health", tag = "health", responses((status = 200, body = Health)))]
#[expect(dead_code, reason = "documents a second path of `health`")]
fn legacy_health() {}

/// Says to a load balancer whether the tier should get requests.
#[utoipa::path(get, path = "/api/v1/health", tag = "health",
    responses((status = 200, description = "`OK`"), (status = 500, description = "`Unhealthy`")))]
pub(crate) async fn balancer(State(app): State<Arc<App>>) -> Response {
    if app.readiness.is_ready() {
        "OK".into_response()
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, "Unhealthy").into_response()
    }
}

/// Describes the API in a few words.
#[utoipa::path(get, path = "/api", tag = "health", security(("token" = [])),
    responses((status = 200), (status = 401)))]
pub(crate) async fn about(_: Authenticated) -> JsonBody<Value> {
    JsonBody(json!({
        "name": "Chat App API",
        "version": "1.0.0",
        "description": "Slotcast",
        "timestamp": clock::iso_now(),
        "endpoints": {
            "auth": "/api/auth",
            "users": "/api/users",
            "rooms": "/api/rooms",
        },
        "docs": "/api/docs",
    }))
}

/// Describes the API of authentication in a few words.
#[utoipa::path(get, path = "/api/auth", tag = "auth", responses((status = 200)))]
pub(crate) async fn about_auth() -> JsonBody<Value> {
    JsonBody(json!({
        "status": "active",
        "routes": {
            "/register": { "method": "POST", "description": "새 사용자 등록" },
            "/login": { "method": "POST", "description": "사용자 로그인" },
            "/logout": { "method": "POST", "description": "로그아웃" },
            "/verify-token": { "method": "POST", "description": "토큰 검증" },
            "/refresh-token": { "method": "POST", "description": "토큰 갱신" },
        },
    }))
}

/// Says like Spring Boot whether the tier should get requests.
#[utoipa::path(get, path = "/actuator/health", tag = "actuator",
    responses((status = 200, description = "`UP`"), (status = 503, description = "`DOWN`")))]
pub(crate) async fn actuator_health(State(app): State<Arc<App>>) -> Response {
    let (status, word) = if app.readiness.is_ready() {
        (StatusCode::OK, "UP")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "DOWN")
    };
    (status, JsonBody(json!({ "status": word }))).into_response()
}

/// Names the build.
#[utoipa::path(get, path = "/actuator/info", tag = "actuator", responses((status = 200)))]
pub(crate) async fn actuator_info() -> JsonBody<Value> {
    let version = env!("CARGO_PKG_VERSION");
    JsonBody(json!({ "app": { "name": "slotcast-backend", "version": version } }))
}

/// Names the metrics; their values are at `/actuator/prometheus`.
#[utoipa::path(get, path = "/actuator/metrics", tag = "actuator", responses((status = 200)))]
pub(crate) async fn actuator_metrics(State(app): State<Arc<App>>) -> JsonBody<Value> {
    JsonBody(json!({ "names": app.metrics.names() }))
}
