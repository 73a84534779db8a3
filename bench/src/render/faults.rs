//! The table of delivery under faults: what `bench chaos` found, one row a fault.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use clap::ValueEnum;
use serde::{Deserialize, de::IgnoredAny};

use super::{
    markdown::{self, whole},
    results::{Results, largest, median},
};
use crate::chaos::Fault;

/// Fewer runs of a fault than this show too little of it.
const RUNS_MIN: u32 = 20;

const HEAD: [&str; 9] = [
    "fault",
    "runs",
    "injections",
    "accepted",
    "lost",
    "duplicated",
    "reordered",
    "seconds until delivery resumed: p50 / max",
    "shown by",
];

pub(super) fn table(results: &Results) -> Result<String> {
    let mut totals: BTreeMap<Fault, Total> = BTreeMap::new();
    for experiment in results.of_kind("chaos") {
        for row in experiment.figures::<Vec<Row>>()?.into_iter().flatten() {
            if row.runs >= RUNS_MIN {
                let fault = Fault::from_str(&row.fault, false).map_err(|error| anyhow!(error))?;
                totals
                    .entry(fault)
                    .or_default()
                    .add(row, experiment.links());
            }
        }
    }
    let rows: Vec<_> = totals
        .iter()
        .map(|(fault, total)| total.cells(*fault))
        .collect();
    Ok(markdown::table(HEAD, &rows))
}

/// What is read of a row (`crate::chaos::table::Row`).
#[derive(Deserialize)]
struct Row {
    fault: String,
    runs: u32,
    injections: f64,
    accepted: f64,
    lost: f64,
    duplicated: f64,
    reordered: f64,
    resume_seconds: Spread,
    /// Runs that broke any promise.
    failures: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
struct Spread {
    p50: f64,
    max: f64,
}

/// All rows of one fault.
#[derive(Default)]
struct Total {
    rows: Vec<Row>,
    links: Vec<String>,
}

impl Total {
    fn add(&mut self, row: Row, links: String) {
        self.rows.push(row);
        if !self.links.contains(&links) {
            self.links.push(links);
        }
    }

    fn cells(&self, fault: Fault) -> [String; 9] {
        let of = |figure: fn(&Row) -> f64| self.rows.iter().map(figure);
        let sum = |figure| whole(of(figure).sum());
        [
            format!("`{}`", fault.name()),
            self.runs(),
            sum(|row| row.injections),
            sum(|row| row.accepted),
            sum(|row| row.lost),
            sum(|row| row.duplicated),
            sum(|row| row.reordered),
            format!(
                "{:.2} / {:.2}",
                median(of(|row| row.resume_seconds.p50).collect()),
                largest(of(|row| row.resume_seconds.max).collect())
            ),
            self.links.join(", "),
        ]
    }

    /// How many, and whether some failed: for that there are more reasons than there are columns.
    fn runs(&self) -> String {
        let runs: u32 = self.rows.iter().map(|row| row.runs).sum();
        let failed: usize = self.rows.iter().map(|row| row.failures.len()).sum();
        match failed {
            0 => runs.to_string(),
            _ => format!("{runs}, {failed} failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::results::tests::results, *};

    fn row(fault: &str, runs: u32, lost: u32, p50: f64, max: f64) -> Value {
        json!({
            "fault": fault, "runs": runs, "injections": 3, "accepted": 1500, "lost": lost,
            "duplicated": 0, "reordered": 0, "resume_seconds": {"p50": p50, "p99": max, "max": max},
            "failures": vec![Value::Null; usize::from(lost > 0)],
        })
    }

    fn rows_of(files: &[(&str, &str, Value)]) -> Vec<String> {
        let table = table(&results(files)).unwrap();
        table.lines().skip(2).map(str::to_owned).collect()
    }

    #[test]
    fn faults_stand_in_the_order_of_the_command_line() {
        let rows = rows_of(&[
            ("chaos-a", "", json!([row("mix", 20, 0, 0.5, 1.0)])),
            ("chaos-b", "", json!([row("calm", 20, 0, 0.104, 0.2)])),
        ]);
        assert_eq!(
            rows[0],
            "| `calm` | 20 | 3 | 1,500 | 0 | 0 | 0 | 0.10 / 0.20 | \
             [`chaos-b.json`](bench/results/chaos-b.json) |"
        );
        assert!(rows[1].starts_with("| `mix` |"));
    }

    #[test]
    fn faults_of_few_runs_are_left_out() {
        let few = row("calm", 19, 0, 0.1, 0.2);
        assert_eq!(rows_of(&[("chaos-a", "", json!([few]))]), [""; 0]);
    }

    #[test]
    fn several_files_of_a_fault_come_to_one_row() {
        let rows = rows_of(&[
            ("chaos-a-run1", "", json!([row("calm", 20, 2, 0.1, 7.0)])),
            ("chaos-a-run2", "", json!([row("calm", 30, 0, 0.3, 0.6)])),
        ]);
        assert_eq!(
            rows,
            [
                "| `calm` | 50, 1 failed | 6 | 3,000 | 2 | 0 | 0 | 0.20 / 7.00 | \
              `chaos-a`, runs [1](bench/results/chaos-a-run1.json) \
              [2](bench/results/chaos-a-run2.json) |"
            ]
        );
    }
}
