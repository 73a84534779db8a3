//! Decides which channel is subscribed on which node: pure, no socket, no clock, no task.
//!
//! ```text
//!  wanted channels, slot map, reports of links, now  ->  Placements  ->  actions
//! ```
//!
//! A channel is placed on one node at a time. A link is asked one thing at a time about a channel,
//! so no answer can be taken for another's, and has so many commands to answer at most, so its queue
//! never overflows.
//!
//! A channel wants catching up whenever it comes alive, and also when its slot has another master:
//! the old one may have published what is in nobody's log, and have missed what is.
//!
//! Ordered maps make the same inputs give the same actions.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use slotcast_proto::schema::key::Channel;
use tokio::time::{Duration, Instant};

use super::link::{Command, LinkId, News, Report};
use crate::{
    cluster::{Address, Topology},
    config::SubscribeTo,
};

/// A subscription unanswered for this long is asked of another node.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);

/// A node is avoided this long after its link ended, and for a channel that it refused or lost.
const AVOID: Duration = Duration::from_millis(250);

/// A channel goes back to a node of the preferred kind when its place and its master stayed the same
/// for this long: not in the middle of a failover.
const RETURN_AFTER: Duration = Duration::from_secs(10);

/// Channels that go back at one time: each is without a subscription for a moment, and reads its log.
const RETURNS_MAX: usize = 16;

/// What the bus is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Connect to a node.
    Open(LinkId),
    /// End a link that carries nothing.
    Close(LinkId),
    Send(LinkId, Command),
    /// The channel is subscribed: whoever waits may go on, and it wants catching up.
    Live(Channel),
    /// The channel is subscribed no more.
    Lost(Channel),
    /// The channel stayed subscribed, but something may be missing.
    CatchUp(Channel),
    /// The slot map may be out of date.
    Refresh,
}

/// Which channel is subscribed over which link.
pub(super) struct Placements {
    prefer: SubscribeTo,
    /// Commands of one link that may be unanswered.
    unanswered_max: usize,
    /// Of the link opened last.
    generation: u64,
    links: BTreeMap<Address, OpenLink>,
    placed: BTreeMap<Channel, Placement>,
    /// Nodes whose link ended, and when.
    ended: BTreeMap<Address, Instant>,
    /// Nodes that refused or lost a channel, and when.
    refused: BTreeMap<(Channel, Address), Instant>,
}

struct OpenLink {
    id: LinkId,
    unanswered_max: usize,
    live: BTreeSet<Channel>,
    asked: BTreeMap<Channel, Command>,
}

struct Placement {
    address: Address,
    /// When it was placed, or its master changed.
    since: Instant,
    /// The slot's master that catching up asks, as far as known.
    master: Option<Address>,
}

