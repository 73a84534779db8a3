//! Every setting of the gateway, read from the environment once.
//!
//! [`KNOBS`] is the one list: names, defaults, units and meanings. Reading collects all mistakes and
//! reports them together.

use std::{fmt, net::SocketAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use slotcast_proto::token::SECRET_BYTES_MIN;

/// One setting: an environment variable and what it means.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Knob {
    /// The environment variable.
    pub(crate) name: &'static str,
    /// What holds when the variable is not set.
    pub(crate) default: Default,
    /// What it does, with the unit where it has one.
    pub(crate) meaning: &'static str,
}

/// What holds when a variable is not set.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Default {
    /// Nothing: the variable must be set.
    Required,
    /// The feature is off.
    Unset,
    /// As if the variable had this text.
    Text(&'static str),
    /// The number of cores.
    Cores,
}

const fn knob(name: &'static str, default: &'static str, meaning: &'static str) -> Knob {
    Knob {
        name,
        default: Default::Text(default),
        meaning,
    }
}

/// All settings of the gateway, in the order of the documentation.
#[rustfmt::skip]
pub(crate) const KNOBS: &[Knob] = &[
    Knob { name: "SLOTCAST_REDIS_URLS", default: Default::Required, meaning: "Nodes of the Redis Cluster to start from, `redis://host:port`, separated by commas." },
    Knob { name: "SLOTCAST_JWT_SECRET", default: Default::Required, meaning: "Secret of the access tokens, at least 32 bytes; the same on both tiers. Never printed." },
    knob("SLOTCAST_LISTEN", "0.0.0.0:5002", "Address for clients."),
    knob("SLOTCAST_ADMIN_LISTEN", "127.0.0.1:5070", "Address for `/live`, `/ready` and `/metrics`; keep it private."),
    Knob { name: "SLOTCAST_WORKERS", default: Default::Cores, meaning: "Runtime threads." },
    knob("SLOTCAST_LOG", "info", "Log filter, as `tracing` spells it (`info`, `gateway=debug`)."),
    knob("SLOTCAST_LOG_FORMAT", "text", "Form of log lines: `text` or `json`."),
    knob("SLOTCAST_ALLOWED_ORIGINS", "*", "Origins of pages that may connect, separated by commas; `*` allows any."),
    knob("SLOTCAST_TRUST_FORWARDED_FOR", "true", "Whether a client's address is taken from `X-Forwarded-For` or `X-Real-IP`."),
    knob("SLOTCAST_MAX_CONNECTIONS", "100000", "Sockets at most; further clients get 503."),
    knob("SLOTCAST_CONNECTIONS_PER_SECOND", "10000", "New sockets a second, and as many at once; further clients get 503."),
    Knob { name: "SLOTCAST_CONNECTIONS_PER_ADDRESS", default: Default::Unset, meaning: "Sockets of one client address (IPv6: of one /64 network) at most; further ones get 429. Unset: no limit. Behind a proxy it must set `X-Forwarded-For` anew, or clients choose their address." },
    knob("SLOTCAST_HANDSHAKE_TIMEOUT_MS", "10000", "Milliseconds from accepting a socket to the end of its HTTP request."),
    knob("SLOTCAST_CONNECT_TIMEOUT_MS", "45000", "Milliseconds that a socket may stay without an accepted Socket.IO CONNECT."),
    knob("SLOTCAST_PING_INTERVAL_MS", "25000", "Milliseconds between two heartbeats."),
    knob("SLOTCAST_PING_TIMEOUT_MS", "60000", "Milliseconds until an unanswered heartbeat ends the connection."),
    knob("SLOTCAST_MAX_PAYLOAD_BYTES", "1048576", "Largest message from a client, in bytes, 1024 to 16777216."),
    knob("SLOTCAST_OUTBOX_MAX_BYTES", "262144", "Bytes that may wait for one socket before it is closed as slow."),
    knob("SLOTCAST_OUTBOX_TOTAL_MAX_BYTES", "268435456", "Bytes that may wait for all sockets together; above, those waiting for more than their share are closed as slow."),
    knob("SLOTCAST_WRITE_STALL_MS", "20000", "Milliseconds that a socket may accept nothing while bytes wait for it."),
    knob("SLOTCAST_SOCKET_SEND_BUFFER_BYTES", "65536", "Kernel send buffer of a socket, in bytes, 4096 to 16777216 (the kernel doubles it)."),
    knob("SLOTCAST_SESSION_TTL_SECONDS", "1800", "Seconds that an unused login lives."),
    knob("SLOTCAST_GRACE_SECONDS", "15", "Seconds in which a lost connection may come back without its user leaving rooms."),
    knob("SLOTCAST_RECOVERY_WINDOW_SECONDS", "120", "Seconds in which a lost connection may recover: it gets what it missed instead of loading its rooms anew."),
    knob("SLOTCAST_RECOVERY_MAX_MESSAGES", "1000", "Messages of a room that a recovering connection may have missed; above, or above a MiB in all, it loads its rooms anew."),
    knob("SLOTCAST_LEASE_SECONDS", "15", "Seconds after which the members of a dead gateway leave their rooms."),
    knob("SLOTCAST_DUPLICATE_LOGIN_DELAY_MS", "10000", "Milliseconds between `duplicate_login` and `session_ended`."),
    Knob { name: "SLOTCAST_BANNED_WORDS_FILE", default: Default::Unset, meaning: "File of words that no message may contain, one a line." },
    knob("SLOTCAST_MESSAGE_RATE_LIMIT", "10000", "Messages of one user within the window."),
    knob("SLOTCAST_MESSAGE_RATE_WINDOW_SECONDS", "60", "Seconds of that window."),
    knob("SLOTCAST_GATHER_WINDOW_MS", "250", "Milliseconds over which read marks are gathered into one event."),
    knob("SLOTCAST_PARTICIPANTS_INTERVAL_MS", "250", "Milliseconds at least between two participant lists of a room."),
    Knob { name: "SLOTCAST_LOG_MAX_LENGTH", default: Default::Unset, meaning: "Messages kept per room, about; unset keeps all." },
    knob("SLOTCAST_SUBSCRIBE_TO", "master", "Where the bus listens when it can choose: `master`, or `replica` to spare the masters; a publication may reach a replica 40 ms later."),
    knob("SLOTCAST_TAIL_CHECK_SECONDS", "15", "Seconds between two looks whether rooms stand where their logs do: a message that the bus loses without a trace is found by the second."),
    knob("SLOTCAST_DURABILITY", "master", "What an acknowledged message has reached: `master` or `replica`."),
    knob("SLOTCAST_DRAIN_SECONDS", "30", "Seconds from SIGTERM to the end of the process; a second SIGTERM changes nothing, SIGINT ends it at once."),
    knob("SLOTCAST_DRAIN_PER_SECOND", "1000", "Sockets closed per second while draining."),
];

