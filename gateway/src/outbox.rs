//! The writing half of a socket, shared by all who have something for it.
//!
//! An idle socket is written directly by whoever has frames. What it does not take waits in a bounded
//! queue, and its connection task writes that, many frames at a time. Frames of one socket never
//! interleave: both happen under the lock, and nobody writes past a waiting queue.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Buf, Bytes};
use slotcast_proto::{
    id::RoomId,
    limits::OFFSET_ROOMS_MAX,
    wire::{event::with_offset, offset::Cursor},
};

use crate::{
    feed::Part,
    websocket::{append_text_frame, text_frame},
};

/// Most frames of one write; more gain nothing (the kernel's own bound is 1,024).
const SLICES_MAX: usize = 64;

/// A frame of a room that is longer than this counts only so much.
const LONG_BYTES: usize = 16 * 1024;

/// Where a client's view of a room begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening<'a> {
    /// How far the client has got.
    pub(crate) cursor: Cursor,
    /// Event that answers the client.
    pub(crate) answer: Option<&'a str>,
    /// What came after `cursor`, as far as it is known.
    pub(crate) missed: &'a [Part],
}

/// What happened to frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The socket took them, or they wait in the gate, or the outbox is shut.
    Done,
    /// They wait, entirely or in part; the connection task must write them.
    Queued,
    /// A bound is reached: the client is too slow.
    Overflow,
    /// The socket is broken.
    Lost,
}

/// What a flush reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flushed {
    /// Nothing waits any more.
    pub(crate) is_empty: bool,
    /// The socket took at least a byte.
    pub(crate) has_progressed: bool,
}

/// The bytes that wait for all sockets of the process, and their bound.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: usize,
    bytes: AtomicUsize,
    /// Outboxes with waiting bytes.
    outboxes: AtomicUsize,
    /// Bound of one outbox.
    outbox_bytes_max: usize,
}

impl Budget {
    /// A budget of `bytes_max` for all and `outbox_bytes_max` for one.
    pub(crate) const fn new(bytes_max: usize, outbox_bytes_max: usize) -> Self {
        Self {
            bytes_max,
            outbox_bytes_max,
            bytes: AtomicUsize::new(0),
            outboxes: AtomicUsize::new(0),
        }
    }

    /// Bytes that wait for all sockets, as far as they count. A frame shared by many is counted for each.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Outboxes with waiting bytes.
    pub(crate) fn outboxes(&self) -> usize {
        self.outboxes.load(Ordering::Relaxed)
    }

    /// Whether an outbox may hold this much. Over the total bound nobody may hold more than an equal
    /// share of it, so those that wait for the most go first.
    fn allows(&self, outbox_bytes: usize) -> bool {
        if outbox_bytes > self.outbox_bytes_max {
            return false;
        }
        self.bytes() <= self.bytes_max || outbox_bytes <= self.bytes_max / self.outboxes().max(1)
    }

