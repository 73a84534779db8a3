//! Read marks, gathered: clients mark every message one by one, and every mark is told to the whole
//! room. Marks of one room are stored and published together, once a gathering window. Rooms take turns
//! within it: all at once they would keep messages waiting.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use slotcast_proto::id::{MessageId, RoomId, UserId};
use tokio::{sync::Notify, time::sleep};
use tracing::warn;

use crate::{
    app::App,
    cluster::{Address, StoreError},
};

/// Marks on this gateway that Redis has not taken yet; beyond that they are dropped, and the client
/// marks again when it next shows the message.
const MARKS_MAX: usize = 200_000;

/// Turns in a gathering window. The rooms of one turn are stored together, so that Redis need not wake up
/// for each of them.
const TURNS: u32 = 16;

/// Marks in one call to Redis, so that it answers others in between.
const MARKS_PER_CALL: usize = 2_000;

/// Calls to one master at one time.
const CALLS_MAX: usize = 32;

/// Pause before marks that Redis did not take are gathered again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Marks of one room, by reader.
type Batch = Vec<(UserId, Vec<MessageId>)>;

#[derive(Default)]
pub(crate) struct Marks {
    gathered: Mutex<Gathered>,
    begun: Notify,
}

#[derive(Default)]
struct Gathered {
    /// Rooms by their turn.
    turns: [Rooms; TURNS as usize],
    /// Marks in `turns` and on their way to Redis.
    count: usize,
}

type Rooms = HashMap<RoomId, HashMap<UserId, Vec<MessageId>>>;

impl Marks {
    /// Takes marks in; true if all of them found room.
    pub(crate) fn add(&self, room: RoomId, user: UserId, messages: Vec<MessageId>) -> bool {
        let mut gathered = self.lock();
        if gathered.count + messages.len() > MARKS_MAX {
            return false;
        }
        gathered.count += messages.len();
        self.gather(&mut gathered, room, vec![(user, messages)]);
        true
    }

    /// Takes marks in again that Redis did not take.
    fn put_back(&self, room: RoomId, marks: Batch) {
        self.gather(&mut self.lock(), room, marks);
    }

    fn gather(&self, gathered: &mut Gathered, room: RoomId, marks: Batch) {
        if gathered.is_empty() {
            self.begun.notify_one();
        }
        let Some(rooms) = gathered.turns.get_mut(turn_of(room)) else {
            return;
        };
        let readers = rooms.entry(room).or_default();
        for (user, messages) in marks {
            readers.entry(user).or_default().extend(messages);
        }
    }

    /// The rooms of a turn.
    fn take(&self, turn: usize) -> Rooms {
        let mut gathered = self.lock();
        let rooms = gathered.turns.get_mut(turn);
        rooms.map(std::mem::take).unwrap_or_default()
    }

    /// Makes room for others: these marks are stored, or given up.
    fn settle(&self, marks: &Batch) {
        let count: usize = marks.iter().map(|(_, messages)| messages.len()).sum();
        self.lock().count -= count;
    }

    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores and publishes what was gathered, within a window of the first mark. Runs for ever.
    pub(crate) async fn run(&self, app: &Arc<App>) {
        loop {
            self.begun.notified().await;
            while !self.lock().is_empty() {
                for turn in 0..TURNS as usize {
                    sleep(app.config.gather_window / TURNS).await;
                    send(app, self.take(turn));
                }
            }
        }
    }
}

impl Gathered {
    fn is_empty(&self) -> bool {
        self.turns.iter().all(HashMap::is_empty)
    }
}

fn turn_of(room: RoomId) -> usize {
    let mut hasher = DefaultHasher::new();
    room.hash(&mut hasher);
    usize::try_from(hasher.finish() % u64::from(TURNS)).unwrap_or_default()
}

/// Each master's by itself: one that does not answer must not delay the marks of others.
fn send(app: &Arc<App>, rooms: Rooms) {
    for calls in calls(app, rooms).into_values() {
        let app = Arc::clone(app);
        tokio::spawn(async move { store(&app, calls).await });
    }
}

/// Cuts what was gathered into calls, by the master that they go to.
fn calls(app: &App, rooms: Rooms) -> HashMap<Option<Address>, Vec<(RoomId, Batch)>> {
    let mut calls: HashMap<_, Vec<_>> = HashMap::new();
    for (room, readers) in rooms {
        let batches = batches(readers).into_iter().map(|marks| (room, marks));
        calls.entry(app.master(room)).or_default().extend(batches);
    }
    calls
}

async fn store(app: &App, calls: Vec<(RoomId, Batch)>) {
    stream::iter(calls)
        .for_each_concurrent(CALLS_MAX, |(room, marks)| async move {
            let outcome = app.store.mark_read(room, &marks).await;
            settle(app, room, marks, outcome).await;
        })
        .await;
}

/// Keeps marks that Redis did not take, if it may take them later.
async fn settle(app: &App, room: RoomId, marks: Batch, outcome: Result<(), StoreError>) {
    match outcome {
        Err(error) if error.may_pass() => {
            warn!(%room, %error, "cannot store read marks; will try again");
            sleep(RETRY_PAUSE).await;
            return app.marks.put_back(room, marks);
        }
        Err(error) => {
            warn!(%room, %error, "lost read marks");
            app.metrics.marks_dropped.inc();
        }
        Ok(()) => {}
    }
    app.marks.settle(&marks);
}

/// Cuts the marks of one room into calls of at most [`MARKS_PER_CALL`].
fn batches(readers: HashMap<UserId, Vec<MessageId>>) -> Vec<Batch> {
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

    #[test]
    fn marks_that_redis_did_not_take_count_until_it_does() {
        let marks = Marks::default();
        let room = RoomId::new(Slot::new(1).unwrap(), 2);
        assert!(marks.add(room, user_id(1), ids(MARKS_MAX)));
        let turn = turn_of(room);
        let mut taken = marks.take(turn);
        let batch: Batch = taken.remove(&room).unwrap().into_iter().collect();
        assert!(
            !marks.add(room, user_id(2), ids(1)),
            "they are on their way"
        );
        marks.put_back(room, batch);
        let again: Batch = marks
            .take(turn)
            .remove(&room)
            .unwrap()
            .into_iter()
            .collect();
        assert_eq!(again, [(user_id(1), ids(MARKS_MAX))]);
        marks.settle(&again);
        assert!(marks.add(room, user_id(2), ids(1)));
    }

    #[test]
    fn rooms_take_turns_and_each_has_one() {
        const ROOMS: u32 = 1600;
        let marks = Marks::default();
        let slot = Slot::new(1).unwrap();
        let rooms = (0..ROOMS).map(|number| RoomId::new(slot, number));
        assert!(
            rooms
                .into_iter()
                .all(|room| marks.add(room, user_id(1), ids(1)))
        );
        let sizes: Vec<_> = (0..TURNS as usize)
            .map(|turn| marks.take(turn).len())
            .collect();
        assert_eq!(sizes.iter().sum::<usize>(), ROOMS as usize);
        assert!(
            sizes.iter().all(|size| (50..200).contains(size)),
            "{sizes:?}"
        );
        assert!(marks.lock().is_empty());
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
