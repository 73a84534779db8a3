//! WebSocket frames of a server: those of clients are read strictly, ours are written unmasked.
//!
//! Nothing here reads a socket. [`Assembler::next`] works on whatever bytes there are, unmasks them in
//! place and borrows complete messages from them; only the fragments of an unfinished message are
//! kept. Source: RFC 6455, sections 5 and 7.4; no extension is negotiated.

use std::{borrow::Cow, mem};

use bytes::Bytes;
use fastwebsockets::unmask;

/// Most frames of one message. Browsers and the official clients send one; proxies that fragment cut
/// at kilobytes, and a megabyte in 1,024 frames has a kilobyte each.
pub(crate) const FRAGMENTS_MAX: u16 = 1024;

/// Longest payload of a control frame (RFC 6455, 5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// Longest header of a frame of ours: no mask.
const HEADER_BYTES_MAX: usize = 10;

/// What a client did that RFC 6455 forbids, or that exceeds a bound of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FrameViolation {
    /// A frame without mask (5.1).
    Unmasked,
    /// A reserved bit without an extension that uses it (5.2).
    ReservedBits,
    /// An opcode that nothing defines (5.2).
    Opcode,
    /// A length that would have fitted a shorter form, or with its highest bit set (5.2).
    Length,
    /// A control frame in fragments or longer than 125 bytes (5.5).
    Control,
    /// A continuation without a beginning, or a beginning before the last end (5.4).
    Continuation,
    /// More than [`FRAGMENTS_MAX`] frames of one message.
    TooManyFragments,
    /// A frame, or the frames of a message together, longer than allowed.
    TooBig,
    /// A text or a close reason that is not UTF-8 (8.1).
    Utf8,
    /// A close frame with half a code, or with a code that must not be sent (7.4).
    CloseCode,
}

impl FrameViolation {
    /// The close code to answer with (RFC 6455, 7.4.1).
    pub(crate) const fn close_code(self) -> u16 {
        match self {
            Self::TooBig => 1009,
            Self::TooManyFragments => 1008,
            Self::Utf8 => 1007,
            Self::Unmasked
            | Self::ReservedBits
            | Self::Opcode
            | Self::Length
            | Self::Control
            | Self::Continuation
            | Self::CloseCode => 1002,
        }
    }

    /// A short fixed word for a log field or a metric label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Unmasked => "frame_unmasked",
            Self::ReservedBits => "frame_reserved_bits",
            Self::Opcode => "frame_opcode",
            Self::Length => "frame_length",
            Self::Control => "frame_control",
            Self::Continuation => "frame_continuation",
            Self::TooManyFragments => "frame_fragments",
            Self::TooBig => "frame_too_big",
            Self::Utf8 => "frame_utf8",
            Self::CloseCode => "frame_close_code",
        }
    }
}

