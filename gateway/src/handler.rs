//! What happens on a client's behalf: connecting, its events, its going.
//!
//! Handlers of one connection run one at a time. What a client sees when something is refused is
//! chosen here and in the files below, nowhere else.

mod chat;
mod history;
mod mark;
mod recovery;
pub(crate) mod room;
pub(crate) mod session;

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use slotcast_proto::{
    id::{RoomId, SessionId, UserId},
    schema::{key::Channel, record},
    wire::{
        event::{
            ClientEvent, DuplicateLogin, ErrorCode, ErrorEvent, EventName, MessageRefused,
            ServerEvent, ack_packet,
        },
        peer::ConnectAuth,
        socketio::AckId,
    },
};
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use self::recovery::Recovery;
use crate::{
    app::{App, unix_millis, unix_seconds},
    bus::Subscription,
    close::Close,
    cluster::StoreError,
    connection::Connection,
    metrics,
    session::{Profile, Session, User, key_text, parse_key},
    store::{Arrival, Connected, HeldConnection, Welcome},
    websocket::text_frame,
};

const AUTHENTICATION_ERROR: &str = "Authentication error";
const INVALID_TOKEN: &str = "Invalid token";
const INVALID_SESSION: &str = "Invalid session";
const USER_NOT_FOUND: &str = "User not found";
const AUTHENTICATION_FAILED: &str = "Authentication failed";

/// A leave that Redis does not take is tried again this often, this many times.
const LEAVE_PAUSE: Duration = Duration::from_secs(1);
const LEAVE_ATTEMPTS: u32 = 300;

/// A client that may come in.
pub(crate) struct Accepted {
    pub(crate) sid: String,
    pub(crate) pid: String,
    /// The private id that the client had before, if that is remembered.
    succeeds: Option<String>,
    back: Back,
}

/// How a client comes back into the rooms of the connection before.
enum Back {
    /// With everything that it missed.
    Recovered(Vec<Recovery>),
    /// As from now; it loads what it needs.
    Restored(Vec<RoomId>),
}

/// Authenticates a CONNECT; refusals are the text of `connect_error`.
pub(crate) async fn connect(
    app: &Arc<App>,
    connection: &Arc<Connection>,
    auth: ConnectAuth,
) -> Result<Accepted, &'static str> {
    let token = auth
        .token
        .filter(|token| !token.is_empty())
        .ok_or(AUTHENTICATION_ERROR)?;
    let session = auth
        .session_id
        .filter(|id| !id.is_empty())
        .ok_or(AUTHENTICATION_ERROR)?;
    let claims = app
        .tokens
        .verify(&token, unix_seconds())
        .map_err(|_| INVALID_TOKEN)?;
    let session: SessionId = session.parse().map_err(|_| INVALID_SESSION)?;
    if session != claims.session_id {
        return Err(INVALID_SESSION);
    }
    let client = connection.client();
    let notice = DuplicateLogin {
        device_info: client
            .user_agent
            .as_deref()
            .filter(|agent| !agent.is_empty())
            .unwrap_or("Unknown"),
        ip_address: &client.address,
        timestamp: unix_millis(),
    };
    let previous_pid = auth.pid.as_deref().and_then(parse_key);
    let arrival = Arrival {
        user: claims.user_id,
        session,
        previous_pid,
        new_pid: fastrand::u64(1..),
        notice: &notice.json(),
    };
    let failed = |error: StoreError| {
        warn!(%error, "cannot check a session");
        AUTHENTICATION_FAILED
    };
    // First the user's channel, then the session, so that no news of it can pass between them; news
    // that comes before the connection can be found makes its session doubtful.
    let news = app.hub.control_news();
    let control = app.bus.want(Channel::Users(arrival.user.slot()));
    control.live().wait().await.map_err(failed)?;
    match app.store.connect(&arrival).await.map_err(failed)? {
        Connected::Welcome(welcome) => {
            let session = register(app, connection, &arrival, &welcome, control);
            if app.hub.control_news() != news {
                session.doubt();
            }
            let offset = auth.offset.as_deref().unwrap_or_default();
            let recovered = match previous_pid {
                Some(_) => recover(app, connection, &welcome, offset).await,
                None => None,
            };
            Ok(accept(session, welcome, &arrival, recovered))
        }
        Connected::InvalidSession => Err(INVALID_SESSION),
        Connected::UserGone => Err(USER_NOT_FOUND),
    }
}

fn register<'a>(
    app: &App,
    connection: &'a Arc<Connection>,
    arrival: &Arrival<'_>,
    welcome: &Welcome,
    control: Subscription,
) -> &'a Session {
    let id = arrival.user;
    let profile = Profile::new(id, &welcome.name, &welcome.email, &welcome.profile_image);
    let user = app.hub.add_connection(id, profile, connection, control);
    connection.session().get_or_init(|| {
        app.metrics.users.inc();
        let session = Session::new(user, arrival.session, welcome.generation, app.now_seconds());
        // From here on they are the connection's: should it end at once, the next one finds them.
        for room in &welcome.rooms {
            session.enter(*room);
        }
        session
    })
}

