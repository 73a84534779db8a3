//! One room on this gateway: its members, what waits for them, and in which order it goes out.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use slotcast_proto::{
    id::RoomId,
    schema::bus::{Appended, RoomMessage},
    wire::{
        event::{ParticipantsUpdate, ServerEvent, UserLeft, event_packet},
        offset::Cursor,
    },
};
use tokio::time::Instant;

use crate::{
    bus::Subscription,
    connection::Connection,
    feed::{Item, Part, Place},
    store::Missed,
};

/// Messages that wait for a gap to be filled; beyond that they are dropped, for the log has them.
const QUEUE_MAX: usize = 4096;

/// `participantsUpdate` grows with the square of a room: a room's announcements are spaced so that
/// they cost this gateway at most so many bytes a second.
const PARTICIPANTS_BYTES_PER_SECOND: usize = 16 * 1024 * 1024;

pub(super) struct Room {
    id: RoomId,
    /// Copied on write: a batch keeps the members it was taken for.
    members: Arc<Vec<Arc<Connection>>>,
    pub(super) subscription: Subscription,
    queue: VecDeque<Item>,
    state: State,
    /// How far the members have got.
    last: Option<Cursor>,
    /// Where the first of them joined: members have what came after this, or it waits for them.
    began: Cursor,
    /// Something may be missing behind `last`: the log must be read before anything else goes out.
    doubted: bool,
    /// A message of an older epoch that is not in the log comes from a master that no longer is one.
    epoch_min: u64,
    participants: Participants,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody is at it.
    Idle,
    /// Somebody takes batches out.
    Delivering,
    /// The log is being read; of what is queued, so many items were there when it began.
    Filling(usize),
}

/// Frames for a room's members, ready to go out.
pub(super) struct Batch {
    pub(super) members: Arc<Vec<Arc<Connection>>>,
    /// All frames in one buffer, to be written at once.
    pub(super) all: Bytes,
    /// The same frames one by one, for members who are just joining.
    pub(super) parts: Vec<Part>,
}

/// What comes next in a room.
pub(super) enum Step {
    Send(Batch),
    /// What came after this is missing.
    Missing(Cursor),
    Done,
}

/// The announcement of a room's participants: at most one is on its way.
#[derive(Default)]
struct Participants {
    stage: Stage,
    /// Not before this.
    next: Option<Instant>,
    /// Who left since the last announcement began.
    leavers: Vec<String>,
    /// Who is told to have left by the announcement under way.
    due: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Quiet,
    /// Due at its time; further changes will be in it.
    Waiting,
    /// The participants are being read; a further change may have been missed.
    Reading { changed: bool },
}

impl Room {
    pub(super) fn new(id: RoomId, subscription: Subscription) -> Self {
        Self {
            id,
            members: Arc::default(),
            subscription,
            queue: VecDeque::new(),
            state: State::Idle,
            last: None,
            began: Cursor::default(),
            doubted: false,
            epoch_min: 0,
            participants: Participants::default(),
        }
    }

    pub(super) fn add(&mut self, connection: &Arc<Connection>) {
        if !self
            .members
            .iter()
            .any(|member| Arc::ptr_eq(member, connection))
        {
            Arc::make_mut(&mut self.members).push(Arc::clone(connection));
        }
    }

    pub(super) fn remove(&mut self, connection: &Arc<Connection>) {
        let place = self
            .members
            .iter()
            .position(|member| Arc::ptr_eq(member, connection));
        if let Some(place) = place {
            Arc::make_mut(&mut self.members).swap_remove(place);
        }
    }

    pub(super) fn members(&self) -> &[Arc<Connection>] {
        &self.members
    }

    pub(super) fn member_count(&self) -> usize {
        self.members.len()
    }

    /// Whether it is known how far the members have got.
    pub(super) const fn has_begun(&self) -> bool {
        self.last.is_some()
    }

    /// Whether the members have not got this far.
    pub(super) fn is_behind(&self, cursor: Cursor) -> bool {
        self.last.is_some_and(|last| last.max(cursor) != last)
    }

