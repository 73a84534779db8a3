//! Properties of the codecs and the peer: what is encoded decodes to itself, and no input panics.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use slotcast_proto::limits::{ATTACHMENTS_MAX, PEER_EVENTS_MAX, PEER_TRANSMITS_MAX};
use slotcast_proto::wire::event::decode_event;
use slotcast_proto::wire::peer::{Peer, PeerConfig, PeerEvent};
use slotcast_proto::wire::socketio::AckId;
use slotcast_proto::wire::{Millis, engineio, socketio};

proptest! {
    #[test]
    fn an_engine_packet_decodes_to_itself(packet_type in 0..7_u8, text in any::<String>()) {
        let packet = engine_packet(packet_type, &text);
        let engineio::Encoded::Text(frame) = packet.encode() else {
            panic!("text packets are text");
        };
        prop_assert_eq!(engineio::Packet::decode_text(&frame), Ok(packet));
    }

    #[test]
    fn a_binary_packet_decodes_to_itself(bytes in any::<Vec<u8>>()) {
        let packet = engineio::Packet::decode_binary(&bytes);
        prop_assert_eq!(packet.encode(), engineio::Encoded::Binary(&bytes));
    }

    #[test]
    fn a_socket_packet_decodes_to_itself(parts in parts()) {
        let packet = parts.packet();
        let text = packet.encode();
        prop_assert_eq!(socketio::Packet::decode(&text), Ok(packet));
        prop_assert_eq!(packet.encode_frame(), format!("4{text}"));
    }

    #[test]
    fn what_decodes_encodes_to_something_that_decodes_the_same(text in packet_like()) {
        if let Ok(packet) = socketio::Packet::decode(&text) {
            let encoded = packet.encode();
            prop_assert_eq!(socketio::Packet::decode(&encoded), Ok(packet));
        }
        let _ = engineio::Packet::decode_text(&text);
        let _ = decode_event(&text);
    }

    #[test]
    fn no_input_panics_a_peer_or_leaves_it_unbounded(
        inputs in proptest::collection::vec(input(), 0..40)
    ) {
        let config = PeerConfig {
            ping_interval_ms: 100,
            ping_timeout_ms: 200,
            connect_timeout_ms: 150,
            max_payload_bytes: 64,
        };
        let mut now = Millis::new(0);
        let mut peer = Peer::new("e1", &config, now);
        let mut is_over = false;
        for input in inputs {
            let outcome = apply(&mut peer, input, &mut now);
            prop_assert!(!is_over || outcome.is_ok());
            is_over |= outcome.is_err();
            if peer.poll_timeout() == Millis::NEVER {
                is_over = true;
            } else {
                prop_assert!(!is_over);
                prop_assert!(peer.poll_timeout() <= now + 200);
            }
        }
        drain(&mut peer)?;
    }
}

fn apply(
    peer: &mut Peer,
    input: Input,
    now: &mut Millis,
) -> Result<(), slotcast_proto::wire::Violation> {
    match input {
        Input::Text(text) => return peer.handle_text(&text, *now),
        Input::Binary(bytes) => return peer.handle_binary(&bytes, *now),
        Input::Wait(ms) => {
            *now = *now + ms;
            peer.handle_timeout(*now);
        }
        Input::Deadline => {
            if peer.poll_timeout() != Millis::NEVER {
                *now = (*now).max(peer.poll_timeout());
            }
            peer.handle_timeout(*now);
        }
        Input::Accept => peer.accept("s1", None),
        Input::Refuse => peer.refuse("no"),
        Input::Disconnect => peer.disconnect(),
        Input::Poll => {
            peer.poll_event();
            peer.poll_transmit();
        }
    }
    Ok(())
}

fn drain(peer: &mut Peer) -> Result<(), TestCaseError> {
    let mut is_closed = false;
    for events in 0.. {
        let Some(event) = peer.poll_event() else {
            break;
        };
        prop_assert!(
            events <= PEER_EVENTS_MAX,
            "one more than the bound: the close"
        );
        prop_assert!(!is_closed, "nothing follows a close");
        is_closed = matches!(event, PeerEvent::Closed(_));
    }
    let transmits = std::iter::from_fn(|| peer.poll_transmit()).count();
    // Answers of the owner and one ping come on top of what the client can cause.
    prop_assert!(transmits <= PEER_TRANSMITS_MAX + 40);
    Ok(())
}

