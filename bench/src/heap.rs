//! What a gateway's heap is made of: sums up the profile that a gateway built with the feature
//! `heap-profile` writes when it is told to end (format: DHAT of Valgrind, `dh_view`), by where in our
//! source each piece was asked for.

use std::{collections::HashMap, fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::report::Report;

/// Options of `bench heap`.
#[derive(Args)]
pub(crate) struct Options {
    /// The profile, `dhat-heap.json`.
    profile: PathBuf,
    /// Connections that the gateway had when it was told to end.
    #[arg(long)]
    connections: usize,
    /// File for the report.
    #[arg(long)]
    report: Option<PathBuf>,
}

/// A place that has fewer pieces than one for so many connections is no part of a connection.
const CONNECTIONS_PER_PIECE_MAX: u64 = 20;

/// Folders whose frames name a place; a frame of any other is passed over for its caller's.
const OWN: [&str; 2] = ["gateway/src/", "proto/src/"];

/// Where memory passes through on its way to whoever needs it.
const ALLOCATING: [&str; 6] = [
    "gateway/src/main.rs",
    "dhat-",
    "alloc/src/",
    "src/raw_vec",
    "core/src/",
    "hashbrown",
];

#[derive(Debug, Deserialize)]
struct Profile {
    #[serde(rename = "pps")]
    points: Vec<Point>,
    #[serde(rename = "ftbl")]
    frames: Vec<String>,
}

/// Allocations of one call stack that were there at the end.
#[derive(Debug, Deserialize)]
struct Point {
    #[serde(rename = "eb", default)]
    bytes: u64,
    #[serde(rename = "ebk", default)]
    blocks: u64,
    /// Indices of frames, innermost first.
    #[serde(rename = "fs")]
    stack: Vec<usize>,
}

#[derive(Debug, Default, Serialize)]
struct Figures {
    connections: usize,
    /// Bytes asked for per connection, by places that belong to connections.
    bytes_per_connection: f64,
    /// The same for everything else on the heap, shared by all.
    other_bytes: u64,
    places: Vec<Place>,
}

/// Where pieces were asked for.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Place {
    source: String,
    bytes_per_connection: f64,
    pieces_per_connection: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.connections > 0, "connections must not be 0");
    let path = options.profile.display();
    let json = fs::read(&options.profile).with_context(|| format!("cannot read {path}"))?;
    let profile = serde_json::from_slice(&json).with_context(|| format!("{path} is no profile"))?;
    let report = Report::new(figures(&profile, options.connections));
    report.print()?;
    match &options.report {
        Some(path) => report.write(path),
        None => Ok(()),
    }
}

fn figures(profile: &Profile, connections: usize) -> Figures {
    let mut sums: HashMap<String, (u64, u64)> = HashMap::new();
    for point in &profile.points {
        let (bytes, blocks) = sums.entry(place(profile, point)).or_default();
        *bytes += point.bytes;
        *blocks += point.blocks;
    }
    let count = connections as f64;
    let mut figures = Figures {
        connections,
        ..Figures::default()
    };
    for (source, (bytes, blocks)) in sums {
        if blocks * CONNECTIONS_PER_PIECE_MAX < connections as u64 {
            figures.other_bytes += bytes;
            continue;
        }
        figures.bytes_per_connection += bytes as f64 / count;
        figures.places.push(Place {
            source,
            bytes_per_connection: bytes as f64 / count,
            pieces_per_connection: blocks as f64 / count,
        });
    }
    let by_bytes = |a: &Place, b: &Place| b.bytes_per_connection.total_cmp(&a.bytes_per_connection);
    figures.places.sort_by(by_bytes);
    figures
}

/// The innermost place in our source on the stack, else the innermost that is no allocator.
fn place(profile: &Profile, point: &Point) -> String {
    let frames = point.stack.iter().filter_map(|at| profile.frames.get(*at));
    let places = frames.filter_map(|frame| source(frame));
    let is_allocating = |place: &&str| ALLOCATING.iter().any(|part| place.contains(part));
    let places: Vec<_> = places.filter(|place| !is_allocating(place)).collect();
    let is_own = |place: &&&str| OWN.iter().any(|own| place.starts_with(own));
    let found = places.iter().find(is_own).or_else(|| places.first());
    found.map_or_else(|| "unknown".to_owned(), |place| (*place).to_owned())
}

/// The place in a frame like `0x55d0: enter<App> (gateway/src/hub.rs:75:9)`.
fn source(frame: &str) -> Option<&str> {
    frame.rsplit_once(" (")?.1.strip_suffix(')')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        let frames = [
            "[root]",
            "0x1: push<u8> (alloc/src/vec.rs:1:2)",
            "0x2: enter<gateway::app::App> (gateway/src/hub.rs:3:4)",
            "0x3: new_task (src/runtime/task.rs:5:6)",
        ];
        let point = |bytes, blocks, stack: &[usize]| Point {
            bytes,
            blocks,
            stack: stack.to_vec(),
        };
        Profile {
            points: vec![
                point(6_000, 100, &[1, 2]),
                point(2_000, 100, &[1, 2, 3]),
                point(40_000, 100, &[3]),
                point(1_000_000, 4, &[1]),
            ],
            frames: frames.map(str::to_owned).to_vec(),
        }
    }

    #[test]
    fn pieces_are_summed_up_by_the_innermost_place_of_ours() {
        let figures = figures(&profile(), 100);
        let places: Vec<_> = figures
            .places
            .iter()
            .map(|place| (place.source.as_str(), place.bytes_per_connection))
            .collect();
        assert_eq!(
            places,
            [
                ("src/runtime/task.rs:5:6", 400.0),
                ("gateway/src/hub.rs:3:4", 80.0)
            ]
        );
        assert!((figures.bytes_per_connection - 480.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_is_there_a_few_times_belongs_to_no_connection() {
        assert_eq!(figures(&profile(), 100).other_bytes, 1_000_000);
    }
}
