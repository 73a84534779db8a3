//! Writes README's tables and the plots from the files in `bench/results`, or says which of them
//! show something else.

mod faults;
mod markdown;
mod numbers;
mod results;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::results::Results;

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
    fs::write(options.root.join(README), rendered.readme)?;
    Ok(())
}

/// README as the results have it.
struct Rendered {
    readme: String,
    /// Names of what is otherwise on disk.
    differing: Vec<String>,
}

impl Rendered {
    fn of(root: &Path) -> Result<Self> {
        let results = Results::read(root)?;
        let blocks = [
            ("numbers", numbers::table(&results)?),
            ("faults", faults::table(&results)?),
        ];
        let mut readme = fs::read_to_string(root.join(README)).context(README)?;
        let mut differing = Vec::new();
        for (name, fresh) in blocks {
            let replaced = replace(&readme, name, &fresh)?;
            if replaced != readme {
                differing.push(name.to_owned());
                readme = replaced;
            }
        }
        Ok(Self { readme, differing })
    }
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
    use super::*;

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
    fn a_block_without_a_place_is_an_error() {
        let unclosed = "<!-- bench:x -->\n";
        let reversed = "<!-- /bench:x -->\n<!-- bench:x -->\n";
        for document in ["", unclosed, reversed] {
            let error = replace(document, "x", "").unwrap_err();
            assert!(error.to_string().contains("bench:x"), "{error}");
        }
    }
}
