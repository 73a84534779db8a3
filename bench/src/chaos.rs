//! Proof of delivery: a real Redis Cluster and real gateways under load, faults drawn from a seed, and
//! a verdict from what the clients were shown and what the logs hold.

mod client;
mod cluster;
mod connection;
mod fault;
mod gateway;
mod migration;
mod place;
mod plan;
mod proxy;
mod record;
mod table;
mod timing;
mod trial;
mod verdict;
mod wait;

use std::{ops::RangeInclusive, path::PathBuf, str::FromStr, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use self::fault::Fault;
use self::{
    cluster::Cluster,
    place::{Folder, free_ports},
    table::{Failure, Row},
    trial::Place,
};
use crate::report::Report;

/// Options of `bench chaos`.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// Kinds of fault to run, separated by commas, or `all`.
    #[arg(long = "fault", value_delimiter = ',', default_value = "all")]
    faults: Vec<FaultChoice>,
    /// Seeds to run each fault with: `7` or `1..=20`.
    #[arg(long = "seeds", visible_alias = "seed", default_value = "1")]
    seeds: Seeds,
    /// Clients, one user each.
    #[arg(long, default_value_t = 200)]
    clients: usize,
    /// Gateway processes.
    #[arg(long, default_value_t = 3)]
    gateways: usize,
    /// Rooms; a client is in one to three of them.
    #[arg(long, default_value_t = 24)]
    rooms: usize,
    /// Shards that the rooms lie in, in turn.
    #[arg(long, default_value_t = 16)]
    shards: u16,
    /// Sends that all clients together keep without an answer.
    #[arg(long, default_value_t = 96)]
    in_flight: usize,
    /// Milliseconds between an answer and the sender's next message.
    #[arg(long, default_value_t = 100)]
    pause_ms: u64,
    /// Milliseconds after which a send without an answer is repeated.
    #[arg(long, default_value_t = 8000)]
    ack_timeout_ms: u64,
    /// Clients that read 1 KiB a second, as a share: `10%`.
    #[arg(long, default_value = "0%")]
    slow_readers: Percent,
    /// Seconds between two resets of each client's socket, besides the faults.
    #[arg(long)]
    cut_every: Option<u64>,
    /// Seconds under load and faults.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Seconds that a run may take to become quiet.
    #[arg(long, default_value_t = 60)]
    settle_seconds: u64,
    /// Lease of the gateways, in seconds.
    #[arg(long, default_value_t = 3)]
    lease_seconds: u64,
    /// Grace period of the gateways, in seconds.
    #[arg(long, default_value_t = 3)]
    grace_seconds: u64,
    /// Clients that a draining gateway sheds a second.
    #[arg(long, default_value_t = 1000)]
    drain_per_second: u32,
    /// Redis masters.
    #[arg(long, default_value_t = 3)]
    masters: usize,
    /// Redis replicas.
    #[arg(long, default_value_t = 3)]
    replicas: usize,
    /// First of the ports to use; by default free ones are looked for.
    #[arg(long)]
    port: Option<u16>,
    /// The gateway to test; by default the one built beside this program.
    #[arg(long)]
    gateway_program: Option<PathBuf>,
    /// The script that runs Redis Clusters.
    #[arg(long, default_value = "deploy/local/cluster")]
    cluster_program: PathBuf,
    /// Also fail a run for reactions and read marks that clients show otherwise than they are stored.
    #[arg(long)]
    strict: bool,
    /// File for the report.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Options {
    fn gateway_program(&self) -> Result<PathBuf> {
        match &self.gateway_program {
            Some(program) => Ok(program.clone()),
            None => Ok(std::env::current_exe()?.with_file_name("gateway")),
        }
    }

    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for choice in &self.faults {
            match choice {
                FaultChoice::All => faults.extend_from_slice(Fault::value_variants()),
                FaultChoice::One(fault) => faults.push(*fault),
            }
        }
        faults
    }
}

/// A fault, or all of them.
#[derive(Clone, Copy, Debug)]
enum FaultChoice {
    All,
    One(Fault),
}

impl FromStr for FaultChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            name => Fault::from_str(name, false).map(Self::One).map_err(|_| {
                let names: Vec<_> = Fault::value_variants()
                    .iter()
                    .map(|fault| fault.name())
                    .collect();
                format!("not one of: all, {}", names.join(", "))
            }),
        }
    }
}