/// [`KNOBS`] as a table in Markdown.
pub(crate) fn table() -> String {
    let mut table = String::from("| variable | default | meaning |\n|---|---|---|\n");
    for Knob {
        name,
        default,
        meaning,
    } in KNOBS
    {
        let default = match default {
            Default::Required => String::from("required"),
            Default::Unset => String::from("unset"),
            Default::Text(text) => format!("`{text}`"),
            Default::Cores => String::from("number of cores"),
        };
        table.push_str(&format!("| `{name}` | {default} | {meaning} |\n"));
    }
    table
}

/// The settings.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Nodes of the cluster to start from.
    pub(crate) redis_urls: Vec<RedisUrl>,
    /// Secret of the access tokens.
    pub(crate) jwt_secret: Secret,
    /// Address for clients.
    pub(crate) listen: SocketAddr,
    /// Address of the admin port.
    pub(crate) admin_listen: SocketAddr,
    /// Runtime threads.
    pub(crate) workers: usize,
    /// Log filter.
    pub(crate) log: String,
    /// Form of log lines.
    pub(crate) log_format: LogFormat,
    /// Origins of pages that may connect.
    pub(crate) allowed_origins: Origins,
    /// Whether a proxy's word on the client's address counts.
    pub(crate) trust_forwarded_for: bool,
    /// Sockets at most.
    pub(crate) max_connections: usize,
    /// New sockets a second.
    pub(crate) connections_per_second: u32,
    /// Sockets of one client address at most.
    pub(crate) connections_per_address: Option<NonZeroU32>,
    /// From accepting a socket to the end of its HTTP request.
    pub(crate) handshake_timeout: Duration,
    /// How long a socket may stay without an accepted CONNECT, in milliseconds.
    pub(crate) connect_timeout_ms: u32,
    /// Between two heartbeats, in milliseconds.
    pub(crate) ping_interval_ms: u32,
    /// Until an unanswered heartbeat ends the connection, in milliseconds.
    pub(crate) ping_timeout_ms: u32,
    /// Largest message from a client.
    pub(crate) max_payload_bytes: u32,
    /// What may wait for one socket.
    pub(crate) outbox_max_bytes: usize,
    /// What may wait for all sockets together.
    pub(crate) outbox_total_max_bytes: usize,
    /// How long a socket may accept nothing while bytes wait, in milliseconds.
    pub(crate) write_stall_ms: u32,
    /// Kernel send buffer of a socket.
    pub(crate) socket_send_buffer_bytes: usize,
    /// How long an unused login lives.
    pub(crate) session_ttl: Duration,
    /// In which a lost connection may come back unnoticed.
    pub(crate) grace: Duration,
    /// In which a lost connection may recover.
    pub(crate) recovery_window: Duration,
    /// Messages of a room that a recovering connection may have missed.
    pub(crate) recovery_max_messages: usize,
    /// After which the members of a dead gateway leave.
    pub(crate) lease: Duration,
    /// Between `duplicate_login` and `session_ended`.
    pub(crate) duplicate_login_delay: Duration,
    /// File of banned words.
    pub(crate) banned_words_file: Option<PathBuf>,
    /// Messages of one user within the window.
    pub(crate) message_rate_limit: u32,
    /// That window.
    pub(crate) message_rate_window: Duration,
    /// Over which read marks are gathered.
    pub(crate) gather_window: Duration,
    /// At least between two participant lists of a room.
    pub(crate) participants_interval: Duration,
    /// Messages kept per room, about.
    pub(crate) log_max_length: Option<u64>,
    /// Where the bus listens.
    pub(crate) subscribe_to: SubscribeTo,
    /// What an acknowledged message has reached.
    pub(crate) durability: Durability,
    /// Between two looks whether rooms stand where their logs do.
    pub(crate) tail_check: Duration,
    /// From SIGTERM to the end of the process.
    pub(crate) drain: Duration,
    /// Sockets closed per second while draining.
    pub(crate) drain_per_second: u32,
}

