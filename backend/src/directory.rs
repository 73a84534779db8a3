//! What sorting by name or participants and searching need of all rooms: a snapshot in memory, at
//! most [`AGE_MAX`] old. One request at a time renews it while the others wait for the result, so
//! its cost is bounded however many ask.

use std::{
    cmp::Ordering,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use slotcast_proto::id::RoomId;
use tokio::sync::Semaphore;

use crate::store::{RoomSummary, Store, StoreError};

/// How old the snapshot may be, counted from the moment its reading began.
const AGE_MAX: Duration = Duration::from_secs(1);

/// Rooms in the snapshot, the newest; about 20 MB. Older ones are found by age alone.
const ROOMS_MAX: usize = 100_000;

/// What to sort by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SortField {
    CreatedAt,
    Name,
    ParticipantsCount,
}

/// A sorted, filtered part of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Rooms that match.
    pub(crate) total: u64,
    /// Those of the page.
    pub(crate) rooms: Vec<RoomId>,
}

/// A question to the directory.
#[derive(Clone, Debug)]
pub(crate) struct Search<'a> {
    /// Part of the name; empty for all.
    pub(crate) text: &'a str,
    pub(crate) field: SortField,
    pub(crate) descending: bool,
    /// Rooms to leave out at the beginning.
    pub(crate) skip: u64,
    /// Rooms of the page.
    pub(crate) count: u64,
}

/// The snapshot and who renews it.
pub(crate) struct Directory {
    snapshot: Mutex<Option<Snapshot>>,
    renewal: Semaphore,
}

#[derive(Clone)]
struct Snapshot {
    begun: Instant,
    entries: Arc<[Entry]>,
}

struct Entry {
    room: RoomSummary,
    name_in_lower_case: String,
}

impl Directory {
    pub(crate) const fn new() -> Self {
        Self {
            snapshot: Mutex::new(None),
            renewal: Semaphore::const_new(1),
        }
    }

    /// Answers from a snapshot that is fresh enough.
    pub(crate) async fn search(
        &self,
        store: &Store,
        search: &Search<'_>,
    ) -> Result<Page, StoreError> {
        Ok(page(&self.entries(store).await?, search))
    }

    async fn entries(&self, store: &Store) -> Result<Arc<[Entry]>, StoreError> {
        if let Some(entries) = self.recent() {
            return Ok(entries);
        }
        let renewal = self.renewal.acquire().await;
        // Whoever waited finds what the one before brought.
        if let Some(entries) = self.recent() {
            return Ok(entries);
        }
        let begun = Instant::now();
        let rooms = store.summaries(ROOMS_MAX).await?;
        let entries: Arc<[Entry]> = rooms.into_iter().map(Entry::of).collect();
        let snapshot = Snapshot {
            begun,
            entries: Arc::clone(&entries),
        };
        *self.lock() = Some(snapshot);
        drop(renewal);
        Ok(entries)
    }

    fn recent(&self) -> Option<Arc<[Entry]>> {
        let snapshot = self.lock().clone()?;
        (snapshot.begun.elapsed() < AGE_MAX).then_some(snapshot.entries)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Snapshot>> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn of(room: RoomSummary) -> Self {
        Self {
            name_in_lower_case: room.name.to_lowercase(),
            room,
        }
    }

    /// Ties fall back to age and id, so that pages never overlap.
    fn compare(&self, other: &Self, field: SortField) -> Ordering {
        let by_field = match field {
            SortField::CreatedAt => Ordering::Equal,
            SortField::Name => self.name_in_lower_case.cmp(&other.name_in_lower_case),
            SortField::ParticipantsCount => self.room.participants.cmp(&other.room.participants),
        };
        by_field
            .then_with(|| self.room.created_at.cmp(&other.room.created_at))
            .then_with(|| self.room.id.cmp(&other.room.id))
    }
}

fn page(entries: &[Entry], search: &Search<'_>) -> Page {
    let text = search.text.to_lowercase();
    let mut matching: Vec<_> = entries
        .iter()
        .filter(|entry| entry.name_in_lower_case.contains(&text))
        .collect();
    matching.sort_unstable_by(|one, other| {
        let order = one.compare(other, search.field);
        if search.descending {
            order.reverse()
        } else {
            order
        }
    });
    let place = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Page {
        total: matching.len() as u64,
        rooms: matching
            .into_iter()
            .skip(place(search.skip))
            .take(place(search.count))
            .map(|entry| entry.room.id)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use slotcast_proto::slot::Slot;

    use super::*;

    #[test]
    fn names_sort_without_case_and_ties_by_age() {
        let entries = entries(&[("b", 1, 30), ("A", 1, 20), ("a", 1, 10)]);
        assert_eq!(numbers(&entries, SortField::Name, false), [2, 1, 0]);
        assert_eq!(numbers(&entries, SortField::Name, true), [0, 1, 2]);
    }

    #[test]
    fn participants_sort_by_their_count() {
        let entries = entries(&[("x", 2, 1), ("y", 10, 2), ("z", 1, 3)]);
        assert_eq!(
            numbers(&entries, SortField::ParticipantsCount, true),
            [1, 0, 2]
        );
    }

    #[test]
    fn search_is_a_literal_part_of_the_name_without_case() {
        let entries = entries(&[("A.*b", 1, 1), ("axb", 1, 2), ("프로젝트", 1, 3)]);
        let total = |text| {
            let search = Search {
                text,
                field: SortField::CreatedAt,
                descending: true,
                skip: 0,
                count: 10,
            };
            page(&entries, &search).total
        };
        assert_eq!(
            (total(".*B"), total("B"), total("로젝"), total("")),
            (1, 2, 1, 3)
        );
    }

    #[test]
    fn pages_beyond_the_end_are_empty_and_keep_the_total() {
        let entries = entries(&[("a", 1, 1), ("b", 1, 2), ("c", 1, 3)]);
        let search = Search {
            text: "",
            field: SortField::Name,
            descending: false,
            skip: u64::MAX,
            count: 10,
        };
        let found = page(&entries, &search);
        assert_eq!((found.total, found.rooms.len()), (3, 0));
    }

    fn numbers(entries: &[Entry], field: SortField, descending: bool) -> Vec<usize> {
        let search = Search {
            text: "",
            field,
            descending,
            skip: 0,
            count: 10,
        };
        let found = page(entries, &search).rooms.into_iter();
        let place = |id| entries.iter().position(|entry| entry.room.id == id);
        found.filter_map(place).collect()
    }

    fn entries(rooms: &[(&str, u64, u64)]) -> Vec<Entry> {
        let rooms = rooms.iter().zip(0..);
        rooms
            .map(|((name, participants, created_at), number)| {
                Entry::of(RoomSummary {
                    id: RoomId::new(Slot::new(1).unwrap(), number),
                    name: (*name).to_owned(),
                    participants: *participants,
                    created_at: *created_at,
                })
            })
            .collect()
    }
}
