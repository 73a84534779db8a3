//! Plays the users and counts. Speaks only what `proto` says; links neither server.

mod chaos;
mod clock;
mod cost;
mod crowd;
mod heap;
mod idle;
mod limits;
mod load;
mod monitor;
mod node;
mod plot;
mod process;
mod ramp;
mod render;
mod report;
mod rest;
mod seed;
mod socket;
mod stats;
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
    /// Latency, cost and exact delivery in one large room.
    Fanout(load::fanout::Options),
    /// What the heap of a gateway is made of, from the profile that it wrote.
    Heap(heap::Options),
    /// Memory of one gateway that holds connections which joined a room and are idle.
    Idle(idle::Options),
    /// A storm of sockets: handshakes, authentications and joins as fast as they go.
    Join(load::join::Options),
    /// Deliveries that a bare loop of writes makes on this machine.
    Limit(load::limit::Options),
    /// The process that `limit` reads from.
    #[command(hide = true)]
    LimitWriter(load::writer::Options),
    /// What users of a chat do all at once, and how many of them are carried.
    Mixed(load::mixed::Options),
    /// The original competition: users by the hundred, until too many fail.
    Ramp(ramp::Options),
    /// What Redis is asked for: commands, bytes and CPU time a message, a join, a read mark; who holds what.
    Redis(load::redis::Options),
    /// README's tables and the plots, written from the results.
    Report(render::Options),
    /// Latency, cost and exact delivery in many small rooms.
    Rooms(load::rooms::Options),
    /// Latency in many small rooms without and with a storm of logins.
    Storm(load::storm::Options),
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
        Command::Fanout(options) => runtime.block_on(load::fanout::run(options)),
        Command::Heap(options) => heap::run(&options),
        Command::Idle(options) => runtime.block_on(idle::run(options)),
        Command::Join(options) => runtime.block_on(load::join::run(options)),
        Command::Limit(options) => runtime.block_on(load::limit::run(options)),
        Command::LimitWriter(options) => load::writer::run(&options),
        Command::Mixed(options) => runtime.block_on(load::mixed::run(options)),
        Command::Ramp(options) => runtime.block_on(ramp::run(options)),
        Command::Redis(options) => runtime.block_on(load::redis::run(options)),
        Command::Report(options) => render::run(&options),
        Command::Rooms(options) => runtime.block_on(load::rooms::run(options)),
        Command::Storm(options) => runtime.block_on(load::storm::run(options)),
        Command::Uploads(options) => runtime.block_on(uploads::run(options)),
    }
}
