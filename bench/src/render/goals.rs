//! The table of goals: what was aimed at, what was reached, and the ratio of the two. Of several runs it
//! takes the median.

use anyhow::Result;

use super::{
    loads,
    markdown::{self, whole},
    results::{Experiment, Results},
};

const HEAD: [&str; 5] = ["goal", "aim", "reached", "ratio", "shown by"];

/// What is aimed at.
#[derive(Clone, Copy)]
enum Aim {
    AtMost(f64),
    AtLeast(f64),
}

use Aim::{AtLeast, AtMost};

/// One goal: what it is about, the measurement that shows it, the figure, its unit, the aim.
type Goal = (
    &'static str,
    &'static str,
    fn(&Experiment) -> Result<f64>,
    &'static str,
    Aim,
);

const US_PER_MS: f64 = 1000.0;

/// Times the users of a core that the original backend carried.
const TIMES_ORIGINAL: f64 = 15.0;

const GOALS: &[Goal] =
    &[
        (
            "memory of an idle connection in a room",
            "idle-10000",
            |idle| idle.median("/rested_bytes"),
            "bytes",
            AtMost(2500.0),
        ),
        (
            "the same with the kernel's share",
            "idle-10000",
            |idle| Ok(idle.median("/rested_bytes")? + idle.median("/kernel_bytes")?),
            "bytes",
            AtMost(7000.0),
        ),
        (
            "heartbeats of 100,000 connections",
            "idle-10000",
            |idle| Ok(idle.median("/rest_cores")? * 1e5 / idle.median("/connections")?),
            "cores",
            AtMost(0.25),
        ),
        (
            "a room of 1,000 against a bare loop of writes, for a CPU second",
            "fanout-1000",
            |room| room.median("/median/ratio_to_limit"),
            "",
            AtLeast(0.9),
        ),
        (
            "the same room at 50,000 deliveries a second: 99 %",
            "fanout-1000",
            |room| Ok(room.median("/median/latency_us/p99")? / US_PER_MS),
            "ms",
            AtMost(8.0),
        ),
        (
            "CPU time of the gateway for a million of them",
            "fanout-1000",
            gateway_cpu,
            "s",
            AtMost(6.5),
        ),
        (
            "dense traffic: deliveries for a CPU second of the gateway",
            "fanout-1000-dense",
            |room| room.median("/median/servers/gateways/deliveries_per_cpu_second"),
            "",
            AtLeast(1e6),
        ),
        (
            "small rooms on one gateway, 99 %",
            "rooms",
            |rooms| rooms.median("/median/latency_us/p99"),
            "us",
            AtMost(300.0),
        ),
        (
            "CPU time of the gateway for a million deliveries",
            "rooms",
            gateway_cpu,
            "s",
            AtMost(8.0),
        ),
        (
            "CPU time of Redis for them",
            "rooms",
            redis_cpu,
            "s",
            AtMost(4.0),
        ),
        (
            "small rooms over two gateways, 99 %",
            "rooms-two-gateways",
            |rooms| rooms.median("/median/latency_us/p99"),
            "us",
            AtMost(500.0),
        ),
        (
            "CPU time of both for a million deliveries",
            "rooms-two-gateways",
            gateway_cpu,
            "s",
            AtMost(16.0),
        ),
        (
            "CPU time of the gateway to accept, admit and join a socket",
            "join-5000",
            |join| join.median("/median/cpu_us_per_socket/gateways"),
            "us",
            AtMost(60.0),
        ),
        (
            "a room of 10,000, to the last member, half",
            "fanout-10000",
            |room| Ok(room.median("/median/last_member_us/p50")? / US_PER_MS),
            "ms",
            AtMost(25.0),
        ),
        (
            "the same, 99 %",
            "fanout-10000",
            |room| Ok(room.median("/median/last_member_us/p99")? / US_PER_MS),
            "ms",
            AtMost(60.0),
        ),
        (
            "commands to Redis for a message",
            "redis",
            |redis| redis.median("/cases/message/round_trips"),
            "",
            AtMost(1.0),
        ),
        (
            "commands to Redis for a join",
            "redis",
            |redis| redis.median("/cases/join/round_trips"),
            "",
            AtMost(1.0),
        ),
        (
            "CPU time of a busy Redis master for a message",
            "redis",
            |redis| redis.median("/saturation/most/master_us_per_message"),
            "us",
            AtMost(20.0),
        ),
        (
            "sockets from nothing into their rooms, a second and gateway",
            "join-5000",
            |join| join.median("/median/sockets_per_second"),
            "",
            AtLeast(5000.0),
        ),
        (
            "users of the ramp before the first failure",
            "ramp",
            |ramp| ramp.least("/users_without_failure"),
            "",
            AtLeast(3400.0),
        ),
        (
            "users for each core of gateway and backend",
            "ramp",
            loads::users_per_core,
            "",
            AtLeast(TIMES_ORIGINAL * loads::ORIGINAL_USERS_PER_CORE),
        ),
        (
            "shards of the busiest master to the least possible",
            "redis",
            |redis| {
                Ok(redis.worst("/placement/busiest_shards")?
                    / redis.worst("/placement/even_shards")?)
            },
            "",
            AtMost(1.0),
        ),
        (
            "connections to Redis for each gateway and node",
            "redis-one-connection",
            |redis| {
                Ok(redis.worst("/placement/connections")?
                    / redis.worst("/placement/gateways_by_nodes")?)
            },
            "",
            AtMost(1.0),
        ),
    ];

