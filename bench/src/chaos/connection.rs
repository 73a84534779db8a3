//! One client's WebSocket: light enough for ten thousand in a process, and safe to stop reading at
//! any moment.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep_until, timeout},
};

use crate::websocket::{
    CLOSE, TEXT, close_reason, header, text_frame, upgrade_answer, upgrade_request,
};

/// From the SYN to the answer of the handshake, and for one packet to be taken by the kernel.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a slow reader takes a second.
const SLOW_BYTES: usize = 1024;

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
        let request = upgrade_request(gateway);
        self.stream.write_all(request.as_bytes()).await?;
        loop {
            if let Some(end) = upgrade_answer(&self.incoming)? {
                self.incoming.advance(end);
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
                    CLOSE => bail!("closed by the gateway: {}", close_reason(&payload)),
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
        let frame = text_frame(packet.as_bytes())?;
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

/// Takes a whole frame off the front, if there is one.
fn take_frame(incoming: &mut BytesMut) -> Result<Option<(u8, Vec<u8>)>> {
    let Some(header) = header(incoming)? else {
        return Ok(None);
    };
    if incoming.len() < header.bytes + header.payload_bytes {
        return Ok(None);
    }
    incoming.advance(header.bytes);
    let payload = incoming.split_to(header.payload_bytes).to_vec();
    Ok(Some((header.opcode, payload)))
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
}
