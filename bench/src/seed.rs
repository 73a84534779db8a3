//! Makes users, logins and rooms directly in Redis, as the backend would have stored them: hashing
//! ten thousand passwords would measure nothing but hashing.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use redis::{AsyncCommands, cluster::ClusterClient, cluster_async::ClusterConnection, cmd};
use slotcast_proto::{
    id::{RoomId, SessionId, UserId},
    schema::{key, record},
    slot::{Shards, Slot},
    token::TokenKey,
    wire::event::User,
};

/// A user who is logged in.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) user: UserId,
    pub(crate) token: String,
    pub(crate) session: SessionId,
}

/// Writes to the cluster under test.
pub(crate) struct Seeder {
    redis: ClusterConnection,
    shards: Shards,
    key: TokenKey,
    now_ms: u64,
}

/// How long a seeded session lives, in milliseconds.
const SESSION_MS: i64 = 24 * 60 * 60 * 1000;

/// Users, or rooms, written at one time.
const CONCURRENCY: usize = 256;

impl Seeder {
    pub(crate) async fn connect(urls: &[String], secret: &str, shards: u16) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        Ok(Self {
            redis: ClusterClient::new(urls.to_vec())?
                .get_async_connection()
                .await?,
            shards: Shards::new(shards).context("the shard count is 1 to 16384")?,
            key: TokenKey::new(secret.as_bytes()).context("the token secret is too short")?,
            now_ms: u64::try_from(now.as_millis())?,
        })
    }

    /// New users, each with a session and a token for it.
    pub(crate) async fn logins(&self, count: usize) -> Result<Vec<Login>> {
        stream::iter(0..count)
            .map(|number| self.login(number))
            .buffered(CONCURRENCY)
            .try_collect()
            .await
    }

    /// New open rooms; the shards take turns.
    pub(crate) async fn rooms(&self, count: usize) -> Result<Vec<RoomId>> {
        self.rooms_in(count, &self.shards.slots().collect::<Vec<_>>())
            .await
    }

    /// New open rooms; these slots take turns.
    pub(crate) async fn rooms_in(&self, count: usize, slots: &[Slot]) -> Result<Vec<RoomId>> {
        stream::iter(slots.iter().cycle().take(count).enumerate())
            .map(|(number, slot)| self.room(number, *slot))
            .buffered(CONCURRENCY)
            .try_collect()
            .await
    }

    /// The e-mail addresses of new users who can log in with the password of an old one: hashed once by
    /// whoever registered that, it is the password of all.
    pub(crate) async fn accounts(&self, count: usize, like: &str) -> Result<Vec<String>> {
        let redis = || self.redis.clone();
        let user: Option<String> = redis().get(key::email(like)).await?;
        let user: UserId = user
            .with_context(|| format!("{like} is not registered"))?
            .parse()?;
        let password: Option<String> = redis()
            .hget(key::user(user), record::user::PASSWORD)
            .await?;
        let password = password.with_context(|| format!("{like} has no password"))?;
        stream::iter(0..count)
            .map(|number| self.account(number, &password))
            .buffered(CONCURRENCY)
            .try_collect()
            .await
    }

    /// A new user with a password; answers the e-mail address.
    async fn account(&self, number: usize, password_hash: &str) -> Result<String> {
        let user = UserId::new(self.shards.pick(fastrand::u32(..)), fastrand::u128(..));
        let email = format!("bench-{number}-{user}@example.com");
        let mut redis = self.redis.clone();
        let fields = [
            (record::user::NAME, format!("사용자 {number}")),
            (record::user::EMAIL, email.clone()),
            (record::user::PASSWORD, password_hash.to_owned()),
            (record::user::CREATED_AT, self.now_ms.to_string()),
        ];
        let _: () = redis.hset_multiple(key::user(user), &fields).await?;
        let _: () = redis.set(key::email(&email), user.to_string()).await?;
        Ok(email)
    }

    /// A new user with a session, and a token for it.
    async fn login(&self, number: usize) -> Result<Login> {
        let user = UserId::new(self.shards.pick(fastrand::u32(..)), fastrand::u128(..));
        let session = SessionId::new(fastrand::u128(..));
        let email = format!("bench-{number}-{user}@example.com");
        let session_key = key::session(user);
        // One node keeps all of it: one round trip.
        redis::pipe()
            .hset_multiple(
                key::user(user),
                &[
                    (record::user::NAME, &format!("사용자 {number}")),
                    (record::user::EMAIL, &email),
                ],
            )
            .hset(&session_key, record::session::ID, session.to_string())
            .pexpire(&session_key, SESSION_MS)
            .exec_async(&mut self.redis.clone())
            .await?;
        let token = self.key.sign(&email, user, session, self.now_ms / 1000)?;
        Ok(Login {
            user,
            token,
            session,
        })
    }

    /// A new open room.
    async fn room(&self, number: usize, slot: Slot) -> Result<RoomId> {
        let room = RoomId::new(slot, fastrand::u32(..));
        let id = room.to_string();
        let creator = User {
            id: &id,
            name: "bench",
            email: "bench@example.com",
            profile_image: "",
        };
        cmd("HSET")
            .arg(key::room(room))
            .arg(&[
                record::room::NAME,
                &format!("bench {number}"),
                record::room::CREATOR,
                &creator.json(),
                record::room::CREATED_AT,
                &self.now_ms.to_string(),
            ])
            .exec_async(&mut self.redis.clone())
            .await?;
        Ok(room)
    }
}
