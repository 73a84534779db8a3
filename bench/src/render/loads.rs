//! Rows of what `bench` measures under load: latency, cost and what went astray.

use anyhow::Result;
use serde::{Deserialize, de::IgnoredAny};

use super::{
    markdown::whole,
    numbers::Row,
    results::{Experiment, largest, median},
};

pub(super) fn rooms(experiment: &Experiment) -> Result<Vec<Row>> {
    let what = format!(
        "{} sockets in rooms of {} on {}, {} messages a second: from due to delivered, half / 99 %",
        scenario(experiment, "sockets")?,
        scenario(experiment, "room_size")?,
        gateways(experiment)?,
        scenario(experiment, "rate")?,
    );
    let latency = format!(
        "{} / {} us",
        whole(experiment.median("/median/latency_us/p50")?),
        whole(experiment.median("/median/latency_us/p99")?)
    );
    let shown_by = format!("`bench rooms`, {}", runs(experiment)?);
    Ok(vec![
        [what, latency, shown_by],
        cost(experiment)?,
        astray(experiment)?,
    ])
}

pub(super) fn fanout(experiment: &Experiment) -> Result<Vec<Row>> {
    let has_rate = experiment.median("/scenario/rate").is_ok();
    let mut rows = if has_rate {
        vec![paced(experiment)?, cost(experiment)?]
    } else {
        vec![dense(experiment)?]
    };
    if let Ok(ratio) = experiment.median("/median/ratio_to_limit") {
        let at_a_time = match experiment.median("/median/limit_frames_per_write") {
            Ok(frames) if frames > 1.0 => format!(", {} at a time", whole(frames)),
            _ => String::new(),
        };
        rows.push([
            format!(
                "its deliveries for a CPU second, as a ratio to those of a process that only writes{at_a_time}"
            ),
            format!("{ratio:.2}"),
            same(),
        ]);
    }
    rows.push(astray(experiment)?);
    Ok(rows)
}

/// A room at a rate.
fn paced(experiment: &Experiment) -> Result<Row> {
    let what = format!(
        "a room of {} on {}, {} messages a second: from due to delivered, half / 99 %; to the last member, \
         half / 99 %",
        scenario(experiment, "sockets")?,
        gateways(experiment)?,
        scenario(experiment, "rate")?
    );
    let ms = |figure: &str| {
        let us = experiment.median(&format!("/median/{figure}"))?;
        anyhow::Ok(format!("{:.1}", us / 1000.0))
    };
    let figure = format!(
        "{} / {}; {} / {} ms",
        ms("latency_us/p50")?,
        ms("latency_us/p99")?,
        ms("last_member_us/p50")?,
        ms("last_member_us/p99")?
    );
    let shown_by = format!("`bench fanout`, {}", runs(experiment)?);
    Ok([what, figure, shown_by])
}

/// A room as dense as a window of messages allows.
fn dense(experiment: &Experiment) -> Result<Row> {
    let what = format!(
        "a room of {} on {}, {} messages on their way at any time: deliveries a second / for a CPU second of the \
         gateway",
        scenario(experiment, "sockets")?,
        gateways(experiment)?,
        scenario(experiment, "window")?
    );
    let figure = format!(
        "{} / {}",
        whole(experiment.median("/median/deliveries/per_second")?),
        whole(experiment.median("/median/servers/gateways/deliveries_per_cpu_second")?)
    );
    let shown_by = format!("`bench fanout`, {}", runs(experiment)?);
    Ok([what, figure, shown_by])
}

pub(super) fn join(experiment: &Experiment) -> Result<Vec<Row>> {
    let what = format!(
        "{} sockets, from nothing into rooms of {} on {}, {} on their way at any time: sockets a second",
        scenario(experiment, "sockets")?,
        scenario(experiment, "room_size")?,
        gateways(experiment)?,
        scenario(experiment, "concurrency")?,
    );
    let rate = whole(experiment.median("/median/sockets_per_second")?);
    let cpu = format!(
        "{:.0} us, and {:.0} us of the Redis masters",
        experiment.median("/median/cpu_us_per_socket/gateways")?,
        experiment.median("/median/cpu_us_per_socket/redis_masters")?
    );
    let shown_by = format!("`bench join`, {}", runs(experiment)?);
    Ok(vec![
        [what, rate, shown_by],
        ["CPU time of the gateway for each".to_owned(), cpu, same()],
    ])
}

/// A ramp's stage, as far as it is shown.
#[derive(Deserialize)]
struct Stage {
    users: f64,
    p95_ms: f64,
    gateway_cpu_cores: f64,
    users_per_core: f64,
    users_per_core_with_redis: f64,
}

#[derive(Deserialize)]
struct Ramp {
    points: Vec<Stage>,
    users_without_failure: f64,
    due: f64,
    lost: f64,
}

