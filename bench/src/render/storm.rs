//! Rows of what chat takes beside a storm of logins.

use anyhow::Result;

use super::{
    loads::{gateways, runs, same, scenario},
    markdown::whole,
    numbers::Row,
    results::Experiment,
};

pub(super) fn rows(experiment: &Experiment) -> Result<Vec<Row>> {
    let median = |figure: &str| experiment.median(&format!("/median/{figure}"));
    let latency = |part: &str| {
        let of = |quantile: &str| median(&format!("{part}/latency_us/{quantile}"));
        anyhow::Ok(format!("{} / {}", whole(of("p50")?), whole(of("p99")?)))
    };
    let figure = format!("{} and {} us", latency("calm")?, latency("storm")?);
    let until = "until all of them have logged in / attempts that were answered with 429 or 503 \
                 / the backends' CPU time for a login"
        .to_owned();
    let logins = format!(
        "{:.1} s / {} / {:.0} ms",
        median("logins/seconds")?,
        whole(median("logins/refusals")?),
        median("storm/servers/backend/cpu_seconds")? / median("logins/logins")? * 1000.0
    );
    let shown_by = format!("`bench storm`, {}", runs(experiment)?);
    Ok(vec![
        [what(experiment)?, figure, shown_by],
        [until, logins, same()],
    ])
}

fn what(experiment: &Experiment) -> Result<String> {
    Ok(format!(
        "{} sockets in rooms of {} on {}, {} messages a second: from due to delivered, half / 99 %, before and \
         while {} users log in at once",
        scenario(experiment, "sockets")?,
        scenario(experiment, "room_size")?,
        gateways(experiment)?,
        scenario(experiment, "rate")?,
        scenario(experiment, "logins")?,
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::results::tests::results, *};

    #[test]
    fn chat_is_shown_without_and_with_the_storm() {
        let latency = |p99: u32| json!({"p50": 210, "p99": p99});
        let run = json!({
            "calm": {"latency_us": latency(900)},
            "storm": {"latency_us": latency(1_400), "servers": {"backend": {"cpu_seconds": 11.0}}},
            "logins": {"logins": 500, "seconds": 7.04, "refusals": 242},
        });
        let scenario = json!({
            "logins": 500, "sockets": 2000, "room_size": 10, "rate": 1000, "gateways": 2,
        });
        let figures = json!({"scenario": scenario, "runs": [run, run], "median": run});
        let results = results(&[("storm", "", figures)]);
        let rows = rows(results.of_kind("storm").next().unwrap()).unwrap();
        assert!(rows[0][0].starts_with("2,000 sockets in rooms of 10 on 2 gateways, 1,000 mess"));
        assert!(rows[0][0].ends_with("before and while 500 users log in at once"));
        assert_eq!(rows[0][1], "210 / 900 and 210 / 1,400 us");
        assert!(rows[0][2].contains("2 runs in"));
        assert_eq!(rows[1][1], "7.0 s / 242 / 22 ms");
    }
}
