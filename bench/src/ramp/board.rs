//! What the users of a ramp share: where the ramp stands, their rooms, and what they count.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::Result;
use tokio::sync::OnceCell;

use crate::{rest::Rest, stats::Latencies};

/// What users do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Talking,
    /// Nobody sends any more; what is on its way arrives.
    Listening,
    Over,
}

/// Shared by all users.
pub(super) struct Board {
    phase: AtomicU8,
    pub(super) counts: Counts,
    /// Of the stage.
    moments: Mutex<Moments>,
    /// Why users failed, and how many did.
    failures: Mutex<BTreeMap<String, u64>>,
}

/// Since the ramp began.
#[derive(Default)]
pub(super) struct Counts {
    /// Users who have begun to come in.
    pub(super) begun: AtomicU64,
    /// Users who are in their rooms.
    pub(super) present: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) sent: AtomicU64,
    /// Messages that their senders saw again.
    pub(super) confirmed: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) marks_sent: AtomicU64,
    /// `messagesRead` events received.
    pub(super) marks_received: AtomicU64,
}

/// Latencies of a stage.
#[derive(Default)]
pub(super) struct Moments {
    /// From when a message was due until a member had it.
    pub(super) delivery: Latencies,
    /// From when a message was due until it was sent.
    pub(super) lag: Latencies,
    /// From the first REST call until the user was in the room.
    pub(super) entry: Latencies,
}

/// A room, made by the first of its users.
#[derive(Default)]
pub(super) struct Room {
    id: OnceCell<String>,
    /// The highest number of its log that any member has seen.
    pub(super) highest: AtomicU32,
}

impl Room {
    /// Its id; whoever asks first looks at the list of rooms and creates it.
    pub(super) async fn id(&self, rest: &mut Rest) -> Result<String> {
        let create = async || {
            rest.list_rooms().await?;
            rest.create_room("ramp").await
        };
        self.id.get_or_try_init(create).await.cloned()
    }
}

impl Board {
    pub(super) fn new() -> Self {
        Self {
            phase: AtomicU8::new(0),
            counts: Counts::default(),
            moments: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Talking,
            1 => Phase::Listening,
            _ => Phase::Over,
        }
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    pub(super) fn note(&self, note: impl FnOnce(&mut Moments)) {
        note(&mut self.moments.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What was noted since the last call.
    pub(super) fn take_moments(&self) -> Moments {
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut moments)
    }

    /// A user has failed.
    pub(super) fn fail(&self, reason: String) {
        self.counts.failed.fetch_add(1, Relaxed);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures.entry(reason).or_default() += 1;
    }

    pub(super) fn failures(&self) -> BTreeMap<String, u64> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.clone()
    }
}
