//! Every question this tier asks Redis, and how an unwilling cluster is asked again.
//!
//! Two pools of cluster connections: *fresh* ones read and write masters; *stale-tolerant* ones read
//! replicas where the operator allows it. A command waits [`COMMAND_TIMEOUT`] at most; whoever
//! waited in vain drops the connection, since its sockets may be dead without a sign. A question is
//! asked again with growing, jittered pauses until [`RETRY_BUDGET`] is spent: always when Redis
//! refused to execute it, and after a lost answer only when repeating does no harm.

mod files;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_redis::{
    Runtime,
    cluster::{Connection, Manager, Pool},
};
use futures_util::{StreamExt, stream};
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, Value, cmd};
use slotcast_proto::{
    id::{RoomId, SessionId, UserId},
    schema::{
        bus,
        key::{self, Channel},
        library::{self, Function},
        record,
    },
    wire::event::{ROOM_CREATED, ROOM_UPDATED},
};
use thiserror::Error;
use tokio::time::{sleep, timeout};

pub(crate) use self::files::{FileRecord, PendingUpload};
use crate::{
    config::Config,
    extract::Client,
    metrics::Metrics,
    view::{Room, UserView},
};

/// How long one command may take. A healthy cluster on a local network needs a millisecond.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a question is asked again. A failover takes about 4 s with the node timeout of 2 s;
/// clients give up after 5 s at the earliest.
const RETRY_BUDGET: Duration = Duration::from_secs(4);

/// The first and the longest pause between two tries.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(400);

/// Waiting for a connection, making one (six sockets and the slot map), and checking one.
const POOL_WAIT_TIMEOUT: Duration = Duration::from_secs(1);
const POOL_CREATE_TIMEOUT: Duration = Duration::from_secs(2);
const POOL_RECYCLE_TIMEOUT: Duration = Duration::from_millis(500);

/// Commands in flight on one connection: cluster connections with 64 were seen not to recover from
/// a dead master, 32 recovered.
const IN_FLIGHT_MAX: usize = 16;

/// Tries for a room number that is free: of 2^32 per slot.
const ROOM_NUMBER_TRIES: usize = 8;

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum StoreError {
    /// Redis does not answer, or refuses for now.
    #[error("redis is unavailable")]
    Unavailable,
    /// What is stored, or what Redis said, makes no sense.
    #[error("redis holds or said something senseless")]
    Corrupt,
}

/// A registered user, as stored.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) id: UserId,
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) password_hash: String,
    /// `None` when never set, empty when deleted.
    pub(crate) profile_image: Option<String>,
}

/// What stands between a user and a room.
pub(crate) struct Door {
    /// Absent for an open room.
    pub(crate) password_hash: Option<String>,
}

/// A room to be created.
pub(crate) struct NewRoom<'a> {
    pub(crate) name: &'a str,
    pub(crate) password_hash: Option<String>,
    pub(crate) creator: &'a UserView,
    pub(crate) created_at: u64,
}

/// What sorting and searching needs of a room.
#[derive(Clone, Debug)]
pub(crate) struct RoomSummary {
    pub(crate) id: RoomId,
    pub(crate) name: String,
    pub(crate) participants: u64,
    pub(crate) created_at: u64,
}

/// Messages in the order of the log.
pub(crate) struct MessagePage {
    /// JSON of each, as clients see it.
    pub(crate) messages: Vec<String>,
    /// Whether there are older ones.
    pub(crate) has_more: bool,
}

/// `ok`, whether there are older messages, number and JSON of each, its reactions, and what each member
/// has read.
type RawPage = (
    String,
    bool,
    Vec<(u64, String)>,
    Vec<Option<String>>,
    Vec<(String, String)>,
);

/// How a question may be asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Masters; repeating it does no harm.
    Fresh,
    /// Masters; not repeated once it may have been executed.
    Once,
    /// Replicas where configured; repeating does no harm.
    MayBeStale,
}

/// Asks Redis.
pub(crate) struct Store {
    fresh: Pool,
    stale: Pool,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
}

