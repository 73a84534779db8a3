//! A Redis Cluster of our own, run by `deploy/local/cluster`, and what can be done to its nodes.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use redis::{AsyncConnectionConfig, FromRedisValue, aio::MultiplexedConnection};
use rustix::process::{Pid, Signal, kill_process};
use slotcast_proto::slot::Slot;
use tokio::time::timeout;

use super::{proxy::Proxies, wait::until};

/// A node that does not answer for so long is taken for dead.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Until a cluster is whole again after a fault.
const HEAL_SECONDS: u64 = 60;

/// Where a node is reached, and its name in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) port: u16,
    pub(crate) id: String,
}

/// The cluster; stopped, and its folder removed, when dropped.
pub(crate) struct Cluster {
    script: PathBuf,
    dir: PathBuf,
    pub(crate) nodes: Vec<Node>,
    masters: usize,
    /// Proxies through which clients reach the nodes, and the ports they have.
    pub(crate) proxies: Option<Proxies>,
    announced: HashMap<u16, u16>,
    /// Nodes that were started again, by port.
    restarted: Mutex<HashMap<u16, Child>>,
}

/// A node as another one sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) node: Node,
    pub(crate) is_master: bool,
    is_failed: bool,
    /// Master of a replica.
    pub(crate) master: Option<String>,
    slots: Vec<(u16, u16)>,
    is_migrating: bool,
}

impl Seen {
    /// Whether it owns slots.
    pub(crate) fn serves(&self) -> bool {
        self.is_master && !self.is_failed && !self.slots.is_empty()
    }

    pub(crate) fn owns(&self, slot: Slot) -> bool {
        let number = slot.number();
        let holds = |(first, last): &(u16, u16)| (*first..=*last).contains(&number);
        self.serves() && self.slots.iter().any(holds)
    }
}

impl Cluster {
    /// Starts a cluster on `port` and the ports after it.
    pub(crate) async fn start(
        script: &Path,
        dir: PathBuf,
        port: u16,
        masters: usize,
        replicas: usize,
    ) -> Result<Self> {
        let mut cluster = Self {
            script: script.to_owned(),
            dir,
            nodes: Vec::new(),
            masters,
            proxies: None,
            announced: HashMap::new(),
            restarted: Mutex::default(),
        };
        let status = Command::new(script)
            .arg("start")
            .arg("--dir")
            .arg(&cluster.dir)
            .args(["--port", &port.to_string()])
            .args(["--masters", &masters.to_string()])
            .args(["--replicas", &replicas.to_string()])
            .status()
            .with_context(|| format!("cannot run {}", script.display()))?;
        ensure!(status.success(), "no cluster on port {port}");
        for port in (port..).take(masters + replicas) {
            let id = ask(port, &["CLUSTER", "MYID"]).await?;
            cluster.nodes.push(Node { port, id });
        }
        Ok(cluster)
    }

    /// Puts a proxy in front of every node, on `first` and the ports after it.
    pub(crate) async fn hide_behind_proxies(&mut self, first: u16) -> Result<()> {
        let ports: Vec<_> = self.nodes.iter().map(|node| node.port).collect();
        self.announced = ports.iter().copied().zip(first..).collect();
        self.proxies = Some(Proxies::start(first, ports.into_iter()).await?);
        for node in &self.nodes {
            self.announce(node).await?;
        }
        let within = Duration::from_secs(HEAL_SECONDS);
        until("the announced ports", within, async || {
            for node in &self.nodes {
                let view: Result<String> = ask(node.port, &["CLUSTER", "NODES"]).await;
                let view = view.unwrap_or_default();
                let mut proxies = self.announced.values();
                if !proxies.all(|proxy| view.contains(&format!(":{proxy}@"))) {
                    return false;
                }
            }
            true
        })
        .await
    }

    /// Has a node tell the port of its proxy, which it forgets when it ends.
    async fn announce(&self, node: &Node) -> Result<()> {
        let Some(proxy) = self.announced.get(&node.port) else {
            return Ok(());
        };
        let setting = ["CONFIG", "SET", "cluster-announce-port", &proxy.to_string()];
        ask(node.port, &setting).await
    }

