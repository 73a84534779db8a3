//! Rows of what users of a chat do all at once, and of how many are carried.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::{
    loads::{gateways, runs, same, scenario},
    markdown::whole,
    numbers::Row,
    results::{Experiment, median},
};

/// What is read of a file.
#[derive(Deserialize)]
struct Findings {
    scenario: Scenario,
    runs: Vec<Stage>,
    /// Of a search.
    carried: Option<f64>,
}

#[derive(Deserialize)]
struct Scenario {
    search: Option<Search>,
    /// Of the gateways.
    gateway_limits: Vec<Limits>,
}

#[derive(Deserialize)]
struct Limits {
    cores: Option<f64>,
    memory_mib: Option<f64>,
}

#[derive(Deserialize)]
struct Search {
    step: f64,
    p95_ms: f64,
}

#[derive(Deserialize)]
struct Stage {
    sockets: f64,
    fault: Option<String>,
    /// All else, where the sockets got in.
    #[serde(flatten)]
    figures: Value,
}

/// The stages that are shown: of a search the largest that was carried, else all runs.
struct Shown<'a>(Vec<&'a Stage>);

pub(super) fn rows(experiment: &Experiment) -> Result<Vec<Row>> {
    let findings = experiment.figures::<Findings>()?;
    let shown = Shown(findings.iter().flat_map(Findings::shown).collect());
    let mut rows = Vec::new();
    if let Some(search) = searched(experiment, &findings)? {
        rows.push(search);
    }
    if !shown.0.is_empty() {
        rows.extend(shown.rows(experiment)?);
    }
    // The files are named once, in the first row.
    if let Some([_, _, shown_by]) = rows.first_mut() {
        *shown_by = format!("`bench mixed`, {}", runs(experiment)?);
    }
    Ok(rows)
}

impl Findings {
    fn shown(&self) -> impl Iterator<Item = &Stage> {
        let stages = self.runs.iter();
        stages.filter(|stage| match self.carried {
            Some(carried) => stage.sockets == carried,
            None => true,
        })
    }
}

/// How many users a search found carried, each with what ended it; the files' worst first.
fn searched(experiment: &Experiment, findings: &[Findings]) -> Result<Option<Row>> {
    let found = findings.iter().filter_map(|file| {
        let search = file.scenario.search.as_ref()?;
        Some((search, file.carried?, file.runs.last()?))
    });
    let mut found: Vec<_> = found.collect();
    found.sort_by(|(_, one, _), (_, other, _)| one.total_cmp(other));
    let Some((Search { step, p95_ms }, ..)) = found.first() else {
        return Ok(None);
    };
    let what = format!(
        "users carried in rooms of {} on {}, {} more at a time, until 95 % of the deliveries take longer than {} ms or \
         something goes astray",
        scenario(experiment, "room_size")?,
        confined(experiment, findings)?,
        whole(*step),
        whole(*p95_ms)
    );
    let figures = found.iter().map(|(_, carried, last)| {
        let users = whole(last.sockets);
        let end = match &last.fault {
            // What a gateway answered may have more lines than a cell.
            Some(fault) => format!("with {users}: {}", fault.lines().next().unwrap_or_default()),
            None => "more were not tried".to_owned(),
        };
        format!("{} ({end})", whole(*carried))
    });
    let figures: Vec<_> = figures.collect();
    Ok(Some([what, figures.join(" / "), same()]))
}

/// The gateways, and what they may take of the machine if that is less than all.
fn confined(experiment: &Experiment, findings: &[Findings]) -> Result<String> {
    let mut gateways = gateways(experiment)?;
    let scenarios = findings.iter().map(|file| &file.scenario);
    let mut limits = scenarios.flat_map(|scenario| &scenario.gateway_limits);
    if let Some(limits) = limits.next() {
        let cores = limits.cores.map(|cores| format!("{cores} cores"));
        let memory = limits.memory_mib.map(|mib| format!("{} MiB", whole(mib)));
        let limits: Vec<_> = cores.into_iter().chain(memory).collect();
        if !limits.is_empty() {
            gateways.push_str(&format!(" confined to {}", limits.join(" and ")));
        }
    }
    Ok(gateways)
}

