//! A thread of the crowd: one readiness loop for its sockets, its timer and its orders.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use mio::{Events, Interest, Poll, Token, event::Event, unix::SourceFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use tokio::sync::oneshot;

use super::{
    Plan, Step,
    desk::Desk,
    letter::Letter,
    member::Member,
    run::{Deed, LISTEN_NS, Pace, Run},
    tally::Tally,
};
use crate::{
    clock::{NS_PER_SECOND, now_ns, timespec},
    stats::Latencies,
    websocket::text_frame,
};

/// What the crowd tells a thread.
pub(super) enum Order {
    /// Bring every socket to a step.
    Advance(Step, oneshot::Sender<Result<Latencies>>),
    Play(Arc<Run>, oneshot::Sender<Result<Tally>>),
    End,
}

pub(super) const WAKER: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);

/// One for all sockets: what they have is taken at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Sockets looked at between two looks at what is due to be sent.
const EVENTS_MAX: usize = 128;

/// Messages sent between two looks at the sockets.
const SENDS_MAX: usize = 256;

/// The longest sleep.
const TURN_MAX: Duration = Duration::from_millis(50);

/// Opening is given up when no socket has got on for so long.
const PATIENCE_NS: u64 = 30 * NS_PER_SECOND;

/// How long servers may take to close what the crowd has left.
const FAREWELL_NS: u64 = NS_PER_SECOND;

/// One thread's sockets.
pub(super) struct Worker {
    number: usize,
    poll: Poll,
    events: Events,
    timer: OwnedFd,
    orders: mpsc::Receiver<Order>,
    buffer: Box<[u8]>,
    desk: Desk,
    members: Vec<Member>,
    letter: Letter,
    sender: Sender,
}

/// Whose turn it is to send, and when.
#[derive(Default)]
struct Sender {
    is_sending: bool,
    /// Places of members in the order in which they send.
    order: Vec<usize>,
    next: usize,
    /// When the next message is due, since the run's origin.
    due_ns: u64,
    /// Between two messages of this thread.
    period_ns: u64,
}

impl Worker {
    pub(super) fn new(
        number: usize,
        plan: Arc<Plan>,
        poll: Poll,
        orders: mpsc::Receiver<Order>,
    ) -> Result<Self> {
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        let mut source = SourceFd(&timer.as_raw_fd());
        poll.registry()
            .register(&mut source, TIMER, Interest::READABLE)?;
        let indexes = (number..plan.sockets).step_by(plan.threads);
        let members = indexes
            .map(|index| Ok(Member::new(u32::try_from(index)?, plan.room_of(index))))
            .collect::<Result<Vec<_>>>()?;
        let mut order: Vec<_> = (0..members.len()).collect();
        fastrand::shuffle(&mut order);
        Ok(Self {
            number,
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            timer,
            orders,
            buffer: vec![0; BUFFER_BYTES].into(),
            letter: Letter::new()?,
            desk: Desk::new(plan)?,
            members,
            sender: Sender {
                order,
                ..Sender::default()
            },
        })
    }

    /// Lives until it is told to end.
    pub(super) fn run(mut self) -> Result<()> {
        loop {
            match self.orders.try_recv() {
                // Nobody may be left to hear the answer.
                Ok(Order::Advance(goal, answer)) => drop(answer.send(self.advance(goal))),
                Ok(Order::Play(run, answer)) => drop(answer.send(self.play(run))),
                Ok(Order::End) | Err(mpsc::TryRecvError::Disconnected) => return self.leave(),
                Err(mpsc::TryRecvError::Empty) => self.turn()?,
            }
        }
    }

