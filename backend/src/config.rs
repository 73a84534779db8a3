//! The configuration: environment only, parsed before a port is bound, all mistakes at once.
//!
//! | variable | unit | default | meaning |
//! |---|---|---|---|
//! | `SLOTCAST_REDIS_URLS` | comma list | required | some nodes of the cluster, `redis://host:port` |
//! | `SLOTCAST_JWT_SECRET` | text | required | at least 32 bytes; the gateways need the same |
//! | `SLOTCAST_LISTEN` | address | `0.0.0.0:5001` | where clients are answered |
//! | `SLOTCAST_ADMIN_LISTEN` | address | `127.0.0.1:5060` | `/live`, `/ready`, `/metrics` |
//! | `SLOTCAST_SHARD_COUNT` | 1 to 16384 | 64 | where *new* users and rooms go |
//! | `SLOTCAST_SESSION_TTL_SECONDS` | s | 1800 | idle time that ends a session |
//! | `SLOTCAST_ALLOWED_ORIGINS` | comma list | `*` | origins for CORS; `*` reflects any |
//! | `SLOTCAST_REDIS_POOL_SIZE` | connections | 4 | of each of the two pools |
//! | `SLOTCAST_READ_FROM_REPLICAS` | true, false | true | reads that may be a moment old |
//! | `SLOTCAST_PASSWORD_HASH` | argon2id, bcrypt | argon2id | for new passwords; both verify |
//! | `SLOTCAST_PASSWORD_WORKERS` | threads | cores | that hash passwords |
//! | `SLOTCAST_PASSWORD_QUEUE` | jobs | 256 | waiting for them; above: 503 |
//! | `SLOTCAST_ARGON2_MEMORY_KIB` | KiB | 19456 | OWASP's minimum for two iterations |
//! | `SLOTCAST_ARGON2_ITERATIONS` | passes | 2 | |
//! | `SLOTCAST_BCRYPT_COST` | 4 to 31 | 10 | 2^cost rounds |
//! | `SLOTCAST_ROOMS_RATE_LIMIT` | requests | 10000 | room lists per address and window |
//! | `SLOTCAST_ROOMS_RATE_WINDOW_SECONDS` | s | 30 | |
//! | `SLOTCAST_TRUST_FORWARDED_FOR` | true, false | true | believe `X-Forwarded-For`, `X-Real-IP` |
//! | `SLOTCAST_MAX_CONNECTIONS` | connections | 10000 | accepted at once; more wait in the backlog |
//! | `SLOTCAST_MAX_REQUESTS` | requests | 4096 | in work at once; above: 503 |
//! | `SLOTCAST_KEEP_ALIVE_SECONDS` | s | 75 | longer than a load balancer's idle time (ELB: 60) |
//! | `SLOTCAST_DRAIN_SECONDS` | s | 30 | from SIGTERM to the exit at the latest |
//! | `SLOTCAST_S3_BUCKET` | text | unset | bucket of the files; unset: file calls are refused (501) |
//! | `SLOTCAST_S3_REGION` | text | `us-east-1` | its region |
//! | `SLOTCAST_S3_ENDPOINT` | URL | Amazon's for the region | any server that speaks S3 |
//! | `SLOTCAST_S3_PUBLIC_ENDPOINT` | URL | the endpoint | where clients reach it, for presigned URLs |
//! | `SLOTCAST_S3_PATH_STYLE` | true, false | false | bucket in the path instead of the host name |
//! | `SLOTCAST_S3_ACCESS_KEY_ID` | text | unset | unset: the role of the EC2 instance (IMDSv2) |
//! | `SLOTCAST_S3_SECRET_ACCESS_KEY` | text | unset | belongs to it; never printed |
//! | `SLOTCAST_S3_SESSION_TOKEN` | text | unset | of temporary credentials; never printed |
//! | `SLOTCAST_S3_METADATA_URL` | URL | `http://169.254.169.254` | the instance metadata service |
//! | `SLOTCAST_UPLOAD_URL_SECONDS` | s | 300 | validity of URLs to upload to |
//! | `SLOTCAST_DOWNLOAD_URL_SECONDS` | s | 300 | validity of URLs to download from |
//! | `SLOTCAST_FILE_REDIRECTS` | true, false | true | lead browsers to the object store to download |
//! | `SLOTCAST_MAX_UPLOADS` | forms | 64 | with files in work at once; above: 503 |
//! | `SLOTCAST_ENVIRONMENT` | text | unset | `env` of `/api/health` |
//! | `SLOTCAST_LOG` | filter | `info,redis=error` | tracing's; the client warns at every try |
//! | `SLOTCAST_LOG_FORMAT` | text, json | text | |
//! | `HOSTNAME` | text | the kernel's | label `host` of the metrics |