/// Users that one core of the original backend carried within 1 % of errors.
pub(super) const ORIGINAL_USERS_PER_CORE: f64 = 1100.0;

/// A step is slow in which 95 % of the messages take longer.
const SLOW_P95_MS: f64 = 100.0;

pub(super) fn ramp(experiment: &Experiment) -> Result<Vec<Row>> {
    let ramps = experiment.figures::<Ramp>()?;
    let sum = |of: fn(&Ramp) -> f64| whole(ramps.iter().map(of).sum());
    let what = format!(
        "users who register, enter a room, talk and mark, a hundred more every {} s until more than 1 % have failed: \
         before the first failure, in the worst run / messages due to all of them / lost, in all runs",
        experiment.option("--every")?
    );
    let without_failure = ramps.iter().map(|ramp| ramp.users_without_failure);
    let figure = format!(
        "{} / {} / {}",
        whole(without_failure.fold(f64::INFINITY, f64::min)),
        sum(|ramp| ramp.due),
        sum(|ramp| ramp.lost)
    );
    let shown_by = format!("`bench ramp`, {}", experiment.links());
    let mut rows = vec![[what, figure, shown_by]];
    let quick: Vec<_> = ramps.iter().filter_map(Ramp::last_quick).collect();
    if !quick.is_empty() {
        rows.push(per_core(&quick));
    }
    Ok(rows)
}

impl Ramp {
    /// The last step that was not slow.
    fn last_quick(&self) -> Option<&Stage> {
        let mut quick = self.points.iter();
        quick.rfind(|stage| stage.p95_ms <= SLOW_P95_MS)
    }
}

/// Users for each core of gateway and backend, in the last step that was not slow.
pub(super) fn users_per_core(experiment: &Experiment) -> Result<f64> {
    let ramps = experiment.figures::<Ramp>()?;
    let quick: Vec<_> = ramps.iter().filter_map(Ramp::last_quick).collect();
    Ok(middle_of(&quick, |stage| stage.users_per_core))
}

fn middle_of(stages: &[&Stage], of: fn(&Stage) -> f64) -> f64 {
    median(stages.iter().map(|stage| of(stage)).collect())
}

fn per_core(stages: &[&Stage]) -> Row {
    let middle = |of| middle_of(stages, of);
    let gateway = middle(|stage| stage.users / stage.gateway_cpu_cores);
    let all = middle(|stage| stage.users_per_core);
    let with_redis = middle(|stage| stage.users_per_core_with_redis);
    let what = format!(
        "the last step with 95 % of the messages within {SLOW_P95_MS} ms: users / users for each core of the gateway / \
         of gateway and backend, which hashes / of both and Redis (a core of the original backend carries {})",
        whole(ORIGINAL_USERS_PER_CORE)
    );
    let figures = [middle(|stage| stage.users), gateway, all, with_redis].map(whole);
    [what, figures.join(" / "), same()]
}

fn cost(experiment: &Experiment) -> Result<Row> {
    let of = |role: &str| {
        let figure = format!("/median/servers/{role}/cpu_seconds_per_million_deliveries");
        experiment.median(&figure)
    };
    let figure = format!(
        "{:.1} / {:.1} / {:.1} s",
        of("gateways")?,
        of("redis_masters")?,
        of("redis_replicas")?
    );
    Ok([
        "CPU time for a million deliveries: gateways / Redis masters / replicas".to_owned(),
        figure,
        same(),
    ])
}

/// What is read of a run to count what went astray.
#[derive(Deserialize)]
struct Run {
    deliveries: Deliveries,
}

#[derive(Deserialize)]
struct Deliveries {
    received: f64,
    lost: f64,
    gaps: f64,
    duplicated: f64,
    reordered: f64,
}

#[derive(Deserialize)]
struct Series<T> {
    runs: Vec<T>,
}

fn astray(experiment: &Experiment) -> Result<Row> {
    let (mut received, mut astray) = (0.0, 0.0);
    for series in experiment.figures::<Series<Run>>()? {
        for Run { deliveries } in series.runs {
            received += deliveries.received;
            astray +=
                deliveries.lost + deliveries.gaps + deliveries.duplicated + deliveries.reordered;
        }
    }
    Ok([
        "deliveries in all runs / of them lost, twice or out of order".to_owned(),
        format!("{} / {}", whole(received), whole(astray)),
        same(),
    ])
}

pub(super) fn scenario(experiment: &Experiment, name: &str) -> Result<String> {
    Ok(whole(experiment.median(&format!("/scenario/{name}"))?))
}

pub(super) fn gateways(experiment: &Experiment) -> Result<String> {
    let gateways = largest(experiment.numbers("/scenario/gateways")?);
    Ok(if gateways > 1.0 {
        format!("{gateways} gateways")
    } else {
        "one gateway".to_owned()
    })
}

