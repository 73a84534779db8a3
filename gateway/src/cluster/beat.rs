//! Tells every node that it is running, a few times a second, and notes who does not answer.
//!
//! A master that hung and was replaced takes, when it goes on, what waits in its sockets, and sends what it
//! had not sent yet: it tells rooms of messages that no log will have. Against the former, the function
//! library refuses calls for a moment on a node that ran none for a second (`library.lua`); so that only a
//! hung node has run none, gateways call `beat`. Against the latter, what comes from the slots of a node that
//! did not answer is looked up in the log before it goes out ([`Cluster::is_suspect`]).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, cmd};
use slotcast_proto::{schema::library::Function, slot::Slot};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::debug;

use super::{Address, Cluster, Topology};

/// A quarter of what the library takes for standing still.
const BEAT: Duration = Duration::from_millis(250);

/// Beats that are due so late tell that the gateway stood still.
const LATE: Duration = Duration::from_millis(500);

/// A node that answers no beat for this long stands still; no cluster replaces a master sooner.
const STILL: Duration = Duration::from_secs(1);

/// How long a node that answers again stays suspect: what it sends first may take another way, by a replica.
const LINGER: Duration = Duration::from_secs(1);

/// How long a node that left the slot map stays suspect: its successor's logs are read meanwhile.
const GONE: Duration = Duration::from_secs(5);

/// Who does not answer, or did not until a moment ago.
#[derive(Default)]
pub(super) struct Beats {
    state: Mutex<State>,
    /// Whether there may be a suspect: every message asks.
    any_suspect: AtomicBool,
}

#[derive(Default)]
struct State {
    unanswered: HashMap<Address, Unanswered>,
    /// When beats were last due: a gateway that is late itself cannot tell who is.
    swept: Option<Instant>,
}

struct Unanswered {
    since: Instant,
    /// The slot map of that moment: what the node may publish yet.
    topology: Arc<Topology>,
    /// A hung node gets one beat, not a queue of them.
    is_awaited: bool,
    /// When the node is no suspect any more.
    ends: Option<Instant>,
}

impl Beats {
    /// Notes that a beat is due; false if one is awaited already.
    fn ask(&self, node: &Address, topology: &Arc<Topology>, now: Instant) -> bool {
        let mut state = self.lock();
        let entry = state
            .unanswered
            .entry(node.clone())
            .or_insert_with(|| Unanswered {
                since: now,
                topology: Arc::clone(topology),
                is_awaited: false,
                ends: None,
            });
        !std::mem::replace(&mut entry.is_awaited, true)
    }

    /// Notes that the awaited beat was answered, or will never be.
    fn settle(&self, node: &Address, is_answered: bool, now: Instant) {
        let mut state = self.lock();
        let swept = state.swept;
        let Some(entry) = state.unanswered.get_mut(node) else {
            return;
        };
        entry.is_awaited = false;
        if !is_answered {
            return;
        }
        entry.forgive(swept, now);
        if now.duration_since(entry.since) < STILL {
            state.unanswered.remove(node);
        } else {
            entry.ends.get_or_insert(now + LINGER);
        }
    }

    /// Forgets those who are no suspects any more, and counts those who are.
    fn sweep(&self, topology: &Topology, now: Instant) -> usize {
        let mut state = self.lock();
        let swept = state.swept.replace(now);
        state.unanswered.retain(|node, entry| {
            entry.forgive(swept, now);
            if !topology.nodes().any(|other| other == node) {
                entry.ends.get_or_insert(now + GONE);
            }
            entry.ends.is_none_or(|ends| now < ends)
        });
        let unanswered = state.unanswered.values();
        let suspects = unanswered.filter(|entry| entry.is_suspect(now));
        let count = suspects.count();
        self.any_suspect.store(count > 0, Ordering::Relaxed);
        count
    }

