//! The original competition: so many users at first, so many more every step, each of whom registers,
//! enters a room, talks and marks what it reads, until too many fail.

mod account;
mod board;
mod figures;
mod link;
mod stage;
mod user;

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use tokio::{task::JoinSet, time::sleep};

use self::{
    account::Account,
    board::{Board, Phase, Room},
    figures::Figures,
    stage::{HEAD, Mark, Stage},
    user::{Ticket, live},
};
use crate::{
    clock::{NS_PER_SECOND, now_ns},
    cost::Meter,
    crowd::{RUNS_MAX, allow_files},
    load::{Servers, figures::share},
    report::Report,
};

/// Options of `bench ramp`.
#[derive(Args)]
pub(crate) struct Options {
    /// Backend, `host:port`.
    #[arg(long, default_value = "127.0.0.1:5001")]
    backend: String,
    #[command(flatten)]
    servers: Servers,
    /// Users of the first step.
    #[arg(long, default_value_t = 100)]
    first: u32,
    /// Users of every further step.
    #[arg(long, default_value_t = 100)]
    step: u32,
    /// Seconds of a step, over which its users come in.
    #[arg(long, default_value_t = 30)]
    every: u64,
    /// Users at most; the last step is followed by one without new users.
    #[arg(long, default_value_t = 3400)]
    max: u32,
    /// Smallest room.
    #[arg(long, default_value_t = 2)]
    room_min: u32,
    /// Largest room.
    #[arg(long, default_value_t = 5)]
    room_max: u32,
    /// Decides the sizes of the rooms.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// File for the report.
    #[arg(long)]
    report: Option<PathBuf>,
}

/// The ramp ends when more of its users have failed.
const FAILED_SHARE_MAX: f64 = 0.01;

/// Files that the process has open besides its sockets.
const OTHER_FILES: u64 = 1024;

/// After the last message, until all have arrived.
const QUIET: Duration = Duration::from_secs(10);

/// The same where something has failed: a gateway finds what the bus has lost without a trace when it looks
/// at the logs for the second time, thirty seconds later unless told otherwise.
const QUIET_AFTER_FAILURE: Duration = Duration::from_secs(40);

pub(crate) async fn run(options: Options) -> Result<()> {
    options.check()?;
    let mut meter = options.servers.meter();
    meter.watch_redis(&options.servers.redis_urls).await?;
    let mut ramp = Ramp::new(options, meter)?;
    let stages = ramp.climb().await?;
    let figures = ramp.finish(stages).await?;
    let verdict = figures.verdict();
    let report = Report::new(figures);
    match &ramp.options.report {
        Some(path) => report.write(path)?,
        None => report.print()?,
    }
    verdict
}

impl Options {
    fn check(&self) -> Result<()> {
        ensure!(
            self.first > 0 && self.step > 0 && self.every > 0,
            "first, step and every must not be 0"
        );
        ensure!(
            (1..=self.room_max).contains(&self.room_min),
            "room-min is 1 to room-max"
        );
        ensure!(!self.servers.gateways.is_empty(), "there is no gateway");
        allow_files(u64::from(self.max) + OTHER_FILES)
    }

    /// Users who have come in when a step ends.
    fn users_after(&self, step: u32) -> u32 {
        (self.first + step * self.step).min(self.max)
    }
}

struct Ramp {
    options: Options,
    meter: Meter,
    board: Arc<Board>,
    users: JoinSet<Option<Account>>,
    id: u32,
    origin_ns: u64,
    begun: u32,
    /// The room that is filling, and how many places it has left.
    room: (Arc<Room>, u32),
    sizes: fastrand::Rng,
}

impl Ramp {
    fn new(options: Options, meter: Meter) -> Result<Self> {
        Ok(Self {
            sizes: fastrand::Rng::with_seed(options.seed),
            options,
            meter,
            board: Arc::new(Board::new()),
            users: JoinSet::new(),
            id: fastrand::u32(1..RUNS_MAX),
            origin_ns: now_ns(),
            begun: 0,
            room: (Arc::default(), 0),
        })
    }

    /// Step after step, until all users are in or too many have failed.
    async fn climb(&mut self) -> Result<Vec<Stage>> {
        let mut stages = Vec::new();
        say(HEAD);
        for step in 0.. {
            let before = Mark::read(&self.meter, &self.board)?;
            let is_last = self.begun == self.options.max;
            let goal = self.options.users_after(step);
            self.let_in(goal).await?;
            let stage = Stage::since(&before, &self.meter, &self.board, self.origin_ns)?;
            say(&stage.line());
            let failed = stage.point.failed;
            stages.push(stage);
            if is_last || share(failed, f64::from(self.begun)) > FAILED_SHARE_MAX {
                break;
            }
        }
        Ok(stages)
    }