impl Placements {
    pub(super) fn new(prefer: SubscribeTo, unanswered_max: usize) -> Self {
        Self {
            prefer,
            unanswered_max,
            generation: 0,
            links: BTreeMap::new(),
            placed: BTreeMap::new(),
            ended: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Brings the links into line with what is wanted and where slots live.
    pub(super) fn settle(
        &mut self,
        wanted: &BTreeSet<Channel>,
        topology: &Topology,
        now: Instant,
    ) -> Vec<Action> {
        let is_recent = |since: &mut Instant| now.duration_since(*since) < AVOID;
        self.ended.retain(|_, since| is_recent(since));
        self.refused.retain(|_, since| is_recent(since));
        let mut actions = Vec::new();
        self.remove_misplaced(wanted, topology, now, &mut actions);
        self.note_masters(topology, now, &mut actions);
        self.send_back(topology, now, &mut actions);
        for channel in wanted {
            if !self.placed.contains_key(channel) {
                self.place(*channel, topology, now, &mut actions);
            }
        }
        self.end_strays(&mut actions);
        self.close_unused(topology, &mut actions);
        actions
    }

    /// Takes a link's report in.
    pub(super) fn note(&mut self, report: &Report, now: Instant) -> Vec<Action> {
        let address = &report.link.address;
        let Some(link) = self.links.get_mut(address) else {
            return Vec::new();
        };
        if link.id != report.link {
            return Vec::new();
        }
        match report.news {
            News::Live(channel) => {
                link.came_alive(channel);
                if self.is_live(channel, address) {
                    return vec![Action::Live(channel)];
                }
            }
            News::Lost(channel) => {
                if link.lost(channel) && self.is_placed(channel, address) {
                    self.placed.remove(&channel);
                    self.refused.insert((channel, address.clone()), now);
                    return vec![Action::Lost(channel), Action::Refresh];
                }
            }
            News::Left(channel) => {
                link.asked.remove(&channel);
                link.live.remove(&channel);
            }
            News::Down => {
                self.links.remove(address);
                self.ended.insert(address.clone(), now);
                let here = |_: &Channel, placement: &mut Placement| placement.address == *address;
                let lost = self.placed.extract_if(.., here);
                let mut actions: Vec<_> = lost.map(|(channel, _)| Action::Lost(channel)).collect();
                actions.push(Action::Refresh);
                return actions;
            }
        }
        Vec::new()
    }

    fn is_placed(&self, channel: Channel, address: &Address) -> bool {
        let placement = self.placed.get(&channel);
        placement.is_some_and(|placement| placement.address == *address)
    }

    /// Whether the channel is placed on this node and subscribed there.
    fn is_live(&self, channel: Channel, address: &Address) -> bool {
        let link = self.links.get(address);
        self.is_placed(channel, address) && link.is_some_and(|link| link.live.contains(&channel))
    }

    /// Gives up the places of channels that nobody wants, whose node does not serve their slot, or
    /// who waited too long.
    fn remove_misplaced(
        &mut self,
        wanted: &BTreeSet<Channel>,
        topology: &Topology,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Self {
            links,
            placed,
            refused,
            ..
        } = self;
        placed.retain(|channel, placement| {
            let address = &placement.address;
            let link = links.get(address);
            let is_live = link.is_some_and(|link| link.live.contains(channel));
            let is_late = !is_live && now.duration_since(placement.since) >= CONFIRM_TIMEOUT;
            if is_late {
                refused.insert((*channel, address.clone()), now);
            }
            let stays = wanted.contains(channel) && serves(topology, *channel, address) && !is_late;
            if !stays {
                actions.push(Action::Lost(*channel));
            }
            stays
        });
    }

    /// Has channels caught up whose slot went to another master.
    fn note_masters(&mut self, topology: &Topology, now: Instant, actions: &mut Vec<Action>) {
        for (channel, placement) in &mut self.placed {
            let Some(group) = topology.group(channel.slot()) else {
                continue;
            };
            let master = Some(&group.master);
            if placement.master.as_ref() == master {
                continue;
            }
            placement.master = master.cloned();
            let link = self.links.get(&placement.address);
            if link.is_some_and(|link| link.live.contains(channel)) {
                placement.since = now;
                actions.push(Action::CatchUp(*channel));
            }
        }
    }

    /// Gives up some places that are not on a node of the preferred kind though there is one again.
    fn send_back(&mut self, topology: &Topology, now: Instant, actions: &mut Vec<Action>) {
        let is_due = |(channel, placement): &(&Channel, &Placement)| {
            now.duration_since(placement.since) >= RETURN_AFTER
                && self.is_live(**channel, &placement.address)
                && self.is_second_choice(**channel, &placement.address, topology)
        };
        let due = self
            .placed
            .iter()
            .filter(is_due)
            .map(|(channel, _)| *channel);
        let due: Vec<_> = due.take(RETURNS_MAX).collect();
        for channel in due {
            self.placed.remove(&channel);
            actions.push(Action::Lost(channel));
        }
    }

    /// Whether a node of the other kind would be chosen for the channel now.
    fn is_second_choice(&self, channel: Channel, address: &Address, topology: &Topology) -> bool {
        let chosen = self.choose(channel, topology);
        chosen.is_some_and(|(best, master)| (best == master) != (*address == master))
    }

    fn place(
        &mut self,
        channel: Channel,
        topology: &Topology,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some((address, master)) = self.choose(channel, topology) else {
            return;
        };
        let link = self.link(&address, actions);
        let is_live = link.live.contains(&channel);
        let is_asked = match link.asked.get(&channel) {
            Some(Command::Subscribe(_)) => true,
            Some(Command::Unsubscribe(_)) => return, // its answer comes first
            None => is_live,
        };
        if !is_asked && !link.ask(Command::Subscribe(channel), actions) {
            return;
        }
        if is_live {
            actions.push(Action::Live(channel));
        }
        let placement = Placement {
            address,
            since: now,
            master: Some(master),
        };
        self.placed.insert(channel, placement);
    }

    /// The preferred node of the channel's slot that is not to be avoided for the moment, and the
    /// slot's master.
    fn choose(&self, channel: Channel, topology: &Topology) -> Option<(Address, Address)> {
        let group = topology.group(channel.slot())?;
        let master = [&group.master];
        let nodes: Vec<_> = match self.prefer {
            SubscribeTo::Replica => group.replicas.iter().chain(master).collect(),
            SubscribeTo::Master => master.into_iter().chain(&group.replicas).collect(),
        };
        let is_avoided = |address: &Address| {
            self.ended.contains_key(address)
                || self.refused.contains_key(&(channel, address.clone()))
        };
        let best = nodes.into_iter().find(|address| !is_avoided(address))?;
        Some((best.clone(), group.master.clone()))
    }

    fn link(&mut self, address: &Address, actions: &mut Vec<Action>) -> &mut OpenLink {
        match self.links.entry(address.clone()) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => {
                self.generation += 1;
                let id = LinkId {
                    address: address.clone(),
                    generation: self.generation,
                };
                actions.push(Action::Open(id.clone()));
                place.insert(OpenLink::new(id, self.unanswered_max))
            }
        }
    }

    /// Ends subscriptions on nodes where their channel is not placed.
    fn end_strays(&mut self, actions: &mut Vec<Action>) {
        let placed = &self.placed;
        for (address, link) in &mut self.links {
            let is_stray = |channel: &&Channel| {
                let placement = placed.get(channel);
                placement.is_none_or(|placement| placement.address != *address)
            };
            let strays: Vec<_> = link.live.iter().filter(is_stray).copied().collect();
            for channel in strays {
                if link.ask(Command::Unsubscribe(channel), actions) {
                    link.live.remove(&channel);
                }
            }
        }
    }

    /// Closes links to nodes that left the cluster.
    fn close_unused(&mut self, topology: &Topology, actions: &mut Vec<Action>) {
        let members: BTreeSet<_> = topology.nodes().collect();
        self.links.retain(|address, link| {
            let is_unused = link.live.is_empty() && link.asked.is_empty();
            let is_over = is_unused && !members.contains(address);
            if is_over {
                actions.push(Action::Close(link.id.clone()));
            }
            !is_over
        });
    }
}

impl OpenLink {
    fn new(id: LinkId, unanswered_max: usize) -> Self {
        Self {
            id,
            unanswered_max,
            live: BTreeSet::new(),
            asked: BTreeMap::new(),
        }
    }