use std::{fmt, net::SocketAddr, num::NonZeroUsize, str::FromStr, thread, time::Duration};

use axum::http::HeaderValue;
use rusty_s3::{Bucket, UrlStyle};
use slotcast_proto::{
    slot::Shards,
    token::{SECRET_BYTES_MIN, TokenKey},
};
use url::Url;

use crate::objects::{
    ObjectStoreConfig,
    credentials::{CredentialSource, Credentials},
};

/// All that an operator decides, checked.
pub struct Config {
    /// Where clients are answered.
    pub listen: SocketAddr,
    /// Where operators are answered.
    pub admin_listen: SocketAddr,
    /// Some nodes of the Redis Cluster.
    pub redis_urls: Vec<String>,
    /// Connections of each of the two pools.
    pub redis_pool_size: usize,
    /// Whether reads that may be a moment old go to replicas.
    pub read_from_replicas: bool,
    /// Signs and verifies access tokens.
    pub token_key: TokenKey,
    /// Where new users and rooms go.
    pub shards: Shards,
    /// Idle time that ends a session.
    pub session_ttl: Duration,
    /// Origins that browsers may call from.
    pub allowed_origins: AllowedOrigins,
    /// How passwords are hashed.
    pub password: PasswordConfig,
    /// Room lists per address and window.
    pub rooms_rate: RateLimit,
    /// Whether proxies in front tell the client's address.
    pub trust_forwarded_for: bool,
    /// Connections accepted at once.
    pub max_connections: usize,
    /// Requests in work at once.
    pub max_requests: usize,
    /// How long a connection may be silent between requests and within a request's head.
    pub keep_alive: Duration,
    /// From SIGTERM to the exit at the latest.
    pub drain: Duration,
    /// Where files are; `None` refuses them.
    pub object_store: Option<ObjectStoreConfig>,
    /// Forms with files in work at once.
    pub max_uploads: usize,
    /// `env` of the health answer.
    pub environment: Option<String>,
    /// Filter of the log.
    pub log: String,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Label of the metrics.
    pub host: String,
    printed: Vec<(&'static str, String)>,
}

/// Origins that browsers may call from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// Any, reflected.
    Any,
    /// These.
    List(Vec<HeaderValue>),
}

/// How passwords are hashed.
#[derive(Clone, Copy, Debug)]
pub struct PasswordConfig {
    /// For new passwords.
    pub hash: PasswordHash,
    /// Threads that hash.
    pub workers: usize,
    /// Jobs that may wait for them.
    pub queue: usize,
    /// Memory of argon2id in KiB.
    pub argon2_memory_kib: u32,
    /// Passes of argon2id.
    pub argon2_iterations: u32,
    /// Base-2 logarithm of bcrypt's rounds.
    pub bcrypt_cost: u32,
}

/// A password hashing algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordHash {
    /// RFC 9106.
    Argon2id,
    /// As the reference implementations use it.
    Bcrypt,
}

/// A number of requests per window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests of one address.
    pub requests: u32,
    /// Length of the window.
    pub window: Duration,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// A variable that is missing or wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The variable.
    pub variable: &'static str,
    /// What is wrong with it; never holds a secret.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.variable, self.reason)
    }
}

impl Config {
    /// Reads the environment.
    ///
    /// # Errors
    /// Every variable that is missing or wrong.
    pub fn from_env() -> Result<Self, Vec<Problem>> {
        #[expect(clippy::disallowed_methods, reason = "the one place")]
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// Reads variables from `lookup`.
    ///
    /// # Errors
    /// Every variable that is missing or wrong.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<Problem>> {
        let mut read = Reader {
            lookup: &lookup,
            problems: Vec::new(),
            printed: Vec::new(),
        };
        match read.config() {
            Some(config) if read.problems.is_empty() => Ok(Self {
                printed: read.printed,
                ..config
            }),
            _ => Err(read.problems),
        }
    }

