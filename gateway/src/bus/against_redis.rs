//! The bus against a real cluster: a slot moves, masters change by hand, and rooms go on in order.

use std::{sync::Arc, time::Duration};

use redis::{Cmd, FromRedisValue, Value, cmd};
use slotcast_proto::{
    id::RoomId,
    schema::{key, key::Channel, record::message_body},
    slot::{Shards, Slot},
    wire::offset::Cursor,
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, SemaphorePermit, watch},
    task::JoinHandle,
    time::{interval, sleep, timeout},
};

use super::reads::READS_MAX;
use crate::{
    app::App,
    cluster::{Address, Cluster, Group, Topology},
    config,
    connection::{Client, Connection},
    store::Draft,
};

/// No shards of the default count: nobody else's rooms are moved about.
const MOVED_SLOT: u16 = 1001;
const RESTING_SLOT: u16 = 16_001;

const PATIENCE: Duration = Duration::from_secs(20);
const PUBLISH_INTERVAL: Duration = Duration::from_millis(5);

/// Redis gives a failover by hand up after 5 s; asking again before that would begin anew.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(6);
const FAILOVERS_MAX: usize = 5;

/// Messages that must be heard after each change.
const MORE: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn rooms_go_on_in_order_while_their_slot_and_its_master_move() {
    let cluster = TestCluster::connect().await;
    let room = room(MOVED_SLOT);
    let apps = [gateway("replica").await, gateway("master").await];
    let members = [
        Member::enter(&apps[0], room).await,
        Member::enter(&apps[1], room).await,
    ];
    let publisher = Publisher::start(&apps[0], room);
    publisher.heard_on_by(&members).await;

    let (home, replica) = cluster.nodes_of(room.slot());
    let other = cluster.another_master(&home);
    for (from, to) in [(&home, &other), (&other, &home)] {
        cluster.move_slot(room.slot(), from, to).await;
        publisher.heard_on_by(&members).await;
        cluster.subscribed_once_by(&apps, room.slot()).await;
    }

    let fills = apps[0].metrics.bus_gap_fills.get();
    cluster.fail_over(room.slot(), &replica).await;
    publisher.heard_on_by(&members).await;
    let is_caught_up = async || apps[0].metrics.bus_gap_fills.get() > fills;
    wait_until("the room is caught up from its new master", is_caught_up).await;
    cluster.fail_over(room.slot(), &home).await;
    publisher.heard_on_by(&members).await;
    cluster.subscribed_once_by(&apps, room.slot()).await;

    let published = publisher.stop().await;
    for member in members {
        let all: Vec<_> = (0..published).collect();
        assert_eq!(
            member.heard(published).await,
            all,
            "in order, none twice, none missing"
        );
    }
    cluster.forget(room).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn room_is_caught_up_when_it_gets_a_turn() {
    let cluster = TestCluster::connect().await;
    let room = room(RESTING_SLOT);
    let app = gateway("replica").await;
    append(&app, room, 0).await;
    let member = Member::enter(&app, room).await;
    let mut turns = Vec::new();
    for _ in 0..READS_MAX {
        turns.push(app.turn_to_read(room).await);
    }
    let mut count = 1;
    wait_until("a gap is noticed", async || {
        append(&app, room, count).await;
        count += 1;
        app.metrics.bus_gap_fills.get() > 0
    })
    .await;
    assert!(member.heard.borrow().is_empty(), "the log is not read yet");
    turns.pop();
    let all: Vec<_> = (0..count).collect();
    assert_eq!(member.heard(count).await, all);
    cluster.forget(room).await;
}

fn room(slot: u16) -> RoomId {
    let slot = Slot::new(slot).unwrap();
    let mut shards = Shards::new(64).unwrap().slots();
    assert!(shards.all(|shard| shard != slot), "the slot is in use");
    RoomId::new(slot, fastrand::u32(..))
}

fn redis_urls() -> String {
    #[expect(clippy::disallowed_methods, reason = "tests are told where Redis is")]
    std::env::var("SLOTCAST_TEST_REDIS_URLS")
        .expect("SLOTCAST_TEST_REDIS_URLS must name nodes of a running Redis Cluster")
}

async fn gateway(subscribe_to: &str) -> Arc<App> {
    let config = config::tests::config(&[
        ("SLOTCAST_REDIS_URLS", &redis_urls()),
        ("SLOTCAST_SUBSCRIBE_TO", subscribe_to),
    ]);
    let app = Arc::new(App::new(config.unwrap()).unwrap());
    app.start().await.unwrap();
    app
}

async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let outcome = timeout(PATIENCE, waiting).await;
    assert!(outcome.is_ok(), "waited in vain until {what}");
}