    /// False when the link has too much to answer already; it is asked when it has answered.
    fn ask(&mut self, command: Command, actions: &mut Vec<Action>) -> bool {
        if self.asked.len() >= self.unanswered_max {
            return false;
        }
        self.asked.insert(command.channel(), command);
        actions.push(Action::Send(self.id.clone(), command));
        true
    }

    fn came_alive(&mut self, channel: Channel) {
        if self.asked.remove(&channel).is_some() {
            self.live.insert(channel);
        }
    }

    /// False for what is about to end anyhow.
    fn lost(&mut self, channel: Channel) -> bool {
        if self.asked.get(&channel) == Some(&Command::Unsubscribe(channel)) {
            return false;
        }
        self.asked.remove(&channel).is_some() | self.live.remove(&channel)
    }
}

/// Whether a node serves the channel's slot, as far as known.
fn serves(topology: &Topology, channel: Channel, address: &Address) -> bool {
    topology
        .group(channel.slot())
        .is_none_or(|group| group.master == *address || group.replicas.contains(address))
}

#[cfg(test)]
mod tests {
    use slotcast_proto::slot::{SLOT_COUNT, Slot};

    use super::*;

    const MIDDLE: u16 = 8192;

    #[test]
    fn channels_of_every_kind_go_to_a_replica_and_are_caught_up_when_they_live() {
        let mut scene = Scene::new();
        for channel in [low(), Channel::Users(low().slot()), Channel::Lobby] {
            scene.want(channel);
            let node = scene.nodes(channel)[1];
            assert_eq!(
                scene.report(node, News::Live(channel)),
                [Action::Live(channel)]
            );
        }
    }