    /// Takes every socket to `goal`, so many at a time.
    fn advance(&mut self, goal: Step) -> Result<Latencies> {
        self.desk.goal = goal;
        self.desk.openings = Latencies::default();
        let concurrency = self.desk.plan.concurrency.div_ceil(self.desk.plan.threads);
        let (mut next, mut left, mut progress_ns) = (0, self.members.len(), now_ns());
        while left > 0 {
            while self.desk.under_way < concurrency && next < self.members.len() {
                self.desk.under_way += 1;
                self.begin(next)?;
                next += 1;
            }
            self.turn()?;
            if let Some(reason) = self.desk.tally.closed_reason.take() {
                bail!(reason);
            }
            let left_now = self.members.len() - next + self.desk.under_way;
            if left_now < left {
                (left, progress_ns) = (left_now, now_ns());
            }
            let is_stuck = now_ns() - progress_ns > PATIENCE_NS;
            ensure!(!is_stuck, "{left} sockets do not get to {goal:?}");
        }
        Ok(std::mem::take(&mut self.desk.openings))
    }

    fn begin(&mut self, place: usize) -> Result<()> {
        let Some(member) = self.members.get_mut(place) else {
            return Ok(());
        };
        member.begun_ns = now_ns();
        if member.step == Step::Absent {
            let server = self.desk.plan.server(member.index)?;
            return member
                .connect(server, self.poll.registry(), Token(place))
                .with_context(|| format!("cannot connect to {server}"));
        }
        self.desk.proceed(member)
    }

    /// Takes part in a run, until every message has arrived or the patience is over.
    fn play(&mut self, run: Arc<Run>) -> Result<Tally> {
        self.begin_run(run)?;
        // A run may be stopped before its end.
        while now_ns() < self.desk.run.end_ns() {
            self.turn()?;
        }
        self.sender.is_sending = false;
        self.set_timer(0, 0)?;
        if !matches!(self.desk.run.pace, Pace::Elsewhere { .. }) {
            self.desk.run.end_sending();
        }
        let deadline_ns = self.desk.run.deadline_ns();
        while !self.desk.run.is_quiet() && now_ns() < deadline_ns {
            self.turn()?;
        }
        let listened_ns = now_ns() + LISTEN_NS;
        while now_ns() < listened_ns {
            self.turn()?;
        }
        for member in &self.members {
            self.desk.settle(member);
        }
        self.desk.run = Arc::new(Run::none());
        Ok(std::mem::take(&mut self.desk.tally))
    }

    fn begin_run(&mut self, run: Arc<Run>) -> Result<()> {
        self.members.iter_mut().for_each(Member::begin_run);
        self.desk.tally = Tally {
            // A socket may have ended since the last run.
            closed_reason: self.desk.tally.closed_reason.take(),
            ..Tally::default()
        };
        if let Pace::Every(period_ns) = run.pace {
            let first_ns = period_ns * self.number as u64;
            self.sender.due_ns = first_ns;
            self.sender.period_ns = period_ns * self.desk.plan.threads as u64;
            self.set_timer(run.origin_ns + first_ns, self.sender.period_ns)?;
        }
        self.sender.is_sending = true;
        self.desk.run = run;
        Ok(())
    }

    /// Wakes the loop at a moment and every so often after it; zeros end that.
    fn set_timer(&self, first_ns: u64, period_ns: u64) -> io::Result<()> {
        let times = Itimerspec {
            it_value: timespec(first_ns),
            it_interval: timespec(period_ns),
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &times)?;
        Ok(())
    }

