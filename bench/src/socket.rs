//! One virtual user's socket.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, handshake};
use http_body_util::Empty;
use hyper::{
    Request,
    header::{CONNECTION, HOST, UPGRADE},
    upgrade::Upgraded,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use slotcast_proto::id::RoomId;
use tokio::net::TcpStream;

use crate::seed::Login;

/// An open socket that speaks Engine.IO and Socket.IO as the official client does.
pub(crate) struct Socket {
    frames: FragmentCollector<TokioIo<Upgraded>>,
}

impl Socket {
    /// Opens a WebSocket to a gateway (`host:port`) and reads the OPEN packet.
    pub(crate) async fn open(gateway: &str) -> Result<Self> {
        let stream = TcpStream::connect(gateway).await?;
        stream.set_nodelay(true)?;
        let request = Request::get("/socket.io/?EIO=4&transport=websocket")
            .header(HOST, gateway)
            .header(UPGRADE, "websocket")
            .header(CONNECTION, "upgrade")
            .header("Sec-WebSocket-Key", handshake::generate_key())
            .header("Sec-WebSocket-Version", "13")
            .body(Empty::<Bytes>::new())?;
        let (mut websocket, _) = handshake::client(&TokioExecutor::new(), request, stream).await?;
        websocket.set_auto_pong(true);
        let mut socket = Self {
            frames: FragmentCollector::new(websocket),
        };
        socket.expect("0{").await?;
        Ok(socket)
    }

    /// Authenticates.
    pub(crate) async fn connect(&mut self, login: &Login) -> Result<()> {
        let Login { token, session, .. } = login;
        self.send(format!(
            r#"40{{"token":"{token}","sessionId":"{session}"}}"#
        ))
        .await?;
        self.expect("40{").await
    }

    /// Joins a room and waits for the answer.
    pub(crate) async fn join(&mut self, room: RoomId) -> Result<()> {
        self.send(format!(r#"42["joinRoom","{room}"]"#)).await?;
        self.expect(r#"42["joinRoomSuccess""#).await
    }

    /// Reads and answers heartbeats until the socket ends.
    pub(crate) async fn idle(mut self) -> Result<()> {
        loop {
            self.next().await?;
        }
    }

    /// Reads until a packet begins with `start`.
    async fn expect(&mut self, start: &str) -> Result<()> {
        while !self.next().await?.starts_with(start) {}
        Ok(())
    }

    /// The next packet that is no heartbeat.
    async fn next(&mut self) -> Result<String> {
        loop {
            let frame = self.frames.read_frame().await?;
            if frame.opcode != OpCode::Text {
                bail!("the gateway closed the socket: {:?}", frame.opcode);
            }
            let text = std::str::from_utf8(&frame.payload).context("text that is no UTF-8")?;
            if text != "2" {
                return Ok(text.to_owned());
            }
            self.send("3".to_owned()).await?;
        }
    }

    async fn send(&mut self, packet: String) -> Result<()> {
        let frame = Frame::text(Payload::Owned(packet.into_bytes()));
        self.frames.write_frame(frame).await.map_err(Into::into)
    }
}