/// A client in a room, and the numbers of the messages that it heard.
struct Member {
    heard: watch::Receiver<Vec<usize>>,
}

impl Member {
    async fn enter(app: &Arc<App>, room: RoomId) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(connecting, listener.accept());
        let who = Client {
            user_agent: None,
            address: "127.0.0.1".into(),
        };
        let connection = Arc::new(Connection::new(&app.sockets, accepted.unwrap().0, who));
        let live = app.hub.enter(room, &connection, || app.subscribe(room));
        live.wait().await.unwrap();
        connection.note_cursor(room, Cursor::default());
        app.hub.start(room, Cursor::default());
        let (tell, heard) = watch::channel(Vec::new());
        tokio::spawn(listen(client.unwrap(), tell));
        Self { heard }
    }

    async fn heard(&self, count: usize) -> Vec<usize> {
        let mut heard = self.heard.clone();
        let waiting = heard.wait_for(|heard| heard.len() >= count);
        let outcome = timeout(PATIENCE, waiting).await;
        let outcome = outcome.map(|heard| heard.unwrap().clone());
        outcome.unwrap_or_else(|_| panic!("heard {:?}, not {count}", self.heard.borrow()))
    }
}

async fn listen(mut client: TcpStream, tell: watch::Sender<Vec<usize>>) {
    let (mut text, mut read) = (String::new(), 0);
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = client.read(&mut bytes).await {
        text.push_str(&String::from_utf8_lossy(&bytes[..length]));
        while let Some((number, length)) = next_number(&text[read..]) {
            read += length;
            tell.send_modify(|heard| heard.push(number));
        }
    }
}

/// The number in the first whole message, and where it ends.
fn next_number(text: &str) -> Option<(usize, usize)> {
    const BEFORE: &str = r#""content":"message "#;
    let start = text.find(BEFORE)? + BEFORE.len();
    let length = text[start..].find('"')?;
    let number = text[start..start + length].parse().unwrap();
    Some((number, start + length))
}

