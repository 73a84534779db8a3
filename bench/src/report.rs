//! What a measurement leaves behind: one JSON file that names its command, commit and machine.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use serde::Serialize;

/// The frame around a measurement's own figures.
#[derive(Serialize)]
pub(crate) struct Report<T> {
    /// The command line that made it.
    command: String,
    commit: String,
    kernel: String,
    cores: usize,
    cpu: String,
    memory_mib: u64,
    /// When it was made, UTC.
    time: String,
    figures: T,
}

impl<T: Serialize> Report<T> {
    pub(crate) fn new(figures: T) -> Self {
        Self {
            command: std::env::args().collect::<Vec<_>>().join(" "),
            commit: commit(),
            kernel: output_of("uname", &["-r"]),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: line_of("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            memory_mib: memory_kib().unwrap_or_default() / 1024,
            time: output_of("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            figures,
        }
    }

    /// Prints the report.
    #[expect(clippy::print_stdout, reason = "it is what the command is for")]
    pub(crate) fn print(&self) -> Result<()> {
        println!("{}", serde_json::to_string_pretty(self)?);
        Ok(())
    }

    /// Writes the report to a file.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The commit, and `-dirty` behind it if other tracked files than results and README, which shows them, have
/// been changed.
fn commit() -> String {
    let commit = output_of("git", &["describe", "--always"]);
    let status = ["status", "--porcelain", "--untracked-files=no", "--", ":/"];
    let others = [":(top,exclude)bench/results", ":(top,exclude)README.md"];
    let arguments: Vec<_> = status.into_iter().chain(others).collect();
    match output_of("git", &arguments).as_str() {
        "" => commit,
        _ => commit + "-dirty",
    }
}

fn memory_kib() -> Option<u64> {
    let total = line_of("/proc/meminfo", "MemTotal")?;
    total.strip_suffix(" kB")?.parse().ok()
}

/// What stands behind the first `name` and a colon (proc(5)).
fn line_of(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(key, _)| key.trim() == name)?;
    Some(value.trim().to_owned())
}

fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
