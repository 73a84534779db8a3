//! The log: one line to standard output for each thing worth knowing. Never tokens, passwords,
//! message texts or e-mail addresses.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt, prelude::*, registry};

use crate::config::LogFormat;

/// Starts the log.
///
/// # Errors
/// A filter that is none.
pub fn start(filter: &str, format: LogFormat) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(filter)?;
    let lines = fmt::layer()
        .with_target(false)
        .with_ansi(io::stdout().is_terminal());
    // A second start, as tests do it, leaves the first one in force.
    let _ = match format {
        LogFormat::Text => registry().with(filter).with(lines).try_init(),
        LogFormat::Json => registry().with(filter).with(lines.json()).try_init(),
    };
    Ok(())
}