impl Shown<'_> {
    fn rows(&self, experiment: &Experiment) -> Result<Vec<Row>> {
        let servers = ["gateways", "redis_masters", "redis_replicas"];
        let of_servers = |figure: &str, text: fn(f64) -> String| {
            let texts = servers
                .map(|role| anyhow::Ok(text(self.median(&format!("/servers/{role}/{figure}"))?)));
            anyhow::Ok(texts.into_iter().collect::<Result<Vec<_>>>()?.join(" / "))
        };
        let cost = of_servers("cpu_seconds_per_million_deliveries", |s| format!("{s:.1}"))?;
        let memory = of_servers("resident_kib", |kib| whole(kib * 1024.0))?;
        Ok(vec![
            [self.what(experiment)?, self.latency("/latency_us")?, same()],
            [
                "read marks a second / until a page of history is there, half / 95 % / 99 %".to_owned(),
                format!(
                    "{} / {}",
                    whole(self.median("/marks/per_second")?),
                    self.latency("/history/latency_us")?
                ),
                same(),
            ],
            [
                "CPU time for a million deliveries, with their marks and pages: gateways / Redis masters / replicas"
                    .to_owned(),
                format!("{cost} s"),
                same(),
            ],
            [
                "resident memory of the same".to_owned(),
                format!("{memory} bytes"),
                same(),
            ],
            self.astray()?,
        ])
    }

    fn what(&self, experiment: &Experiment) -> Result<String> {
        let users = median(self.0.iter().map(|stage| stage.sockets).collect());
        Ok(format!(
            "{} users in rooms of {} on {}, each of whom says something every {} ms, marks every message at once and \
             asks for history every {} messages: from due to delivered, half / 95 % / 99 %",
            whole(users),
            scenario(experiment, "room_size")?,
            confined(experiment, &experiment.figures()?)?,
            scenario(experiment, "pause_ms")?,
            scenario(experiment, "history_every")?,
        ))
    }

    fn latency(&self, summary: &str) -> Result<String> {
        let ms = |quantile: &str| {
            let us = self.median(&format!("{summary}/{quantile}"))?;
            anyhow::Ok(format!("{:.1}", us / 1000.0))
        };
        Ok(format!(
            "{} / {} / {} ms",
            ms("p50")?,
            ms("p95")?,
            ms("p99")?
        ))
    }

    fn astray(&self) -> Result<Row> {
        let mut astray = 0.0;
        for kind in ["lost", "gaps", "duplicated", "reordered"] {
            astray += self.sum(&format!("/deliveries/{kind}"))?;
        }
        let received = whole(self.sum("/deliveries/received")?);
        Ok([
            "deliveries in all these runs / of them lost, twice or out of order".to_owned(),
            format!("{received} / {}", whole(astray)),
            same(),
        ])
    }

    fn median(&self, pointer: &str) -> Result<f64> {
        Ok(median(self.numbers(pointer)?))
    }

    fn sum(&self, pointer: &str) -> Result<f64> {
        Ok(self.numbers(pointer)?.iter().sum())
    }

    fn numbers(&self, pointer: &str) -> Result<Vec<f64>> {
        let numbers = self.0.iter().map(|stage| {
            let figure = stage.figures.pointer(pointer).and_then(Value::as_f64);
            figure.with_context(|| format!("no {pointer} with {} sockets", stage.sockets))
        });
        numbers.collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::results::tests::results, *};

    fn stage(sockets: u32, p95: u32, fault: Option<&str>) -> Value {
        let role = |s_per_million: f64, resident_kib: u32| json!({"cpu_seconds_per_million_deliveries": s_per_million, "resident_kib": resident_kib});
        json!({
            "sockets": sockets, "fault": fault,
            "latency_us": {"p50": 240, "p95": p95, "p99": 9000},
            "marks": {"per_second": 9100.2}, "history": {"latency_us": {"p50": 1500, "p95": 4000, "p99": 8000}},
            "deliveries": {"received": 1000, "lost": 0, "gaps": 0, "duplicated": 0, "reordered": 0},
            "servers": {"gateways": role(20.0, 1000), "redis_masters": role(12.0, 2), "redis_replicas": role(4.0, 3)},
        })
    }

    fn findings(search: Value, runs: &[Value], carried: Value) -> Value {
        json!({
            "scenario": {
                "sockets": 4000, "room_size": 4, "pause_ms": 1750, "history_every": 20, "gateways": 1, "search": search,
                "gateway_limits": [{"cores": 0.8, "memory_mib": 2048}],
            },
            "runs": runs, "carried": carried,
        })
    }

    fn rows_of(files: &[(&str, &str, Value)]) -> Vec<Row> {
        rows(results(files).of_kind("mixed").next().unwrap()).unwrap()
    }

    #[test]
    fn runs_of_one_crowd_show_latency_marks_cost_and_memory() {
        let runs = [stage(4000, 700, None), stage(4000, 900, None)];
        let rows = rows_of(&[("mixed", "", findings(Value::Null, &runs, Value::Null))]);
        let figures: Vec<_> = rows.iter().map(|[_, figure, _]| figure.as_str()).collect();
        assert!(rows[0][0].starts_with(
            "4,000 users in rooms of 4 on one gateway confined to 0.8 cores and 2,048 MiB, each"
        ));
        assert_eq!(
            figures,
            [
                "0.2 / 0.8 / 9.0 ms",
                "9,100 / 1.5 / 4.0 / 8.0 ms",
                "20.0 / 12.0 / 4.0 s",
                "1,024,000 / 2,048 / 3,072 bytes",
                "2,000 / 0",
            ]
        );
        assert!(rows[0][2].starts_with("`bench mixed`, 2 runs in"));
        assert_eq!(rows[1][2], "the same");
    }

    #[test]
    fn a_search_shows_who_was_carried_why_no_more_and_the_crowd_carried() {
        let search = json!({"step": 1000, "max": 9000, "p95_ms": 1000});
        let slow = "95 % of the deliveries within 1240 ms";
        let stages = [
            stage(4000, 700, None),
            stage(5000, 900, None),
            stage(6000, 1_240_000, Some(slow)),
        ];
        let rows = rows_of(&[("mixed-search", "", findings(search, &stages, json!(5000)))]);
        assert!(rows[0][0].contains("1,000 more at a time"));
        assert_eq!(rows[0][1], format!("5,000 (with 6,000: {slow})"));
        assert!(rows[0][2].starts_with("`bench mixed`"));
        assert!(rows[1][0].starts_with("5,000 users"));
        assert_eq!(rows[1][1], "0.2 / 0.9 / 9.0 ms");
        assert_eq!(rows[5][1], "1,000 / 0");
    }

    #[test]
    fn a_search_in_which_nobody_got_in_shows_that_alone() {
        let search = json!({"step": 1000, "max": 9000, "p95_ms": 1000});
        let stage = json!({"sockets": 4000, "fault": "no place\r\nContent-Length: 0"});
        let rows = rows_of(&[("mixed", "", findings(search, &[stage], json!(0)))]);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0][1], "0 (with 4,000: no place)");
    }

    #[test]
    fn of_several_searches_the_worst_comes_first() {
        let search = || json!({"step": 1000, "max": 5000, "p95_ms": 1000});
        let (small, large) = (stage(4000, 700, None), stage(5000, 900, None));
        let slow = stage(5000, 1_240_000, Some("slow"));
        let rows = rows_of(&[
            (
                "mixed-run1",
                "",
                findings(search(), &[small.clone(), large], json!(5000)),
            ),
            (
                "mixed-run2",
                "",
                findings(search(), &[small, slow], json!(4000)),
            ),
        ]);
        assert_eq!(
            rows[0][1],
            "4,000 (with 5,000: slow) / 5,000 (more were not tried)"
        );
    }
}
