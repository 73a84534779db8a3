//! This gateway's lease, and the seats of gateways whose lease ran out.
//!
//! A gateway that dies cannot say that its users left their rooms. So every gateway renews a lease
//! in Redis; whoever renews finds the dead, is handed one at a time, and gives up its seats. The
//! renewal is one call and waits for nothing else: reaping runs beside it.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use slotcast_proto::{
    id::{GatewayId, RoomId, UserId},
    slot::Slot,
};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use crate::{
    app::App,
    cluster::StoreError,
    connection::HANDLER_TIMEOUT_MS,
    handler::room::{give_up_seat, take_seat_again},
    session::{Profile, User},
    store::Lease as Renewal,
};

/// Renewals in the time of one lease: two may fail before others take the gateway for dead.
const RENEWALS_PER_LEASE: u32 = 3;

/// Seats given up between two looks at what is left, and at one time.
const REAP_COUNT: u32 = 200;
const REAP_CONCURRENCY: usize = 16;

/// How long a handler may go on with a name that was lost meanwhile: until it is given up, and as long again
/// at the end of its connection.
const STRAGGLERS: Duration = Duration::from_millis(2 * HANDLER_TIMEOUT_MS as u64);

/// Pause before seats are taken again that Redis did not give.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

pub(crate) struct Lease {
    gateway: AtomicU32,
    has_held: AtomicBool,
    is_reaping: AtomicBool,
    /// Slots that Redis knows the gateway of this name to hold seats in.
    slots: Mutex<HashSet<(GatewayId, Slot)>>,
}

impl Lease {
    pub(crate) fn new() -> Self {
        Self {
            gateway: AtomicU32::new(fastrand::u32(..)),
            has_held: AtomicBool::new(false),
            is_reaping: AtomicBool::new(false),
            slots: Mutex::default(),
        }
    }

    /// Under which name this gateway holds seats; another one after its lease was lost.
    pub(crate) fn gateway(&self) -> GatewayId {
        GatewayId::new(self.gateway.load(Ordering::Relaxed))
    }

    /// Makes sure that a reaper would find seats in this slot; asks Redis once a slot. Answers the
    /// name under which to take them.
    ///
    /// # Errors
    /// [`StoreError`] when Redis does not know of it; then no seat may be taken.
    pub(crate) async fn cover(&self, app: &App, slot: Slot) -> Result<GatewayId, StoreError> {
        let gateway = self.gateway();
        if !self.lock_slots().contains(&(gateway, slot)) {
            app.store.note_slot(gateway, slot).await?;
            self.lock_slots().insert((gateway, slot));
        }
        Ok(gateway)
    }

    /// Slots in which this gateway took seats under a name of its own.
    fn slots_of(&self, gateway: GatewayId) -> Vec<Slot> {
        let slots = self.lock_slots();
        let of_name = slots.iter().filter(|(name, _)| *name == gateway);
        of_name.map(|(_, slot)| *slot).collect()
    }

