//! Fields of the stored hashes, and the stored form of a message.

use std::collections::BTreeMap;

/// Fields of a room's record. Times are milliseconds since 1970.
pub mod room {
    /// Name as shown.
    pub const NAME: &str = "name";
    /// User object of the creator, JSON.
    pub const CREATOR: &str = "creator";
    /// Creation time.
    pub const CREATED_AT: &str = "createdAt";
    /// Hash of the room's password (PHC string or bcrypt); absent for an open room.
    pub const PASSWORD: &str = "password";
}

/// Fields of a user's record. Times are milliseconds since 1970.
pub mod user {
    /// Name as shown.
    pub const NAME: &str = "name";
    /// E-mail address, lower case.
    pub const EMAIL: &str = "email";
    /// Hash of the password: PHC string (argon2id) or bcrypt.
    pub const PASSWORD: &str = "password";
    /// Path of the profile image; absent when never set, empty when deleted.
    pub const PROFILE_IMAGE: &str = "profileImage";
    /// Registration time.
    pub const CREATED_AT: &str = "createdAt";
}

/// Fields of a session.
pub mod session {
    /// The session's id.
    pub const ID: &str = "id";
    /// Login time, milliseconds since 1970.
    pub const CREATED_AT: &str = "createdAt";
    /// `User-Agent` of the login.
    pub const USER_AGENT: &str = "userAgent";
    /// Client address of the login.
    pub const ADDRESS: &str = "address";
}

/// Fields of a file's metadata.
pub mod file {
    /// User id of the uploader.
    pub const OWNER: &str = "owner";
    /// Stored name, `<ms>_<16 hex digits>.<extension>`.
    pub const FILENAME: &str = "filename";
    /// Name as uploaded.
    pub const ORIGINAL_NAME: &str = "originalname";
    /// Declared media type.
    pub const MIME_TYPE: &str = "mimetype";
    /// Size in bytes.
    pub const SIZE: &str = "size";
    /// Ids of the rooms with a message that refers to the file, separated by spaces, the newest last;
    /// absent before one does.
    pub const ROOMS: &str = "rooms";
}

/// How a stored message object ends: without reactions and readers, which live beside the log.
const QUIET_END: &str = r#","reactions":{},"readers":[]}"#;

/// Closes the JSON object of a message that is to be appended.
///
/// The function library opens it with `_id` and `timestamp`; `members` are the members between,
/// without braces and without a comma at either end.
#[must_use]
pub fn message_body(members: &str) -> String {
    format!("{members}{QUIET_END}")
}

/// A stored message object with the reactions and readers it has by now; both are JSON.
#[must_use]
pub fn message_with_state(stored: &str, reactions: Option<&str>, readers: &str) -> String {
    let open = stored.strip_suffix(QUIET_END).unwrap_or(stored);
    format!(
        r#"{open},"reactions":{},"readers":{readers}}}"#,
        reactions.unwrap_or("{}")
    )
}

/// What a member has read: runs of message numbers, as the function library stores them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadRuns {
    /// Time of the newest mark, milliseconds since 1970.
    pub marked_at: u64,
    runs: Vec<(u64, u64)>,
}

impl ReadRuns {
    /// Reads `<ms> <first>-<last>,<first>-<last>...`; what it does not understand is left out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (marked_at, runs) = text.split_once(' ').unwrap_or((text, ""));
        let run = |run: &str| {
            let (first, last) = run.split_once('-')?;
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        Self {
            marked_at: marked_at.parse().unwrap_or_default(),
            runs: runs.split(',').filter_map(run).collect(),
        }
    }

    /// Whether message `number` is among them.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        let after = self.runs.partition_point(|(first, _)| *first <= number);
        let run = after.checked_sub(1).and_then(|at| self.runs.get(at));
        run.is_some_and(|(_, last)| number <= *last)
    }
}

/// The messages of a page as clients see them, from what the function library answers: number and
/// JSON of each, its reactions, and what each member has read, announced (`<user>`) or not (`~<user>`).
#[must_use]
pub fn page_messages(
    messages: &[(u64, String)],
    reactions: &[Option<String>],
    reads: &[(String, String)],
) -> Vec<String> {
    let mut readers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (field, runs) in reads {
        let user = field.strip_prefix('~').unwrap_or(field);
        readers.entry(user).or_default().push(ReadRuns::parse(runs));
    }
    let readers_of = |number| {
        let readers = readers.iter().filter_map(|(user, read)| {
            let runs = read.iter().find(|runs| runs.contains(number))?;
            Some(format!(
                r#"{{"userId":"{user}","readAt":{}}}"#,
                runs.marked_at
            ))
        });
        format!("[{}]", readers.collect::<Vec<_>>().join(","))
    };
    let messages = messages.iter().zip(reactions);
    messages
        .map(|((number, json), reactions)| {
            message_with_state(json, reactions.as_deref(), &readers_of(*number))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_message_takes_reactions_and_readers() {
        let stored = format!("{{\"_id\":\"1\",{}", message_body(r#""content":"a""#));
        assert_eq!(
            message_with_state(&stored, Some(r#"{"x":["1"]}"#), "[1]"),
            r#"{"_id":"1","content":"a","reactions":{"x":["1"]},"readers":[1]}"#
        );
        assert_eq!(message_with_state(&stored, None, "[]"), stored);
    }

    #[test]
    fn page_names_each_reader_once_whether_the_room_was_told_or_not() {
        let stored = format!("{{{}", message_body(r#""content":"a""#));
        let messages = [(1, stored.clone()), (2, stored)];
        let reads = [("u1", "17 1-2"), ("~u1", "18 2-2"), ("~u2", "19 2-2")];
        let reads = reads.map(|(field, runs)| (field.to_owned(), runs.to_owned()));
        let page = page_messages(
            &messages,
            &[None, Some(r#"{"x":["1"]}"#.to_owned())],
            &reads,
        );
        assert_eq!(
            page[0],
            r#"{"content":"a","reactions":{},"readers":[{"userId":"u1","readAt":17}]}"#
        );
        assert!(page[1].contains(r#""reactions":{"x":["1"]}"#));
        assert_eq!(page[1].matches("userId").count(), 2, "{}", page[1]);
    }

    #[test]
    fn read_runs_contain_their_numbers() {
        let runs = ReadRuns::parse("17 1-3,7-7,9-12");
        let read: Vec<_> = (0..=13).filter(|number| runs.contains(*number)).collect();
        assert_eq!(read, [1, 2, 3, 7, 9, 10, 11, 12]);
        assert_eq!(runs.marked_at, 17);
    }

    #[test]
    fn malformed_read_runs_are_empty() {
        for text in ["", "x", "17", "17 ", "17 a-b", "17 3"] {
            assert!(!ReadRuns::parse(text).contains(3), "{text}");
        }
    }
}
