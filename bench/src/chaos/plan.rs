//! What every client does, drawn from the seed.

use fastrand::Rng;

use super::Options;

/// The part of one client.
#[derive(Clone, Debug)]
pub(crate) struct ClientPlan {
    /// Rooms that it is in, by their numbers in the run.
    pub(crate) rooms: Vec<usize>,
    /// Sends that it keeps without an answer; 0 for who only listens.
    pub(crate) window: usize,
    pub(crate) reacts: bool,
    pub(crate) marks: bool,
    /// Reads 1 KiB a second.
    pub(crate) slow: bool,
    /// Of everything else that it draws.
    pub(crate) seed: u64,
}

/// A client is in one to this many rooms.
const ROOMS_MAX: usize = 3;

/// One client in so many reacts; another one marks what it has read.
const REACTS_EVERY: usize = 10;

/// Every client's part. The slow ones come last and only listen.
pub(crate) fn clients(options: &Options, rng: &mut Rng) -> Vec<ClientPlan> {
    let slow = options.clients * usize::from(options.slow_readers.0) / 100;
    let brisk = options.clients - slow;
    // A connection's sends are taken one at a time, so they are spread over many.
    let senders = options.in_flight.min(brisk.div_ceil(2)).max(1);
    let window = options.in_flight.div_ceil(senders);
    let plan = |number: usize| ClientPlan {
        rooms: rooms(options.rooms, number, rng),
        window: if number < senders { window } else { 0 },
        reacts: number < brisk && number.is_multiple_of(REACTS_EVERY),
        marks: number < brisk && number % REACTS_EVERY == 1,
        slow: number >= brisk,
        seed: rng.u64(..),
    };
    (0..options.clients).map(plan).collect()
}

/// Every room gets a client in turn; further rooms are drawn.
fn rooms(count: usize, number: usize, rng: &mut Rng) -> Vec<usize> {
    let mut rooms = vec![number % count];
    for _ in 1..rng.usize(1..=ROOMS_MAX.min(count)) {
        let room = rng.usize(..count);
        if !rooms.contains(&room) {
            rooms.push(room);
        }
    }
    rooms
}
