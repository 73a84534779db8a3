//! The real router in this process, before a real Redis Cluster.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode},
};
use serde_json::{Value, json};
use slotcast_backend::{
    admin,
    app::App,
    config::Config,
    router,
    server::{self, Limits},
};
use tokio::{sync::watch, task::AbortHandle};
use tower::ServiceExt;

pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const PASSWORD: &str = "Passw0rd!";

/// A backend of this process.
pub(crate) struct TestApp {
    pub(crate) app: Arc<App>,
    pub(crate) router: Router,
    pub(crate) admin: Router,
    watcher: AbortHandle,
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts status and message at once, showing the whole answer when one is wrong.
    #[track_caller]
    pub(crate) fn assert(&self, status: u16, message: &str) -> &Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.json()["message"], message, "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn assert_status(&self, status: u16) -> &Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }
}

/// The nodes of the cluster that the tests may use.
pub(crate) fn redis_urls() -> String {
    #[expect(clippy::disallowed_methods, reason = "tests are told where Redis is")]
    std::env::var("SLOTCAST_TEST_REDIS_URLS").expect(
        "SLOTCAST_TEST_REDIS_URLS must name nodes of a running Redis Cluster, \
         like redis://127.0.0.1:7810,redis://127.0.0.1:7811",
    )
}

/// A backend with cheap hashing and what the test changes.
pub(crate) async fn start(changes: &[(&str, &str)]) -> TestApp {
    let test_app = start_without_redis(changes);
    test_app.app.ready().await;
    test_app
}

/// The same, without waiting for Redis.
pub(crate) fn start_without_redis(changes: &[(&str, &str)]) -> TestApp {
    let urls = match changes
        .iter()
        .find(|(name, _)| *name == "SLOTCAST_REDIS_URLS")
    {
        Some((_, urls)) => (*urls).to_owned(),
        None => redis_urls(),
    };
    let defaults = [
        ("SLOTCAST_JWT_SECRET", SECRET),
        ("SLOTCAST_REDIS_URLS", &urls),
        ("SLOTCAST_ARGON2_MEMORY_KIB", "64"),
        ("SLOTCAST_ARGON2_ITERATIONS", "1"),
        ("SLOTCAST_BCRYPT_COST", "4"),
        ("SLOTCAST_ENVIRONMENT", "test"),
    ];
    let config = Config::from_lookup(|name| {
        let mut all = changes.iter().chain(&defaults);
        all.find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    });
    let app = App::new(config.expect("a good configuration")).unwrap();
    let watched = Arc::clone(&app);
    TestApp {
        router: router::router(Arc::clone(&app)),
        admin: admin::router(Arc::clone(&app)),
        watcher: tokio::spawn(async move { watched.watch().await }).abort_handle(),
        app,
    }
}

/// A request in the making.
pub(crate) struct Call<'a> {
    router: &'a Router,
    method: Method,
    uri: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl TestApp {
    pub(crate) fn call(&self, method: Method, uri: &str) -> Call<'_> {
        Call {
            router: &self.router,
            method,
            uri: uri.to_owned(),
            headers: HeaderMap::new(),
            body: Vec::new(),
        }
    }

    pub(crate) fn get(&self, uri: &str) -> Call<'_> {
        self.call(Method::GET, uri)
    }

    pub(crate) fn post(&self, uri: &str) -> Call<'_> {
        self.call(Method::POST, uri)
    }

    pub(crate) fn put(&self, uri: &str) -> Call<'_> {
        self.call(Method::PUT, uri)
    }

    pub(crate) async fn admin(&self, uri: &str) -> Answer {
        send(&self.admin, Request::get(uri).body(Body::empty()).unwrap()).await
    }

    /// Registers somebody new.
    pub(crate) async fn user(&self) -> User {
        let email = unique_email();
        let form = json!({"name": "홍길동", "email": email, "password": PASSWORD});
        let answer = self.post("/api/auth/register").json(&form).send().await;
        User::of(answer.assert_status(201).json())
    }

    pub(crate) async fn login(&self, email: &str, password: &str) -> Answer {
        let form = json!({"email": email, "password": password});
        self.post("/api/auth/login").json(&form).send().await
    }

    /// Creates a room; its id.
    pub(crate) async fn room(&self, user: &User, form: Value) -> String {
        let answer = self.post("/api/rooms").by(user).json(&form).send().await;
        let room = answer.assert_status(201).json();
        room["data"]["_id"].as_str().unwrap().to_owned()
    }

    /// Serves clients on a port of the loopback until the sender is dropped or says so.
    pub(crate) fn listen(&self) -> (SocketAddr, watch::Sender<bool>) {
        self.listen_for(Duration::from_secs(30))
    }

    /// The same, with a bound on the silence of clients.
    pub(crate) fn listen_for(&self, keep_alive: Duration) -> (SocketAddr, watch::Sender<bool>) {
        let listener = server::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let limits = Limits {
            connections: 100,
            keep_alive,
        };
        tokio::spawn(server::serve(
            listener,
            self.router.clone(),
            limits,
            self.app.metrics(),
            stopped,
        ));
        (address, stop)
    }
}

