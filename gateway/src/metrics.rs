//! Everything the gateway counts: name with unit, meaning, labels from small fixed sets.
//!
//! | metric | labels | meaning |
//! |---|---|---|
//! | `socketio_concurrent_users` | | accepted connections |
//! | `socketio_messages_total` | `status`, `message_type` | chat messages handled |
//! | `socketio_messages_errors_total` | `error_type` | chat messages refused |
//! | `socketio_messages_processing_time_seconds` | `status`, `message_type` | time from event to acceptance |
//! | `socketio_messages_rate_limit_total` | | messages refused for their rate |
//! | `gateway_connections` | | open WebSocket connections |
//! | `gateway_handshakes_total` | `outcome` | HTTP requests answered; `full`, `address` and `rate` are those that got no place |
//! | `gateway_closes_total` | `reason` | connections ended |
//! | `gateway_recoveries_total` | `outcome` | clients that came back and asked for what they missed |
//! | `gateway_outbox_bytes` | | bytes that wait for slow readers, without the openings of rooms; of a list of participants 16 KiB |
//! | `gateway_outbox_connections` | | connections that bytes wait for |
//! | `gateway_accept_errors_total` | | sockets that could not be accepted |
//! | `gateway_task_panics_total` | | panics of connection tasks; each ended one connection |
//! | `gateway_handler_timeouts_total` | | handlers that did not end in time |
//! | `socketio_undecodable_events_total` | | events dropped for an unfit payload |
//! | `socketio_marks_dropped_total` | | batches of read marks dropped: too many waited, or Redis refused |
//! | `bus_unknown_messages_total` | | messages of the bus that this version does not know |
//! | `bus_gap_fills_total` | | times that a room's log was read because something may be lost |
//! | `bus_silent_losses_total` | | rooms found behind their logs, though their channel lived |
//! | `bus_lost_gaps_total` | | gaps that no log could fill: the room's members load it anew |
//! | `bus_gap_messages_total` | | messages read from a log because the bus had lost them |
//! | `bus_resubscribe_seconds` | | time from losing a link to delivering again |
//! | `store_unavailable_total` | | questions that Redis did not answer |
//! | `store_retries_total` | `reason` | attempts to ask Redis that another one followed |
//! | `store_confirmations_total` | `outcome` | times that a node was asked whether a replica has what it did |
//! | `store_hints_total` | | hints that something was written on a node where no gateway listens |
//! | `store_suspect_nodes` | | Redis nodes that stand still, or did a moment ago: rooms hear of them by way of the log |

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use slotcast_proto::wire::event::ErrorCode;

use crate::close::Close;

/// Media type of [`Metrics::encode`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Defines a label whose values are the words of an enum.
macro_rules! label_values {
    ($(#[$doc:meta])* $label:ident { $($(#[$value_doc:meta])* $value:ident => $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum $label {
            $($(#[$value_doc])* $value,)+
        }

        impl EncodeLabelValue for $label {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                match self {
                    $(Self::$value => $word,)+
                }
                .encode(encoder)
            }
        }
    };
}

label_values! {
    /// How a chat message went.
    Status {
        /// Accepted.
        Success => "success",
        /// Refused.
        Error => "error",
    }
}

label_values! {
    /// What a chat message is.
    MessageType {
        /// A text.
        Text => "text",
        /// A file.
        File => "file",
        /// Neither.
        Unknown => "unknown",
    }
}

/// Labels of a chat message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct MessageLabels {
    /// How it went.
    pub(crate) status: Status,
    /// What it is.
    pub(crate) message_type: MessageType,
}

/// Why a chat message was refused, a word of a fixed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ErrorLabels {
    /// The word.
    pub(crate) error_type: &'static str,
}

label_values! {
    /// What a client got that came back.
    Recovery {
        /// Everything that it missed.
        Recovered => "recovered",
        /// The word to load its rooms anew.
        Refused => "refused",
    }
}

/// Labels of a client that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RecoveryLabels {
    /// What it got.
    pub(crate) outcome: Recovery,
}

