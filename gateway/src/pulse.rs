//! Whether this process stood still: paused with its machine, stopped, starved. News that came meanwhile
//! waits unread beside what clients sent, in no order, so sessions must be looked up before they write.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::warn;

use crate::app::App;

const BEAT: Duration = Duration::from_millis(100);

/// Without a beat for this long the process counts as having stood still.
const STALL: Duration = Duration::from_millis(600);

pub(crate) struct Pulse {
    origin: Instant,
    /// Milliseconds from the origin to the last beat.
    last_ms: AtomicU64,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        Self {
            origin: Instant::now(),
            last_ms: AtomicU64::new(0),
        }
    }

    /// How long the process has stood still, if it did and no beat has seen to it.
    pub(crate) fn stall(&self) -> Option<Duration> {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Acquire));
        let silent = self.origin.elapsed().saturating_sub(last);
        (silent > STALL).then_some(silent)
    }

    fn beat(&self) {
        let now_ms = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now_ms, Ordering::Release);
    }

    /// Beats for ever. After a stall every session is doubted before the next beat.
    pub(crate) async fn run(&self, app: &Arc<App>) {
        let mut ticks = interval(BEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Some(stall) = self.stall() {
                warn!(stall_ms = stall.as_millis(), "stood still");
                app.sockets.connections.for_each(|connection| {
                    if let Some(session) = connection.session().get() {
                        session.doubt();
                    }
                });
            }
            self.beat();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_between_two_beats_is_a_stall() {
        let pulse = Pulse::new();
        pulse.beat();
        advance(STALL).await;
        assert_eq!(pulse.stall(), None);
        advance(BEAT).await;
        assert_eq!(pulse.stall(), Some(STALL + BEAT));
        pulse.beat();
        assert_eq!(pulse.stall(), None);
    }
}
