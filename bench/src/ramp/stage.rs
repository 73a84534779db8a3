//! One step of a ramp, at its end.

use std::sync::atomic::Ordering::Relaxed;

use anyhow::Result;
use serde::Serialize;

use super::board::Board;
use crate::{
    clock::{NS_PER_SECOND, now_ns},
    cost::{Meter, Reading, Role, Spent},
    load::figures::{approximate, share},
    plot::Point,
    process::cpu_seconds,
    stats::Summary,
};

/// What a step came to.
#[derive(Serialize)]
pub(super) struct Stage {
    #[serde(flatten)]
    pub(super) point: Point,
    pub(super) messages_per_second: f64,
    pub(super) deliveries_per_second: f64,
    pub(super) marks_per_second: f64,
    pub(super) entry_ms: Option<Summary>,
    pub(super) delivery_us: Option<Summary>,
    /// From when a message was due until the client sent it.
    pub(super) lag_us: Option<Summary>,
    /// Users for each core that gateways and backends spent, and for each with Redis.
    pub(super) users_per_core: f64,
    pub(super) users_per_core_with_redis: f64,
}

/// What was read at the beginning of a step.
pub(super) struct Mark {
    reading: Reading,
    client_cpu_seconds: f64,
    sent: u64,
    delivered: u64,
    marks: u64,
}

impl Mark {
    pub(super) fn read(meter: &Meter, board: &Board) -> Result<Self> {
        let counts = &board.counts;
        Ok(Self {
            reading: meter.read()?,
            client_cpu_seconds: cpu_seconds(std::process::id())?,
            sent: counts.sent.load(Relaxed),
            delivered: counts.delivered.load(Relaxed),
            marks: counts.marks_sent.load(Relaxed),
        })
    }
}

/// Heads of what [`Stage::line`] says.
pub(super) const HEAD: &str = "seconds   users  failed   msg/s deliv/s  p50 ms  p95 ms  p99 ms  gateway  backend    redis   client  lag p99 ms  users/core";

impl Stage {
    /// What has happened since the beginning of a step.
    pub(super) fn since(
        before: &Mark,
        meter: &Meter,
        board: &Board,
        origin_ns: u64,
    ) -> Result<Self> {
        let spent = meter.spent_since(&before.reading)?;
        let after = Mark::read(meter, board)?;
        let moments = board.take_moments();
        let counts = &board.counts;
        let users = approximate(counts.present.load(Relaxed));
        let client = after.client_cpu_seconds - before.client_cpu_seconds;
        let delivery_us = moments.delivery.summary();
        let ms = |of: fn(&Summary) -> u64| {
            delivery_us
                .as_ref()
                .map_or(0.0, |summary| approximate(of(summary)) / 1000.0)
        };
        let rate = |before: u64, after: u64| share(approximate(after - before), spent.seconds);
        let point = Point {
            at_seconds: approximate(now_ns() - origin_ns) / approximate(NS_PER_SECOND),
            users,
            failed: approximate(counts.failed.load(Relaxed)),
            p50_ms: ms(|summary| summary.p50),
            p95_ms: ms(|summary| summary.p95),
            p99_ms: ms(|summary| summary.p99),
            gateway_cpu_cores: cores(&spent, &[Role::Gateways]),
            backend_cpu_cores: cores(&spent, &[Role::Backend]),
            redis_cpu_cores: cores(&spent, &[Role::RedisMasters, Role::RedisReplicas]),
            client_cpu_cores: share(client, spent.seconds),
            gateway_mib: mib(&spent, Role::Gateways),
            backend_mib: mib(&spent, Role::Backend),
        };
        let own = point.gateway_cpu_cores + point.backend_cpu_cores;
        Ok(Self {
            users_per_core: share(users, own),
            users_per_core_with_redis: share(users, own + point.redis_cpu_cores),
            messages_per_second: rate(before.sent, after.sent),
            deliveries_per_second: rate(before.delivered, after.delivered),
            marks_per_second: rate(before.marks, after.marks),
            entry_ms: moments
                .entry
                .summary()
                .map(|summary| summary.divided_by(1000)),
            delivery_us,
            lag_us: moments.lag.summary(),
            point,
        })
    }

    /// As a line of the table.
    pub(super) fn line(&self) -> String {
        let point = &self.point;
        let lag_ms = self.lag_us.map_or(0.0, |lag| approximate(lag.p99) / 1000.0);
        format!(
            "{:7.0} {:7} {:7} {:7.0} {:7.0} {:7.1} {:7.1} {:7.1} {:8.2} {:8.2} {:8.2} {:8.2} {:11.1} {:11.0}",
            point.at_seconds,
            point.users,
            point.failed,
            self.messages_per_second,
            self.deliveries_per_second,
            point.p50_ms,
            point.p95_ms,
            point.p99_ms,
            point.gateway_cpu_cores,
            point.backend_cpu_cores,
            point.redis_cpu_cores,
            point.client_cpu_cores,
            lag_ms,
            self.users_per_core,
        )
    }
}

fn cores(spent: &Spent, roles: &[Role]) -> f64 {
    let of_roles = roles.iter().filter_map(|role| spent.roles.get(role));
    // A sum of no floats is a negative zero.
    let cpu = of_roles.fold(0.0, |sum, role| sum + role.cpu_seconds);
    share(cpu, spent.seconds)
}

fn mib(spent: &Spent, role: Role) -> f64 {
    let kib = spent.roles.get(&role).map_or(0, |role| role.resident_kib);
    approximate(kib) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_that_nobody_watches_cost_nothing_rather_than_less() {
        let (meter, board) = (Meter::default(), Board::new());
        let before = Mark::read(&meter, &board).unwrap();
        let stage = Stage::since(&before, &meter, &board, now_ns()).unwrap();
        assert!(!stage.line().contains("-0"), "{}", stage.line());
        assert!(stage.point.backend_cpu_cores.is_sign_positive());
    }
}
