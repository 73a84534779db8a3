//! One node's subscriptions, over the connection that commands to it take as well.
//!
//! The link subscribes channel by channel (one `SSUBSCRIBE` may only name channels of one slot), hands
//! every message to the hub, and reports what became of each command and what it lost. It never decides
//! where a channel belongs; the bus does.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{FutureExt, future::BoxFuture};
use redis::RedisError;
use slotcast_proto::schema::key::Channel;
use thiserror::Error;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::{answers::Answers, receive::Receiver};
use crate::cluster::{Address, Cluster, Connection, Subscriber, resp::Reply};

/// Commands of one link that may be unanswered, and reports that may wait for the bus.
pub(super) const QUEUE_MAX: usize = 1024;

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
    #[error("cannot connect: {0}")]
    Connect(#[from] RedisError),
    #[error("{0}")]
    Ended(String),
}

/// The running end of a link.
pub(super) struct Link {
    id: LinkId,
    reports: mpsc::Sender<Report>,
    receiver: Arc<Receiver>,
    answers: Mutex<Answers>,
}

impl Link {
    pub(super) fn new(id: LinkId, reports: mpsc::Sender<Report>, receiver: Arc<Receiver>) -> Self {
        Self {
            id,
            reports,
            receiver,
            answers: Mutex::default(),
        }
    }

    /// Serves commands until the connection or the bus ends.
    pub(super) async fn run(self: Arc<Self>, commands: mpsc::Receiver<Command>, cluster: &Cluster) {
        match self.serve(commands, cluster).await {
            Ok(()) => debug!(address = %self.id.address, "closed the link"),
            Err(error) => {
                warn!(address = %self.id.address, %error, "the link to a Redis node ended");
                self.report(News::Down).await;
            }
        }
    }

    async fn serve(
        self: &Arc<Self>,
        mut commands: mpsc::Receiver<Command>,
        cluster: &Cluster,
    ) -> Result<(), LinkError> {
        let connection = cluster.connection(&self.id.address).await?;
        connection.attach(Arc::clone(self) as Arc<dyn Subscriber>);
        let mut ended = connection.ended().boxed();
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.send(&connection, command),
                    // A link that is closed carries nothing; commands go on over its connection.
                    None => return Ok(()),
                },
                reason = &mut ended => return Err(LinkError::Ended(reason)),
            }
        }
    }

    fn send(&self, connection: &Connection, command: Command) {
        let name = match command {
            Command::Subscribe(_) => "SSUBSCRIBE",
            Command::Unsubscribe(_) => "SUNSUBSCRIBE",
        };
        let channel = command.channel().to_string();
        self.note(|answers| answers.sent(command));
        connection.ask(&[name, &channel], &channel);
    }

    fn note<T>(&self, change: impl FnOnce(&mut Answers) -> T) -> T {
        change(&mut self.answers.lock().unwrap_or_else(PoisonError::into_inner))
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

impl Subscriber for Link {
    fn receive<'a>(
        &'a self,
        messages: &'a [&'a [u8]],
        replies: &'a [Reply<'a>],
    ) -> BoxFuture<'a, Result<(), String>> {
        async move {
            self.receiver.receive(messages).await;
            for reply in replies {
                if let Reply::Error(error) = reply {
                    debug!(address = %self.id.address, error = %String::from_utf8_lossy(error), "refused");
                }
                let news = self.note(|answers| answers.take(reply));
                if let Some(news) = news.map_err(|kept| kept.to_string())? {
                    self.report(news).await;
                }
            }
            Ok(())
        }
        .boxed()
    }
}
