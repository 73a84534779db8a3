//! What a thread of the crowd counts during a run.

use std::collections::BTreeMap;

use crate::stats::Latencies;

/// Counts of one run; those of several threads add up.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    /// Read marks sent.
    pub(crate) marks: u64,
    /// `messagesRead` events received.
    pub(crate) marks_told: u64,
    /// Pages of history, and those of them that came without any message.
    pub(crate) pages_asked: u64,
    pub(crate) pages_answered: u64,
    pub(crate) pages_empty: u64,
    /// From when a page was asked for until it was there.
    pub(crate) page_latency: Latencies,
    /// Messages refused, by the code of the `error` event.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Accepted messages that did not come back to their senders.
    pub(crate) unanswered: u64,
    /// Messages that came back to their senders under two numbers.
    pub(crate) stored_twice: u64,
    /// Messages that the log has in another order than their sender's.
    pub(crate) stored_out_of_order: u64,

    /// Deliveries: every message to every member of its room.
    pub(crate) due: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    /// Numbers of a room's log that a member never saw, those of system messages among them.
    pub(crate) gaps: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    /// Sockets that ended.
    pub(crate) closed: u64,
    /// Why the first of them did.
    pub(crate) closed_reason: Option<String>,

    /// Deliveries received while measuring, and the reads from a socket that took.
    pub(crate) deliveries: u64,
    pub(crate) reads: u64,
    /// From when a message was due until a member had it.
    pub(crate) latency: Latencies,
    /// From when a message was due until its last member had it.
    pub(crate) spread: Latencies,
    /// Length of a message's packet.
    pub(crate) packet_bytes: usize,

    /// From when a message was due until it was sent.
    pub(crate) send_lag: Latencies,
    /// Longest time between two looks at the sockets.
    pub(crate) turn_ns_max: u64,
    /// Writes that the kernel did not take at once.
    pub(crate) blocked_writes: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.marks += other.marks;
        self.marks_told += other.marks_told;
        self.pages_asked += other.pages_asked;
        self.pages_answered += other.pages_answered;
        self.pages_empty += other.pages_empty;
        self.page_latency.add(&other.page_latency);
        for (code, count) in other.refused {
            *self.refused.entry(code).or_default() += count;
        }
        self.unanswered += other.unanswered;
        self.stored_twice += other.stored_twice;
        self.stored_out_of_order += other.stored_out_of_order;
        self.due += other.due;
        self.received += other.received;
        self.lost += other.lost;
        self.gaps += other.gaps;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.closed += other.closed;
        self.closed_reason = self.closed_reason.take().or(other.closed_reason);
        self.deliveries += other.deliveries;
        self.reads += other.reads;
        self.latency.add(&other.latency);
        self.spread.add(&other.spread);
        self.packet_bytes = self.packet_bytes.max(other.packet_bytes);
        self.send_lag.add(&other.send_lag);
        self.turn_ns_max = self.turn_ns_max.max(other.turn_ns_max);
        self.blocked_writes += other.blocked_writes;
    }
}
