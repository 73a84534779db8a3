//! The peer against what socket.io-client really sends, and against clients that misbehave.
//!
//! Frames of tests named `recorded` were written down by a WebSocket server that socket.io-client
//! 4.8.4 talked to.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use slotcast_proto::limits;
use slotcast_proto::wire::event::{ChatMessage, ClientEvent, EventName, ReactionOp};
use slotcast_proto::wire::peer::{ConnectAuth, Peer, PeerClosed, PeerConfig, PeerEvent};
use slotcast_proto::wire::socketio::AckId;
use slotcast_proto::wire::{Millis, Violation};

const CONFIG: PeerConfig = PeerConfig {
    ping_interval_ms: limits::PING_INTERVAL_MS_DEFAULT,
    ping_timeout_ms: limits::PING_TIMEOUT_MS_DEFAULT,
    connect_timeout_ms: limits::CONNECT_TIMEOUT_MS_DEFAULT,
    max_payload_bytes: limits::MAX_PAYLOAD_BYTES_DEFAULT,
};

const ROOM: &str = "6921564fc0ffee0123456789";

#[test]
fn a_recorded_session_comes_out_as_events() {
    let mut peer = Peer::new("e1", &CONFIG, at(0));
    assert_eq!(
        peer.poll_transmit().unwrap(),
        r#"0{"sid":"e1","upgrades":[],"pingInterval":25000,"pingTimeout":60000,"maxPayload":1048576}"#
    );
    assert_eq!(
        sent(&mut peer, r#"40{"token":"t1","sessionId":"s1"}"#),
        PeerEvent::Connect(ConnectAuth {
            token: Some("t1".into()),
            session_id: Some("s1".into()),
            ..ConnectAuth::default()
        })
    );
    peer.accept("s1", Some("p1"));
    assert_eq!(
        peer.poll_transmit().unwrap(),
        r#"40{"sid":"s1","pid":"p1"}"#
    );

    for (text, event) in recorded_events() {
        assert_eq!(
            sent(&mut peer, text),
            PeerEvent::Event { event, ack: None },
            "{text}"
        );
    }
    assert_eq!(
        sent(&mut peer, r#"420["ping",null]"#),
        PeerEvent::Event {
            event: ClientEvent::Ping,
            ack: AckId::new(0)
        }
    );
    assert_eq!(sent(&mut peer, "41"), PeerEvent::Disconnect);
    assert_eq!(peer.poll_transmit(), None);
}

fn recorded_events() -> Vec<(&'static str, ClientEvent)> {
    vec![
        (
            r#"42["joinRoom","6921564fc0ffee0123456789"]"#,
            ClientEvent::JoinRoom(ROOM.into()),
        ),
        (
            r#"42["chatMessage",{"room":"6921564fc0ffee0123456789","type":"text","content":"안녕 \"q\"\n 😀"}]"#,
            ClientEvent::ChatMessage(Some(ChatMessage {
                room: Some(ROOM.into()),
                kind: Some("text".into()),
                content: Some("안녕 \"q\"\n 😀".into()),
                ..ChatMessage::default()
            })),
        ),
        (r#"42["chatMessage"]"#, ClientEvent::ChatMessage(None)),
        (r#"42["chatMessage",null]"#, ClientEvent::ChatMessage(None)),
        (
            r#"42["fetchPreviousMessages",{"roomId":"6921564fc0ffee0123456789","limit":30,"before":1795332990123}]"#,
            ClientEvent::FetchPreviousMessages {
                room_id: ROOM.into(),
                limit: Some(30),
                before: Some(1_795_332_990_123),
            },
        ),
        (
            r#"42["markMessagesAsRead",{"messageIds":["6921564fc0ffee01234567aa"]}]"#,
            ClientEvent::MarkMessagesAsRead {
                message_ids: vec!["6921564fc0ffee01234567aa".into()],
            },
        ),
        (
            r#"42["messageReaction",{"messageId":"6921564fc0ffee01234567aa","reaction":"😀","type":"add"}]"#,
            ClientEvent::MessageReaction {
                message_id: "6921564fc0ffee01234567aa".into(),
                reaction: "😀".into(),
                op: ReactionOp::Add,
            },
        ),
    ]
}

#[test]
fn a_recorded_reconnect_offers_what_recovery_needs() {
    let text = r#"40{"pid":"p1","offset":"5-1","token":"t1","sessionId":"s1"}"#;
    assert_eq!(
        sent(&mut fresh(), text),
        PeerEvent::Connect(ConnectAuth {
            token: Some("t1".into()),
            session_id: Some("s1".into()),
            pid: Some("p1".into()),
            offset: Some("5-1".into()),
        })
    );
}

#[test]
fn recorded_binary_events_are_counted_and_delivered_as_unknown() {
    let mut peer = accepted();
    let unknown = |ack| {
        Some(PeerEvent::Event {
            event: ClientEvent::Unknown,
            ack,
        })
    };
    let two =
        r#"452-["upload",{"a":{"_placeholder":true,"num":0},"b":{"_placeholder":true,"num":1}}]"#;
    peer.handle_text(two, at(0)).unwrap();
    peer.handle_binary(&[1, 2], at(0)).unwrap();
    assert_eq!(peer.poll_event(), None);
    peer.handle_binary(&[3], at(0)).unwrap();
    assert_eq!(peer.poll_event(), unknown(None));

    peer.handle_text(r#"451-1["upload",{"_placeholder":true,"num":0}]"#, at(0))
        .unwrap();
    peer.handle_text("3", at(0)).unwrap();
    peer.handle_binary(&[4], at(0)).unwrap();
    assert_eq!(peer.poll_event(), unknown(AckId::new(1)));
}

#[test]
fn answers_to_nothing_are_ignored() {
    let mut peer = accepted();
    peer.handle_text(r#"437[{"ok":true}]"#, at(0)).unwrap();
    peer.handle_text(r#"461-7[{"_placeholder":true,"num":0}]"#, at(0))
        .unwrap();
    peer.handle_binary(&[5], at(0)).unwrap();
    assert_eq!(peer.poll_event(), None);
}

#[test]
fn another_namespace_is_refused_and_the_connection_stays() {
    for mut peer in [fresh(), accepted()] {
        peer.handle_text("40/admin,", at(0)).unwrap();
        let refusal = r#"44/admin,{"message":"Invalid namespace"}"#;
        assert_eq!(peer.poll_transmit().unwrap(), refusal);
        assert_eq!(peer.poll_event(), None);
        assert!(peer.poll_timeout() < Millis::NEVER);
    }
}

#[test]
fn credentials_of_the_wrong_type_count_as_missing() {
    for payload in [
        "",
        "{}",
        r#"{"token":null,"sessionId":7}"#,
        r#"{"token":{"a":["b"]},"pid":true,"offset":1.5,"x":"\ud800"}"#,
        r#"{"token":"t","token":null}"#,
    ] {
        assert_eq!(
            sent(&mut fresh(), &format!("40{payload}")),
            PeerEvent::Connect(ConnectAuth::default()),
            "{payload}"
        );
    }
}

#[test]
fn credentials_do_not_show_in_debug_output() {
    let event = sent(&mut fresh(), r#"40{"token":"secret","sessionId":"secret"}"#);
    assert!(!format!("{event:?}").contains("secret"));
}

#[test]
fn a_payload_that_does_not_fit_its_event_is_told_apart_and_harmless() {
    let mut peer = accepted();
    let undecodable = |name, ack| PeerEvent::Undecodable { name, ack };
    assert_eq!(
        sent(&mut peer, r#"425["joinRoom",{"id":1}]"#),
        undecodable(EventName::JoinRoom, AckId::new(5))
    );
    assert_eq!(
        sent(&mut peer, r#"42["chatMessage","text"]"#),
        undecodable(EventName::ChatMessage, None)
    );
    assert!(matches!(
        sent(&mut peer, r#"42["ping"]"#),
        PeerEvent::Event { .. }
    ));
}

#[test]
fn a_refused_client_may_ask_again() {
    let mut peer = fresh();
    sent(&mut peer, "40");
    peer.refuse("Invalid session");
    assert_eq!(
        peer.poll_transmit().unwrap(),
        r#"44{"message":"Invalid session"}"#
    );
    assert!(matches!(sent(&mut peer, "40"), PeerEvent::Connect(_)));
}

#[test]
fn a_client_that_left_may_come_back_within_the_connect_timeout() {
    let mut peer = accepted();
    peer.handle_text("41", at(20_000)).unwrap();
    assert_eq!(peer.poll_event(), Some(PeerEvent::Disconnect));
    peer.handle_timeout(at(25_000));
    peer.handle_text("3", at(25_000)).unwrap();
    assert_eq!(peer.poll_timeout(), at(50_000));
    peer.handle_timeout(at(50_000));
    assert_eq!(peer.poll_timeout(), at(65_000));
    peer.handle_timeout(at(65_000));
    assert_eq!(
        peer.poll_event(),
        Some(PeerEvent::Closed(PeerClosed::ConnectTimeout))
    );
}

#[test]
fn a_dismissed_client_is_told_and_what_it_had_under_way_is_ignored() {
    let mut peer = accepted();
    peer.disconnect();
    assert_eq!(peer.poll_transmit().unwrap(), "41");
    for text in [r#"42["ping"]"#, "430[]", "41", r#"451-["upload",{}]"#] {
        peer.handle_text(text, at(0)).unwrap();
    }
    peer.handle_binary(&[0], at(0)).unwrap();
    assert_eq!(peer.poll_event(), None);
    assert!(matches!(sent(&mut peer, "40"), PeerEvent::Connect(_)));
    assert_eq!(peer.poll_timeout(), at(25_000));
}

#[test]
fn an_answer_nobody_asked_for_changes_nothing() {
    let mut peer = fresh();
    peer.accept("s1", None);
    peer.refuse("no");
    peer.disconnect();
    assert_eq!(peer.poll_transmit(), None);
    assert_eq!(
        peer.handle_text(r#"42["ping"]"#, at(0)),
        Err(Violation::NotConnected)
    );
}

#[test]
fn a_ping_is_due_one_interval_after_the_last_pong() {
    let mut peer = accepted();
    assert_eq!(peer.poll_timeout(), at(25_000));
    peer.handle_timeout(at(24_999));
    assert_eq!(peer.poll_transmit(), None);
    peer.handle_timeout(at(25_000));
    assert_eq!(peer.poll_transmit().unwrap(), "2");
    assert_eq!(peer.poll_timeout(), at(85_000));
    peer.handle_text("3", at(26_000)).unwrap();
    assert_eq!(peer.poll_timeout(), at(51_000));
    peer.handle_text("3", at(27_000)).unwrap();
    assert_eq!(peer.poll_timeout(), at(52_000));
}

#[test]
fn an_unanswered_ping_closes_as_silent() {
    let mut peer = accepted();
    peer.handle_timeout(at(25_000));
    peer.handle_timeout(at(84_999));
    assert_eq!(peer.poll_event(), None);
    peer.handle_timeout(at(85_000));
    assert_eq!(
        peer.poll_event(),
        Some(PeerEvent::Closed(PeerClosed::Silent))
    );
    assert_over(peer);
}

#[test]
fn the_first_packet_after_a_ping_extends_its_timeout_once() {
    let mut peer = accepted();
    peer.handle_timeout(at(25_000));
    peer.handle_text(r#"42["ping"]"#, at(60_000)).unwrap();
    assert_eq!(peer.poll_timeout(), at(120_000));
    peer.handle_text(r#"42["ping"]"#, at(100_000)).unwrap();
    assert_eq!(peer.poll_timeout(), at(120_000));
}

#[test]
fn packets_do_not_postpone_a_ping() {
    let mut peer = accepted();
    peer.handle_text(r#"42["ping"]"#, at(20_000)).unwrap();
    assert_eq!(peer.poll_timeout(), at(25_000));
}

#[test]
fn an_owner_that_is_late_pings_before_it_gives_up() {
    let mut peer = accepted();
    peer.handle_timeout(at(1_000_000));
    assert_eq!(peer.poll_transmit().unwrap(), "2");
    assert_eq!(peer.poll_timeout(), at(1_060_000));
}

#[test]
fn a_client_without_accepted_connect_is_closed_in_time() {
    let mut undecided = fresh();
    sent(&mut undecided, "40");
    for mut peer in [fresh(), undecided] {
        peer.handle_timeout(at(25_000));
        assert_eq!(peer.poll_timeout(), at(45_000));
        peer.handle_timeout(at(45_000));
        assert_eq!(
            peer.poll_event(),
            Some(PeerEvent::Closed(PeerClosed::ConnectTimeout))
        );
        assert_over(peer);
    }
}

#[test]
fn a_client_may_close_the_transport() {
    let mut peer = accepted();
    assert_eq!(
        sent(&mut peer, "1"),
        PeerEvent::Closed(PeerClosed::ByClient)
    );
    assert_over(peer);
}

#[test]
fn before_connect_only_connect_is_heard() {
    for text in [
        r#"42["ping"]"#,
        "430[]",
        "41",
        r#"451-["a",{}]"#,
        r#"42/admin,["ping"]"#,
    ] {
        assert_violates(fresh(), text, Violation::NotConnected, 1002);
    }
    let mut undecided = fresh();
    sent(&mut undecided, "40");
    assert_violates(undecided, r#"42["ping"]"#, Violation::NotConnected, 1002);
    assert_violates(
        accepted(),
        r#"42/admin,["ping"]"#,
        Violation::NotConnected,
        1002,
    );
}

#[test]
fn a_second_connect_is_a_violation() {
    let mut undecided = fresh();
    sent(&mut undecided, "40");
    assert_violates(undecided, "40", Violation::ConnectedTwice, 1002);
    assert_violates(accepted(), "40/,{}", Violation::ConnectedTwice, 1002);
}

#[test]
fn packets_of_the_server_and_of_an_upgrade_are_violations() {
    for text in ["0{}", "2", "2probe", "5", "6"] {
        assert_violates(accepted(), text, Violation::EngineDirection, 1002);
    }
    assert_violates(accepted(), "44{}", Violation::SocketDirection, 1002);
}

#[test]
fn malformed_text_is_a_violation() {
    for (text, violation, close_code) in [
        ("", Violation::EngineType, 1002),
        ("x", Violation::EngineType, 1002),
        ("bAQI=", Violation::EngineType, 1002),
        ("4", Violation::SocketType, 1002),
        ("47[]", Violation::SocketType, 1002),
        ("42", Violation::Payload, 1007),
        ("42[", Violation::Payload, 1007),
        ("42[]", Violation::Payload, 1007),
        (r#"42{"a":1}"#, Violation::Payload, 1007),
        (r#"42["ping"]["ping"]"#, Violation::Payload, 1007),
        ("451-[null]", Violation::Payload, 1007),
        (r#"42["connect"]"#, Violation::ReservedEvent, 1008),
        (r#"4212345678901234567["ping"]"#, Violation::AckId, 1002),
        ("43[]", Violation::AckId, 1002),
        (r#"4511-["a"]"#, Violation::Attachments, 1002),
        (r#"45["a"]"#, Violation::Attachments, 1002),
    ] {
        assert_violates(accepted(), text, violation, close_code);
    }
    assert_violates(fresh(), r#"40{"token":}"#, Violation::Payload, 1007);
    let long = format!("40/{}", "n".repeat(limits::NAMESPACE_BYTES_MAX));
    assert_violates(fresh(), &long, Violation::Namespace, 1002);
}

#[test]
fn a_frame_above_its_bound_is_too_big_and_one_at_the_bound_is_not() {
    let stranger_max = limits::UNACCEPTED_PAYLOAD_BYTES_MAX as usize;
    assert_too_big(fresh(), stranger_max);
    assert_too_big(accepted(), CONFIG.max_payload_bytes as usize);

    let small = PeerConfig {
        max_payload_bytes: 100,
        ..CONFIG
    };
    assert_too_big(Peer::new("e1", &small, at(0)), 100);
}

fn assert_too_big(mut peer: Peer, bytes_max: usize) {
    let fits = format!("3{}", " ".repeat(bytes_max - 1));
    peer.handle_text(&fits, at(0)).unwrap();
    let bytes = bytes_max + 1;
    assert_violates(
        peer,
        &format!("{fits} "),
        Violation::TooBig { bytes, bytes_max },
        1009,
    );
}

#[test]
fn binary_frames_need_an_announcement() {
    for mut peer in [fresh(), accepted()] {
        assert_eq!(
            peer.handle_binary(&[1], at(0)),
            Err(Violation::UnannouncedBinary)
        );
        assert_over(peer);
    }
}

#[test]
fn attachments_are_bounded_together() {
    let mut peer = accepted();
    let half = vec![0; limits::ATTACHMENT_BYTES_MAX as usize / 2];
    peer.handle_text(r#"453-["a",{}]"#, at(0)).unwrap();
    peer.handle_binary(&half, at(0)).unwrap();
    peer.handle_binary(&half, at(0)).unwrap();
    let too_big = Violation::TooBig {
        bytes: limits::ATTACHMENT_BYTES_MAX as usize + 1,
        bytes_max: limits::ATTACHMENT_BYTES_MAX as usize,
    };
    assert_eq!(peer.handle_binary(&[0], at(0)), Err(too_big));
    assert_eq!(too_big.close_code(), 1009);
}

#[test]
fn a_packet_between_attachments_is_a_violation() {
    let mut peer = accepted();
    peer.handle_text(r#"452-["a",{}]"#, at(0)).unwrap();
    peer.handle_binary(&[1], at(0)).unwrap();
    assert_violates(
        peer,
        r#"42["ping"]"#,
        Violation::AttachmentsInterrupted,
        1002,
    );
}

#[test]
fn a_peer_nobody_drains_stays_bounded() {
    let mut peer = accepted();
    for _ in 0..limits::PEER_EVENTS_MAX {
        peer.handle_text(r#"42["ping"]"#, at(0)).unwrap();
    }
    assert_eq!(
        peer.handle_text(r#"42["ping"]"#, at(0)),
        Err(Violation::Flood)
    );
    assert_eq!(Violation::Flood.close_code(), 1008);

    let mut peer = fresh();
    for _ in 0..limits::PEER_TRANSMITS_MAX {
        peer.handle_text("40/a", at(0)).unwrap();
    }
    assert_eq!(peer.handle_text("40/a", at(0)), Err(Violation::Flood));
}

fn at(ms: u64) -> Millis {
    Millis::new(ms)
}

fn fresh() -> Peer {
    let mut peer = Peer::new("e1", &CONFIG, at(0));
    peer.poll_transmit();
    peer
}

fn accepted() -> Peer {
    let mut peer = fresh();
    sent(&mut peer, "40");
    peer.accept("s1", None);
    assert_eq!(peer.poll_transmit().unwrap(), r#"40{"sid":"s1"}"#);
    peer
}

fn sent(peer: &mut Peer, text: &str) -> PeerEvent {
    peer.handle_text(text, at(0)).unwrap();
    peer.poll_event().unwrap()
}

fn assert_violates(mut peer: Peer, text: &str, violation: Violation, close_code: u16) {
    assert_eq!(peer.handle_text(text, at(0)), Err(violation), "{text}");
    assert_eq!(violation.close_code(), close_code);
    assert_over(peer);
}

fn assert_over(mut peer: Peer) {
    assert_eq!(peer.poll_timeout(), Millis::NEVER);
    assert_eq!(peer.handle_text(r#"42["ping"]"#, at(0)), Ok(()));
    peer.handle_timeout(at(10_000_000));
    assert_eq!(peer.poll_event(), None);
    assert_eq!(peer.poll_transmit(), None);
}