    /// Lets users in, evenly over a step, until there are `goal`.
    async fn let_in(&mut self, goal: u32) -> Result<()> {
        let (begun_ns, length_ns) = (now_ns(), self.options.every * NS_PER_SECOND);
        let count = u64::from(goal - self.begun);
        for place in 0..count {
            sleep_until(begun_ns + length_ns * place / count).await;
            let ticket = self.ticket()?;
            self.users.spawn(live(ticket));
        }
        sleep_until(begun_ns + length_ns).await;
        Ok(())
    }

    fn ticket(&mut self) -> Result<Ticket> {
        if self.room.1 == 0 {
            let size = self
                .sizes
                .u32(self.options.room_min..=self.options.room_max);
            self.room = (Arc::default(), size);
        }
        self.room.1 -= 1;
        let number = self.begun;
        self.begun += 1;
        let gateways = &self.options.servers.gateways;
        let gateway = gateways.get(usize::try_from(number)? % gateways.len());
        Ok(Ticket {
            number,
            ramp: self.id,
            backend: self.options.backend.clone(),
            gateway: *gateway.context("no gateway")?,
            room: Arc::clone(&self.room.0),
            board: Arc::clone(&self.board),
            origin_ns: self.origin_ns,
        })
    }

    /// Lets everything arrive that is on its way, and counts.
    async fn finish(&mut self, points: Vec<Stage>) -> Result<Figures> {
        self.board.set_phase(Phase::Listening);
        let counts = &self.board.counts;
        if counts.present.load(Relaxed) > 0 {
            sleep(match counts.failed.load(Relaxed) {
                0 => QUIET,
                _ => QUIET_AFTER_FAILURE,
            })
            .await;
        }
        self.board.set_phase(Phase::Over);
        let (mut due, mut lost) = (0, 0);
        let accounts: Vec<_> = std::mem::take(&mut self.users).join_all().await;
        for (due_here, lost_here) in accounts.iter().flatten().map(Account::due_and_lost) {
            due += due_here;
            lost += lost_here;
        }
        Ok(Figures::new(&self.board, points, due, lost))
    }
}

async fn sleep_until(ns: u64) {
    sleep(Duration::from_nanos(ns.saturating_sub(now_ns()))).await;
}

#[expect(clippy::print_stdout, reason = "it is what the command is for")]
fn say(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use clap::Parser;
    use socket2::{Domain, Socket, Type};

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn options(arguments: &[&str]) -> Options {
        let fixed = ["ramp", "--redis-urls", "redis://127.0.0.1:1"];
        Command::parse_from(fixed.iter().chain(arguments)).options
    }

    #[test]
    fn steps_add_users_up_to_the_most() {
        let options = options(&["--first", "100", "--step", "50", "--max", "170"]);
        let users: Vec<_> = (0..4).map(|step| options.users_after(step)).collect();
        assert_eq!(users, [100, 150, 170, 170]);
    }

    #[test]
    fn impossible_rooms_and_steps_are_refused() {
        for wrong in [
            ["--room-min", "6"],
            ["--room-min", "0"],
            ["--every", "0"],
            ["--step", "0"],
        ] {
            assert!(options(&wrong).check().is_err(), "{wrong:?}");
        }
        assert!(options(&[]).check().is_ok());
    }

    #[tokio::test]
    async fn a_ramp_without_a_backend_counts_its_users_as_failed() {
        // Bound, so that nobody else can listen there.
        let silent = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        silent.bind(&any.into()).unwrap();
        let address = silent
            .local_addr()
            .unwrap()
            .as_socket()
            .unwrap()
            .to_string();
        let options = options(&["--backend", &address, "--first", "3", "--every", "1"]);
        let mut ramp = Ramp::new(options, Meter::default()).unwrap();
        let stages = ramp.climb().await.unwrap();
        assert_eq!(stages.len(), 1, "more than 1 % have failed");
        let figures = ramp.finish(stages).await.unwrap();
        assert_eq!((figures.begun, figures.failed, figures.users), (3, 3, 0.0));
        let reasons: Vec<_> = figures.failures.keys().collect();
        assert!(
            reasons[0].starts_with("coming in: connecting"),
            "{reasons:?}"
        );
    }
}
