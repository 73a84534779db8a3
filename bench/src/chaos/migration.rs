//! Moving a slot to another master while it is used, key by key, as `redis-cli --cluster reshard` does.
//!
//! Source: Redis Cluster specification, "Cluster live reconfiguration".

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use slotcast_proto::slot::Slot;
use tokio::time::sleep;

use super::cluster::{Cluster, Node, ask, ask_slow};

/// Longest pause between two keys, in milliseconds.
const PAUSE_MS: u64 = 60;

/// Milliseconds that a key may take on its way.
const MIGRATE_TIMEOUT_MS: &str = "5000";

/// Moves `slot` to a master drawn from those that do not own it; says from where to where.
pub(crate) async fn move_slot(cluster: &Cluster, slot: Slot, rng: &mut Rng) -> Result<String> {
    let source = cluster.owner(slot).await?;
    let view = cluster.view_without(None).await?;
    let mut targets: Vec<_> = view.into_iter().filter(|seen| seen.serves()).collect();
    targets.retain(|seen| seen.node != source);
    targets.sort_by_key(|seen| seen.node.port);
    let target = rng.choice(targets.iter()).context("no other master")?;
    let target = &target.node;
    let number = slot.to_string();
    set_slot(target, &[&number, "IMPORTING", &source.id]).await?;
    set_slot(&source, &[&number, "MIGRATING", &target.id]).await?;
    let mut keys = 0;
    while let Some(key) = next_key(&source, &number).await? {
        let port = target.port.to_string();
        let migrate = ["MIGRATE", "127.0.0.1", &port, &key, "0", MIGRATE_TIMEOUT_MS];
        let answer: String = ask_slow(source.port, &migrate).await?;
        ensure!(
            answer == "OK" || answer == "NOKEY",
            "MIGRATE {key}: {answer}"
        );
        keys += 1;
        sleep(Duration::from_millis(rng.u64(..=PAUSE_MS))).await;
    }
    // The target first, then the source: between the two, both know an owner.
    set_slot(target, &[&number, "NODE", &target.id]).await?;
    set_slot(&source, &[&number, "NODE", &target.id]).await?;
    for other in targets.iter().filter(|seen| seen.node != *target) {
        set_slot(&other.node, &[&number, "NODE", &target.id]).await?;
    }
    let (from, to) = (source.port, target.port);
    Ok(format!(
        "slot {number} with {keys} keys, node {from} to {to}"
    ))
}

async fn set_slot(node: &Node, arguments: &[&str]) -> Result<()> {
    let command = [&["CLUSTER", "SETSLOT"], arguments].concat();
    ask(node.port, &command).await
}

async fn next_key(node: &Node, slot: &str) -> Result<Option<String>> {
    let keys: Vec<String> = ask(node.port, &["CLUSTER", "GETKEYSINSLOT", slot, "1"]).await?;
    Ok(keys.into_iter().next())
}