/// Text that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Box<str>);

impl Secret {
    /// The secret itself; pass it on, never print it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a node of the cluster is, perhaps with a user and a password, which no log shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct RedisUrl(String);

impl RedisUrl {
    /// The whole URL; pass it on, never print it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.rsplit_once('@') {
            Some((_, node)) => write!(f, "redis://***@{node}"),
            None => f.write_str(&self.0),
        }
    }
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For log collectors.
    Json,
}

/// Where the bus listens when it can choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubscribeTo {
    /// A replica of the shard: unloads its master.
    Replica,
    /// The shard's master.
    Master,
}

/// What an acknowledged message has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The master of its shard.
    Master,
    /// One of the shard's replicas as well.
    Replica,
}

/// Origins of pages that may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origins {
    /// Every origin.
    Any,
    /// These, compared as text: scheme, host and port.
    Listed(Vec<String>),
}

impl Origins {
    /// Whether pages of `origin` may connect.
    pub(crate) fn allow(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(origins) => origins
                .iter()
                .any(|listed| listed.eq_ignore_ascii_case(origin)),
        }
    }
}

/// Everything that is wrong with the environment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConfigError(Vec<String>);

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// Every variable that is missing or malformed.
    pub(crate) fn from_env() -> Result<Self, ConfigError> {
        #[expect(clippy::disallowed_methods, reason = "this is the place that reads it")]
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// Reads the settings from any source of variables. An empty variable is as good as none.
    ///
    /// # Errors
    /// Every variable that is missing or malformed.
    pub(crate) fn from_vars(vars: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut vars = Vars {
            source: vars,
            problems: Vec::new(),
        };
        let config = Self::read(&mut vars);
        if let Some(config) = &config {
            config.check_relations(&mut vars.problems);
        }
        match config {
            Some(config) if vars.problems.is_empty() => Ok(config),
            _ => Err(ConfigError(vars.problems)),
        }
    }

    /// Reads each variable before the first `?`, so that one mistake does not hide another.
    #[expect(
        clippy::too_many_lines,
        reason = "two lines a setting, and nothing else"
    )]
    fn read(vars: &mut Vars<impl Fn(&str) -> Option<String>>) -> Option<Self> {
        let redis_urls = vars.take("SLOTCAST_REDIS_URLS", redis_urls);
        let jwt_secret = vars.take("SLOTCAST_JWT_SECRET", secret);
        let listen = vars.take("SLOTCAST_LISTEN", address);
        let admin_listen = vars.take("SLOTCAST_ADMIN_LISTEN", address);
        let workers = vars.take("SLOTCAST_WORKERS", number(1, 1024));
        let log = vars.take("SLOTCAST_LOG", |text| Ok(String::from(text)));
        let log_format = vars.take("SLOTCAST_LOG_FORMAT", log_format);
        let allowed_origins = vars.take("SLOTCAST_ALLOWED_ORIGINS", origins);
        let trust_forwarded_for = vars.take("SLOTCAST_TRUST_FORWARDED_FOR", boolean);
        let max_connections = vars.take("SLOTCAST_MAX_CONNECTIONS", number(1, 10_000_000));
        let connections_per_second =
            vars.take("SLOTCAST_CONNECTIONS_PER_SECOND", number(1, 1_000_000));
        let connections_per_address = vars.take_optional(
            "SLOTCAST_CONNECTIONS_PER_ADDRESS",
            number(NonZeroU32::MIN, NonZeroU32::MAX),
        );
        let handshake_timeout = vars.take("SLOTCAST_HANDSHAKE_TIMEOUT_MS", milliseconds);
        let connect_timeout_ms = vars.take("SLOTCAST_CONNECT_TIMEOUT_MS", number(1, DAY_MS));
        let ping_interval_ms = vars.take("SLOTCAST_PING_INTERVAL_MS", number(1, DAY_MS));
        let ping_timeout_ms = vars.take("SLOTCAST_PING_TIMEOUT_MS", number(1, DAY_MS));
        let max_payload_bytes = vars.take("SLOTCAST_MAX_PAYLOAD_BYTES", number(1024, 16_777_216));
        let outbox_max_bytes = vars.take("SLOTCAST_OUTBOX_MAX_BYTES", number(1024, 1 << 30));
        let outbox_total_max_bytes =
            vars.take("SLOTCAST_OUTBOX_TOTAL_MAX_BYTES", number(1024, 1 << 40));
        let write_stall_ms = vars.take("SLOTCAST_WRITE_STALL_MS", number(1, DAY_MS));
        let socket_send_buffer_bytes = vars.take(
            "SLOTCAST_SOCKET_SEND_BUFFER_BYTES",
            number(4096, 16_777_216),
        );
        let session_ttl = vars.take("SLOTCAST_SESSION_TTL_SECONDS", seconds);
        let grace = vars.take("SLOTCAST_GRACE_SECONDS", seconds);
        let recovery_window = vars.take("SLOTCAST_RECOVERY_WINDOW_SECONDS", seconds);
        let recovery_max_messages =
            vars.take("SLOTCAST_RECOVERY_MAX_MESSAGES", number(0, 1_000_000));
        let lease = vars.take("SLOTCAST_LEASE_SECONDS", seconds);
        let duplicate_login_delay = vars.take("SLOTCAST_DUPLICATE_LOGIN_DELAY_MS", milliseconds);
        let banned_words_file =
            vars.take_optional("SLOTCAST_BANNED_WORDS_FILE", |text| Ok(PathBuf::from(text)));
        let message_rate_limit = vars.take("SLOTCAST_MESSAGE_RATE_LIMIT", number(1, u32::MAX));
        let message_rate_window = vars.take("SLOTCAST_MESSAGE_RATE_WINDOW_SECONDS", seconds);
        let gather_window = vars.take("SLOTCAST_GATHER_WINDOW_MS", milliseconds);
        let participants_interval = vars.take("SLOTCAST_PARTICIPANTS_INTERVAL_MS", milliseconds);
        let log_max_length = vars.take_optional("SLOTCAST_LOG_MAX_LENGTH", number(1, u64::MAX));
        let subscribe_to = vars.take("SLOTCAST_SUBSCRIBE_TO", subscribe_to);
        let durability = vars.take("SLOTCAST_DURABILITY", durability);
        let tail_check = vars.take("SLOTCAST_TAIL_CHECK_SECONDS", seconds);
        let drain = vars.take("SLOTCAST_DRAIN_SECONDS", seconds);
        let drain_per_second = vars.take("SLOTCAST_DRAIN_PER_SECOND", number(1, 1_000_000));
        Some(Self {
            redis_urls: redis_urls?,
            jwt_secret: jwt_secret?,
            listen: listen?,
            admin_listen: admin_listen?,
            workers: workers?,
            log: log?,
            log_format: log_format?,
            allowed_origins: allowed_origins?,
            trust_forwarded_for: trust_forwarded_for?,
            max_connections: max_connections?,
            connections_per_second: connections_per_second?,
            connections_per_address: connections_per_address?,
            handshake_timeout: handshake_timeout?,
            connect_timeout_ms: connect_timeout_ms?,
            ping_interval_ms: ping_interval_ms?,
            ping_timeout_ms: ping_timeout_ms?,
            max_payload_bytes: max_payload_bytes?,
            outbox_max_bytes: outbox_max_bytes?,
            outbox_total_max_bytes: outbox_total_max_bytes?,
            write_stall_ms: write_stall_ms?,
            socket_send_buffer_bytes: socket_send_buffer_bytes?,
            session_ttl: session_ttl?,
            grace: grace?,
            recovery_window: recovery_window?,
            recovery_max_messages: recovery_max_messages?,
            lease: lease?,
            duplicate_login_delay: duplicate_login_delay?,
            banned_words_file: banned_words_file?,
            message_rate_limit: message_rate_limit?,
            message_rate_window: message_rate_window?,
            gather_window: gather_window?,
            participants_interval: participants_interval?,
            log_max_length: log_max_length?,
            subscribe_to: subscribe_to?,
            durability: durability?,
            tail_check: tail_check?,
            drain: drain?,
            drain_per_second: drain_per_second?,
        })
    }

    fn check_relations(&self, problems: &mut Vec<String>) {
        if self.outbox_max_bytes > self.outbox_total_max_bytes {
            problems.push(String::from(
                "SLOTCAST_OUTBOX_MAX_BYTES: larger than SLOTCAST_OUTBOX_TOTAL_MAX_BYTES",
            ));
        }
        if self.listen == self.admin_listen && self.listen.port() != 0 {
            problems.push(String::from(
                "SLOTCAST_ADMIN_LISTEN: the same as SLOTCAST_LISTEN",
            ));
        }
    }
}

