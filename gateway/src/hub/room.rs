//! One room on this gateway: its members, what waits for them, and in which order it goes out.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use slotcast_proto::{
    id::StreamPosition,
    schema::bus::{Appended, RoomMessage},
    wire::event::{
        MESSAGE, MessageReactionUpdate, MessagesRead, ParticipantsUpdate, ServerEvent, UserLeft,
        event_packet,
    },
};
use tokio::time::Instant;

use crate::{bus::Subscription, connection::Connection, outbox::Part, websocket::text_frame};

/// Messages that wait for a gap to be filled; beyond that they are dropped, for the log has them.
const QUEUE_MAX: usize = 4096;

/// `participantsUpdate` grows with the square of a room: a room's announcements are spaced so that
/// they cost this gateway at most so many bytes a second.
const PARTICIPANTS_BYTES_PER_SECOND: usize = 16 * 1024 * 1024;

pub(super) struct Room {
    /// Copied on write: a batch keeps the members it was taken for.
    members: Arc<Vec<Arc<Connection>>>,
    pub(super) subscription: Subscription,
    queue: VecDeque<Item>,
    state: State,
    /// The last message delivered, or where the first member joined.
    last: Option<StreamPosition>,
    /// Something may be missing behind `last`: the log must be read before anything else goes out.
    doubted: bool,
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

struct Item {
    /// Place and predecessor, for messages of the log; the rest goes out as it comes.
    place: Option<(StreamPosition, StreamPosition)>,
    frame: Bytes,
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
    /// The log after this position is missing.
    Missing(StreamPosition),
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
    pub(super) fn new(subscription: Subscription) -> Self {
        Self {
            members: Arc::default(),
            subscription,
            queue: VecDeque::new(),
            state: State::Idle,
            last: None,
            doubted: false,
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

    pub(super) fn member_count(&self) -> usize {
        self.members.len()
    }

    pub(super) const fn position(&self) -> Option<StreamPosition> {
        self.last
    }

    /// Where the log stood when a member joined; counts only for the first.
    pub(super) fn start(&mut self, position: StreamPosition) {
        self.last.get_or_insert(position);
    }

    pub(super) fn push(&mut self, message: &RoomMessage<'_>) {
        match message {
            RoomMessage::Appended(Appended {
                position,
                previous,
                json,
            }) => {
                self.push_item(Item {
                    place: Some((*position, *previous)),
                    frame: text_frame(&event_packet(MESSAGE, json)),
                });
            }
            RoomMessage::Read(readers) => {
                for (user, messages) in readers {
                    let user_id = &user.to_string();
                    self.push_packet(
                        &MessagesRead {
                            user_id,
                            message_ids: messages,
                        }
                        .packet(),
                    );
                }
            }
            RoomMessage::Reactions { message, json } => {
                if let Ok(reactions) = serde_json::from_str::<&serde_json::value::RawValue>(json) {
                    let message_id = &message.to_string();
                    self.push_packet(
                        &MessageReactionUpdate {
                            message_id,
                            reactions,
                        }
                        .packet(),
                    );
                }
            }
            RoomMessage::Event(event) => self.push_packet(&event_packet(event.name, event.json)),
            RoomMessage::Participants { .. } => {}
        }
    }

    fn push_packet(&mut self, packet: &str) {
        self.push_item(Item {
            place: None,
            frame: text_frame(packet),
        });
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
        let mut parts = Vec::new();
        while let Some(item) = self.queue.pop_front() {
            let Some((position, previous)) = item.place else {
                parts.push((None, item.frame));
                continue;
            };
            if self.last.is_some_and(|last| position <= last) {
                continue;
            }
            if self.last != Some(previous) {
                self.queue.push_front(item);
                break;
            }
            self.last = Some(position);
            parts.push((Some(position), item.frame));
        }
        if !parts.is_empty() {
            return Step::Send(Batch::new(Arc::clone(&self.members), parts));
        }
        if let (false, Some(last)) = (self.queue.is_empty(), self.last) {
            return self.missing(last);
        }
        self.state = State::Idle;
        Step::Done
    }

    fn missing(&mut self, last: StreamPosition) -> Step {
        self.doubted = false;
        self.state = State::Filling(self.queue.len());
        Step::Missing(last)
    }

    /// Asks for the log to be read before anything else goes out.
    pub(super) const fn doubt(&mut self) {
        self.doubted = true;
    }

    /// Takes the log's messages after `last` in. A message that was queued before the log was read
    /// and is not in it was lost with its master: no member will see it.
    pub(super) fn fill(&mut self, messages: Vec<(StreamPosition, String)>) {
        let State::Filling(before) = self.state else {
            return;
        };
        self.state = State::Idle;
        let newer = self.queue.split_off(before.min(self.queue.len()));
        let mut items = VecDeque::with_capacity(messages.len() + newer.len());
        let mut previous = self.last.unwrap_or_default();
        for (position, json) in messages {
            items.push_back(Item {
                place: Some((position, previous)),
                frame: text_frame(&event_packet(MESSAGE, &json)),
            });
            previous = position;
        }
        items.extend(
            std::mem::take(&mut self.queue)
                .into_iter()
                .filter(|item| item.place.is_none()),
        );
        items.extend(newer);
        self.queue = items;
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
        self.push_packet(&packet);
        for leaver in std::mem::take(&mut self.participants.due) {
            if !is_back(&leaver, &packet) {
                self.push_packet(&event_packet(UserLeft::NAME, &leaver));
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
        if let [(_, only)] = parts.as_slice() {
            return Self {
                members,
                all: only.clone(),
                parts,
            };
        }
        let mut all = BytesMut::with_capacity(parts.iter().map(|(_, frame)| frame.len()).sum());
        for (_, frame) in &parts {
            all.extend_from_slice(frame);
        }
        let all = all.freeze();
        let mut at = 0;
        for (_, frame) in &mut parts {
            let end = at + frame.len();
            *frame = all.slice(at..end);
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
    use slotcast_proto::{schema::key::Channel, slot::Slot};

    use super::*;
    use crate::bus::Bus;

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
        assert!(matches!(room.step(), Step::Missing(after) if after == at(1, 1)));
        append(&mut room, 1, 4);
        assert!(!room.claim(), "nothing goes out while the log is read");
        room.fill(vec![(at(1, 2), json()), (at(1, 3), json())]);
        assert_eq!(delivered(&mut room), [at(1, 2), at(1, 3), at(1, 4)]);
    }

    #[test]
    fn message_that_the_log_does_not_know_was_lost_with_its_master() {
        let mut room = started();
        push(&mut room, at(1, 9), at(1, 8));
        assert!(room.claim());
        assert!(matches!(room.step(), Step::Missing(_)));
        room.fill(Vec::new());
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
        room.start(at(1, 7));
        assert_eq!(delivered(&mut room), [at(1, 8)]);
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
                        let missed = log.iter().filter(|position| **position > after);
                        room.fill(missed.map(|position| (*position, json())).collect());
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
            .flat_map(|(_, frame)| frame.to_vec())
            .collect();
        assert_eq!(batch.all, whole, "one by one is the same as all at once");
        batch
            .parts
            .iter()
            .filter_map(|(position, _)| *position)
            .collect()
    }

    fn append(room: &mut Room, epoch: u64, number: u64) {
        let previous = if number == 1 {
            StreamPosition::default()
        } else {
            at(epoch, number - 1)
        };
        let previous = room.last.filter(|_| number == 1).unwrap_or(previous);
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
        room.start(StreamPosition::default());
        room
    }

    fn room() -> Room {
        let bus: Arc<Bus> = Arc::default();
        Room::new(bus.want(Channel::Rooms(Slot::new(1).unwrap())))
    }

    fn at(epoch: u64, number: u64) -> StreamPosition {
        StreamPosition { epoch, number }
    }

    fn json() -> String {
        "{}".to_owned()
    }
}
