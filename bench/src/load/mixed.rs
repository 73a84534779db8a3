//! What users of a chat do all at once, in an open loop: they say something, mark what they read as soon as
//! they have it, and ask for history. And the search for how many of them the servers carry.

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use super::{
    LEAD_NS, REST_PATIENCE, Target, Timing,
    figures::{Figures, approximate, share},
    play,
    series::{Column, Series, print, warn_of_client},
};
use crate::{
    clock::{NS_PER_MS, now_ns},
    cost::{Meter, Spent},
    crowd::{Crowd, Deed, Step, Tally, allow_sockets},
    limits::Limits,
    report::Report,
    stats::Summary,
};

/// Options of `bench mixed`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    timing: Timing,
    /// Sockets, one user each.
    #[arg(long, default_value_t = 2000)]
    sockets: usize,
    /// Members of a room.
    #[arg(long, default_value_t = 4)]
    room_size: usize,
    /// Milliseconds between two messages of a user.
    #[arg(long, default_value_t = 1750, value_parser = clap::value_parser!(u64).range(1..))]
    pause_ms: u64,
    /// A user asks for a page of history with every so many-th of its messages.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    history_every: u32,
    /// Searches for how many users are carried: goes on with new crowds up to so many sockets, until one is
    /// not.
    #[arg(long, conflicts_with = "runs")]
    max: Option<usize>,
    /// Sockets that each crowd of a search has more than the one before.
    #[arg(long, default_value_t = 500, requires = "max")]
    step: usize,
    /// A crowd is carried if 95 % of its deliveries take no longer, and nothing goes astray.
    #[arg(long, default_value_t = 1000, requires = "max")]
    p95_ms: u64,
}

#[derive(Serialize)]
struct Scenario {
    /// Of the first crowd.
    sockets: usize,
    room_size: usize,
    pause_ms: u64,
    history_every: u32,
    search: Option<Search>,
    gateways: usize,
    /// Of the gateways whose processes are known.
    gateway_limits: Vec<Limits>,
    threads: usize,
    seconds: u64,
    warmup_seconds: u64,
}

/// How the search goes on, and what ends it.
#[derive(Clone, Copy, Serialize)]
struct Search {
    step: usize,
    max: usize,
    p95_ms: u64,
}

#[derive(Serialize)]
struct Findings {
    #[serde(flatten)]
    series: Series<Scenario>,
    /// Sockets of the largest crowd that was carried, of a search; 0 if none was.
    carried: Option<usize>,
}

/// One crowd, measured once.
#[derive(Serialize)]
struct Stage {
    sockets: usize,
    /// Absent if not all sockets got into their rooms.
    #[serde(flatten)]
    chat: Option<Chat>,
    /// Why the crowd counts as not carried.
    fault: Option<String>,
}

#[derive(Serialize)]
struct Chat {
    #[serde(flatten)]
    figures: Figures,
    marks: Marks,
    history: History,
}

/// Of one message each. The account holds for all of the run, warm-up included.
#[derive(Serialize)]
struct Marks {
    sent: u64,
    /// `messagesRead` events that members received: gateways gather marks.
    told: u64,
    /// Sent while measured.
    per_second: f64,
}

/// Pages of history. The account holds for all of the run, warm-up included.
#[derive(Serialize)]
struct History {
    asked: u64,
    answered: u64,
    /// Answers without any message, though there was one: the gateway could not read the page.
    empty: u64,
    /// From when a page was asked for until it was there.
    latency_us: Option<Summary>,
}

const COLUMNS: &[Column] = &[
    ("sockets", "/sockets"),
    ("msg/s", "/messages/per_second"),
    ("deliv/s", "/deliveries/per_second"),
    ("marks/s", "/marks/per_second"),
    ("p50 us", "/latency_us/p50"),
    ("p95", "/latency_us/p95"),
    ("p99", "/latency_us/p99"),
    ("max", "/latency_us/max"),
    ("page p50", "/history/latency_us/p50"),
    ("page p95", "/history/latency_us/p95"),
    ("lost", "/deliveries/lost"),
    ("dup", "/deliveries/duplicated"),
    ("reord", "/deliveries/reordered"),
    (
        "gw s/M",
        "/servers/gateways/cpu_seconds_per_million_deliveries",
    ),
    (
        "master s/M",
        "/servers/redis_masters/cpu_seconds_per_million_deliveries",
    ),
    (
        "replica s/M",
        "/servers/redis_replicas/cpu_seconds_per_million_deliveries",
    ),
    ("gw KiB", "/servers/gateways/resident_kib"),
    ("lag p99 us", "/client/send_lag_us/p99"),
    ("client cpu", "/client/cpu_share_max"),
];