impl Store {
    /// Makes the pools; connects to nothing.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for URLs that are none.
    pub(crate) fn new(config: Arc<Config>, metrics: Arc<Metrics>) -> Result<Self, StoreError> {
        let pool = |read_from_replicas| {
            let urls = config.redis_urls.iter().map(String::as_str).collect();
            let manager =
                Manager::new(urls, read_from_replicas).map_err(|_| StoreError::Corrupt)?;
            Pool::builder(manager)
                .max_size(config.redis_pool_size)
                .wait_timeout(Some(POOL_WAIT_TIMEOUT))
                .create_timeout(Some(POOL_CREATE_TIMEOUT))
                .recycle_timeout(Some(POOL_RECYCLE_TIMEOUT))
                .runtime(Runtime::Tokio1)
                .build()
                .map_err(|_| StoreError::Corrupt)
        };
        Ok(Self {
            fresh: pool(false)?,
            stale: pool(config.read_from_replicas)?,
            config,
            metrics,
        })
    }

    // ------------------------------------------------------------------------------- accounts

    /// The user who registered an e-mail address.
    pub(crate) async fn user_of_email(&self, email: &str) -> Result<Option<UserId>, StoreError> {
        let mut command = cmd("GET");
        command.arg(key::email(email));
        let id: Option<String> = self.ask("user_of_email", Manner::Fresh, &command).await?;
        id.map(|id| id.parse().map_err(|_| StoreError::Corrupt))
            .transpose()
    }

    /// A user's record as it is.
    pub(crate) async fn user(&self, id: UserId) -> Result<Option<User>, StoreError> {
        self.user_read(id, Manner::Fresh).await
    }

    /// A user's record as it was a moment ago; one that is not there yet is looked for again.
    pub(crate) async fn user_lately(&self, id: UserId) -> Result<Option<User>, StoreError> {
        match self.user_read(id, Manner::MayBeStale).await? {
            Some(user) => Ok(Some(user)),
            None => self.user(id).await,
        }
    }

    async fn user_read(&self, id: UserId, manner: Manner) -> Result<Option<User>, StoreError> {
        let mut command = cmd("HGETALL");
        command.arg(key::user(id));
        let mut fields: HashMap<String, String> = self.ask("user", manner, &command).await?;
        let mut field = |name| fields.remove(name);
        // A record without these is what a change left behind that came after the deletion.
        let (Some(name), Some(email), Some(password_hash)) = (
            field(record::user::NAME),
            field(record::user::EMAIL),
            field(record::user::PASSWORD),
        ) else {
            return Ok(None);
        };
        let profile_image = field(record::user::PROFILE_IMAGE);
        Ok(Some(User {
            id,
            name,
            email,
            password_hash,
            profile_image,
        }))
    }

    /// Stores a user and claims the e-mail address; false when somebody else has it.
    ///
    /// The record comes first: whoever finds the address also finds the record.
    pub(crate) async fn register(&self, user: &User, created_at: u64) -> Result<bool, StoreError> {
        let mut command = cmd("HSET");
        command
            .arg(key::user(user.id))
            .arg(record::user::NAME)
            .arg(&user.name)
            .arg(record::user::EMAIL)
            .arg(&user.email)
            .arg(record::user::PASSWORD)
            .arg(&user.password_hash)
            .arg(record::user::CREATED_AT)
            .arg(created_at);
        let _: Value = self.ask("register", Manner::Fresh, &command).await?;

        // With GET the answer to a repeated claim says that the first one succeeded.
        let mut command = cmd("SET");
        let id = user.id.to_string();
        command
            .arg(key::email(&user.email))
            .arg(&id)
            .arg("NX")
            .arg("GET");
        let owner: Option<String> = self.ask("register", Manner::Fresh, &command).await?;
        if owner.is_none_or(|owner| owner == id) {
            return Ok(true);
        }
        let mut command = cmd("DEL");
        command.arg(key::user(user.id));
        let _: Value = self.ask("register", Manner::Fresh, &command).await?;
        Ok(false)
    }

    /// Renames a user and tells the gateways.
    pub(crate) async fn rename_user(&self, user: &User) -> Result<(), StoreError> {
        let mut command = cmd("HSET");
        command
            .arg(key::user(user.id))
            .arg(record::user::NAME)
            .arg(&user.name);
        let _: Value = self.ask("rename_user", Manner::Fresh, &command).await?;
        let message = bus::profile_changed(user.id, &UserView::of(user).json()?);
        self.publish(Channel::Users(user.id.slot()), &message).await;
        Ok(())
    }

