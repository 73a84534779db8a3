//! The nodes of a Redis Cluster, and the counts that they keep of themselves.

use std::{collections::BTreeMap, net::SocketAddrV4, ops::RangeInclusive};

use anyhow::{Context, Result};
use redis::{Client, aio::MultiplexedConnection, cmd};
use serde::Serialize;
use slotcast_proto::slot::Slot;

use crate::{cost::Role, process::written_bytes};

/// One node.
pub(crate) struct Node {
    /// `host:port`.
    pub(crate) address: String,
    pub(crate) role: Role,
    /// Of a master.
    slots: Vec<RangeInclusive<u16>>,
    connection: MultiplexedConnection,
}

/// What counts have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Group {
    /// Commands that clients sent, as `MONITOR` shows them; of a function call its function.
    Sent,
    /// Commands carried out by name, those that functions called and those from a master included.
    Commands,
    /// Over the network, by direction.
    Bytes,
    /// On the cluster bus, by kind and direction.
    BusMessages,
    /// CPU time in microseconds.
    Cpu,
}

/// Figures by group and name: counts, or what they come to for one operation.
pub(crate) type Counts = BTreeMap<Group, BTreeMap<String, f64>>;

/// What a node had counted at a moment.
pub(crate) struct Reading {
    counts: Counts,
    /// Answers that the reading itself caused and that are in no count yet.
    own_bytes: f64,
    /// What the process had written in all, to sockets and files; `None` if that cannot be seen.
    written: Option<f64>,
    /// Of the append-only file.
    log_bytes: f64,
    /// How often rewriting it has begun, and how long it was when that last ended.
    log_rewrites: [f64; 2],
}

impl Node {
    async fn open(line: Line<'_>) -> Result<Self> {
        let connection = connect(&format!("redis://{}", line.address)).await?;
        Ok(Self {
            address: line.address.to_owned(),
            role: line.role,
            slots: line.slots,
            connection,
        })
    }

    pub(crate) fn holds(&self, slot: Slot) -> bool {
        self.slots
            .iter()
            .any(|range| range.contains(&slot.number()))
    }

    pub(crate) fn socket_address(&self) -> Result<SocketAddrV4> {
        let address = self.address.parse();
        address.with_context(|| format!("{} is no IPv4 address", self.address))
    }

    /// The process, if it runs on this machine.
    pub(crate) async fn pid(&self) -> Result<Option<u32>> {
        let info = self.ask("INFO", "server").await?;
        let pid = fields(&info).find_map(|(name, pid)| (name == "process_id").then_some(pid));
        let pid = pid.context("a node without a process id")?.parse()?;
        Ok(is_redis(pid).then_some(pid))
    }

    pub(crate) async fn read(&self, pid: Option<u32>) -> Result<Reading> {
        let info = self.ask("INFO", "everything").await?;
        let bus = self.ask("CLUSTER", "INFO").await?;
        let written = pid.and_then(|pid| written_bytes(pid).ok());
        Ok(Reading::parse(&info, &bus, written))
    }

    async fn ask(&self, command: &str, argument: &str) -> Result<String> {
        let mut connection = self.connection.clone();
        let mut command = cmd(command);
        let answer = command.arg(argument).query_async(&mut connection).await;
        answer.with_context(|| self.address.clone())
    }
}

impl Reading {
    /// Reads the answers to `INFO everything` and `CLUSTER INFO`.
    #[expect(clippy::cast_precision_loss, reason = "no count reaches 2^53")]
    fn parse(info: &str, bus: &str, written: Option<u64>) -> Self {
        let mut counts = Counts::new();
        let mut note = |group, name: &str, count| {
            let group: &mut BTreeMap<_, _> = counts.entry(group).or_default();
            group.insert(name.to_owned(), count);
        };
        for (name, value) in fields(info) {
            if let Some(command) = name.strip_prefix("cmdstat_") {
                let calls = value
                    .split(',')
                    .find_map(|part| part.strip_prefix("calls="));
                note(Group::Commands, command, number(calls.unwrap_or_default()));
            } else if let Some((_, direction)) = BYTES.iter().find(|(field, _)| *field == name) {
                note(Group::Bytes, direction, number(value));
            }
        }
        for (name, value) in fields(bus) {
            if let Some(kind) = name.strip_prefix("cluster_stats_messages_") {
                note(Group::BusMessages, kind, number(value));
            }
        }
        let of = |wanted| fields(info).find_map(|(name, value)| (name == wanted).then_some(value));
        Self {
            counts,
            own_bytes: (info.len() + bus.len()) as f64,
            written: written.map(|bytes| bytes as f64),
            log_bytes: of("aof_current_size").map_or(0.0, number),
            log_rewrites: ["aof_rewrites", "aof_base_size"]
                .map(|name| of(name).map_or(0.0, number)),
        }
    }