pub(crate) async fn run(options: Options) -> Result<()> {
    let search = options.search()?;
    let stages = match search {
        Some(search) => climb(&options, search).await?,
        None => repeat(&options).await?,
    };
    publish(&options, search, &stages)?;
    for (number, stage) in (1..).zip(&stages) {
        if let Some(chat) = &stage.chat {
            warn_of_client(&format!("run {number}"), &chat.figures.client);
        }
    }
    match search {
        Some(_) => Ok(()),
        None => judge(&stages),
    }
}

impl Options {
    /// The search that is wanted, if it is possible.
    fn search(&self) -> Result<Option<Search>> {
        let Some(max) = self.max else {
            return Ok(None);
        };
        ensure!(self.step > 0, "step must not be 0");
        ensure!(
            max >= self.sockets,
            "max is not less than the sockets of the first crowd"
        );
        // Not after hours.
        allow_sockets(max)?;
        Ok(Some(Search {
            step: self.step,
            max,
            p95_ms: self.p95_ms,
        }))
    }

    fn scenario(&self, search: Option<Search>) -> Result<Scenario> {
        let pids = self.target.servers.gateway_pids.iter();
        Ok(Scenario {
            sockets: self.sockets,
            room_size: self.room_size,
            pause_ms: self.pause_ms,
            history_every: self.history_every,
            search,
            gateways: self.target.servers.gateways.len(),
            gateway_limits: pids.map(|pid| Limits::of(*pid)).collect::<Result<_>>()?,
            threads: self.target.threads,
            seconds: self.timing.seconds,
            warmup_seconds: self.timing.warmup_seconds,
        })
    }
}

/// The same crowd, so many times.
async fn repeat(options: &Options) -> Result<Vec<Stage>> {
    let (crowd, meter) = gather(options, options.sockets).await?;
    crowd.advance(Step::Joined).await?;
    let mut stages = Vec::new();
    for _ in 0..options.timing.runs {
        stages.push(Stage::of(&crowd, measure(options, &crowd, &meter).await?));
    }
    Ok(stages)
}

/// Larger and larger crowds, until one is not carried.
async fn climb(options: &Options, search: Search) -> Result<Vec<Stage>> {
    let mut stages = Vec::new();
    for sockets in (options.sockets..=search.max).step_by(search.step) {
        let mut stage = match climb_to(options, sockets).await {
            Ok(stage) => stage,
            // What was carried before remains true.
            Err(error) if !stages.is_empty() => Stage::failed(sockets, &error),
            Err(error) => return Err(error),
        };
        stage.limit_p95(search.p95_ms);
        print(&stage.line());
        let is_last = stage.fault.is_some();
        stages.push(stage);
        if is_last {
            break;
        }
    }
    Ok(stages)
}

/// A new crowd, measured once.
async fn climb_to(options: &Options, sockets: usize) -> Result<Stage> {
    let (crowd, meter) = gather(options, sockets).await?;
    if let Err(error) = crowd.advance(Step::Joined).await {
        let error = error.context("not all sockets got into their rooms");
        return Ok(Stage::failed(sockets, &error));
    }
    Ok(Stage::of(&crowd, measure(options, &crowd, &meter).await?))
}

async fn gather(options: &Options, sockets: usize) -> Result<(Crowd, Meter)> {
    options.target.gather(sockets, options.room_size).await
}

async fn measure(options: &Options, crowd: &Crowd, meter: &Meter) -> Result<Chat> {
    meter.rest(REST_PATIENCE).await?;
    let period_ns = period_ns(options.pause_ms, crowd.plan.sockets)?;
    let deed = Deed::Mixed {
        history_every: options.history_every,
    };
    let (origin_ns, span) = (now_ns() + LEAD_NS, options.timing.span());
    let run = crowd.prepare_deeds(origin_ns, period_ns, span, deed);
    let (tally, spent) = play(crowd, meter, &run).await?;
    Ok(Chat::new(run.accepted(), &tally, &spent))
}