    /// Replaces the hash of a user's password.
    pub(crate) async fn set_password(&self, user: UserId, hash: &str) -> Result<(), StoreError> {
        let mut command = cmd("HSET");
        command
            .arg(key::user(user))
            .arg(record::user::PASSWORD)
            .arg(hash);
        let _: Value = self.ask("set_password", Manner::Fresh, &command).await?;
        Ok(())
    }

    /// Removes a user's record and frees the e-mail address; nothing else.
    pub(crate) async fn delete_user(&self, user: &User) -> Result<(), StoreError> {
        if self.user_of_email(&user.email).await? == Some(user.id) {
            let mut command = cmd("DEL");
            command.arg(key::email(&user.email));
            let _: Value = self.ask("delete_user", Manner::Fresh, &command).await?;
        }
        let mut command = cmd("DEL");
        command.arg(key::user(user.id));
        let _: Value = self.ask("delete_user", Manner::Fresh, &command).await?;
        Ok(())
    }

    // ------------------------------------------------------------------------------- sessions

    /// Makes `session` the user's one session and tells the gateways.
    pub(crate) async fn replace_session(
        &self,
        user: UserId,
        session: SessionId,
        client: &Client,
        created_at: u64,
    ) -> Result<(), StoreError> {
        let mut command = fcall(Function::ReplaceSession, &[key::session(user)]);
        command
            .arg(Channel::Users(user.slot()).to_string())
            .arg(user.to_string())
            .arg(session.to_string())
            .arg(self.session_ttl_ms())
            .arg(record::session::CREATED_AT)
            .arg(created_at)
            .arg(record::session::ADDRESS)
            .arg(client.address.to_string());
        if let Some(user_agent) = &client.user_agent {
            command.arg(record::session::USER_AGENT).arg(user_agent);
        }
        self.tell("replace_session", &command).await.map(|_| ())
    }

    /// Puts the end of a session off; false when it is not the user's live one.
    pub(crate) async fn touch_session(
        &self,
        user: UserId,
        session: SessionId,
    ) -> Result<bool, StoreError> {
        let keys = [key::session(user), key::connections(user)];
        let mut command = fcall(Function::TouchSession, &keys);
        command.arg(session.to_string()).arg(self.session_ttl_ms());
        Ok(self.tell("touch_session", &command).await? == "ok")
    }

    /// Ends a session if it is the user's live one, and tells the gateways.
    pub(crate) async fn end_session(
        &self,
        user: UserId,
        session: SessionId,
    ) -> Result<(), StoreError> {
        let mut command = fcall(Function::EndSession, &[key::session(user)]);
        command
            .arg(Channel::Users(user.slot()).to_string())
            .arg(user.to_string())
            .arg(session.to_string());
        self.tell("end_session", &command).await.map(|_| ())
    }

    fn session_ttl_ms(&self) -> u64 {
        u64::try_from(self.config.session_ttl.as_millis()).unwrap_or(u64::MAX)
    }

    // ---------------------------------------------------------------------------------- rooms

    /// Creates a room, lists it, and tells every socket.
    pub(crate) async fn create_room(&self, new: &NewRoom<'_>) -> Result<Room, StoreError> {
        let id = self.create_room_record(new).await?;
        let mut command = cmd("ZADD");
        command
            .arg(key::ROOMS_BY_CREATION)
            .arg(new.created_at)
            .arg(id.to_string());
        let _: Value = self.ask("create_room", Manner::Fresh, &command).await?;

        let room = Room::created(id, new)?;
        let json = room.event_json()?;
        self.publish(Channel::Lobby, &bus::lobby_event(ROOM_CREATED, &json))
            .await;
        Ok(room)
    }

