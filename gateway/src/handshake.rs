//! From an accepted socket to a WebSocket: one HTTP request, checked and answered.
//!
//! ```text
//! client                                                    gateway
//!   GET /socket.io/?EIO=4&transport=websocket HTTP/1.1  -->  path, query, method, origin, version
//!                                                       <--  101, and the socket is taken back
//!   or anything else                                    -->
//!                                                       <--  a JSON refusal, and the socket is closed
//! ```
//!
//! hyper reads the request and writes the answer; after an upgrade nothing of it stays. No extension
//! and no subprotocol is negotiated.

use std::{
    convert::Infallible,
    future::ready,
    net::SocketAddr,
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use fastwebsockets::upgrade::{is_upgrade_request, upgrade};
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Duration, timeout},
};

use crate::{
    admission::{Admission, NoPlace},
    chat::Chat,
    config::Origins,
    connection::{self, CLIENT_TEXT_BYTES_MAX, Client, Connection},
    metrics::Handshake,
};

/// Largest request, in bytes: cookies of a shared domain fit.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// Most headers of a request.
const HEADERS_MAX: usize = 64;

/// Seconds after which a client that found no place may try again; not all in the same one.
const RETRY_AFTER_SECONDS: RangeInclusive<u16> = 5..=15;

/// How long a refused client may take to read the answer.
const FAREWELL: Duration = Duration::from_secs(1);

const CONNECTION_CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Why a request is refused, as Engine.IO says it (protocol revision 4, reference server).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    UnknownTransport,
    UnknownSession,
    BadMethod,
    BadRequest,
    ForbiddenOrigin,
    UnsupportedProtocol,
    WebSocketVersion,
    NoPlace(NoPlace),
    NotFound,
}

impl Refusal {
    const fn status(self) -> StatusCode {
        match self {
            Self::UnknownTransport
            | Self::UnknownSession
            | Self::BadMethod
            | Self::BadRequest
            | Self::UnsupportedProtocol => StatusCode::BAD_REQUEST,
            Self::ForbiddenOrigin => StatusCode::FORBIDDEN,
            Self::WebSocketVersion => StatusCode::UPGRADE_REQUIRED,
            Self::NoPlace(NoPlace::Full | NoPlace::Rate) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoPlace(NoPlace::Address) => StatusCode::TOO_MANY_REQUESTS,
            Self::NotFound => StatusCode::NOT_FOUND,
        }
    }

    const fn body(self) -> &'static str {
        match self {
            Self::UnknownTransport => r#"{"code":0,"message":"Transport unknown"}"#,
            Self::UnknownSession => r#"{"code":1,"message":"Session ID unknown"}"#,
            Self::BadMethod => r#"{"code":2,"message":"Bad handshake method"}"#,
            Self::BadRequest | Self::WebSocketVersion => r#"{"code":3,"message":"Bad request"}"#,
            Self::ForbiddenOrigin => r#"{"code":4,"message":"Forbidden"}"#,
            Self::UnsupportedProtocol => r#"{"code":5,"message":"Unsupported protocol version"}"#,
            Self::NoPlace(NoPlace::Full) => {
                r#"{"success":false,"reason":"full","message":"Too many connections"}"#
            }
            Self::NoPlace(NoPlace::Address) => {
                r#"{"success":false,"reason":"address","message":"Too many connections from this address"}"#
            }
            Self::NoPlace(NoPlace::Rate) => {
                r#"{"success":false,"reason":"rate","message":"Too many new connections"}"#
            }
            Self::NotFound => r#"{"success":false,"message":"Not found"}"#,
        }
    }

    const fn outcome(self) -> Handshake {
        let Self::NoPlace(reason) = self else {
            return Handshake::Refused;
        };
        match reason {
            NoPlace::Full => Handshake::Full,
            NoPlace::Address => Handshake::Address,
            NoPlace::Rate => Handshake::Rate,
        }
    }
}

/// What an upgraded request leaves behind.
struct Upgraded<C: Chat> {
    admission: Admission<C>,
    client: Client,
}

