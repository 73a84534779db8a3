//! Looks, now and then, whether rooms stand where their logs do.
//!
//! Redis passes a message to a shard's replicas at most once: a bus link between two nodes that is down for
//! a moment loses it, and the subscription lives on. In a room that goes on talking the next message shows
//! the gap; in one that falls silent nothing does.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use futures_util::{StreamExt, stream};
use slotcast_proto::{id::RoomId, slot::Slot, wire::offset::Cursor};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::deliver;
use crate::app::App;

/// Rooms of one call, so that Redis answers others in between.
const ROOMS_PER_CALL: usize = 64;

/// Calls at one time.
const CALLS_MAX: usize = 8;

/// Looks for ever.
pub(crate) async fn run(app: Arc<App>) {
    let mut ticks = interval(app.config.tail_check);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut behind = HashMap::new();
    loop {
        ticks.tick().await;
        // What was only on its way at the last look has come since.
        for (room, cursor) in behind.drain() {
            if app.hub.is_behind(room, cursor) {
                catch_up(&app, room);
            }
        }
        behind = look(&app).await;
    }
}

fn catch_up(app: &Arc<App>, room: RoomId) {
    warn!(%room, "the bus has lost something of a room");
    app.metrics.bus_silent_losses.inc();
    if app.hub.doubt(room) {
        tokio::spawn(deliver(Arc::clone(app), room));
    }
}

/// The rooms that are behind their logs, and where those are.
async fn look(app: &Arc<App>) -> HashMap<RoomId, Cursor> {
    let mut rooms_by_slot: BTreeMap<Slot, Vec<RoomId>> = BTreeMap::new();
    for room in app.hub.begun_rooms() {
        rooms_by_slot.entry(room.slot()).or_default().push(room);
    }
    let mut calls = Vec::new();
    for rooms in rooms_by_slot.values() {
        calls.extend(rooms.chunks(ROOMS_PER_CALL).map(<[RoomId]>::to_vec));
    }
    let looks = stream::iter(calls).map(|rooms| look_at(Arc::clone(app), rooms));
    let found: Vec<_> = looks.buffer_unordered(CALLS_MAX).collect().await;
    found
        .into_iter()
        .flatten()
        .filter(|(room, cursor)| app.hub.is_behind(*room, *cursor))
        .collect()
}

/// Where the logs of some rooms of one slot stand.
async fn look_at(app: Arc<App>, rooms: Vec<RoomId>) -> Vec<(RoomId, Cursor)> {
    match app.store.tails(&rooms).await {
        Ok(tails) => rooms.into_iter().zip(tails).collect(),
        Err(error) => {
            debug!(%error, "cannot look where rooms stand");
            Vec::new()
        }
    }
}