    async fn create_room_record(&self, new: &NewRoom<'_>) -> Result<RoomId, StoreError> {
        let creator = new.creator.json()?;
        for _ in 0..ROOM_NUMBER_TRIES {
            let slot = self.config.shards.pick(rand::random());
            let id = RoomId::new(slot, rand::random());
            let keys = [key::room(id), key::members(id), key::admitted(id)];
            let mut command = fcall(Function::CreateRoom, &keys);
            command
                .arg(new.creator.id())
                .arg(&creator)
                .arg(record::room::NAME)
                .arg(new.name)
                .arg(record::room::CREATOR)
                .arg(&creator)
                .arg(record::room::CREATED_AT)
                .arg(new.created_at);
            if let Some(hash) = &new.password_hash {
                command.arg(record::room::PASSWORD).arg(hash);
            }
            // A repeated call that finds its own room says "taken": the next number is tried, and
            // the first room stays unlisted. Rare, and better than a creation that fails.
            if self.tell("create_room", &command).await? == "ok" {
                return Ok(id);
            }
        }
        Err(StoreError::Corrupt)
    }

    /// What stands before a room; `None` when there is no room.
    pub(crate) async fn door(&self, room: RoomId) -> Result<Option<Door>, StoreError> {
        let mut command = cmd("HMGET");
        command
            .arg(key::room(room))
            .arg(record::room::NAME)
            .arg(record::room::PASSWORD);
        let (name, password_hash): (Option<String>, Option<String>) =
            self.ask("door", Manner::Fresh, &command).await?;
        Ok(name.map(|_| Door { password_hash }))
    }

    /// Makes a user a participant who may enter on a socket; false when there is no room.
    pub(crate) async fn admit(&self, room: RoomId, user: &UserView) -> Result<bool, StoreError> {
        let keys = [key::room(room), key::members(room), key::admitted(room)];
        let mut command = fcall(Function::Admit, &keys);
        command.arg(user.id()).arg(user.json()?);
        Ok(self.tell("admit", &command).await? == "ok")
    }

    /// Tells the sockets in a room what it looks like.
    pub(crate) async fn publish_room(&self, room: &Room) -> Result<(), StoreError> {
        let message = bus::room_event(room.id, ROOM_UPDATED, &room.event_json()?);
        self.publish(Channel::Rooms(room.id.slot()), &message).await;
        Ok(())
    }

    /// A room as it is; `None` when there is none.
    pub(crate) async fn room(&self, id: RoomId) -> Result<Option<Room>, StoreError> {
        self.describe(id, Manner::Fresh, None).await
    }

    /// Rooms as they were a moment ago, in the order given; one that a replica does not know yet
    /// is looked for at its master.
    pub(crate) async fn rooms_lately(&self, ids: &[RoomId]) -> Result<Vec<Room>, StoreError> {
        let shared = self.stale.get().await.ok().map(Shared::new);
        let rooms = stream::iter(ids.iter().copied())
            .map(|id| self.room_lately(id, shared.as_ref()))
            .buffered(IN_FLIGHT_MAX);
        let rooms: Vec<_> = rooms.collect().await;
        if let Some(shared) = shared {
            shared.give_back();
        }
        rooms.into_iter().filter_map(Result::transpose).collect()
    }

    async fn room_lately(
        &self,
        id: RoomId,
        shared: Option<&Shared>,
    ) -> Result<Option<Room>, StoreError> {
        match self.describe(id, Manner::MayBeStale, shared).await? {
            Some(room) => Ok(Some(room)),
            None => self.room(id).await,
        }
    }

    async fn describe(
        &self,
        id: RoomId,
        manner: Manner,
        shared: Option<&Shared>,
    ) -> Result<Option<Room>, StoreError> {
        let keys = [key::room(id), key::members(id), key::log(id)];
        let mut command = cmd("FCALL_RO");
        command
            .arg(Function::DescribeRoom.name())
            .arg(keys.len())
            .arg(&keys);
        let question = Question {
            name: "describe_room",
            manner,
            command: &command,
        };
        Room::described(id, parse(self.answer(question, shared).await?)?)
    }

    /// The number of rooms, and the ids of a page of them, newest first.
    pub(crate) async fn newest_rooms(
        &self,
        from: u64,
        count: u64,
    ) -> Result<(u64, Vec<RoomId>), StoreError> {
        let last = from.saturating_add(count).saturating_sub(1);
        self.rooms_by_creation("ZREVRANGE", from, last).await
    }

    /// The number of rooms, and the ids of a page of them, oldest first.
    pub(crate) async fn oldest_rooms(
        &self,
        from: u64,
        count: u64,
    ) -> Result<(u64, Vec<RoomId>), StoreError> {
        let last = from.saturating_add(count).saturating_sub(1);
        self.rooms_by_creation("ZRANGE", from, last).await
    }

