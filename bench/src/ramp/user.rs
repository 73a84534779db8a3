//! One user of a ramp: comes in over REST, opens a socket, enters a room, talks and marks what it reads.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    account::Account,
    board::{Board, Phase, Room},
    link::Link,
};
use crate::{
    clock::{NS_PER_MS, NS_PER_SECOND, now_ns},
    crowd::{MESSAGE, Place, Tag, TagFinder, message_number},
    rest::{PASSWORD, Pass, Rest},
};

/// A step that takes longer, and a message that is not back by then, are failures.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_NS: u64 = 10 * NS_PER_SECOND;

/// Between two messages of a user, in milliseconds.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 500..=3000;

/// Between two looks at the phase by a user who has nothing to send.
const LOOK_NS: u64 = 200 * NS_PER_MS;

/// Who a user is and where it goes.
pub(super) struct Ticket {
    pub(super) number: u32,
    /// Tells the messages of this ramp from others.
    pub(super) ramp: u32,
    pub(super) backend: String,
    pub(super) gateway: SocketAddr,
    pub(super) room: Arc<Room>,
    pub(super) board: Arc<Board>,
    /// Moments in tags count from here, on the machine's clock.
    pub(super) origin_ns: u64,
}

/// A user in a room.
struct User {
    ticket: Ticket,
    room: String,
    link: Link,
    tags: TagFinder,
    account: Account,
    /// Messages sent that are not back yet: number, and when it was due.
    unconfirmed: VecDeque<(u32, u64)>,
    /// When the next message is due, on the machine's clock.
    due_ns: u64,
    /// Since when a number of the room's log is missing.
    gap_ns: Option<u64>,
}

/// The whole life of a user. What it saw of its room; `None` if it failed, which the board knows.
pub(super) async fn live(ticket: Ticket) -> Option<Account> {
    let board = Arc::clone(&ticket.board);
    board.counts.begun.fetch_add(1, Relaxed);
    let begun_ns = now_ns();
    let mut user = match enter(ticket).await {
        Ok(user) => user,
        Err(error) => {
            board.fail(format!("coming in: {error:#}"));
            return None;
        }
    };
    board.note(|moments| moments.entry.record_ns(now_ns() - begun_ns));
    board.counts.present.fetch_add(1, Relaxed);
    let outcome = user.talk().await;
    board.counts.present.fetch_sub(1, Relaxed);
    match outcome {
        Ok(()) => Some(user.account),
        Err(error) => {
            board.fail(format!("in the room: {error:#}"));
            None
        }
    }
}

