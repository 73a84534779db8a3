//! The placements against a simulated cluster: whatever happens in whatever order, every wanted
//! channel ends up on one node that serves it, of the preferred kind, and is caught up after every gap.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use slotcast_proto::{schema::key::Channel, slot::Slot};
use tokio::time::{Duration, Instant};

use super::{
    answers::Answers,
    link::{Command, LinkId, News, Report},
    placement::{Action, Placements},
};
use crate::{
    cluster::{Address, Topology, resp::Reply},
    config::SubscribeTo,
};

const SEEDS: u64 = 2000;
const STEPS: usize = 600;
const GROUPS: usize = 3;
const NODES: usize = 9;

/// Rounds without trouble after which all must be well, of [`ROUND`] each.
const ROUNDS: usize = 200;
const ROUND: Duration = Duration::from_millis(100);

#[test]
fn every_wanted_channel_ends_up_live_once_and_caught_up() {
    for seed in 0..SEEDS {
        let outcome = std::panic::catch_unwind(|| World::new(seed).run());
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

#[derive(Default)]
struct Node {
    address: Option<Address>,
    is_running: bool,
    is_hung: bool,
    /// The group that the node belongs to, if it is in the cluster.
    group: Option<usize>,
    /// What the node believes, until it hears better.
    serves: BTreeSet<u16>,
    is_master: bool,
    /// Given to another master: it keeps its subscribers without a word.
    is_silent: bool,
}

/// One connection, seen from both ends.
struct Connection {
    id: LinkId,
    node: usize,
    queue: VecDeque<Command>,
    sent: VecDeque<Command>,
    replies: VecDeque<Sent>,
    reports: VecDeque<News>,
    answers: Answers,
    subscribed: BTreeSet<Channel>,
    /// The node's end is gone.
    is_cut: bool,
    /// The link's end is gone.
    is_over: bool,
    /// The driver has seen that.
    is_noted: bool,
}

/// What a node sent.
enum Sent {
    Subscribed(Channel),
    Unsubscribed(Channel),
    Refused,
    Echo(Channel),
}

struct World {
    random: fastrand::Rng,
    prefer: SubscribeTo,
    now: Instant,
    nodes: Vec<Node>,
    /// Master of each group.
    masters: [usize; GROUPS],
    /// Group of each slot.
    slots: BTreeMap<u16, usize>,
    connections: Vec<Connection>,
    placements: Placements,
    unanswered_max: usize,
    /// The slot map as it is.
    truth: Topology,
    /// The slot map as last read.
    map: Topology,
    /// Slots whose latest change the placements could not have seen. What changes twice unseen
    /// leaves no trace, so the second change waits.
    unseen: BTreeSet<u16>,
    wanted: BTreeSet<Channel>,
    live: BTreeSet<Channel>,
    /// Wanted channels that something may be missing from.
    behind: BTreeSet<Channel>,
    actions: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let prefer = match random.bool() {
            true => SubscribeTo::Replica,
            false => SubscribeTo::Master,
        };
        let unanswered_max = random.usize(1..6);
        let slots = [0, 1, 2, 3, 4, Channel::Lobby.slot().number()];
        let mut world = Self {
            random,
            prefer,
            now: Instant::now(),
            nodes: (0..NODES).map(|index| node(index, None)).collect(),
            masters: [0, 1, 2],
            slots: slots
                .iter()
                .enumerate()
                .map(|(at, slot)| (*slot, at % GROUPS))
                .collect(),
            connections: Vec::new(),
            placements: Placements::new(prefer, unanswered_max),
            unanswered_max,
            truth: Topology::default(),
            map: Topology::default(),
            unseen: BTreeSet::new(),
            wanted: BTreeSet::new(),
            live: BTreeSet::new(),
            behind: BTreeSet::new(),
            actions: 0,
        };
        for index in 0..2 * GROUPS {
            world.nodes[index] = node(index, Some(index % GROUPS));
            world.learn(index);
        }
        world.truth = world.true_map();
        world.map = world.truth.clone();
        world
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            match self.random.u8(0..20) {
                0..4 => self.settle(),
                4..9 => self.with_connection(Self::progress_link),
                9..12 => self.with_connection(Self::progress_node),
                12..14 => self.with_connection(Self::report),
                14 => self.with_connection(Self::probe),
                15 => self.read_map(),
                16 => self.let_pass(),
                17 => self.change_wants(),
                18 => self.with_node(Self::learn_if_able),
                _ => {
                    self.trouble();
                    self.truth = self.true_map();
                }
            }
            self.note_gaps();
        }
        self.calm_down();
        self.check();
    }

    // ------------------------------------------------------------------------------- the driver

    /// Links that ended are noted as down even if their reports are still on the way.
    fn settle(&mut self) {
        for at in 0..self.connections.len() {
            if self.connections[at].is_over && self.random.bool() {
                self.note(self.connections[at].id.clone(), News::Down);
                self.connections[at].is_noted = true;
            }
        }
        let is_past = |link: &mut Connection| link.is_noted && link.reports.is_empty();
        self.connections.retain_mut(|link| !is_past(link));
        let actions = self.placements.settle(&self.wanted, &self.map, self.now);
        self.perform(actions);
        let (map, truth) = (&self.map, &self.truth);
        let is_unseen = |slot: &u16| map.group(number(*slot)) != truth.group(number(*slot));
        self.unseen.retain(is_unseen);
    }

    fn let_pass(&mut self) {
        let is_long = self.random.u8(0..10) == 0;
        let most = if is_long { 20_000 } else { 400 };
        self.now += Duration::from_millis(self.random.u64(0..most));
    }

    fn report(&mut self, at: usize) {
        if let Some(news) = self.connections[at].reports.pop_front() {
            self.note(self.connections[at].id.clone(), news);
        }
    }

    fn note(&mut self, link: LinkId, news: News) {
        let actions = self.placements.note(&Report { link, news }, self.now);
        self.perform(actions);
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.actions += 1;
            match action {
                Action::Open(id) => self.open(id),
                Action::Close(id) => {
                    if let Some(at) = self.open_connection(&id) {
                        let closed = self.connections.remove(at);
                        assert!(closed.subscribed.is_empty(), "closed in use: {id:?}");
                    }
                }
                Action::Send(id, command) => {
                    let Some(at) = self.open_connection(&id) else {
                        continue; // it ended; its report is on the way
                    };
                    let queue = &mut self.connections[at].queue;
                    queue.push_back(command);
                    assert!(
                        queue.len() <= self.unanswered_max,
                        "the queue of {id:?} is full"
                    );
                }
                Action::Live(channel) => {
                    assert!(self.live.insert(channel), "{channel} came alive twice");
                    self.catch_up(channel);
                }
                Action::Lost(channel) => {
                    self.live.remove(&channel);
                }
                Action::CatchUp(channel) => {
                    assert!(
                        self.live.contains(&channel),
                        "{channel} is caught up before it lives"
                    );
                    self.catch_up(channel);
                }
                Action::Refresh => {
                    if self.random.bool() {
                        self.read_map();
                    }
                }
            }
        }
    }

    fn open(&mut self, id: LinkId) {
        let of_node = |link: &Connection| link.id.address == id.address && !link.is_over;
        assert!(
            !self.connections.iter().any(of_node),
            "a second link to {}",
            id.address
        );
        let is_there = |node: &Node| node.address.as_ref() == Some(&id.address);
        let node = self
            .nodes
            .iter()
            .position(is_there)
            .expect("a node of the map");
        self.connections.push(Connection {
            is_cut: !self.nodes[node].is_running,
            id,
            node,
            queue: VecDeque::new(),
            sent: VecDeque::new(),
            replies: VecDeque::new(),
            reports: VecDeque::new(),
            answers: Answers::default(),
            subscribed: BTreeSet::new(),
            is_over: false,
            is_noted: false,
        });
    }

    fn open_connection(&self, id: &LinkId) -> Option<usize> {
        self.connections
            .iter()
            .position(|link| link.id == *id && !link.is_over)
    }

    fn catch_up(&mut self, channel: Channel) {
        if self.is_served(channel) {
            self.behind.remove(&channel);
        }
    }

    /// The slot map as it is, or as it was.
    fn read_map(&mut self) {
        if self.random.u8(0..4) > 0 {
            self.map = self.truth.clone();
        }
    }

    fn change_wants(&mut self) {
        let slots: Vec<_> = self.slots.keys().map(|slot| number(*slot)).collect();
        let slot = slots[self.random.usize(..slots.len())];
        let channel = match self.random.u8(0..5) {
            0..2 => Channel::Rooms(slot),
            2..4 => Channel::Users(slot),
            _ => Channel::Lobby,
        };
        if !self.wanted.remove(&channel) {
            self.wanted.insert(channel);
        }
        self.behind.remove(&channel);
    }

    // -------------------------------------------------------------------------- links and nodes

    fn with_connection(&mut self, act: fn(&mut Self, usize)) {
        if !self.connections.is_empty() {
            let at = self.random.usize(..self.connections.len());
            act(self, at);
        }
    }

    fn with_node(&mut self, act: fn(&mut Self, usize)) {
        let index = self.random.usize(..NODES);
        act(self, index);
    }

    /// Sends a command, or reads a reply.
    fn progress_link(&mut self, at: usize) {
        let link = &mut self.connections[at];
        if link.is_over {
            return;
        }
        if self.random.bool()
            && let Some(command) = link.queue.pop_front()
        {
            link.answers.sent(command);
            link.sent.push_back(command);
        } else if let Some(sent) = link.replies.pop_front() {
            match take(&mut link.answers, &sent) {
                Ok(news) => link.reports.extend(news),
                Err(_) => link.end(),
            }
        } else if link.is_cut {
            link.end();
        }
    }

    /// A node answers a command.
    fn progress_node(&mut self, at: usize) {
        let link = &mut self.connections[at];
        let node = &self.nodes[link.node];
        if link.is_cut || link.is_over || node.is_hung {
            return;
        }
        let Some(command) = link.sent.pop_front() else {
            return;
        };
        let channel = command.channel();
        let answer = match (node.serves.contains(&channel.slot().number()), command) {
            (false, _) => Sent::Refused,
            (true, Command::Subscribe(_)) => {
                link.subscribed.insert(channel);
                Sent::Subscribed(channel)
            }
            (true, Command::Unsubscribe(_)) => {
                link.subscribed.remove(&channel);
                Sent::Unsubscribed(channel)
            }
        };
        link.replies.extend([answer, Sent::Echo(channel)]);
    }

    /// A hung node is found out, or a link's task panics with its reports unsent.
    fn probe(&mut self, at: usize) {
        let link = &mut self.connections[at];
        if self.nodes[link.node].is_hung {
            link.end();
        } else if self.random.u8(0..10) == 0 {
            link.is_over = true;
            link.reports.clear();
        }
    }

    fn learn_if_able(&mut self, index: usize) {
        if self.nodes[index].is_running && !self.nodes[index].is_hung {
            self.learn(index);
        }
    }

    /// A node hears what the cluster agreed upon, and tells the subscribers that it loses.
    fn learn(&mut self, index: usize) {
        let group = self.nodes[index].group;
        let serves: BTreeSet<_> = self.slots_of(group).collect();
        let is_master = group.is_some_and(|group| self.masters[group] == index);
        let node = &mut self.nodes[index];
        let is_demoted = node.is_master && !is_master;
        let is_silent = std::mem::take(&mut node.is_silent);
        node.is_master = is_master;
        node.serves.clone_from(&serves);
        for link in self
            .connections
            .iter_mut()
            .filter(|link| link.node == index)
        {
            let lost = |channel: &Channel| {
                is_demoted || (!is_silent && !serves.contains(&channel.slot().number()))
            };
            let lost: Vec<_> = link.subscribed.extract_if(.., lost).collect();
            link.replies
                .extend(lost.into_iter().map(Sent::Unsubscribed));
        }
    }

    // ---------------------------------------------------------------------------------- trouble

    fn trouble(&mut self) {
        match self.random.u8(0..16) {
            0..2 => self.with_node(Self::stop),
            2..4 => self.with_node(|world, index| world.nodes[index].is_hung = true),
            4..6 => self.with_node(Self::resume),
            6..9 => self.with_node(|world, index| world.nodes[index].is_running = true),
            9..11 => self.with_node(Self::promote),
            11 => self.move_slot(),
            12 => self.with_node(Self::give_to_another_master),
            13 => self.with_node(Self::add),
            14 => self.with_node(Self::remove),
            _ => {
                if self.random.u8(0..4) == 0 {
                    (0..NODES).for_each(|index| self.stop(index));
                    (0..NODES).for_each(|index| self.nodes[index].is_running = true);
                }
            }
        }
    }

    fn stop(&mut self, index: usize) {
        self.nodes[index].is_running = false;
        self.nodes[index].is_hung = false;
        for link in self
            .connections
            .iter_mut()
            .filter(|link| link.node == index)
        {
            link.subscribed.clear();
            link.is_cut = true;
        }
    }

    fn resume(&mut self, index: usize) {
        self.nodes[index].is_hung = false;
    }

    /// A replica takes over, by hand or because its master is gone.
    fn promote(&mut self, index: usize) {
        let node = &self.nodes[index];
        let Some(group) = node.group.filter(|_| node.is_running && !node.is_hung) else {
            return;
        };
        if self.masters[group] == index || !self.may_change(&[group]) {
            return;
        }
        let old = self.masters[group];
        self.masters[group] = index;
        self.master_changed(group, None);
        self.learn(index);
        if self.random.bool() {
            self.learn_if_able(old);
        }
    }

    fn move_slot(&mut self) {
        let slots: Vec<_> = self.slots.keys().copied().collect();
        let slot = slots[self.random.usize(..slots.len())];
        let (from, to) = (self.slots[&slot], self.random.usize(..GROUPS));
        if from == to || !self.may_change(&[from, to]) {
            return;
        }
        self.slots.insert(slot, to);
        self.master_changed(to, Some(slot));
        for master in [self.masters[to], self.masters[from]] {
            if self.random.bool() {
                self.learn_if_able(master);
            }
        }
    }

    fn give_to_another_master(&mut self, index: usize) {
        let Some(from) = self.nodes[index].group else {
            return;
        };
        let to = self.random.usize(..GROUPS);
        if from != to && self.masters[from] != index && self.may_change(&[from, to]) {
            self.nodes[index].group = Some(to);
            self.nodes[index].is_silent = true;
            self.unseen
                .extend(self.slots_of(Some(from)).collect::<Vec<_>>());
            self.unseen
                .extend(self.slots_of(Some(to)).collect::<Vec<_>>());
            self.learn_if_able(index);
        }
    }

    fn add(&mut self, index: usize) {
        if self.nodes[index].group.is_none() {
            let group = self.random.usize(..GROUPS);
            if self.may_change(&[group]) {
                self.nodes[index].group = Some(group);
                self.unseen
                    .extend(self.slots_of(Some(group)).collect::<Vec<_>>());
            }
        }
    }

    /// A replica leaves; it runs on by itself, with its subscribers.
    fn remove(&mut self, index: usize) {
        let Some(group) = self.nodes[index].group else {
            return;
        };
        if self.masters[group] != index && self.may_change(&[group]) {
            self.nodes[index].group = None;
            self.nodes[index].is_silent = true;
            self.unseen
                .extend(self.slots_of(Some(group)).collect::<Vec<_>>());
        }
    }

    fn may_change(&self, groups: &[usize]) -> bool {
        let slots = groups.iter().flat_map(|group| self.slots_of(Some(*group)));
        slots.into_iter().all(|slot| !self.unseen.contains(&slot))
    }

    /// All that was published by the old master, or missed by it, must be caught up.
    fn master_changed(&mut self, group: usize, slot: Option<u16>) {
        let slots: BTreeSet<_> = match slot {
            Some(slot) => BTreeSet::from([slot]),
            None => self.slots_of(Some(group)).collect(),
        };
        let changed = |channel: &&Channel| slots.contains(&channel.slot().number());
        self.behind
            .extend(self.wanted.iter().filter(changed).copied());
        self.unseen.extend(slots);
    }

    // -------------------------------------------------------------------------------- the truth

    fn slots_of(&self, group: Option<usize>) -> impl Iterator<Item = u16> {
        let of_group = move |(_, owner): &(&u16, &usize)| Some(**owner) == group;
        self.slots.iter().filter(of_group).map(|(slot, _)| *slot)
    }

    fn true_map(&self) -> Topology {
        Topology::of(self.slots.iter().map(|(slot, group)| {
            let master = self.masters[*group];
            let is_replica =
                |index: &usize| self.nodes[*index].group == Some(*group) && *index != master;
            let nodes = std::iter::once(master).chain((0..NODES).filter(is_replica));
            (*slot, *slot, nodes.map(address).collect())
        }))
    }

    /// Whether messages of the channel reach a link.
    fn is_served(&self, channel: Channel) -> bool {
        self.subscribers(channel)
            .any(|link| self.serves(link, channel))
    }

    fn subscribers(&self, channel: Channel) -> impl Iterator<Item = &Connection> {
        let of_channel = move |link: &&Connection| link.subscribed.contains(&channel);
        self.connections
            .iter()
            .filter(|link| !link.is_over)
            .filter(of_channel)
    }

    fn serves(&self, link: &Connection, channel: Channel) -> bool {
        let group = self.slots.get(&channel.slot().number()).copied();
        group.is_some() && self.nodes[link.node].group == group
    }

    fn is_preferred(&self, address: &Address, channel: Channel) -> bool {
        let group = self.truth.group(channel.slot());
        group.is_some_and(|group| match self.prefer {
            SubscribeTo::Master => group.master == *address,
            SubscribeTo::Replica => group.replicas.is_empty() || group.master != *address,
        })
    }

    fn note_gaps(&mut self) {
        let unserved = self
            .wanted
            .iter()
            .filter(|channel| !self.is_served(**channel));
        let unserved: Vec<_> = unserved.copied().collect();
        self.behind.extend(unserved);
    }

    /// Every node is back and agrees; everything on its way arrives.
    fn calm_down(&mut self) {
        for index in 0..NODES {
            self.nodes[index].is_running = true;
            self.resume(index);
        }
        for index in 0..NODES {
            self.learn(index);
        }
        for round in 0..ROUNDS {
            self.now += ROUND;
            self.map = self.truth.clone();
            let before = self.actions;
            self.settle();
            for at in 0..self.connections.len() {
                for _ in 0..64 {
                    self.progress_link(at);
                    self.progress_node(at);
                    self.report(at);
                }
            }
            self.note_gaps();
            let is_last = round + 1 == ROUNDS;
            assert!(!is_last || self.actions == before, "never comes to rest");
        }
    }

    fn check(&self) {
        assert_eq!(self.live, self.wanted, "what waits for channels");
        for channel in &self.wanted {
            let links: Vec<_> = self.subscribers(*channel).collect();
            assert_eq!(links.len(), 1, "links with {channel}");
            assert!(
                self.serves(links[0], *channel),
                "{channel} is on a node of its slot"
            );
            assert!(
                self.is_preferred(&links[0].id.address, *channel),
                "{channel} is on a node of the other kind"
            );
        }
        for link in &self.connections {
            assert!(
                link.subscribed.is_subset(&self.wanted),
                "unwanted: {:?}",
                link.subscribed
            );
            assert!(
                self.nodes[link.node].group.is_some(),
                "a link to a node that left"
            );
        }
        assert_eq!(self.behind, BTreeSet::new(), "not caught up after a gap");
    }
}

impl Connection {
    fn end(&mut self) {
        if !self.is_over {
            self.is_over = true;
            self.reports.push_back(News::Down);
        }
    }
}

fn take(answers: &mut Answers, sent: &Sent) -> Result<Option<News>, super::answers::Kept> {
    let push = |answers: &mut Answers, kind: &[u8], channel: &Channel| {
        let name = channel.to_string();
        answers.take(&Reply::Push(vec![
            Reply::Text(kind),
            Reply::Text(name.as_bytes()),
        ]))
    };
    match sent {
        Sent::Subscribed(channel) => push(answers, b"ssubscribe", channel),
        Sent::Unsubscribed(channel) => push(answers, b"sunsubscribe", channel),
        Sent::Refused => answers.take(&Reply::Error(b"MOVED 1 a:1")),
        Sent::Echo(channel) => answers.take(&Reply::Text(channel.to_string().as_bytes())),
    }
}

fn node(index: usize, group: Option<usize>) -> Node {
    Node {
        address: Some(address(index)),
        is_running: true,
        group,
        ..Node::default()
    }
}

fn address(index: usize) -> Address {
    Address::new("node", u16::try_from(index).unwrap())
}

fn number(slot: u16) -> Slot {
    Slot::new(slot).unwrap()
}
