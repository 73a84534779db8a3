use futures_util::future::join_all;
use slotcast_proto::id::RoomId;
use tokio::{net::TcpListener, time::Instant};

use super::{
    fake::{FakeNode, NOW_SECONDS, Reply, error, ok},
    *,
};
use crate::config::redis_urls;

/// Deadline of calls that are meant to fail.
const SHORT: Duration = Duration::from_millis(400);

async fn cluster_of(node: &FakeNode) -> Arc<Cluster> {
    cluster_within(node, CALL_DEADLINE).await
}

async fn cluster_within(node: &FakeNode, deadline: Duration) -> Arc<Cluster> {
    let urls = redis_urls(&format!("redis://{}", node.address)).unwrap();
    let mut cluster = Cluster::new(&urls, StoreMetrics::default()).unwrap();
    cluster.deadline = deadline;
    cluster.refresh().await;
    assert!(cluster.master(slot()).is_some(), "the slot map was read");
    Arc::new(cluster)
}

fn slot() -> Slot {
    Slot::new(7).unwrap()
}

/// A write that tells whether it may be a repetition.
fn write(attempt: Attempt) -> Cmd {
    let mut write = cmd("WRITE");
    write.arg(if attempt.may_repeat {
        "repeated"
    } else {
        "first"
    });
    write
}

fn once(what: impl Fn() -> Reply, before: usize) -> Reply {
    if before == 0 { what() } else { ok() }
}

fn heard_writes(node: &FakeNode) -> Vec<String> {
    let heard = node.heard().into_iter();
    heard.filter(|line| line.starts_with("WRITE")).collect()
}

#[tokio::test]
async fn what_redis_refused_for_now_is_tried_again_as_a_first_attempt() {
    let passing = [
        (
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "try_again",
        ),
        ("CLUSTERDOWN The cluster is down", "cluster_down"),
        ("MASTERDOWN Link with MASTER is down", "master_down"),
        ("LOADING Redis is loading the dataset in memory", "loading"),
        (
            "READONLY You can't write against a read only replica.",
            "read_only",
        ),
        (
            "NOREPLICAS Not enough good replicas to write.",
            "no_replicas",
        ),
        ("BUSY Redis is busy running a script.", "busy"),
    ];
    for (text, reason) in passing {
        let node = FakeNode::start(|_, before| once(|| error(text), before)).await;
        let cluster = cluster_of(&node).await;
        cluster.call(slot(), write).await.unwrap();
        assert_eq!(
            heard_writes(&node),
            ["WRITE first", "WRITE first"],
            "{text}"
        );
        assert_eq!(cluster.metrics.retries_for(reason), 1, "{reason}");
    }
}

#[tokio::test]
async fn what_redis_refuses_for_good_is_refused_at_once() {
    let node = FakeNode::start(|_, _| error("WRONGTYPE Operation against a key")).await;
    let cluster = cluster_of(&node).await;
    let refused = cluster.call(slot(), write).await;
    assert!(
        matches!(refused, Err(StoreError::Refused(_))),
        "{refused:?}"
    );
    assert_eq!(heard_writes(&node).len(), 1);
}

#[tokio::test]
async fn full_store_is_told_apart() {
    let node = FakeNode::start(|_, _| error("OOM command not allowed")).await;
    let full = cluster_of(&node).await.call(slot(), write).await;
    assert!(matches!(full, Err(StoreError::Full(_))), "{full:?}");
}

#[tokio::test]
async fn moved_leads_to_the_new_owner_and_is_remembered() {
    let owner = FakeNode::start(|_, _| ok()).await;
    let moved = format!("MOVED 7 {}", owner.address);
    let former = FakeNode::start(move |_, _| error(&moved)).await;
    let cluster = cluster_of(&former).await;
    former.name_owner(&owner.address);
    for _ in 0..2 {
        cluster.call(slot(), write).await.unwrap();
    }
    assert_eq!(heard_writes(&former), ["WRITE first"]);
    assert_eq!(heard_writes(&owner), ["WRITE first", "WRITE first"]);
}

#[tokio::test]
async fn callers_share_one_reading_of_the_slot_map() {
    let node = FakeNode::start(|_, _| ok()).await;
    let cluster = cluster_of(&node).await;
    let before = node.slot_maps();
    join_all((0..100).map(|_| cluster.refresh())).await;
    assert_eq!(node.slot_maps() - before, 1);
}

#[tokio::test]
async fn two_nodes_that_name_each_other_are_not_asked_without_a_pause() {
    let node = FakeNode::start(|words, _| error(&format!("MOVED 7 {}", words[1]))).await;
    let cluster = cluster_within(&node, SHORT).await;
    let address = node.address.to_string();
    let call = cluster.call(slot(), |_| cmd("WRITE").arg(&address).to_owned());
    assert!(matches!(call.await, Err(StoreError::Unavailable(_))));
    let attempts = heard_writes(&node).len();
    assert!((2..40).contains(&attempts), "{attempts} attempts");
}