const DAY_MS: u32 = 24 * 60 * 60 * 1000;

/// Variables, and what is wrong with those looked at so far.
struct Vars<F> {
    source: F,
    problems: Vec<String>,
}

impl<F: Fn(&str) -> Option<String>> Vars<F> {
    fn take<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        match self.take_optional(name, parse)? {
            Some(value) => Some(value),
            None => self.refuse(name, "must be set"),
        }
    }

    /// `Some(None)` when the variable is not set and has no default.
    fn take_optional<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Option<T>> {
        let set = (self.source)(name).filter(|text| !text.trim().is_empty());
        let Some(text) = set.or_else(|| default_text(name)) else {
            return Some(None);
        };
        match parse(text.trim()) {
            Ok(value) => Some(Some(value)),
            Err(problem) => self.refuse(name, &problem),
        }
    }

    fn refuse<T>(&mut self, name: &str, problem: &str) -> Option<T> {
        self.problems.push(format!("{name}: {problem}"));
        None
    }
}

fn default_text(name: &str) -> Option<String> {
    let knob = KNOBS.iter().find(|knob| knob.name == name)?;
    match knob.default {
        Default::Required | Default::Unset => None,
        Default::Text(text) => Some(String::from(text)),
        Default::Cores => Some(
            std::thread::available_parallelism()
                .map_or(1, usize::from)
                .to_string(),
        ),
    }
}

