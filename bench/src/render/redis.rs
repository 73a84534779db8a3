//! Rows of what Redis is asked for.

use anyhow::{Context, Result};

use super::{
    markdown::whole,
    numbers::Row,
    results::{Experiment, largest},
};

/// In the order in which a row shows them.
const CASES: [&str; 3] = ["message", "join", "mark"];

pub(super) fn redis(experiment: &Experiment) -> Result<Vec<Row>> {
    let whole_median = |figure: &str| Ok::<_, anyhow::Error>(whole(experiment.median(figure)?));
    let trips = of_cases(experiment, "round_trips", 2)?;
    let cpu = of_cases(experiment, "roles/redis_masters/cpu/us", 0)?;
    let setting = format!(
        "{} messages or marks a second in rooms of {} on {} gateways",
        whole_median("/scenario/rate")?,
        whole_median("/scenario/room_size")?,
        whole_median("/scenario/gateways")?
    );
    let idle = experiment.median("/cases/idle/round_trips")?;
    let shown_by = format!("`bench redis`, {}", experiment.links());
    let row = |what: &str, figure| [what.to_owned(), figure, "the same".to_owned()];
    let mut rows = vec![
        [
            format!("commands to Redis for a message / a join / a read mark, {setting}"),
            trips,
            shown_by,
        ],
        row(
            "CPU time of the Redis masters for each",
            format!("{cpu} us"),
        ),
        row("commands a second while nobody does anything", whole(idle)),
        row(
            "bytes for a message: to masters / from them / to replicas / on the cluster bus",
            message_bytes(experiment)?,
        ),
        placement(experiment)?,
    ];
    rows.extend(connections(experiment));
    rows.extend(saturation(experiment));
    Ok(rows)
}

fn of_cases(experiment: &Experiment, figure: &str, digits: usize) -> Result<String> {
    let figures = CASES.map(|case| experiment.median(&format!("/cases/{case}/{figure}")));
    let figures = figures.into_iter().collect::<Result<Vec<_>>>()?;
    let texts: Vec<_> = figures
        .iter()
        .map(|figure| format!("{figure:.digits$}"))
        .collect();
    Ok(texts.join(" / "))
}

fn message_bytes(experiment: &Experiment) -> Result<String> {
    let ways = ["in", "out", "replication_out", "bus_out"];
    let texts = ways.map(|way| {
        let figure = format!("/cases/message/roles/redis_masters/bytes/{way}");
        // What goes over the bus is unknown if Redis runs elsewhere.
        experiment
            .median(&figure)
            .map_or_else(|_| "?".to_owned(), whole)
    });
    Ok(texts.join(" / "))
}

fn placement(experiment: &Experiment) -> Result<Row> {
    let of = |name: &str| {
        experiment
            .numbers(&format!("/placement/{name}"))
            .map(largest)
    };
    let what = format!(
        "{} shards on {} masters: of the busiest / the least possible",
        of("shards")?,
        of("masters")?
    );
    let figure = format!("{} / {}", of("busiest_shards")?, of("even_shards")?);
    Ok([what, figure, "the same".to_owned()])
}

/// None if the gateways ran elsewhere.
fn connections(experiment: &Experiment) -> Option<Row> {
    let of = |name: &str| experiment.worst(&format!("/placement/{name}")).ok();
    let what = "connections of the gateways to Redis / gateways times nodes".to_owned();
    let figure = format!("{} / {}", of("connections")?, of("gateways_by_nodes")?);
    Some([what, figure, "the same".to_owned()])
}

/// None if that was not asked for.
fn saturation(experiment: &Experiment) -> Option<Row> {
    let of = |name: &str| experiment.median(&format!("/saturation/most/{name}"));
    let of = |name: &str| of(name).context("no saturation").ok();
    let figure = format!(
        "{} / {:.0} us / {:.2}",
        whole(of("messages_per_second")?),
        of("master_us_per_message")?,
        of("master_cpu_share")?
    );
    let what = "all messages on one master, as many as there can be: messages a second / its CPU time \
                for each / its share of a core";
    Some([what.to_owned(), figure, "the same".to_owned()])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::results::tests::results, *};

    fn figures(saturation: &Value) -> Vec<String> {
        let case = |trips: f64| {
            let bytes = json!({"in": 527, "out": 1103, "replication_out": 540, "bus_out": 2726});
            let masters = json!({"cpu": {"us": 20.4 * trips}, "bytes": bytes});
            json!({"round_trips": trips, "roles": {"redis_masters": masters}})
        };
        let run = json!({
            "scenario": {"rate": 1000, "room_size": 10, "gateways": 2},
            "cases": {
                "idle": case(70.4), "message": case(1.0), "join": case(2.5), "mark": case(0.61),
            },
            "placement": {
                "shards": 64, "masters": 3, "busiest_shards": 22, "even_shards": 22,
                "connections": 18, "gateways_by_nodes": 12,
            },
            "saturation": saturation,
        });
        let results = results(&[("redis", "", run)]);
        let rows = redis(results.of_kind("redis").next().unwrap()).unwrap();
        rows.into_iter().map(|[_, figure, _]| figure).collect()
    }

    #[test]
    fn each_case_is_shown_with_its_commands_and_cost() {
        assert_eq!(
            figures(&Value::Null),
            [
                "1.00 / 2.50 / 0.61",
                "20 / 51 / 12 us",
                "70",
                "527 / 1,103 / 540 / 2,726",
                "22 / 22",
                "18 / 12",
            ]
        );
    }

    #[test]
    fn a_full_master_is_shown_if_there_was_one() {
        let most = json!({
            "messages_per_second": 23_583.2, "master_us_per_message": 16.7, "master_cpu_share": 0.39,
        });
        let figures = figures(&json!({"most": most}));
        assert_eq!(figures.last().unwrap(), "23,583 / 17 us / 0.39");
    }
}
