//! Keeps the shard channels that this gateway needs subscribed, through failovers and slot moves.
//!
//! ```text
//!  hub: "I need this channel" -> wants -> bus: where does its slot live? -> link (one per node)
//!                                          ^                                 |
//!                                          '--- live, lost, down ------------'
//! ```
//!
//! The set of wanted channels is the truth; links and placements are rebuilt from it. Whenever a
//! channel comes back to life, the log of its rooms is read from the last message seen, since
//! sharded pub/sub delivers at most once.

mod link;
mod receive;
mod resp;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use slotcast_proto::schema::key::Channel;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tracing::{info, warn};

use self::link::{Command, Link, News, QUEUE_MAX, Report};
pub(crate) use self::receive::{Receiver, deliver};
use crate::{
    cluster::{Address, Cluster, StoreError, Topology},
    config::SubscribeTo,
};

/// A channel that nobody needs stays subscribed this long, so that a room that empties and fills
/// again costs nothing.
const LINGER: Duration = Duration::from_secs(5);

/// A subscription unanswered for this long is tried again.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);

/// The slot map is read this often even when nothing seems wrong: a replica that was given to another
/// master keeps its subscribers without a word (redis#12558).
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What could not be placed is tried again this often.
const SETTLE_INTERVAL: Duration = Duration::from_millis(100);

/// A node is avoided this long after its link ended or it refused a channel.
const AVOID: Duration = Duration::from_millis(250);

/// A join waits this long for its channel.
const LIVE_TIMEOUT: Duration = Duration::from_secs(8);

/// The channels that this gateway needs.
#[derive(Default)]
pub(crate) struct Bus {
    wants: Mutex<HashMap<Channel, Want>>,
    changed: Notify,
}

struct Want {
    holders: usize,
    idle_since: Instant,
    live: watch::Sender<bool>,
    /// When the channel was lost, while it is.
    lost: Option<Instant>,
}

impl Bus {
    /// Asks for a channel, which stays subscribed while the answer lives.
    pub(crate) fn want(self: &Arc<Self>, channel: Channel) -> Subscription {
        let mut wants = self.wants();
        let want = wants.entry(channel).or_insert_with(|| {
            self.changed.notify_one();
            Want {
                holders: 0,
                idle_since: Instant::now(),
                live: watch::Sender::new(false),
                lost: None,
            }
        });
        want.holders += 1;
        Subscription {
            bus: Arc::clone(self),
            channel,
            live: want.live.subscribe(),
        }
    }

    fn wants(&self) -> MutexGuard<'_, HashMap<Channel, Want>> {
        self.wants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, channel: Channel) {
        if let Some(want) = self.wants().get_mut(&channel) {
            want.holders = want.holders.saturating_sub(1);
            want.idle_since = Instant::now();
        }
    }

    /// The channels to have, after forgetting those unused for [`LINGER`].
    fn wanted(&self) -> HashSet<Channel> {
        let mut wants = self.wants();
        wants.retain(|_, want| want.holders > 0 || want.idle_since.elapsed() < LINGER);
        wants.keys().copied().collect()
    }

    fn set_lost(&self, channel: Channel) {
        if let Some(want) = self.wants().get_mut(&channel)
            && want.live.send_replace(false)
        {
            want.lost = Some(Instant::now());
        }
    }

    /// How long the channel was lost, if it was.
    fn set_live(&self, channel: Channel) -> Option<Duration> {
        let mut wants = self.wants();
        let want = wants.get_mut(&channel)?;
        want.live.send_replace(true);
        want.lost.take().map(|lost| lost.elapsed())
    }
}

/// Keeps a channel subscribed until dropped.
pub(crate) struct Subscription {
    bus: Arc<Bus>,
    channel: Channel,
    live: watch::Receiver<bool>,
}

impl Subscription {
    pub(crate) fn live(&self) -> Live {
        Live {
            channel: self.channel,
            live: self.live.clone(),
        }
    }
}

/// Tells when a channel is subscribed.
pub(crate) struct Live {
    channel: Channel,
    live: watch::Receiver<bool>,
}

impl Live {
    /// Waits until Redis confirmed the subscription.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] after [`LIVE_TIMEOUT`].
    pub(crate) async fn wait(mut self) -> Result<(), StoreError> {
        match timeout(LIVE_TIMEOUT, self.live.wait_for(|live| *live)).await {
            Ok(Ok(_)) => Ok(()),
            _ => {
                let channel = self.channel;
                Err(StoreError::Unavailable(format!(
                    "channel {channel} is not subscribed"
                )))
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.bus.release(self.channel);
    }
}

/// Runs until the process ends.
pub(crate) async fn run(
    bus: Arc<Bus>,
    cluster: Arc<Cluster>,
    receiver: Arc<Receiver>,
    prefer: SubscribeTo,
) {
    let (reports, mut news) = mpsc::channel(QUEUE_MAX);
    let mut placements = Placements {
        bus,
        cluster,
        receiver,
        prefer,
        reports,
        generation: 0,
        links: HashMap::new(),
        placed: HashMap::new(),
        avoided: HashMap::new(),
    };
    let mut checks = interval(CHECK_INTERVAL);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut settles = interval(SETTLE_INTERVAL);
    settles.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        placements.settle();
        tokio::select! {
            report = news.recv() => {
                let Some(report) = report else { return };
                let mut stale = placements.note(report);
                while let Ok(report) = news.try_recv() {
                    stale |= placements.note(report);
                }
                if stale {
                    placements.cluster.refresh().await;
                }
            }
            () = placements.bus.changed.notified() => {}
            _ = settles.tick() => {}
            _ = checks.tick() => placements.cluster.refresh().await,
        }
    }
}

/// Which channel is subscribed over which link.
struct Placements {
    bus: Arc<Bus>,
    cluster: Arc<Cluster>,
    receiver: Arc<Receiver>,
    prefer: SubscribeTo,
    reports: mpsc::Sender<Report>,
    generation: u64,
    links: HashMap<Address, OpenLink>,
    placed: HashMap<Channel, Placement>,
    avoided: HashMap<Address, Instant>,
}

struct OpenLink {
    generation: u64,
    commands: mpsc::Sender<Command>,
}

struct Placement {
    address: Address,
    live: bool,
    since: Instant,
}

impl Placements {
    /// Brings the links into line with what is wanted and where slots live.
    fn settle(&mut self) {
        self.links.retain(|_, link| !link.commands.is_closed());
        let topology = self.cluster.topology();
        let wanted = self.bus.wanted();
        let unwanted = self
            .placed
            .keys()
            .filter(|channel| !wanted.contains(channel));
        for channel in unwanted.copied().collect::<Vec<_>>() {
            self.remove(channel);
        }
        for channel in wanted {
            if let Some(placement) = self.placed.get(&channel) {
                if self.is_in_place(&topology, channel, placement) {
                    continue;
                }
                self.remove(channel);
            }
            self.place(&topology, channel);
        }
    }