    #[test]
    fn crash_of_a_node_moves_its_channels_at_once() {
        let mut scene = Scene::new();
        scene.live(low());
        let actions = scene.report("r1", News::Down);
        assert_eq!(actions, [Action::Lost(low()), Action::Refresh]);
        let actions = scene.settle();
        assert!(
            actions.contains(&subscribe(&scene.link("m1"), low())),
            "{actions:?}"
        );
        assert_eq!(scene.report("m1", News::Live(low())), [Action::Live(low())]);
    }

    #[test]
    fn channels_go_back_to_a_replica_some_at_a_time_when_all_was_calm_for_a_while() {
        let mut scene = Scene::new();
        let count = u16::try_from(RETURNS_MAX).unwrap() + 1;
        scene.placements.unanswered_max = usize::from(count);
        for number in 0..count {
            scene.live(room(number));
        }
        scene.report("r1", News::Down);
        scene.settle();
        for number in 0..count {
            scene.report("m1", News::Live(room(number)));
        }
        scene.now += RETURN_AFTER - AVOID;
        assert_eq!(scene.settle(), [], "not yet");
        scene.now += AVOID;
        let lost = |actions: &[Action]| {
            let lost = actions
                .iter()
                .filter(|action| matches!(action, Action::Lost(_)));
            lost.count()
        };
        let actions = scene.settle();
        assert_eq!(lost(&actions), RETURNS_MAX);
        assert!(
            actions.contains(&subscribe(&scene.link("r1"), low())),
            "{actions:?}"
        );
        assert!(
            actions.contains(&unsubscribe(&scene.link("m1"), low())),
            "{actions:?}"
        );
        assert_eq!(scene.report("r1", News::Live(low())), [Action::Live(low())]);
        assert_eq!(lost(&scene.settle()), 1);
    }

    #[test]
    fn ended_link_is_opened_again_after_a_pause() {
        let mut scene = Scene::new();
        scene.map = Topology::of([(0, SLOT_COUNT - 1, vec![address("m1")])]);
        scene.live(low());
        scene.report("m1", News::Down);
        assert_eq!(scene.settle(), [], "no node but the one that just failed");
        scene.now += AVOID;
        let actions = scene.settle();
        let link = scene.link("m1");
        assert_eq!(
            actions,
            [Action::Open(link.clone()), subscribe(&link, low())]
        );
    }

