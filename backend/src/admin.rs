//! What operators ask, on a port of its own that clients do not reach.
//!
//! | path | answer |
//! |---|---|
//! | `/live` | 200 while the process runs |
//! | `/ready` | 200 while it should get requests, else 503 |
//! | `/metrics` | Prometheus text |

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};

use crate::{app::App, metrics};

/// The admin routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics_text))
        .with_state(app)
}

async fn ready(State(app): State<Arc<App>>) -> impl IntoResponse {
    if app.readiness.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

/// `/metrics`, also as `/actuator/prometheus`.
pub(crate) async fn metrics_text(State(app): State<Arc<App>>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, metrics::MEDIA_TYPE)],
        app.metrics.text(),
    )
}