/// Something complete from a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// A text, borrowed unless it came in fragments.
    Text(Cow<'a, str>),
    /// Bytes, borrowed unless they came in fragments.
    Binary(Cow<'a, [u8]>),
    /// A ping, to be answered with the same payload.
    Ping(&'a [u8]),
    /// A pong; there is nothing to do.
    Pong,
    /// A close frame, with its code if it has one.
    Close(Option<u16>),
}

/// Puts the frames of one client together.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// Boxed: clients hardly ever fragment.
    unfinished: Option<Box<Unfinished>>,
}

#[derive(Debug)]
struct Unfinished {
    is_text: bool,
    frames: u16,
    payload: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

struct Header {
    is_final: bool,
    opcode: Opcode,
    mask: [u8; 4],
    header_bytes: usize,
    payload_bytes: usize,
}

impl Assembler {
    /// Takes complete frames off the front of `input` until they make a message; `None` when what is
    /// left is no complete frame.
    ///
    /// A frame that would make a message longer than `bytes_max` is refused by its header.
    ///
    /// # Errors
    /// The client's violation; nothing may be read from it any more.
    pub(crate) fn next<'a>(
        &mut self,
        input: &mut &'a mut [u8],
        bytes_max: usize,
    ) -> Result<Option<Message<'a>>, FrameViolation> {
        while let Some(header) = Header::decode(input)? {
            self.check(&header, bytes_max)?;
            let Some(frame_bytes) = header.header_bytes.checked_add(header.payload_bytes) else {
                return Err(FrameViolation::TooBig);
            };
            if input.len() < frame_bytes {
                return Ok(None);
            }
            let (frame, rest) = mem::take(input).split_at_mut(frame_bytes);
            *input = rest;
            let (_, payload) = frame.split_at_mut(header.header_bytes);
            unmask(payload, header.mask);
            if let Some(message) = self.take(&header, payload)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn check(&self, header: &Header, bytes_max: usize) -> Result<(), FrameViolation> {
        if header.opcode.is_control() {
            let is_whole = header.is_final && header.payload_bytes <= CONTROL_BYTES_MAX;
            return if is_whole {
                Ok(())
            } else {
                Err(FrameViolation::Control)
            };
        }
        let is_continuation = header.opcode == Opcode::Continuation;
        if is_continuation != self.unfinished.is_some() {
            return Err(FrameViolation::Continuation);
        }
        let (frames, kept) = self
            .unfinished
            .as_ref()
            .map_or((0, 0), |message| (message.frames, message.payload.len()));
        if frames >= FRAGMENTS_MAX {
            return Err(FrameViolation::TooManyFragments);
        }
        if header.payload_bytes > bytes_max.saturating_sub(kept) {
            return Err(FrameViolation::TooBig);
        }
        Ok(())
    }

    fn take<'a>(
        &mut self,
        header: &Header,
        payload: &'a [u8],
    ) -> Result<Option<Message<'a>>, FrameViolation> {
        match header.opcode {
            Opcode::Ping => Ok(Some(Message::Ping(payload))),
            Opcode::Pong => Ok(Some(Message::Pong)),
            Opcode::Close => close_code(payload).map(|code| Some(Message::Close(code))),
            Opcode::Text if header.is_final => {
                Ok(Some(Message::Text(Cow::Borrowed(text(payload)?))))
            }
            Opcode::Binary if header.is_final => Ok(Some(Message::Binary(Cow::Borrowed(payload)))),
            Opcode::Text | Opcode::Binary => {
                self.unfinished = Some(Box::new(Unfinished {
                    is_text: header.opcode == Opcode::Text,
                    frames: 1,
                    payload: payload.to_vec(),
                }));
                Ok(None)
            }
            Opcode::Continuation => self.continue_with(header.is_final, payload),
        }
    }

    fn continue_with<'a>(
        &mut self,
        is_final: bool,
        payload: &[u8],
    ) -> Result<Option<Message<'a>>, FrameViolation> {
        let mut message = self.unfinished.take().ok_or(FrameViolation::Continuation)?;
        message.payload.extend_from_slice(payload);
        message.frames = message.frames.saturating_add(1);
        if !is_final {
            self.unfinished = Some(message);
            return Ok(None);
        }
        if !message.is_text {
            return Ok(Some(Message::Binary(Cow::Owned(message.payload))));
        }
        text(&message.payload)?;
        let text = String::from_utf8(message.payload).map_err(|_| FrameViolation::Utf8)?;
        Ok(Some(Message::Text(Cow::Owned(text))))
    }
}

impl Opcode {
    const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    const fn decode(number: u8) -> Result<Self, FrameViolation> {
        match number {
            0x0 => Ok(Self::Continuation),
            0x1 => Ok(Self::Text),
            0x2 => Ok(Self::Binary),
            0x8 => Ok(Self::Close),
            0x9 => Ok(Self::Ping),
            0xa => Ok(Self::Pong),
            _ => Err(FrameViolation::Opcode),
        }
    }
}

impl Header {
    /// The header at the front of `input`; `None` while it is incomplete.
    fn decode(input: &[u8]) -> Result<Option<Self>, FrameViolation> {
        let [first, second, rest @ ..] = input else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err(FrameViolation::ReservedBits);
        }
        let opcode = Opcode::decode(first & 0x0f)?;
        if second & 0x80 == 0 {
            return Err(FrameViolation::Unmasked);
        }
        let (payload_bytes, rest) = match (second & 0x7f, rest) {
            (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest),
            (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), rest)
            }
            (126 | 127, _) => return Ok(None),
            (short, rest) => (u64::from(short), rest),
        };
        let is_shortest = match second & 0x7f {
            126 => payload_bytes > 125,
            127 => payload_bytes > u64::from(u16::MAX) && payload_bytes >> 63 == 0,
            _ => true,
        };
        if !is_shortest {
            return Err(FrameViolation::Length);
        }
        let [m0, m1, m2, m3, rest @ ..] = rest else {
            return Ok(None);
        };
        Ok(Some(Self {
            is_final: first & 0x80 != 0,
            opcode,
            mask: [*m0, *m1, *m2, *m3],
            header_bytes: input.len() - rest.len(),
            payload_bytes: usize::try_from(payload_bytes).map_err(|_| FrameViolation::TooBig)?,
        }))
    }
}

