//! A client's side of WebSocket, by hand: a frame costs no more than its bytes.
//!
//! Source: RFC 6455, sections 4.1 and 5.2. A server's frames are neither masked nor, from a gateway,
//! fragmented.

use std::net::SocketAddr;

use anyhow::{Result, bail, ensure};

pub(crate) const TEXT: u8 = 0x1;
pub(crate) const CLOSE: u8 = 0x8;

/// Largest frame that a client takes, in bytes.
const FRAME_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Set in the first byte of a frame that is the last of its message.
const FINAL: u8 = 0x80;

/// Set in the second byte of a frame whose payload is masked.
const MASKED: u8 = 0x80;

/// The request that opens a WebSocket to a gateway.
pub(crate) fn upgrade_request(gateway: SocketAddr) -> String {
    format!(
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {gateway}\r\n\
        Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// The bytes of the answer to [`upgrade_request`], once its end has arrived.
pub(crate) fn upgrade_answer(incoming: &[u8]) -> Result<Option<usize>> {
    const END: &[u8] = b"\r\n\r\n";
    let Some(end) = incoming.windows(END.len()).position(|part| part == END) else {
        return Ok(None);
    };
    ensure!(
        incoming.starts_with(b"HTTP/1.1 101 "),
        "the gateway refused: {}",
        String::from_utf8_lossy(incoming).trim_end()
    );
    Ok(Some(end + END.len()))
}

/// A frame of a client. A mask of zeros masks nothing, and nothing here needs masking.
pub(crate) fn text_frame(payload: &[u8]) -> Result<Vec<u8>> {
    let mut frame = Vec::with_capacity(payload.len() + 8);
    frame.push(FINAL | TEXT);
    // The shortest form, as the RFC demands.
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ ..=125), _) => frame.push(MASKED | length),
        (_, Ok(length)) => {
            frame.push(MASKED | 126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        _ => bail!("a packet of {} bytes", payload.len()),
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    Ok(frame)
}

/// The beginning of a server's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) opcode: u8,
    /// Length of the header itself.
    pub(crate) bytes: usize,
    pub(crate) payload_bytes: usize,
}

/// Reads the header at the front, once all of it has arrived.
pub(crate) fn header(incoming: &[u8]) -> Result<Option<Header>> {
    let [first, second, rest @ ..] = incoming else {
        return Ok(None);
    };
    ensure!(first & FINAL != 0, "a fragment");
    ensure!(second & MASKED == 0, "a masked frame");
    let (bytes, payload_bytes) = match second {
        126 => match rest.first_chunk() {
            Some(length) => (4, u16::from_be_bytes(*length).into()),
            None => return Ok(None),
        },
        127 => match rest.first_chunk() {
            Some(length) => (10, u64::from_be_bytes(*length)),
            None => return Ok(None),
        },
        length => (2, u64::from(*length)),
    };
    ensure!(
        payload_bytes <= FRAME_BYTES_MAX,
        "a frame of {payload_bytes} bytes"
    );
    Ok(Some(Header {
        opcode: first & 0x0f,
        bytes,
        payload_bytes: usize::try_from(payload_bytes)?,
    }))
}

/// What a close frame says.
pub(crate) fn close_reason(payload: &[u8]) -> String {
    match payload.split_first_chunk() {
        Some((code, text)) => {
            format!(
                "{} {}",
                u16::from_be_bytes(*code),
                String::from_utf8_lossy(text)
            )
        }
        None => "1005".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_the_shortest_form_of_their_length() {
        let parsed = |bytes: &[u8]| header(bytes).unwrap();
        let text = |bytes, payload_bytes| {
            Some(Header {
                opcode: TEXT,
                bytes,
                payload_bytes,
            })
        };
        assert_eq!(parsed(&[0x81, 125, b'x']), text(2, 125));
        assert_eq!(parsed(&[0x81, 126, 1, 44]), text(4, 300));
        assert_eq!(
            parsed(&[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
            text(10, 65536)
        );
        for short in [&[0x81][..], &[0x81, 126, 1], &[0x81, 127, 0, 0, 0]] {
            assert_eq!(parsed(short), None);
        }
    }

    #[test]
    fn fragments_masks_and_absurd_lengths_are_refused() {
        assert!(header(&[0x01, 0]).is_err());
        assert!(header(&[0x81, 0x80]).is_err());
        assert!(header(&[0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255]).is_err());
    }

    #[test]
    fn text_frames_carry_a_mask_and_their_length() {
        assert_eq!(text_frame(b"3").unwrap(), [0x81, 0x81, 0, 0, 0, 0, b'3']);
        let long = text_frame(&[b'x'; 300]).unwrap();
        assert_eq!(long[..8], [0x81, 0xfe, 1, 44, 0, 0, 0, 0]);
        assert_eq!(long.len(), 308);
    }

    #[test]
    fn only_an_upgrade_opens_a_websocket() {
        let switched = b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81";
        assert_eq!(upgrade_answer(switched).unwrap(), Some(switched.len() - 1));
        assert_eq!(upgrade_answer(b"HTTP/1.1 101 Swi").unwrap(), None);
        assert!(upgrade_answer(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").is_err());
    }
}
