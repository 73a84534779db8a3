//! What is stored in Redis and what travels over it.
//!
//! | module | holds |
//! |---|---|
//! | [`key`] | every key and channel name |
//! | [`record`] | fields of the stored hashes, the stored form of a message |
//! | [`bus`] | messages on the shard channels |
//! | [`library`] | the function library and the names of its functions |

pub mod bus;
pub mod key;
pub mod library;
pub mod record;