pub(super) fn table(results: &Results) -> Result<String> {
    let mut rows = Vec::new();
    for (what, name, figure, unit, aim) in GOALS {
        let Some(experiment) = results.named(name) else {
            continue;
        };
        let figure = figure(experiment)?;
        rows.push([
            (*what).to_owned(),
            aim.text(unit),
            with_unit(figure, unit),
            aim.ratio(figure),
            experiment.links(),
        ]);
    }
    Ok(markdown::table(HEAD, &rows))
}

fn gateway_cpu(experiment: &Experiment) -> Result<f64> {
    experiment.median("/median/servers/gateways/cpu_seconds_per_million_deliveries")
}

fn redis_cpu(experiment: &Experiment) -> Result<f64> {
    let of = |role: &str| {
        let figure = format!("/median/servers/{role}/cpu_seconds_per_million_deliveries");
        experiment.median(&figure)
    };
    Ok(of("redis_masters")? + of("redis_replicas")?)
}

impl Aim {
    fn text(self, unit: &str) -> String {
        match self {
            AtMost(most) => format!("at most {}", with_unit(most, unit)),
            AtLeast(least) => format!("at least {}", with_unit(least, unit)),
        }
    }

    fn ratio(self, figure: f64) -> String {
        let (ratio, is_met) = match self {
            AtMost(most) => (figure / most, figure <= most),
            AtLeast(least) => (figure / least, figure >= least),
        };
        let verdict = if is_met { "met" } else { "missed" };
        format!("{ratio:.2}, {verdict}")
    }
}

/// Three digits or more.
fn with_unit(figure: f64, unit: &str) -> String {
    let number = match figure {
        small if small < 10.0 => format!("{small:.2}"),
        middle if middle < 100.0 => format!("{middle:.1}"),
        large => whole(large),
    };
    format!("{number} {unit}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::results::tests::results, *};

    #[test]
    fn goals_are_met_or_missed_by_a_ratio() {
        let idle = |bytes: u32| json!({"rested_bytes": bytes, "kernel_bytes": 4600, "rest_cores": 0.01, "connections": 10_000});
        let join = json!({"median": {"sockets_per_second": 4000.0, "cpu_us_per_socket": {"gateways": 45.0}}});
        let table = table(&results(&[
            ("idle-10000-run1", "", idle(2200)),
            ("idle-10000-run2", "", idle(2600)),
            ("join-5000", "", join),
        ]))
        .unwrap();
        for line in [
            "| memory of an idle connection in a room | at most 2,500 bytes | 2,400 bytes | 0.96, met |",
            "| the same with the kernel's share | at most 7,000 bytes | 7,000 bytes | 1.00, met |",
            "| heartbeats of 100,000 connections | at most 0.25 cores | 0.10 cores | 0.40, met |",
            "| CPU time of the gateway to accept, admit and join a socket | at most 60.0 us | 45.0 us | 0.75, met |",
            "| sockets from nothing into their rooms, a second and gateway | at least 5,000 | 4,000 | 0.80, missed |",
        ] {
            assert!(table.contains(line), "{line}\n{table}");
        }
        assert_eq!(table.lines().count(), 2 + 5, "others were not measured");
    }
}