/// What a client missed that was here before, if it can be made good.
async fn recover(
    app: &Arc<App>,
    connection: &Arc<Connection>,
    welcome: &Welcome,
    offset: &str,
) -> Option<Vec<Recovery>> {
    let recovered = recovery::recover(app, connection, welcome, offset).await;
    app.metrics.count_recovery(match recovered {
        Some(_) => metrics::Recovery::Recovered,
        None => metrics::Recovery::Refused,
    });
    recovered
}

/// The same private id as before tells a client that it misses nothing.
fn accept(
    session: &Session,
    welcome: Welcome,
    arrival: &Arrival<'_>,
    recovered: Option<Vec<Recovery>>,
) -> Accepted {
    let previous_pid = arrival.previous_pid;
    let pid = previous_pid.filter(|_| recovered.is_some());
    session.set_pid(pid.unwrap_or(arrival.new_pid));
    Accepted {
        sid: random_id(),
        pid: session.pid(),
        succeeds: previous_pid
            .filter(|_| welcome.generation > 0)
            .map(key_text),
        back: recovered.map_or(Back::Restored(welcome.rooms), Back::Recovered),
    }
}

/// Brings a connection that was accepted back into the rooms it had.
pub(crate) async fn connected(app: &Arc<App>, connection: &Arc<Connection>, accepted: Accepted) {
    let Some(session) = connection.session().get() else {
        return;
    };
    match accepted.back {
        Back::Recovered(rooms) => {
            for recovery in &rooms {
                recovery::conclude(app, connection, recovery);
            }
        }
        Back::Restored(rooms) => {
            for room in rooms {
                if let Err(error) = room::restore(app, connection, session, room).await {
                    warn!(%room, %error, "cannot bring a connection back into its room");
                }
            }
        }
    }
    let succeeded = succeed(app, session, accepted.succeeds.as_deref());
    if let Err(error) = succeeded.await {
        warn!(%error, "the connection before this one may keep its seats for a while");
    }
}

/// Remembers the connection in the place of the one before it.
async fn succeed(app: &App, session: &Session, previous: Option<&str>) -> Result<(), StoreError> {
    let (user, rooms) = (session.user.id, session.rooms());
    if previous.is_some() || !rooms.is_empty() {
        app.store.hold_connection(&session.held(&rooms)).await?;
    }
    let Some(previous) = previous else {
        return Ok(());
    };
    if previous != session.pid() {
        app.store
            .forget_connection(user, previous, session.generation)
            .await?;
    }
    app.store
        .announce_take_over(user, previous, session.generation)
        .await
}

/// Handles one event.
pub(crate) async fn handle(
    app: &Arc<App>,
    connection: &Arc<Connection>,
    event: ClientEvent,
    ack: Option<AckId>,
) {
    match event {
        ClientEvent::JoinRoom(room) => room::join(app, connection, &room).await,
        ClientEvent::LeaveRoom(room) => room::leave(app, connection, &room).await,
        ClientEvent::ChatMessage(message) => {
            return chat::send(app, connection, message, ack).await;
        }
        ClientEvent::FetchPreviousMessages {
            room_id,
            limit,
            before,
        } => {
            history::fetch(app, connection, &room_id, limit, before).await;
        }
        ClientEvent::MarkMessagesAsRead { message_ids } => {
            mark::mark_as_read(app, connection, &message_ids);
        }
        ClientEvent::MessageReaction {
            message_id,
            reaction,
            op,
        } => {
            mark::react(app, connection, &message_id, &reaction, op).await;
        }
        ClientEvent::ForceLogin { token } => session::force_login(app, connection, token),
        ClientEvent::Ping | ClientEvent::JoinRoomList | ClientEvent::Unknown => {}
    }
    if let Some(ack) = ack {
        send_packet(connection, &ack_packet(ack, None));
    }
}

/// Handles an event whose payload is not what its name promises: a chat message is refused if an answer
/// was asked for, anything else is done with. Repeating it would not make it fit.
pub(crate) fn handle_undecodable(
    app: &Arc<App>,
    connection: &Arc<Connection>,
    name: EventName,
    ack: Option<AckId>,
) {
    debug!(
        event = name.as_str(),
        "dropped an event with an unfit payload"
    );
    app.metrics.undecodable_events.inc();
    let Some(ack) = ack else {
        return;
    };
    let answer = if name == EventName::ChatMessage {
        MessageRefused {
            code: ErrorCode::MessageError,
            message: "메시지 데이터 형식이 올바르지 않습니다.",
            retry_after: None,
        }
        .packet(ack)
    } else {
        ack_packet(ack, None)
    };
    send_packet(connection, &answer);
}

