//! What can go wrong, and making it so.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use clap::ValueEnum;
use fastrand::Rng;
use rustix::process::Signal;
use slotcast_proto::slot::Slot;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{
    client::Blow,
    cluster::{Cluster, Node, Seen},
    gateway::Gateway,
    migration::move_slot,
    proxy::Link,
};

/// A kind of fault. Each undoes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Fault {
    /// None: the load alone.
    Calm,
    /// A master is killed; it comes back as a replica.
    KillMaster,
    /// A master hangs until another has taken over, and goes on with what it knew.
    HangMaster,
    /// A master hangs for less than the cluster notices.
    ShortHang,
    /// A replica is killed and comes back.
    KillReplica,
    /// A replica hangs for a while.
    HangReplica,
    /// A replica takes over from its master by hand.
    Failover,
    /// A slot with rooms moves to another master, key by key.
    MoveSlot,
    /// The links of clients to a Redis node are slow for a while.
    SlowLink,
    /// The links of clients to a Redis node are closed, or silent, for a while.
    CutRedisLink,
    /// A gateway is killed and comes back.
    KillGateway,
    /// A gateway hangs for longer than its lease.
    HangGateway,
    /// A gateway is told to stop, and started again.
    DrainGateway,
    /// Sockets of clients are reset.
    CutClients,
    /// Sockets of clients end without anyone being told.
    HalfOpen,
    /// All of these, drawn in turn.
    Mix,
}

impl Fault {
    /// Whether it needs proxies between the gateways and Redis.
    pub(crate) const fn needs_proxies(self) -> bool {
        matches!(self, Self::SlowLink | Self::CutRedisLink | Self::Mix)
    }

    /// The name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Something that was done.
#[derive(Clone, Debug)]
pub(crate) struct Injection {
    pub(crate) fault: Fault,
    /// The fault and its target, in words.
    pub(crate) what: String,
    /// When it had taken effect, from the start of the run.
    pub(crate) begun: Duration,
    pub(crate) ended: Duration,
}

/// What faults happen to.
pub(crate) struct Ground {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) gateways: Arc<Vec<Gateway>>,
    pub(crate) blows: Arc<Vec<mpsc::Sender<Blow>>>,
    /// Slots in which rooms of the run lie.
    pub(crate) slots: Vec<Slot>,
    /// How long a gateway may be silent, in seconds.
    pub(crate) lease_seconds: u64,
    pub(crate) begun: Instant,
    /// When the last fault had taken effect: what was sent before may still have passed.
    pub(crate) struck_at: Duration,
    pub(crate) rng: Rng,
}

/// Share of the clients that one blow hits, in percent.
const HIT_PERCENT: std::ops::RangeInclusive<usize> = 10..=40;

impl Ground {
    /// Does it, undoes it, and says what it was.
    pub(crate) async fn inject(&mut self, fault: Fault) -> Result<Injection> {
        let fault = if fault == Fault::Mix {
            self.draw()?
        } else {
            fault
        };
        self.note_strike();
        let target = self.strike(fault).await.with_context(|| fault.name())?;
        Ok(Injection {
            fault,
            what: format!("{} {target}", fault.name()),
            begun: self.struck_at,
            ended: self.begun.elapsed(),
        })
    }

    fn note_strike(&mut self) {
        self.struck_at = self.begun.elapsed();
    }

    fn draw(&mut self) -> Result<Fault> {
        let real = |fault: &&Fault| !matches!(fault, Fault::Calm | Fault::Mix);
        let faults: Vec<_> = Fault::value_variants().iter().filter(real).collect();
        Ok(**self.rng.choice(faults.iter()).context("no fault")?)
    }

    async fn strike(&mut self, fault: Fault) -> Result<String> {
        match fault {
            Fault::Calm | Fault::Mix => {
                sleep(self.between(500, 1000)).await;
                Ok(String::new())
            }
            Fault::MoveSlot => {
                let slot = self.rng.choice(self.slots.iter()).context("no slot")?;
                let moved = move_slot(&self.cluster, *slot, &mut self.rng).await?;
                self.cluster.heal().await?;
                Ok(moved)
            }
            Fault::KillMaster
            | Fault::KillReplica
            | Fault::HangMaster
            | Fault::ShortHang
            | Fault::HangReplica
            | Fault::Failover => {
                let is_master = matches!(
                    fault,
                    Fault::KillMaster | Fault::HangMaster | Fault::ShortHang
                );
                let node = self.node(is_master).await?;
                self.strike_node(fault, &node).await?;
                self.cluster.heal().await?;
                Ok(format!("node {}", node.port))
            }
            Fault::SlowLink | Fault::CutRedisLink => self.strike_link(fault).await,
            Fault::KillGateway | Fault::HangGateway | Fault::DrainGateway => {
                let gateways = Arc::clone(&self.gateways);
                let gateway = self.rng.choice(gateways.iter()).context("no gateway")?;
                self.strike_gateway(fault, gateway).await?;
                Ok(gateway.name.clone())
            }
            Fault::CutClients => Ok(self.strike_clients(|_| Blow::Cut)),
            Fault::HalfOpen => Ok(self.strike_clients(|rng| match rng.bool() {
                true => Blow::Vanish,
                false => Blow::Move,
            })),
        }
    }

