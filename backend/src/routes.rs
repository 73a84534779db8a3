//! The handlers, by resource.

pub(crate) mod auth;
pub(crate) mod docs;
pub(crate) mod files;
pub(crate) mod health;
pub(crate) mod images;
pub(crate) mod messages;
pub(crate) mod rooms;
pub(crate) mod users;

use serde::Serialize;
use utoipa::ToSchema;

/// Success and a sentence.
#[derive(Serialize, ToSchema)]
pub(crate) struct Done {
    success: bool,
    message: &'static str,
}

impl Done {
    const fn saying(message: &'static str) -> Self {
        Self {
            success: true,
            message,
        }
    }
}
