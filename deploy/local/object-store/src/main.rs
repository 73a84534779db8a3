//! An S3-compatible object store on files, for `./run` and tests; not for production.
//!
//! The S3 protocol and its signatures are the s3s crate's, the files the s3s-fs crate's. Added here is
//! what these lack: CORS, lifecycle rules, and objects that change in one step.

use std::{io, process::ExitCode, sync::Arc, time::SystemTime};

use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::{Duration, interval},
};

use crate::{
    access::Access,
    config::{Config, ConfigError},
    lifecycle::Lifecycle,
    store::Store,
};

mod access;
mod config;
mod cors;
mod layout;
mod lifecycle;
mod server;
mod store;

/// The settings are wrong (`EX_USAGE` of sysexits.h).
const EXIT_CONFIG: u8 = 64;

/// The object store could not start.
const EXIT_FAILURE: u8 = 1;

/// Between two looks at the lifecycle rules; Amazon S3 looks once a day.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

#[expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "nothing can be logged before the settings are read"
)]
fn main() -> ExitCode {
    let config = match Config::from_process() {
        Ok(config) => config,
        Err(ConfigError::Help(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(ConfigError::Mistakes(mistakes)) => {
            for mistake in mistakes {
                eprintln!("object-store: {mistake}");
            }
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter("warn,object_store=info")
        .with_ansi(false)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime.and_then(|runtime| runtime.block_on(live(config))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the object store ends");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

/// Opens the bucket, binds, serves until a signal.
async fn live(config: Config) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let store = Store::open(&config.data, &config.bucket)?;
    sweep(&store, &config.lifecycle).await;

    let mut builder = S3ServiceBuilder::new(store.clone());
    builder.set_auth(SimpleAuth::from_single(
        config.access_key_id,
        config.secret_access_key,
    ));
    builder.set_access(Access::to_bucket(config.bucket));
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on {}: {error}", config.listen),
        )
    })?;
    tracing::info!("listening on {}", listener.local_addr()?);

    let mut ticks = interval(SWEEP_INTERVAL);
    ticks.tick().await; // the first is at once
    let sweeps = async {
        loop {
            ticks.tick().await;
            sweep(&store, &config.lifecycle).await;
        }
    };
    let (service, cors) = (builder.build(), Arc::new(config.cors));
    tokio::select! {
        () = server::serve(&listener, &service, &cors) => {}
        () = sweeps => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Applies the lifecycle rules once.
async fn sweep(store: &Store, rules: &Arc<Lifecycle>) {
    let (store, rules) = (store.clone(), Arc::clone(rules));
    let swept = tokio::task::spawn_blocking(move || rules.apply(&store, SystemTime::now()));
    match swept.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the lifecycle rules could not be applied"),
        Err(error) => tracing::error!(%error, "the lifecycle rules failed"),
    }
}
