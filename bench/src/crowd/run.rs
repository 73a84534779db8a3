//! One run of messages, of read marks, or of all that users do, through the crowd, as all of its threads see it.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::tag::{RUNS_MAX, Tag};
use crate::clock::NS_PER_MS;

/// When messages are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// One every so many nanoseconds, whatever becomes of those before (open loop).
    Every(u64),
    /// So many on their way at any time (closed loop).
    Window(u32),
    /// By somebody else, who says how many at the end: [`Run::sent_elsewhere`].
    Elsewhere {
        /// Between two messages, where they have a pace.
        period_ns: Option<u64>,
    },
}

/// What members send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Message,
    /// Of one message each; nothing comes back that could be counted.
    ReadMark,
    /// What users of a chat do all at once: messages, a mark of each by every member as soon as it has
    /// it, and pages of history.
    Mixed {
        /// With every so many-th of its messages a member asks for a page.
        history_every: u32,
    },
}

impl Deed {
    /// Whether a message is marked at once by every member that gets it.
    pub(super) const fn marks_at_once(self) -> bool {
        matches!(self, Self::Mixed { .. })
    }

    /// Whether the member that has sent so many messages asks for a page: members take turns.
    pub(super) fn asks_for_page(self, index: u32, sent: u32) -> bool {
        match self {
            Self::Mixed { history_every } => index.wrapping_add(sent).is_multiple_of(history_every),
            Self::Message | Self::ReadMark => false,
        }
    }
}

/// The moments of a run, in nanoseconds since its origin. Messages are sent from the origin on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// When measuring begins.
    pub(crate) from_ns: u64,
    /// When measuring and sending end.
    pub(crate) until_ns: u64,
    /// Patience after the end, until every message has arrived everywhere.
    pub(crate) quiet_ns: u64,
}

/// What the threads share while messages are on their way.
pub(crate) struct Run {
    /// Told in tags.
    pub(crate) id: u32,
    pub(super) deed: Deed,
    pub(crate) pace: Pace,
    pub(crate) span: Span,
    /// When measuring and sending end, since the origin; earlier than planned if the run is stopped.
    until_ns: AtomicU64,
    /// Zero of all moments, on the machine's clock.
    pub(crate) origin_ns: u64,
    /// Members of each room, and the messages that each of them is due.
    rooms: Box<[(u32, AtomicU32)]>,
    /// Deliveries, and pages of history, that have yet to arrive.
    outstanding: AtomicI64,
    /// Who has not sent everything yet.
    senders: AtomicUsize,
    /// The last receipt of each message, by its place in the pace.
    last_receipts_ns: Box<[AtomicU64]>,
}

