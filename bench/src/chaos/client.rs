//! One user's application: connects, comes back, sends until it is told what became of it, and keeps
//! what it was shown. Speaks as the official `socket.io-client` (4.8) does.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use slotcast_proto::id::{MessageId, RoomId, UserId};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

use super::{
    connection::Connection,
    plan::ClientPlan,
    record::{Fate, Key, Message, Reactions, Record, Sent},
};
use crate::seed::Login;

/// What the whole run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Clients come in.
    Enter,
    /// Clients send.
    Send,
    /// The same, and slow readers come in.
    Crowd,
    /// What was sent is settled; nothing new is sent.
    Settle,
}

impl Phase {
    const fn is_sending(self) -> bool {
        matches!(self, Self::Send | Self::Crowd)
    }
}

/// What happens to a client from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Blow {
    /// Its socket is reset.
    Cut,
    /// Its network swallows everything, without a FIN or RST. It notices by the missing heartbeat.
    Vanish,
    /// Its network changes: the old socket stays open, unread, and it connects anew.
    Move,
}

/// What all clients of a run share.
pub(crate) struct World {
    pub(crate) gateways: Vec<SocketAddr>,
    pub(crate) begun: Instant,
    pub(crate) phase: watch::Receiver<Phase>,
    /// Without a heartbeat for so long, a client takes its connection for dead.
    pub(crate) heartbeat_max: Duration,
    /// A send without an answer for so long is repeated.
    pub(crate) ack_timeout: Duration,
    /// Between an answer and the next send.
    pub(crate) pause: Duration,
    /// Between two resets of a client's own socket.
    pub(crate) cut_every: Option<Duration>,
}