#[tokio::test]
async fn ask_is_followed_once_and_the_owner_gets_a_hint() {
    let importing = FakeNode::start(|_, _| ok()).await;
    let ask = format!("ASK 7 {}", importing.address);
    let owner = FakeNode::start(move |words, _| match words[0].as_str() {
        "WRITE" => error(&ask),
        _ => Reply::Say(":1\r\n".to_owned()),
    })
    .await;
    let cluster = cluster_of(&owner).await;
    let room = RoomId::new(slot(), 2);
    join_all((0..20).map(|_| cluster.call(room, write))).await;
    let asked = importing.heard();
    assert_eq!(asked.len(), 40);
    assert!(
        asked
            .chunks(2)
            .all(|pair| pair == ["ASKING", "WRITE first"]),
        "{asked:?}"
    );
    let hints = || {
        owner
            .heard()
            .into_iter()
            .filter(|line| line.starts_with("SPUBLISH"))
    };
    while cluster.metrics.hints.get() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    let hint = format!("SPUBLISH {{{}}}:rooms g {}", slot().tag(), room.prefix());
    assert_eq!(hints().next(), Some(hint));
    assert!(hints().count() < 5, "hints of one room are gathered");
}

#[tokio::test]
async fn missing_library_is_loaded_and_the_call_repeated() {
    let missing = || error("ERR Function not found");
    let node = FakeNode::start(move |words, before| match words[0].as_str() {
        "WRITE" => once(missing, before),
        _ => ok(),
    })
    .await;
    let cluster = cluster_of(&node).await;
    cluster.call(slot(), write).await.unwrap();
    assert!(node.heard()[1].starts_with("FUNCTION LOAD #!lua name=slotcast_"));
    assert_eq!(heard_writes(&node).len(), 2);
}

#[tokio::test]
async fn node_that_lost_its_shard_while_the_library_was_missing_is_left() {
    let node = FakeNode::start(|words, before| match words[0].as_str() {
        "WRITE" => once(|| error("ERR Function not found"), before),
        _ => error("READONLY You can't write against a read only replica."),
    })
    .await;
    let cluster = cluster_of(&node).await;
    cluster.call(slot(), write).await.unwrap();
    assert_eq!(heard_writes(&node).len(), 2);
}

#[tokio::test]
async fn silent_node_costs_its_connection_and_the_command_is_repeated_as_such() {
    let node = FakeNode::start(|_, before| once(|| Reply::Silence, before)).await;
    let cluster = cluster_of(&node).await;
    cluster.call(slot(), write).await.unwrap();
    // The old connection is closed by the node first, or the unread command might run after all.
    let heard = node.heard();
    assert_eq!(heard.len(), 3, "{heard:?}");
    assert_eq!(heard[0], "WRITE first");
    assert_eq!(heard[1], "CLIENT KILL ID 1 ADDR 127.0.0.1:1");
    assert_eq!(heard[2], "WRITE repeated");
    let retries = |reason| cluster.metrics.retries_for(reason);
    assert_eq!(retries("timeout") + retries("connection"), 1);
}

#[tokio::test]
async fn broken_connection_with_hundreds_in_flight_fails_none_of_them() {
    let node = FakeNode::start(|_, before| match before {
        300 => Reply::Close,
        0..300 => Reply::Silence,
        _ => ok(),
    })
    .await;
    let cluster = cluster_of(&node).await;
    let calls = join_all((0..400).map(|_| cluster.call(slot(), write))).await;
    assert!(calls.iter().all(Result::is_ok));
    let repeated = heard_writes(&node)
        .iter()
        .filter(|line| line.ends_with("repeated"))
        .count();
    assert_eq!(repeated, 400, "all of them were in flight");
}

#[tokio::test]
async fn refused_connection_and_deadline_end_in_unavailable() {
    let node = FakeNode::start(|_, _| ok()).await;
    let cluster = cluster_within(&node, SHORT).await;
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    node.name_owner(&Address::new("127.0.0.1", nobody.port()));
    cluster.refresh().await;
    let begun = Instant::now();
    let call = cluster.call(slot(), write).await;
    assert!(matches!(call, Err(StoreError::Unavailable(_))), "{call:?}");
    assert!(begun.elapsed() >= SHORT);
    assert_eq!(cluster.metrics.unavailable.get(), 1);
    assert!(cluster.metrics.retries_for("connection") > 1);
}

#[tokio::test]
async fn node_that_hangs_while_connecting_does_not_hold_a_call_beyond_its_deadline() {
    let node = FakeNode::start(|_, _| ok()).await;
    let cluster = cluster_within(&node, SHORT).await;
    let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
    node.name_owner(&Address::new(
        "127.0.0.1",
        hung.local_addr().unwrap().port(),
    ));
    cluster.refresh().await;
    let begun = Instant::now();
    let call = cluster.call(slot(), write).await;
    assert!(matches!(call, Err(StoreError::Unavailable(_))), "{call:?}");
    assert!(begun.elapsed() < SHORT * 3);
}