impl Run {
    /// A run through rooms of so many members. Whoever sends, a thread or somebody else, counts as one
    /// of `senders`.
    pub(crate) fn new(
        origin_ns: u64,
        pace: Pace,
        span: Span,
        members: impl Iterator<Item = u32>,
        senders: usize,
    ) -> Self {
        let messages = match pace {
            Pace::Every(period_ns)
            | Pace::Elsewhere {
                period_ns: Some(period_ns),
            } => span.until_ns.div_ceil(period_ns),
            Pace::Window(_) | Pace::Elsewhere { period_ns: None } => 0,
        };
        Self {
            id: fastrand::u32(1..RUNS_MAX),
            deed: Deed::Message,
            pace,
            span,
            until_ns: AtomicU64::new(span.until_ns),
            origin_ns,
            rooms: members
                .map(|members| (members, AtomicU32::new(0)))
                .collect(),
            outstanding: AtomicI64::new(0),
            senders: AtomicUsize::new(senders),
            last_receipts_ns: (0..messages).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The same with other deeds than messages.
    pub(super) fn of(self, deed: Deed) -> Self {
        Self { deed, ..self }
    }

    /// What the crowd keeps to while it only listens: a run of no messages.
    pub(super) fn none() -> Self {
        let span = Span {
            from_ns: 0,
            until_ns: 0,
            quiet_ns: 0,
        };
        Self {
            id: 0,
            ..Self::new(0, Pace::Window(0), span, std::iter::empty(), 0)
        }
    }

    /// A moment of the machine's clock, from the origin on.
    pub(super) fn since_origin(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.origin_ns)
    }

    /// Counts messages that were sent to a room.
    pub(super) fn add_due(&self, room: usize, messages: u32) {
        if let Some((members, due)) = self.rooms.get(room) {
            due.fetch_add(messages, Relaxed);
            let deliveries = i64::from(*members) * i64::from(messages);
            self.outstanding.fetch_add(deliveries, Relaxed);
        }
    }

    /// Takes back a message that was refused.
    pub(super) fn refuse(&self, room: usize) {
        if let Some((members, due)) = self.rooms.get(room) {
            due.fetch_sub(1, Relaxed);
            self.outstanding.fetch_sub((*members).into(), Relaxed);
        }
    }

    /// Counts a page of history that was asked for.
    pub(super) fn add_page(&self) {
        self.outstanding.fetch_add(1, Relaxed);
    }

    /// Messages that each member of a room is due.
    pub(super) fn due(&self, room: usize) -> u32 {
        let room = self.rooms.get(room);
        room.map_or(0, |(_, due)| due.load(Relaxed))
    }

    /// Messages that were accepted, in all rooms.
    pub(crate) fn accepted(&self) -> u64 {
        let dues = self.rooms.iter().map(|(_, due)| due.load(Relaxed));
        dues.map(u64::from).sum()
    }

    /// Counts deliveries, or pages, that have arrived.
    pub(super) fn receive(&self, count: i64) {
        self.outstanding.fetch_sub(count, Relaxed);
    }

    /// Notes that one message has arrived at one more member.
    pub(super) fn note_receipt(&self, tag: Tag, now_ns: u64) {
        let (Pace::Every(period_ns)
        | Pace::Elsewhere {
            period_ns: Some(period_ns),
        }) = self.pace
        else {
            return;
        };
        let place = usize::try_from(tag.intended_ns / period_ns).unwrap_or(usize::MAX);
        if let Some(last) = self.last_receipts_ns.get(place) {
            last.fetch_max(now_ns, Relaxed);
        }
    }

    /// Nanoseconds from when each measured message was due until its last member had it.
    pub(super) fn spreads_ns(&self) -> impl Iterator<Item = u64> {
        let period_ns = match self.pace {
            Pace::Every(period_ns) => period_ns,
            Pace::Elsewhere { period_ns } => period_ns.unwrap_or_default(),
            Pace::Window(_) => 0,
        };
        let dues = (0..).map(move |place| place * period_ns);
        let receipts = self.last_receipts_ns.iter().map(|last| last.load(Relaxed));
        let spreads = dues.zip(receipts);
        spreads.filter_map(|(due_ns, last_ns)| {
            let is_measured = last_ns > 0 && self.measures(due_ns);
            is_measured.then(|| last_ns.saturating_sub(due_ns))
        })
    }

    /// Whether a window has room for one more message to a room.
    pub(super) fn has_room(&self, room: usize, window: u32) -> bool {
        let members = self.rooms.get(room).map_or(0, |(members, _)| *members);
        let wanted = i64::from(members) * (i64::from(window) - 1);
        self.outstanding.load(Relaxed) <= wanted
    }

    /// Says that a thread has sent all it will.
    pub(super) fn end_sending(&self) {
        self.senders.fetch_sub(1, Relaxed);
    }

    /// Says, for somebody outside the crowd, how many messages were sent to the first room.
    pub(crate) fn sent_elsewhere(&self, messages: u32) {
        self.add_due(0, messages);
        self.end_sending();
    }

    /// Whether every message has arrived everywhere, and every page.
    pub(super) fn is_quiet(&self) -> bool {
        self.senders.load(Relaxed) == 0 && self.outstanding.load(Relaxed) <= 0
    }

    /// When sending ends, on the machine's clock.
    pub(super) fn end_ns(&self) -> u64 {
        self.origin_ns + self.until_ns.load(Relaxed)
    }

    /// Ends measuring and sending now, if that is earlier than planned.
    pub(crate) fn stop(&self, now_ns: u64) {
        let until_ns = self.since_origin(now_ns);
        self.until_ns.fetch_min(until_ns, Relaxed);
    }

    /// Whether a moment since the origin is measured.
    pub(super) fn measures(&self, ns: u64) -> bool {
        (self.span.from_ns..self.until_ns.load(Relaxed)).contains(&ns)
    }

    /// When the patience with what is missing ends, on the machine's clock.
    pub(super) fn deadline_ns(&self) -> u64 {
        self.end_ns() + self.span.quiet_ns
    }
}

/// How long after the last delivery the crowd listens for what should not come.
pub(super) const LISTEN_NS: u64 = 100 * NS_PER_MS;

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = Span {
        from_ns: 100,
        until_ns: 200,
        quiet_ns: 50,
    };