    /// Where the room stood when a member joined. Of several who join at once the one who joined first
    /// may say so last: then what passed meanwhile is read, and reaches whoever does not have it.
    pub(super) fn start(&mut self, cursor: Cursor) {
        let Some(last) = self.last else {
            self.began = cursor;
            self.last = Some(cursor);
            return;
        };
        let began = self.began.min(cursor);
        if began != self.began {
            self.began = began;
            self.last = Some(last.min(cursor));
            self.doubted = true;
        }
    }

    pub(super) fn push(&mut self, message: &RoomMessage<'_>) {
        if self.is_stale(message) {
            // Or the log has it: then its slot has moved to a node that counts otherwise.
            self.doubted = true;
        } else if let Some(item) = Item::of_bus(message) {
            self.push_item(item);
        }
    }

    fn is_stale(&self, message: &RoomMessage<'_>) -> bool {
        matches!(message, RoomMessage::Appended(Appended { position, .. }) if position.epoch < self.epoch_min)
    }

    fn push_item(&mut self, item: Item) {
        if self.queue.len() < QUEUE_MAX {
            self.queue.push_back(item);
        } else {
            self.doubted = true;
        }
    }

    /// Whether there is something to do, it is known where the room stands, and nobody is at it.
    pub(super) fn is_ready(&self) -> bool {
        let work = self.doubted || !self.queue.is_empty();
        self.state == State::Idle && self.last.is_some() && work
    }

    pub(super) fn claim(&mut self) -> bool {
        let ready = self.is_ready();
        if ready {
            self.state = State::Delivering;
        }
        ready
    }

    /// Takes the next batch out, up to the first gap.
    pub(super) fn step(&mut self) -> Step {
        if self.state != State::Delivering {
            return Step::Done; // the room was left and entered anew meanwhile
        }
        if let (true, Some(last)) = (self.doubted, self.last) {
            return self.missing(last);
        }
        let Some(mut cursor) = self.last else {
            return Step::Done;
        };
        let mut parts = Vec::new();
        while let Some(item) = self.queue.pop_front() {
            if let Some((place, previous)) = item.place {
                if place.is_within(cursor) {
                    continue;
                }
                if place.newest_in(cursor) != previous {
                    self.queue.push_front(item);
                    break;
                }
            }
            let part = item.part(self.id, cursor);
            cursor = part.reach.map_or(cursor, |reach| reach.cursor);
            parts.push(part);
        }
        self.last = Some(cursor);
        if !parts.is_empty() {
            return Step::Send(Batch::new(Arc::clone(&self.members), parts));
        }
        if !self.queue.is_empty() {
            return self.missing(cursor);
        }
        self.state = State::Idle;
        Step::Done
    }

    fn missing(&mut self, last: Cursor) -> Step {
        self.doubted = false;
        self.state = State::Filling(self.queue.len());
        Step::Missing(last)
    }

    /// Asks for the log to be read before anything else goes out.
    pub(super) const fn doubt(&mut self) {
        self.doubted = true;
    }

    /// Takes in what came after `last`. A message that was queued before the log was read and is not in
    /// it was lost with its master: no member will see it.
    pub(super) fn fill(&mut self, missed: &Missed) {
        let (State::Filling(before), Some(last)) = (self.state, self.last) else {
            return;
        };
        self.state = State::Idle;
        self.epoch_min = missed.epoch;
        let newer = self.queue.split_off(before.min(self.queue.len()));
        let queued = std::mem::take(&mut self.queue);
        self.queue.extend(Item::missed(missed, last));
        self.queue
            .extend(queued.into_iter().filter(|item| item.place.is_none()));
        let is_current = |item: &Item| match item.place {
            Some((Place::Message(position), _)) => position.epoch >= missed.epoch,
            Some((Place::Change(_), _)) | None => true,
        };
        let (current, stale): (Vec<_>, Vec<_>) = newer.into_iter().partition(is_current);
        self.queue.extend(current);
        self.doubted |= !stale.is_empty();
    }