    #[test]
    fn whole_cluster_restarted_brings_every_channel_back() {
        let mut scene = Scene::new();
        for channel in [low(), high()] {
            scene.live(channel);
        }
        for node in ["r1", "r2"] {
            scene.report(node, News::Down);
        }
        scene.settle();
        for node in ["m1", "m2"] {
            scene.report(node, News::Down);
        }
        scene.now += AVOID;
        let actions = scene.settle();
        for (node, channel) in [("r1", low()), ("r2", high())] {
            assert!(
                actions.contains(&subscribe(&scene.link(node), channel)),
                "{actions:?}"
            );
            assert_eq!(
                scene.report(node, News::Live(channel)),
                [Action::Live(channel)]
            );
        }
    }

    #[test]
    fn failover_by_hand_moves_the_channels_of_the_old_master() {
        let mut scene = Scene::preferring(SubscribeTo::Master);
        scene.live(low());
        let actions = scene.report("m1", News::Lost(low()));
        assert_eq!(actions, [Action::Lost(low()), Action::Refresh]);
        scene.map = Topology::of([(0, SLOT_COUNT - 1, nodes(&["r1", "m1"]))]);
        let actions = scene.settle();
        assert!(
            actions.contains(&subscribe(&scene.link("r1"), low())),
            "{actions:?}"
        );
    }

    #[test]
    fn moved_slot_takes_its_channel_along() {
        let mut scene = Scene::new();
        scene.live(low());
        scene.report("r1", News::Lost(low()));
        scene.settle();
        assert_eq!(
            scene.report("m1", News::Lost(low())),
            [Action::Lost(low()), Action::Refresh],
            "the old master refuses it"
        );
        assert_eq!(scene.settle(), [], "the map does not know better");
        scene.map = Topology::of([(0, SLOT_COUNT - 1, nodes(&["m2", "r2"]))]);
        let actions = scene.settle();
        assert!(
            actions.contains(&subscribe(&scene.link("r2"), low())),
            "{actions:?}"
        );
    }

    #[test]
    fn replica_given_to_another_master_without_a_word_is_left() {
        let mut scene = Scene::new();
        scene.live(low());
        scene.map = Topology::of([
            (0, MIDDLE - 1, nodes(&["m1"])),
            (MIDDLE, SLOT_COUNT - 1, nodes(&["m2", "r2", "r1"])),
        ]);
        let actions = scene.settle();
        assert_eq!(actions[0], Action::Lost(low()));
        assert!(actions.contains(&unsubscribe(&scene.link("r1"), low())));
        assert!(actions.contains(&subscribe(&scene.link("m1"), low())));
    }

    #[test]
    fn channel_that_stayed_is_caught_up_when_its_slot_has_another_master() {
        let mut scene = Scene::new();
        scene.live(low());
        scene.map = Topology::of([(0, SLOT_COUNT - 1, nodes(&["r1", "m1"]))]);
        assert_eq!(scene.settle(), [Action::CatchUp(low())], "it was promoted");
        assert_eq!(scene.settle(), [], "once");
        scene.map = Topology::of([(0, SLOT_COUNT - 1, nodes(&["m1", "r1"]))]);
        assert_eq!(scene.settle(), [Action::CatchUp(low())], "it was demoted");
        scene.map = Topology::default();
        assert_eq!(scene.settle(), [], "nobody serves the slot for a while");
    }

    #[test]
    fn change_of_master_before_a_channel_lives_is_caught_up_with_it() {
        let mut scene = Scene::new();
        scene.want(low());
        scene.map = Topology::of([(0, SLOT_COUNT - 1, nodes(&["r1", "m1"]))]);
        assert_eq!(scene.settle(), []);
        assert_eq!(scene.report("r1", News::Live(low())), [Action::Live(low())]);
        assert_eq!(scene.settle(), []);
    }

