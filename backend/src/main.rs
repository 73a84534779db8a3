//! Slotcast backend: the life of the process.
//!
//! Exit codes: 0 after a drain, 1 when it could not start, 64 for a bad configuration.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use slotcast_backend::{
    admin,
    app::App,
    config::Config,
    router,
    server::{self, Limits},
    telemetry,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// sysexits.h, `EX_USAGE`.
const EXIT_BAD_CONFIGURATION: u8 = 64;

/// Admin connections at once: a scraper, a balancer, a person.
const ADMIN_CONNECTIONS_MAX: usize = 64;

fn main() -> ExitCode {
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                complain(&format!("configuration: {problem}"));
            }
            return ExitCode::from(EXIT_BAD_CONFIGURATION);
        }
    };
    if let Err(error) = telemetry::start(&config.log, config.log_format) {
        complain(&format!(
            "configuration: SLOTCAST_LOG is no filter: {error}"
        ));
        return ExitCode::from(EXIT_BAD_CONFIGURATION);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime.and_then(|runtime| runtime.block_on(run(config))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "could not start");
            ExitCode::FAILURE
        }
    }
}

/// Binds, serves until a signal, drains.
async fn run(config: Config) -> io::Result<()> {
    for (name, value) in config.printed() {
        tracing::info!("{name}={value}");
    }
    let listener = server::bind(config.listen)?;
    let admin_listener = server::bind(config.admin_listen)?;
    let (address, admin_address) = (listener.local_addr()?, admin_listener.local_addr()?);
    let (drain, keep_alive) = (config.drain, config.keep_alive);
    let limits = |connections| Limits {
        connections,
        keep_alive,
    };
    let (client_limits, admin_limits) = (
        limits(config.max_connections),
        limits(ADMIN_CONNECTIONS_MAX),
    );
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let app = App::new(config)?;
    let (stop, stopped) = watch::channel(false);
    let (stop_admin, admin_stopped) = watch::channel(false);
    let watcher = Arc::clone(&app);
    let watcher = tokio::spawn(async move { watcher.watch().await });
    let clients = tokio::spawn(server::serve(
        listener,
        router::router(Arc::clone(&app)),
        client_limits,
        app.metrics(),
        stopped,
    ));
    let operators = tokio::spawn(server::serve(
        admin_listener,
        admin::router(Arc::clone(&app)),
        admin_limits,
        app.metrics(),
        admin_stopped,
    ));

    let signalled = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::pin!(signalled);
    tokio::select! {
        () = app.ready() => {
            tracing::info!(%address, %admin_address, "ready");
            signalled.await;
        }
        () = signalled.as_mut() => {}
    }
    tracing::info!(drain_seconds = drain.as_secs(), "draining");
    app.begin_drain();
    stop.send_replace(true);
    let finished = async {
        // A panic of the accept loop has been reported by the runtime.
        let _ = clients.await;
        app.finish_requests().await;
    };
    if timeout(drain, finished).await.is_err() {
        tracing::warn!("the deadline of the drain cut requests short");
    }
    watcher.abort();
    stop_admin.send_replace(true);
    let _ = timeout(Duration::from_secs(1), operators).await;
    tracing::info!("stopped");
    Ok(())
}

/// Says something before there is a log.
fn complain(sentence: &str) {
    // Nowhere is left to say that this failed.
    let _ = writeln!(io::stderr(), "{sentence}");
}
