//! What two Slotcast processes must agree on.