label_values! {
    /// How an HTTP request was answered.
    Handshake {
        /// A WebSocket began.
        Upgraded => "upgraded",
        /// The request was wrong.
        Refused => "refused",
        /// Every place is taken.
        Full => "full",
        /// The client's address has as many sockets as one may have.
        Address => "address",
        /// Too many sockets came within a second.
        Rate => "rate",
        /// Something else was asked: health, a preflight.
        Other => "other",
        /// No complete request came, or not in time.
        Broken => "broken",
    }
}

/// Label of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct HandshakeLabels {
    outcome: Handshake,
}

/// Label of an ended connection: the word of its [`Close`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CloseLabels {
    reason: &'static str,
}

/// Makes the histogram of one kind of message.
type NewHistogram = fn() -> Histogram;

label_values! {
    /// What a node answered when asked whether a replica has what it did.
    Confirmed {
        /// A replica has it.
        Replicated => "replicated",
        /// None has it yet.
        NotYet => "not_yet",
        /// The node did not answer, or is no master.
        Unsure => "unsure",
    }
}

/// Label of a confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ConfirmationLabels {
    outcome: Confirmed,
}

/// Label of an attempt that another one followed: what was wrong with it, a word of a fixed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RetryLabels {
    reason: &'static str,
}

/// Everything the gateway counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Accepted connections.
    pub(crate) users: Gauge,
    /// Chat messages handled.
    pub(crate) messages: Family<MessageLabels, Counter>,
    /// Chat messages refused.
    pub(crate) message_errors: Family<ErrorLabels, Counter>,
    /// Time from event to acceptance.
    pub(crate) message_seconds: Family<MessageLabels, Histogram, NewHistogram>,
    /// Messages refused for their rate.
    pub(crate) rate_limited: Counter,
    /// Open WebSocket connections.
    pub(crate) connections: Gauge,
    handshakes: Family<HandshakeLabels, Counter>,
    closes: Family<CloseLabels, Counter>,
    /// Bytes that wait for slow readers; set when asked for.
    pub(crate) outbox_bytes: Gauge<u64, AtomicU64>,
    /// Connections that bytes wait for; set when asked for.
    pub(crate) outbox_connections: Gauge<u64, AtomicU64>,
    /// Clients that came back and asked for what they missed.
    recoveries: Family<RecoveryLabels, Counter>,
    /// Sockets that could not be accepted.
    pub(crate) accept_errors: Counter,
    /// Panics of connection tasks.
    pub(crate) task_panics: Counter,
    /// Handlers that did not end in time.
    pub(crate) handler_timeouts: Counter,
    /// Events dropped because their payload was not what their name promises.
    pub(crate) undecodable_events: Counter,
    /// Batches of read marks dropped: too many waited, or Redis refused.
    pub(crate) marks_dropped: Counter,
    /// Messages of the bus that this version does not know.
    pub(crate) bus_unknown_messages: Counter,
    /// Rooms found behind their logs.
    pub(crate) bus_silent_losses: Counter,
    /// Gaps that no log could fill.
    pub(crate) bus_lost_gaps: Counter,
    /// Times that a room's log was read because something may have been lost.
    pub(crate) bus_gap_fills: Counter,
    /// Messages read from a log because the bus had lost them.
    pub(crate) bus_gap_messages: Counter,
    /// Time from losing a link to delivering again.
    pub(crate) bus_resubscribe_seconds: Histogram,
    /// How questions to Redis go.
    pub(crate) store: StoreMetrics,
}

/// How questions to Redis go.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoreMetrics {
    /// Questions that Redis did not answer.
    pub(crate) unavailable: Counter,
    retries: Family<RetryLabels, Counter>,
    confirmations: Family<ConfirmationLabels, Counter>,
    /// Hints that something was written on a node where no gateway listens.
    pub(crate) hints: Counter,
    /// Nodes that stand still, or did a moment ago.
    pub(crate) suspect_nodes: Gauge,
}

impl StoreMetrics {
    /// Counts an attempt that another one follows.
    pub(crate) fn count_retry(&self, reason: &'static str) {
        self.retries.get_or_create(&RetryLabels { reason }).inc();
    }

    /// Counts a question whether a replica has what a node did.
    pub(crate) fn count_confirmation(&self, outcome: Confirmed) {
        self.confirmations
            .get_or_create(&ConfirmationLabels { outcome })
            .inc();
    }