    /// How long until an announcement is due; `None` if one is on its way.
    pub(super) fn participants_changed(
        &mut self,
        leaver: Option<&str>,
        now: Instant,
    ) -> Option<Duration> {
        let participants = &mut self.participants;
        participants.leavers.extend(leaver.map(str::to_owned));
        match &mut participants.stage {
            Stage::Waiting => None,
            Stage::Reading { changed } => {
                *changed = true;
                None
            }
            Stage::Quiet => {
                participants.stage = Stage::Waiting;
                let wait = |next: Instant| next.saturating_duration_since(now);
                Some(participants.next.map_or(Duration::ZERO, wait))
            }
        }
    }

    pub(super) fn begin_announcement(&mut self) {
        let participants = &mut self.participants;
        participants.stage = Stage::Reading { changed: false };
        participants.due.append(&mut participants.leavers);
    }

    /// Queues the announcement; how long until the next, if participants changed meanwhile.
    pub(super) fn announce_participants(
        &mut self,
        participants: &[String],
        interval: Duration,
        now: Instant,
    ) -> Option<Duration> {
        let packet = ParticipantsUpdate { participants }.packet();
        let cost = packet.len().saturating_mul(self.members.len());
        let spacing = Duration::from_millis(
            u64::try_from(cost.saturating_mul(1000) / PARTICIPANTS_BYTES_PER_SECOND)
                .unwrap_or(u64::MAX),
        );
        let wait = interval.max(spacing);
        self.push_item(Item::event(packet.clone()));
        for leaver in std::mem::take(&mut self.participants.due) {
            if !is_back(&leaver, &packet) {
                self.push_item(Item::event(event_packet(UserLeft::NAME, &leaver)));
            }
        }
        self.participants.next = Some(now + wait);
        let changed = self.participants.stage == Stage::Reading { changed: true };
        self.participants.stage = if changed {
            Stage::Waiting
        } else {
            Stage::Quiet
        };
        changed.then_some(wait)
    }
}

