//! Every setting, read once: flags, two environment variables and two rule files.

use std::{env, fs, net::SocketAddr, path::PathBuf, sync::Arc};

use clap::Parser;
use s3s::path::check_bucket_name;

use crate::{cors::Cors, lifecycle::Lifecycle};

const ACCESS_KEY_ID: &str = "SLOTCAST_S3_ACCESS_KEY_ID";
const SECRET_ACCESS_KEY: &str = "SLOTCAST_S3_SECRET_ACCESS_KEY";

/// An S3-compatible object store on files. Credentials of its one user are read from
/// `SLOTCAST_S3_ACCESS_KEY_ID` and `SLOTCAST_S3_SECRET_ACCESS_KEY`.
#[derive(Parser)]
#[command(name = "object-store", version)]
struct Options {
    /// Address to listen on, `host:port`.
    #[arg(long)]
    listen: SocketAddr,
    /// Folder of the objects; made if it is not there.
    #[arg(long)]
    data: PathBuf,
    /// Name of the one bucket; made if it is not there.
    #[arg(long)]
    bucket: String,
    /// CORS rules, as `aws s3api put-bucket-cors` takes them.
    #[arg(long)]
    cors: PathBuf,
    /// Lifecycle rules, as `aws s3api put-bucket-lifecycle-configuration` takes them.
    #[arg(long)]
    lifecycle: PathBuf,
}

/// The settings.
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) data: PathBuf,
    pub(crate) bucket: String,
    pub(crate) cors: Cors,
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
}

/// Why there are no settings.
pub(crate) enum ConfigError {
    /// They were not given: the caller asked how to give them.
    Help(String),
    /// What is wrong with them, a sentence each.
    Mistakes(Vec<String>),
}

impl Config {
    /// Reads the settings of this process.
    ///
    /// # Errors
    /// A request for help, or everything that is missing or malformed.
    pub(crate) fn from_process() -> Result<Self, ConfigError> {
        let options = Options::try_parse().map_err(|error| {
            if error.use_stderr() {
                ConfigError::Mistakes(vec![sentence(&error)])
            } else {
                ConfigError::Help(error.to_string())
            }
        })?;
        let mut mistakes = Vec::new();
        if !check_bucket_name(&options.bucket) {
            let bucket = &options.bucket;
            mistakes.push(format!("'{bucket}' cannot be the name of a bucket"));
        }
        let cors = noted(rules(&options.cors, Cors::parse), &mut mistakes);
        let lifecycle = noted(rules(&options.lifecycle, Lifecycle::parse), &mut mistakes);
        let access_key_id = noted(variable(ACCESS_KEY_ID), &mut mistakes);
        let secret_access_key = noted(variable(SECRET_ACCESS_KEY), &mut mistakes);
        let (Some(cors), Some(lifecycle), Some(access_key_id), Some(secret_access_key), true) = (
            cors,
            lifecycle,
            access_key_id,
            secret_access_key,
            mistakes.is_empty(),
        ) else {
            return Err(ConfigError::Mistakes(mistakes));
        };
        Ok(Self {
            listen: options.listen,
            data: options.data,
            bucket: options.bucket,
            cors,
            lifecycle: Arc::new(lifecycle),
            access_key_id,
            secret_access_key,
        })
    }
}

/// The first paragraph of clap's message, which is followed by the usage.
fn sentence(error: &clap::Error) -> String {
    let text = error.to_string();
    let paragraph = text.lines().take_while(|line| !line.is_empty());
    let paragraph: Vec<&str> = paragraph.map(str::trim).collect();
    paragraph.join(" ").trim_start_matches("error: ").to_owned()
}

fn variable(name: &str) -> Result<String, String> {
    #[expect(clippy::disallowed_methods, reason = "this is the place that reads it")]
    let value = env::var(name).ok().filter(|value| !value.is_empty());
    value.ok_or_else(|| format!("the environment variable {name} must be set"))
}

/// The rules in a file, of a kind that `parse` knows.
fn rules<T>(file: &PathBuf, parse: fn(&str) -> Result<T, String>) -> Result<T, String> {
    let text = fs::read_to_string(file)
        .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    parse(&text).map_err(|mistake| format!("{}: {mistake}", file.display()))
}

fn noted<T>(result: Result<T, String>, mistakes: &mut Vec<String>) -> Option<T> {
    result.map_err(|mistake| mistakes.push(mistake)).ok()
}
