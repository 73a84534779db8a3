//! Payloads of client events.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slotcast_proto::limits::{MARKED_MESSAGES_MAX, REACTION_BYTES_MAX};
use slotcast_proto::wire::event::{ClientEvent, Decoded, decode_event};

fuzz_target!(|payload: &str| {
    let Ok(Decoded::Event(event)) = decode_event(payload) else {
        return;
    };
    match event {
        ClientEvent::MarkMessagesAsRead { message_ids } => {
            assert!(message_ids.len() <= MARKED_MESSAGES_MAX);
        }
        ClientEvent::MessageReaction { reaction, .. } => {
            assert!(reaction.len() <= REACTION_BYTES_MAX);
        }
        _ => {}
    }
});