    /// How often a node was asked and answered so.
    #[cfg(test)]
    pub(crate) fn confirmations(&self, outcome: Confirmed) -> u64 {
        self.confirmations
            .get_or_create(&ConfirmationLabels { outcome })
            .get()
    }

    /// How many attempts for this reason another one followed.
    #[cfg(test)]
    pub(crate) fn retries_for(&self, reason: &'static str) -> u64 {
        self.retries.get_or_create(&RetryLabels { reason }).get()
    }
}

/// From 0.5 ms to 8 s, doubling.
fn seconds_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.0, 15))
}

impl Metrics {
    /// All zero.
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            users: Gauge::default(),
            messages: Family::default(),
            message_errors: Family::default(),
            message_seconds: Family::new_with_constructor(seconds_histogram),
            rate_limited: Counter::default(),
            connections: Gauge::default(),
            handshakes: Family::default(),
            closes: Family::default(),
            outbox_bytes: Gauge::default(),
            outbox_connections: Gauge::default(),
            accept_errors: Counter::default(),
            task_panics: Counter::default(),
            handler_timeouts: Counter::default(),
            undecodable_events: Counter::default(),
            marks_dropped: Counter::default(),
            bus_unknown_messages: Counter::default(),
            recoveries: Family::default(),
            bus_silent_losses: Counter::default(),
            bus_lost_gaps: Counter::default(),
            bus_gap_fills: Counter::default(),
            bus_gap_messages: Counter::default(),
            bus_resubscribe_seconds: seconds_histogram(),
            store: StoreMetrics::default(),
        };
        metrics.register_chat();
        metrics.register_sockets();
        metrics.register_bus();
        metrics.register_store();
        metrics
    }

    fn register_chat(&mut self) {
        let chat = self.registry.sub_registry_with_prefix("socketio");
        chat.register(
            "concurrent_users",
            "Accepted connections",
            self.users.clone(),
        );
        chat.register("messages", "Chat messages handled", self.messages.clone());
        chat.register(
            "messages_errors",
            "Chat messages refused",
            self.message_errors.clone(),
        );
        chat.register(
            "messages_processing_time_seconds",
            "Time from event to acceptance",
            self.message_seconds.clone(),
        );
        chat.register(
            "undecodable_events",
            "Events dropped because their payload was not what their name promises",
            self.undecodable_events.clone(),
        );
        chat.register(
            "marks_dropped",
            "Batches of read marks dropped: too many waited, or Redis refused",
            self.marks_dropped.clone(),
        );
        chat.register(
            "messages_rate_limit",
            "Messages refused for their rate",
            self.rate_limited.clone(),
        );
    }

    fn register_sockets(&mut self) {
        let sockets = self.registry.sub_registry_with_prefix("gateway");
        sockets.register(
            "connections",
            "Open WebSocket connections",
            self.connections.clone(),
        );
        sockets.register(
            "handshakes",
            "HTTP requests answered",
            self.handshakes.clone(),
        );
        sockets.register("closes", "Connections ended", self.closes.clone());
        sockets.register(
            "recoveries",
            "Clients that came back and asked for what they missed",
            self.recoveries.clone(),
        );
        sockets.register(
            "outbox_bytes",
            "Bytes that wait for slow readers",
            self.outbox_bytes.clone(),
        );
        sockets.register(
            "outbox_connections",
            "Connections that bytes wait for",
            self.outbox_connections.clone(),
        );
        sockets.register(
            "accept_errors",
            "Sockets that could not be accepted",
            self.accept_errors.clone(),
        );
        sockets.register(
            "task_panics",
            "Panics of connection tasks",
            self.task_panics.clone(),
        );
        sockets.register(
            "handler_timeouts",
            "Handlers that did not end in time",
            self.handler_timeouts.clone(),
        );
    }

    /// Counts a chat message that was handled.
    pub(crate) fn count_message(&self, labels: MessageLabels, elapsed: Duration) {
        self.messages.get_or_create(&labels).inc();
        self.message_seconds
            .get_or_create(&labels)
            .observe(elapsed.as_secs_f64());
    }

    /// Counts a chat message that was refused.
    pub(crate) fn count_refusal(&self, code: ErrorCode) {
        let error_type = match code {
            ErrorCode::MessageError => "message_error",
            ErrorCode::SessionExpired => "session_expired",
            ErrorCode::RateLimitExceeded => "rate_limit_exceeded",
            ErrorCode::MessageRejected => "message_rejected",
            ErrorCode::LoadError => "load_error",
            ErrorCode::Unauthorized => "unauthorized",
        };
        self.message_errors
            .get_or_create(&ErrorLabels { error_type })
            .inc();
        if code == ErrorCode::RateLimitExceeded {
            self.rate_limited.inc();
        }
    }

    fn register_bus(&mut self) {
        self.registry.register(
            "bus_unknown_messages",
            "Messages of the bus that this version does not know",
            self.bus_unknown_messages.clone(),
        );
        self.registry.register(
            "bus_gap_fills",
            "Times that a room's log was read because something may have been lost",
            self.bus_gap_fills.clone(),
        );
        self.registry.register(
            "bus_silent_losses",
            "Rooms found behind their logs, though their channel lived",
            self.bus_silent_losses.clone(),
        );
        self.registry.register(
            "bus_lost_gaps",
            "Gaps that no log could fill",
            self.bus_lost_gaps.clone(),
        );
        self.registry.register(
            "bus_gap_messages",
            "Messages read from a log because the bus had lost them",
            self.bus_gap_messages.clone(),
        );
        self.registry.register(
            "bus_resubscribe_seconds",
            "Time from losing a link to delivering again",
            self.bus_resubscribe_seconds.clone(),
        );
    }

    fn register_store(&mut self) {
        let store = self.registry.sub_registry_with_prefix("store");
        store.register(
            "unavailable",
            "Questions that Redis did not answer",
            self.store.unavailable.clone(),
        );
        store.register(
            "retries",
            "Attempts to ask Redis that another one followed",
            self.store.retries.clone(),
        );
        store.register(
            "confirmations",
            "Times that a node was asked whether a replica has what it did",
            self.store.confirmations.clone(),
        );
        store.register(
            "hints",
            "Hints that something was written on a node where no gateway listens",
            self.store.hints.clone(),
        );
        store.register(
            "suspect_nodes",
            "Redis nodes that stand still, or did a moment ago: rooms hear of them by way of the log",
            self.store.suspect_nodes.clone(),
        );
    }

    /// Counts an answered HTTP request.
    pub(crate) fn count_handshake(&self, outcome: Handshake) {
        self.handshakes
            .get_or_create(&HandshakeLabels { outcome })
            .inc();
    }

    /// Counts a client that came back.
    pub(crate) fn count_recovery(&self, outcome: Recovery) {
        self.recoveries
            .get_or_create(&RecoveryLabels { outcome })
            .inc();
    }

    /// Counts an ended connection.
    pub(crate) fn count_close(&self, close: Close) {
        self.closes
            .get_or_create(&CloseLabels {
                reason: close.label(),
            })
            .inc();
    }

    /// All values in the OpenMetrics text format.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_table() {
        let metrics = Metrics::new();
        metrics.count_handshake(Handshake::Full);
        metrics.count_close(Close::Slow);
        metrics.count_recovery(Recovery::Recovered);
        metrics.store.count_retry("moved");
        metrics.store.count_confirmation(Confirmed::Replicated);
        metrics
            .message_errors
            .get_or_create(&ErrorLabels { error_type: "x" })
            .inc();
        let labels = MessageLabels {
            status: Status::Success,
            message_type: MessageType::Text,
        };
        metrics.messages.get_or_create(&labels).inc();
        metrics.message_seconds.get_or_create(&labels).observe(0.1);
        let text = metrics.encode();
        let table = include_str!("metrics.rs").lines().filter_map(|line| {
            line.strip_prefix("//! | `")?
                .split_once('`')
                .map(|(name, _)| name)
        });
        let mut names = 0;
        for name in table {
            names += 1;
            assert!(text.contains(&format!("\n{name}")), "{name} in\n{text}");
        }
        assert_eq!(names, 27);
        assert!(
            text.contains("gateway_closes_total{reason=\"slow\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("gateway_handshakes_total{outcome=\"full\"} 1"),
            "{text}"
        );
    }
}
