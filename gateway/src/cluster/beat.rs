//! Tells every node that it is running, a few times a second.
//!
//! A master that hung and was replaced takes, when it goes on, what waits in its sockets: it tells rooms of
//! messages that no log will have. The function library therefore refuses calls for a moment on a node that
//! ran none for a second (`library.lua`); so that only a hung node has run none, gateways call `beat`.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{Cmd, cmd};
use slotcast_proto::schema::library::Function;
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use super::{Address, Cluster};

/// A quarter of what the library takes for standing still.
const BEAT: Duration = Duration::from_millis(250);

/// Nodes whose answer is awaited: a hung node gets one beat, not a queue of them.
type Awaited = Arc<Mutex<HashSet<Address>>>;

/// Beats for ever.
pub(crate) async fn run(cluster: Arc<Cluster>) {
    let awaited = Awaited::default();
    let mut ticks = interval(BEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for node in cluster.topology().nodes() {
            let is_first = lock(&awaited).insert(node.clone());
            if is_first {
                tokio::spawn(beat(
                    Arc::clone(&cluster),
                    node.clone(),
                    Arc::clone(&awaited),
                ));
            }
        }
    }
}

async fn beat(cluster: Arc<Cluster>, node: Address, awaited: Awaited) {
    if let Err(error) = cluster.call_node(&node, &call()).await {
        debug!(%node, %error, "a node does not answer a beat");
    }
    lock(&awaited).remove(&node);
}

fn call() -> Cmd {
    cmd("FCALL_RO").arg(Function::Beat.name()).arg(0).to_owned()
}

fn lock(awaited: &Awaited) -> MutexGuard<'_, HashSet<Address>> {
    awaited.lock().unwrap_or_else(PoisonError::into_inner)
}
