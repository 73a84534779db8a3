//! The chat's events: what a client may ask ([`ClientEvent`]) and what a server tells it ([`ServerEvent`]).

mod client;
mod server;

pub use client::{
    ChatMessage, ClientEvent, Decoded, EventName, FileData, ReactionOp, decode_arguments,
};
pub use server::*;