/// Between two messages of a crowd.
fn period_ns(pause_ms: u64, sockets: usize) -> Result<u64> {
    let pause_ns = pause_ms.checked_mul(NS_PER_MS);
    let period_ns = pause_ns.context("a pause of centuries")? / sockets as u64;
    ensure!(period_ns > 0, "the pause is too short for so many sockets");
    Ok(period_ns)
}

impl Stage {
    fn of(crowd: &Crowd, chat: Chat) -> Self {
        Self {
            sockets: crowd.plan.sockets,
            fault: chat.fault(),
            chat: Some(chat),
        }
    }

    fn failed(sockets: usize, error: &anyhow::Error) -> Self {
        Self {
            sockets,
            chat: None,
            fault: Some(format!("{error:#}")),
        }
    }

    fn latency_us(&self) -> Option<Summary> {
        self.chat.as_ref()?.figures.latency_us
    }

    /// Finds fault with a crowd that was served exactly, but slowly.
    fn limit_p95(&mut self, p95_ms: u64) {
        let p95_us = self.latency_us().map_or(0, |latency| latency.p95);
        if self.fault.is_none() && p95_us > p95_ms.saturating_mul(1000) {
            self.fault = Some(format!(
                "95 % of the deliveries within {:.0} ms",
                approximate(p95_us) / 1000.0
            ));
        }
    }

    /// As one line, while the search goes on.
    fn line(&self) -> String {
        let ms = |of: fn(&Summary) -> u64| {
            self.latency_us()
                .map_or(0.0, |latency| approximate(of(&latency)) / 1000.0)
        };
        let outcome = match &self.fault {
            Some(fault) => format!("not carried: {fault}"),
            None => "carried".to_owned(),
        };
        format!(
            "{} users: p50 {:.1}, p95 {:.1}, p99 {:.1} ms; {outcome}\n",
            self.sockets,
            ms(|latency| latency.p50),
            ms(|latency| latency.p95),
            ms(|latency| latency.p99),
        )
    }
}

impl Chat {
    fn new(accepted: u64, tally: &Tally, spent: &Spent) -> Self {
        let figures = Figures::new(accepted, tally, spent);
        // Each delivery is marked at once.
        let marks_of_delivery = share(approximate(tally.marks), approximate(tally.received));
        Self {
            marks: Marks {
                sent: tally.marks,
                told: tally.marks_told,
                per_second: figures.deliveries.per_second * marks_of_delivery,
            },
            history: History {
                asked: tally.pages_asked,
                answered: tally.pages_answered,
                empty: tally.pages_empty,
                latency_us: tally.page_latency.summary(),
            },
            figures,
        }
    }

    /// What is wrong with the deliveries and the pages, if anything.
    fn fault(&self) -> Option<String> {
        let History {
            asked,
            answered,
            empty,
            ..
        } = self.history;
        let pages = [
            ("pages of history not answered", asked - answered),
            ("pages of history empty", empty),
        ];
        let pages = pages.into_iter().filter(|(_, count)| *count > 0);
        let pages = pages.map(|(name, count)| format!("{count} {name}"));
        let faults: Vec<_> = self.figures.fault().into_iter().chain(pages).collect();
        (!faults.is_empty()).then(|| faults.join(", "))
    }
}

/// Sockets of the largest crowd with which nothing is wrong.
fn carried(stages: &[Stage]) -> usize {
    let faultless = stages.iter().filter(|stage| stage.fault.is_none());
    faultless.map(|stage| stage.sockets).max().unwrap_or(0)
}

fn publish(options: &Options, search: Option<Search>, stages: &[Stage]) -> Result<()> {
    let scenario = options.scenario(search)?;
    let series = match search {
        Some(_) => Series::of_cases(scenario, stages)?,
        None => Series::of_runs(scenario, stages)?,
    };
    print(&series.table(COLUMNS));
    let carried = search.map(|_| carried(stages));
    if let Some(carried) = carried {
        print(&format!("{carried} users are carried\n"));
    }
    match &options.timing.report {
        Some(path) => Report::new(Findings { series, carried }).write(path),
        None => Ok(()),
    }
}

