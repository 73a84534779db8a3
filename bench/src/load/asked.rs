//! What Redis was asked for while something was done, and what that comes to for one operation.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::Result;
use serde::Serialize;
use tokio::time::sleep;

use super::{
    REST_PATIENCE, Target,
    figures::{MILLION, approximate, share},
};
use crate::{
    cost::{Meter, Role},
    monitor::Monitor,
    node::{self, Counts, Group, Node, Reading},
};

/// Looks at all processes from outside.
pub(super) struct Observer {
    pub(super) nodes: Vec<Node>,
    /// Of the nodes that run here.
    pids: Vec<Option<u32>>,
    meter: Meter,
}

/// Operations, and what was counted meanwhile.
#[derive(Debug)]
pub(super) struct Pass {
    operations: u64,
    seconds: f64,
    totals: BTreeMap<Role, Counts>,
}

/// What something costs: done once while `MONITOR` listens, and once for the other figures.
#[derive(Debug)]
pub(super) struct Passes {
    pub(super) heard: Pass,
    pub(super) measured: Pass,
}

/// What one operation costs; of idleness, a second of it.
#[derive(Debug, Serialize)]
pub(super) struct Asked {
    operations: u64,
    seconds: f64,
    /// Commands that gateways sent, each answered on its own. For an operation, those that idle
    /// gateways send too are left out: more or less often in so short a time, they say nothing of it.
    round_trips: f64,
    roles: BTreeMap<Role, Counts>,
}

/// For what is done behind an answer: read marks are gathered for 250 ms, lists of participants as long.
const SETTLE: Duration = Duration::from_secs(1);

/// Less than this for an operation is not told.
const LEAST: f64 = 0.0005;

impl Observer {
    pub(super) async fn open(target: &Target) -> Result<Self> {
        let nodes = node::nodes(&target.servers.redis_urls).await?;
        let (mut meter, mut pids) = (target.servers.meter(), Vec::new());
        for node in &nodes {
            let pid = node.pid().await?;
            meter.watch(node.role, pid.as_slice());
            pids.push(pid);
        }
        Ok(Self { nodes, pids, meter })
    }

    /// What clients send meanwhile; `work` says how many operations it did.
    pub(super) async fn hear(&self, work: impl Future<Output = Result<u64>>) -> Result<Pass> {
        self.meter.rest(REST_PATIENCE).await?;
        let monitor = Monitor::start(&self.nodes).await?;
        let before = self.meter.read()?;
        let operations = work.await?;
        sleep(SETTLE).await;
        Ok(Pass {
            operations,
            seconds: self.meter.spent_since(&before)?.seconds,
            totals: monitor.stop().await?,
        })
    }

    /// What the nodes count and spend meanwhile.
    pub(super) async fn measure(&self, work: impl Future<Output = Result<u64>>) -> Result<Pass> {
        self.meter.rest(REST_PATIENCE).await?;
        let readings = self.read().await?;
        let before = self.meter.read()?;
        let operations = work.await?;
        sleep(SETTLE).await;
        let spent = self.meter.spent_since(&before)?;
        let mut totals = BTreeMap::<Role, Counts>::new();
        for (role, spent) in &spent.roles {
            let cpu = BTreeMap::from([("us".to_owned(), spent.cpu_seconds * MILLION)]);
            totals.entry(*role).or_default().insert(Group::Cpu, cpu);
        }
        let mut counts = BTreeMap::<Role, Vec<Counts>>::new();
        let nodes = self.nodes.iter().zip(&readings);
        for ((node, before), after) in nodes.zip(self.read().await?) {
            counts
                .entry(node.role)
                .or_default()
                .push(after.since(before));
        }
        for (role, counts) in counts {
            node::add(totals.entry(role).or_default(), node::sum(&counts));
        }
        Ok(Pass {
            operations,
            seconds: spent.seconds,
            totals,
        })
    }

    async fn read(&self) -> Result<Vec<Reading>> {
        let mut readings = Vec::new();
        for (node, pid) in self.nodes.iter().zip(&self.pids) {
            readings.push(node.read(*pid).await?);
        }
        Ok(readings)
    }
}

impl Asked {
    /// A second of nothing.
    pub(super) fn of_idleness(idle: &Passes) -> Self {
        let rates = |pass: &Pass| scaled(&pass.totals, share(1.0, pass.seconds));
        let rates = [rates(&idle.heard), rates(&idle.measured)];
        Self::new(&idle.measured, rates, |_| true)
    }

