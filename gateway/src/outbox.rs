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
use slotcast_proto::id::{RoomId, StreamPosition};

/// Most frames of one write; more gain nothing (the kernel's own bound is 1,024).
const SLICES_MAX: usize = 64;

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

    /// Bytes that wait for all sockets. A frame shared by many is counted for each.
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
    queue: VecDeque<Bytes>,
    /// Bytes in the queue and the gate.
    bytes: usize,
    /// Boxed: used while a join is in flight, and until the first message after it has come.
    gate: Option<Box<Gate>>,
    /// The first frame of the queue has left in part.
    is_front_partial: bool,
    /// Takes no more frames.
    is_shut: bool,
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
    frames: Vec<Part>,
    /// Set when the join was answered: older messages were in the answer. Until the first message from
    /// there on has come, older ones may follow.
    from: Option<StreamPosition>,
}

/// A frame of a room, with its position if it is a message of the log.
pub(crate) type Part = (Option<StreamPosition>, Bytes);

/// Whether a message from `from` on is among the parts.
fn has_begun(parts: &[Part], from: StreamPosition) -> bool {
    parts
        .iter()
        .any(|(position, _)| position.is_some_and(|at| at >= from))
}

/// Of two outcomes the one that matters more to the connection.
fn worst(one: Pushed, other: Pushed) -> Pushed {
    match (one, other) {
        (Pushed::Lost, _) | (_, Pushed::Lost) => Pushed::Lost,
        (Pushed::Overflow, _) | (_, Pushed::Overflow) => Pushed::Overflow,
        (Pushed::Queued, _) | (_, Pushed::Queued) => Pushed::Queued,
        (Pushed::Done, Pushed::Done) => Pushed::Done,
    }
}

impl Outbox {
    /// An empty outbox that shares `budget` with all others.
    pub(crate) const fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            queue: VecDeque::new(),
            bytes: 0,
            gate: None,
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
        if self.is_shut || frames.is_empty() {
            return Pushed::Done;
        }
        if !self.queue.is_empty() {
            return self.enqueue(frames.clone());
        }
        match write(frames) {
            Ok(written) if written >= frames.len() => Pushed::Done,
            Ok(written) => {
                self.is_front_partial = written > 0;
                self.enqueue(frames.slice(written..))
            }
            Err(error) if is_transient(&error) => self.enqueue(frames.clone()),
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
            for (slice, frame) in slices.iter_mut().zip(&self.queue) {
                *slice = IoSlice::new(frame);
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
        self.gate.get_or_insert_default().rooms.push(HeldRoom {
            room,
            frames: Vec::new(),
            from: None,
        });
    }

    /// Like [`push`](Self::push) of `all`, unless `room` is held: then its parts wait one by one.
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
        let Some(held) = gate.and_then(|gate| gate.rooms.iter_mut().find(|held| held.room == room))
        else {
            return self.push(all, write);
        };
        if let Some(from) = held.from {
            if has_begun(parts, from) {
                self.take_held(room);
            }
            return self.push_from(parts, from, write);
        }
        held.frames.extend_from_slice(parts);
        self.charge(self.bytes + all.len());
        if self.budget.allows(self.bytes) {
            Pushed::Done
        } else {
            Pushed::Overflow
        }
    }

