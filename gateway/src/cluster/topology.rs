//! Which node serves which slot: pure, read from `CLUSTER SLOTS`.

use std::{fmt, sync::Arc};

use redis::{FromRedisValue, Value};
use slotcast_proto::slot::{SLOT_COUNT, Slot};

/// Host and port of a Redis node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Address(Arc<str>);

impl Address {
    pub(crate) fn new(host: &str, port: u16) -> Self {
        Self(format!("{host}:{port}").into())
    }

    /// Reads `host:port`; the host may be an IPv6 address without brackets, as Redis writes it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Some(Self::new(host, port.parse().ok()?))
    }

    pub(crate) fn host(&self) -> &str {
        self.0.rsplit_once(':').map_or("", |(host, _)| host)
    }

    pub(crate) fn port(&self) -> u16 {
        self.0
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok())
            .unwrap_or_default()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A master with its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) master: Address,
    pub(crate) replicas: Vec<Address>,
}

/// The slot map of the cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Topology {
    groups: Vec<Group>,
    /// First slot, last slot and index of the group, in rising order.
    ranges: Vec<(u16, u16, usize)>,
}

impl Topology {
    /// Reads the answer to `CLUSTER SLOTS`; an empty host means the node that was asked.
    pub(crate) fn parse(answer: &Value, asked: &Address) -> Option<Self> {
        let Value::Array(rows) = answer else {
            return None;
        };
        let mut topology = Self::default();
        for row in rows {
            let Value::Array(fields) = row else {
                return None;
            };
            let [Value::Int(first), Value::Int(last), nodes @ ..] = fields.as_slice() else {
                return None;
            };
            let mut nodes = nodes.iter().map(|node| parse_node(node, asked));
            let group = Group {
                master: nodes.next()??,
                replicas: nodes.flatten().collect(),
            };
            let index = topology.index_of(group);
            topology
                .ranges
                .push((slot_number(*first)?, slot_number(*last)?, index));
        }
        topology.ranges.sort_unstable();
        Some(topology)
    }

    /// A slot map of these ranges, each with its master and then its replicas.
    #[cfg(test)]
    pub(crate) fn of(rows: impl IntoIterator<Item = (u16, u16, Vec<Address>)>) -> Self {
        let mut topology = Self::default();
        for (first, last, mut nodes) in rows {
            let replicas = nodes.split_off(1);
            let master = nodes.remove(0);
            let index = topology.index_of(Group { master, replicas });
            topology.ranges.push((first, last, index));
        }
        topology.ranges.sort_unstable();
        topology
    }

    fn index_of(&mut self, group: Group) -> usize {
        let known = self
            .groups
            .iter()
            .position(|other| other.master == group.master);
        known.unwrap_or_else(|| {
            self.groups.push(group);
            self.groups.len() - 1
        })
    }

    /// The nodes that serve a slot.
    pub(crate) fn group(&self, slot: Slot) -> Option<&Group> {
        let after = self
            .ranges
            .partition_point(|(first, ..)| *first <= slot.number());
        let (_, last, group) = self.ranges.get(after.checked_sub(1)?)?;
        if slot.number() <= *last {
            self.groups.get(*group)
        } else {
            None
        }
    }

    /// Some slot of the longest run of those that a master serves.
    pub(crate) fn any_slot_of(&self, master: &Address) -> Option<Slot> {
        let is_served = |(.., group): &&(u16, u16, usize)| {
            let group = self.groups.get(*group);
            group.is_some_and(|group| group.master == *master)
        };
        let served = self.ranges.iter().filter(is_served);
        let (first, last, _) = served.max_by_key(|(first, last, _)| last - first)?;
        Slot::new(fastrand::u16(*first..=*last))
    }

    pub(crate) fn masters(&self) -> impl Iterator<Item = &Address> {
        self.groups.iter().map(|group| &group.master)
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Address> {
        self.masters()
            .chain(self.groups.iter().flat_map(|group| &group.replicas))
    }
}

fn slot_number(number: i64) -> Option<u16> {
    u16::try_from(number)
        .ok()
        .filter(|number| *number < SLOT_COUNT)
}

fn parse_node(node: &Value, asked: &Address) -> Option<Address> {
    let Value::Array(fields) = node else {
        return None;
    };
    let [host, Value::Int(port), ..] = fields.as_slice() else {
        return None;
    };
    let named = String::from_redis_value_ref(host).unwrap_or_default();
    let host = if named.is_empty() {
        asked.host()
    } else {
        &named
    };
    Some(Address::new(host, u16::try_from(*port).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_lead_to_their_group() {
        let topology = Topology::parse(&answer(), &Address::new("10.0.0.9", 1)).unwrap();
        let master = |slot| {
            topology
                .group(Slot::new(slot).unwrap())
                .map(|group| group.master.to_string())
        };
        assert_eq!(master(0).as_deref(), Some("10.0.0.1:7000"));
        assert_eq!(master(5460).as_deref(), Some("10.0.0.1:7000"));
        assert_eq!(master(5461), None, "a slot that nobody serves");
        assert_eq!(
            master(16_383).as_deref(),
            Some("10.0.0.9:7001"),
            "an empty host is the asked"
        );
        assert_eq!(topology.nodes().count(), 3);
        let some = topology.any_slot_of(&Address::new("10.0.0.1", 7000));
        assert!(some.is_some_and(|slot| slot.number() <= 5460));
        assert_eq!(topology.any_slot_of(&Address::new("10.0.0.1", 7003)), None);
    }

    #[test]
    fn malformed_answers_are_refused() {
        let asked = Address::new("10.0.0.9", 1);
        for answer in [
            Value::Nil,
            Value::Array(vec![Value::Nil]),
            Value::Array(vec![Value::Array(vec![Value::Int(0), Value::Int(1)])]),
            Value::Array(vec![row(0, 70_000, vec![node("a", 1)])]),
        ] {
            assert_eq!(Topology::parse(&answer, &asked), None);
        }
    }

    #[test]
    fn addresses_parse_with_ipv6_hosts() {
        let address = Address::parse("::1:7000").unwrap();
        assert_eq!((address.host(), address.port()), ("::1", 7000));
        assert_eq!(Address::parse("nonsense"), None);
    }

    fn answer() -> Value {
        Value::Array(vec![
            row(8000, 16_383, vec![node("", 7001)]),
            row(
                0,
                5460,
                vec![node("10.0.0.1", 7000), node("10.0.0.1", 7003)],
            ),
        ])
    }

    fn row(first: i64, last: i64, nodes: Vec<Value>) -> Value {
        Value::Array([vec![Value::Int(first), Value::Int(last)], nodes].concat())
    }

    fn node(host: &str, port: i64) -> Value {
        Value::Array(vec![
            Value::BulkString(host.into()),
            Value::Int(port),
            Value::Nil,
        ])
    }
}
