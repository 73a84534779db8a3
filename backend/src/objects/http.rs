//! The HTTP client: pooled connections, small buffers, TLS with the system's roots.

use std::{io, time::Duration};

use axum::body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::{Request, Response, body::Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

/// Time to open a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Silence after which the kernel asks whether the other end is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Idle connections are closed before the store does it (S3 waits about 20 s).
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Idle connections kept.
const IDLE_CONNECTIONS_MAX: usize = 32;

/// Read and write buffer of a connection: what one upload or download holds of a file.
pub(crate) const BUFFER_BYTES: usize = 32 * 1024;

/// Texts of the store and the metadata service are a few hundred bytes.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Sends requests.
#[derive(Clone)]
pub(super) struct Http(Client<HttpsConnector<HttpConnector>, Body>);

impl Http {
    /// # Errors
    /// A system without root certificates.
    pub(super) fn new() -> io::Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(KEEP_ALIVE));
        tcp.enforce_http(false);
        let tls = HttpsConnectorBuilder::new()
            .with_native_roots()?
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .http1_max_buf_size(BUFFER_BYTES)
            .build(tls);
        Ok(Self(client))
    }

    /// Sends one request; the answer's body is still to come.
    pub(super) async fn request(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Error> {
        self.0.request(request).await
    }
}

/// A short answer.
pub(super) async fn read_text(body: Incoming) -> io::Result<String> {
    let read = Limited::new(body, TEXT_BYTES_MAX).collect().await;
    let bytes = read.map_err(io::Error::other)?.to_bytes();
    String::from_utf8(bytes.to_vec()).map_err(io::Error::other)
}