    /// What was counted since an earlier reading, without what the readings asked themselves.
    pub(crate) fn since(&self, before: &Self) -> Counts {
        let mut counts = self.counts.clone();
        for (group, names) in &mut counts {
            let before = before.counts.get(group);
            for (name, count) in names {
                *count -= before.and_then(|names| names.get(name)).unwrap_or(&0.0);
            }
        }
        if let Some(commands) = counts.get_mut(&Group::Commands) {
            commands.retain(|command, _| !OWN.contains(&command.as_str()));
        }
        if let Some(bytes) = counts.get_mut(&Group::Bytes) {
            let of = |name| bytes.get(name).copied().unwrap_or_default();
            let sent = of(OUT);
            let bus = self.bus_bytes(before, sent);
            let replication = (of(REPLICATION_IN), of(REPLICATION_OUT));
            let clients = [
                (IN, of(IN) - replication.0),
                (OUT, sent - replication.1 - before.own_bytes),
            ];
            bytes.extend(clients.map(|(name, count)| (name.to_owned(), count)));
            bytes.extend(bus.map(|bus| (BUS_OUT.to_owned(), bus)));
        }
        counts
    }

    /// Bytes written to other nodes over the cluster bus, which Redis does not count: all that the
    /// process wrote, but what went to clients and replicas and into its log.
    fn bus_bytes(&self, before: &Self, sent: f64) -> Option<f64> {
        let rewrites = self.log_rewrites.iter().zip(&before.log_rewrites);
        let is_known = rewrites
            .into_iter()
            .all(|(now, then)| now.total_cmp(then).is_eq());
        let written = self.written? - before.written?;
        is_known.then(|| (written - sent - (self.log_bytes - before.log_bytes)).max(0.0))
    }
}

/// From and to clients. Redis counts replication in; [`Reading::since`] takes it out.
const IN: &str = "in";
const OUT: &str = "out";
const REPLICATION_IN: &str = "replication_in";
const REPLICATION_OUT: &str = "replication_out";
const BUS_OUT: &str = "bus_out";

/// Fields of `INFO`, and what they are called here.
const BYTES: [(&str, &str); 4] = [
    ("total_net_input_bytes", IN),
    ("total_net_output_bytes", OUT),
    ("total_net_repl_input_bytes", REPLICATION_IN),
    ("total_net_repl_output_bytes", REPLICATION_OUT),
];

/// Commands of a reading.
const OWN: [&str; 2] = ["info", "cluster|info"];

/// Adds up what nodes of one role counted. What one of them does not know, nobody knows of them all.
pub(crate) fn sum(nodes: &[Counts]) -> Counts {
    let mut whole = Counts::new();
    for counts in nodes {
        add(&mut whole, counts.clone());
    }
    let knows = |counts: &Counts| {
        let bytes = counts.get(&Group::Bytes);
        bytes.is_some_and(|bytes| bytes.contains_key(BUS_OUT))
    };
    if let Some(bytes) = whole.get_mut(&Group::Bytes)
        && !nodes.iter().all(knows)
    {
        bytes.remove(BUS_OUT);
    }
    whole
}

/// The nodes of the cluster that these nodes belong to.
pub(crate) async fn nodes(urls: &[String]) -> Result<Vec<Node>> {
    let url = urls.first().context("no node of Redis is named")?;
    let mut connection = connect(url).await?;
    let lines: String = cmd("CLUSTER")
        .arg("NODES")
        .query_async(&mut connection)
        .await?;
    let mut nodes = Vec::new();
    for line in lines.lines().filter_map(Line::parse) {
        nodes.push(Node::open(line).await?);
    }
    Ok(nodes)
}

/// Adds counts to others.
pub(crate) fn add(whole: &mut Counts, part: Counts) {
    for (group, names) in part {
        let group = whole.entry(group).or_default();
        for (name, count) in names {
            *group.entry(name).or_default() += count;
        }
    }
}

/// Lines `name:value`.
fn fields(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.trim().split_once(':'))
}

fn number(text: &str) -> f64 {
    text.parse().unwrap_or_default()
}

/// A node as a line of `CLUSTER NODES` tells it.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    address: &'a str,
    role: Role,
    slots: Vec<RangeInclusive<u16>>,
}