    /// Every variable with its value in force, secrets masked.
    #[must_use]
    pub fn printed(&self) -> &[(&'static str, String)] {
        &self.printed
    }
}

struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<Problem>,
    printed: Vec<(&'static str, String)>,
}

impl Reader<'_> {
    /// Reads everything, so that every problem is found; `None` if a part is missing.
    fn config(&mut self) -> Option<Config> {
        let token_key = self.token_key();
        let redis_urls = self.redis_urls();
        let shards = self.shards();
        let allowed_origins = self.allowed_origins();
        let password = self.password();
        let object_store = self.object_store();
        let config = Config {
            listen: self.parsed("SLOTCAST_LISTEN", SocketAddr::from(([0, 0, 0, 0], 5001))),
            admin_listen: self.parsed(
                "SLOTCAST_ADMIN_LISTEN",
                SocketAddr::from(([127, 0, 0, 1], 5060)),
            ),
            redis_urls,
            redis_pool_size: self.count("SLOTCAST_REDIS_POOL_SIZE", 4, 256),
            read_from_replicas: self.parsed("SLOTCAST_READ_FROM_REPLICAS", true),
            session_ttl: self.seconds("SLOTCAST_SESSION_TTL_SECONDS", 1800),
            allowed_origins,
            password,
            rooms_rate: RateLimit {
                requests: self.in_range("SLOTCAST_ROOMS_RATE_LIMIT", 10_000, 1, u32::MAX),
                window: self.seconds("SLOTCAST_ROOMS_RATE_WINDOW_SECONDS", 30),
            },
            trust_forwarded_for: self.parsed("SLOTCAST_TRUST_FORWARDED_FOR", true),
            max_connections: self.count("SLOTCAST_MAX_CONNECTIONS", 10_000, 1_000_000),
            max_requests: self.count("SLOTCAST_MAX_REQUESTS", 4096, 1_000_000),
            keep_alive: self.seconds("SLOTCAST_KEEP_ALIVE_SECONDS", 75),
            drain: self.seconds("SLOTCAST_DRAIN_SECONDS", 30),
            object_store,
            max_uploads: self.count("SLOTCAST_MAX_UPLOADS", 64, 100_000),
            environment: self.text("SLOTCAST_ENVIRONMENT"),
            log: self.parsed("SLOTCAST_LOG", "info,redis=error".to_owned()),
            log_format: self.parsed("SLOTCAST_LOG_FORMAT", LogFormat::Text),
            host: self.text("HOSTNAME").unwrap_or_else(kernel_host_name),
            printed: Vec::new(),
            // Last, so that everything above has been looked at.
            token_key: token_key?,
            shards: shards?,
        };
        Some(config)
    }

    /// A variable that is set to something.
    fn text(&self, name: &'static str) -> Option<String> {
        (self.lookup)(name)
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
    }

    fn refuse(&mut self, variable: &'static str, reason: impl Into<String>) {
        let reason = reason.into();
        self.problems.push(Problem { variable, reason });
    }

