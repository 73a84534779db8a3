//! What two Slotcast processes must agree on.

pub mod limits;
pub mod wire;
