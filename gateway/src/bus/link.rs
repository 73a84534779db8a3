//! One subscription connection to one Redis node.
//!
//! The link owns its socket: client libraries lose sharded subscriptions when a slot moves and mix
//! up unsolicited `sunsubscribe` pushes with answers. It subscribes channel by channel (one
//! `SSUBSCRIBE` may only name channels of one slot), hands every message to the hub, and reports
//! what became of each command and what it lost. It never decides where a channel belongs; the bus
//! does.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use slotcast_proto::schema::key::Channel;
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{debug, warn};

use super::{
    answers::{Answers, Kept},
    receive::Receiver,
    resp::{self, Reply},
};
use crate::cluster::Address;

/// A silent link is probed this often; a probe without any byte in return until the next one ends
/// the link. A hung node sends no end of file: only this tells.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Commands of one link that may be unanswered, and reports that may wait for the bus.
pub(super) const QUEUE_MAX: usize = 1024;

const READ_BUFFER_BYTES: usize = 64 * 1024;

/// What the bus asks of a link: of each channel one thing at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Answered by [`News::Live`] or [`News::Lost`].
    Subscribe(Channel),
    /// Answered by [`News::Left`].
    Unsubscribe(Channel),
}

impl Command {
    pub(super) const fn channel(self) -> Channel {
        match self {
            Self::Subscribe(channel) | Self::Unsubscribe(channel) => channel,
        }
    }
}

/// Tells a link from its successors on the same node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LinkId {
    pub(super) address: Address,
    pub(super) generation: u64,
}

/// What a link tells the bus.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) link: LinkId,
    pub(super) news: News,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Redis confirmed the subscription.
    Live(Channel),
    /// The subscription was refused, or taken away because the slot moved.
    Lost(Channel),
    /// The subscription has ended as asked.
    Left(Channel),
    /// The connection ended, and every subscription with it.
    Down,
}

/// Why a link ended.
#[derive(Debug, Error)]
enum LinkError {
    #[error("cannot connect or lost the connection: {0}")]
    Io(#[from] io::Error),
    #[error("did not connect in time")]
    Slow,
    #[error("fell silent")]
    Silent,
    #[error("sent bytes that are not RESP3")]
    Malformed,
    #[error("refused the greeting: {0}")]
    Greeting(String),
    #[error(transparent)]
    Kept(#[from] Kept),
}

/// User and password.
pub(super) type Credentials = Option<(String, String)>;

/// The running end of a link.
pub(super) struct Link {
    id: LinkId,
    reports: mpsc::Sender<Report>,
    receiver: Arc<Receiver>,
    answers: Answers,
    heard: bool,
}

impl Link {
    pub(super) fn new(id: LinkId, reports: mpsc::Sender<Report>, receiver: Arc<Receiver>) -> Self {
        Self {
            id,
            reports,
            receiver,
            answers: Answers::default(),
            heard: true,
        }
    }

    /// Serves commands until the connection or the bus ends.
    pub(super) async fn run(mut self, commands: mpsc::Receiver<Command>, credentials: Credentials) {
        match self.serve(commands, credentials).await {
            Ok(()) => debug!(address = %self.id.address, "closed the link"),
            Err(error) => {
                warn!(address = %self.id.address, %error, "the link to a Redis node ended");
                self.report(News::Down).await;
            }
        }
    }

    async fn serve(
        &mut self,
        mut commands: mpsc::Receiver<Command>,
        credentials: Credentials,
    ) -> Result<(), LinkError> {
        let connecting = TcpStream::connect((self.id.address.host(), self.id.address.port()));
        let mut stream = timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| LinkError::Slow)??;
        stream.set_nodelay(true)?;
        let mut buffer = BytesMut::with_capacity(READ_BUFFER_BYTES);
        timeout(
            CONNECT_TIMEOUT,
            greet(&mut stream, &mut buffer, credentials),
        )
        .await
        .map_err(|_| LinkError::Slow)??;
        let mut probes = interval(PROBE_INTERVAL);
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Every arm is cancel-safe: a read into the buffer, a queue, a ticker.
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.send(&mut stream, command).await?,
                    None => return Ok(()),
                },
                read = stream.read_buf(&mut buffer) => {
                    if read? == 0 {
                        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                    }
                    self.heard = true;
                    self.receive(&mut buffer).await?;
                }
                _ = probes.tick() => self.probe(&mut stream).await?,
            }
        }
    }

    async fn send(&mut self, stream: &mut TcpStream, command: Command) -> Result<(), LinkError> {
        let name = match command {
            Command::Subscribe(_) => "SSUBSCRIBE",
            Command::Unsubscribe(_) => "SUNSUBSCRIBE",
        };
        let channel = command.channel().to_string();
        let mut both = encode(&[name, &channel]);
        both.extend(encode(&["ECHO", &channel]));
        self.answers.sent(command);
        write(stream, &both).await
    }

    async fn probe(&mut self, stream: &mut TcpStream) -> Result<(), LinkError> {
        if !self.heard {
            return Err(LinkError::Silent);
        }
        self.heard = false;
        write(stream, &encode(&["PING"])).await
    }

    /// Takes every whole value out of the buffer: messages together to the receiver, the rest here.
    async fn receive(&mut self, buffer: &mut BytesMut) -> Result<(), LinkError> {
        let mut news = Vec::new();
        let mut messages = Vec::new();
        let mut taken = 0;
        while let Some((reply, length)) = resp::parse(buffer.get(taken..).unwrap_or_default())
            .map_err(|_| LinkError::Malformed)?
        {
            taken += length;
            if let Reply::Push(items) = &reply
                && let [
                    Reply::Text(b"smessage"),
                    Reply::Text(_),
                    Reply::Text(message),
                ] = items.as_slice()
            {
                messages.push(*message);
                continue;
            }
            if let Reply::Error(error) = &reply {
                debug!(address = %self.id.address, error = %String::from_utf8_lossy(error), "refused");
            }
            news.extend(self.answers.take(&reply)?);
        }
        self.receiver.receive(&messages).await;
        let _ = buffer.split_to(taken);
        for news in news {
            self.report(news).await;
        }
        Ok(())
    }

    async fn report(&self, news: News) {
        let report = Report {
            link: self.id.clone(),
            news,
        };
        // The bus ends before its links only when the process does.
        let _ = self.reports.send(report).await;
    }
}

/// A node that takes nothing any more would keep the link from probing it.
async fn write(stream: &mut TcpStream, bytes: &[u8]) -> Result<(), LinkError> {
    timeout(PROBE_INTERVAL, stream.write_all(bytes))
        .await
        .map_err(|_| LinkError::Silent)??;
    Ok(())
}

/// `HELLO 3`, with user and password when the cluster wants them.
async fn greet(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    credentials: Credentials,
) -> Result<(), LinkError> {
    let hello = match &credentials {
        Some((user, password)) => encode(&["HELLO", "3", "AUTH", user, password]),
        None => encode(&["HELLO", "3"]),
    };
    stream.write_all(&hello).await?;
    let length = loop {
        match resp::parse(buffer).map_err(|_| LinkError::Malformed)? {
            Some((Reply::Error(error), _)) => {
                return Err(LinkError::Greeting(
                    String::from_utf8_lossy(error).into_owned(),
                ));
            }
            Some((_, length)) => break length,
            None => {}
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    };
    let _ = buffer.split_to(length);
    Ok(())
}

fn encode(words: &[&str]) -> Vec<u8> {
    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    command.into_bytes()
}
