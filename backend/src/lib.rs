//! The backend tier: answers HTTP requests and keeps nothing between two of them but caches.
//!
//! | module | its one reason |
//! |---|---|
//! | [`config`] | reads the environment; nobody else does |
//! | [`app`] | all that a request can reach |
//! | [`router`] | the URL map and the layers around every handler |
//! | `routes` | the handlers, by resource |
//! | `extract`, `input` | what a request must bring, parsed or refused |
//! | `error` | the one place where a status and a text are chosen |
//! | `view` | users and rooms as clients see them |
//! | `store` | every question this tier asks Redis |
//! | `media`, `stored_name` | what may be uploaded, and what it is called then |
//! | `form`, `uploads` | from a client's bytes to a stored object |
//! | `delivery` | from a stored object to a client |
//! | [`objects`] | the object store: signed requests, credentials |
//! | `directory` | what sorting and searching rooms needs of all of them |
//! | `password` | hashing on a bounded pool of threads |
//! | `rate_limit` | requests per address and window |
//! | [`server`] | listeners and connections |
//! | [`admin`], [`metrics`], [`telemetry`] | what operators see |

pub mod admin;
pub mod app;
mod clock;
pub mod config;
mod delivery;
mod directory;
mod error;
mod extract;
mod form;
mod input;
mod media;
pub mod metrics;
pub mod objects;
mod password;
mod rate_limit;
pub mod router;
mod routes;
pub mod server;
mod store;
mod stored_name;
pub mod telemetry;
mod uploads;
mod view;
