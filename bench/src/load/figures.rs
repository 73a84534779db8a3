//! The figures of one run.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    cost::{Role, Spent},
    crowd::Tally,
    stats::Summary,
};

/// What one run came to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) messages: Messages,
    pub(crate) deliveries: Deliveries,
    /// From when a message was due until a member had it.
    pub(crate) latency_us: Option<Summary>,
    /// From when a message was due until its last member had it; in an open loop only.
    pub(crate) last_member_us: Option<Summary>,
    pub(crate) client: Client,
    /// What the servers spent while measured.
    pub(crate) servers: BTreeMap<Role, Cost>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Messages {
    pub(crate) accepted: u64,
    /// By the code of the error.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Accepted, but never seen by their senders.
    pub(crate) unanswered: u64,
    pub(crate) stored_twice: u64,
    pub(crate) stored_out_of_order: u64,
    /// Length of a message's packet.
    pub(crate) packet_bytes: usize,
    /// While measured.
    pub(crate) per_second: f64,
}

/// One message at one member. The account holds for all of the run, warm-up included.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Deliveries {
    pub(crate) due: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    /// Numbers of a room's log that a member never saw, system messages among them.
    pub(crate) gaps: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) closed_sockets: u64,
    /// While measured.
    pub(crate) per_second: f64,
    /// Messages that a read from a socket took, on average.
    pub(crate) per_read: f64,
}

/// How the crowd itself fared.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Client {
    /// From when a message was due until it was sent; in an open loop only.
    pub(crate) send_lag_us: Option<Summary>,
    pub(crate) cpu_seconds: f64,
    pub(crate) cpu_seconds_per_million_deliveries: f64,
    /// The busiest thread's CPU time, as a share of the time measured.
    pub(crate) cpu_share_max: f64,
    /// Longest time between two looks at the sockets.
    pub(crate) turn_ms_max: f64,
    /// Writes that the kernel did not take at once.
    pub(crate) blocked_writes: u64,
    /// Whether these figures tell of the client and not of the servers.
    pub(crate) is_bottleneck: bool,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cost {
    pub(crate) cpu_seconds: f64,
    pub(crate) cpu_seconds_per_million_deliveries: f64,
    pub(crate) deliveries_per_cpu_second: f64,
    pub(crate) cpu_us_per_message: f64,
    /// Anonymous resident memory at the end.
    pub(crate) resident_kib: u64,
}

/// A client that sends so late shows its own delays.
const SEND_LAG_US_MAX: u64 = 1000;

/// A thread that is busier than this may leave sockets waiting.
pub(crate) const CPU_SHARE_MAX: f64 = 0.9;

pub(crate) const MILLION: f64 = 1e6;

impl Figures {
    pub(crate) fn new(accepted: u64, tally: &Tally, spent: &Spent) -> Self {
        let deliveries = approximate(tally.deliveries);
        // The messages that were delivered while measured, some of them in part.
        let messages = share(approximate(accepted) * deliveries, approximate(tally.due));
        let servers = spent.roles.iter().map(|(role, spent)| {
            let cost = Cost {
                cpu_seconds: spent.cpu_seconds,
                cpu_seconds_per_million_deliveries: share(spent.cpu_seconds * MILLION, deliveries),
                deliveries_per_cpu_second: share(deliveries, spent.cpu_seconds),
                cpu_us_per_message: share(spent.cpu_seconds * MILLION, messages),
                resident_kib: spent.resident_kib,
            };
            (*role, cost)
        });
        Self {
            messages: Messages {
                accepted,
                refused: tally.refused.clone(),
                unanswered: tally.unanswered,
                stored_twice: tally.stored_twice,
                stored_out_of_order: tally.stored_out_of_order,
                packet_bytes: tally.packet_bytes,
                per_second: share(messages, spent.seconds),
            },
            deliveries: Deliveries {
                due: tally.due,
                received: tally.received,
                lost: tally.lost,
                gaps: tally.gaps,
                duplicated: tally.duplicated,
                reordered: tally.reordered,
                closed_sockets: tally.closed,
                per_second: share(deliveries, spent.seconds),
                per_read: share(deliveries, approximate(tally.reads)),
            },
            latency_us: tally.latency.summary(),
            last_member_us: tally.spread.summary(),
            client: Client::new(tally, spent),
            servers: servers.collect(),
        }
    }

