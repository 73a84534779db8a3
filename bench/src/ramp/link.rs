//! A user's WebSocket, frame by frame.

use std::{io::ErrorKind, net::SocketAddr};

use anyhow::{Result, bail, ensure};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::websocket::{
    CLOSE, TEXT, close_reason, header, text_frame, upgrade_answer, upgrade_request,
};

/// Bytes of one read.
const READ_BYTES: usize = 16 * 1024;

pub(super) struct Link {
    stream: TcpStream,
    /// What was read and not taken.
    incoming: Vec<u8>,
}

impl Link {
    pub(super) const fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            incoming: Vec::new(),
        }
    }

    /// From TCP to the OPEN packet of Engine.IO.
    pub(super) async fn open(&mut self, gateway: SocketAddr) -> Result<()> {
        self.stream
            .write_all(upgrade_request(gateway).as_bytes())
            .await?;
        let end = loop {
            if let Some(end) = upgrade_answer(&self.incoming)? {
                break end;
            }
            self.fill().await?;
        };
        self.incoming.drain(..end);
        self.answer("0{").await
    }

    /// Sends a packet and waits for the next one, which must be the answer to it.
    pub(super) async fn ask(&mut self, packet: &str, start: &str) -> Result<()> {
        self.send(packet).await?;
        self.answer(start).await
    }

    async fn answer(&mut self, start: &str) -> Result<()> {
        let packet = loop {
            if let Some(packet) = self.next()? {
                break packet;
            }
            self.fill().await?;
        };
        let is_expected = packet.starts_with(start.as_bytes());
        ensure!(is_expected, "{}", String::from_utf8_lossy(&packet));
        Ok(())
    }

    pub(super) async fn send(&mut self, packet: &str) -> Result<()> {
        let frame = text_frame(packet.as_bytes())?;
        Ok(self.stream.write_all(&frame).await?)
    }

    /// The next packet of those that have arrived.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let Some(header) = header(&self.incoming)? else {
                return Ok(None);
            };
            let end = header.bytes + header.payload_bytes;
            let Some(payload) = self.incoming.get(header.bytes..end) else {
                return Ok(None);
            };
            let payload = payload.to_vec();
            self.incoming.drain(..end);
            match header.opcode {
                TEXT => return Ok(Some(payload)),
                CLOSE => bail!("closed by the gateway: {}", close_reason(&payload)),
                _ => {}
            }
        }
    }

    /// Waits for bytes and reads them. May be dropped while it waits.
    pub(super) async fn fill(&mut self) -> Result<()> {
        loop {
            self.stream.readable().await?;
            if self.read_now()? {
                return Ok(());
            }
        }
    }

    /// False if there was nothing.
    fn read_now(&mut self) -> Result<bool> {
        let mut buffer = [0; READ_BYTES];
        match self.stream.try_read(&mut buffer) {
            Ok(0) => bail!("the gateway closed the socket without a word"),
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                self.incoming.extend_from_slice(bytes);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