    async fn rooms_by_creation(
        &self,
        range: &'static str,
        from: u64,
        last: u64,
    ) -> Result<(u64, Vec<RoomId>), StoreError> {
        // Redis counts ranks with 64 bits and a sign.
        let rank = |rank: u64| rank.min(i64::MAX.unsigned_abs());
        let mut ids = cmd(range);
        ids.arg(key::ROOMS_BY_CREATION)
            .arg(rank(from))
            .arg(rank(last));
        let mut count = cmd("ZCARD");
        count.arg(key::ROOMS_BY_CREATION);
        let (ids, count) = tokio::try_join!(
            self.ask::<Vec<String>>("newest_rooms", Manner::Fresh, &ids),
            self.ask("newest_rooms", Manner::Fresh, &count),
        )?;
        let ids: Result<Vec<_>, _> = ids.iter().map(|id| id.parse()).collect();
        Ok((count, ids.map_err(|_| StoreError::Corrupt)?))
    }

    /// What sorting and searching needs of the newest `count` rooms, as it was a moment ago.
    pub(crate) async fn summaries(&self, count: usize) -> Result<Vec<RoomSummary>, StoreError> {
        let mut command = cmd("ZREVRANGE");
        command
            .arg(key::ROOMS_BY_CREATION)
            .arg(0)
            .arg(count.saturating_sub(1))
            .arg("WITHSCORES");
        let rooms: Vec<(String, f64)> = self.ask("summaries", Manner::Fresh, &command).await?;
        let shared = self.stale.get().await.ok().map(Shared::new);
        let summaries = stream::iter(rooms)
            .map(|(id, score)| self.summary(id, score, shared.as_ref()))
            .buffer_unordered(IN_FLIGHT_MAX / 2);
        let summaries: Vec<_> = summaries.collect().await;
        if let Some(shared) = shared {
            shared.give_back();
        }
        summaries
            .into_iter()
            .filter_map(Result::transpose)
            .collect()
    }

    async fn summary(
        &self,
        id: String,
        created_at: f64,
        shared: Option<&Shared>,
    ) -> Result<Option<RoomSummary>, StoreError> {
        let id: RoomId = id.parse().map_err(|_| StoreError::Corrupt)?;
        let mut name = cmd("HGET");
        name.arg(key::room(id)).arg(record::room::NAME);
        let mut participants = cmd("HLEN");
        participants.arg(key::members(id));
        let ask = |command| {
            let question = Question {
                name: "summaries",
                manner: Manner::MayBeStale,
                command,
            };
            self.answer(question, shared)
        };
        let (name, participants) = tokio::try_join!(ask(&name), ask(&participants))?;
        let name: Option<String> = parse(name)?;
        let participants = parse(participants)?;
        // A replica that does not know the room yet will know it within the snapshot's age.
        Ok(name.map(|name| RoomSummary {
            id,
            name,
            participants,
            created_at: whole(created_at),
        }))
    }

    /// Asks one small question; the answer is when the newest room was created.
    pub(crate) async fn probe(&self) -> Result<Option<u64>, StoreError> {
        let mut command = cmd("ZREVRANGE");
        command
            .arg(key::ROOMS_BY_CREATION)
            .arg(0)
            .arg(0)
            .arg("WITHSCORES");
        let newest: Vec<(String, f64)> = self.ask("probe", Manner::Fresh, &command).await?;
        Ok(newest.first().map(|(_, created_at)| whole(*created_at)))
    }

    // ------------------------------------------------------------------------------- messages

