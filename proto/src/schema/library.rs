//! The Redis function library: what must happen atomically beside the data.
//!
//! The library's name and the names of its functions end in a hash of its source. A process that
//! finds its library missing loads it on every master (`FUNCTION LOAD`); another version, loaded by
//! a process of another release, stays untouched, so a rolling deploy needs no order.
//!
//! Source: Redis functions, <https://redis.io/docs/latest/develop/programmability/functions-intro/>.

use std::sync::LazyLock;

const TEMPLATE: &str = include_str!("library.lua");

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut digest = sha1_smol::Sha1::from(TEMPLATE).digest().to_string();
    digest.truncate(12);
    digest
});

static SOURCE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "#!lua name={}\n{}",
        name(),
        TEMPLATE.replace("@VERSION@", &VERSION)
    )
});

/// The library's name, for `FUNCTION LIST`.
#[must_use]
pub fn name() -> String {
    format!("slotcast_{}", *VERSION)
}

/// The library's source, for `FUNCTION LOAD`.
#[must_use]
pub fn source() -> &'static str {
    &SOURCE
}

macro_rules! functions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)+) => {
        /// A function of the library. Keys, arguments and answers stand in `library.lua`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Function {
            $($(#[$doc])* $variant,)+
        }

        impl Function {
            /// Every function.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name to call, for `FCALL`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => {
                        static NAME: LazyLock<String> =
                            LazyLock::new(|| format!(concat!($name, "_{}"), *VERSION));
                        &NAME
                    })+
                }
            }
        }
    };
}

functions! {
    /// Appends a message to a room's log and publishes it: the hot path.
    AppendMessage = "append_message";
    /// Creates a room with its creator as first participant.
    CreateRoom = "create_room";
    /// Adds a participant who passed the room's door over REST.
    Admit = "admit";
    /// Takes a seat in a room, announces the user, reads the newest messages.
    Join = "join";
    /// Takes a seat for a user who still has one.
    Restore = "restore";
    /// Reads the log after a position; read only.
    ReadLog = "read_log";
    /// Reads reactions and read marks after a change; read only.
    ReadChanges = "read_changes";
    /// Reads how far rooms have got; read only.
    ReadTails = "read_tails";
    /// Gives a seat up and, when it was the user's last, announces the leave.
    Leave = "leave";
    /// Replaces a participant's user object and tells the room.
    UpdateMember = "update_member";
    /// Reads messages before a moment.
    History = "history";
    /// Reads messages before a moment and marks nothing; read only (`FCALL_RO`).
    LookBack = "look_back";
    /// Marks messages as read, for many readers at once.
    MarkRead = "mark_read";
    /// Adds or removes a reaction.
    React = "react";
    /// Describes a room for the REST tier; read only, replicas answer it (`FCALL_RO`).
    DescribeRoom = "describe_room";
    /// Hands out a file's metadata to its uploader and notes a room that shows it.
    ShareFile = "share_file";
    /// Replaces a user's profile image and hands out the one before.
    SetProfileImage = "set_profile_image";
    /// Replaces the user's session.
    ReplaceSession = "replace_session";
    /// Ends the user's session, if it is the one named.
    EndSession = "end_session";
    /// Checks a session and puts its end off.
    TouchSession = "touch_session";
    /// Admits a socket.
    Connect = "connect";
    /// Remembers the rooms of a connection.
    HoldConnection = "hold_connection";
    /// Forgets a connection, unless another goes on under its private id.
    ForgetConnection = "forget_connection";
    /// Tells a node that it is running; without keys, read only, for every node (`FCALL_RO`).
    Beat = "beat";
    /// Renews a gateway's lease and hands out a dead gateway to reap.
    RenewLease = "renew_lease";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_is_registered_under_its_versioned_name() {
        for function in Function::ALL {
            let (name, version) = function.name().rsplit_once('_').unwrap();
            assert_eq!(version, *VERSION);
            assert!(
                TEMPLATE.contains(&format!("local function {name}(")),
                "{name} is not defined"
            );
            assert!(
                TEMPLATE.contains(&format!("\nregister('{name}', ")),
                "{name} is not registered"
            );
        }
    }

    #[test]
    fn source_begins_with_the_engine_and_name() {
        assert!(source().starts_with(&format!("#!lua name={}\n", name())));
        assert!(!source().contains("@VERSION@"));
    }
}
