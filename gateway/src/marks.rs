//! Read marks, gathered: clients mark every message one by one, and every mark is told to the whole
//! room. Marks of one room are stored and published together, once a gathering window.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{StreamExt, stream};
use slotcast_proto::id::{MessageId, RoomId, UserId};
use tokio::{sync::Notify, time::sleep};
use tracing::warn;

use crate::app::App;

/// Marks gathered in one window on this gateway; beyond that they are dropped, and the client marks
/// again when it next shows the message.
const MARKS_MAX: usize = 200_000;

/// Marks in one call to Redis, so that it answers others in between.
const MARKS_PER_CALL: usize = 2_000;

/// Calls to Redis at one time.
const CALLS_MAX: usize = 32;

#[derive(Default)]
pub(crate) struct Marks {
    gathered: Mutex<Gathered>,
    begun: Notify,
}

#[derive(Default)]
struct Gathered {
    rooms: HashMap<RoomId, HashMap<UserId, Vec<MessageId>>>,
    count: usize,
}

impl Marks {
    /// Takes marks in; true if all of them found room.
    pub(crate) fn add(&self, room: RoomId, user: UserId, messages: Vec<MessageId>) -> bool {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        if gathered.count + messages.len() > MARKS_MAX {
            return false;
        }
        if gathered.count == 0 {
            self.begun.notify_one();
        }
        gathered.count += messages.len();
        gathered
            .rooms
            .entry(room)
            .or_default()
            .entry(user)
            .or_default()
            .extend(messages);
        true
    }

    /// Stores and publishes what was gathered, a window after the first mark. Runs for ever.
    pub(crate) async fn run(&self, app: &Arc<App>) {
        loop {
            self.begun.notified().await;
            sleep(app.config.gather_window).await;
            let gathered = {
                let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *gathered)
            };
            // By itself: a shard that does not answer must not delay the marks of others.
            let app = Arc::clone(app);
            tokio::spawn(async move { gathered.store(&app).await });
        }
    }
}

impl Gathered {
    async fn store(self, app: &App) {
        let calls = self.rooms.into_iter().flat_map(|(room, readers)| {
            batches(readers).into_iter().map(move |marks| (room, marks))
        });
        stream::iter(calls)
            .for_each_concurrent(CALLS_MAX, |(room, marks)| async move {
                if let Err(error) = app.store.mark_read(room, &marks).await {
                    warn!(%room, %error, "lost read marks");
                }
            })
            .await;
    }
}

/// Cuts the marks of one room into calls of at most [`MARKS_PER_CALL`].
fn batches(readers: HashMap<UserId, Vec<MessageId>>) -> Vec<Vec<(UserId, Vec<MessageId>)>> {
    let mut batches = vec![Vec::new()];
    let mut count = 0;
    for (user, messages) in readers {
        for part in messages.chunks(MARKS_PER_CALL) {
            if count + part.len() > MARKS_PER_CALL {
                batches.push(Vec::new());
                count = 0;
            }
            count += part.len();
            if let Some(batch) = batches.last_mut() {
                batch.push((user, part.to_vec()));
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use slotcast_proto::{id::StreamPosition, slot::Slot};

    use super::*;

    #[test]
    fn calls_are_bounded_and_lose_no_mark() {
        let readers =
            [(1, 1500), (2, 1), (3, 5000)].map(|(user, count)| (user_id(user), ids(count)));
        let batches = batches(readers.into_iter().collect());
        let sizes = batches
            .iter()
            .map(|batch| batch.iter().map(|(_, ids)| ids.len()).sum());
        let sizes: Vec<usize> = sizes.collect();
        assert!(
            sizes.iter().all(|size| *size <= MARKS_PER_CALL),
            "{sizes:?}"
        );
        assert_eq!(sizes.iter().sum::<usize>(), 6501);
    }

    #[test]
    fn marks_beyond_the_bound_are_refused() {
        let marks = Marks::default();
        let room = RoomId::new(Slot::new(1).unwrap(), 2);
        assert!(marks.add(room, user_id(1), ids(MARKS_MAX)));
        assert!(!marks.add(room, user_id(1), ids(1)));
    }

    fn user_id(number: u128) -> UserId {
        UserId::new(Slot::new(1).unwrap(), number)
    }

    fn ids(count: usize) -> Vec<MessageId> {
        let room = RoomId::new(Slot::new(1).unwrap(), 2);
        (1..=count as u64)
            .map(|number| MessageId::new(room, StreamPosition { epoch: 1, number }).unwrap())
            .collect()
    }
}
