//! Slotcast gateway.
fn main() {}
