//! One client's WebSocket: light enough for ten thousand in a process, and safe to stop reading at
//! any moment.
//!
//! Source: RFC 6455, sections 4.1 and 5.2. A server's frames are neither masked nor, from a gateway,
//! fragmented.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep_until, timeout},
};

/// From the SYN to the answer of the handshake, and for one packet to be taken by the kernel.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a slow reader takes a second.
const SLOW_BYTES: usize = 1024;

/// Largest frame that a client takes, in bytes.
const FRAME_BYTES_MAX: u64 = 16 * 1024 * 1024;

const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;

/// An open WebSocket.
pub(crate) struct Connection {
    stream: TcpStream,
    incoming: BytesMut,
    /// When a slow reader may read again.
    rest_until: Option<Instant>,
}

impl Connection {
    /// Opens a WebSocket from `source`, an address of this machine, to a gateway. A slow reader has
    /// the smallest receive buffer and takes 1 KiB a second.
    pub(crate) async fn open(gateway: SocketAddr, source: SocketAddr, slow: bool) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if slow {
            socket.set_recv_buffer_size(u32::try_from(SLOW_BYTES)?)?;
        }
        socket.bind(source)?;
        let stream = timeout(PATIENCE, socket.connect(gateway)).await??;
        stream.set_nodelay(true)?;
        let mut connection = Self {
            stream,
            incoming: BytesMut::new(),
            rest_until: None,
        };
        timeout(PATIENCE, connection.shake_hands(gateway)).await??;
        connection.rest_until = slow.then(Instant::now);
        Ok(connection)
    }

    async fn shake_hands(&mut self, gateway: SocketAddr) -> Result<()> {
        let request = format!(
            "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {gateway}\r\n\
            Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        self.stream.write_all(request.as_bytes()).await?;
        loop {
            if let Some(end) = find(&self.incoming, b"\r\n\r\n") {
                let answer = self.incoming.split_to(end + 4);
                ensure!(
                    answer.starts_with(b"HTTP/1.1 101 "),
                    "the gateway refused: {}",
                    String::from_utf8_lossy(&answer)
                );
                return Ok(());
            }
            self.read().await?;
        }
    }

    /// The next packet. May be given up and called again without a loss.
    pub(crate) async fn next(&mut self) -> Result<String> {
        loop {
            while let Some((opcode, payload)) = take_frame(&mut self.incoming)? {
                match opcode {
                    TEXT => return Ok(String::from_utf8(payload)?),
                    CLOSE => bail!("closed by the gateway: {}", reason(&payload)),
                    _ => {}
                }
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<()> {
        let Some(rest_until) = self.rest_until else {
            let count = self.stream.read_buf(&mut self.incoming).await?;
            ensure!(count > 0, "the connection ended");
            return Ok(());
        };
        sleep_until(rest_until).await;
        let mut chunk = [0; SLOW_BYTES];
        let count = self.stream.read(&mut chunk).await?;
        ensure!(count > 0, "the connection ended");
        self.incoming
            .extend_from_slice(chunk.get(..count).unwrap_or_default());
        self.rest_until = Some(Instant::now() + Duration::from_secs(1));
        Ok(())
    }

    /// Sends one packet.
    pub(crate) async fn send(&mut self, packet: &str) -> Result<()> {
        let frame = frame(packet.as_bytes())?;
        timeout(PATIENCE, self.stream.write_all(&frame))
            .await
            .context("the kernel takes no more")??;
        Ok(())
    }

    /// Ends with a reset instead of an orderly close, as when a client's network goes away.
    pub(crate) fn reset(self) {
        // A socket that is gone already needs no reset.
        let _ = self.stream.set_zero_linger();
    }
}

/// A frame of a client. A mask of zeros masks nothing, and nothing here needs masking.
fn frame(payload: &[u8]) -> Result<Vec<u8>> {
    const MASKED: u8 = 0x80;
    let mut frame = Vec::with_capacity(payload.len() + 14);
    frame.push(0x80 | TEXT);
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

/// Takes a whole frame off the front, if there is one.
fn take_frame(incoming: &mut BytesMut) -> Result<Option<(u8, Vec<u8>)>> {
    let mut header = incoming.as_ref();
    if header.remaining() < 2 {
        return Ok(None);
    }
    let (first, second) = (header.get_u8(), header.get_u8());
    ensure!(first & 0x80 != 0, "a fragment");
    let extended = match second {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    if header.remaining() < extended {
        return Ok(None);
    }
    let length = match extended {
        2 => header.get_u16().into(),
        8 => header.get_u64(),
        _ => u64::from(second),
    };
    ensure!(length <= FRAME_BYTES_MAX, "a frame of {length} bytes");
    let length = usize::try_from(length)?;
    if header.remaining() < length {
        return Ok(None);
    }
    incoming.advance(2 + extended);
    Ok(Some((first & 0x0f, incoming.split_to(length).to_vec())))
}

fn reason(close: &[u8]) -> String {
    let mut payload = close;
    let code = if payload.remaining() < 2 {
        1005
    } else {
        payload.get_u16()
    };
    format!("{code} {}", String::from_utf8_lossy(payload))
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|part| part == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_off_whole_and_in_order() {
        let long = "x".repeat(300);
        let mut bytes = vec![0x81, 2, b'h', b'i', 0x81, 126, 1, 44];
        bytes.extend_from_slice(long.as_bytes());
        let mut incoming = BytesMut::new();
        let mut frames = Vec::new();
        for byte in bytes {
            incoming.extend_from_slice(&[byte]);
            frames.extend(take_frame(&mut incoming).unwrap());
        }
        assert_eq!(frames, [(1, b"hi".to_vec()), (1, long.into_bytes())]);
        assert!(incoming.is_empty());
    }

    #[test]
    fn fragments_and_absurd_lengths_are_refused() {
        assert!(take_frame(&mut BytesMut::from(&[0x01, 0][..])).is_err());
        let mut huge = BytesMut::from(&[0x81, 127][..]);
        huge.extend_from_slice(&u64::MAX.to_be_bytes());
        assert!(take_frame(&mut huge).is_err());
    }
}