/// Whether a user who left is among the participants again: then there is nothing to tell.
fn is_back(leaver: &str, participants: &str) -> bool {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Leaver<'a> {
        user_id: &'a str,
    }
    serde_json::from_str(leaver)
        .is_ok_and(|Leaver { user_id }| participants.contains(&format!(r#""_id":"{user_id}""#)))
}

impl Batch {
    fn new(members: Arc<Vec<Arc<Connection>>>, mut parts: Vec<Part>) -> Self {
        if let [only] = parts.as_slice() {
            return Self {
                members,
                all: only.frames.clone(),
                parts,
            };
        }
        let mut all = BytesMut::with_capacity(parts.iter().map(|part| part.frames.len()).sum());
        for part in &parts {
            all.extend_from_slice(&part.frames);
        }
        let all = all.freeze();
        let mut at = 0;
        for part in &mut parts {
            let end = at + part.frames.len();
            part.frames = all.slice(at..end);
            at = end;
        }
        Self {
            members,
            all,
            parts,
        }
    }
}

#[cfg(test)]
mod tests {
    use slotcast_proto::{
        id::{MessageId, StreamPosition, UserId},
        schema::{bus::Change, key::Channel},
        slot::Slot,
    };

    use super::*;
    use crate::{bus::Bus, websocket::text_of_frame};

    #[test]
    fn messages_go_out_in_the_order_of_the_log() {
        let mut room = started();
        append(&mut room, 1, 1);
        append(&mut room, 1, 2);
        assert_eq!(delivered(&mut room), [at(1, 1), at(1, 2)]);
    }

    #[test]
    fn message_that_was_seen_or_comes_from_an_old_master_is_dropped() {
        let mut room = started();
        append(&mut room, 5, 1);
        append(&mut room, 5, 1);
        push(&mut room, at(4, 9), at(4, 8));
        assert_eq!(delivered(&mut room), [at(5, 1)]);
    }

    #[test]
    fn gap_waits_for_the_log_and_then_goes_on() {
        let mut room = started();
        append(&mut room, 1, 1);
        push(&mut room, at(1, 3), at(1, 2));
        assert!(room.claim());
        assert!(matches!(room.step(), Step::Send(_)));
        assert!(matches!(room.step(), Step::Missing(after) if after.message == at(1, 1)));
        append(&mut room, 1, 4);
        assert!(!room.claim(), "nothing goes out while the log is read");
        room.fill(&missed(1, &[at(1, 2), at(1, 3)]));
        assert_eq!(delivered(&mut room), [at(1, 2), at(1, 3), at(1, 4)]);
    }

    #[test]
    fn message_that_the_log_does_not_know_was_lost_with_its_master() {
        let mut room = started();
        push(&mut room, at(1, 9), at(1, 8));
        assert!(room.claim());
        assert!(matches!(room.step(), Step::Missing(_)));
        room.fill(&Missed::default());
        assert_eq!(delivered(&mut room), []);
        append(&mut room, 2, 1);
        assert_eq!(delivered(&mut room), [at(2, 1)]);
    }

    #[test]
    fn first_message_after_a_failover_needs_no_log_when_nothing_is_missing() {
        let mut room = started();
        append(&mut room, 1, 1);
        push(&mut room, at(2, 2), at(1, 1));
        assert_eq!(delivered(&mut room), [at(1, 1), at(2, 2)]);
    }

    #[test]
    fn room_delivers_nothing_before_it_knows_where_it_stands() {
        let mut room = room();
        push(&mut room, at(1, 8), at(1, 7));
        assert!(!room.is_ready());
        room.start(cursor(at(1, 7), at(0, 0)));
        assert_eq!(delivered(&mut room), [at(1, 8)]);
    }

    #[test]
    fn who_joined_first_and_says_so_last_misses_nothing() {
        let mut room = room();
        push(&mut room, at(1, 3), at(1, 2));
        push(&mut room, at(1, 4), at(1, 3));
        room.start(cursor(at(1, 3), at(7, 0)));
        assert_eq!(delivered(&mut room), [at(1, 4)]);
        room.start(cursor(at(1, 4), at(7, 0)));
        assert!(!room.is_ready(), "who joins later has it in the answer");
        room.start(cursor(at(1, 2), at(7, 0)));
        assert!(room.claim());
        assert!(matches!(room.step(), Step::Missing(after) if after.message == at(1, 2)));
        room.fill(&missed(1, &[at(1, 3), at(1, 4)]));
        assert_eq!(delivered(&mut room), [at(1, 3), at(1, 4)]);
    }

    #[test]
    fn every_event_says_how_far_it_takes_the_members() {
        let mut room = started();
        append(&mut room, 7, 1);
        change(&mut room, 30, 0, reactions());
        append(&mut room, 7, 2);
        let packets = packets(&mut room);
        let offsets: Vec<_> = packets
            .iter()
            .map(|packet| packet.rsplit('"').nth(1).unwrap())
            .collect();
        assert_eq!(
            offsets,
            [
                "000100000002:7-1:0-0",
                "000100000002:7-1:30-0",
                "000100000002:7-2:30-0"
            ]
        );
    }

    #[test]
    fn only_the_last_event_of_a_change_takes_members_past_it() {
        let mut room = started();
        let user = |number| UserId::new(Slot::new(3).unwrap(), number);
        let read = Change::Read(vec![
            (user(1), vec![message(1)]),
            (user(2), vec![message(1)]),
        ]);
        change(&mut room, 30, 0, read);
        let packets = packets(&mut room);
        assert_eq!(packets.len(), 2);
        assert!(packets[0].ends_with("]}]"), "{}", packets[0]);
        assert!(packets[1].ends_with(r#"]},"000100000002:0-0:30-0"]"#));
    }

    #[test]
    fn change_that_was_missed_is_read_before_the_next() {
        let mut room = started();
        change(&mut room, 30, 0, reactions());
        change(&mut room, 50, 40, reactions());
        assert!(room.claim());
        assert!(matches!(room.step(), Step::Send(_)));
        assert!(
            matches!(room.step(), Step::Missing(after) if after == cursor(at(0, 0), at(30, 0)))
        );
        let text = format!("a {} {{}}", message(1));
        room.fill(&Missed {
            changes: vec![(at(40, 0), text.clone()), (at(50, 0), text)],
            ..Missed::default()
        });
        assert_eq!(
            packets(&mut room).len(),
            2,
            "what was queued is not told twice"
        );
        change(&mut room, 60, 50, reactions());
        assert_eq!(packets(&mut room).len(), 1);
    }

    #[test]
    fn place_without_a_word_is_passed_over() {
        let mut room = started();
        room.doubt();
        assert!(room.claim());
        assert!(matches!(room.step(), Step::Missing(_)));
        room.fill(&Missed {
            changes: vec![(at(20, 0), String::new())],
            ..Missed::default()
        });
        assert_eq!(packets(&mut room), Vec::<String>::new());
        change(&mut room, 30, 20, reactions());
        assert_eq!(packets(&mut room).len(), 1);
    }

    #[test]
    fn master_that_no_longer_is_one_is_not_believed() {
        let mut room = started();
        append(&mut room, 5, 1);
        assert_eq!(delivered(&mut room), [at(5, 1)]);
        room.doubt();
        assert!(room.claim());
        assert!(matches!(room.step(), Step::Missing(_)));
        append(&mut room, 5, 2);
        room.fill(&missed(9, &[]));
        append(&mut room, 5, 2);
        assert!(room.claim());
        assert!(matches!(room.step(), Step::Missing(after) if after.message == at(5, 1)));
        room.fill(&missed(9, &[]));
        assert_eq!(delivered(&mut room), [], "epochs begin at 9 now");
        push(&mut room, at(9, 2), at(5, 1));
        assert_eq!(delivered(&mut room), [at(9, 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn participants_are_announced_at_once_and_then_spaced() {
        let interval = Duration::from_millis(250);
        let mut room = started();
        let now = Instant::now();
        assert_eq!(room.participants_changed(None, now), Some(Duration::ZERO));
        assert_eq!(
            room.participants_changed(Some("{}"), now),
            None,
            "one is on its way"
        );
        room.begin_announcement();
        assert_eq!(room.announce_participants(&[], interval, now), None);
        assert_eq!(room.queue.len(), 2, "the list, then who left");
        assert_eq!(room.participants_changed(None, now), Some(interval));
    }

    #[test]
    fn who_left_and_came_back_is_not_told_to_have_left() {
        let mut room = started();
        let now = Instant::now();
        for user in ["1", "2"] {
            let leaver = format!(r#"{{"userId":"{user}","userName":"n","name":"n"}}"#);
            room.participants_changed(Some(&leaver), now);
        }
        room.begin_announcement();
        let participants = [r#"{"_id":"2","id":"2"}"#.to_owned()];
        room.announce_participants(&participants, Duration::ZERO, now);
        assert_eq!(room.queue.len(), 2, "the list, and the one who is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn change_while_the_participants_are_read_is_announced_too() {
        let interval = Duration::from_millis(250);
        let mut room = started();
        let now = Instant::now();
        assert!(room.participants_changed(None, now).is_some());
        room.begin_announcement();
        assert_eq!(room.participants_changed(Some("{}"), now), None);
        assert_eq!(
            room.announce_participants(&[], interval, now),
            Some(interval)
        );
        assert_eq!(
            room.queue.len(),
            1,
            "who left then may be in the list still"
        );
        room.begin_announcement();
        assert_eq!(room.announce_participants(&[], interval, now), None);
        assert_eq!(room.queue.len(), 3);
    }

    /// Bus messages are lost, repeated and delayed at random; members see the log, once, in order.
    #[test]
    fn members_see_the_log_whatever_the_bus_does() {
        for seed in 0..2000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut room = started();
            let mut log = Vec::new();
            let mut previous = StreamPosition::default();
            let mut epoch = 1;
            let mut seen = Vec::new();
            for number in 1..=random.u64(1..60) {
                if random.u8(..) < 10 {
                    epoch += 1;
                }
                log.push(at(epoch, number));
                match random.u8(0..10) {
                    0 | 1 => {}
                    2 => {
                        push(&mut room, at(epoch, number), previous);
                        push(&mut room, at(epoch, number), previous);
                    }
                    3 if log.len() > 1 => {
                        let old = random.usize(1..log.len());
                        push(&mut room, log[old], log[old - 1]);
                    }
                    _ => push(&mut room, at(epoch, number), previous),
                }
                previous = at(epoch, number);
                if random.bool() {
                    run(&mut room, &log, &mut seen);
                }
            }
            room.doubt();
            run(&mut room, &log, &mut seen);
            assert_eq!(seen, log, "seed {seed}");
        }
    }

    /// Delivers until the room is idle, reading the log where the room asks for it.
    fn run(room: &mut Room, log: &[StreamPosition], seen: &mut Vec<StreamPosition>) {
        while room.claim() {
            loop {
                match room.step() {
                    Step::Send(batch) => seen.extend(positions(&batch)),
                    Step::Missing(after) => {
                        let later = log.iter().filter(|position| **position > after.message);
                        room.fill(&missed(0, &later.copied().collect::<Vec<_>>()));
                        break;
                    }
                    Step::Done => break,
                }
            }
        }
    }

    fn delivered(room: &mut Room) -> Vec<StreamPosition> {
        let mut seen = Vec::new();
        if room.claim() {
            while let Step::Send(batch) = room.step() {
                seen.extend(positions(&batch));
            }
        }
        seen
    }

    fn positions(batch: &Batch) -> Vec<StreamPosition> {
        let whole: Vec<u8> = batch
            .parts
            .iter()
            .flat_map(|part| part.frames.to_vec())
            .collect();
        assert_eq!(batch.all, whole, "one by one is the same as all at once");
        let places = batch.parts.iter().filter_map(|part| part.reach);
        places
            .filter_map(|reach| match reach.place {
                Place::Message(position) => Some(position),
                Place::Change(_) => None,
            })
            .collect()
    }

    fn append(room: &mut Room, epoch: u64, number: u64) {
        let previous = if number == 1 {
            StreamPosition::default()
        } else {
            at(epoch, number - 1)
        };
        let last = room.last.map(|last| last.message);
        let previous = last.filter(|_| number == 1).unwrap_or(previous);
        push(room, at(epoch, number), previous);
    }

    fn push(room: &mut Room, position: StreamPosition, previous: StreamPosition) {
        let json = "{}";
        room.push(&RoomMessage::Appended(Appended {
            position,
            previous,
            json,
        }));
    }

    fn started() -> Room {
        let mut room = room();
        room.start(Cursor::default());
        room
    }

    fn room() -> Room {
        let bus: Arc<Bus> = Arc::default();
        let slot = Slot::new(1).unwrap();
        Room::new(RoomId::new(slot, 2), bus.want(Channel::Rooms(slot)))
    }

    fn at(epoch: u64, number: u64) -> StreamPosition {
        StreamPosition { epoch, number }
    }

    fn cursor(message: StreamPosition, change: StreamPosition) -> Cursor {
        Cursor { message, change }
    }

    fn missed(epoch: u64, messages: &[StreamPosition]) -> Missed {
        Missed {
            epoch,
            messages: messages.iter().map(|at| (*at, "{}".to_owned())).collect(),
            changes: Vec::new(),
        }
    }

    fn change(room: &mut Room, id: u64, previous: u64, change: Change<'_>) {
        room.push(&RoomMessage::Changed {
            id: at(id, 0),
            previous: at(previous, 0),
            change,
        });
    }

    fn reactions<'a>() -> Change<'a> {
        Change::Reactions {
            message: message(1),
            json: "{}",
        }
    }

    fn message(number: u64) -> MessageId {
        MessageId::new(RoomId::new(Slot::new(1).unwrap(), 2), at(1, number)).unwrap()
    }

    /// The packets that go out.
    fn packets(room: &mut Room) -> Vec<String> {
        let mut packets = Vec::new();
        if room.claim() {
            while let Step::Send(batch) = room.step() {
                for part in &batch.parts {
                    let mut frames = &part.frames[..];
                    while !frames.is_empty() {
                        let length = match frames[1] {
                            126 => 4 + usize::from(u16::from_be_bytes([frames[2], frames[3]])),
                            short => 2 + usize::from(short),
                        };
                        packets.push(text_of_frame(&frames[..length]).unwrap().to_owned());
                        frames = &frames[length..];
                    }
                }
            }
        }
        packets
    }
}