    fn parsed<T: FromStr + fmt::Display>(&mut self, name: &'static str, default: T) -> T
    where
        T::Err: fmt::Display,
    {
        let value = match self.text(name).map(|text| (text.parse(), text)) {
            None => default,
            Some((Ok(value), _)) => value,
            Some((Err(error), text)) => {
                self.refuse(name, format!("is {text:?}: {error}"));
                default
            }
        };
        self.printed.push((name, value.to_string()));
        value
    }

    fn in_range<T>(&mut self, name: &'static str, default: T, least: T, most: T) -> T
    where
        T: FromStr<Err: fmt::Display> + fmt::Display + PartialOrd + Copy,
    {
        let value = self.parsed(name, default);
        if value < least || value > most {
            self.refuse(name, format!("must be from {least} to {most}, not {value}"));
        }
        value
    }

    fn count(&mut self, name: &'static str, default: usize, most: usize) -> usize {
        self.in_range(name, default, 1, most)
    }

    /// A time of at least a second and at most a year.
    fn seconds(&mut self, name: &'static str, default: u64) -> Duration {
        Duration::from_secs(self.in_range(name, default, 1, 31_536_000))
    }

    fn token_key(&mut self) -> Option<TokenKey> {
        const NAME: &str = "SLOTCAST_JWT_SECRET";
        let Some(secret) = (self.lookup)(NAME).filter(|secret| !secret.is_empty()) else {
            self.refuse(NAME, "is required");
            return None;
        };
        let key = TokenKey::new(secret.as_bytes());
        if key.is_none() {
            let length = secret.len();
            self.refuse(
                NAME,
                format!("must have at least {SECRET_BYTES_MIN} bytes, not {length}"),
            );
        }
        self.printed.push((NAME, "***".to_owned()));
        key
    }

    fn redis_urls(&mut self) -> Vec<String> {
        const NAME: &str = "SLOTCAST_REDIS_URLS";
        let urls = list(&self.text(NAME).unwrap_or_default());
        if urls.is_empty() {
            self.refuse(NAME, "is required: redis://host:port, separated by commas");
        }
        for (at, url) in urls.iter().enumerate() {
            if redis::Client::open(url.as_str()).is_err() {
                // The URL may hold a password, so it is named by its place.
                self.refuse(NAME, format!("entry {} is not a Redis URL", at + 1));
            }
        }
        let masked: Vec<_> = urls.iter().map(|url| mask_user_info(url)).collect();
        self.printed.push((NAME, masked.join(",")));
        urls
    }

    fn shards(&mut self) -> Option<Shards> {
        const NAME: &str = "SLOTCAST_SHARD_COUNT";
        let shards = Shards::new(self.parsed(NAME, 64));
        if shards.is_none() {
            self.refuse(NAME, "must be from 1 to 16384");
        }
        shards
    }

    fn allowed_origins(&mut self) -> AllowedOrigins {
        const NAME: &str = "SLOTCAST_ALLOWED_ORIGINS";
        let text = self.text(NAME).unwrap_or_else(|| "*".to_owned());
        let origins = list(&text);
        self.printed.push((NAME, text));
        if origins.iter().any(|origin| origin == "*") {
            return AllowedOrigins::Any;
        }
        let mut allowed = Vec::new();
        for origin in origins {
            match origin.parse() {
                Ok(value) if origin.contains("://") && !origin.ends_with('/') => {
                    allowed.push(value);
                }
                _ => self.refuse(
                    NAME,
                    format!("holds {origin:?}, not an origin like https://chat.example"),
                ),
            }
        }
        AllowedOrigins::List(allowed)
    }

    fn object_store(&mut self) -> Option<ObjectStoreConfig> {
        let path_style = self.parsed("SLOTCAST_S3_PATH_STYLE", false);
        let region = self.parsed("SLOTCAST_S3_REGION", "us-east-1".to_owned());
        let endpoint = self.url(
            "SLOTCAST_S3_ENDPOINT",
            &format!("https://s3.{region}.amazonaws.com"),
        );
        let public_endpoint = match &endpoint {
            Some(endpoint) => self.url("SLOTCAST_S3_PUBLIC_ENDPOINT", endpoint.as_str()),
            None => None,
        };
        let credentials = self.credentials();
        let upload_url_ttl = self.url_seconds("SLOTCAST_UPLOAD_URL_SECONDS");
        let download_url_ttl = self.url_seconds("SLOTCAST_DOWNLOAD_URL_SECONDS");
        let redirects = self.parsed("SLOTCAST_FILE_REDIRECTS", true);
        let name = self.text("SLOTCAST_S3_BUCKET")?;
        self.printed.push(("SLOTCAST_S3_BUCKET", name.clone()));
        let mut bucket = |endpoint: Option<Url>| {
            let style = if path_style {
                UrlStyle::Path
            } else {
                UrlStyle::VirtualHost
            };
            let bucket = Bucket::new(endpoint?, style, name.clone(), region.clone());
            if bucket.is_err() {
                self.refuse(
                    "SLOTCAST_S3_BUCKET",
                    "and the endpoint make no URL (path style?)",
                );
            }
            bucket.ok()
        };
        Some(ObjectStoreConfig {
            bucket: bucket(endpoint)?,
            public_bucket: bucket(public_endpoint)?,
            credentials: credentials?,
            upload_url_ttl,
            download_url_ttl,
            redirects,
        })
    }

    /// Keys of the object store, or where an instance gets them.
    fn credentials(&mut self) -> Option<CredentialSource> {
        const KEY: &str = "SLOTCAST_S3_ACCESS_KEY_ID";
        const SECRET: &str = "SLOTCAST_S3_SECRET_ACCESS_KEY";
        let metadata = self.url("SLOTCAST_S3_METADATA_URL", "http://169.254.169.254")?;
        let token = self.text("SLOTCAST_S3_SESSION_TOKEN");
        match (self.text(KEY), self.text(SECRET)) {
            (Some(key), Some(secret)) => {
                self.printed.push((KEY, key.clone()));
                self.printed.push((SECRET, "***".to_owned()));
                Some(CredentialSource::Fixed(Credentials {
                    key,
                    secret,
                    token,
                    expires_at: None,
                }))
            }
            (None, None) => {
                let url = metadata.as_str().trim_end_matches('/').to_owned();
                Some(CredentialSource::InstanceProfile(url))
            }
            (Some(_), None) => {
                self.refuse(SECRET, "is required beside SLOTCAST_S3_ACCESS_KEY_ID");
                None
            }
            (None, Some(_)) => {
                self.refuse(KEY, "is required beside SLOTCAST_S3_SECRET_ACCESS_KEY");
                None
            }
        }
    }

    /// An HTTP or HTTPS URL.
    fn url(&mut self, name: &'static str, default: &str) -> Option<Url> {
        let text = self.text(name).unwrap_or_else(|| default.to_owned());
        let url = Url::parse(&text).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if url.is_none() {
            self.refuse(name, "is no http or https URL");
        }
        self.printed.push((name, mask_user_info(&text)));
        url
    }

    /// The validity of a presigned URL; S3 allows seven days.
    fn url_seconds(&mut self, name: &'static str) -> Duration {
        Duration::from_secs(self.in_range(name, 300, 1, 604_800))
    }

    fn password(&mut self) -> PasswordConfig {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        PasswordConfig {
            hash: self.parsed("SLOTCAST_PASSWORD_HASH", PasswordHash::Argon2id),
            workers: self.count("SLOTCAST_PASSWORD_WORKERS", cores, 256),
            queue: self.count("SLOTCAST_PASSWORD_QUEUE", 256, 100_000),
            argon2_memory_kib: self.in_range("SLOTCAST_ARGON2_MEMORY_KIB", 19_456, 8, 1_048_576),
            argon2_iterations: self.in_range("SLOTCAST_ARGON2_ITERATIONS", 2, 1, 100),
            bcrypt_cost: self.in_range("SLOTCAST_BCRYPT_COST", 10, 4, 31),
        }
    }
}

fn list(text: &str) -> Vec<String> {
    let items = text.split(',').map(str::trim);
    items
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

fn mask_user_info(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!("{}***{}", url.split_at(scheme + 3).0, url.split_at(at).1)
        }
        _ => url.to_owned(),
    }
}

fn kernel_host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

/// Gives an enum its words in the environment.
macro_rules! words {
    ($type:ident: $($word:literal = $variant:ident),+) => {
        impl FromStr for $type {
            type Err = &'static str;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(concat!("must be one of" $(, " ", $word)+)),
                }
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }
    };
}
words!(PasswordHash: "argon2id" = Argon2id, "bcrypt" = Bcrypt);
words!(LogFormat: "text" = Text, "json" = Json);

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn the_readme_has_the_table_of_this_module() {
        let readme = include_str!("../../README.md");
        for row in include_str!("config.rs").lines() {
            if let Some(row) = row.strip_prefix("//! |") {
                assert!(readme.contains(&format!("|{row}")), "README lacks {row}");
            }
        }
    }

    #[test]
    fn defaults_serve_with_only_the_required_variables() {
        let config = read(&[]).unwrap();
        assert_eq!(config.listen.port(), 5001);
        assert_eq!(config.rooms_rate.requests, 10_000);
        assert_eq!(config.session_ttl, Duration::from_secs(1800));
        assert_eq!(config.allowed_origins, AllowedOrigins::Any);
        assert!(config.read_from_replicas && config.trust_forwarded_for);
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let problems = read(&[
            ("SLOTCAST_REDIS_URLS", "http://x"),
            ("SLOTCAST_JWT_SECRET", "short"),
            ("SLOTCAST_SHARD_COUNT", "0"),
            ("SLOTCAST_LISTEN", "nowhere"),
            ("SLOTCAST_PASSWORD_HASH", "md5"),
            ("SLOTCAST_PASSWORD_QUEUE", "0"),
            ("SLOTCAST_ALLOWED_ORIGINS", "chat.example"),
        ])
        .err()
        .unwrap();
        let variables: Vec<_> = problems.iter().map(|problem| problem.variable).collect();
        assert_eq!(
            variables,
            [
                "SLOTCAST_JWT_SECRET",
                "SLOTCAST_REDIS_URLS",
                "SLOTCAST_SHARD_COUNT",
                "SLOTCAST_ALLOWED_ORIGINS",
                "SLOTCAST_PASSWORD_HASH",
                "SLOTCAST_PASSWORD_QUEUE",
                "SLOTCAST_LISTEN",
            ]
        );
    }

    #[test]
    fn missing_required_variables_are_named() {
        let problems = Config::from_lookup(|_| None).err().unwrap();
        assert_eq!(problems.len(), 2);
        assert!(problems.iter().all(|p| p.reason.starts_with("is required")));
    }

    #[test]
    fn object_store_is_off_without_a_bucket_and_amazons_without_an_endpoint() {
        assert!(read(&[]).unwrap().object_store.is_none());
        let config = read(&[
            ("SLOTCAST_S3_BUCKET", "files"),
            ("SLOTCAST_S3_REGION", "ap-northeast-2"),
        ]);
        let store = config.unwrap().object_store.unwrap();
        let url = "https://files.s3.ap-northeast-2.amazonaws.com/";
        assert_eq!(store.bucket.base_url().as_str(), url);
        assert_eq!(store.public_bucket, store.bucket);
        assert!(matches!(
            store.credentials,
            CredentialSource::InstanceProfile(url) if url == "http://169.254.169.254"
        ));
    }

    #[test]
    fn object_store_settings_that_do_not_fit_are_named() {
        let problems = |changes: &[(&str, &str)]| {
            let bucket = [("SLOTCAST_S3_BUCKET", "files")];
            let all: Vec<_> = bucket.iter().chain(changes).copied().collect();
            let problems = read(&all).err().unwrap().into_iter();
            problems.map(|problem| problem.variable).collect::<Vec<_>>()
        };
        let half = [("SLOTCAST_S3_ACCESS_KEY_ID", "key")];
        assert_eq!(problems(&half), ["SLOTCAST_S3_SECRET_ACCESS_KEY"]);
        let other_half = [("SLOTCAST_S3_SECRET_ACCESS_KEY", "secret")];
        assert_eq!(problems(&other_half), ["SLOTCAST_S3_ACCESS_KEY_ID"]);
        let no_url = [("SLOTCAST_S3_ENDPOINT", "s3.example")];
        assert_eq!(problems(&no_url), ["SLOTCAST_S3_ENDPOINT"]);
        let no_host_name = [("SLOTCAST_S3_ENDPOINT", "http://127.0.0.1:1")];
        assert_eq!(problems(&no_host_name), ["SLOTCAST_S3_BUCKET"]);
        let too_long = [("SLOTCAST_UPLOAD_URL_SECONDS", "604801")];
        assert_eq!(problems(&too_long), ["SLOTCAST_UPLOAD_URL_SECONDS"]);
    }

    #[test]
    fn secrets_are_masked() {
        let config = read(&[
            ("SLOTCAST_REDIS_URLS", "redis://me:hidden@host:1/"),
            ("SLOTCAST_S3_BUCKET", "files"),
            ("SLOTCAST_S3_ACCESS_KEY_ID", "key"),
            ("SLOTCAST_S3_SECRET_ACCESS_KEY", "hidden"),
            ("SLOTCAST_S3_SESSION_TOKEN", "hidden"),
        ])
        .unwrap();
        let printed = format!("{:?}", config.printed());
        assert!(
            !printed.contains(SECRET) && !printed.contains("hidden"),
            "{printed}"
        );
        assert!(printed.contains("redis://***@host:1/"), "{printed}");
        let problems = read(&[("SLOTCAST_JWT_SECRET", "hidden")]).err().unwrap();
        assert!(!format!("{problems:?}").contains("hidden"));
    }

    fn read(changes: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
        Config::from_lookup(|name| {
            let base = [
                ("SLOTCAST_JWT_SECRET", SECRET),
                ("SLOTCAST_REDIS_URLS", "redis://127.0.0.1:1"),
            ];
            let mut all = changes.iter().chain(&base);
            all.find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }
}
