//! Slotcast backend.
fn main() {}
