//! Plays the users and counts. Speaks only what `proto` says; links neither server.

mod chaos;
mod heap;
mod idle;
mod plot;
mod process;
mod render;
mod report;
mod seed;
mod socket;
mod uploads;
mod websocket;

use clap::{Parser, Subcommand};

/// Measurements of a running Slotcast.
#[derive(Parser)]
#[command(name = "bench", version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Proof of delivery: real processes under load, faults from a seed, and the clients' own records.
    Chaos(chaos::Options),
    /// What the heap of a gateway is made of, from the profile that it wrote.
    Heap(heap::Options),
    /// Memory of one gateway that holds connections which joined a room and are idle.
    Idle(idle::Options),
    /// README's tables and the plots, written from the results.
    Report(render::Options),
    /// Memory of one backend through which forms with files stream.
    Uploads(uploads::Options),
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match options.command {
        Command::Chaos(options) => runtime.block_on(chaos::run(options)),
        Command::Heap(options) => heap::run(&options),
        Command::Idle(options) => runtime.block_on(idle::run(options)),
        Command::Report(options) => render::run(&options),
        Command::Uploads(options) => runtime.block_on(uploads::run(options)),
    }
}