fn text(payload: &[u8]) -> Result<&str, FrameViolation> {
    simdutf8::basic::from_utf8(payload).map_err(|_| FrameViolation::Utf8)
}

/// The code of a close frame's payload (7.1.5).
fn close_code(payload: &[u8]) -> Result<Option<u16>, FrameViolation> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(FrameViolation::CloseCode),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    let may_be_sent = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    if !may_be_sent {
        return Err(FrameViolation::CloseCode);
    }
    text(reason)?;
    Ok(Some(code))
}

/// One text frame, ready for any socket.
pub(crate) fn text_frame(text: &str) -> Bytes {
    let mut buffer = Vec::with_capacity(HEADER_BYTES_MAX + text.len());
    append_text_frame(&mut buffer, text);
    Bytes::from(buffer)
}

/// Writes one text frame after others, so that they leave in one write.
pub(crate) fn append_text_frame(buffer: &mut Vec<u8>, text: &str) {
    append_frame(buffer, 0x81, text.as_bytes());
}

/// The text of one of our text frames.
pub(crate) fn text_of_frame(frame: &[u8]) -> Option<&str> {
    let header = match frame.get(1)? {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    std::str::from_utf8(frame.get(header..)?).ok()
}

/// The answer to a ping.
pub(crate) fn pong_frame(payload: &[u8]) -> Bytes {
    let mut buffer = Vec::with_capacity(HEADER_BYTES_MAX + payload.len());
    append_frame(&mut buffer, 0x8a, payload);
    Bytes::from(buffer)
}

/// A close frame; the reason is one of our short words.
pub(crate) fn close_frame(code: u16, reason: &str) -> Bytes {
    debug_assert!(reason.len() <= CONTROL_BYTES_MAX - 2);
    let mut payload = Vec::with_capacity(CONTROL_BYTES_MAX);
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(reason.as_bytes());
    let mut buffer = Vec::with_capacity(HEADER_BYTES_MAX + payload.len());
    append_frame(&mut buffer, 0x88, &payload);
    Bytes::from(buffer)
}

fn append_frame(buffer: &mut Vec<u8>, first: u8, payload: &[u8]) {
    buffer.push(first);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ 0..=125), _) => buffer.push(short),
        (_, Ok(medium)) => {
            buffer.push(126);
            buffer.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            buffer.push(127);
            buffer.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    buffer.extend_from_slice(payload);
}

#[cfg(test)]
pub(crate) mod tests {
    use bytes::{Buf as _, BytesMut};
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const BYTES_MAX: usize = 70_000;

