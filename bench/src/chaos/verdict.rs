//! Whether the promises were kept, from what the logs hold and what the clients were shown. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use slotcast_proto::{
    id::{MessageId, UserId},
    schema::record::ReadRuns,
};

use super::record::{Fate, Key, Reactions, Record, RoomRecord, Seen};

/// A message in a room's log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) id: MessageId,
    pub(crate) key: Option<Key>,
    pub(crate) timestamp: u64,
}

/// What is stored about a room.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    /// The log, oldest first.
    pub(crate) log: Vec<Entry>,
    pub(crate) members: BTreeSet<UserId>,
    /// By a message's number.
    pub(crate) reactions: HashMap<u32, Reactions>,
    /// By user: what the room was told, and what a page showed quietly.
    pub(crate) told: BTreeMap<UserId, ReadRuns>,
    pub(crate) quiet: BTreeMap<UserId, ReadRuns>,
}

/// A client and its record.
#[derive(Debug)]
pub(crate) struct Witness {
    pub(crate) user: UserId,
    /// Its rooms, by their numbers in the run, in the order of the record.
    pub(crate) rooms: Vec<usize>,
    /// Whether it must have everything: slow readers need not.
    pub(crate) is_complete: bool,
    pub(crate) record: Record,
}

/// How often something was found, and the first few in words.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) count: u64,
    pub(crate) examples: Vec<String>,
}

/// Findings told in words.
const EXAMPLES_MAX: usize = 5;

impl Findings {
    fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(example());
        }
    }
}

/// What a run came to.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    /// Accepted but not in the log, or in the log but not on the screen of a client that was there.
    pub(crate) lost: Findings,
    /// Twice on one screen or twice in a log, by message id or by client message id.
    pub(crate) duplicated: Findings,
    /// On a screen in another order than in the log.
    pub(crate) reordered: Findings,
    /// On a screen but not in the log.
    pub(crate) unlogged: Findings,
    /// Users wrongly among a room's participants, or missing there.
    pub(crate) participants: Findings,
    /// Messages whose reactions or readers a client shows otherwise than they are stored.
    pub(crate) stale: Findings,
    /// Sends without an answer at the end, and clients that did not come back.
    pub(crate) unsettled: Findings,
}

impl Verdict {
    /// What failed a promise, by name. Reactions and read marks count if `strict`.
    pub(crate) fn failures(&self, strict: bool) -> Vec<(&'static str, &Findings)> {
        let mut all = vec![
            ("lost", &self.lost),
            ("duplicated", &self.duplicated),
            ("reordered", &self.reordered),
            ("unlogged", &self.unlogged),
            ("participants", &self.participants),
            ("unsettled", &self.unsettled),
        ];
        if strict {
            all.push(("stale", &self.stale));
        }
        all.retain(|(_, findings)| findings.count > 0);
        all
    }
}

/// A room's log, ready to be looked up.
struct Room<'a> {
    stored: &'a Stored,
    places: HashMap<MessageId, usize>,
    newest: u64,
}

/// Compares records and logs.
pub(crate) fn judge(rooms: &[Stored], witnesses: &[Witness]) -> Verdict {
    let mut verdict = Verdict::default();
    let rooms: Vec<_> = rooms.iter().map(room).collect();
    for (number, room) in rooms.iter().enumerate() {
        judge_log(&mut verdict, number, room);
        judge_members(&mut verdict, number, room.stored, witnesses);
    }
    for (client, witness) in witnesses.iter().enumerate() {
        judge_sends(&mut verdict, client, witness, &rooms);
        for (number, record) in witness.rooms.iter().zip(&witness.record.rooms) {
            let Some(room) = rooms.get(*number) else {
                continue;
            };
            let view = View {
                client,
                gateway: witness.record.gateway,
                number: *number,
                room,
                record,
            };
            view.judge_screen(&mut verdict);
            if witness.is_complete {
                view.judge_gaps(&mut verdict);
                view.judge_state(&mut verdict);
            }
        }
    }
    verdict
}

/// Judges what [`judge`] could not: messages shown that are newer than the log it had. `rooms` is
/// read after the records were taken, so every message shown must be there.
pub(crate) fn judge_newest(verdict: &mut Verdict, rooms: &[Stored], witnesses: &[Witness]) {
    let ids = |room: &Stored| room.log.iter().map(|entry| entry.id).collect();
    let logs: Vec<HashSet<_>> = rooms.iter().map(ids).collect();
    for (client, witness) in witnesses.iter().enumerate() {
        for (number, record) in witness.rooms.iter().zip(&witness.record.rooms) {
            let log = logs.get(*number);
            let is_unlogged = |seen: &&Seen| log.is_none_or(|log| !log.contains(&seen.id));
            for seen in record.shown.iter().filter(is_unlogged) {
                verdict.unlogged.add(|| unlogged(client, seen, *number));
            }
        }
    }
}