    fn settle(&self, before: usize, after: usize) {
        match after.checked_sub(before) {
            Some(more) => self.bytes.fetch_add(more, Ordering::Relaxed),
            None => self.bytes.fetch_sub(before - after, Ordering::Relaxed),
        };
        match (before, after) {
            (0, 1..) => self.outboxes.fetch_add(1, Ordering::Relaxed),
            (1.., 0) => self.outboxes.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }
}

/// Frames that wait for one socket.
#[derive(Debug)]
pub(crate) struct Outbox {
    budget: Arc<Budget>,
    queue: VecDeque<Waiting>,
    /// Bytes in the queue and the gate, as far as the bounds count them.
    bytes: usize,
    /// Boxed: used while a join is in flight.
    gate: Option<Box<Gate>>,
    /// How far the client has got in each of its rooms, if all that was said reaches it.
    offset: Vec<(RoomId, Cursor)>,
    /// The first frame of the queue has left in part.
    is_front_partial: bool,
    /// Takes no more frames.
    is_shut: bool,
}

#[derive(Debug)]
struct Waiting {
    frames: Bytes,
    /// Bytes that the bounds count.
    counts: usize,
}

/// Rooms whose frames wait until a join is answered. A client has one request at a time, so there is
/// one room but for a reconnect, which brings back several.
#[derive(Debug, Default)]
struct Gate {
    rooms: Vec<HeldRoom>,
}

#[derive(Debug)]
struct HeldRoom {
    room: RoomId,
    parts: Vec<Part>,
}

impl Outbox {
    /// An empty outbox that shares `budget` with all others.
    pub(crate) const fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            queue: VecDeque::new(),
            bytes: 0,
            gate: None,
            offset: Vec::new(),
            is_front_partial: false,
            is_shut: false,
        }
    }

    /// Writes frames by `write` if nothing waits, and queues what is left of them.
    pub(crate) fn push(
        &mut self,
        frames: &Bytes,
        write: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> Pushed {
        self.push_counting(frames, usize::MAX, write)
    }

    /// As [`Self::push`]; of what waits the bounds count at most so many bytes.
    fn push_counting(
        &mut self,
        frames: &Bytes,
        counts_max: usize,
        write: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> Pushed {
        if self.is_shut || frames.is_empty() {
            return Pushed::Done;
        }
        if !self.queue.is_empty() {
            return self.enqueue(frames.clone(), counts_max);
        }
        match write(frames) {
            Ok(written) if written >= frames.len() => Pushed::Done,
            Ok(written) => {
                self.is_front_partial = written > 0;
                self.enqueue(frames.slice(written..), counts_max)
            }
            Err(error) if is_transient(&error) => self.enqueue(frames.clone(), counts_max),
            Err(_) => Pushed::Lost,
        }
    }

    /// Writes what waits by `write` until that would block.
    ///
    /// # Errors
    /// The socket's error.
    pub(crate) fn flush(
        &mut self,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<Flushed> {
        let mut has_progressed = false;
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            for (slice, waiting) in slices.iter_mut().zip(&self.queue) {
                *slice = IoSlice::new(&waiting.frames);
                count += 1;
            }
            match write(slices.get(..count).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    has_progressed = true;
                    self.advance(written);
                }
                Err(error) if is_transient(&error) => break,
                Err(error) => return Err(error),
            }
        }
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        Ok(Flushed {
            is_empty: self.queue.is_empty(),
            has_progressed,
        })
    }

    /// Makes the frames of `room` wait until it is released.
    pub(crate) fn hold(&mut self, room: RoomId) {
        self.take_held(room);
        let parts = Vec::new();
        let gate = self.gate.get_or_insert_default();
        gate.rooms.push(HeldRoom { room, parts });
    }

    /// Notes that the client has got as far as `cursor` in `room`: nothing up to there is sent again.
    pub(crate) fn note_cursor(&mut self, room: RoomId, cursor: Cursor) {
        match self.cursor_mut(room) {
            Some(known) => *known = cursor,
            None => {
                self.offset.reserve_exact(1);
                self.offset.push((room, cursor));
            }
        }
    }

    /// The offset as the client is told it. One of very many rooms is told none: it would be too long to
    /// say, and to come back with.
    fn told_offset(&self) -> &[(RoomId, Cursor)] {
        if self.offset.len() > OFFSET_ROOMS_MAX {
            return &[];
        }
        &self.offset
    }

    fn cursor_mut(&mut self, room: RoomId) -> Option<&mut Cursor> {
        let entry = self.offset.iter_mut().find(|(other, _)| *other == room);
        entry.map(|(_, cursor)| cursor)
    }

    /// Sends the parts of `room`, given as one buffer and one by one, but what the client has already.
    /// While the room is held they wait.
    pub(crate) fn deliver(
        &mut self,
        room: RoomId,
        all: &Bytes,
        parts: &[Part],
        write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> Pushed {
        if self.is_shut {
            return Pushed::Done;
        }
        let gate = self.gate.as_mut();
        let held = gate.and_then(|gate| gate.rooms.iter_mut().find(|held| held.room == room));
        if let Some(held) = held {
            held.parts.extend_from_slice(parts);
            self.charge(self.bytes + counted(parts));
            return if self.budget.allows(self.bytes) {
                Pushed::Done
            } else {
                Pushed::Overflow
            };
        }
        if self.is_as_others(room, parts) {
            return self.push_counting(all, counted(parts), write);
        }
        let mut frames = Vec::new();
        self.append_parts(room, parts, &mut frames);
        self.push_counting(&frames.into(), counted(parts), write)
    }

    /// Whether the client needs all of the parts as they are; then it has got as far as they take it.
    fn is_as_others(&mut self, room: RoomId, parts: &[Part]) -> bool {
        let mut reaches = parts.iter().filter_map(|part| part.reach);
        let Some(first) = reaches.next() else {
            return true;
        };
        let [(only, cursor)] = self.offset.as_mut_slice() else {
            return false;
        };
        let is_next = first.is_next(*cursor) && first.place.advance(*cursor) == first.cursor;
        if *only != room || !is_next {
            return false;
        }
        *cursor = reaches.last().unwrap_or(first).cursor;
        true
    }

    /// Gathers what the client has not had, with its own offset where that is not the others'.
    fn append_parts(&mut self, room: RoomId, parts: &[Part], frames: &mut Vec<u8>) {
        for part in parts {
            let Some(reach) = part.reach else {
                frames.extend_from_slice(&part.frames);
                continue;
            };
            if let Some(cursor) = self.cursor_mut(room) {
                if !reach.is_next(*cursor) {
                    continue; // had, or comes again behind what the room reads from its log
                }
                *cursor = reach.place.advance(*cursor);
            }
            part.append_with_offset(self.told_offset(), frames);
        }
    }

    /// Sends an event with the client's offset behind it.
    pub(crate) fn push_with_offset(
        &mut self,
        event: &str,
        write: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> Pushed {
        self.push(&text_frame(&with_offset(event, self.told_offset())), write)
    }

    /// Ends the hold of `room`: the answer goes first, then what was missed, then what waited; nothing
    /// twice. No bound counts it: it may be long, and what the room says while the client reads it must
    /// not end the client.
    pub(crate) fn release(
        &mut self,
        room: RoomId,
        opening: Opening<'_>,
        write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> Pushed {
        let held = self.take_held(room);
        self.note_cursor(room, opening.cursor);
        let mut frames = Vec::new();
        if let Some(answer) = opening.answer {
            append_text_frame(&mut frames, &with_offset(answer, self.told_offset()));
        }
        self.append_parts(room, opening.missed, &mut frames);
        self.append_parts(room, &held, &mut frames);
        self.push_counting(&frames.into(), 0, write)
    }

    /// Forgets `room` and what waited of it: the join failed, or the client has left.
    pub(crate) fn forget(&mut self, room: RoomId) {
        self.take_held(room);
        self.offset.retain(|(other, _)| *other != room);
    }

    /// Takes no more frames. What waits leaves still, then `farewell`.
    pub(crate) fn shut(&mut self, farewell: Option<Bytes>) {
        self.drop_gate();
        self.is_shut = true;
        if let Some(farewell) = farewell {
            self.charge(self.bytes + farewell.len());
            self.queue.push_back(Waiting {
                counts: farewell.len(),
                frames: farewell,
            });
        }
    }

    /// Forgets what waits but for a frame that has left in part: after it, a last word is understood.
    pub(crate) fn discard(&mut self) {
        self.drop_gate();
        self.queue.truncate(usize::from(self.is_front_partial));
        self.queue.shrink_to_fit();
        self.charge(self.queue.iter().map(|waiting| waiting.counts).sum());
    }

    fn enqueue(&mut self, frames: Bytes, counts_max: usize) -> Pushed {
        // Whatever its size, one batch may wait: an answer must not fail for its length.
        let is_first = self.bytes == 0;
        let counts = frames.len().min(counts_max);
        self.charge(self.bytes + counts);
        self.queue.push_back(Waiting { frames, counts });
        if is_first || self.budget.allows(self.bytes) {
            Pushed::Queued
        } else {
            Pushed::Overflow
        }
    }

    fn advance(&mut self, mut written: usize) {
        let mut bytes = self.bytes;
        while let Some(front) = self.queue.front_mut() {
            bytes -= front.counts;
            if written < front.frames.len() {
                front.frames.advance(written);
                front.counts = front.counts.min(front.frames.len());
                bytes += front.counts;
                self.is_front_partial |= written > 0;
                break;
            }
            written -= front.frames.len();
            self.queue.pop_front();
            self.is_front_partial = false;
        }
        self.charge(bytes);
    }

    fn take_held(&mut self, room: RoomId) -> Vec<Part> {
        let Some(gate) = &mut self.gate else {
            return Vec::new();
        };
        let Some(place) = gate.rooms.iter().position(|held| held.room == room) else {
            return Vec::new();
        };
        let held = gate.rooms.swap_remove(place);
        if gate.rooms.is_empty() {
            self.gate = None;
        }
        self.charge(self.bytes.saturating_sub(counted(&held.parts)));
        held.parts
    }

    fn drop_gate(&mut self) {
        if let Some(gate) = self.gate.take() {
            let held: usize = gate.rooms.iter().map(|held| counted(&held.parts)).sum();
            self.charge(self.bytes.saturating_sub(held));
        }
    }

    fn charge(&mut self, bytes: usize) {
        let before = mem::replace(&mut self.bytes, bytes);
        self.budget.settle(before, bytes);
    }
}

/// What the bounds count of a room's frames: a list of many participants is one buffer for all of them
/// and comes seldom, and no member is too slow for not having taken it at once.
fn counted(parts: &[Part]) -> usize {
    let bytes = parts.iter().map(|part| part.frames.len().min(LONG_BYTES));
    bytes.sum()
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.charge(0);
    }
}

/// Whether a call would have blocked, and may be made again later.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use slotcast_proto::{id::StreamPosition, slot::Slot};

    use super::*;
    use crate::{feed::Item, store::Missed, websocket::text_of_frame};

    /// A socket that takes a number of bytes and then blocks.
    #[derive(Default)]
    struct Socket {
        taken: Vec<u8>,
        room: usize,
    }

    impl Socket {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let written = bytes.len().min(self.room);
            self.room -= written;
            self.taken.extend_from_slice(&bytes[..written]);
            Ok(written)
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let slices: Vec<&[u8]> = slices.iter().map(|slice| &**slice).collect();
            self.write(&slices.concat())
        }
    }

    fn outbox(bytes_max: usize) -> Outbox {
        Outbox::new(Arc::new(Budget::new(1 << 20, bytes_max)))
    }

    fn push(outbox: &mut Outbox, socket: &mut Socket, frames: &str) -> Pushed {
        outbox.push(&Bytes::copy_from_slice(frames.as_bytes()), |bytes| {
            socket.write(bytes)
        })
    }

    fn flush(outbox: &mut Outbox, socket: &mut Socket) -> Flushed {
        outbox
            .flush(|slices| socket.write_vectored(slices))
            .unwrap()
    }

    fn room(number: u32) -> RoomId {
        RoomId::new(Slot::new(7).unwrap(), number)
    }

    #[test]
    fn an_idle_socket_is_written_directly() {
        let mut socket = Socket {
            room: 100,
            ..Socket::default()
        };
        let mut outbox = outbox(1000);
        assert_eq!(push(&mut outbox, &mut socket, "hello"), Pushed::Done);
        assert_eq!(socket.taken, b"hello");
        assert_eq!(outbox.budget.bytes(), 0);
    }

    #[test]
    fn what_a_socket_does_not_take_leaves_in_order_later() {
        let mut socket = Socket {
            room: 3,
            ..Socket::default()
        };
        let mut outbox = outbox(1000);
        assert_eq!(push(&mut outbox, &mut socket, "first"), Pushed::Queued);
        socket.room = 100;
        assert_eq!(push(&mut outbox, &mut socket, "second"), Pushed::Queued);
        assert_eq!(socket.taken, b"fir");
        let flushed = flush(&mut outbox, &mut socket);
        assert_eq!(
            flushed,
            Flushed {
                is_empty: true,
                has_progressed: true
            }
        );
        assert_eq!(socket.taken, b"firstsecond");
        assert_eq!((outbox.budget.bytes(), outbox.budget.outboxes()), (0, 0));
    }

    #[test]
    fn a_full_outbox_overflows_but_one_batch_always_waits() {
        let mut socket = Socket::default();
        let mut outbox = outbox(10);
        assert_eq!(
            push(&mut outbox, &mut socket, &"x".repeat(50)),
            Pushed::Queued
        );
        assert_eq!(push(&mut outbox, &mut socket, "y"), Pushed::Overflow);
    }

    #[test]
    fn over_the_total_only_those_above_their_share_overflow() {
        let budget = Arc::new(Budget::new(100, 90));
        let mut greedy = Outbox::new(Arc::clone(&budget));
        let mut modest = Outbox::new(Arc::clone(&budget));
        let mut socket = Socket::default();
        assert_eq!(
            push(&mut greedy, &mut socket, &"x".repeat(85)),
            Pushed::Queued
        );
        assert_eq!(push(&mut modest, &mut socket, "12345"), Pushed::Queued);
        assert_eq!(
            push(&mut modest, &mut socket, &"y".repeat(20)),
            Pushed::Queued
        );
        assert_eq!(budget.bytes(), 110);
        assert_eq!(push(&mut greedy, &mut socket, "z"), Pushed::Overflow);
        drop(greedy);
        assert_eq!((budget.bytes(), budget.outboxes()), (25, 1));
        assert_eq!(
            push(&mut modest, &mut socket, &"y".repeat(60)),
            Pushed::Queued
        );
    }

    #[test]
    fn a_long_list_counts_in_part_so_that_messages_may_wait_behind_it() {
        let list = Item::event("x".repeat(10 * LONG_BYTES)).part(room(1), cursor(0, 0));
        let message = Item::event("y".repeat(100)).part(room(1), cursor(0, 0));
        let mut socket = Socket::default();
        let mut outbox = outbox(2 * LONG_BYTES + 1000);
        let mut deliver = |part: &Part| {
            deliver(
                &mut outbox,
                &mut socket,
                room(1),
                std::slice::from_ref(part),
            )
        };
        for part in [&message, &list, &message, &list, &message] {
            assert_eq!(deliver(part), Pushed::Queued);
        }
        assert_eq!(deliver(&list), Pushed::Overflow);
        socket.room = 10 * LONG_BYTES;
        flush(&mut outbox, &mut socket);
        assert!((LONG_BYTES..3 * LONG_BYTES).contains(&outbox.bytes));
        socket.room = usize::MAX;
        assert!(flush(&mut outbox, &mut socket).is_empty);
        assert_eq!(outbox.budget.bytes(), 0);
    }

    #[test]
    fn a_broken_socket_is_lost() {
        let error = || io::Error::from(io::ErrorKind::BrokenPipe);
        let mut outbox = outbox(1000);
        let pushed = outbox.push(&Bytes::from_static(b"x"), |_| Err(error()));
        assert_eq!(pushed, Pushed::Lost);
        push(&mut outbox, &mut Socket::default(), "x");
        assert!(outbox.flush(|_| Err(error())).is_err());
    }

    fn cursor(message: u64, change: u64) -> Cursor {
        let position = |number| StreamPosition { epoch: 1, number };
        Cursor {
            message: position(message),
            change: position(change),
        }
    }

    /// The parts of a room whose members are at `from`: the messages and changes after it.
    fn parts(room: RoomId, from: Cursor, upto: Cursor) -> Vec<Part> {
        let missed = Missed {
            messages: (from.message.number + 1..=upto.message.number)
                .map(|number| (cursor(number, 0).message, format!("{number}")))
                .collect(),
            changes: (from.change.number + 1..=upto.change.number)
                .map(|number| {
                    let change = format!("a 000700000001{number:08x}0001 {{}}");
                    (cursor(0, number).change, change)
                })
                .collect(),
            ..Missed::default()
        };
        let mut at = from;
        let items = Item::missed(&missed, from);
        let parts = items.iter().map(|item| {
            let part = item.part(room, at);
            at = part.reach.map_or(at, |reach| reach.cursor);
            part
        });
        parts.collect()
    }

    fn deliver(outbox: &mut Outbox, socket: &mut Socket, room: RoomId, parts: &[Part]) -> Pushed {
        let frames: Vec<_> = parts.iter().map(|part| part.frames.to_vec()).collect();
        let all = frames.concat().into();
        outbox.deliver(room, &all, parts, |bytes| socket.write(bytes))
    }

    fn opening(cursor: Cursor) -> Opening<'static> {
        Opening {
            cursor,
            answer: Some(r#"42["answer"]"#),
            missed: &[],
        }
    }

    fn release(outbox: &mut Outbox, socket: &mut Socket, room: RoomId, opening: Opening<'_>) {
        outbox.release(room, opening, |bytes| socket.write(bytes));
    }

    /// Payload and offset of each event that the socket took.
    fn events(socket: &mut Socket) -> Vec<(String, String)> {
        let mut events = Vec::new();
        let taken = mem::take(&mut socket.taken);
        let mut rest = &taken[..];
        while !rest.is_empty() {
            let length = match rest[1] {
                126 => 4 + usize::from(u16::from_be_bytes([rest[2], rest[3]])),
                short => 2 + usize::from(short),
            };
            let packet = text_of_frame(&rest[..length]).unwrap();
            let (event, offset) = packet.rsplit_once(",\"").unwrap_or((packet, "\"]"));
            let payload = event.rsplit_once(",").map_or(event, |(_, payload)| payload);
            events.push((payload.to_owned(), offset.replace("\"]", "")));
            rest = &rest[length..];
        }
        events
    }

    fn event(payload: &str, offset: &str) -> (String, String) {
        (payload.to_owned(), offset.to_owned())
    }

    fn wide() -> Socket {
        Socket {
            room: 100_000,
            ..Socket::default()
        }
    }

    #[test]
    fn the_answer_comes_before_what_its_room_said_meanwhile() {
        let (mut socket, mut outbox) = (wide(), outbox(1000));
        outbox.hold(room(1));
        let meanwhile = parts(room(1), cursor(3, 0), cursor(5, 0));
        deliver(&mut outbox, &mut socket, room(1), &meanwhile);
        assert!(socket.taken.is_empty() && outbox.budget.bytes() > 0);
        release(&mut outbox, &mut socket, room(1), opening(cursor(4, 0)));
        let expected = [
            event(r#"42["answer""#, "000700000001:1-4:1-0"),
            event("5", "000700000001:1-5:1-0"),
        ];
        assert_eq!(events(&mut socket), expected, "the answer held 4 already");
        assert_eq!(outbox.budget.bytes(), 0);
        assert!(outbox.gate.is_none());
    }

    #[test]
    fn what_the_answer_held_already_does_not_follow_it() {
        let (mut socket, mut outbox) = (wide(), outbox(1000));
        outbox.hold(room(1));
        release(&mut outbox, &mut socket, room(1), opening(cursor(4, 2)));
        events(&mut socket);
        let late = parts(room(1), cursor(2, 1), cursor(5, 3));
        deliver(&mut outbox, &mut socket, room(1), &late);
        let told = events(&mut socket);
        assert_eq!(told.len(), 2, "message 5 and change 3: {told:?}");
        assert_eq!(told[0], event("5", "000700000001:1-5:1-2"));
        assert_eq!(told[1].1, "000700000001:1-5:1-3");
    }

    #[test]
    fn what_was_missed_comes_between_the_answer_and_what_waited() {
        let (mut socket, mut outbox) = (wide(), outbox(1000));
        outbox.hold(room(1));
        let waited = parts(room(1), cursor(6, 0), cursor(8, 0));
        deliver(&mut outbox, &mut socket, room(1), &waited);
        let missed = parts(room(1), cursor(4, 0), cursor(7, 0));
        let opening = Opening {
            missed: &missed,
            answer: None,
            ..opening(cursor(4, 0))
        };
        release(&mut outbox, &mut socket, room(1), opening);
        let payloads: Vec<_> = events(&mut socket)
            .into_iter()
            .map(|event| event.0)
            .collect();
        assert_eq!(payloads, ["5", "6", "7", "8"]);
    }

    #[test]
    fn what_has_a_gap_before_it_waits_for_the_log() {
        let (mut socket, mut outbox) = (wide(), outbox(1000));
        outbox.hold(room(1));
        let later = parts(room(1), cursor(6, 0), cursor(8, 0));
        deliver(&mut outbox, &mut socket, room(1), &later[..1]);
        release(&mut outbox, &mut socket, room(1), opening(cursor(5, 0)));
        deliver(&mut outbox, &mut socket, room(1), &later[1..]);
        assert_eq!(events(&mut socket).len(), 1, "the answer");
        let read = parts(room(1), cursor(5, 0), cursor(8, 0));
        deliver(&mut outbox, &mut socket, room(1), &read);
        let payloads: Vec<_> = events(&mut socket)
            .into_iter()
            .map(|event| event.0)
            .collect();
        assert_eq!(payloads, ["6", "7", "8"]);
    }

    #[test]
    fn change_takes_nobody_past_a_message() {
        let (mut socket, mut outbox) = (wide(), outbox(1000));
        release(&mut outbox, &mut socket, room(1), opening(cursor(5, 5)));
        events(&mut socket);
        let others = parts(room(1), cursor(6, 5), cursor(6, 6));
        deliver(&mut outbox, &mut socket, room(1), &others);
        let read = parts(room(1), cursor(5, 6), cursor(6, 6));
        deliver(&mut outbox, &mut socket, room(1), &read);
        let offsets: Vec<_> = events(&mut socket)
            .into_iter()
            .map(|event| event.1)
            .collect();
        assert_eq!(offsets, ["000700000001:1-5:1-6", "000700000001:1-6:1-6"]);
    }

    #[test]
    fn client_in_two_rooms_is_told_how_far_it_is_in_both() {
        let (mut socket, mut outbox) = (wide(), outbox(1000));
        for number in [1, 2] {
            outbox.hold(room(number));
            release(
                &mut outbox,
                &mut socket,
                room(number),
                opening(cursor(0, 0)),
            );
        }
        events(&mut socket);
        let one = parts(room(1), cursor(0, 0), cursor(1, 0));
        let two = parts(room(2), cursor(0, 0), cursor(0, 1));
        deliver(&mut outbox, &mut socket, room(1), &one);
        deliver(&mut outbox, &mut socket, room(2), &two);
        let offsets: Vec<_> = events(&mut socket)
            .into_iter()
            .map(|event| event.1)
            .collect();
        assert_eq!(
            offsets,
            [
                "000700000001:1-1:1-0,000700000002:1-0:1-0",
                "000700000001:1-1:1-0,000700000002:1-0:1-1"
            ]
        );
        outbox.forget(room(1));
        let next = parts(room(2), cursor(0, 1), cursor(1, 1));
        deliver(&mut outbox, &mut socket, room(2), &next);
        let shared = next[0].frames.clone();
        assert_eq!(socket.taken, shared, "in one room again: the frame of all");
    }

    #[test]
    fn long_opening_leaves_the_whole_bound_to_what_follows() {
        let (mut socket, mut outbox) = (Socket::default(), outbox(130));
        push(&mut outbox, &mut socket, "first");
        outbox.hold(room(1));
        let missed = parts(room(1), cursor(0, 0), cursor(20, 0));
        let opening = Opening {
            missed: &missed,
            ..opening(cursor(0, 0))
        };
        let released = outbox.release(room(1), opening, |bytes| socket.write(bytes));
        assert_eq!(released, Pushed::Queued);
        let next = |number| parts(room(1), cursor(number, 0), cursor(number + 1, 0));
        let mut deliver = |number| deliver(&mut outbox, &mut socket, room(1), &next(number));
        assert_eq!((deliver(20), deliver(21)), (Pushed::Queued, Pushed::Queued));
        assert_eq!(deliver(22), Pushed::Overflow);
    }

    #[test]
    fn held_frames_count_and_can_be_forgotten() {
        let (mut socket, mut outbox) = (wide(), outbox(60));
        outbox.hold(room(1));
        let message = parts(room(1), cursor(0, 0), cursor(1, 0));
        assert_eq!(
            deliver(&mut outbox, &mut socket, room(1), &message),
            Pushed::Done
        );
        assert_eq!(
            deliver(&mut outbox, &mut socket, room(1), &message),
            Pushed::Overflow
        );
        outbox.forget(room(1));
        assert_eq!(outbox.budget.bytes(), 0);
        outbox.forget(room(1));
        assert!(socket.taken.is_empty());
    }

    #[test]
    fn the_last_word_follows_a_frame_that_left_in_part() {
        let mut socket = Socket {
            room: 3,
            ..Socket::default()
        };
        let mut outbox = outbox(1000);
        push(&mut outbox, &mut socket, "first");
        push(&mut outbox, &mut socket, "second");
        outbox.discard();
        outbox.shut(Some(Bytes::from_static(b" close")));
        assert_eq!(push(&mut outbox, &mut socket, "late"), Pushed::Done);
        socket.room = 100;
        flush(&mut outbox, &mut socket);
        assert_eq!(socket.taken, b"first close");
        assert_eq!(outbox.budget.bytes(), 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(Vec<u8>),
        Room(usize),
        Flush,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            vec(any::<u8>(), 0..40).prop_map(Step::Push),
            (0_usize..60).prop_map(Step::Room),
            Just(Step::Flush),
        ]
    }

    proptest! {
        #[test]
        fn everything_leaves_once_and_in_order(steps in vec(any_step(), 0..200)) {
            let mut socket = Socket::default();
            let mut outbox = outbox(usize::MAX);
            let mut said = Vec::new();
            for step in steps {
                match step {
                    Step::Push(bytes) => {
                        said.extend_from_slice(&bytes);
                        outbox.push(&Bytes::from(bytes), |bytes| socket.write(bytes));
                    }
                    Step::Room(bytes) => socket.room = bytes,
                    Step::Flush => drop(flush(&mut outbox, &mut socket)),
                }
                prop_assert_eq!(outbox.bytes, said.len() - socket.taken.len());
                prop_assert_eq!(outbox.budget.bytes(), outbox.bytes);
                prop_assert!(said.starts_with(&socket.taken));
            }
            socket.room = usize::MAX;
            flush(&mut outbox, &mut socket);
            prop_assert_eq!(socket.taken, said);
        }
    }
}
