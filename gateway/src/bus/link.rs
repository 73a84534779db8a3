//! One subscription connection to one Redis node.
//!
//! The link owns its socket: client libraries lose sharded subscriptions when a slot moves and mix
//! up unsolicited `sunsubscribe` pushes with answers. It subscribes channel by channel (one
//! `SSUBSCRIBE` may only name channels of one slot), hands every message to the hub, and reports
//! what it lost. It never decides where a channel belongs; the bus does.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

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
    receive::Receiver,
    resp::{self, Reply},
};
use crate::cluster::Address;

/// A silent link is probed this often; a probe without any byte in return until the next one ends
/// the link. A hung node sends no end of file: only this tells.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Commands that may wait for the link, and events for the bus.
pub(super) const QUEUE_MAX: usize = 1024;

const READ_BUFFER_BYTES: usize = 64 * 1024;

/// What the bus asks of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Subscribe(Channel),
    Unsubscribe(Channel),
}

/// What a link tells the bus. `generation` tells a link from its successor on the same node.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) address: Address,
    pub(super) generation: u64,
    pub(super) news: News,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Redis confirmed the subscription.
    Live(Channel),
    /// The subscription was refused, or taken away because the slot moved.
    Lost(Channel),
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
}

/// User and password.
pub(super) type Credentials = Option<(String, String)>;

/// The running end of a link.
pub(super) struct Link {
    address: Address,
    generation: u64,
    reports: mpsc::Sender<Report>,
    receiver: Arc<Receiver>,
    /// Commands sent and not yet answered, oldest first: Redis answers in order.
    pending: VecDeque<Pending>,
    heard: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    Probe,
    Subscribe(Channel),
    Unsubscribe(Channel),
}

impl Link {
    pub(super) fn new(
        address: Address,
        generation: u64,
        reports: mpsc::Sender<Report>,
        receiver: Arc<Receiver>,
    ) -> Self {
        Self {
            address,
            generation,
            reports,
            receiver,
            pending: VecDeque::new(),
            heard: true,
        }
    }

    /// Serves commands until the connection or the bus ends.
    pub(super) async fn run(mut self, commands: mpsc::Receiver<Command>, credentials: Credentials) {
        match self.serve(commands, credentials).await {
            Ok(()) => debug!(address = %self.address, "closed the link"),
            Err(error) => {
                warn!(address = %self.address, %error, "the link to a Redis node ended");
                self.report(News::Down).await;
            }
        }
    }

    async fn serve(
        &mut self,
        mut commands: mpsc::Receiver<Command>,
        credentials: Credentials,
    ) -> Result<(), LinkError> {
        let connecting = TcpStream::connect((self.address.host(), self.address.port()));
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
        let (name, channel) = match command {
            Command::Subscribe(channel) => {
                self.pending.push_back(Pending::Subscribe(channel));
                ("SSUBSCRIBE", channel)
            }
            Command::Unsubscribe(channel) => {
                self.pending.push_back(Pending::Unsubscribe(channel));
                ("SUNSUBSCRIBE", channel)
            }
        };
        stream
            .write_all(&encode(&[name, &channel.to_string()]))
            .await?;
        Ok(())
    }

    async fn probe(&mut self, stream: &mut TcpStream) -> Result<(), LinkError> {
        if !self.heard {
            return Err(LinkError::Silent);
        }
        self.heard = false;
        self.pending.push_back(Pending::Probe);
        stream.write_all(&encode(&["PING"])).await?;
        Ok(())
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
            match reply {
                Reply::Push(items) => match items.as_slice() {
                    [
                        Reply::Text(b"smessage"),
                        Reply::Text(_),
                        Reply::Text(message),
                    ] => messages.push(*message),
                    items => news.extend(self.confirmed(items)),
                },
                Reply::Error(error) => news.extend(self.refused(error)),
                Reply::Text(_) | Reply::Integer(_) | Reply::Null | Reply::Items(_) => {
                    self.pending
                        .pop_front_if(|pending| *pending == Pending::Probe);
                }
            }
        }
        self.receiver.receive(&messages).await;
        let _ = buffer.split_to(taken);
        for news in news {
            self.report(news).await;
        }
        Ok(())
    }

    /// A `ssubscribe` or `sunsubscribe` push: the answer to the oldest command, or unasked for.
    fn confirmed(&mut self, items: &[Reply<'_>]) -> Option<News> {
        let [Reply::Text(kind), Reply::Text(channel), ..] = items else {
            return None;
        };
        let channel = Channel::parse(std::str::from_utf8(channel).ok()?)?;
        match *kind {
            b"ssubscribe" => {
                self.pending
                    .pop_front_if(|pending| *pending == Pending::Subscribe(channel));
                Some(News::Live(channel))
            }
            b"sunsubscribe" => {
                let asked = self
                    .pending
                    .pop_front_if(|pending| *pending == Pending::Unsubscribe(channel));
                if asked.is_some() {
                    None
                } else {
                    Some(News::Lost(channel))
                }
            }
            _ => None,
        }
    }

    /// An error answers the oldest command; a refused subscription is as good as lost.
    fn refused(&mut self, error: &[u8]) -> Option<News> {
        let pending = self.pending.pop_front()?;
        debug!(address = %self.address, error = %String::from_utf8_lossy(error), ?pending, "refused");
        match pending {
            Pending::Subscribe(channel) => Some(News::Lost(channel)),
            Pending::Unsubscribe(_) | Pending::Probe => None,
        }
    }

    async fn report(&self, news: News) {
        let report = Report {
            address: self.address.clone(),
            generation: self.generation,
            news,
        };
        // The bus ends before its links only when the process does.
        let _ = self.reports.send(report).await;
    }
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