    fn lock_slots(&self) -> MutexGuard<'_, HashSet<(GatewayId, Slot)>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews the lease for ever.
    pub(crate) async fn run(&self, app: &Arc<App>) {
        let mut ticks = interval(app.config.lease / RENEWALS_PER_LEASE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewed = Instant::now();
        loop {
            ticks.tick().await;
            match self.renew(app).await {
                Ok(()) => renewed = Instant::now(),
                Err(error) => warn!(%error, "cannot renew this gateway's lease"),
            }
            // Only after a while: a failover must not turn every client away at once.
            let is_reachable = renewed.elapsed() < app.config.lease;
            app.sockets.readiness.set_redis_reachable(is_reachable);
        }
    }

    /// Renews the lease once, and sets to work on whom it is handed.
    ///
    /// # Errors
    /// [`StoreError`] when Redis does not answer.
    pub(crate) async fn renew(&self, app: &Arc<App>) -> Result<(), StoreError> {
        loop {
            let has_held = self.has_held.load(Ordering::Relaxed);
            let renewal = app
                .store
                .renew_lease(self.gateway(), app.config.lease, has_held);
            match renewal.await? {
                Renewal::Renewed { dead } => {
                    self.has_held.store(true, Ordering::Relaxed);
                    if let Some(dead) = dead {
                        spawn_reaper(app, dead);
                    }
                    return Ok(());
                }
                // At once under the new name: nobody would find its seats without a lease.
                Renewal::Lost => self.change_name(app),
            }
        }
    }

    fn change_name(&self, app: &Arc<App>) {
        let old = self.gateway.swap(fastrand::u32(..), Ordering::Relaxed);
        self.has_held.store(false, Ordering::Relaxed);
        let app = Arc::clone(app);
        tokio::spawn(async move {
            take_all_seats_again(&app).await;
            // Those that handlers took before they could know.
            let old = GatewayId::new(old);
            give_up_name(&app, old).await;
            sleep(STRAGGLERS).await;
            give_up_name(&app, old).await;
            app.lease.lock_slots().retain(|(name, _)| *name != old);
        });
    }
}

/// Others took this gateway for dead and gave its seats up: takes them under its new name.
async fn take_all_seats_again(app: &App) {
    let seats = app.hub.seats();
    warn!(seats = seats.len(), "lost the lease; takes all seats again");
    stream::iter(seats)
        .for_each_concurrent(REAP_CONCURRENCY, |(room, user)| async move {
            while let Err(error) = keep_seat(app, room, &user).await {
                warn!(%room, %error, "cannot take a seat again yet");
                sleep(RETRY_PAUSE).await;
            }
        })
        .await;
}

/// Takes a seat again for a user who is still here, and gives it up if they left meanwhile.
async fn keep_seat(app: &App, room: RoomId, user: &User) -> Result<(), StoreError> {
    if !app.hub.is_seated(user.id, room) {
        return Ok(());
    }
    take_seat_again(app, user, room).await?;
    if app.hub.is_seated(user.id, room) {
        return Ok(());
    }
    give_up_seat(
        app,
        app.lease.gateway(),
        room,
        user.id,
        &user.profile().name(),
    )
    .await
}

/// Gives up every seat under a name that this gateway has no more.
async fn give_up_name(app: &App, old: GatewayId) {
    while let Err(error) = reap(app, old, app.lease.slots_of(old)).await {
        warn!(gateway = %old, %error, "cannot give up the seats of a lost name yet");
        sleep(RETRY_PAUSE).await;
    }
}

fn spawn_reaper(app: &Arc<App>, dead: GatewayId) {
    if app.lease.is_reaping.swap(true, Ordering::AcqRel) {
        return; // handed out again when the claim ends
    }
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let reaped = async {
            let slots = app.store.slots_of(dead).await?;
            reap(&app, dead, slots).await
        };
        match reaped.await {
            Ok(seats) => info!(gateway = %dead, seats, "reaped a dead gateway"),
            Err(error) => warn!(gateway = %dead, %error, "cannot reap a dead gateway yet"),
        }
        app.lease.is_reaping.store(false, Ordering::Release);
    });
}

/// Gives up every seat of a dead gateway in these slots, which are all of its; how many those were.
async fn reap(app: &App, dead: GatewayId, slots: Vec<Slot>) -> Result<usize, StoreError> {
    let mut count = 0;
    for slot in slots {
        loop {
            let seats = app.store.held_seats(dead, slot, REAP_COUNT).await?;
            if seats.is_empty() {
                break;
            }
            count += seats.len();
            stream::iter(seats.into_iter().map(Ok))
                .try_for_each_concurrent(REAP_CONCURRENCY, |(room, user)| {
                    reap_seat(app, dead, room, user)
                })
                .await?;
        }
    }
    app.store.forget_gateway(dead).await?;
    Ok(count)
}

async fn reap_seat(
    app: &App,
    dead: GatewayId,
    room: RoomId,
    user: UserId,
) -> Result<(), StoreError> {
    let json = app.store.participant(room, user).await?;
    let profile = json.as_deref().and_then(Profile::from_json);
    let name = profile.map_or_else(|| "알 수 없는 사용자".to_owned(), |profile| profile.name());
    give_up_seat(app, dead, room, user, &name).await
}
