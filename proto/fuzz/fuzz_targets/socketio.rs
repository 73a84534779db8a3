//! Socket.IO packets: what decodes encodes to text that decodes the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slotcast_proto::wire::socketio::Packet;

fuzz_target!(|text: &str| {
    if let Ok(packet) = Packet::decode(text) {
        assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
    }
});
