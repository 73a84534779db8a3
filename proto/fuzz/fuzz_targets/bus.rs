//! Bus messages, ids and stored runs: any text is read or refused, and what is read is written alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slotcast_proto::{
    id::{MessageId, RoomId, StreamPosition, UserId},
    schema::{bus::BusMessage, key::Channel, record::ReadRuns},
};

fuzz_target!(|text: &str| {
    let _ = BusMessage::parse(text);
    let _ = ReadRuns::parse(text).contains(1);
    let _ = text.parse::<StreamPosition>();
    if let Ok(id) = text.parse::<MessageId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(id) = text.parse::<RoomId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(id) = text.parse::<UserId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Some(channel) = Channel::parse(text) {
        assert_eq!(channel.to_string(), text);
    }
});
