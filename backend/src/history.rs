//! Pages of a room's log, read with plain commands: unlike the function that serves sockets, this
//! marks nothing as read.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::value::RawValue;
use slotcast_proto::{
    id::{RoomId, StreamPosition},
    schema::record::{self, ReadRuns},
};

use crate::store::{LogEntry, Store, StoreError};

/// Messages in the order of the log.
#[derive(Default)]
pub(crate) struct MessagePage {
    pub(crate) messages: Vec<Box<RawValue>>,
    /// Whether there are older ones.
    pub(crate) has_more: bool,
}

/// Who has read a message.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reader<'a> {
    user_id: &'a str,
    read_at: u64,
}

/// Reads the newest `limit` messages older than `before` (milliseconds since 1970).
pub(crate) async fn page(
    store: &Store,
    room: RoomId,
    before: Option<u64>,
    limit: usize,
) -> Result<MessagePage, StoreError> {
    let from = match before {
        None => None,
        Some(time) => match newest_before(store, room, time).await? {
            None => return Ok(MessagePage::default()),
            newest => newest,
        },
    };
    let mut entries = store
        .log_backwards(room, from, limit.saturating_add(1))
        .await?;
    let has_more = entries.len() > limit;
    entries.truncate(limit);
    entries.reverse();
    let messages = with_state(store, room, entries).await?;
    Ok(MessagePage { messages, has_more })
}

/// The newest entry older than `time`: walks the epochs, then halves the numbers of one.
async fn newest_before(
    store: &Store,
    room: RoomId,
    time: u64,
) -> Result<Option<StreamPosition>, StoreError> {
    let mut newest = first(store.log_backwards(room, None, 1).await?);
    while let Some(late) = newest {
        if late.time < time {
            return Ok(Some(late.position));
        }
        let epoch = late.position.epoch;
        let start = StreamPosition { epoch, number: 0 };
        let oldest = first(store.log_forwards(room, start, 1).await?).ok_or(StoreError::Corrupt)?;
        if oldest.time < time {
            let numbers = (oldest.position.number, late.position.number);
            return halve(store, room, epoch, numbers, time).await.map(Some);
        }
        newest = first(store.log_backwards(room, Some(start), 1).await?);
    }
    Ok(None)
}

/// Between an entry older than `time` and one that is not, both of one epoch.
async fn halve(
    store: &Store,
    room: RoomId,
    epoch: u64,
    (mut early, mut late): (u64, u64),
    time: u64,
) -> Result<StreamPosition, StoreError> {
    while late.saturating_sub(early) > 1 {
        let number = early.midpoint(late);
        let probe = StreamPosition { epoch, number };
        let entry = first(store.log_forwards(room, probe, 1).await?).ok_or(StoreError::Corrupt)?;
        if entry.time < time {
            early = number;
        } else {
            late = number;
        }
    }
    Ok(StreamPosition {
        epoch,
        number: early,
    })
}

/// Adds the reactions and readers that live beside the log.
async fn with_state(
    store: &Store,
    room: RoomId,
    entries: Vec<LogEntry>,
) -> Result<Vec<Box<RawValue>>, StoreError> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let numbers: Vec<_> = entries.iter().map(|entry| entry.position.number).collect();
    let (reactions, reads) = tokio::try_join!(store.reactions(room, &numbers), store.reads(room),)?;
    let reads: HashMap<_, _> = reads
        .iter()
        .map(|(user, runs)| (user.as_str(), ReadRuns::parse(runs)))
        .collect();
    let messages = entries.iter().zip(reactions);
    messages
        .map(|(entry, reactions)| {
            let readers = readers(&reads, entry.position.number)?;
            let json = record::message_with_state(&entry.json, reactions.as_deref(), &readers);
            RawValue::from_string(json).map_err(|_| StoreError::Corrupt)
        })
        .collect()
}

fn readers(reads: &HashMap<&str, ReadRuns>, number: u64) -> Result<String, StoreError> {
    let readers: Vec<_> = reads
        .iter()
        .filter(|(_, runs)| runs.contains(number))
        .map(|(user_id, runs)| Reader {
            user_id,
            read_at: runs.marked_at,
        })
        .collect();
    serde_json::to_string(&readers).map_err(|_| StoreError::Corrupt)
}

fn first(entries: Vec<LogEntry>) -> Option<LogEntry> {
    entries.into_iter().next()
}
