//! The machine's own limit: the crowd reads from a process that does nothing but write to its sockets.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use super::{
    LEAD_NS,
    figures::Figures,
    series::{Column, Series, judge},
    writer::Job,
};
use crate::{
    clock::{NS_PER_SECOND, now_ns},
    cost::{Meter, Role},
    crowd::{Crowd, Lists, Pace, Plan, Span, Step, allow_sockets},
};

/// Options of `bench limit`.
#[derive(Args)]
pub(crate) struct Options {
    /// Sockets that are written to.
    #[arg(long, default_value_t = 1000)]
    sockets: usize,
    /// Length of a message's packet; `fanout` tells what a gateway sends.
    #[arg(long, default_value_t = 464)]
    packet_bytes: usize,
    /// Messages of one write, separated by commas: each is measured.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16")]
    frames_per_write: Vec<u32>,
    /// Messages a second; without, as many as there can be.
    #[arg(long)]
    rate: Option<u64>,
    /// Seconds that are measured, each time.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Seconds of the same load before that.
    #[arg(long, default_value_t = 1)]
    warmup_seconds: u64,
    /// Threads that read.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// File for the report.
    #[arg(long)]
    report: Option<PathBuf>,
}

/// What a report holds of one number of frames a write.
#[derive(Serialize)]
struct Run {
    frames_per_write: u32,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Serialize)]
struct Scenario {
    sockets: usize,
    packet_bytes: usize,
    rate: Option<u64>,
    threads: usize,
    seconds: u64,
}

const COLUMNS: &[Column] = &[
    ("frames/write", "/frames_per_write"),
    ("deliv/s", "/deliveries/per_second"),
    ("deliv/cpu s", "/servers/writer/deliveries_per_cpu_second"),
    ("per read", "/deliveries/per_read"),
    ("p50 us", "/latency_us/p50"),
    ("p99", "/latency_us/p99"),
    ("client cpu", "/client/cpu_share_max"),
    ("client s/M", "/client/cpu_seconds_per_million_deliveries"),
];

pub(crate) async fn run(options: Options) -> Result<()> {
    let from_ns = options.warmup_seconds * NS_PER_SECOND;
    let span = Span {
        from_ns,
        until_ns: from_ns + options.seconds * NS_PER_SECOND,
        quiet_ns: 10 * NS_PER_SECOND,
    };
    let period_ns = options.rate.map(super::period_ns).transpose()?;
    let mut limit = Limit::open(options.sockets, options.packet_bytes, options.threads).await?;
    let mut runs = Vec::new();
    for frames_per_write in options.frames_per_write {
        runs.push(Run {
            frames_per_write,
            figures: limit.measure(period_ns, frames_per_write, span).await?,
        });
    }
    let scenario = Scenario {
        sockets: options.sockets,
        packet_bytes: options.packet_bytes,
        rate: options.rate,
        threads: options.threads,
        seconds: options.seconds,
    };
    Series::of_cases(scenario, &runs)?.publish(COLUMNS, options.report.as_deref())?;
    judge(runs.iter().map(|run| &run.figures))
}

/// A bare writer, and a crowd that reads from it.
pub(super) struct Limit {
    crowd: Crowd,
    meter: Meter,
    writer: Writer,
}

impl Limit {
    pub(super) async fn open(sockets: usize, packet_bytes: usize, threads: usize) -> Result<Self> {
        // Before the writer begins: it has as many of them, and the limit from here.
        allow_sockets(sockets)?;
        let mut writer = Writer::start(sockets, packet_bytes)?;
        let crowd = Crowd::gather(Plan {
            servers: vec![writer.address],
            sockets,
            room_size: sockets,
            users: None,
            threads,
            concurrency: 64,
            lists: Lists::new(sockets),
        })?;
        crowd.advance(Step::Joined).await?;
        writer.answer::<u16>()?;
        let mut meter = Meter::default();
        meter.watch(Role::Writer, &[writer.process.id()]);
        meter.watch_threads(crowd.thread_ids());
        Ok(Self {
            crowd,
            meter,
            writer,
        })
    }

    /// Has messages written and measures.
    pub(super) async fn measure(
        &mut self,
        period_ns: Option<u64>,
        frames_per_write: u32,
        span: Span,
    ) -> Result<Figures> {
        ensure!(frames_per_write > 0, "a write has a frame");
        let pace = Pace::Elsewhere { period_ns };
        let run = self.crowd.prepare(now_ns() + LEAD_NS, pace, span);
        let (origin_ns, until_ns) = (run.origin_ns, span.until_ns);
        self.writer.order(Job {
            run: run.id,
            origin_ns,
            until_ns,
            period_ns,
            frames_per_write,
        })?;
        let measured = async {
            let (from_ns, until_ns) = (origin_ns + span.from_ns, origin_ns + until_ns);
            let spent = self.meter.over(from_ns, until_ns).await?;
            run.sent_elsewhere(self.writer.answer()?);
            Ok(spent)
        };
        let (tally, spent) = tokio::try_join!(self.crowd.play(&run), measured)?;
        Ok(Figures::new(run.accepted(), &tally, &spent))
    }
}

/// The process that writes; it ends with this.
struct Writer {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Writer {
    fn start(sockets: usize, packet_bytes: usize) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("limit-writer")
            .args(["--sockets", &sockets.to_string()])
            .args(["--packet-bytes", &packet_bytes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().context("the writer's output")?;
        let mut writer = Self {
            input: process.stdin.take(),
            output: BufReader::new(output),
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            process,
        };
        let port = writer.answer()?;
        writer.address.set_port(port);
        Ok(writer)
    }

    fn order(&mut self, job: Job) -> Result<()> {
        let input = self.input.as_mut().context("the writer's input")?;
        writeln!(input, "{}", serde_json::to_string(&job)?)?;
        Ok(())
    }

    /// The next line that the writer says.
    fn answer<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
        &mut self,
    ) -> Result<T> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        line.trim().parse().context("the writer has ended")
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.input.take());
        // It may still wait for sockets that will never come, or have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
