//! What one user saw of its room's log, against what there was.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::board::Room;
use crate::crowd::{Place, Sequence};

/// The numbers of a room's log that a user saw. The first is that of its own entry.
pub(super) struct Account {
    room: Arc<Room>,
    numbers: Sequence,
    pub(super) sent: u32,
    received: u64,
}

impl Account {
    pub(super) fn new(room: Arc<Room>) -> Self {
        Self {
            room,
            numbers: Sequence::default(),
            sent: 0,
            received: 0,
        }
    }

    pub(super) fn take(&mut self, number: u32) -> Place {
        self.room.highest.fetch_max(number, Relaxed);
        self.received += 1;
        self.numbers.take(number)
    }

    /// Numbers below the highest that never came.
    pub(super) fn missing(&self) -> u64 {
        self.numbers.missing()
    }

    /// Messages of the room that it should have seen, and those that it did not: below its highest
    /// number, and between that and the highest that anybody saw.
    pub(super) fn due_and_lost(&self) -> (u64, u64) {
        let highest = self.room.highest.load(Relaxed);
        let behind = highest.saturating_sub(self.numbers.last().unwrap_or_default());
        let lost = self.missing() + u64::from(behind);
        (self.received + lost, lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_saw_and_a_user_did_not_is_lost() {
        let room = Arc::new(Room::default());
        let mut first = Account::new(Arc::clone(&room));
        let mut second = Account::new(room);
        for number in 1..=5 {
            first.take(number);
        }
        for number in [2, 4] {
            second.take(number);
        }
        assert_eq!(first.due_and_lost(), (5, 0));
        assert_eq!(second.due_and_lost(), (4, 2));
    }
}
