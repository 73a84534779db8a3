//! The private port: `/live`, `/ready` and `/metrics`.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Duration, sleep},
};

use crate::{chat::Chat, metrics::CONTENT_TYPE};

/// Most connections to this port at once: a scraper, a health check, a person or two.
const CONNECTIONS_MAX: usize = 64;

/// How long a client of this port may take for a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether the process should get clients.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    is_bound: AtomicBool,
    is_redis_reachable: AtomicBool,
    is_draining: AtomicBool,
}

impl Readiness {
    /// Whether clients should come.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_bound.load(Ordering::Acquire)
            && self.is_redis_reachable.load(Ordering::Acquire)
            && !self.is_draining()
    }

    /// The port for clients is open.
    pub(crate) fn set_bound(&self) {
        self.is_bound.store(true, Ordering::Release);
    }

    /// Redis answers, or does not.
    pub(crate) fn set_redis_reachable(&self, is_reachable: bool) {
        self.is_redis_reachable
            .store(is_reachable, Ordering::Release);
    }

    /// The process is shutting down; there is no way back.
    pub(crate) fn set_draining(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// Whether the process is shutting down.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }
}

/// Answers on the private port until the process ends.
pub(crate) async fn serve<C: Chat>(chat: Arc<C>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let chat = Arc::clone(&chat);
                tokio::spawn(async move {
                    serve_client(chat.as_ref(), stream).await;
                    drop(place);
                });
            }
            // Out of descriptors, mostly; the port for clients reports it.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve_client<C: Chat>(chat: &C, stream: TcpStream) {
    let service =
        service_fn(async |request: Request<Incoming>| Ok::<_, Infallible>(answer(chat, &request)));
    // The client's faults are its own.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answer<C: Chat>(chat: &C, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    }
    match request.uri().path() {
        "/live" => text(StatusCode::OK, "live\n"),
        "/ready" if chat.sockets().readiness.is_ready() => text(StatusCode::OK, "ready\n"),
        "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        "/metrics" => {
            let budget = &chat.sockets().budget;
            chat.metrics().outbox_bytes.set(budget.bytes() as u64);
            chat.metrics()
                .outbox_connections
                .set(budget.outboxes() as u64);
            let mut answer = Response::new(Full::new(Bytes::from(chat.metrics().encode())));
            let content_type = header::HeaderValue::from_static(CONTENT_TYPE);
            answer
                .headers_mut()
                .insert(header::CONTENT_TYPE, content_type);
            answer
        }
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_while_bound_connected_and_not_draining() {
        let readiness = Readiness::default();
        assert!(!readiness.is_ready());
        readiness.set_bound();
        assert!(!readiness.is_ready());
        readiness.set_redis_reachable(true);
        assert!(readiness.is_ready());
        readiness.set_redis_reachable(false);
        assert!(!readiness.is_ready());
        readiness.set_redis_reachable(true);
        readiness.set_draining();
        assert!(!readiness.is_ready());
    }
}