    async fn strike_node(&mut self, fault: Fault, node: &Node) -> Result<()> {
        let cluster = Arc::clone(&self.cluster);
        if fault == Fault::Failover {
            return cluster.fail_over(node).await;
        }
        if matches!(fault, Fault::KillMaster | Fault::KillReplica) {
            cluster.kill(node)?;
            self.note_strike();
            if fault == Fault::KillMaster {
                cluster.await_failover(node).await?;
            }
            sleep(self.between(200, 1500)).await;
            return cluster.restart(node).await;
        }
        cluster.signal(node, Signal::STOP)?;
        self.note_strike();
        let outcome = if fault == Fault::HangMaster {
            cluster.await_failover(node).await
        } else {
            let longest = if fault == Fault::HangReplica {
                4000
            } else {
                1500
            };
            sleep(self.between(300, longest)).await;
            Ok(())
        };
        cluster.signal(node, Signal::CONT)?;
        outcome
    }

    async fn strike_link(&mut self, fault: Fault) -> Result<String> {
        let is_master = self.rng.bool();
        let node = self.node(is_master).await?;
        let (link, longest) = if fault == Fault::SlowLink {
            (Link::Slow(self.between(20, 300)), 4000)
        } else if self.rng.bool() {
            (Link::Silent, 4000)
        } else {
            (Link::Cut, 1000)
        };
        let cluster = Arc::clone(&self.cluster);
        let proxies = cluster.proxies.as_ref().context("no proxies")?;
        proxies.set(node.port, link)?;
        self.note_strike();
        sleep(self.between(100, longest)).await;
        proxies.set(node.port, Link::Open)?;
        self.cluster.heal().await?;
        Ok(format!("node {}, {link:?}", node.port))
    }

    async fn strike_gateway(&mut self, fault: Fault, gateway: &Gateway) -> Result<()> {
        if fault == Fault::HangGateway {
            gateway.signal(Signal::STOP)?;
            self.note_strike();
            sleep(Duration::from_secs(self.lease_seconds) + self.between(500, 2000)).await;
            return gateway.signal(Signal::CONT);
        }
        if fault == Fault::DrainGateway {
            gateway.signal(Signal::TERM)?;
            gateway.ended().await?;
        } else {
            gateway.kill()?;
            self.note_strike();
            sleep(self.between(500, 3000)).await;
        }
        gateway.start().await
    }

    fn strike_clients(&mut self, blow: impl Fn(&mut Rng) -> Blow) -> String {
        let percent = self.rng.usize(HIT_PERCENT);
        let mut hit = 0;
        for client in self.blows.iter() {
            if self.rng.usize(..100) < percent {
                // A client that has not noticed the last ones yet is hit enough.
                hit += usize::from(client.try_send(blow(&mut self.rng)).is_ok());
            }
        }
        format!("{hit} clients")
    }

    /// A master whose slots hold rooms, or a replica of one.
    async fn node(&mut self, is_master: bool) -> Result<Node> {
        let view = self.cluster.view_without(None).await?;
        let holds_rooms = |seen: &Seen| self.slots.iter().any(|slot| seen.owns(*slot));
        let masters: Vec<_> = view.iter().filter(|seen| holds_rooms(seen)).collect();
        let follows = |seen: &Seen| {
            let master = seen.master.as_ref();
            masters.iter().any(|other| Some(&other.node.id) == master)
        };
        let mut nodes: Vec<_> = match is_master {
            true => masters.iter().map(|seen| seen.node.clone()).collect(),
            false => {
                let replicas = view.iter().filter(|seen| follows(seen));
                replicas.map(|seen| seen.node.clone()).collect()
            }
        };
        nodes.sort_by_key(|node| node.port);
        let node = self.rng.choice(nodes.iter());
        Ok(node.context("no such node")?.clone())
    }

    fn between(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_millis(self.rng.u64(least_ms..=most_ms))
    }
}