    /// A frame as a client sends it, with any first byte.
    pub(crate) fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x12, 0x34, 0x56, 0x78];
        let mut frame = Vec::new();
        append_frame(&mut frame, first, payload);
        let header_bytes = frame.len() - payload.len();
        frame[1] |= 0x80;
        unmask(&mut frame[header_bytes..], mask);
        frame.splice(header_bytes..header_bytes, mask);
        frame
    }

    /// What a client said, with nothing borrowed.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Heard {
        Text(String),
        Binary(Vec<u8>),
        Ping(Vec<u8>),
        Pong,
        Close(Option<u16>),
        Refused(FrameViolation),
    }

    impl From<Message<'_>> for Heard {
        fn from(message: Message<'_>) -> Self {
            match message {
                Message::Text(text) => Self::Text(text.into_owned()),
                Message::Binary(bytes) => Self::Binary(bytes.into_owned()),
                Message::Ping(payload) => Self::Ping(payload.to_vec()),
                Message::Pong => Self::Pong,
                Message::Close(code) => Self::Close(code),
            }
        }
    }

    /// Reads chunks as a connection does: what is no complete frame waits for more.
    fn hear(chunks: &[&[u8]]) -> Vec<Heard> {
        let mut assembler = Assembler::default();
        let mut unread = BytesMut::new();
        let mut heard = Vec::new();
        for chunk in chunks {
            unread.extend_from_slice(chunk);
            let before = unread.len();
            let mut input = unread.as_mut();
            loop {
                match assembler.next(&mut input, BYTES_MAX) {
                    Ok(None) => break,
                    Ok(Some(message)) => heard.push(message.into()),
                    Err(violation) => {
                        heard.push(Heard::Refused(violation));
                        return heard;
                    }
                }
            }
            let left = input.len();
            unread.advance(before - left);
        }
        heard
    }

    #[test]
    fn complete_messages_are_borrowed() {
        let mut bytes = client_frame(0x81, b"2probe");
        let mut input = bytes.as_mut_slice();
        let message = Assembler::default().next(&mut input, BYTES_MAX).unwrap();
        assert_eq!(message, Some(Message::Text(Cow::Borrowed("2probe"))));
        assert!(input.is_empty());
    }

    #[test]
    fn fragments_make_one_message_around_control_frames() {
        let stream = [
            client_frame(0x01, "안".as_bytes().split_at(1).0),
            client_frame(0x89, b"are you there"),
            client_frame(0x00, "안".as_bytes().split_at(1).1),
            client_frame(0x80, b"!"),
        ]
        .concat();
        let expected = [
            Heard::Ping(b"are you there".into()),
            Heard::Text("안!".into()),
        ];
        assert_eq!(hear(&[&stream]), expected);
    }

    #[test]
    fn violations_are_refused_with_their_code() {
        let unmasked = vec![0x81, 0x01, b'2'];
        let long_way = vec![0x81, 0xfe, 0, 5, 0, 0, 0, 0];
        let longer_way = vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
        let negative = vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let two_beginnings = [client_frame(0x01, b"a"), client_frame(0x81, b"b")].concat();
        let too_big_together = [
            client_frame(0x02, &[0; 40_000]),
            client_frame(0x80, &[0; 40_000]),
        ]
        .concat();
        #[rustfmt::skip]
        let cases = [
            ("unmasked", unmasked, FrameViolation::Unmasked, 1002),
            ("reserved bit 1: deflate", client_frame(0xc1, b"x"), FrameViolation::ReservedBits, 1002),
            ("reserved bit 3", client_frame(0x91, b"x"), FrameViolation::ReservedBits, 1002),
            ("data opcode 3", client_frame(0x83, b"x"), FrameViolation::Opcode, 1002),
            ("control opcode 11", client_frame(0x8b, b""), FrameViolation::Opcode, 1002),
            ("5 bytes in 16 bits", long_way, FrameViolation::Length, 1002),
            ("65535 bytes in 64 bits", longer_way, FrameViolation::Length, 1002),
            ("length with highest bit", negative, FrameViolation::Length, 1002),
            ("ping of 126 bytes", client_frame(0x89, &[0; 126]), FrameViolation::Control, 1002),
            ("pong of 300 bytes", client_frame(0x8a, &[0; 300]), FrameViolation::Control, 1002),
            ("ping in fragments", client_frame(0x09, b""), FrameViolation::Control, 1002),
            ("close in fragments", client_frame(0x08, b""), FrameViolation::Control, 1002),
            ("continuation of nothing", client_frame(0x80, b"x"), FrameViolation::Continuation, 1002),
            ("text inside a message", two_beginnings, FrameViolation::Continuation, 1002),
            ("frame too big", client_frame(0x82, &[0; BYTES_MAX + 1]), FrameViolation::TooBig, 1009),
            ("fragments too big", too_big_together, FrameViolation::TooBig, 1009),
            ("not UTF-8", client_frame(0x81, &[0xff]), FrameViolation::Utf8, 1007),
            ("a surrogate", client_frame(0x81, &[0xed, 0xa0, 0x80]), FrameViolation::Utf8, 1007),
            ("close with half a code", client_frame(0x88, &[3]), FrameViolation::CloseCode, 1002),
            ("close 999", client_frame(0x88, &[3, 0xe7]), FrameViolation::CloseCode, 1002),
            ("close 1005", client_frame(0x88, &[3, 0xed]), FrameViolation::CloseCode, 1002),
            ("close 1006", client_frame(0x88, &[3, 0xee]), FrameViolation::CloseCode, 1002),
            ("close 1015", client_frame(0x88, &[3, 0xf7]), FrameViolation::CloseCode, 1002),
            ("close 5000", client_frame(0x88, &[0x13, 0x88]), FrameViolation::CloseCode, 1002),
            ("close with a bad reason", client_frame(0x88, &[3, 0xe8, 0xff]), FrameViolation::Utf8, 1007),
        ];
        for (name, stream, violation, code) in cases {
            assert_eq!(hear(&[&stream]), [Heard::Refused(violation)], "{name}");
            assert_eq!(violation.close_code(), code, "{name}");
        }
    }

    #[test]
    fn a_frame_that_is_too_big_is_refused_by_its_header() {
        let frame = client_frame(0x82, &[0; BYTES_MAX + 1]);
        assert_eq!(
            hear(&[&frame[..14]]),
            [Heard::Refused(FrameViolation::TooBig)]
        );
        let announced = [
            0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0,
        ];
        assert_eq!(
            hear(&[&announced]),
            [Heard::Refused(FrameViolation::TooBig)]
        );
    }

    #[test]
    fn a_message_has_a_bounded_number_of_frames() {
        let mut stream = client_frame(0x01, b"");
        for _ in 1..FRAGMENTS_MAX {
            stream.extend(client_frame(0x00, b""));
        }
        assert_eq!(hear(&[&stream]), []);
        stream.extend(client_frame(0x80, b""));
        assert_eq!(
            hear(&[&stream]),
            [Heard::Refused(FrameViolation::TooManyFragments)]
        );
    }

    #[test]
    fn close_codes_come_through() {
        for code in [1000, 1001, 1003, 1007, 1011, 3000, 4999_u16] {
            let stream = client_frame(0x88, &code.to_be_bytes());
            assert_eq!(hear(&[&stream]), [Heard::Close(Some(code))]);
        }
        assert_eq!(hear(&[&client_frame(0x88, b"")]), [Heard::Close(None)]);
    }

    #[test]
    fn frames_of_ours_have_the_shortest_header() {
        assert_eq!(text_frame("2").as_ref(), [0x81, 1, b'2']);
        assert_eq!(text_frame(&"x".repeat(125))[..2], [0x81, 125]);
        assert_eq!(text_frame(&"x".repeat(126))[..4], [0x81, 126, 0, 126]);
        assert_eq!(
            text_frame(&"x".repeat(65_535))[..4],
            [0x81, 126, 0xff, 0xff]
        );
        let long = text_frame(&"x".repeat(65_536));
        assert_eq!(long[..10], [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(long.len(), 10 + 65_536);
        assert_eq!(
            close_frame(1012, "draining").as_ref(),
            b"\x88\x0a\x03\xf4draining"
        );
        assert_eq!(pong_frame(b"hi").as_ref(), b"\x8a\x02hi");
    }

    #[test]
    fn frames_are_gathered_in_one_buffer() {
        let mut buffer = Vec::new();
        append_text_frame(&mut buffer, "a");
        append_text_frame(&mut buffer, "b");
        assert_eq!(buffer, [text_frame("a"), text_frame("b")].concat());
    }

    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let first = prop_oneof![
            8 => prop::sample::select(vec![0x81, 0x82, 0x89, 0x8a, 0x01, 0x00, 0x80]),
            1 => any::<u8>(),
        ];
        let payload = prop_oneof![
            4 => "[a-z안]{0,20}".prop_map(String::into_bytes),
            1 => vec(any::<u8>(), 0..200),
            1 => (65_000_usize..71_000).prop_map(|length| vec![b'x'; length]),
        ];
        (first, payload).prop_map(|(first, payload)| client_frame(first, &payload))
    }

    proptest! {
        #[test]
        fn any_split_equals_no_split(
            frames in vec(any_frame(), 1..6),
            cuts in vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let stream = frames.concat();

            let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
            places.sort_unstable();
            let mut chunks = Vec::new();
            let mut rest = stream.as_slice();
            let mut taken = 0;
            for place in places {
                let (chunk, after) = rest.split_at(place - taken);
                chunks.push(chunk);
                rest = after;
                taken = place;
            }
            chunks.push(rest);
            prop_assert_eq!(hear(&chunks), hear(&[&stream]));
        }

        #[test]
        fn byte_by_byte_equals_at_once(stream in vec(any::<u8>(), 0..64)) {
            let bytes: Vec<_> = stream.chunks(1).collect();
            prop_assert_eq!(hear(&bytes), hear(&[&stream]));
        }

        #[test]
        fn any_bytes_end_as_messages_or_a_violation(stream in vec(any::<u8>(), 0..300)) {
            hear(&[&stream]);
        }

        #[test]
        fn what_a_client_says_is_heard(text in ".{0,300}") {
            let stream = client_frame(0x81, text.as_bytes());
            prop_assert_eq!(hear(&[&stream]), [Heard::Text(text)]);
        }
    }
}
