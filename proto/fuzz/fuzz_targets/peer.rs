//! One connection: the input's lines are what happens to it, in order.
//!
//! A line that starts with `!` is an act of the owner or of time, one with `#` a binary frame, any
//! other a text frame.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slotcast_proto::limits::{PEER_EVENTS_MAX, PEER_TRANSMITS_MAX};
use slotcast_proto::wire::Millis;
use slotcast_proto::wire::peer::{Peer, PeerConfig, PeerEvent};

const CONFIG: PeerConfig = PeerConfig {
    ping_interval_ms: 100,
    ping_timeout_ms: 200,
    connect_timeout_ms: 150,
    max_payload_bytes: 4_096,
};

fuzz_target!(|data: &[u8]| {
    let mut now = Millis::new(0);
    let mut peer = Peer::new("e1", &CONFIG, now);
    let mut is_over = false;
    for line in data.split(|byte| *byte == b'\n') {
        let outcome = match line {
            [b'!', b'a', ..] => Ok(peer.accept("s1", Some("p1"))),
            [b'!', b'r', ..] => Ok(peer.refuse("no")),
            [b'!', b'd', ..] => Ok(peer.disconnect()),
            [b'!', ms, ..] => {
                now = now + u32::from(*ms);
                Ok(peer.handle_timeout(now))
            }
            [b'#', bytes @ ..] => peer.handle_binary(bytes, now),
            text => match std::str::from_utf8(text) {
                Ok(text) => peer.handle_text(text, now),
                Err(_) => continue,
            },
        };
        assert!(!is_over || outcome.is_ok());
        is_over |= outcome.is_err();
        if line.len() % 2 == 0 {
            is_over |= drain(&mut peer);
        }
        assert!(!is_over || peer.poll_timeout() == Millis::NEVER);
    }
});

/// Takes everything out; says whether the connection closed.
fn drain(peer: &mut Peer) -> bool {
    let events: Vec<_> = std::iter::from_fn(|| peer.poll_event()).collect();
    assert!(events.len() <= PEER_EVENTS_MAX + 1);
    // The owner's answers, at most two for each event, come on top of the client's share.
    let transmits = std::iter::from_fn(|| peer.poll_transmit()).count();
    assert!(transmits <= PEER_TRANSMITS_MAX + 2 * (PEER_EVENTS_MAX + 1));
    matches!(events.last(), Some(PeerEvent::Closed(_)))
}
