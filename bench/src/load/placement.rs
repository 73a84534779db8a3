//! Who holds what: shards on masters, and connections of gateways to nodes.

use std::iter;

use anyhow::{Context, Result};
use serde::Serialize;
use slotcast_proto::slot::Shards;

use crate::{cost::Role, node::Node, process::peers};

/// How shards and connections are spread over the nodes.
#[derive(Debug, Serialize)]
pub(super) struct Placement {
    shards: u16,
    masters: usize,
    /// Shards of the master that holds the most.
    busiest_shards: usize,
    /// The least that this can be: shards by masters, rounded up.
    even_shards: usize,
    /// Shard counts up to [`COUNTS_MAX`] with which a master would hold more than the least.
    uneven_counts: usize,
    /// The most connections that a gateway has to a node; `None` if no gateway's process is known.
    connections_max: Option<usize>,
    /// All connections of all gateways.
    connections: Option<usize>,
    /// Gateways times nodes.
    gateways_by_nodes: Option<usize>,
    nodes: Vec<Holder>,
}

/// What one node holds.
#[derive(Debug, Serialize)]
struct Holder {
    address: String,
    role: Role,
    /// Of a master.
    shards: Option<usize>,
    /// From each gateway of which the process is known.
    connections: Vec<usize>,
}

/// Shard counts that are tried on these masters.
const COUNTS_MAX: u16 = 1024;

impl Placement {
    /// Looks at the nodes, and at the gateways that run here.
    pub(super) fn of(nodes: &[Node], shards: u16, gateways: &[u32]) -> Result<Self> {
        let masters = nodes.iter().filter(|node| node.role == Role::RedisMasters);
        let masters: Vec<_> = masters.collect();
        let loads = |count| loads(&masters, count).context("the shard count is 1 to 16384");
        let mut uneven_counts = 0;
        for count in 1..=COUNTS_MAX {
            let is_even = busiest(&loads(count)?) <= even(count, masters.len());
            uneven_counts += usize::from(!is_even);
        }
        let peers = gateways.iter().map(|pid| peers(*pid));
        let peers = peers.collect::<Result<Vec<_>>>()?;
        let mut shards_of = loads(shards)?.into_iter();
        let holders = nodes.iter().map(|node| {
            let address = node.socket_address()?;
            let to_node = |peers: &Vec<_>| peers.iter().filter(|peer| **peer == address).count();
            Ok(Holder {
                address: node.address.clone(),
                role: node.role,
                shards: (node.role == Role::RedisMasters)
                    .then(|| shards_of.next())
                    .flatten(),
                connections: peers.iter().map(to_node).collect(),
            })
        });
        let holders = holders.collect::<Result<Vec<_>>>()?;
        let connections = || {
            holders
                .iter()
                .flat_map(|holder| &holder.connections)
                .copied()
        };
        let is_known = !gateways.is_empty();
        Ok(Self {
            shards,
            masters: masters.len(),
            busiest_shards: busiest(&loads(shards)?),
            even_shards: even(shards, masters.len()),
            uneven_counts,
            connections_max: connections().max(),
            connections: is_known.then(|| connections().sum()),
            gateways_by_nodes: is_known.then_some(gateways.len() * nodes.len()),
            nodes: holders,
        })
    }

    /// What there is to say of it, in lines.
    pub(super) fn text(&self) -> String {
        let head = format!(
            "shards {}, masters {}, busiest {}, at best {}, uneven counts {} of {COUNTS_MAX}; \
             connections {}, gateways x nodes {}",
            self.shards,
            self.masters,
            self.busiest_shards,
            self.even_shards,
            self.uneven_counts,
            known(self.connections),
            known(self.gateways_by_nodes),
        );
        let nodes = self.nodes.iter().map(|node| {
            let connections = &node.connections;
            let shards = known(node.shards);
            format!(
                "  {}: shards {shards}, connections {connections:?}",
                node.address
            )
        });
        iter::once(head)
            .chain(nodes)
            .map(|line| line + "\n")
            .collect()
    }
}

fn known(count: Option<usize>) -> String {
    count.map_or_else(|| "-".to_owned(), |count| count.to_string())
}

/// Shards of each master.
fn loads(masters: &[&Node], count: u16) -> Option<Vec<usize>> {
    let shards = Shards::new(count)?;
    let load = |node: &&Node| shards.slots().filter(|slot| node.holds(*slot)).count();
    Some(masters.iter().map(load).collect())
}

fn busiest(loads: &[usize]) -> usize {
    loads.iter().copied().max().unwrap_or_default()
}

fn even(shards: u16, masters: usize) -> usize {
    usize::from(shards).div_ceil(masters.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_is_rounded_up() {
        assert_eq!([even(64, 3), even(63, 3), even(1, 3)], [22, 21, 1]);
        assert_eq!(busiest(&[21, 22, 21]), 22);
    }
}
