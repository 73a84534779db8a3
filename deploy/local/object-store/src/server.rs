//! The port: accepts connections, answers preflights, and adds CORS headers to the answers of s3s.

use std::sync::Arc;

use hyper::{Method, Request, Response, body::Incoming, header, server::conn::http1, service};
use hyper_util::rt::TokioIo;
use s3s::{Body, HttpError, service::S3Service};
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Duration, sleep},
};

use crate::cors::{Cors, Refusal};

/// Pause after a failed accept: descriptors may be short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves for ever; dropping the future ends it with its connections.
pub(crate) async fn serve(listener: &TcpListener, s3: &S3Service, cors: &Arc<Cors>) {
    let mut connections = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (s3, cors) = (s3.clone(), Arc::clone(cors));
        let answers = service::service_fn(move |request| {
            let (s3, cors) = (s3.clone(), Arc::clone(&cors));
            async move { answer(&s3, &cors, request).await }
        });
        connections.spawn(async move {
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), answers);
            if let Err(error) = served.await {
                tracing::debug!(%error, "a connection broke");
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    s3: &S3Service,
    cors: &Cors,
    request: Request<Incoming>,
) -> Result<Response<Body>, HttpError> {
    if request.method() == Method::OPTIONS {
        return Ok(preflight(cors, &request));
    }
    let granted = cors.answer(request.headers().get(header::ORIGIN), request.method());
    let mut response = s3.call(request.map(Body::from)).await?;
    response.headers_mut().extend(granted);
    Ok(response)
}

fn preflight(cors: &Cors, request: &Request<Incoming>) -> Response<Body> {
    match cors.preflight(request.headers()) {
        Ok(granted) => {
            let mut response = Response::new(Body::empty());
            response.headers_mut().extend(granted);
            response
        }
        Err(Refusal {
            status,
            code,
            message,
        }) => {
            let error = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
            let mut response = Response::new(Body::from(error));
            *response.status_mut() = status;
            let xml = header::HeaderValue::from_static("application/xml");
            response.headers_mut().insert(header::CONTENT_TYPE, xml);
            response
        }
    }
}