/// The file, and how many runs it holds.
pub(super) fn runs(experiment: &Experiment) -> Result<String> {
    let series = experiment.figures::<Series<IgnoredAny>>()?;
    let runs: usize = series.iter().map(|series| series.runs.len()).sum();
    Ok(format!("{runs} runs in {}", experiment.links()))
}

pub(super) fn same() -> String {
    "the same".to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::results::tests::results, *};

    fn cells(kind: &str, rows_of: fn(&Experiment) -> Result<Vec<Row>>, figures: Value) -> Vec<Row> {
        let results = results(&[(kind, "", figures)]);
        rows_of(results.of_kind(kind).next().unwrap()).unwrap()
    }

    fn run(lost: u32) -> Value {
        let role = |cost: f64| json!({"cpu_seconds_per_million_deliveries": cost, "deliveries_per_cpu_second": 1e6});
        json!({
            "deliveries": {
                "received": 1000, "lost": lost, "gaps": 0, "duplicated": 1, "reordered": 0, "per_second": 2e6,
            },
            "latency_us": {"p50": 200, "p99": 1300}, "last_member_us": {"p50": 3700, "p99": 7500},
            "servers": {"gateways": role(8.0), "redis_masters": role(2.5), "redis_replicas": role(1.0)},
            "ratio_to_limit": 0.94,
        })
    }

    #[test]
    fn rooms_show_latency_cost_and_what_went_astray_in_any_run() {
        let rows = cells(
            "rooms",
            rooms,
            json!({
                "scenario": {"sockets": 2000, "room_size": 10, "rate": 1000, "gateways": 2},
                "runs": [run(0), run(3)], "median": run(0),
            }),
        );
        assert!(
            rows[0][0].starts_with("2,000 sockets in rooms of 10 on 2 gateways, 1,000 messages")
        );
        assert_eq!(rows[0][1], "200 / 1,300 us");
        assert!(rows[0][2].contains("2 runs in"));
        assert_eq!(rows[1][1], "8.0 / 2.5 / 1.0 s");
        assert_eq!(rows[2][1], "2,000 / 5");
    }

    #[test]
    fn a_large_room_shows_its_last_member_and_the_ratio_to_the_limit() {
        let rows = cells(
            "fanout",
            fanout,
            json!({
                "scenario": {"sockets": 1000, "rate": 50, "window": null, "gateways": 1},
                "runs": [run(0)], "median": run(0),
            }),
        );
        assert_eq!(rows[0][1], "0.2 / 1.3; 3.7 / 7.5 ms");
        assert_eq!(rows[2][1], "0.94");
    }

    #[test]
    fn a_dense_room_shows_deliveries() {
        let mut dense = run(0);
        dense["limit_frames_per_write"] = json!(14);
        let rows = cells(
            "fanout",
            fanout,
            json!({
                "scenario": {"sockets": 1000, "rate": null, "window": 16, "gateways": 1},
                "runs": [dense], "median": dense,
            }),
        );
        assert_eq!(rows[0][1], "2,000,000 / 1,000,000");
        assert!(rows[1][0].ends_with("only writes, 14 at a time"));
    }

    #[test]
    fn a_ramp_shows_its_last_step_that_was_quick() {
        let stage = |users: u32, p95_ms: u32| {
            json!({
                "users": users, "p95_ms": p95_ms, "gateway_cpu_cores": 0.5,
                "users_per_core": 8000, "users_per_core_with_redis": 5500,
            })
        };
        let run = |without_failure: u32, lost: u32| {
            json!({
                "points": [stage(100, 2), stage(5000, 90), stage(5100, 2000)],
                "users_without_failure": without_failure, "due": 90_000, "lost": lost,
            })
        };
        let command = "bench ramp --every 10";
        let results = results(&[
            ("ramp-run1", command, run(5100, 0)),
            ("ramp-run2", command, run(5000, 3)),
        ]);
        let rows = ramp(results.of_kind("ramp").next().unwrap()).unwrap();
        assert!(rows[0][0].contains("every 10 s"), "{}", rows[0][0]);
        assert_eq!(rows[0][1], "5,000 / 180,000 / 3");
        assert_eq!(rows[1][1], "5,000 / 10,000 / 8,000 / 5,500");
    }

    #[test]
    fn joins_show_their_rate_and_cost() {
        let cost = json!({"gateways": 84.4, "redis_masters": 50.0});
        let rows = cells(
            "join",
            join,
            json!({
                "scenario": {"sockets": 5000, "room_size": 10, "concurrency": 256, "gateways": 1},
                "runs": [{}], "median": {"sockets_per_second": 6500.2, "cpu_us_per_socket": cost},
            }),
        );
        assert_eq!(rows[0][1], "6,500");
        assert_eq!(rows[1][1], "84 us, and 50 us of the Redis masters");
    }
}
