//! Users and rooms as clients see them.

use std::collections::HashMap;

use redis::Value;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use slotcast_proto::{
    id::{RoomId, UserId},
    schema::record,
};
use utoipa::ToSchema;

use crate::{
    clock,
    store::{NewRoom, StoreError, User},
};

/// A user object; some clients read `_id`, some `id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UserView {
    #[serde(rename = "_id")]
    object_id: String,
    id: String,
    name: String,
    email: String,
    /// Empty when there is none.
    #[serde(default)]
    profile_image: String,
}

impl UserView {
    pub(crate) fn of(user: &User) -> Self {
        let profile_image = user.profile_image.as_deref().unwrap_or_default();
        Self::new(user.id, &user.name, &user.email, profile_image)
    }

    pub(crate) fn new(id: UserId, name: &str, email: &str, profile_image: &str) -> Self {
        let id = id.to_string();
        Self {
            object_id: id.clone(),
            id,
            name: name.to_owned(),
            email: email.to_owned(),
            profile_image: profile_image.to_owned(),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn json(&self) -> Result<String, StoreError> {
        serde_json::to_string(self).map_err(|_| StoreError::Corrupt)
    }
}

/// The user object of the auth answers: `profileImage` is null when it was never set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AccountView {
    #[serde(rename = "_id")]
    object_id: String,
    id: String,
    name: String,
    email: String,
    /// Null when never set, empty when deleted.
    profile_image: Option<String>,
}

impl AccountView {
    pub(crate) fn of(user: &User) -> Self {
        let id = user.id.to_string();
        Self {
            object_id: id.clone(),
            id,
            name: user.name.clone(),
            email: user.email.clone(),
            profile_image: user.profile_image.clone(),
        }
    }
}

/// A room with its participants.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    pub(crate) id: RoomId,
    name: String,
    has_password: bool,
    creator: Option<UserView>,
    created_at: u64,
    participants: Vec<Box<RawValue>>,
    recent_messages: u64,
}

/// A room object.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RoomView<'a> {
    /// 24 hexadecimal digits.
    #[serde(rename = "_id")]
    object_id: String,
    name: &'a str,
    has_password: bool,
    /// Null when it is not known any more.
    creator: Option<&'a UserView>,
    #[schema(value_type = Vec<UserView>)]
    participants: &'a [Box<RawValue>],
    participants_count: usize,
    /// Whether the caller created the room; absent in events.
    #[serde(skip_serializing_if = "Option::is_none")]
    is_creator: Option<bool>,
    /// ISO 8601, UTC.
    created_at: String,
    /// Messages of the last ten minutes.
    recent_message_count: u64,
}

impl Room {
    /// A room that was just created.
    pub(crate) fn created(id: RoomId, new: &NewRoom<'_>) -> Result<Self, StoreError> {
        let creator =
            RawValue::from_string(new.creator.json()?).map_err(|_| StoreError::Corrupt)?;
        Ok(Self {
            id,
            name: new.name.to_owned(),
            has_password: new.password_hash.is_some(),
            creator: Some(new.creator.clone()),
            created_at: new.created_at,
            participants: vec![creator],
            recent_messages: 0,
        })
    }

    /// Reads the answer of `describe_room`; `None` for an unknown room.
    pub(crate) fn described(id: RoomId, parts: Vec<Value>) -> Result<Option<Self>, StoreError> {
        let mut parts = parts.into_iter();
        let mut next = || parts.next().ok_or(StoreError::Corrupt);
        let word: String = read(next()?)?;
        if word != "ok" {
            return Ok(None);
        }
        let mut fields: HashMap<String, String> = read(next()?)?;
        let members: Vec<String> = read(next()?)?;
        let recent_messages = read(next()?)?;
        let created_at = fields.get(record::room::CREATED_AT);
        let creator = fields.get(record::room::CREATOR);
        Ok(Some(Self {
            id,
            has_password: fields.contains_key(record::room::PASSWORD),
            creator: creator.and_then(|json| serde_json::from_str(json).ok()),
            created_at: created_at.and_then(|ms| ms.parse().ok()).unwrap_or(0),
            name: fields.remove(record::room::NAME).unwrap_or_default(),
            participants: members
                .into_iter()
                .filter_map(|json| RawValue::from_string(json).ok())
                .collect(),
            recent_messages,
        }))
    }

    /// The room as `caller` sees it.
    pub(crate) fn view(&self, caller: UserId) -> RoomView<'_> {
        let caller = caller.to_string();
        let is_creator = self.creator.as_ref().is_some_and(|user| user.id == caller);
        RoomView {
            is_creator: Some(is_creator),
            ..self.shared_view()
        }
    }

    /// The room as everyone sees it, for events.
    pub(crate) fn event_json(&self) -> Result<String, StoreError> {
        serde_json::to_string(&self.shared_view()).map_err(|_| StoreError::Corrupt)
    }

    fn shared_view(&self) -> RoomView<'_> {
        RoomView {
            object_id: self.id.to_string(),
            name: &self.name,
            has_password: self.has_password,
            creator: self.creator.as_ref(),
            participants: &self.participants,
            participants_count: self.participants.len(),
            is_creator: None,
            created_at: clock::iso(self.created_at),
            recent_message_count: self.recent_messages,
        }
    }
}

fn read<T: redis::FromRedisValue>(value: Value) -> Result<T, StoreError> {
    redis::from_redis_value(value).map_err(|_| StoreError::Corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn described_room_reads_like_the_contract() {
        let user = r#"{"_id":"1","id":"1","name":"a","email":"a@b.c","profileImage":""}"#;
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let record = [
            "name",
            "n",
            "creator",
            user,
            "createdAt",
            "0",
            "password",
            "h",
        ]
        .map(text);
        let parts = vec![
            text("ok"),
            Value::Array(record.to_vec()),
            Value::Array(vec![text(user)]),
            Value::Int(3),
        ];
        let id = "000700000009000000000000".parse().unwrap();
        let room = Room::described(id, parts).unwrap().unwrap();
        let view = serde_json::to_string(&room.view(caller())).unwrap();
        assert_eq!(
            view,
            format!(
                r#"{{"_id":"{id}","name":"n","hasPassword":true,"creator":{user},"participants":[{user}],"participantsCount":1,"isCreator":false,"createdAt":"1970-01-01T00:00:00.000Z","recentMessageCount":3}}"#
            )
        );
        assert!(!room.event_json().unwrap().contains("isCreator"));
    }

    #[test]
    fn unknown_room_is_none_and_a_short_answer_is_corrupt() {
        let id = "000700000009000000000000".parse().unwrap();
        let word = |word: &str| vec![Value::BulkString(word.as_bytes().to_vec())];
        assert!(Room::described(id, word("unknown")).unwrap().is_none());
        assert_eq!(
            Room::described(id, word("ok")).err(),
            Some(StoreError::Corrupt)
        );
    }

    fn caller() -> UserId {
        "000100000000000000000002".parse().unwrap()
    }
}