    /// URLs of all nodes, as clients are to know them.
    pub(crate) fn urls(&self) -> Vec<String> {
        let ports = self.nodes.iter().map(|node| {
            let proxy = self.announced.get(&node.port);
            proxy.copied().unwrap_or(node.port)
        });
        ports.map(url).collect()
    }

    fn home(&self, node: &Node) -> PathBuf {
        self.dir.join(format!("node-{}", node.port))
    }

    /// Sends a signal to a node's process.
    pub(crate) fn signal(&self, node: &Node, signal: Signal) -> Result<()> {
        let pid = fs::read_to_string(self.home(node).join("pid"))?;
        let pid = Pid::from_raw(pid.trim().parse()?).context("no process")?;
        kill_process(pid, signal)?;
        Ok(())
    }

    /// Kills a node as a lost machine would be.
    pub(crate) fn kill(&self, node: &Node) -> Result<()> {
        self.signal(node, Signal::KILL)?;
        let child = lock(&self.restarted).remove(&node.port);
        if let Some(mut child) = child {
            child.wait()?;
        }
        Ok(())
    }

    /// Starts a node that was killed.
    pub(crate) async fn restart(&self, node: &Node) -> Result<()> {
        let home = self.home(node);
        let child = Command::new("redis-server")
            .arg(home.join("redis.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        fs::write(home.join("pid"), child.id().to_string())?;
        lock(&self.restarted).insert(node.port, child);
        let answers = async || ask::<String>(node.port, &["PING"]).await.is_ok();
        until(
            "a restarted node",
            Duration::from_secs(HEAL_SECONDS),
            answers,
        )
        .await?;
        self.announce(node).await
    }

    /// The cluster as `node` sees it.
    pub(crate) async fn view(&self, node: &Node) -> Result<Vec<Seen>> {
        let text: String = ask(node.port, &["CLUSTER", "NODES"]).await?;
        text.lines().map(|line| self.parse(line)).collect()
    }

    /// The cluster as the first node that answers sees it, `except` not asked.
    pub(crate) async fn view_without(&self, except: Option<&Node>) -> Result<Vec<Seen>> {
        for node in &self.nodes {
            if Some(node) != except
                && let Ok(view) = self.view(node).await
            {
                return Ok(view);
            }
        }
        bail!("no node answers")
    }

    fn parse(&self, line: &str) -> Result<Seen> {
        let fields: Vec<_> = line.split(' ').collect();
        let field = |at: usize| fields.get(at).copied().context("a short line");
        let id = field(0)?;
        let node = self.nodes.iter().find(|node| node.id == id);
        let flags: Vec<_> = field(2)?.split(',').collect();
        let ranges = || fields.iter().skip(8);
        let range = |range: &&str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        Ok(Seen {
            node: node.context("an unknown node")?.clone(),
            is_master: flags.contains(&"master"),
            is_failed: flags.iter().any(|flag| flag.starts_with("fail")),
            master: Some(field(3)?).filter(|id| *id != "-").map(str::to_owned),
            slots: ranges().filter_map(range).collect(),
            is_migrating: ranges().any(|range| range.starts_with('[')),
        })
    }

    /// Whether every node sees every slot served, the masters that there were at the start, no slot on
    /// its way, and every replica linked to its master.
    pub(crate) async fn is_whole(&self) -> bool {
        for node in &self.nodes {
            if !self.is_whole_for(node).await.unwrap_or(false) {
                return false;
            }
        }
        true
    }

    async fn is_whole_for(&self, node: &Node) -> Result<bool> {
        let info: String = ask(node.port, &["CLUSTER", "INFO"]).await?;
        let replication: String = ask(node.port, &["INFO", "replication"]).await?;
        let view = self.view(node).await?;
        let masters = view.iter().filter(|seen| seen.serves()).count();
        let others_follow = view
            .iter()
            .all(|seen| seen.serves() || seen.master.is_some());
        Ok(info.contains("cluster_state:ok")
            && info.contains("cluster_slots_ok:16384")
            && (replication.contains("role:master")
                || replication.contains("master_link_status:up"))
            && masters == self.masters
            && view.len() == self.nodes.len()
            && others_follow
            && !view.iter().any(|seen| seen.is_migrating || seen.is_failed))
    }

    /// Waits until the cluster is whole.
    pub(crate) async fn heal(&self) -> Result<()> {
        let within = Duration::from_secs(HEAL_SECONDS);
        until("the cluster to be whole", within, async || {
            self.is_whole().await
        })
        .await
    }

    /// Waits until `node` is no longer a master that others count on.
    pub(crate) async fn await_failover(&self, node: &Node) -> Result<()> {
        let within = Duration::from_secs(HEAL_SECONDS);
        until("a failover", within, async || {
            let view = self.view_without(Some(node)).await.unwrap_or_default();
            let masters = view.iter().filter(|seen| seen.serves()).count();
            let others = |seen: &Seen| seen.node == *node && seen.serves();
            masters == self.masters && !view.iter().any(others)
        })
        .await
    }

    /// Has `node` replace its master by agreement. Soon after another failover the masters give it no
    /// vote; Redis gives that up after five seconds, and it is asked for again.
    pub(crate) async fn fail_over(&self, node: &Node) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(6);
        const TRIES: usize = 5;
        let mut outcome = Ok(());
        for _ in 0..TRIES {
            // A node that has just become master refuses; what counts is what is seen.
            let _: Result<()> = ask(node.port, &["CLUSTER", "FAILOVER"]).await;
            outcome = until("a replica to take over", PATIENCE, async || {
                let view = self.view(node).await.unwrap_or_default();
                view.iter().any(|seen| seen.node == *node && seen.serves())
            })
            .await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// The node that owns `slot`.
    pub(crate) async fn owner(&self, slot: Slot) -> Result<Node> {
        let view = self.view_without(None).await?;
        let owner = view.into_iter().find(|seen| seen.owns(slot));
        Ok(owner.context("a slot without owner")?.node)
    }

    /// Forgets everything that is stored.
    pub(crate) async fn clear(&self) -> Result<()> {
        for seen in self.view_without(None).await? {
            if seen.is_master {
                let () = ask(seen.node.port, &["FLUSHALL"]).await?;
            }
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut stop = Command::new(&self.script);
        stop.arg("stop").arg("--dir").arg(&self.dir);
        // A child that has ended must be waited for before the script can see that it has.
        let reaper = stop.spawn();
        for (_, mut child) in lock(&self.restarted).drain() {
            let _ = child.wait();
        }
        let _ = reaper.and_then(|mut stop| stop.wait());
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

/// A connection to one node, redirections and all.
pub(crate) async fn connection(port: u16) -> Result<MultiplexedConnection> {
    let client = redis::Client::open(url(port))?;
    Ok(timeout(ANSWER_TIMEOUT, client.get_multiplexed_async_connection()).await??)
}

/// One command on a connection of its own.
pub(crate) async fn ask<T: FromRedisValue>(port: u16, command: &[&str]) -> Result<T> {
    ask_within(ANSWER_TIMEOUT, port, command).await
}

/// One command that may take its time.
pub(crate) async fn ask_slow<T: FromRedisValue>(port: u16, command: &[&str]) -> Result<T> {
    ask_within(10 * ANSWER_TIMEOUT, port, command).await
}

async fn ask_within<T: FromRedisValue>(within: Duration, port: u16, command: &[&str]) -> Result<T> {
    let client = redis::Client::open(url(port))?;
    // Its own default would end a slow answer early.
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(within));
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    let mut connection = timeout(ANSWER_TIMEOUT, connection).await??;
    let mut wanted = redis::Cmd::new();
    wanted.arg(command);
    Ok(timeout(within, wanted.query_async(&mut connection)).await??)
}
