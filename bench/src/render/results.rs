//! The result files, run by run.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// Where the result files lie, relative to the root.
pub(super) const FOLDER: &str = "bench/results";

/// All result files.
pub(super) struct Results {
    experiments: BTreeMap<String, Experiment>,
}

/// The runs of one measurement: `NAME.json`, or `NAME-run1.json`, `NAME-run2.json` and so on.
pub(super) struct Experiment {
    name: String,
    runs: BTreeMap<u32, Run>,
}

/// One result file.
struct Run {
    file: String,
    report: Report,
}

/// What is read of a report (`crate::report::Report`).
#[derive(Deserialize)]
struct Report {
    command: String,
    figures: Value,
}

impl Results {
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut experiments = BTreeMap::new();
        for entry in fs::read_dir(root.join(FOLDER)).context(FOLDER)? {
            let path = entry?.path();
            let file = path.file_name().and_then(|name| name.to_str());
            let Some(stem) = file.and_then(|file| file.strip_suffix(".json")) else {
                continue;
            };
            let report = serde_json::from_slice(&fs::read(&path)?);
            let report = report.with_context(|| format!("no report: {}", path.display()))?;
            add(&mut experiments, stem, report)?;
        }
        Ok(Self { experiments })
    }

    /// The measurements called `kind`, or `kind` and something more (`idle`: `idle-10000`).
    pub(super) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Experiment> {
        self.experiments.values().filter(move |experiment| {
            let rest = experiment.name.strip_prefix(kind);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
    }

    /// The measurement of this very name.
    pub(super) fn named(&self, name: &str) -> Option<&Experiment> {
        self.experiments.get(name)
    }
}

fn add(experiments: &mut BTreeMap<String, Experiment>, stem: &str, report: Report) -> Result<()> {
    let (name, number) = name_and_run(stem);
    let experiment = experiments.entry(name.to_owned());
    let experiment = experiment.or_insert_with(|| Experiment {
        name: name.to_owned(),
        runs: BTreeMap::new(),
    });
    let run = Run {
        file: format!("{stem}.json"),
        report,
    };
    if let Some(other) = experiment.runs.insert(number, run) {
        bail!("{stem}.json and {} are the same run", other.file);
    }
    Ok(())
}

fn name_and_run(stem: &str) -> (&str, u32) {
    let parts = stem.rsplit_once("-run");
    let numbered = parts.and_then(|(name, number)| Some((name, number.parse().ok()?)));
    numbered.unwrap_or((stem, 1))
}

impl Experiment {
    /// The middle one of the runs' figures.
    pub(super) fn median(&self, pointer: &str) -> Result<f64> {
        Ok(median(self.numbers(pointer)?))
    }

    /// The largest of the runs' figures.
    pub(super) fn worst(&self, pointer: &str) -> Result<f64> {
        Ok(largest(self.numbers(pointer)?))
    }

    /// The smallest of the runs' figures.
    pub(super) fn least(&self, pointer: &str) -> Result<f64> {
        let numbers = self.numbers(pointer)?;
        Ok(numbers.into_iter().fold(f64::INFINITY, f64::min))
    }

    /// The runs' figures together.
    pub(super) fn sum(&self, pointer: &str) -> Result<f64> {
        Ok(self.numbers(pointer)?.iter().sum())
    }

    /// One figure (JSON pointer, RFC 6901) of each run; the items of a list one by one.
    pub(super) fn numbers(&self, pointer: &str) -> Result<Vec<f64>> {
        let mut numbers = Vec::new();
        for run in self.runs.values() {
            let figure = run.report.figures.pointer(pointer);
            let found = match figure {
                Some(Value::Array(items)) => items.iter().map(Value::as_f64).collect(),
                Some(_) | None => figure.and_then(Value::as_f64).map(|number| vec![number]),
            };
            let found = found.filter(|found| !found.is_empty());
            numbers.extend(found.with_context(|| format!("no {pointer} in {}", run.file))?);
        }
        Ok(numbers)
    }

    /// Each run's figures.
    pub(super) fn figures<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        let figures = self.runs.values().map(|run| {
            let figures = T::deserialize(&run.report.figures);
            figures.with_context(|| format!("other figures are expected in {}", run.file))
        });
        figures.collect()
    }

    /// Each run's file.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.runs.values().map(|run| run.file.as_str())
    }

    /// What the runs' command lines say after an option.
    pub(super) fn option(&self, name: &str) -> Result<&str> {
        let mut values = self.runs.values().map(|run| {
            let mut words = run.report.command.split_whitespace();
            words.find(|word| *word == name).and_then(|_| words.next())
        });
        let first = values.next().flatten();
        let value = first.with_context(|| format!("{} was run without {name}", self.name))?;
        ensure!(
            values.all(|other| other == first),
            "runs of {} differ in {name}",
            self.name
        );
        Ok(value)
    }

    /// Links to its files: one by its name, several by their numbers.
    pub(super) fn links(&self) -> String {
        let mut links = Vec::new();
        for (number, Run { file, .. }) in &self.runs {
            links.push(if self.runs.len() == 1 {
                format!("[`{file}`]({FOLDER}/{file})")
            } else {
                format!("[{number}]({FOLDER}/{file})")
            });
        }
        match self.runs.len() {
            1 => links.concat(),
            _ => format!("`{}`, runs {}", self.name, links.join(" ")),
        }
    }
}

