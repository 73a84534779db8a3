//! Against a real cluster, named by `SLOTCAST_TEST_REDIS_URLS`.

use std::collections::HashSet;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::*;
use crate::{
    config::redis_urls,
    metrics::{Confirmed, StoreMetrics},
};

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

fn store_on(cluster: &Arc<Cluster>, durability: Durability) -> Store {
    Store::new(
        Arc::clone(cluster),
        Duration::from_secs(60),
        Duration::from_secs(60),
        None,
        durability,
    )
}

/// A room that no other test has, in the slot of this key.
fn new_room(key: &str) -> RoomId {
    RoomId::new(Slot::of_key(key.as_bytes()), fastrand::u32(..))
}

/// Waits until the master of the slot answers: after a second without a call it asks to try again.
async fn wake(store: &Store, key: &str) {
    append(store, new_room(key), 0).await.unwrap();
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

static ALL: Allowance = Allowance::new(usize::MAX, usize::MAX);

#[tokio::test]
async fn master_that_hangs_for_a_moment_stores_nothing_twice() {
    let metrics = StoreMetrics::default();
    let cluster = connect_with(metrics.clone()).await;
    let other = connect().await;
    let store = store_on(&cluster, Durability::Master);
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
    assert!(metrics.retries_for("connection") > 0, "they were in flight");
    assert!(metrics.retries_for("try_again") > 0, "it noticed");
    append(&store, room, IN_FLIGHT + 1).await.unwrap();
    let log = store
        .missed(room, Cursor::default(), &ALL)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(log.messages.len(), IN_FLIGHT + 2);
}

#[tokio::test]
async fn message_that_nobody_waits_for_is_not_stored() {
    let cluster = connect().await;
    let store = store_on(&cluster, Durability::Master);
    let room = new_room("late");
    let append = function(Function::AppendMessage, &[key::log(room)])
        .arg(Channel::Rooms(room.slot()).to_string())
        .arg(room.prefix().to_string())
        .arg("key")
        .arg("")
        .arg("}")
        .arg("0")
        .arg(1)
        .to_owned();
    let master = cluster
        .topology()
        .group(room.slot())
        .unwrap()
        .master
        .clone();
    wake(&store, "late").await;
    let late = cluster.call_node(&master, &append).await;
    assert_eq!(late.unwrap_err().code(), Some("LATE"));
    let log = store.missed(room, Cursor::default(), &ALL);
    assert!(log.await.unwrap().unwrap().messages.is_empty());
}

#[tokio::test]
async fn message_that_a_replica_has_is_appended_once() {
    let metrics = StoreMetrics::default();
    let cluster = connect_with(metrics.clone()).await;
    let store = store_on(&cluster, Durability::Replica);
    let room = new_room("replica");
    // A node that ran no function for a second first asks to try again.
    append(
        &store_on(&cluster, Durability::Master),
        new_room("replica"),
        0,
    )
    .await
    .unwrap();
    let appends = (0..IN_FLIGHT).map(|number| append(&store, room, number));
    let appended = join_all(appends).await;
    assert!(appended.iter().all(Result::is_ok));
    let log = store.missed(room, Cursor::default(), &ALL);
    assert_eq!(log.await.unwrap().unwrap().messages.len(), IN_FLIGHT);
    let rounds = metrics.confirmations(Confirmed::Replicated);
    assert!(
        (1..=IN_FLIGHT as u64 / 4).contains(&rounds),
        "{rounds} rounds for {IN_FLIGHT} messages"
    );
}

#[tokio::test]
async fn what_was_missed_is_read_up_to_the_allowance() {
    const MESSAGES: usize = 3 * CATCH_UP_PAGE / 2;
    let store = store_on(&connect().await, Durability::Master);
    let room = new_room("allowance");
    for number in 0..MESSAGES {
        append(&store, room, number).await.unwrap();
    }
    let read = async |allowance: Allowance| {
        let missed = store.missed(room, Cursor::default(), &allowance).await;
        missed.unwrap().map(|missed| missed.messages)
    };
    let all = read(Allowance::new(MESSAGES, usize::MAX)).await.unwrap();
    assert_eq!(all.len(), MESSAGES);
    assert_eq!(read(Allowance::new(MESSAGES - 1, usize::MAX)).await, None);
    let bytes = all.iter().map(|(_, json)| json.len()).sum::<usize>();
    assert_eq!(read(Allowance::new(MESSAGES, bytes)).await, Some(all));
    assert_eq!(read(Allowance::new(MESSAGES, bytes - 1)).await, None);
}

#[tokio::test]
async fn journal_of_large_changes_is_bounded_in_bytes() {
    const READERS: u128 = 120;
    const MARKS: u64 = 2000;
    let store = store_on(&connect().await, Durability::Master);
    let room = new_room("journal");
    let mut log = cmd("XADD");
    log.arg(key::log(room))
        .arg(format!("1-{MARKS}"))
        .arg("m")
        .arg("{}");
    store.call(room.slot(), log).await.unwrap();
    let message = |number| MessageId::new(room, StreamPosition { epoch: 1, number }).unwrap();
    let messages: Vec<_> = (1..=MARKS).map(message).collect();
    for reader in 0..READERS {
        let reader = UserId::new(room.slot(), reader);
        let mut member = cmd("HSET");
        member
            .arg(key::members(room))
            .arg(reader.to_string())
            .arg("{}");
        store.call(room.slot(), member).await.unwrap();
        let marks = [(reader, messages.clone())];
        store.mark_read(room, &marks).await.unwrap();
    }
    let journal = cmd("XRANGE")
        .arg(key::changes(room))
        .arg("-")
        .arg("+")
        .to_owned();
    let entries = store.call(room.slot(), journal).await.unwrap();
    let entries: Vec<(String, Vec<String>)> = convert("XRANGE", entries).unwrap();
    let bytes: usize = entries
        .iter()
        .flat_map(|(_, fields)| fields)
        .map(String::len)
        .sum();
    assert!(
        (2 << 20..5 << 20).contains(&bytes),
        "{bytes} bytes in {} entries",
        entries.len()
    );
}

/// Prints acknowledgements a second and their median time:
/// `cargo test --release -p slotcast-gateway -- --ignored --nocapture durability_costs`.
#[tokio::test]
#[ignore = "a measurement"]
async fn durability_costs() {
    const CALLERS: usize = 64;
    const EACH: usize = 500;
    let cluster = connect().await;
    for durability in [Durability::Master, Durability::Replica].repeat(3) {
        let store = &store_on(&cluster, durability);
        let rooms: Vec<_> = (0..CALLERS).map(|key| new_room(&key.to_string())).collect();
        let begun = Instant::now();
        let callers = rooms.iter().map(|room| async move {
            let mut times = Vec::with_capacity(EACH);
            for number in 0..EACH {
                let begun = Instant::now();
                append(store, *room, number).await.unwrap();
                times.push(begun.elapsed());
            }
            times
        });
        let mut times = join_all(callers).await.concat();
        let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
        times.sort_unstable();
        println!(
            "{durability:?}: {rate:.0}/s, p50 {:?}",
            times[times.len() / 2]
        );
    }
}