/// Where the answer to a request leaves its [`Upgraded`].
type Slot<C> = Mutex<Option<Upgraded<C>>>;

/// Answers the one request of a socket; an upgraded one goes on as a task of its own.
pub(crate) async fn serve<C: Chat>(chat: Arc<C>, stream: TcpStream, address: SocketAddr) {
    let slot = Slot::default();
    let service = service_fn(|mut request: Request<Incoming>| {
        let answer = answer(&chat, &slot, address, &mut request);
        ready(Ok::<_, Infallible>(answer))
    });
    let exchange = http1::Builder::new()
        .max_buf_size(REQUEST_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .without_shutdown();
    let outcome = timeout(chat.config().handshake_timeout, exchange).await;
    let Ok(Ok(parts)) = outcome else {
        chat.metrics().count_handshake(Handshake::Broken);
        return;
    };
    let stream = parts.io.into_inner();
    // A copy: the original is a slice of a much larger buffer.
    let unread = (!parts.read_buf.is_empty()).then(|| Box::new(parts.read_buf.as_ref().into()));
    match slot.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(Upgraded { admission, client }) => {
            let connection = Arc::new(Connection::new(chat.sockets(), stream, client));
            tokio::spawn(connection::run(admission, connection, unread));
        }
        // Nothing depends on whether the client hears the end.
        None => drop(timeout(FAREWELL, close(stream)).await),
    }
}

/// Closes a socket in a way that lets the client read the answer first.
async fn close(mut stream: TcpStream) -> std::io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 256];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

fn answer<C: Chat>(
    chat: &Arc<C>,
    slot: &Slot<C>,
    address: SocketAddr,
    request: &mut Request<Incoming>,
) -> Response<Full<Bytes>> {
    let origin = allowed_origin(&chat.config().allowed_origins, request.headers());
    let (outcome, mut answer) = match request.uri().path() {
        "/socket.io/" | "/socket.io" if request.method() == Method::OPTIONS => {
            (Handshake::Other, preflight())
        }
        "/socket.io/" | "/socket.io" => match admit(chat, slot, address, request) {
            Ok(answer) => (Handshake::Upgraded, answer),
            Err(refusal) => (refusal.outcome(), refuse(refusal)),
        },
        "/health" => (Handshake::Other, json(StatusCode::OK, r#"{"status":"ok"}"#)),
        _ => (Handshake::Refused, refuse(Refusal::NotFound)),
    };
    chat.metrics().count_handshake(outcome);
    if let Some(origin) = origin {
        allow_origin(answer.headers_mut(), origin);
    }
    answer
}

/// Checks a request for a WebSocket in the order of the reference server, and answers it.
fn admit<C: Chat>(
    chat: &Arc<C>,
    slot: &Slot<C>,
    address: SocketAddr,
    request: &mut Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Refusal> {
    check_query(request)?;
    let headers = request.headers();
    if headers.contains_key(header::ORIGIN)
        && allowed_origin(&chat.config().allowed_origins, headers).is_none()
    {
        return Err(Refusal::ForbiddenOrigin);
    }
    // HTTP/1.0 has no upgrade (RFC 6455, 4.2.1).
    if request.version() < Version::HTTP_11 || !is_upgrade_request(request) {
        return Err(Refusal::BadRequest);
    }
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err(Refusal::WebSocketVersion);
    }
    // 16 bytes in Base64 (RFC 6455, 4.2.1).
    if headers
        .get(header::SEC_WEBSOCKET_KEY)
        .is_none_or(|key| key.len() != 24)
    {
        return Err(Refusal::BadRequest);
    }
    let client = client(headers, address, chat.config().trust_forwarded_for);
    let admission = Admission::take(chat, &client.address).map_err(Refusal::NoPlace)?;
    let (answer, _) = upgrade(request).map_err(|_| Refusal::BadRequest)?;
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Upgraded { admission, client });
    Ok(answer.map(|_| Full::default()))
}

fn check_query(request: &Request<Incoming>) -> Result<(), Refusal> {
    let query = request.uri().query().unwrap_or_default();
    if parameter(query, "transport") != Some("websocket") {
        return Err(Refusal::UnknownTransport);
    }
    // No session of ours can be upgraded: all begin as WebSockets.
    if parameter(query, "sid").is_some_and(|sid| !sid.is_empty()) {
        return Err(Refusal::UnknownSession);
    }
    if request.method() != Method::GET {
        return Err(Refusal::BadMethod);
    }
    if parameter(query, "EIO") != Some("4") {
        return Err(Refusal::UnsupportedProtocol);
    }
    Ok(())
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// What the client says about itself, shortened to what is kept.
fn client(headers: &HeaderMap, address: SocketAddr, trust_forwarded_for: bool) -> Client {
    let text = |name: HeaderName| {
        let value = headers.get(name)?.to_str().ok()?;
        let value = value.get(..value.len().min(CLIENT_TEXT_BYTES_MAX))?.trim();
        (!value.is_empty()).then_some(value)
    };
    let forwarded = || {
        let first = text(HeaderName::from_static("x-forwarded-for"))?
            .split(',')
            .next()?
            .trim();
        (!first.is_empty()).then_some(first)
    };
    let by_proxy = trust_forwarded_for
        .then(|| forwarded().or_else(|| text(HeaderName::from_static("x-real-ip"))))
        .flatten();
    Client {
        user_agent: text(header::USER_AGENT).map(Box::from),
        address: by_proxy.map_or_else(|| address.ip().to_string().into(), Box::from),
    }
}

/// The request's origin if its pages may connect.
fn allowed_origin(origins: &Origins, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    origin
        .to_str()
        .is_ok_and(|origin| origins.allow(origin))
        .then(|| origin.clone())
}

fn allow_origin(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        HeaderValue::from_static("true"),
    );
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
}

fn preflight() -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST"),
    );
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("content-type, authorization, x-auth-token, x-session-id"),
    );
    headers.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from_static("3600"),
    );
    headers.insert(header::CONNECTION, CONNECTION_CLOSE);
    answer
}

