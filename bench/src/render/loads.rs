//! Rows of what `bench` measures under load: latency, cost and what went astray.

use anyhow::Result;
use serde::{Deserialize, de::IgnoredAny};

use super::{
    markdown::whole,
    numbers::Row,
    results::{Experiment, largest},
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
    let is_dense = experiment.median("/scenario/rate").is_err();
    let room = format!(
        "a room of {} on {}",
        scenario(experiment, "sockets")?,
        gateways(experiment)?
    );
    let first = if is_dense {
        let what = format!(
            "{room}, {} messages on their way at any time: deliveries a second / for a CPU second of the gateway",
            scenario(experiment, "window")?
        );
        let figure = format!(
            "{} / {}",
            whole(experiment.median("/median/deliveries/per_second")?),
            whole(experiment.median("/median/servers/gateways/deliveries_per_cpu_second")?)
        );
        [what, figure]
    } else {
        let what = format!(
            "{room}, {} messages a second: from due to the last member, half / 99 %",
            scenario(experiment, "rate")?
        );
        let figure = format!(
            "{:.1} / {:.1} ms",
            experiment.median("/median/last_member_us/p50")? / 1000.0,
            experiment.median("/median/last_member_us/p99")? / 1000.0
        );
        [what, figure]
    };
    let [what, figure] = first;
    let shown_by = format!("`bench fanout`, {}", runs(experiment)?);
    let mut rows = vec![[what, figure, shown_by]];
    if !is_dense {
        rows.push(cost(experiment)?);
    }
    if let Ok(ratio) = experiment.median("/median/ratio_to_limit") {
        rows.push([
            "its deliveries for a CPU second, as a ratio to those of a process that only writes"
                .to_owned(),
            format!("{ratio:.2}"),
            same(),
        ]);
    }
    rows.push(astray(experiment)?);
    Ok(rows)
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
    users_per_core: f64,
    users_per_core_with_redis: f64,
}

#[derive(Deserialize)]
struct Ramp {
    points: Vec<Stage>,
    users: f64,
    users_without_failure: f64,
    failed: f64,
    due: f64,
    lost: f64,
}

/// Users that one core of the original backend carried within 1 % of errors.
const ORIGINAL_USERS_PER_CORE: f64 = 1100.0;

/// Slower than this (95 %) is full.
const FULL_P95_MS: f64 = 1000.0;

pub(super) fn ramp(experiment: &Experiment) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for ramp in experiment.figures::<Ramp>()? {
        let what = format!(
            "users who register, talk and mark, a hundred more every {} s: at most / when the first failed / failed / \
             messages due to all of them / lost",
            experiment.option("--every")?
        );
        let first_failed = if ramp.failed > 0.0 {
            whole(ramp.users_without_failure)
        } else {
            "none".to_owned()
        };
        let figure = format!(
            "{} / {first_failed} / {} / {} / {}",
            whole(ramp.users),
            whole(ramp.failed),
            whole(ramp.due),
            whole(ramp.lost)
        );
        rows.push([
            what,
            figure,
            format!("`bench ramp`, {}", experiment.links()),
        ]);
        let mut quick = ramp
            .points
            .iter()
            .filter(|stage| stage.p95_ms <= FULL_P95_MS);
        if let Some(last) = quick.next_back() {
            rows.push([
                format!(
                    "users for each core of gateway and backend / with Redis, the last step within {FULL_P95_MS} ms (95 %), \
                     of {} users; as a ratio to the original backend's {}",
                    whole(last.users),
                    whole(ORIGINAL_USERS_PER_CORE)
                ),
                format!(
                    "{} / {}; {:.1} / {:.1}",
                    whole(last.users_per_core),
                    whole(last.users_per_core_with_redis),
                    last.users_per_core / ORIGINAL_USERS_PER_CORE,
                    last.users_per_core_with_redis / ORIGINAL_USERS_PER_CORE
                ),
                same(),
            ]);
        }
    }
    Ok(rows)
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

fn scenario(experiment: &Experiment, name: &str) -> Result<String> {
    Ok(whole(experiment.median(&format!("/scenario/{name}"))?))
}

fn gateways(experiment: &Experiment) -> Result<String> {
    let gateways = largest(experiment.numbers("/scenario/gateways")?);
    Ok(if gateways > 1.0 {
        format!("{gateways} gateways")
    } else {
        "one gateway".to_owned()
    })
}

/// The file, and how many runs it holds.
fn runs(experiment: &Experiment) -> Result<String> {
    let series = experiment.figures::<Series<IgnoredAny>>()?;
    let runs: usize = series.iter().map(|series| series.runs.len()).sum();
    Ok(format!("{runs} runs in {}", experiment.links()))
}

fn same() -> String {
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
        assert_eq!(rows[0][1], "3.7 / 7.5 ms");
        assert_eq!(rows[2][1], "0.94");
    }

    #[test]
    fn a_dense_room_shows_deliveries() {
        let rows = cells(
            "fanout",
            fanout,
            json!({
                "scenario": {"sockets": 1000, "rate": null, "window": 16, "gateways": 1},
                "runs": [run(0)], "median": run(0),
            }),
        );
        assert_eq!(rows[0][1], "2,000,000 / 1,000,000");
    }

    #[test]
    fn a_ramp_shows_its_last_step_that_was_quick() {
        let stage = |users: u32, p95_ms: u32| json!({"users": users, "p95_ms": p95_ms, "users_per_core": 16_500, "users_per_core_with_redis": 11_000});
        let results = results(&[(
            "ramp",
            "bench ramp --every 10",
            json!({
                "points": [stage(100, 2), stage(5000, 90), stage(5100, 2000)],
                "users": 5100, "users_without_failure": 5000, "failed": 7, "due": 90_000, "lost": 0,
            }),
        )]);
        let rows = ramp(results.of_kind("ramp").next().unwrap()).unwrap();
        assert_eq!(rows[0][1], "5,100 / 5,000 / 7 / 90,000 / 0");
        assert!(rows[1][0].contains("of 5,000 users"), "{}", rows[1][0]);
        assert_eq!(rows[1][1], "16,500 / 11,000; 15.0 / 10.0");
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