pub(crate) fn redis_urls(text: &str) -> Result<Vec<RedisUrl>, String> {
    let urls: Vec<String> = items(text);
    let is_url = |url: &String| {
        url.strip_prefix("redis://")
            .is_some_and(|rest| !rest.is_empty())
    };
    if urls.is_empty() || !urls.iter().all(is_url) {
        return Err(String::from("not a list of redis://host:port"));
    }
    Ok(urls.into_iter().map(RedisUrl).collect())
}

fn secret(text: &str) -> Result<Secret, String> {
    if text.len() < SECRET_BYTES_MIN {
        return Err(format!("shorter than {SECRET_BYTES_MIN} bytes"));
    }
    Ok(Secret(text.into()))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not an address like 0.0.0.0:5002"))
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} is neither text nor json")),
    }
}

fn durability(text: &str) -> Result<Durability, String> {
    match text {
        "master" => Ok(Durability::Master),
        "replica" => Ok(Durability::Replica),
        _ => Err(format!("{text:?} is neither master nor replica")),
    }
}

fn subscribe_to(text: &str) -> Result<SubscribeTo, String> {
    match text {
        "replica" => Ok(SubscribeTo::Replica),
        "master" => Ok(SubscribeTo::Master),
        _ => Err(format!("{text:?} is neither replica nor master")),
    }
}