fn refuse(refusal: Refusal) -> Response<Full<Bytes>> {
    let mut answer = json(refusal.status(), refusal.body());
    match refusal {
        Refusal::WebSocketVersion => {
            let version = HeaderValue::from_static("13");
            answer
                .headers_mut()
                .insert(header::SEC_WEBSOCKET_VERSION, version);
        }
        Refusal::NoPlace(_) => {
            let seconds = HeaderValue::from(fastrand::u16(RETRY_AFTER_SECONDS));
            answer.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        Refusal::UnknownTransport
        | Refusal::UnknownSession
        | Refusal::BadMethod
        | Refusal::BadRequest
        | Refusal::ForbiddenOrigin
        | Refusal::UnsupportedProtocol
        | Refusal::NotFound => {}
    }
    answer
}

fn json(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CONNECTION, CONNECTION_CLOSE);
    answer
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use futures_util::future::join_all;
    use slotcast_proto::wire::{
        event::{ClientEvent, EventName},
        peer::ConnectAuth,
        socketio::AckId,
    };
    use socket2::{Domain, Socket, Type};
    use tokio::time::sleep;

    use super::*;
    use crate::{
        close::Close,
        config::{self, Config},
        drain::drain,
        metrics::Metrics,
        server::{self, Handshakes},
        sockets::Sockets,
    };

    /// A gateway that lets everybody in.
    struct Open {
        config: Config,
        metrics: Metrics,
        sockets: Sockets,
        clients: Mutex<Vec<Client>>,
    }

    impl Open {
        fn new(vars: &[(&str, &str)]) -> Self {
            let config = config::tests::config(vars).unwrap();
            Self {
                sockets: Sockets::new(&config),
                metrics: Metrics::new(),
                clients: Mutex::default(),
                config,
            }
        }
    }

    impl Chat for Open {
        type Accepted = ();

        fn config(&self) -> &Config {
            &self.config
        }

        fn metrics(&self) -> &Metrics {
            &self.metrics
        }

        fn sockets(&self) -> &Sockets {
            &self.sockets
        }

        fn ids((): &()) -> (&str, &str) {
            ("public", "private")
        }

        async fn connect(
            self: &Arc<Self>,
            connection: &Arc<Connection>,
            _auth: ConnectAuth,
        ) -> Result<(), &'static str> {
            self.clients
                .lock()
                .unwrap()
                .push(connection.client().clone());
            Ok(())
        }

        async fn connected(self: &Arc<Self>, _connection: &Arc<Connection>, (): ()) {}

        async fn handle(
            self: &Arc<Self>,
            _connection: &Arc<Connection>,
            _event: ClientEvent,
            _ack: Option<AckId>,
        ) {
        }

        fn handle_undecodable(
            self: &Arc<Self>,
            _connection: &Arc<Connection>,
            _name: EventName,
            _ack: Option<AckId>,
        ) {
        }

        async fn disconnected(self: &Arc<Self>, _connection: &Arc<Connection>, _close: Close) {}
    }

    struct Gateway {
        chat: Arc<Open>,
        address: SocketAddr,
        handshakes: Handshakes,
        accepting: tokio::task::JoinHandle<()>,
    }

    impl Gateway {
        fn start(vars: &[(&str, &str)]) -> Self {
            let chat = Arc::new(Open::new(vars));
            let listener = server::bind("127.0.0.1:0".parse().unwrap(), 65_536).unwrap();
            let address = listener.local_addr().unwrap();
            let handshakes = Handshakes::new();
            let accepting = tokio::spawn({
                let (chat, handshakes) = (Arc::clone(&chat), handshakes.clone());
                async move { server::accept(&chat, &listener, &handshakes).await }
            });
            Self {
                chat,
                address,
                handshakes,
                accepting,
            }
        }

        async fn send(&self, request: &str) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            stream
        }

        /// The whole answer to a request that ends its socket.
        async fn ask(&self, request: &str) -> String {
            let mut answer = Vec::new();
            self.send(request)
                .await
                .read_to_end(&mut answer)
                .await
                .unwrap();
            String::from_utf8_lossy(&answer).into_owned()
        }
    }

    const UPGRADE: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    fn request(line: &str, headers: &str) -> String {
        format!("{line} HTTP/1.1\r\nHost: chat.example.com\r\n{headers}\r\n")
    }

    const WEBSOCKET: &str = "GET /socket.io/?EIO=4&transport=websocket";

    /// Reads until the text has come.
    async fn read_until(stream: &mut TcpStream, end: &str) -> String {
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).contains(end) {
            let mut buffer = [0; 1024];
            let received = stream.read(&mut buffer).await.unwrap();
            assert!(received > 0, "{}", String::from_utf8_lossy(&read));
            read.extend_from_slice(&buffer[..received]);
        }
        String::from_utf8_lossy(&read).into_owned()
    }

    #[tokio::test]
    async fn a_websocket_begins_with_the_open_packet() {
        let gateway = Gateway::start(&[]);
        for path in ["/socket.io/", "/socket.io"] {
            let line = format!("GET {path}?EIO=4&transport=websocket&t=abc");
            let mut stream = gateway.send(&request(&line, UPGRADE)).await;
            let answer = read_until(&mut stream, "\"maxPayload\":1048576}").await;
            let (head, packet) = answer.split_once("\r\n\r\n").unwrap();
            let head = head.to_lowercase();
            assert!(
                head.starts_with("http/1.1 101 switching protocols"),
                "{head}"
            );
            // The example of RFC 6455, 1.3.
            assert!(
                head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
                "{head}"
            );
            assert!(!head.contains("extensions"), "{head}");
            assert!(!head.contains("close"), "{head}");
            assert!(packet.contains("0{\"sid\":\""), "{packet}");
            assert!(
                packet.contains("\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":60000")
            );
        }
    }

    #[tokio::test]
    async fn frames_right_behind_the_request_are_not_lost() {
        let gateway = Gateway::start(&[]);
        let mut bytes = request(WEBSOCKET, UPGRADE).into_bytes();
        let connect = crate::websocket::tests::client_frame(0x81, b"40{}");
        bytes.extend(connect);
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        read_until(&mut stream, r#"40{"sid":"public","pid":"private"}"#).await;
    }

    #[tokio::test]
    async fn wrong_requests_get_the_answers_of_the_reference_server() {
        let gateway = Gateway::start(&[("SLOTCAST_ALLOWED_ORIGINS", "https://chat.example.com")]);
        let no_upgrade = "Connection: close\r\n";
        let old = UPGRADE.replace(": 13", ": 8");
        let no_key = UPGRADE.replace("dGhlIHNhbXBsZSBub25jZQ==", "short");
        let stranger = format!("{UPGRADE}Origin: https://evil.example.com\r\n");
        #[rustfmt::skip]
        let cases = [
            ("GET /socket.io/?EIO=4&transport=polling", no_upgrade, 400, r#"{"code":0,"message":"Transport unknown"}"#),
            ("GET /socket.io/?EIO=4", UPGRADE, 400, r#"{"code":0,"message":"Transport unknown"}"#),
            ("GET /socket.io/?EIO=4&transport=websocket&sid=abc", UPGRADE, 400, r#"{"code":1,"message":"Session ID unknown"}"#),
            ("POST /socket.io/?EIO=4&transport=websocket", UPGRADE, 400, r#"{"code":2,"message":"Bad handshake method"}"#),
            (WEBSOCKET, no_upgrade, 400, r#"{"code":3,"message":"Bad request"}"#),
            (WEBSOCKET, &no_key, 400, r#"{"code":3,"message":"Bad request"}"#),
            (WEBSOCKET, &stranger, 403, r#"{"code":4,"message":"Forbidden"}"#),
            ("GET /socket.io/?EIO=3&transport=websocket", UPGRADE, 400, r#"{"code":5,"message":"Unsupported protocol version"}"#),
            (WEBSOCKET, &old, 426, r#"{"code":3,"message":"Bad request"}"#),
            ("GET /", no_upgrade, 404, r#"{"success":false,"message":"Not found"}"#),
            ("GET /health", no_upgrade, 200, r#"{"status":"ok"}"#),
        ];
        for (line, headers, status, body) in cases {
            let answer = gateway.ask(&request(line, headers)).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{line}: {answer}"
            );
            assert!(answer.ends_with(body), "{line}: {answer}");
            assert!(
                answer.to_lowercase().contains("connection: close"),
                "{line}: {answer}"
            );
        }
        let answer = gateway.ask(&request(WEBSOCKET, &old)).await.to_lowercase();
        assert!(answer.contains("sec-websocket-version: 13"), "{answer}");
        let answer = gateway.ask("nonsense\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }

    #[tokio::test]
    async fn allowed_origins_are_reflected() {
        let gateway = Gateway::start(&[]);
        let origin = "Origin: https://chat.example.com\r\n";
        for line in [
            "GET /socket.io/?EIO=4&transport=polling",
            "OPTIONS /socket.io/",
            "GET /nothing",
        ] {
            let answer = gateway.ask(&request(line, origin)).await.to_lowercase();
            let allowed = "access-control-allow-origin: https://chat.example.com";
            assert!(answer.contains(allowed), "{answer}");
            assert!(
                answer.contains("access-control-allow-credentials: true"),
                "{answer}"
            );
        }
    }

    #[tokio::test]
    async fn a_client_without_a_place_is_told_why_and_when_to_come_back() {
        let cases = [
            ("SLOTCAST_MAX_CONNECTIONS", 503, "full"),
            ("SLOTCAST_CONNECTIONS_PER_ADDRESS", 429, "address"),
            ("SLOTCAST_CONNECTIONS_PER_SECOND", 503, "rate"),
        ];
        let headers = format!("{UPGRADE}Origin: https://chat.example.com\r\n");
        for (limit, status, reason) in cases {
            let gateway = Gateway::start(&[(limit, "1")]);
            let mut first = gateway.send(&request(WEBSOCKET, UPGRADE)).await;
            read_until(&mut first, "maxPayload").await;
            let mut seconds = HashSet::new();
            // At once: after a second there is room again.
            let request = request(WEBSOCKET, &headers);
            for answer in join_all((0..12).map(|_| gateway.ask(&request))).await {
                assert!(
                    answer.starts_with(&format!("HTTP/1.1 {status} ")),
                    "{answer}"
                );
                assert!(
                    answer.contains(&format!(r#"{{"success":false,"reason":"{reason}","#)),
                    "{answer}"
                );
                let answer = answer.to_lowercase();
                assert!(
                    answer.contains("access-control-allow-origin: https://chat.example.com"),
                    "{answer}"
                );
                let wait = answer.split_once("retry-after: ").unwrap().1;
                seconds.insert(wait.lines().next().unwrap().parse::<u16>().unwrap());
            }
            assert!(seconds.len() > 1, "all come back at once");
            assert!(
                seconds
                    .iter()
                    .all(|wait| RETRY_AFTER_SECONDS.contains(wait))
            );
            let metrics = gateway.chat.metrics.encode();
            let counted = format!("gateway_handshakes_total{{outcome=\"{reason}\"}} 12");
            assert!(metrics.contains(&counted), "{metrics}");
        }
    }

    #[tokio::test]
    async fn the_bound_of_an_address_is_that_of_the_client_behind_the_proxy() {
        let gateway = Gateway::start(&[("SLOTCAST_CONNECTIONS_PER_ADDRESS", "1")]);
        let from = |address| {
            request(
                WEBSOCKET,
                &format!("{UPGRADE}X-Forwarded-For: {address}\r\n"),
            )
        };
        let mut first = gateway.send(&from("203.0.113.7")).await;
        read_until(&mut first, "maxPayload").await;
        let mut other = gateway.send(&from("203.0.113.8")).await;
        read_until(&mut other, "maxPayload").await;
        let answer = gateway.ask(&from("203.0.113.7")).await;
        assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    }

    #[tokio::test]
    async fn a_request_that_does_not_end_is_given_up() {
        let gateway = Gateway::start(&[("SLOTCAST_HANDSHAKE_TIMEOUT_MS", "50")]);
        assert_eq!(gateway.ask("GET /socket.io/ HTTP/1.1\r\nHost: ").await, "");
    }

    #[tokio::test]
    async fn a_request_has_a_bounded_size() {
        let gateway = Gateway::start(&[]);
        let cookie = format!("Cookie: {}\r\n", "x".repeat(2 * REQUEST_BYTES_MAX));
        let mut stream = gateway.send(&request(WEBSOCKET, &cookie)).await;
        read_until(&mut stream, "HTTP/1.1 431 ").await;
    }

    #[tokio::test]
    async fn a_client_is_known_by_what_its_proxy_says() {
        let cases = [
            (
                "X-Forwarded-For: 203.0.113.7, 10.0.0.1\r\nX-Real-IP: 10.0.0.2\r\n",
                "true",
                "203.0.113.7",
            ),
            ("X-Real-IP: 203.0.113.8\r\n", "true", "203.0.113.8"),
            ("X-Forwarded-For: 203.0.113.7\r\n", "false", "127.0.0.1"),
            ("", "true", "127.0.0.1"),
        ];
        for (headers, is_trusted, address) in cases {
            let gateway = Gateway::start(&[("SLOTCAST_TRUST_FORWARDED_FOR", is_trusted)]);
            let headers = format!("{UPGRADE}User-Agent: Mozilla/5.0\r\n{headers}");
            let mut stream = gateway.send(&request(WEBSOCKET, &headers)).await;
            let connect = crate::websocket::tests::client_frame(0x81, b"40{}");
            stream.write_all(&connect).await.unwrap();
            read_until(&mut stream, "private").await;
            let expected = Client {
                user_agent: Some("Mozilla/5.0".into()),
                address: address.into(),
            };
            assert_eq!(*gateway.chat.clients.lock().unwrap(), [expected]);
        }
    }

    #[tokio::test]
    async fn accepted_sockets_inherit_the_options_of_the_port() {
        let listener = server::bind("127.0.0.1:0".parse().unwrap(), 65_536).unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let accepted = accepted.unwrap().0;
        assert!(accepted.nodelay().unwrap());
        let bytes = socket2::SockRef::from(&accepted)
            .send_buffer_size()
            .unwrap();
        assert_eq!(bytes, 2 * 65_536, "the kernel doubles it");
        drop(client);
    }

    #[tokio::test]
    async fn a_drain_closes_everybody_in_slices() {
        let gateway = Gateway::start(&[("SLOTCAST_DRAIN_PER_SECOND", "20")]);
        let mut clients = Vec::new();
        for _ in 0..8 {
            let mut stream = gateway.send(&request(WEBSOCKET, UPGRADE)).await;
            read_until(&mut stream, "maxPayload").await;
            clients.push(tokio::spawn(async move {
                read_until(&mut stream, "draining").await;
                tokio::time::Instant::now()
            }));
        }
        gateway.accepting.abort();
        let started = tokio::time::Instant::now();
        assert!(drain(&gateway.chat, &gateway.handshakes).await);
        let mut closed = Vec::new();
        for client in clients {
            closed.push(client.await.unwrap() - started);
        }
        closed.sort_unstable();
        // Two a slice, four slices.
        assert!(
            closed[7] - closed[0] >= Duration::from_millis(250),
            "{closed:?}"
        );
        assert_eq!(gateway.chat.sockets.connections.len(), 0);
    }

    /// A connection that nobody serves.
    fn stub(chat: &Open) -> Arc<Connection> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let stream = TcpStream::from_std(socket.into()).unwrap();
        let connection = Arc::new(Connection::new(&chat.sockets, stream, Client::default()));
        chat.sockets.connections.insert(Arc::clone(&connection));
        connection
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_keeps_its_rate_within_a_tenth() {
        for per_second in [7_u32, 11, 99, 250, 1000] {
            let rate = per_second.to_string();
            let chat = Arc::new(Open::new(&[("SLOTCAST_DRAIN_PER_SECOND", &rate)]));
            let connections: Vec<_> = (0..per_second * 4).map(|_| stub(&chat)).collect();
            let closed = || connections.iter().filter(|one| one.is_closing()).count();
            let draining = tokio::spawn({
                let chat = Arc::clone(&chat);
                async move { drain(&chat, &Handshakes::new()).await }
            });
            // In the middle of a slice, so that no edge decides.
            sleep(Duration::from_millis(20)).await;
            let begun = closed();
            assert!(begun <= per_second.div_ceil(5) as usize, "{begun} at once");
            for second in 1..=3 {
                sleep(Duration::from_secs(1)).await;
                let share = (closed() - begun) as f64 / f64::from(per_second * second);
                assert!((0.9..=1.1).contains(&share), "{per_second}/s: {share}");
            }
            draining.abort();
        }
    }

    #[tokio::test]
    async fn a_drain_ends_by_its_deadline() {
        let vars = [
            ("SLOTCAST_DRAIN_PER_SECOND", "1"),
            ("SLOTCAST_DRAIN_SECONDS", "2"),
        ];
        let gateway = Gateway::start(&vars);
        let mut clients = Vec::new();
        for _ in 0..8 {
            let mut stream = gateway.send(&request(WEBSOCKET, UPGRADE)).await;
            read_until(&mut stream, "maxPayload").await;
            clients.push(tokio::spawn(async move {
                read_until(&mut stream, "draining").await
            }));
        }
        gateway.accepting.abort();
        assert!(drain(&gateway.chat, &gateway.handshakes).await);
        for client in clients {
            client.await.unwrap();
        }
    }
}
