//! Waiting for conditions.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

const INTERVAL: Duration = Duration::from_millis(50);

/// Waits until `holds` answers true.
///
/// # Errors
/// That `what` did not come about in time.
pub(crate) async fn until(
    what: &str,
    within: Duration,
    mut holds: impl AsyncFnMut() -> bool,
) -> Result<()> {
    let deadline = Instant::now() + within;
    while !holds().await {
        if Instant::now() >= deadline {
            bail!("waited {} s in vain for {what}", within.as_secs());
        }
        sleep(INTERVAL).await;
    }
    Ok(())
}
