//! The OpenAPI document of this tier, and a page that leads to it.

use std::sync::LazyLock;

use axum::{
    http::header,
    response::{Html, IntoResponse},
};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        self,
        security::{ApiKey, ApiKeyValue, SecurityScheme},
    },
};

use super::{auth, files, health, images, messages, rooms, users};

#[derive(OpenApi)]
#[openapi(
    info(title = "Slotcast", description = "The HTTP half of the chat service."),
    paths(
        health::health,
        health::legacy_health,
        health::balancer,
        health::about,
        health::about_auth,
        health::actuator_health,
        health::actuator_info,
        health::actuator_metrics,
        prometheus,
        auth::register,
        auth::login,
        auth::logout,
        auth::verify_token,
        auth::refresh_token,
        users::status,
        users::profile,
        users::update_profile,
        users::change_password,
        users::delete_account,
        rooms::list,
        rooms::create,
        rooms::health,
        rooms::read,
        rooms::join,
        messages::list,
        files::upload,
        files::presign,
        files::complete,
        files::view,
        files::download,
        files::remove,
        images::upload,
        images::presign,
        images::complete,
        images::remove,
        images::view,
        images::view_beside_api,
        images::view_without_folder,
        document,
        page,
        short_page,
    ),
    modifiers(&Token)
)]
struct Description;

/// The token in its three places.
struct Token;

impl Modify for Token {
    fn modify(&self, description: &mut openapi::OpenApi) {
        let header = ApiKeyValue::with_description(
            "x-auth-token",
            "The token of a login. Parameter `token` and `Authorization: Bearer` serve as well.",
        );
        let scheme = SecurityScheme::ApiKey(ApiKey::Header(header));
        let components = description.components.get_or_insert_default();
        components.add_security_scheme("token", scheme);
    }
}

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    // Serialising what was built at compile time cannot fail; an empty document fails the tests.
    Description::openapi().to_json().unwrap_or_default()
});

/// This document.
#[utoipa::path(get, path = "/api/v3/api-docs", tag = "docs", responses((status = 200)))]
pub(crate) async fn document() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "application/json")],
        DOCUMENT.as_str(),
    )
}

/// A page that leads to this document.
#[utoipa::path(get, path = "/api/swagger-ui.html", tag = "docs", responses((status = 200)))]
pub(crate) async fn page() -> Html<&'static str> {
    Html(include_str!("docs.html"))
}

/// The same page under a shorter path.
#[utoipa::path(get, path = "/api/docs", tag = "docs", responses((status = 200)))]
#[expect(dead_code, reason = "documents a second path of `page`")]
fn short_page() {}

/// The metrics of this process as Prometheus reads them.
#[utoipa::path(get, path = "/actuator/prometheus", tag = "actuator", responses((status = 200)))]
#[expect(dead_code, reason = "documents a handler of the admin port")]
fn prometheus() {}