    /// The newest `limit` messages before a moment (milliseconds since 1970), marking nothing as
    /// read; `None` for a user who is no participant.
    pub(crate) async fn look_back(
        &self,
        room: RoomId,
        user: UserId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Option<MessagePage>, StoreError> {
        let keys = [
            key::log(room),
            key::reads(room),
            key::reactions(room),
            key::members(room),
        ];
        let mut command = cmd("FCALL_RO");
        command
            .arg(Function::LookBack.name())
            .arg(keys.len())
            .arg(&keys)
            .arg(user.to_string())
            .arg(before.map(|before| before.to_string()).unwrap_or_default())
            .arg(limit);
        let answer: Vec<Value> = self.ask("look_back", Manner::Fresh, &command).await?;
        if answer.len() == 1 {
            return Ok(None);
        }
        let answer: RawPage = parse(Value::Array(answer))?;
        let (_, has_more, messages, reactions, reads) = answer;
        Ok(Some(MessagePage {
            messages: record::page_messages(&messages, &reactions, &reads),
            has_more,
        }))
    }

    // ------------------------------------------------------------------------------ machinery

    /// Publishes without a second try: clients hear it once or, when Redis fails just then, not.
    async fn publish(&self, channel: Channel, message: &str) {
        let mut command = cmd("SPUBLISH");
        command.arg(channel.to_string()).arg(message);
        let published = self.ask::<Value>("publish", Manner::Once, &command).await;
        if published.is_err() {
            tracing::warn!(%channel, "an event was not published");
        }
    }

    /// Calls a function whose answer is one word.
    async fn tell(&self, name: &'static str, command: &Cmd) -> Result<String, StoreError> {
        let answer: Vec<String> = self.ask(name, Manner::Fresh, command).await?;
        answer.into_iter().next().ok_or(StoreError::Corrupt)
    }

    async fn ask<T: FromRedisValue>(
        &self,
        name: &'static str,
        manner: Manner,
        command: &Cmd,
    ) -> Result<T, StoreError> {
        let question = Question {
            name,
            manner,
            command,
        };
        parse(self.answer(question, None).await?)
    }

    /// Asks until there is an answer or no more sense in asking; first on `shared`, if given.
    async fn answer(
        &self,
        question: Question<'_>,
        shared: Option<&Shared>,
    ) -> Result<Value, StoreError> {
        let started = Instant::now();
        let mut pause = PAUSE_MIN;
        let mut tried = match (shared, question.manner) {
            (Some(shared), _) => shared.attempt(question.command).await,
            (None, Manner::MayBeStale) => try_pooled(&self.stale, question.command).await,
            (None, Manner::Fresh | Manner::Once) => try_pooled(&self.fresh, question.command).await,
        };
        let outcome = loop {
            let failure = match tried {
                Ok(value) => break Ok(value),
                Err(failure) => failure,
            };
            if failure == Failure::FunctionMissing {
                self.load_library().await;
            } else if !failure.allows_another_try(question.manner) {
                break Err(failure);
            }
            let jittered = pause.mul_f64(0.5 + fastrand::f64());
            if started.elapsed() + jittered > RETRY_BUDGET {
                break Err(failure);
            }
            self.metrics.retried(failure.reason());
            sleep(jittered).await;
            pause = (pause * 2).min(PAUSE_MAX);
            // Whatever a replica failed at, its master can do.
            tried = try_pooled(&self.fresh, question.command).await;
        };
        self.metrics.asked(question.name, started.elapsed());
        outcome.map_err(|failure| {
            self.metrics.failed(question.name);
            let reason = failure.reason();
            tracing::warn!(question = question.name, reason, "Redis did not answer");
            failure.into()
        })
    }

    /// Loads the function library on every master that lacks it.
    async fn load_library(&self) {
        let mut command = cmd("FUNCTION");
        command.arg("LOAD").arg(library::source());
        let Ok(mut connection) = self.fresh.get().await else {
            return;
        };
        // The cluster client sends it to every master; one that has the library refuses it.
        let loaded = timeout(
            COMMAND_TIMEOUT,
            command.query_async::<Value>(&mut connection),
        )
        .await;
        let loaded = matches!(&loaded, Ok(Err(error)) if says(error, "already exists"))
            || matches!(&loaded, Ok(Ok(_)));
        tracing::info!(
            loaded,
            library = library::name(),
            "loaded the function library"
        );
    }
}

/// One pooled connection for many small questions at once.
struct Shared {
    connection: Connection,
    lost: AtomicBool,
}

impl Shared {
    const fn new(connection: Connection) -> Self {
        Self {
            connection,
            lost: AtomicBool::new(false),
        }
    }

    async fn attempt(&self, command: &Cmd) -> Result<Value, Failure> {
        let answer = attempt(&mut (*self.connection).clone(), command).await;
        if matches!(answer, Err(Failure::Lost)) {
            self.lost.store(true, Ordering::Relaxed);
        }
        answer
    }

