//! What the servers under load cost: CPU time and memory of their processes, on the same machine.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use serde::Serialize;
use tokio::time::sleep;

use crate::{
    clock::now_ns,
    node,
    process::{cpu_ns, resident_kib, thread_cpu_ns},
};

/// What a process is to the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    Gateways,
    RedisMasters,
    RedisReplicas,
    Backend,
    /// The bare writer of `bench limit`.
    Writer,
}

/// The processes that are watched, and the crowd's own threads.
#[derive(Clone, Default)]
pub(crate) struct Meter {
    processes: Vec<(Role, u32)>,
    threads: Vec<u32>,
}

/// CPU time used up to a moment.
pub(crate) struct Reading {
    at_ns: u64,
    processes_ns: Vec<u64>,
    threads_ns: Vec<u64>,
}

/// What was used between two readings.
#[derive(Clone, Debug)]
pub(crate) struct Spent {
    pub(crate) seconds: f64,
    pub(crate) roles: BTreeMap<Role, RoleSpent>,
    /// CPU seconds of each thread of the crowd.
    pub(crate) threads: Vec<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct RoleSpent {
    pub(crate) cpu_seconds: f64,
    /// `RssAnon` at the end.
    pub(crate) resident_kib: u64,
}

impl Meter {
    pub(crate) fn watch(&mut self, role: Role, pids: &[u32]) {
        self.processes.extend(pids.iter().map(|pid| (role, *pid)));
    }

    /// Watches the nodes of a Redis Cluster, as far as they run on this machine.
    pub(crate) async fn watch_redis(&mut self, urls: &[String]) -> Result<()> {
        for node in node::nodes(urls).await? {
            let pid = node.pid().await?;
            self.processes.extend(pid.map(|pid| (node.role, pid)));
        }
        Ok(())
    }

    pub(crate) fn watch_threads(&mut self, threads: Vec<u32>) {
        self.threads = threads;
    }

    pub(crate) fn read(&self) -> Result<Reading> {
        let processes = self.processes.iter().map(|(_, pid)| cpu_ns(*pid));
        let threads = self.threads.iter().map(|id| thread_cpu_ns(*id));
        Ok(Reading {
            at_ns: now_ns(),
            processes_ns: processes.collect::<Result<_>>()?,
            threads_ns: threads.collect::<Result<_>>()?,
        })
    }

    /// What was used since a reading.
    pub(crate) fn spent_since(&self, before: &Reading) -> Result<Spent> {
        let after = self.read()?;
        let mut roles = BTreeMap::<Role, RoleSpent>::new();
        let used = before.processes_ns.iter().zip(&after.processes_ns);
        for ((role, pid), (before, after)) in self.processes.iter().zip(used) {
            let spent = roles.entry(*role).or_default();
            spent.cpu_seconds += seconds(*before, *after);
            spent.resident_kib += resident_kib(*pid)?;
        }
        let used = before.threads_ns.iter().zip(&after.threads_ns);
        Ok(Spent {
            seconds: seconds(before.at_ns, after.at_ns),
            roles,
            threads: used
                .map(|(before, after)| seconds(*before, *after))
                .collect(),
        })
    }

    /// What is used from one moment to another of the machine's clock.
    pub(crate) async fn over(&self, from_ns: u64, until_ns: u64) -> Result<Spent> {
        sleep_until(from_ns).await;
        let before = self.read()?;
        sleep_until(until_ns).await;
        self.spent_since(&before)
    }

    /// Waits until the servers are at rest, so that what went before is not counted; at most `patience`.
    pub(crate) async fn rest(&self, patience: Duration) -> Result<()> {
        const LOOK: Duration = Duration::from_millis(500);
        /// Of a core.
        const AT_REST: f64 = 0.1;
        let end_ns = now_ns() + u64::try_from(patience.as_nanos())?;
        while now_ns() < end_ns {
            let before = self.read()?;
            sleep(LOOK).await;
            let spent = self.spent_since(&before)?;
            let cpu: f64 = spent.roles.values().map(|role| role.cpu_seconds).sum();
            if cpu < AT_REST * spent.seconds {
                break;
            }
        }
        Ok(())
    }
}

pub(crate) async fn sleep_until(ns: u64) {
    sleep(Duration::from_nanos(ns.saturating_sub(now_ns()))).await;
}

/// A difference of CPU times or moments, in seconds.
fn seconds(before_ns: u64, after_ns: u64) -> f64 {
    Duration::from_nanos(after_ns.saturating_sub(before_ns)).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_uses_time() {
        let pid = std::process::id();
        let mut meter = Meter::default();
        meter.watch(Role::Writer, &[pid]);
        let before = meter.read().unwrap();
        let end_ns = now_ns() + 20_000_000;
        while now_ns() < end_ns {}
        let spent = meter.spent_since(&before).unwrap();
        let writer = spent.roles[&Role::Writer];
        assert!(
            spent.seconds >= 0.02 && writer.cpu_seconds > 0.001,
            "{spent:?}"
        );
        assert!(writer.resident_kib > 0);
    }
}