async fn enter(ticket: Ticket) -> Result<User> {
    let (pass, room) = call_backend(&ticket).await?;
    let stream = patiently("connecting", connect(ticket.gateway, ticket.number)).await?;
    let mut link = Link::new(stream);
    patiently("opening", link.open(ticket.gateway)).await?;
    let Pass { token, session } = pass;
    let connect = format!(r#"40{{"token":"{token}","sessionId":"{session}"}}"#);
    patiently("authenticating", link.ask(&connect, "40{")).await?;
    let now_ns = now_ns();
    let mut user = User {
        link,
        tags: TagFinder::new(),
        account: Account::new(Arc::clone(&ticket.room)),
        unconfirmed: VecDeque::new(),
        due_ns: now_ns + pause_ns(),
        gap_ns: None,
        ticket,
        room,
    };
    let join = format!(r#"42["joinRoom","{}"]"#, user.room);
    user.link.send(&join).await?;
    patiently("joining", user.until(r#"42["joinRoomSuccess""#)).await?;
    let fetch = format!(
        r#"42["fetchPreviousMessages",{{"roomId":"{}","limit":30}}]"#,
        user.room
    );
    user.link.send(&fetch).await?;
    patiently("history", user.until(r#"42["previousMessagesLoaded""#)).await?;
    Ok(user)
}

/// The five calls of a new user, and the two of whoever makes the room.
async fn call_backend(ticket: &Ticket) -> Result<(Pass, String)> {
    let email = format!("ramp-{:x}-{}@example.com", ticket.origin_ns, ticket.number);
    let mut rest = patiently("connecting", Rest::connect(&ticket.backend)).await?;
    let stranger = patiently("first login", rest.login(&email, PASSWORD)).await?;
    ensure!(stranger.is_none(), "logged in before registering");
    patiently("registering", rest.register(&email, PASSWORD)).await?;
    let pass = patiently("login", rest.login(&email, PASSWORD)).await?;
    let pass = pass.context("login: refused")?;
    let room = patiently("creating a room", ticket.room.id(&mut rest)).await?;
    patiently("REST join", rest.join_room(&room)).await?;
    patiently("REST room", rest.get_room(&room)).await?;
    Ok((pass, room))
}

async fn patiently<T>(step: &str, doing: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(PATIENCE, doing).await {
        Ok(outcome) => outcome.with_context(|| step.to_owned()),
        Err(_) => bail!("{step} took longer than {} s", PATIENCE.as_secs()),
    }
}

/// Connects from one of several addresses, each of which has ports of its own.
async fn connect(gateway: SocketAddr, number: u32) -> Result<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    if let Some(source) = crate::crowd::source(gateway, number) {
        socket.bind(source)?;
    }
    let stream = socket.connect(gateway).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn pause_ns() -> u64 {
    fastrand::u64(PAUSE_MS) * NS_PER_MS
}

impl User {
    /// Reads until a packet begins with `start`.
    async fn until(&mut self, start: &str) -> Result<()> {
        loop {
            while let Some(packet) = self.link.next()? {
                let is_it = packet.starts_with(start.as_bytes());
                self.take(&packet).await?;
                if is_it {
                    return Ok(());
                }
            }
            self.link.fill().await?;
        }
    }

    /// Talks and reads until the ramp is over.
    async fn talk(&mut self) -> Result<()> {
        loop {
            while let Some(packet) = self.link.next()? {
                self.take(&packet).await?;
            }
            let now_ns = now_ns();
            self.check_patience(now_ns)?;
            let wake_ns = match self.ticket.board.phase() {
                Phase::Over => return Ok(()),
                Phase::Talking if self.due_ns <= now_ns => {
                    self.speak(now_ns).await?;
                    continue;
                }
                Phase::Talking => self.due_ns,
                Phase::Listening => now_ns + LOOK_NS,
            };
            tokio::select! {
                biased;
                filled = self.link.fill() => filled?,
                () = sleep(Duration::from_nanos(wake_ns - now_ns)) => {}
            }
        }
    }

    async fn speak(&mut self, now_ns: u64) -> Result<()> {
        let (board, due_ns) = (&self.ticket.board, self.due_ns);
        board.note(|moments| moments.lag.record_ns(now_ns - due_ns));
        self.account.sent += 1;
        let tag = Tag {
            run: self.ticket.ramp,
            sender: self.ticket.number,
            number: self.account.sent,
            intended_ns: due_ns.saturating_sub(self.ticket.origin_ns),
        };
        let content = tag.text();
        let content = str::from_utf8(&content)?;
        let message = format!(
            r#"42["chatMessage",{{"room":"{}","type":"text","content":"{content}"}}]"#,
            self.room
        );
        self.unconfirmed.push_back((tag.number, due_ns));
        self.due_ns += pause_ns();
        board.counts.sent.fetch_add(1, Relaxed);
        self.link.send(&message).await
    }

    async fn take(&mut self, packet: &[u8]) -> Result<()> {
        let counts = &self.ticket.board.counts;
        if packet.starts_with(MESSAGE) {
            return self.take_message(packet).await;
        }
        if packet == b"2" {
            return self.link.send("3").await;
        }
        if packet.starts_with(br#"42["messagesRead""#) {
            counts.marks_received.fetch_add(1, Relaxed);
        }
        let refusals = [
            r#"42["error""#,
            r#"42["joinRoomError""#,
            r#"42["session_ended""#,
            "44",
            "41",
        ];
        let is_refusal = refusals
            .iter()
            .any(|start| packet.starts_with(start.as_bytes()));
        ensure!(!is_refusal, "{}", String::from_utf8_lossy(packet));
        Ok(())
    }

    async fn take_message(&mut self, message: &[u8]) -> Result<()> {
        let number = message_number(message).context("a message without an id")?;
        match self.account.take(number) {
            Place::Ahead => {}
            Place::Late => bail!("message {number} came out of order"),
            Place::Repeated => bail!("message {number} came twice"),
        }
        let tag = self
            .tags
            .find(message)
            .filter(|tag| tag.run == self.ticket.ramp);
        if let Some(tag) = tag {
            self.take_tag(tag)?;
        }
        let id = message
            .get(MESSAGE.len()..MESSAGE.len() + 24)
            .context("a short id")?;
        let mark = format!(
            r#"42["markMessagesAsRead",{{"messageIds":["{}"],"roomId":"{}"}}]"#,
            str::from_utf8(id)?,
            self.room
        );
        self.ticket.board.counts.marks_sent.fetch_add(1, Relaxed);
        self.link.send(&mark).await
    }

    fn take_tag(&mut self, tag: Tag) -> Result<()> {
        let board = &self.ticket.board;
        board.counts.delivered.fetch_add(1, Relaxed);
        let moment = now_ns() - self.ticket.origin_ns;
        let ns = moment.saturating_sub(tag.intended_ns);
        board.note(|moments| moments.delivery.record_ns(ns));
        if tag.sender == self.ticket.number {
            let expected = self.unconfirmed.pop_front();
            let is_next = expected.is_some_and(|(number, _)| number == tag.number);
            ensure!(
                is_next,
                "own message {} came back where {expected:?} was next",
                tag.number
            );
            board.counts.confirmed.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// Fails when something has not come for too long.
    fn check_patience(&mut self, now_ns: u64) -> Result<()> {
        let oldest_ns = self.unconfirmed.front().map(|(_, due_ns)| *due_ns);
        self.gap_ns = match self.account.missing() {
            0 => None,
            _ => self.gap_ns.or(Some(now_ns)),
        };
        let is_late =
            |since: Option<u64>| since.is_some_and(|ns| now_ns.saturating_sub(ns) > PATIENCE_NS);
        ensure!(
            !is_late(oldest_ns),
            "a message of its own was not back within 10 s"
        );
        ensure!(!is_late(self.gap_ns), "a message of the room was lost");
        Ok(())
    }
}