#[derive(Clone, Debug)]
enum Input {
    Text(String),
    Binary(Vec<u8>),
    Wait(u32),
    Deadline,
    Accept,
    Refuse,
    Disconnect,
    Poll,
}

fn input() -> impl Strategy<Value = Input> {
    let plausible = prop_oneof![
        Just("40"),
        Just("40/a"),
        Just("41"),
        Just("3"),
        Just(r#"42["ping"]"#),
        Just(r#"42["joinRoom",1]"#),
        Just(r#"452-["a"]"#),
        Just("461-1[]"),
        Just("430[]"),
    ];
    prop_oneof![
        8 => plausible.prop_map(|text| Input::Text(text.into())),
        1 => packet_like().prop_map(Input::Text),
        2 => proptest::collection::vec(any::<u8>(), 0..70).prop_map(Input::Binary),
        2 => (0..120_u32).prop_map(Input::Wait),
        2 => Just(Input::Deadline),
        4 => Just(Input::Accept),
        1 => Just(Input::Refuse),
        1 => Just(Input::Disconnect),
        3 => Just(Input::Poll),
    ]
}

/// Text that often gets far into the decoders, and text that is anything.
fn packet_like() -> impl Strategy<Value = String> {
    prop_oneof![
        r#"[0-9]{0,3}-?(/[a-z]{0,3},?)?[0-9]{0,20}[\[{"]?[ -~]{0,20}[\]}]?"#,
        r#"\["(chatMessage|fetchPreviousMessages|markMessagesAsRead|messageReaction|joinRoom)",.{0,40}\]"#,
        any::<String>(),
    ]
}

fn engine_packet(packet_type: u8, text: &str) -> engineio::Packet<'_> {
    match packet_type {
        0 => engineio::Packet::Open(text),
        1 => engineio::Packet::Close,
        2 => engineio::Packet::Ping(text),
        3 => engineio::Packet::Pong(text),
        4 => engineio::Packet::Message(text),
        5 => engineio::Packet::Upgrade,
        _ => engineio::Packet::Noop,
    }
}

#[derive(Clone, Debug)]
struct Parts {
    packet_type: u8,
    namespace: String,
    ack: Option<u64>,
    attachments: u8,
    array: String,
    object: Option<String>,
}

fn parts() -> impl Strategy<Value = Parts> {
    let namespace = "/[^,]{0,15}";
    let ack = proptest::option::of(0..10_u64.pow(16));
    (
        0..7_u8,
        namespace,
        ack,
        1..=ATTACHMENTS_MAX,
        any::<String>(),
        any::<bool>(),
    )
        .prop_map(
            |(packet_type, namespace, ack, attachments, rest, has_object)| Parts {
                packet_type,
                namespace,
                ack,
                attachments,
                array: format!("[{rest}"),
                object: has_object.then(|| format!("{{{rest}")),
            },
        )
}

impl Parts {
    fn packet(&self) -> socketio::Packet<'_> {
        let namespace = self.namespace.as_str();
        let payload = self.array.as_str();
        let ack = self.ack.and_then(AckId::new);
        let answered = AckId::new(self.ack.unwrap_or_default()).unwrap();
        let attachments = self.attachments;
        match self.packet_type {
            0 => socketio::Packet::Connect {
                namespace,
                payload: self.object.as_deref(),
            },
            1 => socketio::Packet::Disconnect { namespace },
            2 => socketio::Packet::Event {
                namespace,
                ack,
                payload,
            },
            3 => socketio::Packet::Ack {
                namespace,
                ack: answered,
                payload,
            },
            4 => {
                let payload = self.object.as_deref().unwrap_or("\"refused\"");
                socketio::Packet::ConnectError { namespace, payload }
            }
            5 => socketio::Packet::BinaryEvent {
                namespace,
                ack,
                attachments,
                payload,
            },
            _ => socketio::Packet::BinaryAck {
                namespace,
                ack: answered,
                attachments,
                payload,
            },
        }
    }
}