fn unlogged(client: usize, seen: &Seen, number: usize) -> String {
    let (id, at) = (seen.id, seen.at.as_secs_f64());
    format!("client {client} was shown {id} at {at:.2} s: not in the log of room {number}")
}

fn room(stored: &Stored) -> Room<'_> {
    let log = stored.log.iter().enumerate();
    Room {
        stored,
        places: log.map(|(place, entry)| (entry.id, place)).collect(),
        newest: stored.log.last().map_or(0, |entry| entry.timestamp),
    }
}

fn judge_log(verdict: &mut Verdict, number: usize, room: &Room<'_>) {
    let mut keys = HashSet::new();
    for Entry { id, key, .. } in &room.stored.log {
        if let Some(key) = key
            && !keys.insert(key)
        {
            let found = || format!("{key} is twice in the log of room {number}, again as {id}");
            verdict.duplicated.add(found);
        }
    }
}

fn judge_members(verdict: &mut Verdict, number: usize, stored: &Stored, witnesses: &[Witness]) {
    // Slow readers come and go: whether one is in at this moment is nobody's fault.
    let there = |witness: &&Witness| witness.is_complete && witness.rooms.contains(&number);
    let users = witnesses.iter().filter(there).map(|witness| witness.user);
    let expected: BTreeSet<_> = users.collect();
    let slow = witnesses.iter().filter(|witness| !witness.is_complete);
    let slow: BTreeSet<_> = slow.map(|witness| witness.user).collect();
    for user in expected.difference(&stored.members) {
        verdict
            .participants
            .add(|| format!("{user} is missing in room {number}"));
    }
    for user in stored.members.difference(&expected) {
        if !slow.contains(user) {
            verdict
                .participants
                .add(|| format!("{user} is still in room {number}"));
        }
    }
}

fn judge_sends(verdict: &mut Verdict, client: usize, witness: &Witness, rooms: &[Room<'_>]) {
    let Record {
        sent,
        is_ready,
        trouble,
        gateway,
        ..
    } = &witness.record;
    if witness.is_complete && !is_ready {
        verdict.unsettled.add(|| {
            format!("client {client} is not back; last at gateway {gateway}; trouble: {trouble}")
        });
    }
    for (number, sent) in sent.iter().enumerate() {
        let key = Key { client, number };
        match sent.fate {
            // No fault is a reason to refuse a message for good.
            Fate::Refused => {
                verdict.refused += 1;
                verdict
                    .unsettled
                    .add(|| format!("{key} was refused for good; trouble: {trouble}"));
            }
            Fate::Open => verdict.unsettled.add(|| {
                format!(
                    "{key} has no answer after {} tries; trouble: {trouble}",
                    sent.tries
                )
            }),
            Fate::Accepted(id) => {
                verdict.accepted += 1;
                let room = rooms.get(sent.room);
                if !room.is_some_and(|room| room.places.contains_key(&id)) {
                    let at = sent.at.as_secs_f64();
                    verdict.lost.add(|| {
                        format!("{key}, sent at {at:.2} s, was accepted as {id}: not in the log of room {}", sent.room)
                    });
                }
            }
        }
    }
}

/// One client's record of one room.
struct View<'a> {
    client: usize,
    /// Gateway that the client is at.
    gateway: usize,
    number: usize,
    room: &'a Room<'a>,
    record: &'a RoomRecord,
}