/// Takes a connection out of everything. After an abnormal end its seats are kept for the grace
/// period, and what it needs to recover for the recovery window, on any gateway.
pub(crate) async fn disconnected(app: &Arc<App>, connection: &Arc<Connection>, close: Close) {
    let Some(session) = connection.session().get() else {
        return;
    };
    let user = &session.user;
    let rooms = session.rooms();
    let may_return = !close.is_orderly();
    if may_return {
        app.hub.park(user.id, &rooms);
    }
    for room in &rooms {
        session.exit(*room);
        app.hub.exit(*room, connection);
    }
    app.hub.remove_connection(user.id, connection);
    app.metrics.users.dec();
    let seats = Seats {
        user: Arc::clone(user),
        rooms,
    };
    if may_return {
        park(app, session, seats, close).await;
    } else {
        let (app, pid, generation) = (Arc::clone(app), session.pid(), session.generation);
        let has_pid = session.has_pid();
        tokio::spawn(async move {
            seats.give_up(&app).await;
            if has_pid {
                forget(&app, seats.user.id, &pid, generation).await;
            }
        });
    }
}

/// Keeps what a lost connection had.
async fn park(app: &Arc<App>, session: &Session, seats: Seats, close: Close) {
    let held = HeldConnection {
        is_parked: true,
        ..session.held(&seats.rooms)
    };
    // Without one, it stands still under that of the connection before.
    if session.has_pid()
        && let Err(error) = app.store.hold_connection(&held).await
    {
        warn!(%error, "cannot remember the rooms of a lost connection");
    }
    // Whoever does not come back after a drain leaves when this gateway's lease ends.
    if close != Close::Draining && !seats.rooms.is_empty() {
        let app = Arc::clone(app);
        tokio::spawn(async move {
            sleep(app.config.grace).await;
            app.hub.unpark(seats.user.id, &seats.rooms);
            seats.give_up(&app).await;
        });
    }
}

async fn forget(app: &App, user: UserId, pid: &str, generation: u64) {
    if let Err(error) = app.store.forget_connection(user, pid, generation).await {
        debug!(%error, "left the record of a connection to its expiry");
    }
}

/// What a connection had.
struct Seats {
    user: Arc<User>,
    rooms: Vec<RoomId>,
}

impl Seats {
    /// One room of a connection that lives on.
    fn one(session: &Session, room: RoomId) -> Self {
        Self {
            user: Arc::clone(&session.user),
            rooms: vec![room],
        }
    }

    /// By itself, so that neither a socket nor a client waits for Redis.
    fn give_up_in_background(self, app: &Arc<App>) {
        let app = Arc::clone(app);
        tokio::spawn(async move { self.give_up(&app).await });
    }

    async fn give_up(&self, app: &App) {
        join_all(self.rooms.iter().map(|room| self.leave(app, *room))).await;
    }

    /// Leaves a room, however long Redis takes: a seat that is not given up stays for ever.
    async fn leave(&self, app: &App, room: RoomId) {
        for _ in 0..LEAVE_ATTEMPTS {
            match room::leave_seat(app, &self.user, room).await {
                Ok(()) => return,
                Err(error) => warn!(%room, %error, "cannot leave a room; will try again"),
            }
            sleep(LEAVE_PAUSE).await;
        }
    }
}

/// Whether the session behind a connection still holds; asks Redis once a minute at most.
async fn is_current(app: &App, session: &Session) -> Result<bool, StoreError> {
    if session.is_ended() {
        return Ok(false);
    }
    if app.pulse.stall().is_some() {
        session.doubt();
    }
    let now = app.now_seconds();
    if session.wants_check(now) {
        if !app.store.touch_session(session.user.id, session.id).await? {
            session.end();
            return Ok(false);
        }
        session.note_check(now);
    }
    Ok(true)
}

/// Counts a message against the user's rate; how many seconds to wait when it is too much.
fn count_message(app: &App, user: &User) -> Result<(), u32> {
    let config = &app.config;
    user.count_message(
        config.message_rate_limit,
        config.message_rate_window,
        Instant::now(),
    )
    .map_err(|wait| u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX))
}

fn send_packet(connection: &Connection, packet: &str) {
    connection.send(&text_frame(packet));
}

fn send_error(connection: &Connection, code: Option<ErrorCode>, message: &str) {
    send_packet(
        connection,
        &ErrorEvent {
            code,
            message,
            retry_after: None,
        }
        .packet(),
    );
}

/// JSON members of a system message, see [`record::message_body`].
fn system_message(room: RoomId, content: &str) -> String {
    let content = serde_json::Value::from(content);
    record::message_body(&format!(
        r#""room":"{room}","content":{content},"type":"system","metadata":{{}}"#
    ))
}

fn random_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}
