//! What all runs came to: one row a fault.

use std::{path::PathBuf, time::Duration};

use serde::Serialize;

use super::{
    fault::{Fault, Injection},
    timing::{Deliveries, latencies, percentile, shed_per_second},
    trial::Outcome,
};

/// All runs of one fault.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    #[serde(serialize_with = "name")]
    fault: Fault,
    runs: u64,
    injections: usize,
    accepted: u64,
    refused: u64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    unlogged: u64,
    participants: u64,
    stale: u64,
    unsettled: u64,
    reloads: u64,
    recovered: u64,
    /// From an injection until every room delivered again, in seconds.
    resume_seconds: Spread,
    /// From the loss of a client's connection until its rooms were complete again, in seconds.
    back_seconds: Spread,
    /// From a send to each delivery, in milliseconds: without slow readers, and with them.
    delivery_ms: Spread,
    crowded_delivery_ms: Option<Spread>,
    /// Clients that a draining gateway shed a second, drain by drain.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shed_per_second: Vec<f64>,
    failures: Vec<Failure>,
    #[serde(skip)]
    deliveries: Vec<Duration>,
    #[serde(skip)]
    crowded: Vec<Duration>,
    #[serde(skip)]
    resumes: Vec<Duration>,
    #[serde(skip)]
    absences: Vec<Duration>,
}

/// Percentiles.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Spread {
    p50: f64,
    p99: f64,
    max: f64,
}

/// A run that broke a promise.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    pub(crate) seed: u64,
    /// The command that runs it again.
    pub(crate) replay: String,
    /// Logs of its gateways.
    pub(crate) logs: PathBuf,
    pub(crate) details: Vec<String>,
}

impl Row {
    pub(crate) fn new(fault: Fault) -> Self {
        Self {
            fault,
            runs: 0,
            injections: 0,
            accepted: 0,
            refused: 0,
            lost: 0,
            duplicated: 0,
            reordered: 0,
            unlogged: 0,
            participants: 0,
            stale: 0,
            unsettled: 0,
            reloads: 0,
            recovered: 0,
            resume_seconds: Spread::default(),
            back_seconds: Spread::default(),
            delivery_ms: Spread::default(),
            crowded_delivery_ms: None,
            shed_per_second: Vec::new(),
            failures: Vec::new(),
            deliveries: Vec::new(),
            crowded: Vec::new(),
            resumes: Vec::new(),
            absences: Vec::new(),
        }
    }

    pub(crate) const fn fault(&self) -> Fault {
        self.fault
    }

    /// Adds what a run came to.
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        let verdict = &outcome.verdict;
        self.runs += 1;
        self.injections += outcome.injections.len();
        self.accepted += verdict.accepted;
        self.refused += verdict.refused;
        self.lost += verdict.lost.count;
        self.duplicated += verdict.duplicated.count;
        self.reordered += verdict.reordered.count;
        self.unlogged += verdict.unlogged.count;
        self.participants += verdict.participants.count;
        self.stale += verdict.stale.count;
        self.unsettled += verdict.unsettled.count;
        for witness in &outcome.witnesses {
            self.reloads += witness.record.reloads;
            self.recovered += witness.record.recovered;
            self.absences.extend(&witness.record.absences);
        }
        let crowded_from = outcome.crowded_from.unwrap_or(Duration::MAX);
        let alone = latencies(&outcome.witnesses, Duration::ZERO..crowded_from);
        self.deliveries.extend(alone);
        self.delivery_ms = Spread::of(&mut self.deliveries).in_ms();
        if outcome.crowded_from.is_some() {
            let crowded = latencies(&outcome.witnesses, crowded_from..Duration::MAX);
            self.crowded.extend(crowded);
            self.crowded_delivery_ms = Some(Spread::of(&mut self.crowded).in_ms());
        }
        let is_drain = |injection: &&Injection| injection.fault == Fault::DrainGateway;
        let drains = outcome.injections.iter().filter(is_drain);
        let rates = drains
            .filter_map(|drain| shed_per_second(&outcome.witnesses, drain.begun..drain.ended));
        self.shed_per_second.extend(rates);
        let deliveries = Deliveries::of(&outcome.witnesses);
        let moments = outcome.injections.iter().map(|injection| injection.begun);
        self.resumes
            .extend(moments.filter_map(|moment| deliveries.resumed_after(moment)));
        self.resume_seconds = Spread::of(&mut self.resumes);
        self.back_seconds = Spread::of(&mut self.absences);
    }

    pub(crate) fn fail(&mut self, failure: Failure) {
        self.failures.push(failure);
    }

    pub(crate) fn failures(&self) -> &[Failure] {
        &self.failures
    }

    fn line(&self) -> String {
        let Spread { p50, max, .. } = self.resume_seconds;
        let back = self.back_seconds;
        format!(
            "{:<15}{:>5}{:>8}{:>10}{:>8}{:>6}{:>6}{:>6}{:>6}{:>6}{:>6}{:>6}{:>9}{:>10}  {:>6.2} /{:>6.2}  {:>6.2} /{:>6.2} /{:>6.2}",
            self.fault.name(),
            self.runs,
            self.injections,
            self.accepted,
            self.refused,
            self.lost,
            self.duplicated,
            self.reordered,
            self.unlogged,
            self.participants,
            self.stale,
            self.unsettled,
            self.reloads,
            self.recovered,
            p50,
            max,
            back.p50,
            back.p99,
            back.max
        )
    }
}

fn name<S: serde::Serializer>(fault: &Fault, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&fault.name())
}

impl Spread {
    fn in_ms(self) -> Self {
        Self {
            p50: self.p50 * 1000.0,
            p99: self.p99 * 1000.0,
            max: self.max * 1000.0,
        }
    }

    fn of(values: &mut [Duration]) -> Self {
        Self {
            p50: percentile(values, 50).as_secs_f64(),
            p99: percentile(values, 99).as_secs_f64(),
            max: percentile(values, 100).as_secs_f64(),
        }
    }
}

/// Prints the table.
#[expect(clippy::print_stdout, reason = "it is what the command is for")]
pub(crate) fn print(rows: &[Row]) {
    println!(
        "{:<15}{:>5}{:>8}{:>10}{:>8}{:>6}{:>6}{:>6}{:>6}{:>6}{:>6}{:>6}{:>9}{:>10}  resume p50 / max  back p50 / p99 / max, s",
        "fault",
        "seeds",
        "faults",
        "accepted",
        "refused",
        "lost",
        "dup",
        "reord",
        "unlog",
        "part",
        "stale",
        "open",
        "reloads",
        "recovered"
    );
    for row in rows {
        println!("{}", row.line());
    }
    for row in rows {
        if let Some(crowded) = row.crowded_delivery_ms {
            println!(
                "{}: delivery p99 {:.1} ms without slow readers, {:.1} ms with them",
                row.fault.name(),
                row.delivery_ms.p99,
                crowded.p99
            );
        }
    }
    for row in rows.iter().filter(|row| !row.shed_per_second.is_empty()) {
        let (name, rates) = (row.fault.name(), &row.shed_per_second);
        let (least, most) = (
            rates.iter().copied().fold(f64::INFINITY, f64::min),
            rates.iter().copied().fold(0.0, f64::max),
        );
        println!(
            "{name}: {} drains shed {least:.1} to {most:.1} clients a second",
            rates.len()
        );
    }
    for failure in rows.iter().flat_map(Row::failures) {
        println!("failed, seed {}: {}", failure.seed, failure.replay);
    }
}