impl View<'_> {
    fn judge_screen(&self, verdict: &mut Verdict) {
        let Self {
            client,
            number,
            record,
            room,
            ..
        } = self;
        for id in &record.repeated {
            verdict
                .duplicated
                .add(|| format!("client {client} got {id} of room {number} twice"));
        }
        let (mut keys, mut before) = (HashMap::new(), None);
        for seen in &record.shown {
            if let Some(key) = seen.key
                && let Some(other) = keys.insert(key, seen.id)
            {
                verdict.duplicated.add(|| {
                    format!(
                        "client {client} was shown {key} as {other} and as {}",
                        seen.id
                    )
                });
            }
            let at = seen.at.as_secs_f64();
            let Some(place) = room.places.get(&seen.id) else {
                // What came after the log was read is for `judge_newest`.
                if seen.timestamp <= room.newest {
                    verdict.unlogged.add(|| unlogged(*client, seen, *number));
                }
                continue;
            };
            if before.is_some_and(|before| before > *place) {
                verdict.reordered.add(|| {
                    format!("client {client} was shown {} of room {number} at {at:.2} s, after newer ones", seen.id)
                });
            }
            before = before.max(Some(*place));
        }
    }

    /// The log from behind the client's first look at the room.
    fn due(&self) -> &[Entry] {
        let log = self.room.stored.log.as_slice();
        let first = self
            .record
            .baseline
            .and_then(|id| self.room.places.get(&id));
        first.map_or(log, |place| log.get(place + 1..).unwrap_or_default())
    }

    fn judge_gaps(&self, verdict: &mut Verdict) {
        let Self {
            client,
            gateway,
            number,
            record,
            ..
        } = self;
        let missing = |entry: &&Entry| !record.knows(entry.id);
        for Entry { id, key, timestamp } in self.due().iter().filter(missing) {
            let key = key.map_or_else(|| "a system message".to_owned(), |key| key.to_string());
            let later = record.shown.iter().find(|seen| seen.timestamp > *timestamp);
            let later = later.map_or_else(
                || "nothing later".to_owned(),
                |seen| format!("a later one at {:.2} s", seen.at.as_secs_f64()),
            );
            verdict.lost.add(|| {
                format!(
                    "client {client} at gateway {gateway} never got {id} ({key}) of room {number}, \
                    but {later}; it entered with {:?}",
                    record.baseline
                )
            });
        }
    }

    fn judge_state(&self, verdict: &mut Verdict) {
        let Self {
            client,
            number,
            record,
            room,
            ..
        } = self;
        for Entry { id, .. } in self.due() {
            let stored = room.stored.reactions.get(&id.number());
            let shown = record.reactions.get(id).map(|(reactions, _)| reactions);
            let is_some = |reactions: &&Reactions| !reactions.is_empty();
            if stored.filter(is_some) != shown.filter(is_some) {
                verdict.stale.add(|| {
                    format!("client {client} shows reactions {shown:?} of {id} in room {number}: {stored:?}")
                });
            }
            let shown = record.readers.get(id);
            if !readers_fit(room.stored, id.number(), shown) {
                verdict.stale.add(|| {
                    format!(
                        "client {client} shows other readers of {id} in room {number} than stored"
                    )
                });
            }
        }
    }
}

