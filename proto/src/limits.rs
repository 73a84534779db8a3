//! Every bound of what arrives from a client: number, unit, reason.
//!
//! A bound that operators may move is configuration with its default here; all others are
//! constants. Relations between bounds are asserted at compile time, below the numbers they relate.

/// Interval between two heartbeat pings, in milliseconds. Defaults to 25 s (Engine.IO v4 handshake,
/// `pingInterval`).
pub const PING_INTERVAL_MS_DEFAULT: u32 = 25_000;

/// How long a ping may stay unanswered, in milliseconds. Defaults to 60 s (Engine.IO v4 handshake,
/// `pingTimeout`).
pub const PING_TIMEOUT_MS_DEFAULT: u32 = 60_000;

/// How long a connection may stay without an accepted namespace, in milliseconds. Defaults to 45 s
/// (`connectTimeout` of the reference Socket.IO server).
pub const CONNECT_TIMEOUT_MS_DEFAULT: u32 = 45_000;

/// Largest text or binary frame from a client, in bytes. Defaults to 1 MiB: sixteen times what the
/// reference service took, so that no client that worked there meets it.
pub const MAX_PAYLOAD_BYTES_DEFAULT: u32 = 1_048_576;

/// Largest text frame of a connection that is not accepted yet, in bytes. A CONNECT with a token is
/// about 340 bytes; a stranger gets no more than this to make us parse.
pub const UNACCEPTED_PAYLOAD_BYTES_MAX: u32 = 16_384;

/// Longest namespace, in bytes. Only `/` is served; a longer name is only ever echoed in a refusal.
pub const NAMESPACE_BYTES_MAX: usize = 64;

/// Most digits of an acknowledgement id: the largest integer a JavaScript number holds exactly has
/// sixteen.
pub const ACK_ID_DIGITS_MAX: usize = 16;

/// Most binary attachments of one packet (default of the reference parser). No chat event has any.
pub const ATTACHMENTS_MAX: u8 = 10;

/// Most digits of an attachment count.
pub const ATTACHMENT_DIGITS_MAX: usize = 2;

/// Largest sum of one packet's binary attachments, in bytes. They are counted and dropped, never
/// kept.
pub const ATTACHMENT_BYTES_MAX: u32 = 1_048_576;

/// Most message ids of one `markMessagesAsRead`. Clients send one to a few; ten pages of history
/// are a thousand.
pub const MARKED_MESSAGES_MAX: usize = 1_000;

/// Longest reaction, in bytes. The longest emoji sequence in Unicode is 35 bytes.
pub const REACTION_BYTES_MAX: usize = 64;

/// Most rooms in the offset of a client that reconnects: one of more rooms reloads instead.
pub const OFFSET_ROOMS_MAX: usize = 64;

/// Most events of one connection that wait for their owner to take them. An owner that drains after
/// each input never has more than one.
pub const PEER_EVENTS_MAX: usize = 8;

/// Most packets of one connection that wait for their owner to take them: the handshake's packet, a
/// ping, the answers to one CONNECT, and some refused namespaces.
pub const PEER_TRANSMITS_MAX: usize = 16;

const _: () =
    assert!(CONNECT_TIMEOUT_MS_DEFAULT < PING_INTERVAL_MS_DEFAULT + PING_TIMEOUT_MS_DEFAULT);
const _: () = assert!(UNACCEPTED_PAYLOAD_BYTES_MAX < MAX_PAYLOAD_BYTES_DEFAULT);
const _: () = assert!(NAMESPACE_BYTES_MAX < UNACCEPTED_PAYLOAD_BYTES_MAX as usize);
const _: () = assert!(ACK_ID_DIGITS_MAX < u64::MAX.ilog10() as usize);
const _: () = assert!((ATTACHMENTS_MAX.ilog10() as usize) < ATTACHMENT_DIGITS_MAX);
const _: () = assert!(ATTACHMENT_BYTES_MAX <= MAX_PAYLOAD_BYTES_DEFAULT);
// A full batch of 24-digit ids, each with quotes and comma, fits a frame.
const _: () = assert!(MARKED_MESSAGES_MAX * 27 < MAX_PAYLOAD_BYTES_DEFAULT as usize);
// An offset of so many rooms, each with two positions of 20 and 10 digits at the most, fits a CONNECT.
const _: () = assert!(OFFSET_ROOMS_MAX * 80 < UNACCEPTED_PAYLOAD_BYTES_MAX as usize / 2);
const _: () = assert!(PEER_EVENTS_MAX < PEER_TRANSMITS_MAX);
