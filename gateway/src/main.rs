//! The gateway of Slotcast: holds sockets, and fans messages out to them.

use std::{io, process::ExitCode, sync::Arc};

use crate::{app::App, config::Config, drain::Signals, server::Handshakes};

mod admin;
mod admission;
mod app;
mod bus;
mod chat;
mod close;
mod cluster;
mod config;
mod connection;
mod connections;
mod drain;
mod feed;
mod handler;
mod handshake;
mod hub;
mod lease;
mod marks;
mod metrics;
mod outbox;
mod pulse;
mod server;
mod session;
mod sockets;
mod store;
mod telemetry;
mod websocket;
mod words;

#[cfg(not(feature = "heap-profile"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(feature = "heap-profile")]
#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// The settings are wrong (`EX_USAGE` of sysexits.h).
const EXIT_CONFIG: u8 = 64;

/// The gateway could not start, or did not end in order.
const EXIT_FAILURE: u8 = 1;

#[expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "nothing can be logged before the settings are read"
)]
fn main() -> ExitCode {
    if std::env::args()
        .nth(1)
        .is_some_and(|argument| argument == "--help")
    {
        println!("Settings are environment variables.\n\n{}", config::table());
        return ExitCode::SUCCESS;
    }
    let mut config = match Config::from_env() {
        Ok(config) => config,
        Err(mistakes) => {
            eprintln!("the settings are wrong:\n{mistakes}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if let Err(mistake) = telemetry::start(&config) {
        eprintln!("the settings are wrong:\n{mistake}");
        return ExitCode::from(EXIT_CONFIG);
    }
    refuse_huge_pages();
    fit_to_descriptors(&mut config);
    tracing::info!(?config, "starting");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.workers)
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(live(config)),
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the gateway ends");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

/// Memory here is a great many small things. The allocator asks for huge pages, and each that is touched
/// anywhere counts whole: ten megabytes for an empty gateway, half a kibibyte a connection.
fn refuse_huge_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "cannot do without huge pages; connections will take more memory");
    }
}

/// Promises no more connections than the process may have descriptors.
fn fit_to_descriptors(config: &mut Config) {
    let allowed = server::connections_allowed();
    if config.max_connections > allowed {
        tracing::warn!(
            allowed,
            wanted = config.max_connections,
            "the limit of open files allows fewer connections than SLOTCAST_MAX_CONNECTIONS; raise it \
             (LimitNOFILE, ulimit -Hn)"
        );
        config.max_connections = allowed;
    }
}

/// Binds, serves until a signal, drains.
async fn live(config: Config) -> io::Result<()> {
    #[cfg(feature = "heap-profile")]
    let profiler = dhat::Profiler::new_heap();
    let mut signals = Signals::listen()?;
    let app = Arc::new(App::new(config).map_err(io::Error::other)?);
    let admin = tokio::net::TcpListener::bind(app.config.admin_listen).await?;
    let listener = server::bind(app.config.listen, app.config.socket_send_buffer_bytes)?;
    app.start().await.map_err(io::Error::other)?;
    app.sockets.readiness.set_bound();
    tokio::spawn(admin::serve(Arc::clone(&app), admin));
    tracing::info!(listen = %app.config.listen, admin = %app.config.admin_listen, "ready");

    let handshakes = Handshakes::new();
    let signal = tokio::select! {
        () = server::accept(&app, &listener, &handshakes) => "the end of accepting",
        signal = signals.next() => signal,
    };
    // Writes `dhat-heap.json`: what the heap holds at this moment.
    #[cfg(feature = "heap-profile")]
    drop(profiler);
    tracing::info!(signal, "ending");
    app.sockets.readiness.set_draining();
    drop(listener);
    tokio::select! {
        is_complete = drain::drain(&app, &handshakes) => match is_complete {
            true => Ok(()),
            false => Err(io::Error::other("connections were left at the deadline")),
        },
        () = signals.interrupted() => Err(io::Error::other("interrupted while draining")),
    }
}
