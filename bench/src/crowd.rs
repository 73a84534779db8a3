//! Many sockets on few threads: the load, and the exact account of what became of it.
//!
//! Every socket is one user in one room. A thread reads its sockets in a readiness loop with one
//! buffer, so that a delivery costs the crowd less than it costs the server; what it costs all the
//! same is part of every result.

mod desk;
mod letter;
mod mark;
mod member;
mod page;
mod run;
mod sequence;
mod tag;
mod tally;
mod worker;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread::JoinHandle,
};

use anyhow::{Context, Result, anyhow, ensure};
use futures_util::future::try_join_all;
use mio::{Poll, Waker};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::gettid,
};
use slotcast_proto::id::RoomId;
use tokio::sync::oneshot;

use self::worker::{Order, WAKER, Worker};
pub(crate) use self::{
    desk::{MESSAGE, message_number},
    member::{Step, source},
    run::{Deed, Pace, Run, Span},
    sequence::{Place, Sequence},
    tag::{RUNS_MAX, TAG_BYTES, Tag, TagFinder},
    tally::Tally,
};
use crate::{clock::now_ns, seed::Login, stats::Latencies, websocket::text_frame};

/// Files that a process has open besides its sockets.
const OTHER_FILES: u64 = 128;

/// Orders that wait for a thread: it has one at a time, and its end.
const ORDERS_MAX: usize = 2;

/// Who the crowd is and where it goes.
pub(crate) struct Plan {
    /// Sockets are spread over them, one after another: so are the members of a room.
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) sockets: usize,
    pub(crate) room_size: usize,
    /// `None` for sockets that say nothing and only read frames, in one room.
    pub(crate) users: Option<Users>,
    pub(crate) threads: usize,
    /// Sockets on their way into the rooms at one time.
    pub(crate) concurrency: usize,
    pub(crate) lists: Lists,
}

impl Plan {
    fn check(&self) -> Result<()> {
        ensure!(
            self.sockets > 0 && self.room_size > 0 && self.concurrency > 0,
            "sockets, room size and concurrency must not be 0"
        );
        ensure!(
            (1..=self.sockets).contains(&self.threads),
            "threads are 1 to the number of sockets"
        );
        ensure!(!self.servers.is_empty(), "there is no server");
        Ok(())
    }

    fn server(&self, index: u32) -> Result<SocketAddr> {
        let at = usize::try_from(index)? % self.servers.len();
        self.servers.get(at).copied().context("no server")
    }

    fn room_of(&self, index: usize) -> usize {
        index / self.room_size
    }

    fn members_of(&self, room: usize) -> usize {
        let others = room * self.room_size;
        self.sockets.saturating_sub(others).min(self.room_size)
    }

    /// Members of each room.
    pub(crate) fn rooms(&self) -> impl Iterator<Item = u32> {
        let rooms = 0..self.sockets.div_ceil(self.room_size);
        rooms.map(|room| u32::try_from(self.members_of(room)).unwrap_or(u32::MAX))
    }
}

/// The logins of the members, and the ids of their rooms.
pub(crate) struct Users {
    logins: Vec<Login>,
    rooms: Vec<[u8; 24]>,
}

impl Users {
    pub(crate) fn new(logins: Vec<Login>, rooms: &[RoomId]) -> Result<Self> {
        let ids = rooms.iter().map(|room| room.to_string().into_bytes());
        let ids = ids.map(|id| id.try_into().ok()).collect::<Option<_>>();
        Ok(Self {
            logins,
            rooms: ids.context("a room id of another length")?,
        })
    }

    fn room(&self, room: usize) -> Result<&[u8; 24]> {
        self.rooms.get(room).context("every member has a room")
    }

