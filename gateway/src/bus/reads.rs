//! Bounds what catching up asks of Redis at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::cluster::Address;

/// Rooms read at once from one master. The loss of a node puts thousands in doubt together, and the
/// one that took over has more to do than to answer them all at once.
pub(super) const READS_MAX: usize = 64;

/// Turns for reading rooms, apart for each master: one that does not answer keeps only its own rooms
/// waiting. First come, first served.
#[derive(Default)]
pub(crate) struct Reads {
    /// Masters that somebody reads from; a slot that nobody serves has none.
    turns: Mutex<HashMap<Option<Address>, Arc<Semaphore>>>,
}

impl Reads {
    /// Waits for a turn, which lasts until the answer is dropped.
    pub(crate) async fn turn(&self, master: Option<Address>) -> Option<OwnedSemaphorePermit> {
        let turns = self.turns_of(master);
        turns.acquire_owned().await.ok() // it is never closed
    }

    fn turns_of(&self, master: Option<Address>) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, users| Arc::strong_count(users) > 1);
        let turns = turns.entry(master);
        Arc::clone(turns.or_insert_with(|| Arc::new(Semaphore::new(READS_MAX))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::{FutureExt, future::join_all};
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn thousands_of_rooms_are_read_a_few_at_once() {
        let reads = Reads::default();
        let (reading, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let read = async || {
            let _turn = reads.turn(master(1)).await.unwrap();
            most.fetch_max(
                reading.fetch_add(1, Ordering::Relaxed) + 1,
                Ordering::Relaxed,
            );
            yield_now().await;
            reading.fetch_sub(1, Ordering::Relaxed);
        };
        join_all((0..10_000).map(|_| read())).await;
        assert_eq!(most.into_inner(), READS_MAX);
        assert_eq!(reading.into_inner(), 0);
    }

    #[tokio::test]
    async fn master_that_does_not_answer_keeps_only_its_own_rooms_waiting() {
        let reads = Reads::default();
        let mut taken = join_all((0..READS_MAX).map(|_| reads.turn(master(1)))).await;
        let mut waiting = reads.turn(master(1)).boxed();
        assert!((&mut waiting).now_or_never().is_none());
        assert!(reads.turn(master(2)).now_or_never().flatten().is_some());
        taken.pop();
        assert!(waiting.await.is_some());
    }

    #[tokio::test]
    async fn masters_that_nobody_reads_from_are_forgotten() {
        let reads = Reads::default();
        for port in 1..100 {
            reads.turn(master(port)).await;
        }
        reads.turn(None).await;
        assert_eq!(reads.turns.lock().unwrap().len(), 1);
    }

    fn master(port: u16) -> Option<Address> {
        Some(Address::new("master", port))
    }
}