    fn is_in_place(&self, topology: &Topology, channel: Channel, placement: &Placement) -> bool {
        let serves = topology.group(channel.slot()).is_none_or(|group| {
            group.master == placement.address || group.replicas.contains(&placement.address)
        });
        let is_linked = self.links.contains_key(&placement.address);
        serves && is_linked && (placement.live || placement.since.elapsed() < CONFIRM_TIMEOUT)
    }

    fn place(&mut self, topology: &Topology, channel: Channel) {
        let Some(address) = self.choose(topology, channel) else {
            return;
        };
        if self.command(&address, Command::Subscribe(channel)) {
            let placement = Placement {
                address,
                live: false,
                since: Instant::now(),
            };
            self.placed.insert(channel, placement);
        }
    }

    /// The preferred node of the channel's slot that is not to be avoided for the moment.
    fn choose(&self, topology: &Topology, channel: Channel) -> Option<Address> {
        let group = topology.group(channel.slot())?;
        let master = [&group.master];
        let nodes: Vec<_> = match self.prefer {
            SubscribeTo::Replica => group.replicas.iter().chain(master).collect(),
            SubscribeTo::Master => master.into_iter().chain(&group.replicas).collect(),
        };
        let is_avoided = |address: &Address| {
            let since = self.avoided.get(address);
            since.is_some_and(|since| since.elapsed() < AVOID)
        };
        let best = nodes.into_iter().find(|address| !is_avoided(address));
        best.cloned()
    }

    fn remove(&mut self, channel: Channel) {
        let Some(placement) = self.placed.remove(&channel) else {
            return;
        };
        self.bus.set_lost(channel);
        if self.links.contains_key(&placement.address) {
            self.command(&placement.address, Command::Unsubscribe(channel));
        }
    }

    /// False when the link's queue is full or the link ended: what was asked is asked again when the
    /// link reports. Waiting for the queue could wait for ourselves.
    fn command(&mut self, address: &Address, command: Command) -> bool {
        if !self.links.contains_key(address) {
            self.open(address);
        }
        let link = self.links.get(address);
        link.is_some_and(|link| link.commands.try_send(command).is_ok())
    }

    fn open(&mut self, address: &Address) {
        self.generation += 1;
        let (commands, queue) = mpsc::channel(QUEUE_MAX);
        let credentials = self.cluster.credentials();
        let credentials = credentials.map(|(user, password)| (user.into(), password.into()));
        let link = Link::new(
            address.clone(),
            self.generation,
            self.reports.clone(),
            Arc::clone(&self.receiver),
        );
        tokio::spawn(link.run(queue, credentials));
        info!(%address, "opened a link");
        let open = OpenLink {
            generation: self.generation,
            commands,
        };
        self.links.insert(address.clone(), open);
    }

    /// Takes a link's news in; true when the slot map may be out of date.
    fn note(&mut self, report: Report) -> bool {
        let Report {
            address,
            generation,
            news,
        } = report;
        let current = self
            .links
            .get(&address)
            .is_some_and(|link| link.generation == generation);
        if !current {
            return false;
        }
        match news {
            News::Live(channel) => self.came_alive(&address, channel),
            News::Lost(channel) => {
                if self
                    .placed
                    .get(&channel)
                    .is_some_and(|placed| placed.address == address)
                {
                    warn!(%address, %channel, "lost a subscription");
                    self.placed.remove(&channel);
                    self.bus.set_lost(channel);
                    self.avoided.insert(address, Instant::now());
                }
                return true;
            }
            News::Down => {
                self.links.remove(&address);
                self.avoided.insert(address.clone(), Instant::now());
                for channel in self.channels_on(&address) {
                    self.placed.remove(&channel);
                    self.bus.set_lost(channel);
                }
                return true;
            }
        }
        false
    }

    fn came_alive(&mut self, address: &Address, channel: Channel) {
        let placement = self
            .placed
            .get_mut(&channel)
            .filter(|placed| placed.address == *address);
        let Some(placement) = placement else { return };
        placement.live = true;
        let lost_for = self.bus.set_live(channel);
        self.receiver.catch_up(channel, lost_for);
    }

    fn channels_on(&self, address: &Address) -> Vec<Channel> {
        let here = self
            .placed
            .iter()
            .filter(|(_, placement)| placement.address == *address);
        here.map(|(channel, _)| *channel).collect()
    }
}