    fn connect(&self, index: u32) -> Result<Vec<u8>> {
        let login = self.logins.get(usize::try_from(index)?);
        let Login { token, session, .. } = login.context("every member has a login")?;
        let packet = format!(r#"40{{"token":"{token}","sessionId":"{session}"}}"#);
        text_frame(packet.as_bytes())
    }

    fn join(&self, room: usize) -> Result<Vec<u8>> {
        let room = str::from_utf8(self.room(room)?)?;
        text_frame(format!(r#"42["joinRoom","{room}"]"#).as_bytes())
    }
}

/// Whether everybody has been told who is in the room.
pub(crate) struct Lists {
    /// Members whose last list of participants is not complete.
    incomplete: AtomicUsize,
    /// When the last list became complete, on the machine's clock.
    complete_ns: AtomicU64,
}

impl Lists {
    pub(crate) const fn new(members: usize) -> Self {
        Self {
            incomplete: AtomicUsize::new(members),
            complete_ns: AtomicU64::new(0),
        }
    }

    /// Notes that a member has got a list, of so many participants where it had so many before.
    fn note(&self, before: usize, participants: usize, members: usize) {
        if before != members && participants == members {
            if self.incomplete.fetch_sub(1, Relaxed) == 1 {
                self.complete_ns.store(now_ns(), Relaxed);
            }
        } else if before == members && participants != members {
            self.incomplete.fetch_add(1, Relaxed);
        }
    }

    /// When the last list became complete, if all are.
    pub(crate) fn complete_ns(&self) -> Option<u64> {
        let is_complete = self.incomplete.load(Relaxed) == 0;
        is_complete.then(|| self.complete_ns.load(Relaxed))
    }
}

/// The sockets, and the threads that hold them. They end when it is dropped.
pub(crate) struct Crowd {
    pub(crate) plan: Arc<Plan>,
    threads: Vec<Thread>,
}

struct Thread {
    /// As the kernel counts threads.
    id: u32,
    orders: mpsc::SyncSender<Order>,
    waker: Waker,
    handle: Option<JoinHandle<Result<()>>>,
}

impl Crowd {
    /// Starts the threads; no socket is open yet.
    pub(crate) fn gather(plan: Plan) -> Result<Self> {
        plan.check()?;
        allow_sockets(plan.sockets)?;
        let plan = Arc::new(plan);
        let threads = (0..plan.threads).map(|number| start(number, &plan));
        let threads = threads.collect::<Result<_>>()?;
        Ok(Self { plan, threads })
    }

    /// Takes every socket to `goal`; how long each of them took.
    pub(crate) async fn advance(&self, goal: Step) -> Result<Latencies> {
        let parts = self.order(|answer| Order::Advance(goal, answer)).await?;
        let mut whole = Latencies::default();
        for part in parts {
            whole.add(&part);
        }
        Ok(whole)
    }

    /// A run through the rooms of this crowd.
    pub(crate) fn prepare(&self, origin_ns: u64, pace: Pace, span: Span) -> Arc<Run> {
        let senders = match pace {
            Pace::Every(_) | Pace::Window(_) => self.threads.len(),
            Pace::Elsewhere { .. } => 1,
        };
        let run = Run::new(origin_ns, pace, span, self.plan.rooms(), senders);
        Arc::new(run)
    }

    /// A run of other deeds than messages alone, one every so many nanoseconds. Read marks are of messages
    /// that the members have seen.
    pub(crate) fn prepare_deeds(
        &self,
        origin_ns: u64,
        period_ns: u64,
        span: Span,
        deed: Deed,
    ) -> Arc<Run> {
        let (pace, senders) = (Pace::Every(period_ns), self.threads.len());
        let run = Run::new(origin_ns, pace, span, self.plan.rooms(), senders);
        Arc::new(run.of(deed))
    }

    /// Plays a run to its end.
    pub(crate) async fn play(&self, run: &Arc<Run>) -> Result<Tally> {
        let parts = self.order(|answer| Order::Play(Arc::clone(run), answer));
        let mut whole = Tally::default();
        for part in parts.await? {
            whole.add(part);
        }
        for spread_ns in run.spreads_ns() {
            whole.spread.record_ns(spread_ns);
        }
        Ok(whole)
    }

    /// Has all threads do the same; their answers.
    async fn order<T>(
        &self,
        order: impl Fn(oneshot::Sender<Result<T>>) -> Order,
    ) -> Result<Vec<T>> {
        let answers = self.threads.iter().map(|thread| {
            let (answer, answered) = oneshot::channel();
            let is_told = thread.tell(order(answer));
            async move {
                is_told?;
                answered.await.context("a thread of the crowd has ended")?
            }
        });
        try_join_all(answers).await
    }

    /// Ids of the threads, as the kernel counts them.
    pub(crate) fn thread_ids(&self) -> Vec<u32> {
        self.threads.iter().map(|thread| thread.id).collect()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for thread in &self.threads {
            // One that has ended needs no order.
            let _ = thread.tell(Order::End);
        }
        for thread in &mut self.threads {
            let _ = thread.handle.take().map(JoinHandle::join);
        }
    }
}

impl Thread {
    fn tell(&self, order: Order) -> Result<()> {
        let is_told = self.orders.try_send(order);
        is_told.map_err(|_| anyhow!("a thread of the crowd has ended"))?;
        self.waker.wake()?;
        Ok(())
    }
}

fn start(number: usize, plan: &Arc<Plan>) -> Result<Thread> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKER)?;
    let (orders, received) = mpsc::sync_channel(ORDERS_MAX);
    let worker = Worker::new(number, Arc::clone(plan), poll, received)?;
    let (tell_id, id) = mpsc::sync_channel(1);
    let handle = std::thread::Builder::new()
        .name(format!("crowd-{number}"))
        .spawn(move || {
            // Whoever started this thread waits for it.
            let _ = tell_id.send(gettid().as_raw_nonzero().get().unsigned_abs());
            worker.run()
        })?;
    Ok(Thread {
        id: id.recv()?,
        orders,
        waker,
        handle: Some(handle),
    })
}

/// Sees to it that so many sockets may be open at one time, those of all crowds together.
pub(crate) fn allow_sockets(count: usize) -> Result<()> {
    allow_files((count as u64).saturating_add(OTHER_FILES))
}

/// Raises the limit of open files as far as an ordinary process may.
pub(crate) fn allow_files(needed: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    ensure!(
        limit.maximum.is_none_or(|maximum| maximum >= needed),
        "{needed} files would have to be open, and the hard limit is {}: raise it, or take fewer sockets",
        limit.maximum.unwrap_or_default()
    );
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_complete_once_every_member_has_a_full_one() {
        let lists = Lists::new(2);
        lists.note(0, 1, 2);
        lists.note(1, 2, 2);
        assert_eq!(lists.complete_ns(), None);
        lists.note(0, 2, 2);
        assert!(lists.complete_ns().is_some());
        lists.note(2, 1, 2);
        assert_eq!(lists.complete_ns(), None);
    }

    #[test]
    fn the_last_room_may_be_smaller() {
        let plan = Plan {
            servers: vec!["127.0.0.1:1".parse().unwrap()],
            sockets: 25,
            room_size: 10,
            users: None,
            threads: 1,
            concurrency: 1,
            lists: Lists::new(25),
        };
        assert_eq!(plan.rooms().collect::<Vec<_>>(), [10, 10, 5]);
        assert_eq!(plan.room_of(24), 2);
    }
}