    /// Looks once at what has come and at what is due.
    fn turn(&mut self) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(TURN_MAX)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            outcome => outcome?,
        }
        let begun_ns = now_ns();
        for event in &self.events {
            let Some(member) = self.members.get_mut(event.token().0) else {
                // The kernel counts a period on only when the timer is read.
                let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                continue;
            };
            if let Err(error) = attend(&mut self.desk, &mut self.buffer, member, event) {
                self.desk.part(member, &error);
            }
        }
        if self.sender.is_sending {
            self.send_due()?;
        }
        let run = &self.desk.run;
        if run.measures(run.since_origin(begun_ns)) {
            let turn_ns = &mut self.desk.tally.turn_ns_max;
            *turn_ns = (*turn_ns).max(now_ns() - begun_ns);
        }
        Ok(())
    }

    fn send_due(&mut self) -> Result<()> {
        for _ in 0..SENDS_MAX {
            let now_ns = now_ns();
            if now_ns < self.desk.run.origin_ns || now_ns >= self.desk.run.end_ns() {
                break;
            }
            let now_ns = self.desk.run.since_origin(now_ns);
            match self.desk.run.pace {
                Pace::Every(_) if self.sender.due_ns <= now_ns => {
                    let due_ns = self.sender.due_ns;
                    self.sender.due_ns += self.sender.period_ns;
                    if self.desk.run.measures(due_ns) {
                        self.desk.tally.send_lag.record_ns(now_ns - due_ns);
                    }
                    self.send(due_ns)?;
                }
                Pace::Window(window) if self.desk.run.has_room(0, window) => self.send(now_ns)?,
                Pace::Every(_) | Pace::Window(_) | Pace::Elsewhere { .. } => break,
            }
        }
        Ok(())
    }

    /// Has the next member send what the run is of.
    fn send(&mut self, due_ns: u64) -> Result<()> {
        let place = self.next_sender().context("no socket is left")?;
        let (desk, Some(member)) = (&mut self.desk, self.members.get_mut(place)) else {
            return Ok(());
        };
        let Some(users) = &desk.plan.users else {
            return Ok(());
        };
        let room = users.room(member.room)?;
        let frame = match desk.run.deed {
            Deed::Message | Deed::Mixed { .. } => {
                member.sent += 1;
                desk.run.add_due(member.room, 1);
                self.letter.write(room, desk.run.id, member, due_ns)
            }
            Deed::ReadMark => {
                let Some(frame) = desk.mark_letter.write(room, &mut member.unread) else {
                    return Ok(());
                };
                desk.tally.marks += 1;
                frame
            }
        };
        match member.write(frame) {
            Ok(true) => {}
            Ok(false) => desk.tally.blocked_writes += 1,
            Err(error) => desk.part(member, &error.into()),
        }
        let asks_for_page = desk.run.deed.asks_for_page(member.index, member.sent);
        if asks_for_page && let Err(error) = desk.ask_for_page(member) {
            desk.part(member, &error);
        }
        Ok(())
    }

    fn next_sender(&mut self) -> Option<usize> {
        let count = self.sender.order.len();
        for _ in 0..count {
            let place = *self.sender.order.get(self.sender.next % count)?;
            self.sender.next += 1;
            if self.members.get(place)?.step == Step::Joined {
                return Some(place);
            }
        }
        None
    }

    /// Says good-bye, gives the servers a moment to close, and ends what is left with resets.
    fn leave(mut self) -> Result<()> {
        let disconnect = text_frame(b"41")?;
        if self.desk.plan.users.is_some() {
            for member in &mut self.members {
                // A socket that has ended needs no good-bye.
                let _ = member.write(&disconnect);
            }
            let end_ns = now_ns() + FAREWELL_NS;
            let is_open = |member: &Member| member.step != Step::Closed;
            while now_ns() < end_ns && self.members.iter().any(is_open) {
                self.turn()?;
            }
        }
        self.members.iter_mut().for_each(Member::close);
        Ok(())
    }
}

/// Looks at a socket that has something to say.
fn attend(desk: &mut Desk, buffer: &mut [u8], member: &mut Member, event: &Event) -> Result<()> {
    if member.step == Step::Closed {
        return Ok(());
    }
    if member.step == Step::Connecting {
        if !member.is_connected()? {
            return Ok(());
        }
        desk.proceed(member)?;
    }
    if event.is_writable() {
        member.flush()?;
    }
    if event.is_readable() {
        desk.read(buffer, member)?;
    }
    if event.is_read_closed() {
        // What came with the end was read above, as far as the buffer went.
        while member.step != Step::Closed {
            desk.read(buffer, member)?;
        }
    }
    Ok(())
}
