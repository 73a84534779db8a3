//! What one client knows: the messages on its screen, what it sent, and what became of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use serde::{Deserialize, Deserializer};
use slotcast_proto::id::{MessageId, RoomId, UserId};

/// Who sent a message, and its number among theirs: the client message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) client: usize,
    pub(crate) number: usize,
}

impl Key {
    /// Reads what [`Key`] writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (client, number) = text.strip_prefix('c')?.split_once('-')?;
        Some(Self {
            client: client.parse().ok()?,
            number: number.parse().ok()?,
        })
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "c{}-{}", self.client, self.number)
    }
}

/// Who reacted with what to a message.
pub(crate) type Reactions = BTreeMap<String, BTreeSet<UserId>>;

/// A message as a client gets it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Message {
    #[serde(rename = "_id")]
    pub(crate) id: MessageId,
    pub(crate) room: RoomId,
    /// Milliseconds since the Unix epoch, rising within a room.
    pub(crate) timestamp: u64,
    /// None for system messages.
    #[serde(default, rename = "clientMessageId", deserialize_with = "key")]
    pub(crate) key: Option<Key>,
    #[serde(default)]
    pub(crate) reactions: Reactions,
    #[serde(default)]
    pub(crate) readers: Vec<Reader>,
}

/// Who has read a message.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reader {
    pub(crate) user_id: UserId,
}

fn key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Key>, D::Error> {
    let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
    Ok(Key::parse(&text))
}

/// A message on a client's screen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) id: MessageId,
    pub(crate) key: Option<Key>,
    pub(crate) timestamp: u64,
    /// When it came, from the start of the run.
    pub(crate) at: Duration,
}

/// One room as a client sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoomRecord {
    /// In the order of the screen: live messages at the end, those of a page in their place.
    pub(crate) shown: Vec<Seen>,
    /// Every message shown, and whether it came live.
    known: HashMap<MessageId, bool>,
    /// Messages that came live more than once.
    pub(crate) repeated: Vec<MessageId>,
    /// The newest message when the client first entered: it must have all that follow.
    pub(crate) baseline: Option<MessageId>,
    /// Up to this moment the record has no gap, in milliseconds since the Unix epoch.
    synced_to: u64,
    /// Whether what comes live follows without a gap.
    pub(crate) is_synced: bool,
    /// Reactions of a message, and when an event last told of them.
    pub(crate) reactions: HashMap<MessageId, (Reactions, Duration)>,
    /// Who has read a message.
    pub(crate) readers: HashMap<MessageId, HashSet<UserId>>,
}

impl RoomRecord {
    /// A message that came as an event.
    pub(crate) fn live(&mut self, message: &Message, at: Duration) {
        match self.known.insert(message.id, true) {
            None => self.shown.push(seen(message, at)),
            Some(true) => self.repeated.push(message.id),
            // A page had it already: an application shows it once.
            Some(false) => {}
        }
        if self.is_synced {
            self.synced_to = self.synced_to.max(message.timestamp);
        }
    }

    /// A page of history that was asked for at `asked`. True when it reaches back to what was known
    /// without a gap.
    pub(crate) fn merge(&mut self, page: &[Message], asked: Duration, at: Duration) -> bool {
        for message in page {
            self.merge_state(message, asked);
            if self.known.contains_key(&message.id) {
                continue;
            }
            self.known.insert(message.id, false);
            let is_before = |other: &Seen| other.timestamp < message.timestamp;
            let place = self
                .shown
                .iter()
                .rposition(is_before)
                .map_or(0, |at| at + 1);
            self.shown.insert(place, seen(message, at));
        }
        page.first()
            .is_some_and(|oldest| oldest.timestamp <= self.synced_to)
    }

    fn merge_state(&mut self, message: &Message, asked: Duration) {
        if !message.readers.is_empty() {
            let readers = self.readers.entry(message.id).or_default();
            readers.extend(message.readers.iter().map(|reader| reader.user_id));
        }
        let told = self.reactions.get(&message.id).map(|(_, at)| *at);
        if told.is_some_and(|told| told >= asked) {
            return;
        }
        if message.reactions.is_empty() {
            self.reactions.remove(&message.id);
        } else {
            let state = (message.reactions.clone(), asked);
            self.reactions.insert(message.id, state);
        }
    }

    /// Everything up to now is known, and what comes live follows.
    pub(crate) fn complete(&mut self) {
        self.is_synced = true;
        if let Some(newest) = self.shown.last() {
            self.synced_to = self.synced_to.max(newest.timestamp);
            self.baseline.get_or_insert(newest.id);
        }
    }

    pub(crate) fn knows(&self, message: MessageId) -> bool {
        self.known.contains_key(&message)
    }
}

fn seen(message: &Message, at: Duration) -> Seen {
    Seen {
        id: message.id,
        key: message.key,
        timestamp: message.timestamp,
        at,
    }
}

/// What became of a message that a client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Open,
    Accepted(MessageId),
    Refused,
}

/// A message that a client sent, at its first try.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// The room, by its number in the run.
    pub(crate) room: usize,
    /// From the start of the run.
    pub(crate) at: Duration,
    pub(crate) tries: u32,
    pub(crate) fate: Fate,
}

/// Everything about one client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// In the order of the client's rooms.
    pub(crate) rooms: Vec<RoomRecord>,
    /// By number.
    pub(crate) sent: Vec<Sent>,
    /// Reconnects after which the server had not recovered the connection.
    pub(crate) reloads: u64,
    pub(crate) recovered: u64,
    /// When a connection was lost that had every room complete, from the start of the run.
    pub(crate) losses: Vec<Duration>,
    /// From each loss of a connection until every room was complete again.
    pub(crate) absences: Vec<Duration>,
    /// Whether the client is connected and every room is complete.
    pub(crate) is_ready: bool,
    /// Gateway that it is connected to, or was last.
    pub(crate) gateway: usize,
    /// What last went wrong.
    pub(crate) trouble: String,
}

impl Record {
    pub(crate) fn new(rooms: usize) -> Self {
        Self {
            rooms: std::iter::repeat_with(RoomRecord::default)
                .take(rooms)
                .collect(),
            ..Self::default()
        }
    }

    pub(crate) fn open_sends(&self) -> usize {
        let open = |sent: &&Sent| sent.fate == Fate::Open;
        self.sent.iter().filter(open).count()
    }
}