    /// What is wrong with the deliveries, if anything.
    pub(crate) fn fault(&self) -> Option<String> {
        let (messages, deliveries) = (&self.messages, &self.deliveries);
        let counts = [
            ("refused", messages.refused.values().sum()),
            ("not answered", messages.unanswered),
            ("stored twice", messages.stored_twice),
            ("stored out of order", messages.stored_out_of_order),
            ("lost", deliveries.lost),
            ("gaps", deliveries.gaps),
            ("duplicated", deliveries.duplicated),
            ("reordered", deliveries.reordered),
            ("sockets closed", deliveries.closed_sockets),
        ];
        let faults = counts.iter().filter(|(_, count)| *count > 0);
        let faults: Vec<_> = faults
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        (!faults.is_empty()).then(|| faults.join(", "))
    }
}

impl Client {
    fn new(tally: &Tally, spent: &Spent) -> Self {
        let send_lag_us = tally.send_lag.summary();
        let cpu_seconds = spent.threads.iter().sum::<f64>();
        let busiest = spent.threads.iter().copied().fold(0.0, f64::max);
        let cpu_share_max = share(busiest, spent.seconds);
        Self {
            send_lag_us,
            cpu_seconds,
            cpu_seconds_per_million_deliveries: share(
                cpu_seconds * MILLION,
                approximate(tally.deliveries),
            ),
            cpu_share_max,
            turn_ms_max: approximate(tally.turn_ns_max) / MILLION,
            blocked_writes: tally.blocked_writes,
            is_bottleneck: send_lag_us.is_some_and(|lag| lag.p99 > SEND_LAG_US_MAX)
                || cpu_share_max > CPU_SHARE_MAX,
        }
    }
}

/// A count as a figure.
#[expect(clippy::cast_precision_loss, reason = "no count reaches 2^53")]
pub(crate) const fn approximate(count: u64) -> f64 {
    count as f64
}

/// A part of a whole; zero of nothing.
pub(crate) fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::RoleSpent;

    fn spent(gateways: f64, thread: f64) -> Spent {
        let role = RoleSpent {
            cpu_seconds: gateways,
            resident_kib: 100,
        };
        Spent {
            seconds: 10.0,
            roles: [(Role::Gateways, role)].into(),
            threads: vec![thread, 0.5],
        }
    }

    #[test]
    fn costs_are_told_by_delivery_and_by_message() {
        let tally = Tally {
            due: 23_000,
            received: 23_000,
            deliveries: 20_000,
            reads: 10_000,
            ..Tally::default()
        };
        let figures = Figures::new(2_300, &tally, &spent(0.2, 1.0));
        let cost = figures.servers[&Role::Gateways];
        assert_eq!(cost.cpu_seconds_per_million_deliveries, 10.0);
        assert_eq!(cost.cpu_us_per_message, 100.0);
        assert_eq!(figures.messages.per_second, 200.0);
        assert_eq!(figures.deliveries.per_second, 2_000.0);
        assert_eq!(figures.deliveries.per_read, 2.0);
        assert_eq!(figures.fault(), None);
    }

    #[test]
    fn a_client_that_is_late_or_busy_is_the_bottleneck() {
        let late = |ns| {
            let mut tally = Tally::default();
            tally.send_lag.record_ns(ns);
            tally
        };
        let is_bottleneck = |tally, thread| Client::new(&tally, &spent(1.0, thread)).is_bottleneck;
        assert!(!is_bottleneck(late(900_000), 8.9));
        assert!(is_bottleneck(late(1_100_000), 1.0));
        assert!(is_bottleneck(late(100_000), 9.1));
    }

    #[test]
    fn whatever_went_wrong_is_named() {
        let tally = Tally {
            lost: 3,
            gaps: 2,
            ..Tally::default()
        };
        let figures = Figures::new(10, &tally, &spent(0.0, 0.0));
        assert_eq!(figures.fault().as_deref(), Some("3 lost, 2 gaps"));
    }
}
