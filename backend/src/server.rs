//! Listeners and HTTP/1 connections.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
};
use http_body_util::BodyExt;
use hyper::{
    Request,
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tower::ServiceExt;

use crate::{extract::Peer, metrics::Metrics};

/// Connections that the kernel keeps for us while we are busy: a storm of reconnecting clients.
const BACKLOG: i32 = 4096;

/// Pause after a failed accept: out of file descriptors, which only time frees.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The largest request head: a token in a header and one in the URL.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Read and write buffer of a connection; more bytes of a body are never held here.
const BUFFER_BYTES: usize = 32 * 1024;

const _: () = assert!(HEAD_BYTES_MAX <= BUFFER_BYTES);

/// How long a client whose request was answered early may go on sending it. Cut at once, many never
/// read the answer (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(30);

/// Binds a listener.
///
/// # Errors
/// Those of the operating system; the address is in the text.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = || {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    bound().map_err(|error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

/// How connections are treated.
pub struct Limits {
    /// Connections at once; more wait in the kernel's backlog.
    pub connections: usize,
    /// How long a connection may be silent between requests and within a request's head, and how long
    /// a client may take nothing of an answer.
    pub keep_alive: Duration,
}

/// Serves until `stop` turns true, then finishes what runs on open connections and returns.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    metrics: Arc<Metrics>,
    mut stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        // Every arm may be cancelled: a place not used is given back, an accept not finished
        // stays in the backlog.
        tokio::select! {
            () = stopped(&mut stop) => break,
            accepted = accept(&listener, &places, limits.keep_alive) => match accepted {
                Ok((stream, peer, place)) => {
                    metrics.connections.inc();
                    let router = router.clone();
                    let (metrics, stop) = (Arc::clone(&metrics), stop.clone());
                    let keep_alive = limits.keep_alive;
                    connections.spawn(async move {
                        serve_connection(stream, peer, router, keep_alive, stop).await;
                        metrics.connections.dec();
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    stall_max: Duration,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await;
    let place = place.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    // A client that takes nothing of a file for so long gets no more.
    SockRef::from(&stream).set_tcp_user_timeout(Some(stall_max))?;
    Ok((stream, peer, place))
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    keep_alive: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(|body| Body::new(Lingering(Some(body))));
        request.extensions_mut().insert(Peer(peer));
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // A page that sends its request and navigates away has closed its half before the first poll:
        // without this, hyper ends the connection before the handler has begun.
        .half_close(true)
        .header_read_timeout(keep_alive)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}

/// A request's body that is read to its end though nobody wants it.
struct Lingering(Option<Incoming>);

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.0.as_mut() {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let rest = self.0.take().filter(|body| !body.is_end_stream());
        if let (Some(mut rest), Ok(runtime)) = (rest, Handle::try_current()) {
            // Ends with the connection, which owns the other end of the body, or by the time-out.
            runtime.spawn(timeout(LINGER, async move {
                while let Some(Ok(_)) = rest.frame().await {}
            }));
        }
    }
}

/// Returns once the process is to stop, or its main task is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
