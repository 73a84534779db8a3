//! What two Slotcast processes must agree on, and nothing else.
//!
//! The crate is pure: no socket, clock, randomness, environment or async runtime. Whoever calls
//! passes the time, the random bits and the bytes in.
//!
//! | module | the agreement |
//! |---|---|
//! | [`id`] | ids of users, rooms, messages, files, sessions, gateways |
//! | [`slot`] | CRC16 slots, hash tags, the operator's shards |
//! | [`schema`] | Redis keys and channels, stored records, the bus, the function library |
//! | [`token`] | access token claims |
//! | [`wire`] | what clients and gateway say to each other: packets, peer, events |
//! | [`limits`] | every bound of the protocols |
//!
//! # Deploy order
//!
//! | change | order |
//! |---|---|
//! | the function library | any: its name carries a hash of its source, versions live side by side |
//! | a new kind of bus message | gateways first: an unknown kind is counted and ignored |
//! | a new field of a stored record | any: unknown fields are ignored, missing ones have a default |

pub mod id;
pub mod limits;
pub mod schema;
pub mod slot;
pub mod token;
pub mod wire;