impl World {
    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// First and longest pause before a reconnect; a third of jitter on top.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// A request without an answer for so long, or refused, is made again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_PAUSE: Duration = Duration::from_millis(300);

/// Messages of a page of history: the most that the gateway gives.
const PAGE: usize = 100;

/// How often a client looks at what is due: one that sends, and one that listens.
const SENDER_TICK: Duration = Duration::from_millis(20);
const LISTENER_TICK: Duration = Duration::from_millis(500);

/// Between two reactions of a client, and between two marks.
const REACT_INTERVAL: Duration = Duration::from_millis(1500);
const MARK_INTERVAL: Duration = Duration::from_millis(700);

/// Messages of one mark.
const MARKS_MAX: usize = 500;

const EMOJIS: [&str; 3] = ["👍", "😀", "🎉"];

/// A user with a socket.
pub(crate) struct Client {
    number: usize,
    login: Login,
    plan: ClientPlan,
    /// Rooms of the plan.
    rooms: Vec<RoomId>,
    world: Arc<World>,
    record: Arc<Mutex<Record>>,
    blows: mpsc::Receiver<Blow>,
    rng: fastrand::Rng,
    /// Of the official client: names the connection to recover, and the last thing heard on it.
    pid: Option<String>,
    offset: Option<String>,
    next_ack: u64,
    /// Sends without an answer.
    pending: Vec<Pending>,
    send_after: Instant,
    lost_at: Option<Duration>,
    /// Sockets that were left without a word.
    left_behind: Vec<Connection>,
    cut_at: Option<Duration>,
    react_at: Duration,
    mark_at: Duration,
    marked: BTreeMap<RoomId, u64>,
}

struct Pending {
    number: usize,
    /// Ack ids of this connection's tries.
    acks: Vec<u64>,
    /// When to try again.
    due: Instant,
}

/// A room whose gap a client is closing, one at a time: pages do not name their room.
struct Request {
    room: usize,
    /// None while the join is unanswered.
    page: Option<Page>,
    deadline: Instant,
}

#[derive(Clone, Copy)]
struct Page {
    asked: Duration,
}

/// State of one connection.
struct Visit {
    heartbeat_by: Instant,
    waiting: VecDeque<usize>,
    request: Option<Request>,
    resume_at: Instant,
    /// Nothing goes in or out, and nobody says so.
    is_dark: bool,
    outgoing: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Auth<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<&'a str>,
    token: &'a str,
    session_id: String,
}

#[derive(Deserialize)]
struct Connected {
    pid: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Joined {
    room_id: RoomId,
    messages: Option<Vec<Message>>,
    #[serde(default)]
    has_more: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Loaded {
    messages: Vec<Message>,
    has_more: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reacted {
    message_id: MessageId,
    reactions: Reactions,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read {
    user_id: UserId,
    message_ids: Vec<MessageId>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    ok: bool,
    message_id: Option<MessageId>,
    retry_after: Option<u64>,
    #[serde(default)]
    message: String,
}

/// How a connection ended.
enum End {
    Lost,
    LeftBehind,
}

impl Client {
    pub(crate) fn new(
        number: usize,
        login: Login,
        plan: ClientPlan,
        rooms: Vec<RoomId>,
        world: Arc<World>,
    ) -> (Self, Arc<Mutex<Record>>, mpsc::Sender<Blow>) {
        let record = Arc::new(Mutex::new(Record::new(rooms.len())));
        let (blow, blows) = mpsc::channel(4);
        let client = Self {
            number,
            login,
            rng: fastrand::Rng::with_seed(plan.seed),
            plan,
            rooms,
            world,
            record: Arc::clone(&record),
            blows,
            pid: None,
            offset: None,
            next_ack: 0,
            pending: Vec::new(),
            send_after: Instant::now(),
            lost_at: None,
            left_behind: Vec::new(),
            cut_at: None,
            react_at: Duration::ZERO,
            mark_at: Duration::ZERO,
            marked: BTreeMap::new(),
        };
        (client, record, blow)
    }

    /// Lives until the task is ended.
    pub(crate) async fn run(mut self) {
        if self.plan.slow {
            let mut phase = self.world.phase.clone();
            // Fails only when the run is over.
            let _ = phase.wait_for(|phase| *phase == Phase::Crowd).await;
        }
        let mut pause = BACKOFF;
        loop {
            let gateway = self.rng.usize(..self.world.gateways.len());
            match self.connect(gateway).await {
                Ok((mut connection, mut visit)) => {
                    pause = BACKOFF;
                    match self.stay(&mut connection, &mut visit).await {
                        Ok(End::LeftBehind) => self.left_behind.push(connection),
                        Ok(End::Lost) => connection.reset(),
                        Err(error) => self.note(&error),
                    }
                    self.lose();
                }
                Err(error) => self.note(&error),
            }
            sleep(pause.mul_f64(1.0 + self.rng.f64() / 3.0)).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }

    fn note(&self, error: &anyhow::Error) {
        self.record().trouble = format!("{:.1} s: {error:#}", self.world.now().as_secs_f64());
    }

    fn lose(&mut self) {
        let now = self.world.now();
        if self.record().is_ready {
            self.lost_at = Some(now);
            self.record().losses.push(now);
        }
        self.record().is_ready = false;
        for pending in &mut self.pending {
            pending.acks.clear();
            pending.due = Instant::now();
        }
    }

    fn source(&self) -> SocketAddr {
        let last = u8::try_from(self.number % 250).unwrap_or_default();
        (Ipv4Addr::new(127, 0, 1, last + 1), 0).into()
    }

    /// Opens a socket, and says who this is and what it heard last.
    async fn connect(&mut self, gateway: usize) -> Result<(Connection, Visit)> {
        let address = *self.world.gateways.get(gateway).context("no gateway")?;
        self.record().gateway = gateway;
        let mut connection = Connection::open(address, self.source(), self.plan.slow).await?;
        let Login { token, session, .. } = &self.login;
        let auth = Auth {
            pid: self.pid.as_deref(),
            offset: self.offset.as_deref().filter(|_| self.pid.is_some()),
            token,
            session_id: session.to_string(),
        };
        let auth = serde_json::to_string(&auth)?;
        connection.send(&format!("40{auth}")).await?;
        let deadline = Instant::now() + self.world.heartbeat_max + REQUEST_TIMEOUT;
        loop {
            let packet = tokio::select! {
                packet = connection.next() => packet?,
                () = sleep_until(deadline) => bail!("no answer to CONNECT"),
            };
            if packet == "2" {
                connection.send("3").await?;
            } else if let Some(answer) = packet.strip_prefix("40") {
                let visit = self.accepted(&serde_json::from_str(answer)?);
                return Ok((connection, visit));
            } else if packet.starts_with("44") {
                bail!("refused: {packet}");
            }
        }
    }

    fn accepted(&mut self, connected: &Connected) -> Visit {
        let recovered = self.pid.is_some() && self.pid == connected.pid;
        let is_first = self.pid.is_none();
        self.pid.clone_from(&connected.pid);
        let mut record = lock(&self.record);
        match (is_first, recovered) {
            (true, _) => {}
            (false, true) => record.recovered += 1,
            (false, false) => record.reloads += 1,
        }
        for room in &mut record.rooms {
            room.is_synced &= recovered;
        }
        let gaps = record.rooms.iter().enumerate();
        let waiting = gaps.filter(|(_, room)| !room.is_synced).map(|(at, _)| at);
        let visit = Visit {
            heartbeat_by: Instant::now() + self.world.heartbeat_max,
            waiting: waiting.collect(),
            request: None,
            resume_at: Instant::now(),
            is_dark: false,
            outgoing: Vec::new(),
        };
        drop(record);
        self.check_ready(&visit);
        visit
    }

    fn check_ready(&mut self, visit: &Visit) {
        if visit.waiting.is_empty() && visit.request.is_none() {
            let now = self.world.now();
            let mut record = lock(&self.record);
            record.is_ready = true;
            if let Some(lost_at) = self.lost_at.take() {
                record.absences.push(now - lost_at);
            }
        }
    }

    /// Reads, and does what is due, until the connection is lost.
    async fn stay(&mut self, connection: &mut Connection, visit: &mut Visit) -> Result<End> {
        let is_sender = self.plan.window > 0;
        let mut tick = interval(if is_sender {
            SENDER_TICK
        } else {
            LISTENER_TICK
        });
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                packet = connection.next(), if !visit.is_dark => {
                    self.hear(connection, visit, &packet?).await?;
                    if !visit.waiting.is_empty() {
                        self.act(connection, visit).await?;
                    }
                }
                _ = tick.tick() => {
                    if Instant::now() > visit.heartbeat_by {
                        let end = if visit.is_dark { End::LeftBehind } else { End::Lost };
                        return Ok(end);
                    }
                    if self.is_cut_due() {
                        return Ok(End::Lost);
                    }
                    if !visit.is_dark {
                        self.act(connection, visit).await?;
                    }
                }
                Some(blow) = self.blows.recv() => match blow {
                    Blow::Cut => return Ok(End::Lost),
                    Blow::Vanish => {
                        visit.is_dark = true;
                        self.lose();
                    }
                    Blow::Move => return Ok(End::LeftBehind),
                },
            }
        }
    }

    /// The first cut falls anywhere in the interval, so that clients take turns.
    fn is_cut_due(&mut self) -> bool {
        let phase = *self.world.phase.borrow();
        let Some(every) = self.world.cut_every.filter(|_| phase.is_sending()) else {
            return false;
        };
        let now = self.world.now();
        let rng = &mut self.rng;
        let cut_at = self
            .cut_at
            .get_or_insert_with(|| now + every.mul_f64(rng.f64()));
        let is_due = now >= *cut_at;
        if is_due {
            *cut_at = now + every;
        }
        is_due
    }

    async fn hear(
        &mut self,
        connection: &mut Connection,
        visit: &mut Visit,
        packet: &str,
    ) -> Result<()> {
        if packet == "2" {
            visit.heartbeat_by = Instant::now() + self.world.heartbeat_max;
            return connection.send("3").await;
        }
        if let Some(payload) = packet.strip_prefix("42") {
            self.event(visit, payload)
                .with_context(|| packet.to_owned())?;
            return flush(connection, visit).await;
        }
        if let Some(answer) = packet.strip_prefix("43") {
            let payload = answer.trim_start_matches(|digit: char| digit.is_ascii_digit());
            let digits = answer.get(..answer.len() - payload.len());
            return self.acked(digits.unwrap_or_default().parse()?, payload);
        }
        if packet.starts_with("41") {
            bail!("disconnected by the gateway");
        }
        Ok(())
    }

    fn event(&mut self, visit: &mut Visit, payload: &str) -> Result<()> {
        let arguments: Vec<&RawValue> = serde_json::from_str(payload)?;
        let name: &str = serde_json::from_str(arguments.first().context("no name")?.get())?;
        let first = arguments.get(1).map_or("null", |first| first.get());
        let at = self.world.now();
        match name {
            "message" => {
                let message: Message = serde_json::from_str(first)?;
                if let Some(room) = self.place(message.room) {
                    self.in_room(room, |record| record.live(&message, at));
                }
            }
            "messageReactionUpdate" => {
                let reacted: Reacted = serde_json::from_str(first)?;
                if let Some(room) = self.place(reacted.message_id.room()) {
                    let state = (reacted.reactions, at);
                    self.in_room(room, |record| {
                        record.reactions.insert(reacted.message_id, state)
                    });
                }
            }
            "messagesRead" => self.note_read(&serde_json::from_str(first)?),
            "joinRoomSuccess" => self.joined(visit, serde_json::from_str(first)?),
            "previousMessagesLoaded" => self.loaded(visit, &serde_json::from_str(first)?),
            "joinRoomError" => Self::try_again(visit),
            "error" if first.contains("LOAD_ERROR") => Self::try_again(visit),
            _ => {}
        }
        // As the official client does, for every event.
        if let Some(text) = arguments.last().filter(|last| last.get().starts_with('"')) {
            self.offset = Some(serde_json::from_str(text.get())?);
        }
        Ok(())
    }

    fn place(&self, room: RoomId) -> Option<usize> {
        self.rooms.iter().position(|other| *other == room)
    }

    fn in_room<T>(
        &self,
        room: usize,
        change: impl FnOnce(&mut super::record::RoomRecord) -> T,
    ) -> Option<T> {
        self.record().rooms.get_mut(room).map(change)
    }

    fn note_read(&self, read: &Read) {
        let room = read
            .message_ids
            .first()
            .and_then(|id| self.place(id.room()));
        let Some(room) = room else { return };
        self.in_room(room, |record| {
            for id in &read.message_ids {
                record.readers.entry(*id).or_default().insert(read.user_id);
            }
        });
    }

    fn joined(&mut self, visit: &mut Visit, joined: Joined) {
        let expected = visit.request.as_ref().map(|request| request.room);
        let Some(room) = self
            .place(joined.room_id)
            .filter(|at| Some(*at) == expected)
        else {
            return;
        };
        match joined.messages {
            Some(messages) => {
                let loaded = Loaded {
                    messages,
                    has_more: joined.has_more,
                };
                self.merge(visit, room, &loaded, self.world.now());
            }
            None => self.ask_page(visit, room, None),
        }
    }

    fn loaded(&mut self, visit: &mut Visit, loaded: &Loaded) {
        let Some(Request {
            room,
            page: Some(page),
            ..
        }) = &visit.request
        else {
            return;
        };
        let (room, asked) = (*room, page.asked);
        match loaded.messages.first() {
            Some(first) if self.place(first.room) == Some(room) => {
                self.merge(visit, room, loaded, asked);
            }
            Some(_) => {}
            // A room has at least the message that told of this client's entry.
            None => Self::try_again(visit),
        }
    }

    fn merge(&mut self, visit: &mut Visit, room: usize, loaded: &Loaded, asked: Duration) {
        let now = self.world.now();
        let is_closed = self.in_room(room, |record| {
            let reaches_back = record.merge(&loaded.messages, asked, now);
            let is_closed = reaches_back || record.baseline.is_none() || !loaded.has_more;
            if is_closed {
                record.complete();
            }
            is_closed
        });
        if is_closed == Some(true) {
            visit.request = None;
            visit.waiting.retain(|other| *other != room);
            self.check_ready(visit);
        } else {
            let before = loaded.messages.first().map(|oldest| oldest.timestamp);
            self.ask_page(visit, room, before);
        }
    }

    /// What a refused request is followed by: the join from the start.
    fn try_again(visit: &mut Visit) {
        if visit.request.take().is_some() {
            visit.resume_at = Instant::now() + REQUEST_PAUSE;
        }
    }

    fn ask_page(&self, visit: &mut Visit, room: usize, before: Option<u64>) {
        let Some(id) = self.rooms.get(room) else {
            return;
        };
        let wanted = json!({"roomId": id, "limit": PAGE, "before": before});
        let asked = self.world.now();
        visit.request = Some(Request {
            room,
            page: Some(Page { asked }),
            deadline: Instant::now() + REQUEST_TIMEOUT,
        });
        visit
            .outgoing
            .push(format!(r#"42["fetchPreviousMessages",{wanted}]"#));
    }

    /// Does what is due.
    async fn act(&mut self, connection: &mut Connection, visit: &mut Visit) -> Result<()> {
        let now = Instant::now();
        if visit
            .request
            .as_ref()
            .is_some_and(|request| now > request.deadline)
        {
            Self::try_again(visit);
        }
        if visit.request.is_none()
            && now >= visit.resume_at
            && let Some(room) = visit.waiting.front()
            && let Some(id) = self.rooms.get(*room)
        {
            visit.outgoing.push(format!(r#"42["joinRoom","{id}"]"#));
            visit.request = Some(Request {
                room: *room,
                page: None,
                deadline: now + REQUEST_TIMEOUT,
            });
        }
        let phase = *self.world.phase.borrow();
        if phase != Phase::Enter && self.record().is_ready {
            self.repeat(visit, now);
            if phase.is_sending() {
                self.send(visit, now);
                self.react(visit);
                self.mark(visit);
            }
        }
        flush(connection, visit).await
    }

    fn repeat(&mut self, visit: &mut Visit, now: Instant) {
        let mut pending = std::mem::take(&mut self.pending);
        for pending in pending.iter_mut().filter(|pending| now >= pending.due) {
            self.try_send(visit, pending, now);
        }
        self.pending = pending;
    }

    fn send(&mut self, visit: &mut Visit, now: Instant) {
        while self.pending.len() < self.plan.window && now >= self.send_after {
            let place = self.rng.usize(..self.plan.rooms.len());
            let Some(room) = self.plan.rooms.get(place) else {
                return;
            };
            let at = self.world.now();
            let mut record = lock(&self.record);
            let number = record.sent.len();
            record.sent.push(Sent {
                room: *room,
                at,
                tries: 0,
                fate: Fate::Open,
            });
            drop(record);
            let mut pending = Pending {
                number,
                acks: Vec::new(),
                due: now,
            };
            self.try_send(visit, &mut pending, now);
            self.pending.push(pending);
        }
    }

    fn try_send(&mut self, visit: &mut Visit, pending: &mut Pending, now: Instant) {
        let room = match lock(&self.record).sent.get_mut(pending.number) {
            Some(sent) => {
                sent.tries += 1;
                sent.room
            }
            None => return,
        };
        let place = self.plan.rooms.iter().position(|other| *other == room);
        let Some(room) = place.and_then(|place| self.rooms.get(place)) else {
            return;
        };
        let key = Key {
            client: self.number,
            number: pending.number,
        };
        let message = json!({
            "room": room,
            "type": "text",
            "content": format!("message {key}"),
            "clientMessageId": key.to_string(),
        });
        visit
            .outgoing
            .push(format!(r#"42{}["chatMessage",{message}]"#, self.next_ack));
        pending.acks.push(self.next_ack);
        pending.due = now + self.world.ack_timeout;
        self.next_ack += 1;
    }

    fn acked(&mut self, ack: u64, payload: &str) -> Result<()> {
        let Some(at) = self
            .pending
            .iter()
            .position(|pending| pending.acks.contains(&ack))
        else {
            return Ok(());
        };
        let (answer,): (Answer,) = serde_json::from_str(payload)?;
        let now = Instant::now();
        if let (false, Some(seconds), Some(pending)) =
            (answer.ok, answer.retry_after, self.pending.get_mut(at))
        {
            pending.due = now + Duration::from_secs(seconds);
            return Ok(());
        }
        let pending = self.pending.swap_remove(at);
        let fate = if answer.ok {
            Fate::Accepted(answer.message_id.context("no message id")?)
        } else {
            self.note(&anyhow::anyhow!("refused: {}", answer.message));
            Fate::Refused
        };
        if let Some(sent) = self.record().sent.get_mut(pending.number) {
            sent.fate = fate;
        }
        self.send_after = now + self.world.pause;
        Ok(())
    }

    /// Puts a reaction to a message on the screen, or takes one back.
    fn react(&mut self, visit: &mut Visit) {
        let now = self.world.now();
        if !self.plan.reacts || now < self.react_at {
            return;
        }
        self.react_at = now + REACT_INTERVAL.mul_f64(0.5 + self.rng.f64());
        let place = self.rng.usize(..self.rooms.len());
        let back = self.rng.usize(..20);
        let chosen = self.in_room(place, |room| room.shown.iter().rev().nth(back).copied());
        let Some(Some(seen)) = chosen else { return };
        let op = if self.rng.u8(..4) == 0 {
            "remove"
        } else {
            "add"
        };
        let emoji = EMOJIS.get(self.rng.usize(..EMOJIS.len()));
        let reaction = json!({"messageId": seen.id, "reaction": emoji, "type": op});
        visit
            .outgoing
            .push(format!(r#"42["messageReaction",{reaction}]"#));
    }

    /// Marks what came since the last mark as read, in one room.
    fn mark(&mut self, visit: &mut Visit) {
        let now = self.world.now();
        if !self.plan.marks || now < self.mark_at {
            return;
        }
        self.mark_at = now + MARK_INTERVAL.mul_f64(0.5 + self.rng.f64());
        let place = self.rng.usize(..self.rooms.len());
        let Some(id) = self.rooms.get(place).copied() else {
            return;
        };
        let upto = self.marked.get(&id).copied().unwrap_or_default();
        let unread = self.in_room(place, |room| {
            let newest_first = room.shown.iter().rev();
            let unread = newest_first
                .take_while(|seen| seen.timestamp > upto)
                .take(MARKS_MAX);
            unread
                .map(|seen| (seen.id, seen.timestamp))
                .collect::<Vec<_>>()
        });
        let unread = unread.unwrap_or_default();
        let Some((_, newest)) = unread.first() else {
            return;
        };
        self.marked.insert(id, *newest);
        let ids: Vec<_> = unread.iter().map(|(id, _)| id).collect();
        visit.outgoing.push(format!(
            r#"42["markMessagesAsRead",{}]"#,
            json!({"messageIds": ids})
        ));
    }
}

async fn flush(connection: &mut Connection, visit: &mut Visit) -> Result<()> {
    for packet in visit.outgoing.drain(..) {
        connection.send(&packet).await?;
    }
    Ok(())
}

pub(crate) fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}
