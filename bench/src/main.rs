//! Slotcast bench.
fn main() {}
