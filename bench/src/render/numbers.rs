//! The table of numbers: one function a kind of measurement. Of several runs it shows the median; of
//! what is a maximum, the worst; of what was lost, the sum.

use anyhow::{Context, Result};
use serde::{Deserialize, de::IgnoredAny};

use super::{
    loads::{self, same},
    markdown::{self, whole},
    mixed, redis,
    results::{Experiment, Results, largest},
    storm,
};

const HEAD: [&str; 3] = ["what", "figure", "shown by"];

pub(super) type Row = [String; 3];

/// A measurement's kind, and what is said of one.
type Kind = (&'static str, fn(&Experiment) -> Result<Vec<Row>>);

const KINDS: [Kind; 13] = [
    ("ramp", loads::ramp),
    ("mixed", mixed::rows),
    ("idle", idle),
    ("rooms", loads::rooms),
    ("fanout", loads::fanout),
    ("join", loads::join),
    ("redis", redis::redis),
    ("storm", storm::rows),
    ("uploads", uploads),
    ("chaos-cuts", cuts),
    ("chaos-kill-gateway", killed_gateways),
    ("chaos-slow-readers", slow_readers),
    ("chaos-drain", drains),
];

pub(super) fn table(results: &Results) -> Result<String> {
    let mut rows = Vec::new();
    for (kind, rows_of) in KINDS {
        for experiment in results.of_kind(kind) {
            rows.extend(rows_of(experiment)?);
        }
    }
    Ok(markdown::table(HEAD, &rows))
}

fn idle(experiment: &Experiment) -> Result<Vec<Row>> {
    let bytes = |step: &str| Ok::<_, anyhow::Error>(whole(experiment.median(step)?));
    let steps = format!(
        "a gateway's memory for each of {} connections: opened / authenticated / in a room of {}",
        whole(experiment.median("/connections")?),
        whole(experiment.median("/room_size")?)
    );
    let grown = format!(
        "{} / {} / {} bytes",
        bytes("/opened_bytes")?,
        bytes("/authenticated_bytes")?,
        bytes("/joined_bytes")?
    );
    let rest = format!(
        "the same after {} s of rest and a heartbeat",
        experiment.option("--rest-seconds")?
    );
    let rested = format!("{} bytes", bytes("/rested_bytes")?);
    let shown_by = format!("`bench idle`, {}", experiment.links());
    let kernel = format!("{} bytes", bytes("/kernel_bytes")?);
    let cores = format!("{:.4} cores", experiment.median("/rest_cores")?);
    Ok(vec![
        [steps, grown, shown_by],
        [rest, rested, same()],
        [
            "the kernel's share of such a connection".to_owned(),
            kernel,
            same(),
        ],
        [
            "what the gateway spends on all of them at rest, heartbeats included".to_owned(),
            cores,
            same(),
        ],
    ])
}

fn uploads(experiment: &Experiment) -> Result<Vec<Row>> {
    let what = format!(
        "a backend's memory while {} forms with {} MiB each stream through it at once: idle / peak",
        whole(experiment.median("/uploads")?),
        whole(experiment.median("/size_mib")?)
    );
    let figure = format!(
        "{:.1} / {:.1} MiB, {:.2} MiB an upload",
        experiment.median("/idle_kib")? / 1024.0,
        experiment.worst("/peak_kib")? / 1024.0,
        experiment.worst("/kib_per_upload")? / 1024.0
    );
    let cpu = experiment.median("/backend_cpu_seconds_per_gib")?;
    let shown_by = format!("`bench uploads`, {}", experiment.links());
    Ok(vec![
        [what, figure, shown_by],
        [
            "its CPU time for that".to_owned(),
            format!("{cpu:.2} s per GiB"),
            same(),
        ],
    ])
}

fn cuts(experiment: &Experiment) -> Result<Vec<Row>> {
    let what = format!(
        "{} clients whose sockets are cut every {} s, for {} s: reconnects / of them recovered / \
         messages lost, twice or out of order",
        clients(experiment)?,
        experiment.option("--cut-every")?,
        experiment.option("--seconds")?
    );
    let figure = format!(
        "{} / {}",
        reconnects(experiment)?,
        broken_promises(experiment)?
    );
    Ok(vec![[what, figure, chaos(experiment)]])
}

fn killed_gateways(experiment: &Experiment) -> Result<Vec<Row>> {
    let what = format!(
        "{} clients, a gateway killed {} times in {} s: reconnects / of them recovered / messages \
         lost, twice or out of order",
        clients(experiment)?,
        whole(experiment.median("/0/injections")?),
        experiment.option("--seconds")?
    );
    let figure = format!(
        "{} / {}",
        reconnects(experiment)?,
        broken_promises(experiment)?
    );
    let back = format!(
        "{:.1} / {:.1} / {:.1} s",
        experiment.median("/0/back_seconds/p50")?,
        experiment.median("/0/back_seconds/p99")?,
        experiment.worst("/0/back_seconds/max")?
    );
    Ok(vec![
        [what, figure, chaos(experiment)],
        [
            "until such a client had everything again: half of them / 99 % / all".to_owned(),
            back,
            same(),
        ],
    ])
}

fn slow_readers(experiment: &Experiment) -> Result<Vec<Row>> {
    let what = format!(
        "delivery to others within (99 %), without slow readers / with {} of the clients reading \
         1 KiB a second",
        experiment.option("--slow-readers")?.replace('%', " %")
    );
    let figure = format!(
        "{:.0} / {:.0} ms",
        experiment.median("/0/delivery_ms/p99")?,
        experiment.median("/0/crowded_delivery_ms/p99")?
    );
    Ok(vec![[what, figure, chaos(experiment)]])
}

fn drains(experiment: &Experiment) -> Result<Vec<Row>> {
    let rates = experiment.numbers("/0/shed_per_second")?;
    let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let what = format!(
        "{} clients, {} drains of a gateway at {} clients a second: shed a second, the slowest / the \
         fastest drain / messages lost, twice or out of order",
        clients(experiment)?,
        rates.len(),
        experiment.option("--drain-per-second")?
    );
    let figure = format!(
        "{least:.1} / {:.1} / {}",
        largest(rates),
        broken_promises(experiment)?
    );
    Ok(vec![[what, figure, chaos(experiment)]])
}

fn clients(experiment: &Experiment) -> Result<String> {
    let clients = experiment.option("--clients")?;
    Ok(whole(clients.parse().context("--clients is no number")?))
}

/// Reconnects, and how many of them the server recovered.
fn reconnects(experiment: &Experiment) -> Result<String> {
    let reconnects = experiment.median("/0/recovered")? + experiment.median("/0/reloads")?;
    let not_recovered = experiment.sum("/0/reloads")?;
    let recovered = if not_recovered > 0.0 {
        format!("all but {}", whole(not_recovered))
    } else {
        "all".to_owned()
    };
    Ok(format!("{} / {recovered}", whole(reconnects)))
}

/// What is read of a row of `bench chaos` to count broken promises.
#[derive(Deserialize)]
struct Verdict {
    lost: f64,
    duplicated: f64,
    reordered: f64,
    /// Runs that broke any promise.
    failures: Vec<IgnoredAny>,
}

/// Messages lost, twice or out of order, and whether runs failed: for that there are more reasons.
fn broken_promises(experiment: &Experiment) -> Result<String> {
    let (mut messages, mut failed) = (0.0, 0);
    for verdict in experiment.figures::<Vec<Verdict>>()?.into_iter().flatten() {
        messages += verdict.lost + verdict.duplicated + verdict.reordered;
        failed += verdict.failures.len();
    }
    Ok(match failed {
        0 => whole(messages),
        _ => format!("{}, {failed} failed", whole(messages)),
    })
}

fn chaos(experiment: &Experiment) -> String {
    format!("`bench chaos`, {}", experiment.links())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::results::tests::results, *};

    /// The cells `what` and `figure` of each row.
    fn cells_of(files: &[(&str, &str, Value)]) -> Vec<(String, String)> {
        let table = table(&results(files)).unwrap();
        let cells = table.lines().skip(2).map(|line| {
            let cells: Vec<_> = line.split(" | ").collect();
            (cells[0].replace("| ", ""), cells[1].to_owned())
        });
        cells.collect()
    }

    fn figures_of(files: &[(&str, &str, Value)]) -> Vec<String> {
        let cells = cells_of(files).into_iter();
        cells.map(|(_, figure)| figure).collect()
    }

    fn chaos_run(recovered: u32, reloads: u32, lost: u32, back_max: f64) -> Value {
        json!([{
            "injections": 13, "recovered": recovered, "reloads": reloads, "lost": lost,
            "duplicated": 1, "reordered": 0, "failures": vec![Value::Null; usize::from(lost > 0)],
            "back_seconds": {"p50": 0.1, "p99": 1.0, "max": back_max},
            "shed_per_second": [97.25, 100.0],
        }])
    }

    #[test]
    fn memory_is_the_median_of_the_runs() {
        let run = |joined: u32| {
            json!({
                "connections": 10_000, "room_size": 10, "opened_bytes": 1200,
                "authenticated_bytes": 1900, "joined_bytes": joined, "rested_bytes": joined,
                "kernel_bytes": 4300, "rest_cores": 0.0125,
            })
        };
        let command = "bench idle --rest-seconds 30";
        let cells = cells_of(&[
            ("idle-run1", command, run(2300)),
            ("idle-run2", command, run(2100)),
            ("idle-run3", command, run(2200)),
        ]);
        assert!(cells[0].0.contains("each of 10,000 connections"));
        assert_eq!(cells[0].1, "1,200 / 1,900 / 2,200 bytes");
        assert!(cells[1].0.contains("30 s of rest"));
        assert_eq!(cells[1].1, "2,200 bytes");
        assert_eq!(cells[2].1, "4,300 bytes");
        assert_eq!(cells[3].1, "0.0125 cores");
    }

    #[test]
    fn the_worst_peak_of_uploads_is_shown() {
        let run = |peak: u32, cpu: f64| {
            json!({
                "uploads": 50, "size_mib": 20, "idle_kib": 1024, "peak_kib": peak,
                "kib_per_upload": 512, "backend_cpu_seconds_per_gib": cpu,
            })
        };
        let figures = figures_of(&[
            ("uploads-run1", "", run(2048, 0.5)),
            ("uploads-run2", "", run(4096, 0.7)),
        ]);
        assert_eq!(
            figures,
            ["1.0 / 4.0 MiB, 0.50 MiB an upload", "0.60 s per GiB"]
        );
    }

    #[test]
    fn losses_failed_runs_and_clients_not_recovered_are_not_hidden() {
        let command = "bench chaos --cut-every 15 --seconds 60 --clients 10000";
        let good = figures_of(&[("chaos-cuts", command, chaos_run(40_000, 0, 0, 1.0))]);
        assert_eq!(good, ["40,000 / all / 1"]);
        let bad = figures_of(&[
            ("chaos-cuts-run1", command, chaos_run(40_000, 0, 0, 1.0)),
            ("chaos-cuts-run2", command, chaos_run(39_990, 10, 2, 1.0)),
        ]);
        assert_eq!(bad, ["40,000 / all but 10 / 4, 1 failed"]);
    }

    #[test]
    fn the_last_client_to_be_back_is_that_of_all_runs() {
        let command = "bench chaos --clients 12000 --seconds 40";
        let file = |name, max| (name, command, chaos_run(5, 0, 0, max));
        let cells = cells_of(&[
            file("chaos-kill-gateway-run1", 9.0),
            file("chaos-kill-gateway-run2", 12.5),
        ]);
        assert!(
            cells[0]
                .0
                .starts_with("12,000 clients, a gateway killed 13 times in 40 s")
        );
        assert_eq!(cells[1].1, "0.1 / 1.0 / 12.5 s");
    }

    #[test]
    fn drains_show_the_slowest_and_the_fastest() {
        let command = "bench chaos --clients 3000 --drain-per-second 100";
        let cells = cells_of(&[("chaos-drain", command, chaos_run(5, 0, 0, 1.0))]);
        assert!(
            cells[0]
                .0
                .starts_with("3,000 clients, 2 drains of a gateway at 100 clients")
        );
        assert_eq!(cells[0].1, "97.2 / 100.0 / 1");
    }

    #[test]
    fn slow_readers_show_the_others_without_and_with_them() {
        let run = json!([{
            "delivery_ms": {"p99": 38.2}, "crowded_delivery_ms": {"p99": 35.0},
        }]);
        let command = "bench chaos --slow-readers 10%";
        let cells = cells_of(&[("chaos-slow-readers", command, run)]);
        assert!(cells[0].0.contains("with 10 % of the clients"));
        assert_eq!(cells[0].1, "38 / 35 ms");
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        assert_eq!(table(&results(&[])).unwrap(), "");
    }
}