impl<'a> Line<'a> {
    /// Reads a line; `None` of a node that has failed.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(' ').skip(1);
        let (address, flags) = (fields.next()?, fields.next()?);
        let (address, _) = address.split_once('@')?;
        let mut flags = flags.split(',').filter(|flag| *flag != "myself");
        let role = match flags.next()? {
            "master" => Role::RedisMasters,
            "slave" => Role::RedisReplicas,
            _ => return None,
        };
        flags.next().is_none().then(|| Self {
            address,
            role,
            slots: fields.skip(5).filter_map(slots).collect(),
        })
    }
}

/// Slots `first-last`, or one; those on their way (`[slot->-node]`) are left out.
fn slots(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
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
            a1 127.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-5460 7000 [93->-b2]\n\
            b2 127.0.0.1:7001@17001,host slave a1 0 0 1 connected\n\
            c3 127.0.0.1:7002@17002 master,fail - 0 0 2 disconnected 5461-10922\n\
            d4 :0@0 master,noaddr - 0 0 2 disconnected\n";
        let node = |address, role, slots| Line {
            address,
            role,
            slots,
        };
        assert_eq!(
            nodes.lines().filter_map(Line::parse).collect::<Vec<_>>(),
            [
                node(
                    "127.0.0.1:7000",
                    Role::RedisMasters,
                    vec![0..=5460, 7000..=7000]
                ),
                node("127.0.0.1:7001", Role::RedisReplicas, vec![])
            ]
        );
    }

    fn reading(calls: u32, bytes: u32, written: Option<u64>) -> Reading {
        let info = format!(
            "# Stats\r\ntotal_net_input_bytes:{bytes}\r\ntotal_net_output_bytes:{}\r\n\
             total_net_repl_input_bytes:0\r\ntotal_net_repl_output_bytes:{}\r\n\
             aof_current_size:{}\r\naof_rewrites:1\r\naof_base_size:88\r\n# Commandstats\r\n\
             cmdstat_fcall:calls={calls},usec=9,usec_per_call=2.1,rejected_calls=0,failed_calls=0\r\n\
             cmdstat_info:calls={calls},usec=9\r\n",
            3 * bytes,
            bytes / 2,
            bytes / 10
        );
        let bus =
            format!("cluster_state:ok\r\ncluster_stats_messages_publishshard_sent:{calls}\r\n");
        Reading::parse(&info, &bus, written)
    }

    fn at(counts: &Counts, group: Group, name: &str) -> Option<f64> {
        counts.get(&group)?.get(name).copied()
    }

    #[test]
    fn counts_are_those_between_two_readings() {
        let before = reading(10, 1000, Some(50_000));
        let counts = reading(14, 21_000, Some(120_000)).since(&before);
        assert_eq!(at(&counts, Group::Commands, "fcall"), Some(4.0));
        assert_eq!(at(&counts, Group::Commands, "info"), None);
        assert_eq!(
            at(&counts, Group::BusMessages, "publishshard_sent"),
            Some(4.0)
        );
        assert_eq!(at(&counts, Group::Bytes, IN), Some(20_000.0));
        assert_eq!(at(&counts, Group::Bytes, REPLICATION_OUT), Some(10_000.0));
        let to_clients = 60_000.0 - 10_000.0 - before.own_bytes;
        assert_eq!(at(&counts, Group::Bytes, OUT), Some(to_clients));
        assert_eq!(
            at(&counts, Group::Bytes, BUS_OUT),
            Some(70_000.0 - 60_000.0 - 2_000.0)
        );
    }

    #[test]
    fn bytes_of_the_bus_are_unknown_if_the_process_is_elsewhere() {
        let counts = reading(1, 2000, None).since(&reading(0, 1000, None));
        assert_eq!(at(&counts, Group::Bytes, BUS_OUT), None);
    }

    #[test]
    fn bytes_of_the_bus_are_unknown_if_the_log_was_rewritten() {
        let after = Reading {
            log_rewrites: [1.0, 44.0],
            ..reading(1, 2000, Some(90_000))
        };
        let counts = after.since(&reading(0, 1000, Some(50_000)));
        assert_eq!(at(&counts, Group::Bytes, BUS_OUT), None);
    }

    #[test]
    fn counts_of_nodes_add_up() {
        let node = |calls, written| {
            reading(calls, 1000, Some(written)).since(&reading(0, 1000, Some(40_000)))
        };
        let nodes = [node(2, 41_000), node(3, 42_000)];
        let whole = sum(&nodes);
        assert_eq!(at(&whole, Group::Commands, "fcall"), Some(5.0));
        assert_eq!(at(&whole, Group::Bytes, BUS_OUT), Some(3000.0));
        let unknown = reading(1, 1000, None).since(&reading(0, 1000, None));
        let [first, _] = nodes;
        assert_eq!(at(&sum(&[first, unknown]), Group::Bytes, BUS_OUT), None);
    }
}