    /// One operation, without what would have been asked anyway.
    pub(super) fn of_operations(passes: &Passes, idle: &Self) -> Self {
        let of_one = |pass: &Pass| {
            let mut counts = pass.totals.clone();
            for (role, idle) in scaled(&idle.roles, -pass.seconds) {
                node::add(counts.entry(role).or_default(), idle);
            }
            scaled(&counts, share(1.0, approximate(pass.operations)))
        };
        let costs = [of_one(&passes.heard), of_one(&passes.measured)];
        let idle = idle
            .roles
            .values()
            .filter_map(|counts| counts.get(&Group::Sent));
        let idle: BTreeSet<_> = idle.flat_map(BTreeMap::keys).collect();
        Self::new(&passes.measured, costs, |command| !idle.contains(command))
    }

    /// Takes from the pass that was heard what was sent, and the rest from the other.
    fn new(
        measured: &Pass,
        [mut heard, mut roles]: [BTreeMap<Role, Counts>; 2],
        is_round_trip: impl Fn(&String) -> bool,
    ) -> Self {
        let mut round_trips = 0.0;
        for (role, counts) in &mut roles {
            let heard = heard
                .get_mut(role)
                .and_then(|counts| counts.remove(&Group::Sent));
            let heard = heard.unwrap_or_default();
            let trips = heard.iter().filter(|(command, _)| is_round_trip(command));
            round_trips += trips.map(|(_, count)| count).sum::<f64>();
            counts.insert(Group::Sent, heard);
            for names in counts.values_mut() {
                names.retain(|_, count| count.abs() >= LEAST);
            }
            counts.retain(|_, names| !names.is_empty());
        }
        Self {
            operations: measured.operations,
            seconds: measured.seconds,
            round_trips,
            roles,
        }
    }

    /// Whether a gateway gave seats up: of those who left before, or of a gateway that is gone.
    pub(super) fn is_restless(&self) -> bool {
        let sent = self
            .roles
            .values()
            .filter_map(|counts| counts.get(&Group::Sent));
        sent.flat_map(BTreeMap::keys)
            .any(|command| command == "fcall leave")
    }

    /// What was sent to Redis and what was carried out there, in lines.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for (role, name) in [
            (Role::RedisMasters, "masters"),
            (Role::RedisReplicas, "replicas"),
        ] {
            for (group, verb) in [(Group::Sent, "were sent"), (Group::Commands, "carried out")] {
                let Some(counts) = self.roles.get(&role).and_then(|counts| counts.get(&group))
                else {
                    continue;
                };
                let counts = counts
                    .iter()
                    .map(|(name, count)| format!("{name} {count:.3}"));
                let list: Vec<_> = counts.collect();
                text += &format!("  {name} {verb}: {}\n", list.join(", "));
            }
        }
        text
    }
}

fn scaled(roles: &BTreeMap<Role, Counts>, factor: f64) -> BTreeMap<Role, Counts> {
    let mut roles = roles.clone();
    let counts = roles.values_mut().flat_map(BTreeMap::values_mut);
    for count in counts.flat_map(BTreeMap::values_mut) {
        *count *= factor;
    }
    roles
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(operations: u64, seconds: f64, group: Group, counts: &[(&str, f64)]) -> Pass {
        let counts = counts
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count));
        let counts = Counts::from([(group, counts.collect())]);
        Pass {
            operations,
            seconds,
            totals: BTreeMap::from([(Role::RedisMasters, counts)]),
        }
    }

    #[test]
    fn an_operation_costs_what_idleness_does_not() {
        let idle = Asked::of_idleness(&Passes {
            heard: pass(0, 10.0, Group::Sent, &[("fcall_ro beat", 40.0)]),
            measured: pass(0, 20.0, Group::Commands, &[("time", 80.0)]),
        });
        assert!((idle.round_trips - 4.0).abs() < 1e-9 && !idle.is_restless());
        let heard = [("fcall_ro beat", 20.0), ("fcall append_message", 100.0)];
        let asked = Asked::of_operations(
            &Passes {
                heard: pass(100, 5.0, Group::Sent, &heard),
                measured: pass(
                    200,
                    10.0,
                    Group::Commands,
                    &[("time", 240.0), ("xadd", 200.0)],
                ),
            },
            &idle,
        );
        assert!((asked.round_trips - 1.0).abs() < 1e-9);
        let masters = &asked.roles[&Role::RedisMasters];
        let of = |name: &str, count| BTreeMap::from([(name.to_owned(), count)]);
        assert_eq!(masters[&Group::Sent], of("fcall append_message", 1.0));
        assert_eq!(masters[&Group::Commands].len(), 2);
        assert!((masters[&Group::Commands]["time"] - 1.0).abs() < 1e-9);
        assert!(
            asked
                .text()
                .contains("masters were sent: fcall append_message 1.000\n")
        );
    }
}