    #[test]
    fn stale_master_that_comes_back_from_a_hang_changes_nothing() {
        let mut scene = Scene::preferring(SubscribeTo::Master);
        scene.live(low());
        let hung = scene.link("m1");
        scene.report("m1", News::Down);
        scene.settle();
        scene.report("r1", News::Live(low()));
        scene.map = Topology::of([(0, SLOT_COUNT - 1, nodes(&["r1", "m1"]))]);
        assert_eq!(scene.settle(), [Action::CatchUp(low())]);
        for news in [News::Live(low()), News::Lost(low())] {
            let link = hung.clone();
            assert_eq!(scene.placements.note(&Report { link, news }, scene.now), []);
        }
        assert_eq!(scene.settle(), []);
    }

    #[test]
    fn link_to_a_node_that_left_is_closed_when_it_carries_nothing() {
        let mut scene = Scene::new();
        scene.live(low());
        let left = scene.link("r1");
        scene.map = Topology::of([(0, SLOT_COUNT - 1, nodes(&["m1"]))]);
        let actions = scene.settle();
        assert!(!actions.contains(&Action::Close(left.clone())), "in use");
        scene.report("r1", News::Left(low()));
        assert_eq!(scene.settle(), [Action::Close(left)]);
        assert_eq!(scene.settle(), []);
    }

    #[test]
    fn channel_added_with_its_node_is_placed_there() {
        let mut scene = Scene::new();
        scene.map = Topology::of([(0, MIDDLE - 1, nodes(&["m1"]))]);
        scene.wanted.insert(high());
        assert_eq!(scene.settle(), [], "nobody serves the slot");
        scene.map = Topology::of([(0, SLOT_COUNT - 1, nodes(&["m3", "r3"]))]);
        let actions = scene.settle();
        assert!(actions.contains(&subscribe(&scene.link("r3"), high())));
    }

    #[test]
    fn reports_of_an_earlier_link_do_not_count() {
        let mut scene = Scene::new();
        scene.live(low());
        let earlier = scene.link("r1");
        scene.report("r1", News::Down);
        scene.now += AVOID;
        scene.settle();
        assert_ne!(scene.link("r1"), earlier, "opened anew");
        for news in [News::Live(low()), News::Lost(low()), News::Down] {
            let link = earlier.clone();
            assert_eq!(scene.placements.note(&Report { link, news }, scene.now), []);
        }
        assert_eq!(scene.report("r1", News::Live(low())), [Action::Live(low())]);
    }

    #[test]
    fn channel_that_lives_after_it_was_given_up_does_not_count_and_is_ended() {
        let mut scene = Scene::new();
        scene.want(low());
        scene.wanted.clear();
        assert_eq!(scene.settle(), [Action::Lost(low())]);
        assert_eq!(scene.report("r1", News::Live(low())), []);
        let link = scene.link("r1");
        assert_eq!(scene.settle(), [unsubscribe(&link, low())]);
        assert_eq!(scene.report("r1", News::Left(low())), []);
        assert_eq!(scene.settle(), []);
    }

    #[test]
    fn subscription_unanswered_for_long_is_asked_of_another_node() {
        let mut scene = Scene::new();
        scene.want(low());
        scene.now += CONFIRM_TIMEOUT;
        let actions = scene.settle();
        assert!(actions.contains(&subscribe(&scene.link("m1"), low())));
        assert_eq!(scene.report("r1", News::Live(low())), [], "too late");
        assert_eq!(scene.report("m1", News::Live(low())), [Action::Live(low())]);
        let link = scene.link("r1");
        assert_eq!(scene.settle(), [unsubscribe(&link, low())]);
    }

    #[test]
    fn channel_wanted_again_while_it_ends_is_asked_for_after_the_end() {
        for is_lost_meanwhile in [false, true] {
            let mut scene = Scene::new();
            scene.live(low());
            scene.wanted.clear();
            let link = scene.link("r1");
            assert_eq!(
                scene.settle(),
                [Action::Lost(low()), unsubscribe(&link, low())]
            );
            scene.wanted.insert(low());
            assert_eq!(scene.settle(), [], "its end is not answered");
            if is_lost_meanwhile {
                assert_eq!(scene.report("r1", News::Lost(low())), []);
                assert_eq!(scene.settle(), [], "nor now");
            }
            assert_eq!(scene.report("r1", News::Left(low())), []);
            assert_eq!(scene.settle(), [subscribe(&link, low())]);
            assert_eq!(scene.report("r1", News::Live(low())), [Action::Live(low())]);
        }
    }