/// Fails if anything went astray.
fn judge(stages: &[Stage]) -> Result<()> {
    let numbered = (1..).zip(stages);
    let faults = numbered.filter_map(|(number, stage)| {
        let fault = stage.fault.as_ref()?;
        Some(format!("run {number}: {fault}"))
    });
    let faults: Vec<_> = faults.collect();
    ensure!(
        faults.is_empty(),
        "not everything was exact: {}",
        faults.join("; ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn parse(arguments: &[&str]) -> Result<Options, clap::Error> {
        let fixed = ["mixed", "--redis-urls", "redis://127.0.0.1:1"];
        let secret = ["--secret", "a secret for the tests"];
        let words = fixed.iter().chain(&secret).chain(arguments);
        Command::try_parse_from(words).map(|command| command.options)
    }

    /// A crowd whose deliveries all took so long.
    fn chat(tally: Tally, latency_ms: u64) -> Chat {
        let mut tally = tally;
        tally.latency.record_ns(latency_ms * NS_PER_MS);
        let spent = Spent {
            seconds: 2.0,
            roles: [].into(),
            threads: Vec::new(),
        };
        Chat::new(10, &tally, &spent)
    }

    fn stage(sockets: usize, chat: Chat) -> Stage {
        Stage {
            sockets,
            fault: chat.fault(),
            chat: Some(chat),
        }
    }

    #[test]
    fn a_search_goes_up_from_the_first_crowd() {
        let search = |arguments: &[&str]| parse(arguments).unwrap().search();
        assert!(search(&[]).unwrap().is_none());
        let wanted = search(&["--sockets", "10", "--max", "30", "--step", "5"]);
        let Search { step, max, p95_ms } = wanted.unwrap().unwrap();
        assert_eq!((step, max, p95_ms), (5, 30, 1000));
        assert!(search(&["--sockets", "10", "--max", "9"]).is_err());
        assert!(search(&["--sockets", "10", "--max", "10", "--step", "0"]).is_err());
    }

    #[test]
    fn a_search_has_one_run_of_each_crowd() {
        assert!(parse(&["--runs", "3"]).is_ok());
        for wrong in [
            &["--runs", "3", "--max", "5000"][..],
            &["--step", "5"],
            &["--p95-ms", "5"],
            &["--history-every", "0"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn all_users_together_are_so_often_due() {
        assert_eq!(period_ns(1750, 1000).unwrap(), 1_750_000);
        assert!(period_ns(1, 2_000_000).is_err());
    }

    #[test]
    fn marks_are_told_as_a_rate_of_the_time_measured() {
        let tally = Tally {
            due: 60,
            received: 60,
            deliveries: 40,
            marks: 60,
            marks_told: 7,
            ..Tally::default()
        };
        let marks = chat(tally, 1).marks;
        assert_eq!((marks.sent, marks.told, marks.per_second), (60, 7, 20.0));
    }

    #[test]
    fn pages_that_did_not_come_or_are_empty_are_faults_like_lost_messages() {
        let tally = Tally {
            lost: 1,
            pages_asked: 5,
            pages_answered: 3,
            pages_empty: 1,
            ..Tally::default()
        };
        let stages = [
            stage(10, chat(tally, 1)),
            stage(10, chat(Tally::default(), 1)),
        ];
        let fault = "1 lost, 2 pages of history not answered, 1 pages of history empty";
        assert_eq!(stages[0].fault.as_deref(), Some(fault));
        let error = judge(&stages).unwrap_err().to_string();
        assert!(error.ends_with(&format!("run 1: {fault}")), "{error}");
        assert!(judge(&stages[1..]).is_ok());
    }

    #[test]
    fn a_slow_crowd_is_not_carried_and_one_that_did_not_get_in_neither() {
        let mut stages = [
            stage(10, chat(Tally::default(), 900)),
            stage(20, chat(Tally::default(), 1100)),
            Stage::failed(30, &anyhow::anyhow!("no place")),
        ];
        for stage in &mut stages {
            stage.limit_p95(1000);
        }
        assert_eq!(carried(&stages), 10);
        assert_eq!(carried(&stages[1..]), 0);
        let fault = stages[1].fault.as_deref().unwrap();
        assert!(
            fault.starts_with("95 % of the deliveries within 1"),
            "{fault}"
        );
        assert!(stages[2].line().ends_with("not carried: no place\n"));
    }

    #[test]
    fn a_stage_without_figures_still_says_how_many_sockets_it_had() {
        let stage = Stage::failed(30, &anyhow::anyhow!("no place"));
        let value = serde_json::to_value(&stage).unwrap();
        assert_eq!(value, json!({"sockets": 30, "fault": "no place"}));
    }
}
