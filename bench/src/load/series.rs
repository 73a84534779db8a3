//! The runs of a command, as a table and as a report.

use std::{fmt::Write, path::Path};

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::Value;

use super::figures::{Client, Figures};
use crate::{report::Report, stats::median};

/// What a report holds: what was asked for, every run, and the median of each figure.
#[derive(Serialize)]
pub(crate) struct Series<S> {
    scenario: S,
    runs: Vec<Value>,
    /// Of each figure, where all runs are of the same.
    median: Option<Value>,
}

/// A column of the table: its head, and where its figure stands in a run (JSON pointer).
pub(crate) type Column = (&'static str, &'static str);

/// What there is to say of messages in rooms.
pub(crate) const DELIVERY: &[Column] = &[
    ("msg/s", "/messages/per_second"),
    ("deliv/s", "/deliveries/per_second"),
    ("p50 us", "/latency_us/p50"),
    ("p90", "/latency_us/p90"),
    ("p99", "/latency_us/p99"),
    ("p99.9", "/latency_us/p99_9"),
    ("max", "/latency_us/max"),
    ("last p50", "/last_member_us/p50"),
    ("last p99", "/last_member_us/p99"),
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
    ("master us/msg", "/servers/redis_masters/cpu_us_per_message"),
    ("lag p99 us", "/client/send_lag_us/p99"),
    ("client cpu", "/client/cpu_share_max"),
];

impl<S: Serialize> Series<S> {
    /// Runs of the same.
    pub(crate) fn of_runs(scenario: S, runs: &[impl Serialize]) -> Result<Self> {
        let mut series = Self::of_cases(scenario, runs)?;
        series.median = Some(median(&series.runs));
        Ok(series)
    }

    /// Runs of which each is another case.
    pub(crate) fn of_cases(scenario: S, runs: &[impl Serialize]) -> Result<Self> {
        let runs = runs.iter().map(serde_json::to_value);
        Ok(Self {
            scenario,
            runs: runs.collect::<Result<_, _>>()?,
            median: None,
        })
    }

    /// Prints the runs, one a line, and writes the report.
    pub(crate) fn publish(self, columns: &[Column], report: Option<&Path>) -> Result<()> {
        print(&self.table(columns));
        match report {
            Some(path) => Report::new(self).write(path),
            None => Ok(()),
        }
    }

    pub(super) fn table(&self, columns: &[Column]) -> String {
        let numbered = (1..).zip(&self.runs);
        let mut rows: Vec<_> = numbered
            .map(|(number, run)| (format!("run {number}"), run))
            .collect();
        if let Some(median) = self.median.as_ref().filter(|_| self.runs.len() > 1) {
            rows.push(("median".to_owned(), median));
        }
        table(&rows, columns)
    }
}

/// A line for each of some figures.
pub(super) fn table(rows: &[(String, &Value)], columns: &[Column]) -> String {
    let names = rows.iter().map(|(name, _)| name.len());
    let width = names.max().unwrap_or_default().max(8);
    let mut table = format!("{:<width$}", "");
    for (head, _) in columns {
        let _ = write!(table, " {head:>8}"); // a String takes everything
    }
    for (name, figures) in rows {
        let _ = write!(table, "\n{name:<width$}");
        for (head, pointer) in columns {
            let width = head.len().max(8);
            let _ = write!(table, " {:>width$}", cell(figures.pointer(pointer)));
        }
    }
    table + "\n"
}

#[expect(clippy::print_stdout, reason = "it is what the commands are for")]
pub(super) fn print(text: &str) {
    print!("{text}");
}

fn cell(figure: Option<&Value>) -> String {
    match figure {
        Some(Value::Number(number)) => match number.as_f64() {
            Some(large) if large >= 100.0 || number.is_u64() => format!("{large:.0}"),
            Some(small) => format!("{small:.2}"),
            None => number.to_string(),
        },
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    }
}

/// Judges runs by their numbers.
pub(crate) fn judge<'a>(runs: impl Iterator<Item = &'a Figures>) -> Result<()> {
    let numbered = (1..).zip(runs);
    judge_parts(numbered.map(|(number, run)| (format!("run {number}"), run)))
}

/// Says what makes figures worth less: a client that was too slow; and fails if deliveries were not
/// exact.
pub(crate) fn judge_parts<'a>(parts: impl Iterator<Item = (String, &'a Figures)>) -> Result<()> {
    let mut faults = Vec::new();
    for (name, run) in parts {
        warn_of_client(&name, &run.client);
        faults.extend(run.fault().map(|fault| format!("{name}: {fault}")));
    }
    if faults.is_empty() {
        return Ok(());
    }
    bail!("deliveries were not exact: {}", faults.join("; "))
}

/// Says so if a client was too slow.
pub(super) fn warn_of_client(name: &str, client: &Client) {
    if client.is_bottleneck {
        let lag_us = client.send_lag_us.map_or(0, |lag| lag.p99);
        let busy = client.cpu_share_max * 100.0;
        warn(&format!(
            "{name} was held up by the client: messages {lag_us} us late (p99), \
            a thread busy {busy:.0} % of the time"
        ));
    }
}

#[expect(clippy::print_stdout, reason = "it belongs to the table")]
pub(crate) fn warn(warning: &str) {
    println!("warning: {warning}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_a_line_a_run_and_one_for_their_median() {
        let runs = [
            json!({"a": {"b": 1}}),
            json!({"a": {"b": 2.5}}),
            json!({"a": {"b": 300.4}}),
        ];
        let series = Series::of_runs((), &runs).unwrap();
        let table = series.table(&[("figure", "/a/b"), ("none", "/c")]);
        let lines: Vec<_> = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .collect();
        assert_eq!(lines[0], ["figure", "none"]);
        assert_eq!(lines[2], ["run", "2", "2.50", "-"]);
        assert_eq!(lines[3], ["run", "3", "300", "-"]);
        assert_eq!(lines[4], ["median", "2.50", "-"]);
    }
}