/// Whether everyone whom the room was told of is shown, and nobody who has not read.
fn readers_fit(stored: &Stored, number: u32, shown: Option<&HashSet<UserId>>) -> bool {
    let number = number.into();
    let is_shown = |user: &UserId| shown.is_some_and(|shown| shown.contains(user));
    let has = |runs: &BTreeMap<UserId, ReadRuns>, user: &UserId| {
        runs.get(user).is_some_and(|runs| runs.contains(number))
    };
    let mut told = stored.told.iter().filter(|(_, runs)| runs.contains(number));
    let mut shown = shown.into_iter().flatten();
    told.all(|(user, _)| is_shown(user))
        && shown.all(|user| has(&stored.told, user) || has(&stored.quiet, user))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use slotcast_proto::{
        id::{RoomId, StreamPosition},
        slot::Slot,
    };

    use super::*;
    use crate::chaos::record::{Message, Sent};

    const AT: Duration = Duration::ZERO;

    fn id(number: u64) -> MessageId {
        let room = RoomId::new(Slot::new(1).unwrap(), 1);
        MessageId::new(room, StreamPosition { epoch: 7, number }).unwrap()
    }

    fn user(number: u128) -> UserId {
        UserId::new(Slot::new(1).unwrap(), number)
    }

    fn key(number: usize) -> Key {
        Key { client: 0, number }
    }

    /// Message `number` of the room, the `number`th of client 0.
    fn message(number: u64) -> Message {
        Message {
            id: id(number),
            room: id(number).room(),
            timestamp: number,
            key: Some(key(usize::try_from(number).unwrap())),
            reactions: Reactions::new(),
            readers: Vec::new(),
        }
    }

    fn stored(numbers: impl IntoIterator<Item = u64>) -> Stored {
        let entry = |number| Entry {
            id: id(number),
            key: Some(key(usize::try_from(number).unwrap())),
            timestamp: number,
        };
        Stored {
            log: numbers.into_iter().map(entry).collect(),
            members: BTreeSet::from([user(1)]),
            ..Stored::default()
        }
    }

    /// A client that entered after message 1 and then got these live.
    fn witness(live: &[u64]) -> Witness {
        let mut record = Record::new(1);
        record.rooms[0].merge(&[message(1)], AT, AT);
        record.rooms[0].complete();
        for number in live {
            record.rooms[0].live(&message(*number), AT);
        }
        record.is_ready = true;
        Witness {
            user: user(1),
            rooms: vec![0],
            is_complete: true,
            record,
        }
    }

    fn names(verdict: &Verdict) -> Vec<(&'static str, u64)> {
        let failures = verdict.failures(true).into_iter();
        failures
            .map(|(name, findings)| (name, findings.count))
            .collect()
    }

    fn judge_live(log: impl IntoIterator<Item = u64>, live: &[u64]) -> Vec<(&'static str, u64)> {
        names(&judge(&[stored(log)], &[witness(live)]))
    }

    #[test]
    fn a_faithful_record_fails_nothing() {
        assert_eq!(judge_live(1..=5, &[2, 3, 4, 5]), []);
    }

    #[test]
    fn a_gap_is_lost() {
        assert_eq!(judge_live(1..=5, &[2, 4, 5]), [("lost", 1)]);
        assert_eq!(judge_live(1..=5, &[2, 3]), [("lost", 2)]);
    }

    #[test]
    fn a_message_shown_twice_is_duplicated() {
        assert_eq!(judge_live(1..=3, &[2, 2, 3]), [("duplicated", 1)]);
    }

    #[test]
    fn one_client_message_id_under_two_ids_is_duplicated() {
        let mut log = stored(1..=3);
        log.log[2].key = log.log[1].key;
        let mut witness = witness(&[2]);
        let mut again = message(3);
        again.key = message(2).key;
        witness.record.rooms[0].live(&again, AT);
        // In the log and on the screen.
        assert_eq!(names(&judge(&[log], &[witness])), [("duplicated", 2)]);
    }

    #[test]
    fn another_order_than_the_logs_is_reordered() {
        assert_eq!(judge_live(1..=4, &[3, 2, 4]), [("reordered", 1)]);
    }

    #[test]
    fn the_newest_message_on_a_screen_is_judged_by_a_later_log() {
        let witnesses = [witness(&[2, 3, 4])];
        let newest = |log: std::ops::RangeInclusive<u64>| {
            let mut verdict = Verdict::default();
            judge_newest(&mut verdict, &[stored(log)], &witnesses);
            verdict.unlogged.count
        };
        assert_eq!(newest(1..=4), 0);
        assert_eq!(newest(1..=3), 1);
    }

    #[test]
    fn a_message_that_no_log_holds_is_unlogged() {
        assert_eq!(judge_live([1, 2, 4], &[2, 3, 4]), [("unlogged", 1)]);
        assert_eq!(
            judge_live([1, 2], &[2, 3]),
            [],
            "it came after the log was read"
        );
    }

    #[test]
    fn a_page_closes_a_gap_and_shows_nothing_twice() {
        let mut witness = witness(&[2]);
        let room = &mut witness.record.rooms[0];
        room.is_synced = false;
        room.live(&message(5), AT);
        assert!(!room.merge(&[message(4), message(5)], AT, AT));
        assert!(room.merge(&[message(2), message(3)], AT, AT));
        room.complete();
        room.live(&message(6), AT);
        assert_eq!(names(&judge(&[stored(1..=6)], &[witness])), []);
    }

    #[test]
    fn an_accepted_message_that_no_log_holds_is_lost() {
        let mut witness = witness(&[2]);
        let sent = |fate| Sent {
            room: 0,
            at: AT,
            tries: 1,
            fate,
        };
        witness.record.sent = vec![
            sent(Fate::Accepted(id(2))),
            sent(Fate::Accepted(id(9))),
            sent(Fate::Refused),
        ];
        let verdict = judge(&[stored(1..=2)], &[witness]);
        assert_eq!(names(&verdict), [("lost", 1), ("unsettled", 1)]);
        assert_eq!((verdict.accepted, verdict.refused), (2, 1));
    }

    #[test]
    fn an_open_send_and_an_absent_client_are_unsettled() {
        let mut witness = witness(&[2]);
        witness.record.is_ready = false;
        witness.record.sent = vec![Sent {
            room: 0,
            at: AT,
            tries: 1,
            fate: Fate::Open,
        }];
        let verdict = judge(&[stored(1..=2)], &[witness]);
        assert_eq!(names(&verdict), [("unsettled", 2)]);
    }

    #[test]
    fn missing_and_lingering_participants_are_found() {
        let mut room = stored(1..=2);
        room.members = BTreeSet::from([user(2)]);
        assert_eq!(
            names(&judge(&[room], &[witness(&[2])])),
            [("participants", 2)]
        );
    }

    #[test]
    fn reactions_and_readers_must_be_as_stored() {
        let thumbs = Reactions::from([("x".to_owned(), BTreeSet::from([user(1)]))]);
        let mut room = stored(1..=3);
        room.reactions.insert(2, thumbs.clone());
        room.told.insert(user(1), ReadRuns::parse("5 2-3"));
        let mut knowing = witness(&[2, 3]);
        let record = &mut knowing.record.rooms[0];
        record.reactions.insert(id(2), (thumbs, AT));
        for number in [2, 3] {
            record.readers.insert(id(number), HashSet::from([user(1)]));
        }
        let rooms = [room];
        assert_eq!(names(&judge(&rooms, &[knowing])), []);
        assert_eq!(names(&judge(&rooms, &[witness(&[2, 3])])), [("stale", 3)]);
    }
}
