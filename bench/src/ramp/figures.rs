//! What a whole ramp came to.

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed};

use anyhow::{Result, bail};
use serde::Serialize;

use super::{board::Board, say, stage::Stage};

/// A client that sends so late shows its own delays.
const LAG_US_MAX: u64 = 50_000;

#[derive(Serialize)]
pub(super) struct Figures {
    pub(super) points: Vec<Stage>,
    pub(super) begun: u64,
    /// Most users in their rooms at one time.
    pub(super) users: f64,
    /// Users when the first one failed; all if none did.
    pub(super) users_without_failure: f64,
    pub(super) failed: u64,
    pub(super) failures: BTreeMap<String, u64>,
    pub(super) sent: u64,
    pub(super) confirmed: u64,
    /// Messages at members, system messages among them.
    pub(super) due: u64,
    pub(super) lost: u64,
    pub(super) delivered: u64,
    pub(super) marks: u64,
    pub(super) marks_received: u64,
    pub(super) is_client_bottleneck: bool,
}

impl Figures {
    /// Of a ramp that has ended, with what its users count.
    pub(super) fn new(board: &Board, points: Vec<Stage>, due: u64, lost: u64) -> Self {
        let counts = &board.counts;
        let users = |stages: &[Stage]| {
            stages
                .iter()
                .map(|stage| stage.point.users)
                .fold(0.0, f64::max)
        };
        let faultless = points
            .iter()
            .take_while(|stage| stage.point.failed == 0.0)
            .count();
        let is_late = |stage: &Stage| stage.lag_us.is_some_and(|lag| lag.p99 > LAG_US_MAX);
        Self {
            begun: counts.begun.load(Relaxed),
            users: users(&points),
            users_without_failure: users(points.get(..faultless).unwrap_or_default()),
            failed: counts.failed.load(Relaxed),
            failures: board.failures(),
            sent: counts.sent.load(Relaxed),
            confirmed: counts.confirmed.load(Relaxed),
            due,
            lost,
            delivered: counts.delivered.load(Relaxed),
            marks: counts.marks_sent.load(Relaxed),
            marks_received: counts.marks_received.load(Relaxed),
            is_client_bottleneck: points.iter().any(is_late),
            points,
        }
    }

    /// Fails if anything was lost that no failed user accounts for.
    pub(super) fn verdict(&self) -> Result<()> {
        say(&format!(
            "{} users, {} failed; {} messages sent, {} confirmed; {} deliveries due, {} lost",
            self.users, self.failed, self.sent, self.confirmed, self.due, self.lost
        ));
        for (reason, count) in &self.failures {
            say(&format!("{count} x {reason}"));
        }
        if self.is_client_bottleneck {
            say("warning: the client itself sent late; its delays are in these figures");
        }
        if self.lost > 0 || (self.failed == 0 && self.sent != self.confirmed) {
            bail!("messages were lost");
        }
        Ok(())
    }
}