impl Call<'_> {
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).unwrap();
        self.headers.append(HeaderName::from_static(name), value);
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string())
    }

    pub(crate) fn body(mut self, media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.header("content-type", media_type)
    }

    /// Sends the credentials as the front-ends do.
    pub(crate) fn by(self, user: &User) -> Self {
        self.header("x-auth-token", &user.token)
            .header("x-session-id", &user.session)
    }

    pub(crate) async fn send(self) -> Answer {
        let router = self.router;
        send(router, self.into_request()).await
    }

    pub(crate) fn into_request(self) -> Request<Body> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.uri)
            .body(Body::from(self.body))
            .unwrap();
        *request.headers_mut() = self.headers;
        request
    }
}

async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    Answer {
        status: parts.status,
        headers: parts.headers,
        text: String::from_utf8(bytes.to_vec()).unwrap(),
    }
}

/// Somebody who is logged in.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) email: String,
    pub(crate) token: String,
    pub(crate) session: String,
}

impl User {
    pub(crate) fn of(logged_in: Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self {
            id: text(&logged_in["user"]["_id"]),
            email: text(&logged_in["user"]["email"]),
            token: text(&logged_in["token"]),
            session: text(&logged_in["sessionId"]),
        }
    }
}

pub(crate) fn unique_email() -> String {
    format!("{}@example.com", unique("user"))
}

/// A word that no other test, process or run uses.
pub(crate) fn unique(word: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{word}{:016x}x{number}", rand::random::<u64>())
}

pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Listens on a sharded channel at the node that carries it.
pub(crate) async fn subscribe(channel: &str) -> tokio::sync::mpsc::Receiver<String> {
    let urls = redis_urls();
    let mut node = urls
        .split(',')
        .next()
        .unwrap()
        .trim_start_matches("redis://")
        .to_owned();
    loop {
        let (sender, receiver) = tokio::sync::mpsc::channel(100);
        let config =
            redis::AsyncConnectionConfig::new().set_push_sender(move |push: redis::PushInfo| {
                if push.kind == redis::PushKind::SMessage {
                    let text: String = redis::from_redis_value(push.data[1].clone()).unwrap();
                    let _ = sender.try_send(text);
                }
                Ok::<(), redis::aio::SendError>(())
            });
        let client = redis::Client::open(format!("redis://{node}/?protocol=resp3")).unwrap();
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = connection.await.unwrap();
        let mut command = redis::cmd("SSUBSCRIBE");
        let subscribed = command
            .arg(channel)
            .query_async::<redis::Value>(&mut connection);
        match subscribed.await {
            Ok(_) => {
                // The connection lives as long as the test's runtime.
                tokio::spawn(async move {
                    std::future::pending::<()>().await;
                    drop(connection);
                });
                return receiver;
            }
            Err(error) => error
                .redirect_node()
                .expect("MOVED")
                .0
                .clone_into(&mut node),
        }
    }
}

/// The next message of a channel that holds `word`.
pub(crate) async fn heard(
    receiver: &mut tokio::sync::mpsc::Receiver<String>,
    word: &str,
) -> String {
    let wait = async {
        loop {
            let message = receiver.recv().await.expect("the subscription ended");
            if message.contains(word) {
                return message;
            }
        }
    };
    let heard = tokio::time::timeout(Duration::from_secs(10), wait).await;
    heard.unwrap_or_else(|_| panic!("nothing was published about {word}"))
}
