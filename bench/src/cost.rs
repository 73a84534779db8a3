//! What the servers under load cost: CPU time and memory of their processes, on the same machine.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use redis::{Client, aio::MultiplexedConnection};
use serde::Serialize;
use tokio::time::sleep;

use crate::{
    clock::now_ns,
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
        for node in nodes(urls).await? {
            let address = format!("redis://{}", node.address);
            let mut connection = connect(&address).await?;
            let info: String = redis::cmd("INFO")
                .arg("server")
                .query_async(&mut connection)
                .await?;
            let pid = info
                .lines()
                .find_map(|line| line.strip_prefix("process_id:"));
            let pid = pid.context("a node without a process id")?.trim().parse()?;
            if is_redis(pid) {
                self.processes.push((node.role, pid));
            }
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

async fn sleep_until(ns: u64) {
    sleep(Duration::from_nanos(ns.saturating_sub(now_ns()))).await;
}

/// A difference of CPU times or moments, in seconds.
fn seconds(before_ns: u64, after_ns: u64) -> f64 {
    Duration::from_nanos(after_ns.saturating_sub(before_ns)).as_secs_f64()
}

#[derive(Debug, PartialEq, Eq)]
struct Node {
    address: String,
    role: Role,
}

async fn nodes(urls: &[String]) -> Result<Vec<Node>> {
    let url = urls.first().context("no node of Redis is named")?;
    let mut connection = connect(url).await?;
    let nodes: String = redis::cmd("CLUSTER")
        .arg("NODES")
        .query_async(&mut connection)
        .await?;
    Ok(parse_nodes(&nodes))
}

/// Reads what `CLUSTER NODES` answers; nodes that have failed are left out.
fn parse_nodes(nodes: &str) -> Vec<Node> {
    let parse = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (address, flags) = (fields.next()?, fields.next()?);
        let (address, _) = address.split_once('@')?;
        let mut flags = flags.split(',').filter(|flag| *flag != "myself");
        let role = match flags.next()? {
            "master" => Role::RedisMasters,
            "slave" => Role::RedisReplicas,
            _ => return None,
        };
        flags.next().is_none().then(|| Node {
            address: address.to_owned(),
            role,
        })
    };
    nodes.lines().filter_map(parse).collect()
}

async fn connect(url: &str) -> Result<MultiplexedConnection> {
    let connection = Client::open(url)?.get_multiplexed_async_connection().await;
    connection.with_context(|| format!("cannot connect to {url}"))
}

/// Whether a process id is that of a Redis here, and not of one on another machine.
fn is_redis(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm"))
        .is_ok_and(|name| name.trim() == "redis-server")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_told_apart_by_their_flags() {
        let nodes = "\
            a1 127.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-5460\n\
            b2 127.0.0.1:7001@17001,host slave a1 0 0 1 connected\n\
            c3 127.0.0.1:7002@17002 master,fail - 0 0 2 disconnected 5461-10922\n\
            d4 :0@0 master,noaddr - 0 0 2 disconnected\n";
        let node = |address: &str, role| Node {
            address: address.to_owned(),
            role,
        };
        assert_eq!(
            parse_nodes(nodes),
            [
                node("127.0.0.1:7000", Role::RedisMasters),
                node("127.0.0.1:7001", Role::RedisReplicas)
            ]
        );
    }

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
