//! Engine.IO text frames: what decodes encodes to itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slotcast_proto::wire::engineio::{Encoded, Packet};

fuzz_target!(|text: &str| {
    if let Ok(packet) = Packet::decode_text(text) {
        assert_eq!(packet.encode(), Encoded::Text(text.to_owned()));
    }
});
