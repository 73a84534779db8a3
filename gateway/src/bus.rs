//! Keeps the shard channels that this gateway needs subscribed, through failovers and slot moves.
//!
//! ```text
//!  hub: "I need this channel" -> wants -> bus: where does its slot live? -> link (one per node)
//!                                          ^                                 |
//!                                          '--- live, lost, down ------------'
//! ```
//!
//! The set of wanted channels is the truth; links and placements are rebuilt from it. `placement.rs`
//! decides, this file does what it says. Whenever a channel comes back to life, the log of its rooms
//! is read from the last message seen, since sharded pub/sub delivers at most once.

#[cfg(test)]
mod against_redis;
mod answers;
mod link;
mod placement;
mod reads;
mod receive;
#[cfg(test)]
mod simulation;
pub(crate) mod tails;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use slotcast_proto::schema::key::Channel;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tracing::{info, warn};

use self::{
    link::{Command, Link, LinkId, News, QUEUE_MAX, Report},
    placement::{Action, Placements},
};
pub(crate) use self::{
    reads::Reads,
    receive::{Receiver, deliver},
};
use crate::{
    cluster::{Cluster, StoreError},
    config::SubscribeTo,
};

/// A channel that nobody needs stays subscribed this long, so that a room that empties and fills
/// again costs nothing.
const LINGER: Duration = Duration::from_secs(5);

/// The slot map is read this often even when nothing seems wrong: a replica that was given to another
/// master keeps its subscribers without a word (redis#12558).
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What could not be placed is tried again this often.
const SETTLE_INTERVAL: Duration = Duration::from_millis(100);

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
    fn wanted(&self) -> BTreeSet<Channel> {
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
    let (reports, news) = mpsc::channel(QUEUE_MAX);
    let stale = Notify::new();
    let driver = Driver {
        bus: &bus,
        cluster: &cluster,
        receiver,
        reports,
        stale: &stale,
        placements: Placements::new(prefer, QUEUE_MAX),
        links: HashMap::new(),
    };
    tokio::select! {
        () = driver.run(news) => {}
        () = keep_map_fresh(&bus, &cluster, &stale) => {}
    }
}

/// Reads the slot map beside the driver: a node that does not answer must not keep channels from
/// their next place.
async fn keep_map_fresh(bus: &Bus, cluster: &Cluster, stale: &Notify) {
    let mut checks = interval(CHECK_INTERVAL);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stale.notified() => {}
            _ = checks.tick() => {}
        }
        cluster.refresh().await;
        bus.changed.notify_one();
    }
}

/// Does what the placements decide.
struct Driver<'a> {
    bus: &'a Bus,
    cluster: &'a Arc<Cluster>,
    receiver: Arc<Receiver>,
    reports: mpsc::Sender<Report>,
    /// Told when the slot map may be out of date.
    stale: &'a Notify,
    placements: Placements,
    links: HashMap<LinkId, mpsc::Sender<Command>>,
}

impl Driver<'_> {
    async fn run(mut self, mut news: mpsc::Receiver<Report>) {
        let mut settles = interval(SETTLE_INTERVAL);
        settles.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.note_ended();
            let wanted = self.bus.wanted();
            let topology = self.cluster.topology();
            let actions = self.placements.settle(&wanted, &topology, Instant::now());
            self.perform(actions);
            tokio::select! {
                report = news.recv() => {
                    let Some(report) = report else { return };
                    self.note(&report);
                    while let Ok(report) = news.try_recv() {
                        self.note(&report);
                    }
                }
                () = self.bus.changed.notified() => {}
                _ = settles.tick() => {}
            }
        }
    }

    /// A link may end without a word, if its task panics.
    fn note_ended(&mut self) {
        let ended = self
            .links
            .extract_if(|_, commands| commands.is_closed())
            .map(|(link, _)| link)
            .collect::<Vec<_>>();
        for link in ended {
            let news = News::Down;
            self.note(&Report { link, news });
        }
    }

    fn note(&mut self, report: &Report) {
        if let News::Lost(channel) = report.news {
            warn!(address = %report.link.address, %channel, "lost a subscription");
        }
        let actions = self.placements.note(report, Instant::now());
        self.perform(actions);
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Open(link) => self.open(link),
                Action::Close(link) => {
                    self.links.remove(&link);
                }
                Action::Send(link, command) => {
                    if let Some(commands) = self.links.get(&link) {
                        // It has room for all that may be asked; a link that ended is noted next.
                        let _ = commands.try_send(command);
                    }
                }
                Action::Live(channel) => {
                    // The first time there is nothing to catch up: whoever needs it waits for this.
                    if let Some(lost_for) = self.bus.set_live(channel) {
                        self.receiver.observe_loss(lost_for);
                        self.receiver.catch_up(channel);
                    }
                }
                Action::Lost(channel) => self.bus.set_lost(channel),
                Action::CatchUp(channel) => self.receiver.catch_up(channel),
                Action::Refresh => self.stale.notify_one(),
            }
        }
    }

    fn open(&mut self, id: LinkId) {
        let (commands, queue) = mpsc::channel(QUEUE_MAX);
        info!(address = %id.address, "opens a link");
        let link = Link::new(id.clone(), self.reports.clone(), Arc::clone(&self.receiver));
        let cluster = Arc::clone(self.cluster);
        tokio::spawn(async move { Arc::new(link).run(queue, &cluster).await });
        self.links.insert(id, commands);
    }
}