    /// Ends the hold of `room`: `answer` goes first, then what waited and has no position or one not
    /// before `from`. What is older may still be on its way and is dropped when it comes.
    pub(crate) fn release(
        &mut self,
        room: RoomId,
        answer: Option<Bytes>,
        from: StreamPosition,
        mut write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> Pushed {
        let held = self.take_held(room);
        if !has_begun(&held, from) {
            self.gate.get_or_insert_default().rooms.push(HeldRoom {
                room,
                frames: Vec::new(),
                from: Some(from),
            });
        }
        let answered = answer.map_or(Pushed::Done, |answer| self.push(&answer, &mut write));
        worst(answered, self.push_from(&held, from, write))
    }

    fn push_from(
        &mut self,
        parts: &[Part],
        from: StreamPosition,
        mut write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> Pushed {
        let mut pushed = Pushed::Done;
        for (_, frames) in parts
            .iter()
            .filter(|(at, _)| at.is_none_or(|at| at >= from))
        {
            pushed = worst(pushed, self.push(frames, &mut write));
        }
        pushed
    }

    /// Ends the hold of `room` and forgets what waited.
    pub(crate) fn discard_held(&mut self, room: RoomId) {
        self.take_held(room);
    }

    /// Takes no more frames. What waits leaves still, then `farewell`.
    pub(crate) fn shut(&mut self, farewell: Option<Bytes>) {
        self.drop_gate();
        self.is_shut = true;
        if let Some(farewell) = farewell {
            self.charge(self.bytes + farewell.len());
            self.queue.push_back(farewell);
        }
    }

    /// Forgets what waits but for a frame that has left in part: after it, a last word is understood.
    pub(crate) fn discard(&mut self) {
        self.drop_gate();
        self.queue.truncate(usize::from(self.is_front_partial));
        self.queue.shrink_to_fit();
        self.charge(self.queue.iter().map(Bytes::len).sum());
    }

    fn enqueue(&mut self, frames: Bytes) -> Pushed {
        // Whatever its size, one batch may wait: an answer must not fail for its length.
        let is_first = self.bytes == 0;
        self.charge(self.bytes + frames.len());
        self.queue.push_back(frames);
        if is_first || self.budget.allows(self.bytes) {
            Pushed::Queued
        } else {
            Pushed::Overflow
        }
    }

    fn advance(&mut self, mut written: usize) {
        self.charge(self.bytes.saturating_sub(written));
        while let Some(front) = self.queue.front_mut() {
            if written < front.len() {
                front.advance(written);
                self.is_front_partial |= written > 0;
                return;
            }
            written -= front.len();
            self.queue.pop_front();
            self.is_front_partial = false;
        }
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
        self.charge(self.bytes.saturating_sub(held.bytes()));
        held.frames
    }

    fn drop_gate(&mut self) {
        if let Some(gate) = self.gate.take() {
            let held: usize = gate.rooms.iter().map(HeldRoom::bytes).sum();
            self.charge(self.bytes.saturating_sub(held));
        }
    }

    fn charge(&mut self, bytes: usize) {
        let before = mem::replace(&mut self.bytes, bytes);
        self.budget.settle(before, bytes);
    }
}

impl HeldRoom {
    fn bytes(&self) -> usize {
        self.frames.iter().map(|(_, frames)| frames.len()).sum()
    }
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
    use slotcast_proto::slot::Slot;

    use super::*;

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

    fn position(number: u64) -> StreamPosition {
        StreamPosition { epoch: 1, number }
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
    fn a_broken_socket_is_lost() {
        let error = || io::Error::from(io::ErrorKind::BrokenPipe);
        let mut outbox = outbox(1000);
        let pushed = outbox.push(&Bytes::from_static(b"x"), |_| Err(error()));
        assert_eq!(pushed, Pushed::Lost);
        push(&mut outbox, &mut Socket::default(), "x");
        assert!(outbox.flush(|_| Err(error())).is_err());
    }

    #[test]
    fn the_answer_comes_before_what_its_room_said_meanwhile() {
        let mut socket = Socket {
            room: 1000,
            ..Socket::default()
        };
        let mut outbox = outbox(1000);
        outbox.hold(room(1));
        for (number, frames) in [(Some(4), "old "), (None, "typing "), (Some(5), "new ")] {
            let frames = Bytes::from_static(frames.as_bytes());
            let parts = [(number.map(position), frames.clone())];
            outbox.deliver(room(1), &frames, &parts, |bytes| socket.write(bytes));
        }
        let other = Bytes::from_static(b"other room ");
        let parts = [(Some(position(9)), other.clone())];
        outbox.deliver(room(2), &other, &parts, |bytes| socket.write(bytes));
        assert_eq!(outbox.budget.bytes(), 15);
        let answer = Bytes::from_static(b"answer ");
        outbox.release(room(1), Some(answer), position(5), |bytes| {
            socket.write(bytes)
        });
        assert_eq!(
            String::from_utf8_lossy(&socket.taken),
            "other room answer typing new "
        );
        assert_eq!(outbox.budget.bytes(), 0);
        assert!(outbox.gate.is_none());
    }

    #[test]
    fn what_the_answer_held_already_does_not_follow_it() {
        let mut socket = Socket {
            room: 1000,
            ..Socket::default()
        };
        let mut outbox = outbox(1000);
        outbox.hold(room(1));
        let answer = Bytes::from_static(b"answer ");
        outbox.release(room(1), Some(answer), position(5), |bytes| {
            socket.write(bytes)
        });
        for (number, frames) in [
            (Some(4), "old "),
            (None, "typing "),
            (Some(5), "new "),
            (Some(6), "newer "),
        ] {
            let frames = Bytes::from_static(frames.as_bytes());
            let parts = [(number.map(position), frames.clone())];
            outbox.deliver(room(1), &frames, &parts, |bytes| socket.write(bytes));
        }
        assert_eq!(
            String::from_utf8_lossy(&socket.taken),
            "answer typing new newer "
        );
        assert!(outbox.gate.is_none(), "a message from there on ends it");
    }

    #[test]
    fn held_frames_count_and_can_be_discarded() {
        let mut socket = Socket {
            room: 1000,
            ..Socket::default()
        };
        let mut outbox = outbox(10);
        outbox.hold(room(1));
        let frames = Bytes::from_static(b"123456");
        let parts = [(None, frames.clone())];
        let mut deliver = || outbox.deliver(room(1), &frames, &parts, |bytes| socket.write(bytes));
        assert_eq!(deliver(), Pushed::Done);
        assert_eq!(deliver(), Pushed::Overflow);
        outbox.discard_held(room(1));
        assert_eq!(outbox.budget.bytes(), 0);
        outbox.discard_held(room(1));
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