/// A range of seeds.
#[derive(Clone, Debug)]
struct Seeds(RangeInclusive<u64>);

impl FromStr for Seeds {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once("..=").unwrap_or((text, text));
        Ok(Self(first.parse()?..=last.parse()?))
    }
}

/// A share of a hundred.
#[derive(Clone, Copy, Debug)]
struct Percent(u8);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').unwrap_or(text).parse();
        match number {
            Ok(percent @ 0..=100) => Ok(Self(percent)),
            _ => Err("a share is 0% to 100%".to_owned()),
        }
    }
}

/// Runs every fault with every seed.
///
/// # Errors
/// When a run broke a promise, or could not be made.
pub(crate) async fn run(options: Options) -> Result<()> {
    ensure!(
        options.clients > 0 && options.gateways > 0 && options.rooms > 0,
        "clients, gateways and rooms must not be 0"
    );
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // What was started is stopped by dropping it, whichever way this ends.
    tokio::select! {
        outcome = run_all(&options) => outcome,
        _ = terminate.recv() => bail!("ended by SIGTERM"),
        _ = interrupt.recv() => bail!("ended by SIGINT"),
    }
}

async fn run_all(options: &Options) -> Result<()> {
    let folder = Folder::make()?;
    let nodes = u16::try_from(options.masters + options.replicas)?;
    let gateways = u16::try_from(options.gateways)?;
    let port = match options.port {
        Some(port) => port,
        None => free_ports(2 * nodes + 2 * gateways)?,
    };
    let dir = folder.0.join("redis");
    let Options {
        masters, replicas, ..
    } = *options;
    let mut cluster =
        Cluster::start(&options.cluster_program, dir, port, masters, replicas).await?;
    if options.faults().into_iter().any(Fault::needs_proxies) {
        cluster.hide_behind_proxies(port + nodes).await?;
    }
    let cluster = Arc::new(cluster);
    let place = Place {
        port: port + 2 * nodes,
        logs: &folder.0,
    };
    let mut rows = Vec::new();
    for fault in options.faults() {
        let mut row = Row::new(fault);
        for seed in options.seeds.0.clone() {
            run_one(options, &cluster, &place, &mut row, seed).await?;
        }
        rows.push(row);
    }
    table::print(&rows);
    if let Some(path) = &options.json {
        Report::new(&rows).write(path)?;
    }
    let failed: usize = rows.iter().map(|row| row.failures().len()).sum();
    ensure!(failed == 0, "{failed} runs failed");
    Ok(())
}

/// One run, told in a line, and in more lines if it failed.
async fn run_one(
    options: &Options,
    cluster: &Arc<Cluster>,
    place: &Place<'_>,
    row: &mut Row,
    seed: u64,
) -> Result<()> {
    let name = row.fault().name();
    let outcome = trial::run(options, cluster, place, row.fault(), seed).await;
    let outcome = outcome.with_context(|| format!("{name}, seed {seed}"))?;
    row.add(&outcome);
    let details = outcome.details(options.strict);
    if details.is_empty() {
        say(&format!("{name}, seed {seed}: {}", outcome.summary()));
        return Ok(());
    }
    let kept = format!("slotcast-chaos-{name}-{seed}-{}", std::process::id());
    let logs = std::env::temp_dir().join(kept);
    place.keep_logs(options.gateways, &logs)?;
    say(&format!(
        "{name}, seed {seed}: FAILED, {}",
        outcome.summary()
    ));
    for detail in &details {
        say(&format!("  {detail}"));
    }
    say(&format!("  logs of the gateways: {}", logs.display()));
    row.fail(Failure {
        seed,
        replay: replay(&name, seed),
        logs,
        details,
    });
    Ok(())
}

/// This command line with one fault and one seed.
fn replay(fault: &str, seed: u64) -> String {
    let (mut kept, mut arguments) = (Vec::new(), std::env::args());
    while let Some(argument) = arguments.next() {
        let (option, value) = argument.split_once('=').unwrap_or((&argument, ""));
        if matches!(option, "--fault" | "--seed" | "--seeds" | "--json") {
            if value.is_empty() {
                arguments.next();
            }
        } else {
            kept.push(argument);
        }
    }
    format!("{} --fault {fault} --seed {seed}", kept.join(" "))
}

#[expect(clippy::print_stdout, reason = "it is what the command is for")]
fn say(line: &str) {
    println!("{line}");
}