/// The middle one, or the mean of the middle two.
pub(super) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = |index: usize| numbers.get(index).copied().unwrap_or(f64::NAN);
    let count = numbers.len();
    f64::midpoint(middle(count.saturating_sub(1) / 2), middle(count / 2))
}

pub(super) fn largest(numbers: Vec<f64>) -> f64 {
    numbers.into_iter().fold(f64::NEG_INFINITY, f64::max)
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// Made-up results: file name without its ending, command, figures.
    pub(in crate::render) fn results(files: &[(&str, &str, Value)]) -> Results {
        let mut experiments = BTreeMap::new();
        for (stem, command, figures) in files {
            let report = Report {
                command: (*command).to_owned(),
                figures: figures.clone(),
            };
            add(&mut experiments, stem, report).unwrap();
        }
        Results { experiments }
    }

    fn only(results: &Results) -> &Experiment {
        assert_eq!(results.experiments.len(), 1);
        results.experiments.values().next().unwrap()
    }

    #[test]
    fn runs_are_gathered_under_their_name_in_the_order_of_their_numbers() {
        let figures = || json!({"n": 1});
        let results = results(&[
            ("idle-5-run10", "", figures()),
            ("idle-5-run2", "", figures()),
            ("idle-5", "", figures()),
        ]);
        assert_eq!(
            only(&results).links(),
            "`idle-5`, runs [1](bench/results/idle-5.json) \
             [2](bench/results/idle-5-run2.json) [10](bench/results/idle-5-run10.json)"
        );
    }

    #[test]
    fn a_run_alone_is_linked_by_its_file_name() {
        let results = results(&[("idle", "", json!({}))]);
        assert_eq!(
            only(&results).links(),
            "[`idle.json`](bench/results/idle.json)"
        );
    }

    #[test]
    fn two_files_of_one_run_are_refused() {
        let mut experiments = BTreeMap::new();
        let report = || Report {
            command: String::new(),
            figures: Value::Null,
        };
        add(&mut experiments, "idle", report()).unwrap();
        assert!(add(&mut experiments, "idle-run1", report()).is_err());
    }

    #[test]
    fn a_kind_is_a_whole_word() {
        let results = results(&[
            ("chaos-cuts-5", "", json!({})),
            ("chaos-cutsome", "", json!({})),
        ]);
        let names: Vec<_> = results.of_kind("chaos-cuts").map(|e| &e.name).collect();
        assert_eq!(names, ["chaos-cuts-5"]);
    }

    #[test]
    fn runs_come_to_a_median_a_worst_and_a_sum() {
        let results = results(&[
            ("x-run1", "", json!([{"n": 5, "list": [1, 9]}])),
            ("x-run2", "", json!([{"n": 1, "list": [2]}])),
            ("x-run3", "", json!([{"n": 2.5, "list": [3]}])),
        ]);
        let experiment = only(&results);
        assert_eq!(experiment.median("/0/n").unwrap(), 2.5);
        assert_eq!(experiment.worst("/0/n").unwrap(), 5.0);
        assert_eq!(experiment.sum("/0/n").unwrap(), 8.5);
        assert_eq!(experiment.numbers("/0/list").unwrap(), [1.0, 9.0, 2.0, 3.0]);
    }

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        assert_eq!(median(vec![9.0, 1.0, 4.0, 2.0]), 3.0);
    }

    #[test]
    fn a_figure_that_a_run_lacks_is_an_error_that_names_the_file() {
        let results = results(&[("x", "", json!({"list": []}))]);
        for pointer in ["/n", "/list"] {
            let error = only(&results).median(pointer).unwrap_err();
            assert!(error.to_string().contains("x.json"), "{error}");
        }
    }

    #[test]
    fn options_are_read_from_the_command_and_must_agree() {
        let results = results(&[
            ("x-run1", "bench chaos --clients 5 --seconds 6", json!({})),
            ("x-run2", "bench chaos --clients 5 --seconds 7", json!({})),
        ]);
        let experiment = only(&results);
        assert_eq!(experiment.option("--clients").unwrap(), "5");
        assert!(experiment.option("--seconds").is_err());
        assert!(experiment.option("--rooms").is_err());
    }
}