    /// To the pool, unless its sockets may be dead.
    fn give_back(self) {
        if self.lost.into_inner() {
            drop(Connection::take(self.connection));
        }
    }
}

#[derive(Clone, Copy)]
struct Question<'a> {
    /// Word for logs and metrics.
    name: &'static str,
    manner: Manner,
    command: &'a Cmd,
}

/// Why one try has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// No connection could be had; nothing was sent.
    NoConnection,
    /// A node refused to execute the command for now.
    Refused(&'static str),
    /// The function library is not there.
    FunctionMissing,
    /// The answer did not come: the command may have been executed.
    Lost,
    /// Redis is full, or has too few replicas for a write.
    Full,
    /// Redis refuses the command for good: a bug.
    Broken,
}

impl Failure {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
    fn of(error: &RedisError) -> Self {
        match error.kind() {
            ErrorKind::ClusterConnectionNotFound => Self::NoConnection,
            ErrorKind::Server(ServerErrorKind::TryAgain) => Self::Refused("tryagain"),
            ErrorKind::Server(ServerErrorKind::ClusterDown) => Self::Refused("clusterdown"),
            ErrorKind::Server(ServerErrorKind::BusyLoading) => Self::Refused("loading"),
            ErrorKind::Server(ServerErrorKind::MasterDown) => Self::Refused("masterdown"),
            ErrorKind::Server(ServerErrorKind::ReadOnly) => Self::Refused("readonly"),
            ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask) => {
                Self::Refused("moved")
            }
            // Redis has no error code of its own for it.
            ErrorKind::Server(ServerErrorKind::ResponseError)
                if says(error, "Function not found") =>
            {
                Self::FunctionMissing
            }
            ErrorKind::Io => Self::Lost,
            _ => Self::of_code(error),
        }
    }

    fn of_code(error: &RedisError) -> Self {
        if matches!(error.code(), Some("OOM" | "NOREPLICAS")) {
            return Self::Full;
        }
        tracing::error!(%error, "Redis refuses a command for good");
        Self::Broken
    }

    const fn allows_another_try(self, manner: Manner) -> bool {
        match self {
            Self::NoConnection | Self::Refused(_) | Self::FunctionMissing => true,
            Self::Lost => !matches!(manner, Manner::Once),
            Self::Full | Self::Broken => false,
        }
    }

    const fn reason(self) -> &'static str {
        match self {
            Self::NoConnection => "no_connection",
            Self::Refused(reason) => reason,
            Self::FunctionMissing => "function_missing",
            Self::Lost => "lost",
            Self::Full => "full",
            Self::Broken => "broken",
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Broken => Self::Corrupt,
            Failure::NoConnection
            | Failure::Refused(_)
            | Failure::FunctionMissing
            | Failure::Lost
            | Failure::Full => Self::Unavailable,
        }
    }
}

async fn try_pooled(pool: &Pool, command: &Cmd) -> Result<Value, Failure> {
    let mut connection = pool.get().await.map_err(|_| Failure::NoConnection)?;
    let answer = attempt(&mut connection, command).await;
    if matches!(answer, Err(Failure::Lost)) {
        drop(Connection::take(connection));
    }
    answer
}

async fn attempt(
    connection: &mut impl redis::aio::ConnectionLike,
    command: &Cmd,
) -> Result<Value, Failure> {
    match timeout(COMMAND_TIMEOUT, command.query_async(connection)).await {
        Ok(answer) => answer.map_err(|error| Failure::of(&error)),
        Err(_) => Err(Failure::Lost),
    }
}

fn says(error: &RedisError, words: &str) -> bool {
    error.detail().is_some_and(|detail| detail.contains(words))
}

fn parse<T: FromRedisValue>(value: Value) -> Result<T, StoreError> {
    redis::from_redis_value(value).map_err(|error| {
        tracing::error!(%error, "Redis answered something senseless");
        StoreError::Corrupt
    })
}

fn fcall(function: Function, keys: &[String]) -> Cmd {
    let mut command = cmd("FCALL");
    command.arg(function.name()).arg(keys.len()).arg(keys);
    command
}

/// A score that holds milliseconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "Rust saturates, and milliseconds are whole numbers below 2^53"
)]
const fn whole(score: f64) -> u64 {
    score as u64
}