    #[test]
    fn link_with_much_to_answer_is_asked_for_more_when_it_has_answered() {
        let mut scene = Scene::new();
        for number in 0..10 {
            scene.wanted.insert(room(number));
        }
        let actions = scene.settle();
        let asked = |actions: &[Action]| {
            let sends = actions
                .iter()
                .filter(|action| matches!(action, Action::Send(..)));
            sends.count()
        };
        assert_eq!(asked(&actions), UNANSWERED_MAX);
        assert_eq!(scene.settle(), []);
        scene.report("r1", News::Live(room(0)));
        assert_eq!(scene.settle(), [subscribe(&scene.link("r1"), room(4))]);
    }

    const UNANSWERED_MAX: usize = 4;

    struct Scene {
        placements: Placements,
        wanted: BTreeSet<Channel>,
        map: Topology,
        now: Instant,
    }

    impl Scene {
        /// Two masters with a replica each.
        fn new() -> Self {
            Self::preferring(SubscribeTo::Replica)
        }

        fn preferring(prefer: SubscribeTo) -> Self {
            Self {
                placements: Placements::new(prefer, UNANSWERED_MAX),
                wanted: BTreeSet::new(),
                map: Topology::of([
                    (0, MIDDLE - 1, nodes(&["m1", "r1"])),
                    (MIDDLE, SLOT_COUNT - 1, nodes(&["m2", "r2"])),
                ]),
                now: Instant::now(),
            }
        }

        fn nodes(&self, channel: Channel) -> [&'static str; 2] {
            match channel.slot().number() < MIDDLE {
                true => ["m1", "r1"],
                false => ["m2", "r2"],
            }
        }

        fn settle(&mut self) -> Vec<Action> {
            self.placements.settle(&self.wanted, &self.map, self.now)
        }

        fn want(&mut self, channel: Channel) {
            self.wanted.insert(channel);
            let actions = self.settle();
            let is_asked = |action: &Action| matches!(action, Action::Send(_, Command::Subscribe(asked)) if *asked == channel);
            assert!(actions.iter().any(is_asked), "{actions:?}");
        }

        /// Wants a channel and has its preferred node confirm it.
        fn live(&mut self, channel: Channel) {
            self.want(channel);
            let placement = &self.placements.placed[&channel];
            let link = self.placements.links[&placement.address].id.clone();
            let news = News::Live(channel);
            let actions = self.placements.note(&Report { link, news }, self.now);
            assert_eq!(actions, [Action::Live(channel)]);
        }

        fn link(&self, node: &str) -> LinkId {
            self.placements.links[&address(node)].id.clone()
        }

        fn report(&mut self, node: &str, news: News) -> Vec<Action> {
            let link = self.link(node);
            self.placements.note(&Report { link, news }, self.now)
        }
    }

    fn room(number: u16) -> Channel {
        Channel::Rooms(Slot::new(number).unwrap())
    }

    /// A channel of the first master.
    fn low() -> Channel {
        room(7)
    }

    /// A channel of the second master.
    fn high() -> Channel {
        room(SLOT_COUNT - 1)
    }

    fn subscribe(link: &LinkId, channel: Channel) -> Action {
        Action::Send(link.clone(), Command::Subscribe(channel))
    }

    fn unsubscribe(link: &LinkId, channel: Channel) -> Action {
        Action::Send(link.clone(), Command::Unsubscribe(channel))
    }

    fn nodes(names: &[&str]) -> Vec<Address> {
        names.iter().map(|name| address(name)).collect()
    }

    fn address(name: &str) -> Address {
        Address::new(name, 6379)
    }
}
