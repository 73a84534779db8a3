//! Against a real cluster, named by `SLOTCAST_TEST_REDIS_URLS`.

use std::collections::HashSet;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::*;
use crate::{config::redis_urls, metrics::StoreMetrics};

const IN_FLIGHT: usize = 256;

async fn connect() -> Arc<Cluster> {
    connect_with(StoreMetrics::default()).await
}

async fn connect_with(metrics: StoreMetrics) -> Arc<Cluster> {
    #[expect(clippy::disallowed_methods, reason = "tests are told where Redis is")]
    let urls = std::env::var("SLOTCAST_TEST_REDIS_URLS").expect(
        "SLOTCAST_TEST_REDIS_URLS must name nodes of a running Redis Cluster, \
         as deploy/local/cluster starts one",
    );
    let cluster = Cluster::new(&redis_urls(&urls).unwrap(), metrics).unwrap();
    cluster.connect().await.unwrap();
    Arc::new(cluster)
}

fn store_on(cluster: &Arc<Cluster>) -> Store {
    Store::new(Arc::clone(cluster), Duration::from_secs(60), None)
}

/// A room that no other test has, in the slot of this key.
fn new_room(key: &str) -> RoomId {
    RoomId::new(Slot::of_key(key.as_bytes()), fastrand::u32(..))
}

async fn append(store: &Store, room: RoomId, number: usize) -> Result<Appended, StoreError> {
    let draft = Draft {
        room,
        key: &format!("key {number}"),
        may_repeat: false,
        body: &record::message_body(&format!(r#""content":"{number}""#)),
    };
    store.append(&draft).await
}

/// Has the slot's master count up to a number, and do nothing else meanwhile.
async fn count_up(cluster: &Cluster, slot: Slot, number: f64) -> redis::RedisResult<Value> {
    let master = cluster.topology().group(slot).unwrap().master.clone();
    let script = "for i = 1, tonumber(ARGV[1]) do end";
    let count = cmd("EVAL").arg(script).arg(0).arg(number).to_owned();
    cluster.call_node(&master, &count).await
}

/// The number that takes the slot's master this long to count.
async fn number_for(cluster: &Cluster, slot: Slot, time: Duration) -> f64 {
    const SAMPLE: f64 = 5e7;
    let begun = Instant::now();
    count_up(cluster, slot, SAMPLE).await.unwrap();
    SAMPLE * time.as_secs_f64() / begun.elapsed().as_secs_f64()
}

/// Waits until the slot's master answers nothing.
async fn hangs(cluster: &Cluster, slot: Slot) {
    let master = cluster.topology().group(slot).unwrap().master.clone();
    let ping = cmd("PING");
    let answers = || timeout(Duration::from_millis(50), cluster.call_node(&master, &ping));
    while answers().await.is_ok() {}
}

#[tokio::test]
async fn master_that_hangs_for_a_moment_stores_nothing_twice() {
    let metrics = StoreMetrics::default();
    let cluster = connect_with(metrics.clone()).await;
    let other = connect().await;
    let store = store_on(&cluster);
    let room = new_room("hangs");
    append(&store, room, 0).await.unwrap();
    let number = number_for(&other, room.slot(), Duration::from_millis(1500)).await;
    let hanging = tokio::spawn(async move { count_up(&other, room.slot(), number).await });
    hangs(&cluster, room.slot()).await;
    let appends = (1..=IN_FLIGHT).map(|number| append(&store, room, number));
    let appended = join_all(appends).await;
    assert!(
        hanging.await.unwrap().is_err(),
        "the master was away too shortly"
    );
    let accepted: HashSet<_> = appended
        .into_iter()
        .map(|one| one.unwrap().message)
        .collect();
    assert_eq!(accepted.len(), IN_FLIGHT);
    assert!(metrics.retries_for("timeout") > 0, "they were in flight");
    append(&store, room, IN_FLIGHT + 1).await.unwrap();
    let log = store
        .messages_after(room, StreamPosition::default())
        .await
        .unwrap();
    assert_eq!(log.len(), IN_FLIGHT + 2);
}