#[tokio::test]
async fn master_that_is_away_does_not_keep_the_gateway_from_starting() {
    let loading = || error("LOADING Redis is loading the dataset in memory");
    let node = FakeNode::start(move |_, before| once(loading, before)).await;
    let cluster = cluster_of(&node).await;
    cluster.connect().await.unwrap();
    let node = FakeNode::start(|_, _| error("NOPERM this user has no permissions")).await;
    let refused = cluster_of(&node).await.connect().await;
    assert!(
        matches!(refused, Err(StoreError::Refused(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn command_carries_the_time_after_which_it_must_not_take_effect() {
    let node = FakeNode::start(|_, _| ok()).await;
    let cluster = cluster_of(&node).await;
    let write = |attempt: Attempt| cmd("WRITE").arg(attempt.not_after_ms).to_owned();
    cluster.call(slot(), write).await.unwrap();
    let heard = heard_writes(&node);
    let not_after: u64 = heard[0].split(' ').nth(1).unwrap().parse().unwrap();
    let patience = not_after - NOW_SECONDS * 1000;
    assert!((2_000..10_000).contains(&patience), "{patience} ms");
}

#[tokio::test]
async fn clock_that_was_set_is_read_anew() {
    let late = || error("LATE nobody waits for the answer any more");
    let node = FakeNode::start(move |_, before| once(late, before)).await;
    let cluster = cluster_of(&node).await;
    cluster.call(slot(), write).await.unwrap();
    assert_eq!(
        node.heard().len(),
        3,
        "over another connection: {:?}",
        node.heard()
    );
    assert_eq!(cluster.metrics.retries_for("late"), 1);
}

/// A master that answers each `WAIT` with the next of these.
async fn confirming(waits: &'static [&'static str]) -> FakeNode {
    FakeNode::start(move |words, before| match words[0].as_str() {
        "WAIT" => Reply::Say(format!("{}\r\n", waits[before.min(waits.len() - 1)])),
        _ => ok(),
    })
    .await
}

#[tokio::test]
async fn what_no_replica_has_yet_is_asked_for_again() {
    let node = confirming(&[":0", ":0", ":1"]).await;
    let cluster = cluster_of(&node).await;
    let confirmation = cluster.confirm(&node.address, slot()).await;
    assert_eq!(confirmation, Confirmation::Replicated);
    let round = [
        "ASKING".to_owned(),
        format!("SET {}  PX 60000", key(slot())),
        "WAIT 1 500".to_owned(),
    ];
    let heard = node.heard();
    assert_eq!(heard.len(), 9);
    assert!(
        heard.chunks(3).all(|commands| commands == round),
        "{heard:?}"
    );
}

#[tokio::test]
async fn callers_share_rounds() {
    let node = confirming(&[":1"]).await;
    let cluster = cluster_of(&node).await;
    let confirmations = join_all((0..100).map(|_| cluster.confirm(&node.address, slot()))).await;
    assert!(
        confirmations
            .iter()
            .all(|one| *one == Confirmation::Replicated)
    );
    assert!(
        node.heard().len() <= 3 * 3,
        "{} commands",
        node.heard().len()
    );
}

#[tokio::test]
async fn master_that_is_replaced_confirms_nothing() {
    let node = confirming(&["-UNBLOCKED force unblock from blocking operation", ":1"]).await;
    let cluster = cluster_of(&node).await;
    let replaced = cluster.confirm(&node.address, slot()).await;
    assert_eq!(replaced, Confirmation::Unsure);
    let again = cluster.confirm(&node.address, slot()).await;
    assert_eq!(again, Confirmation::Replicated, "over a new connection");
    let moved = FakeNode::start(|words, _| match words[0].as_str() {
        "SET" => error("MOVED 7 127.0.0.1:1"),
        "WAIT" => Reply::Say(":1\r\n".to_owned()),
        _ => ok(),
    })
    .await;
    let cluster = cluster_of(&moved).await;
    let gone = cluster.confirm(&moved.address, slot()).await;
    assert_eq!(gone, Confirmation::Unsure);
}

#[tokio::test]
async fn slot_that_moves_away_is_confirmed_by_another_slot() {
    let moving = key(slot());
    let node = FakeNode::start(move |words, _| match words[0].as_str() {
        "SET" if words[1] == moving => error("ASK 7 127.0.0.1:1"),
        "WAIT" => Reply::Say(":1\r\n".to_owned()),
        _ => ok(),
    })
    .await;
    let cluster = cluster_of(&node).await;
    let confirmation = cluster.confirm(&node.address, slot()).await;
    assert_eq!(confirmation, Confirmation::Replicated);
}

fn key(slot: Slot) -> String {
    slotcast_proto::schema::key::confirmed(slot)
}