    fn tag(intended_ns: u64) -> Tag {
        Tag {
            run: 1,
            sender: 0,
            number: 1,
            intended_ns,
        }
    }

    #[test]
    fn a_run_is_quiet_when_every_member_has_what_was_accepted() {
        let run = Run::new(0, Pace::Every(10), SPAN, [3, 2].into_iter(), 1);
        run.add_due(0, 1);
        run.add_due(1, 1);
        run.end_sending();
        run.receive(3);
        assert!(!run.is_quiet());
        run.refuse(1);
        assert!(run.is_quiet());
        assert_eq!([run.due(0), run.due(1)], [1, 0]);
    }

    #[test]
    fn a_run_is_quiet_when_every_page_of_history_has_come() {
        let run = Run::new(0, Pace::Every(10), SPAN, [1].into_iter(), 1);
        run.add_page();
        run.end_sending();
        assert!(!run.is_quiet());
        run.receive(1);
        assert!(run.is_quiet());
    }

    #[test]
    fn members_take_turns_to_ask_for_a_page_with_every_so_many_messages() {
        let deed = Deed::Mixed { history_every: 4 };
        let askers = |sent| {
            let indexes = (0..8).filter(|index| deed.asks_for_page(*index, sent));
            indexes.collect::<Vec<_>>()
        };
        assert_eq!([askers(1), askers(2), askers(5)], [[3, 7], [2, 6], [3, 7]]);
        assert!(!Deed::Message.asks_for_page(0, 4) && !Deed::Message.marks_at_once());
    }

    #[test]
    fn a_window_counts_messages_that_some_member_lacks() {
        let run = Run::new(0, Pace::Window(2), SPAN, [10].into_iter(), 1);
        run.add_due(0, 1);
        assert!(run.has_room(0, 2));
        run.add_due(0, 1);
        assert!(!run.has_room(0, 2));
        run.receive(9);
        assert!(!run.has_room(0, 2));
        run.receive(1);
        assert!(run.has_room(0, 2));
    }

    #[test]
    fn a_run_that_is_stopped_measures_and_sends_no_more() {
        let run = Run::new(1000, Pace::Every(10), SPAN, [1].into_iter(), 1);
        assert!(run.measures(100) && run.measures(199) && !run.measures(200));
        run.stop(1150);
        assert!(run.measures(149) && !run.measures(150));
        assert_eq!([run.end_ns(), run.deadline_ns()], [1150, 1200]);
        run.stop(1180);
        assert_eq!(run.end_ns(), 1150);
    }

    #[test]
    fn a_message_has_spread_when_its_last_member_has_it() {
        let run = Run::new(0, Pace::Every(10), SPAN, [2].into_iter(), 1);
        for (due_ns, receipt_ns) in [(90, 95), (100, 104), (100, 109), (110, 112), (110, 111)] {
            run.note_receipt(tag(due_ns), receipt_ns);
        }
        assert_eq!(run.spreads_ns().collect::<Vec<_>>(), [9, 2]);
    }
}