/// Publishes numbered messages until it is stopped.
struct Publisher {
    published: watch::Receiver<usize>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Publisher {
    fn start(app: &Arc<App>, room: RoomId) -> Self {
        let (tell, published) = watch::channel(0);
        let (stop, is_stopped) = watch::channel(false);
        let app = Arc::clone(app);
        let task = tokio::spawn(async move {
            let mut ticks = interval(PUBLISH_INTERVAL);
            while !*is_stopped.borrow() {
                ticks.tick().await;
                let number = *tell.borrow();
                append(&app, room, number).await;
                tell.send_modify(|published| *published += 1);
            }
        });
        Self {
            published,
            stop,
            task,
        }
    }

    /// Waits until every member has heard what is published from here on.
    async fn heard_on_by(&self, members: &[Member]) {
        let enough = *self.published.borrow() + MORE;
        for member in members {
            member.heard(enough).await;
        }
    }

    async fn stop(self) -> usize {
        self.stop.send_replace(true);
        self.task.await.unwrap();
        *self.published.borrow()
    }
}

async fn append(app: &App, room: RoomId, number: usize) {
    let body = message_body(&format!(r#""content":"message {number}""#));
    let key = number.to_string();
    let draft = Draft {
        room,
        key: &key,
        may_repeat: true,
        body: &body,
    };
    app.store.append(&draft).await.unwrap();
}

/// One test at a time changes the cluster, or counts on its rest.
static TURN: Semaphore = Semaphore::const_new(1);

struct TestCluster {
    cluster: Arc<Cluster>,
    /// As it was before the test, with every node.
    map: Arc<Topology>,
    _turn: SemaphorePermit<'static>,
}

impl TestCluster {
    async fn connect() -> Self {
        let config = config::tests::config(&[("SLOTCAST_REDIS_URLS", &redis_urls())]).unwrap();
        let cluster = Arc::new(Cluster::new(&config.redis_urls, Default::default()).unwrap());
        let turn = TURN.acquire().await.unwrap();
        cluster.connect().await.unwrap();
        // A node's map leaves out replicas that it has not heard of for long enough.
        let count = config.redis_urls.len();
        wait_until("the map shows every node", async || {
            cluster.refresh().await;
            cluster.topology().nodes().count() >= count
        })
        .await;
        Self {
            map: cluster.topology(),
            cluster,
            _turn: turn,
        }
    }

    async fn ask<T: FromRedisValue>(&self, node: &Address, words: &str) -> T {
        let mut words = words.split(' ');
        let mut command: Cmd = cmd(words.next().unwrap());
        words.for_each(|word| {
            command.arg(word);
        });
        let answer = self.cluster.call_node(node, &command).await;
        let answer = answer.unwrap_or_else(|error| panic!("{node}: {error}"));
        T::from_redis_value(answer).unwrap()
    }

    /// The master and the first replica of a slot.
    fn nodes_of(&self, slot: Slot) -> (Address, Address) {
        let group = self.map.group(slot).unwrap();
        (group.master.clone(), group.replicas[0].clone())
    }

    fn another_master(&self, master: &Address) -> Address {
        self.map
            .masters()
            .find(|other| *other != master)
            .unwrap()
            .clone()
    }

    async fn move_slot(&self, slot: Slot, from: &Address, to: &Address) {
        let number = slot.number();
        let source: String = self.ask(from, "CLUSTER MYID").await;
        let target: String = self.ask(to, "CLUSTER MYID").await;
        let setslot = format!("CLUSTER SETSLOT {number}");
        let _: () = self.ask(to, &format!("{setslot} IMPORTING {source}")).await;
        let _: () = self
            .ask(from, &format!("{setslot} MIGRATING {target}"))
            .await;
        loop {
            let list = format!("CLUSTER GETKEYSINSLOT {number} 100");
            let keys: Vec<String> = self.ask(from, &list).await;
            let Some(key) = keys.first() else { break };
            let (host, port) = (to.host(), to.port());
            let _: () = self
                .ask(from, &format!("MIGRATE {host} {port} {key} 0 5000"))
                .await;
        }
        for node in [to, from] {
            let _: () = self.ask(node, &format!("{setslot} NODE {target}")).await;
        }
        self.all_see(slot, to).await;
    }

    /// Makes a replica the master of its slots. Its master may not know it as a replica yet, and then
    /// does not answer.
    async fn fail_over(&self, slot: Slot, replica: &Address) {
        for _ in 0..FAILOVERS_MAX {
            let take_over = cmd("CLUSTER").arg("FAILOVER").to_owned();
            let _ = self.cluster.call_node(replica, &take_over).await;
            let done = timeout(FAILOVER_TIMEOUT, self.all_see(slot, replica));
            if done.await.is_ok() {
                return;
            }
        }
        panic!("{replica} does not take over");
    }

    /// Waits until every node knows the slot's master.
    async fn all_see(&self, slot: Slot, master: &Address) {
        for node in self.map.nodes() {
            wait_until(
                &format!("{node} knows that {master} has the slot"),
                async || {
                    let group = self.group_seen_by(node, slot).await;
                    group.is_some_and(|group| group.master == *master)
                },
            )
            .await;
        }
    }

    async fn group_seen_by(&self, node: &Address, slot: Slot) -> Option<Group> {
        let slots: Value = self.ask(node, "CLUSTER SLOTS").await;
        let map = Topology::parse(&slots, node).unwrap();
        map.group(slot).cloned()
    }

    /// Waits until each gateway is subscribed to the slot's rooms on one node.
    async fn subscribed_once_by(&self, apps: &[Arc<App>], slot: Slot) {
        let count = format!("PUBSUB SHARDNUMSUB {}", Channel::Rooms(slot));
        wait_until("each gateway is subscribed once", async || {
            let mut subscribers = 0;
            for node in self.map.nodes() {
                let (_, here): (String, usize) = self.ask(node, &count).await;
                subscribers += here;
            }
            subscribers == apps.len()
        })
        .await;
    }

    async fn forget(&self, room: RoomId) {
        let delete = cmd("DEL").arg(key::log(room)).to_owned();
        let deleted = self.cluster.call(room, |_| delete.clone()).await;
        deleted.unwrap();
    }
}
