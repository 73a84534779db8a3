//! Writes README's tables and the plots from the files in `bench/results`, or says which of them
//! show something else.

mod faults;
mod goals;
mod loads;
mod markdown;
mod mixed;
mod numbers;
mod redis;
mod results;
mod storm;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Deserialize;

use self::results::Results;
use crate::plot::{self, Point};

/// Options of `bench report`.
#[derive(Args)]
pub(crate) struct Options {
    /// Folder that README.md and bench/results lie in.
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// Write nothing; fail and name what differs from the results.
    #[arg(long)]
    check: bool,
}

/// The document with the blocks, relative to the root.
const README: &str = "README.md";

pub(crate) fn run(options: &Options) -> Result<()> {
    let rendered = Rendered::of(&options.root)?;
    if options.check {
        let differing = rendered.differing.join(", ");
        ensure!(
            differing.is_empty(),
            "not as in {}: {differing}; `bench report` writes them",
            results::FOLDER
        );
        return Ok(());
    }
    for (path, text) in rendered.files {
        fs::write(options.root.join(&path), text)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// README and the plots as the results have them.
struct Rendered {
    /// By paths relative to the root.
    files: Vec<(PathBuf, String)>,
    /// Names of what is otherwise on disk: blocks and plots.
    differing: Vec<String>,
}

impl Rendered {
    fn of(root: &Path) -> Result<Self> {
        let results = Results::read(root)?;
        let mut readme = fs::read_to_string(root.join(README)).context(README)?;
        let mut differing = Vec::new();
        for (name, fresh) in [
            ("goals", goals::table(&results)?),
            ("numbers", numbers::table(&results)?),
            ("faults", faults::table(&results)?),
        ] {
            let replaced = replace(&readme, name, &fresh)?;
            if replaced != readme {
                differing.push(name.to_owned());
                readme = replaced;
            }
        }
        let mut files = vec![(PathBuf::from(README), readme)];
        for (path, svg) in plots(&results)? {
            if fs::read_to_string(root.join(&path)).ok().as_ref() != Some(&svg) {
                differing.push(path.display().to_string());
            }
            files.push((path, svg));
        }
        Ok(Self { files, differing })
    }
}

/// What is read of a ramp's figures.
#[derive(Deserialize)]
struct Ramp {
    points: Vec<Point>,
}

/// A plot beside each result file of a ramp.
fn plots(results: &Results) -> Result<Vec<(PathBuf, String)>> {
    let mut plots = Vec::new();
    for experiment in results.of_kind("ramp") {
        for (file, ramp) in experiment.files().zip(experiment.figures::<Ramp>()?) {
            let path = Path::new(results::FOLDER).join(file).with_extension("svg");
            plots.push((path, plot::ramp(&ramp.points).context(file.to_owned())?));
        }
    }
    Ok(plots)
}

/// The document with other lines between a block's two markers.
fn replace(document: &str, name: &str, fresh: &str) -> Result<String> {
    let (begin, end) = (
        format!("<!-- bench:{name} -->\n"),
        format!("<!-- /bench:{name} -->\n"),
    );
    let parts = document.split_once(&begin).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(&end)?;
        Some((before, after))
    });
    let (before, after) =
        parts.with_context(|| format!("no block bench:{name} in the document"))?;
    Ok(format!("{before}{begin}{fresh}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{results::tests::results, *};

    #[test]
    fn readme_shows_the_results() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let rendered = Rendered::of(root).unwrap();
        assert_eq!(rendered.differing, [""; 0], "run `bench report`");
    }

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let document = "a\n<!-- bench:x -->\n| 1 |\n<!-- /bench:x -->\nb\n";
        let replaced = replace(document, "x", "| 2 |\n").unwrap();
        let expected = "a\n<!-- bench:x -->\n| 2 |\n<!-- /bench:x -->\nb\n";
        assert_eq!(replaced, expected);
        assert_eq!(replace(&replaced, "x", "| 2 |\n").unwrap(), expected);
    }

    #[test]
    fn each_run_of_a_ramp_is_plotted_beside_its_file() {
        let point = |at_seconds: u32| {
            json!({
                "at_seconds": at_seconds, "users": 100, "failed": 0, "p50_ms": 2, "p95_ms": 5,
                "p99_ms": 9, "gateway_cpu_cores": 0.1, "backend_cpu_cores": 0.2,
                "redis_cpu_cores": 0.1, "client_cpu_cores": 0.1, "gateway_mib": 6, "backend_mib": 30,
            })
        };
        let figures = || json!({"points": [point(0), point(30)]});
        let results = results(&[("ramp-run1", "", figures()), ("ramp-run2", "", figures())]);
        let plots = plots(&results).unwrap();
        let paths: Vec<_> = plots
            .iter()
            .map(|(path, _)| path.to_str().unwrap())
            .collect();
        assert_eq!(
            paths,
            ["bench/results/ramp-run1.svg", "bench/results/ramp-run2.svg"]
        );
        assert!(plots.iter().all(|(_, svg)| svg.starts_with("<svg")));
    }

    #[test]
    fn a_block_without_a_place_is_an_error() {
        let unclosed = "<!-- bench:x -->\n";
        let reversed = "<!-- /bench:x -->\n<!-- bench:x -->\n";
        for document in ["", unclosed, reversed] {
            let error = replace(document, "x", "").unwrap_err();
            assert!(error.to_string().contains("bench:x"), "{error}");
        }
    }
}