    fn is_suspect(&self, slot: Slot, now: Instant) -> bool {
        self.any_suspect.load(Ordering::Relaxed)
            && self.lock().unanswered.iter().any(|(node, entry)| {
                let group = entry.topology.group(slot);
                entry.is_suspect(now) && group.is_some_and(|group| group.master == *node)
            })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unanswered {
    /// Counts anew if the gateway itself stood still since beats were last due: a node that was not
    /// suspect then may have answered meanwhile.
    fn forgive(&mut self, swept: Option<Instant>, now: Instant) {
        if let Some(swept) = swept
            && now.duration_since(swept) >= LATE
            && !self.is_suspect(swept)
        {
            self.since = now;
        }
    }

    fn is_suspect(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= STILL
    }
}

impl Cluster {
    /// Whether the slot's master stands still, or did a moment ago: what it publishes may be in no log.
    pub(crate) fn is_suspect(&self, slot: Slot) -> bool {
        self.beats.is_suspect(slot, Instant::now())
    }
}

/// Beats for ever.
pub(crate) async fn run(cluster: Arc<Cluster>) {
    let mut ticks = interval(BEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let topology = cluster.topology();
        let suspects = cluster.beats.sweep(&topology, Instant::now());
        let suspects = i64::try_from(suspects).unwrap_or(i64::MAX);
        cluster.metrics.suspect_nodes.set(suspects);
        for node in topology.nodes() {
            if cluster.beats.ask(node, &topology, Instant::now()) {
                tokio::spawn(beat(Arc::clone(&cluster), node.clone()));
            }
        }
    }
}

async fn beat(cluster: Arc<Cluster>, node: Address) {
    let answer = cluster.call_node(&node, &call()).await;
    let is_answered = match &answer {
        Ok(_) => true,
        Err(error) => {
            debug!(%node, %error, "a node does not answer a beat");
            error.code().is_some() // then the node said so
        }
    };
    cluster.beats.settle(&node, is_answered, Instant::now());
}

fn call() -> Cmd {
    cmd("FCALL_RO").arg(Function::Beat.name()).arg(0).to_owned()
}

#[cfg(test)]
mod tests {
    use slotcast_proto::slot::SLOT_COUNT;

    use super::*;

    #[test]
    fn node_that_answers_is_no_suspect() {
        let mut scene = Scene::new();
        for _ in 0..10 {
            scene.pass(BEAT);
            assert!(scene.ask());
            scene.pass(STILL / 2);
            scene.settle(true);
        }
        assert!(!scene.is_suspect(SLOT));
    }

    #[test]
    fn node_that_stands_still_is_suspect_until_a_moment_after_it_answers() {
        let mut scene = Scene::new();
        assert!(scene.ask());
        scene.pass(STILL / 2);
        assert!(!scene.ask(), "one beat is awaited");
        scene.settle(false);
        assert!(scene.ask(), "it will never be answered");
        scene.pass(STILL / 2);
        assert!(scene.is_suspect(SLOT));
        assert!(!scene.is_suspect(OTHER), "a slot of another master");
        scene.settle(true);
        scene.pass(LINGER / 2);
        assert!(scene.is_suspect(SLOT));
        assert!(scene.ask());
        scene.settle(true);
        scene.pass(LINGER / 2);
        assert!(!scene.is_suspect(SLOT));
    }

    #[test]
    fn gateway_that_stood_still_itself_suspects_nobody() {
        for is_answered_first in [true, false] {
            let mut scene = Scene::new();
            scene.pass(BEAT);
            assert!(scene.ask());
            scene.now += 2 * STILL;
            if is_answered_first {
                scene.settle(true);
            }
            scene.pass(BEAT);
            assert!(!scene.is_suspect(SLOT));
        }
    }

    #[test]
    fn master_that_was_replaced_is_suspect_for_the_slots_that_it_had() {
        let mut scene = Scene::new();
        assert!(scene.ask());
        scene.pass(STILL);
        scene.topology = Arc::new(Topology::of([(0, SLOT_COUNT - 1, vec![address("other")])]));
        assert!(scene.is_suspect(SLOT));
        scene.pass(GONE / 2);
        assert!(scene.is_suspect(SLOT));
        scene.pass(GONE / 2 + BEAT);
        assert!(!scene.is_suspect(SLOT));
    }

    const SLOT: u16 = 7;
    const OTHER: u16 = SLOT_COUNT - 1;

    struct Scene {
        beats: Beats,
        topology: Arc<Topology>,
        now: Instant,
    }

    impl Scene {
        fn new() -> Self {
            let low = (0, OTHER - 1, vec![address("node")]);
            let high = (OTHER, OTHER, vec![address("other")]);
            Self {
                beats: Beats::default(),
                topology: Arc::new(Topology::of([low, high])),
                now: Instant::now(),
            }
        }

        fn pass(&mut self, time: Duration) {
            let end = self.now + time;
            while self.now < end {
                self.now += BEAT;
                self.beats.sweep(&self.topology, self.now);
            }
        }

        fn ask(&self) -> bool {
            self.beats.ask(&address("node"), &self.topology, self.now)
        }

        fn settle(&self, is_answered: bool) {
            self.beats.settle(&address("node"), is_answered, self.now);
        }

        fn is_suspect(&self, slot: u16) -> bool {
            self.beats.is_suspect(Slot::new(slot).unwrap(), self.now)
        }
    }

    fn address(name: &str) -> Address {
        Address::new(name, 6379)
    }
}