fn origins(text: &str) -> Result<Origins, String> {
    let listed: Vec<String> = items(text);
    if listed.iter().any(|origin| origin == "*") {
        return Ok(Origins::Any);
    }
    match listed
        .iter()
        .find(|origin| !origin.contains("://") || origin.ends_with('/'))
    {
        Some(origin) => Err(format!(
            "{origin:?} is not an origin like https://chat.example.com"
        )),
        None => Ok(Origins::Listed(listed)),
    }
}

fn items(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(String::from)
        .collect()
}

fn seconds(text: &str) -> Result<Duration, String> {
    number(1, 31_536_000)(text).map(Duration::from_secs)
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    number(1, u64::from(DAY_MS))(text).map(Duration::from_millis)
}

/// Reads a whole number within bounds, both included.
fn number<T>(min: T, max: T) -> impl Fn(&str) -> Result<T, String>
where
    T: Copy + PartialOrd + fmt::Display + std::str::FromStr,
{
    move |text| match text.parse() {
        Ok(value) if min <= value && value <= max => Ok(value),
        _ => Err(format!(
            "{text:?} is not a whole number from {min} to {max}"
        )),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use slotcast_proto::limits::{
        CONNECT_TIMEOUT_MS_DEFAULT, MAX_PAYLOAD_BYTES_DEFAULT, PING_INTERVAL_MS_DEFAULT,
        PING_TIMEOUT_MS_DEFAULT,
    };

    use super::*;

    /// A valid configuration with some variables set.
    pub(crate) fn config(vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let required = [
            ("SLOTCAST_REDIS_URLS", "redis://127.0.0.1:5100"),
            ("SLOTCAST_JWT_SECRET", "0123456789abcdef0123456789abcdef"),
        ];
        Config::from_vars(|name| {
            let set = vars
                .iter()
                .chain(&required)
                .find(|(known, _)| *known == name);
            set.map(|(_, value)| String::from(*value))
        })
    }

    #[test]
    fn defaults_serve() {
        let config = config(&[]).unwrap();
        assert_eq!(config.ping_interval_ms, PING_INTERVAL_MS_DEFAULT);
        assert_eq!(config.ping_timeout_ms, PING_TIMEOUT_MS_DEFAULT);
        assert_eq!(config.connect_timeout_ms, CONNECT_TIMEOUT_MS_DEFAULT);
        assert_eq!(config.max_payload_bytes, MAX_PAYLOAD_BYTES_DEFAULT);
        assert_eq!(config.allowed_origins, Origins::Any);
        assert_eq!(config.log_max_length, None);
        assert_eq!(config.durability, Durability::Master);
        assert!(config.workers >= 1);
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let mistakes = config(&[
            ("SLOTCAST_REDIS_URLS", "localhost"),
            ("SLOTCAST_JWT_SECRET", "short"),
            ("SLOTCAST_LISTEN", "5002"),
            ("SLOTCAST_LOG_FORMAT", "xml"),
            ("SLOTCAST_MAX_CONNECTIONS", "-1"),
            ("SLOTCAST_LOG_MAX_LENGTH", "many"),
            ("SLOTCAST_ALLOWED_ORIGINS", "chat.example.com"),
            ("SLOTCAST_DURABILITY", "disk"),
            ("SLOTCAST_DRAIN_SECONDS", "0"),
        ])
        .unwrap_err();
        assert_eq!(mistakes.0.len(), 9, "{mistakes}");
    }

    #[test]
    fn missing_variables_are_named() {
        let mistakes = Config::from_vars(|_| None).unwrap_err();
        assert_eq!(
            mistakes.0,
            [
                "SLOTCAST_REDIS_URLS: must be set",
                "SLOTCAST_JWT_SECRET: must be set"
            ]
        );
    }

    #[test]
    fn one_socket_may_not_wait_for_more_than_all() {
        let mistakes = config(&[
            ("SLOTCAST_OUTBOX_MAX_BYTES", "4096"),
            ("SLOTCAST_OUTBOX_TOTAL_MAX_BYTES", "2048"),
        ]);
        assert!(mistakes.is_err());
    }

    #[test]
    fn secrets_are_not_printed() {
        let with_password = ("SLOTCAST_REDIS_URLS", "redis://user:hunter1@127.0.0.1:5100");
        let config = config(&[with_password]).unwrap();
        let printed = format!("{config:?}");
        assert!(!printed.contains("0123456789abcdef") && !printed.contains("hunter1"));
        assert!(printed.contains("redis://***@127.0.0.1:5100"));
        let mistakes = self::config(&[("SLOTCAST_JWT_SECRET", "hunter2")]).unwrap_err();
        assert!(!mistakes.to_string().contains("hunter2"));
    }

    #[test]
    fn every_default_parses_and_every_knob_has_its_place() {
        for (index, knob) in KNOBS.iter().enumerate() {
            assert!(!knob.meaning.is_empty());
            assert!(KNOBS[..index].iter().all(|other| other.name != knob.name));
        }
        assert!(
            config(&[("SLOTCAST_BANNED_WORDS_FILE", " ")])
                .unwrap()
                .banned_words_file
                .is_none()
        );
    }

    #[test]
    fn the_readme_has_the_table_of_settings() {
        assert!(include_str!("../../README.md").contains(&table()));
    }

    #[test]
    fn origins_are_compared_without_case() {
        let config = config(&[(
            "SLOTCAST_ALLOWED_ORIGINS",
            "https://a.example, http://b:3000",
        )]);
        let origins = config.unwrap().allowed_origins;
        assert!(origins.allow("https://A.example"));
        assert!(origins.allow("http://b:3000"));
        assert!(!origins.allow("https://a.example.org"));
    }
}
