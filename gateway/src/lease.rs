//! This gateway's lease, and the seats of gateways whose lease ran out.
//!
//! A gateway that dies cannot say that its users left their rooms. So every gateway renews a lease
//! in Redis; whoever renews finds the dead, is handed one at a time, and gives up its seats.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use slotcast_proto::{
    id::{GatewayId, RoomId, UserId},
    slot::Slot,
};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::{
    app::App,
    cluster::StoreError,
    handler::room::{announcement, give_up_seat, random_key},
    session::Profile,
    store::Seat,
};

/// Renewals in the time of one lease: two may fail before others take the gateway for dead.
const RENEWALS_PER_LEASE: u32 = 3;

/// Seats given up between two looks at what is left.
const REAP_COUNT: u32 = 200;

pub(crate) struct Lease {
    gateway: AtomicU32,
    held_before: AtomicBool,
    /// Slots that Redis knows this gateway to hold seats in.
    slots: Mutex<HashSet<Slot>>,
}

impl Lease {
    pub(crate) fn new() -> Self {
        Self {
            gateway: AtomicU32::new(fastrand::u32(..)),
            held_before: AtomicBool::new(false),
            slots: Mutex::default(),
        }
    }

    /// Under which name this gateway holds seats; another one after its lease was lost.
    pub(crate) fn gateway(&self) -> GatewayId {
        GatewayId::new(self.gateway.load(Ordering::Relaxed))
    }

    /// Makes sure that a reaper would find seats in this slot; asks Redis once a slot.
    ///
    /// # Errors
    /// [`StoreError`] when Redis does not know of it; then no seat may be taken.
    pub(crate) async fn cover(&self, app: &App, slot: Slot) -> Result<(), StoreError> {
        if self.lock_slots().contains(&slot) {
            return Ok(());
        }
        app.store.note_slot(self.gateway(), slot).await?;
        self.lock_slots().insert(slot);
        Ok(())
    }

    fn lock_slots(&self) -> std::sync::MutexGuard<'_, HashSet<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews the lease for ever, and reaps whom it is handed.
    pub(crate) async fn run(&self, app: &App) {
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
            app.sockets
                .readiness
                .set_redis_reachable(renewed.elapsed() < app.config.lease);
        }
    }

    /// Renews the lease once.
    ///
    /// # Errors
    /// [`StoreError`] when Redis does not answer.
    pub(crate) async fn renew(&self, app: &App) -> Result<(), StoreError> {
        let lease = app
            .store
            .renew_lease(self.gateway(), app.config.lease)
            .await?;
        if self.held_before.swap(true, Ordering::Relaxed) && !lease.unbroken {
            self.start_over(app).await?;
        }
        if let Some(dead) = lease.dead {
            reap(app, dead).await?;
        }
        Ok(())
    }

    /// Others took this gateway for dead and gave its seats up: takes them again under a new name.
    async fn start_over(&self, app: &App) -> Result<(), StoreError> {
        self.gateway.store(fastrand::u32(..), Ordering::Relaxed);
        self.lock_slots().clear();
        let seats = app.hub.seats();
        warn!(seats = seats.len(), "lost the lease; takes all seats again");
        app.store
            .renew_lease(self.gateway(), app.config.lease)
            .await?;
        for (room, user) in seats {
            self.cover(app, room.slot()).await?;
            let profile = user.profile();
            app.store
                .join(&Seat {
                    room,
                    user: user.id,
                    gateway: self.gateway(),
                    user_json: &profile.json,
                    body: &announcement(room, &profile.name, "님이 입장하였습니다."),
                    key: &random_key(),
                })
                .await?;
        }
        Ok(())
    }
}

/// Gives up every seat of a dead gateway.
async fn reap(app: &App, dead: GatewayId) -> Result<(), StoreError> {
    let mut count = 0;
    for slot in app.store.slots_of(dead).await? {
        loop {
            let seats = app.store.held_seats(dead, slot, REAP_COUNT).await?;
            if seats.is_empty() {
                break;
            }
            count += seats.len();
            for (room, user) in seats {
                reap_seat(app, dead, room, user).await?;
            }
        }
    }
    app.store.forget_gateway(dead).await?;
    info!(gateway = %dead, seats = count, "reaped a dead gateway");
    Ok(())
}

async fn reap_seat(
    app: &App,
    dead: GatewayId,
    room: RoomId,
    user: UserId,
) -> Result<(), StoreError> {
    let json = app.store.participant(room, user).await?;
    let profile = json.as_deref().and_then(Profile::from_json);
    let name = profile
        .as_ref()
        .map_or("알 수 없는 사용자", |profile| &profile.name);
    give_up_seat(app, dead, room, user, name).await
}
