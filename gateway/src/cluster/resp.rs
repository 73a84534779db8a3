//! Reads RESP3 from a byte buffer, borrowing from it.
//!
//! Publications come at the rate of the whole chat: payloads go from here to the hub without a copy.
//!
//! Source: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use thiserror::Error;

/// Replies nest no deeper than `HELLO`'s modules list.
const DEPTH_MAX: u8 = 8;

/// One value that Redis sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply<'a> {
    /// A simple, bulk or verbatim string, a double, a big number.
    Text(&'a [u8]),
    Integer(i64),
    Null,
    Error(&'a [u8]),
    /// An array, a set, or a map with its keys and values in turn.
    Items(Vec<Self>),
    Push(Vec<Self>),
}

/// Bytes that are not RESP3: the connection is of no more use.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not RESP3")]
pub(crate) struct Malformed;

/// Reads one value; `None` when it has not arrived whole. Also tells how many bytes it took.
pub(crate) fn parse(buffer: &[u8]) -> Result<Option<(Reply<'_>, usize)>, Malformed> {
    let mut cursor = Cursor { rest: buffer };
    match cursor.value(0) {
        Ok(reply) => Ok(Some((reply, buffer.len() - cursor.rest.len()))),
        Err(Stop::Incomplete) => Ok(None),
        Err(Stop::Malformed) => Err(Malformed),
    }
}

enum Stop {
    Incomplete,
    Malformed,
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn value(&mut self, depth: u8) -> Result<Reply<'a>, Stop> {
        if depth > DEPTH_MAX {
            return Err(Stop::Malformed);
        }
        let (kind, line) = self.line()?.split_first().ok_or(Stop::Malformed)?;
        match kind {
            b'+' | b',' | b'(' | b'#' => Ok(Reply::Text(line)),
            b'-' => Ok(Reply::Error(line)),
            b':' => Ok(Reply::Integer(decimal(line)?)),
            b'_' => Ok(Reply::Null),
            b'$' | b'=' | b'!' => self.bulk(*kind, decimal(line)?),
            b'*' | b'~' => self.items(decimal(line)?, depth),
            b'%' => self.items(decimal(line)?.saturating_mul(2), depth),
            b'>' => {
                let Reply::Items(items) = self.items(decimal(line)?, depth)? else {
                    return Err(Stop::Malformed);
                };
                Ok(Reply::Push(items))
            }
            _ => Err(Stop::Malformed),
        }
    }

    /// The bytes up to the next CRLF, which is skipped.
    fn line(&mut self) -> Result<&'a [u8], Stop> {
        let end = self
            .rest
            .windows(2)
            .position(|pair| pair == b"\r\n")
            .ok_or(Stop::Incomplete)?;
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest.get(2..).unwrap_or_default();
        Ok(line)
    }

    fn bulk(&mut self, kind: u8, length: i64) -> Result<Reply<'a>, Stop> {
        let Ok(length) = usize::try_from(length) else {
            return Ok(Reply::Null);
        };
        let end = length.checked_add(2).ok_or(Stop::Malformed)?;
        let (bulk, rest) = self.rest.split_at_checked(end).ok_or(Stop::Incomplete)?;
        self.rest = rest;
        let text = bulk.strip_suffix(b"\r\n").ok_or(Stop::Malformed)?;
        Ok(match kind {
            b'!' => Reply::Error(text),
            // A verbatim string begins with its format, as in `txt:`.
            b'=' => Reply::Text(text.get(4..).ok_or(Stop::Malformed)?),
            _ => Reply::Text(text),
        })
    }

    fn items(&mut self, count: i64, depth: u8) -> Result<Reply<'a>, Stop> {
        let Ok(count) = usize::try_from(count) else {
            return Ok(Reply::Null);
        };
        // Every item takes at least three bytes: a count beyond that cannot be complete yet.
        let mut items = Vec::with_capacity(count.min(self.rest.len() / 3));
        for _ in 0..count {
            items.push(self.value(depth + 1)?);
        }
        Ok(Reply::Items(items))
    }
}

fn decimal(digits: &[u8]) -> Result<i64, Stop> {
    let text = std::str::from_utf8(digits).map_err(|_| Stop::Malformed)?;
    text.parse().map_err(|_| Stop::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMESSAGE: &[u8] = b">3\r\n$8\r\nsmessage\r\n$9\r\n{a}:rooms\r\n$2\r\nhi\r\n";

    #[test]
    fn shard_message_is_read_without_a_copy() {
        let expected = [&b"smessage"[..], b"{a}:rooms", b"hi"]
            .map(Reply::Text)
            .to_vec();
        assert_eq!(
            parse(SMESSAGE),
            Ok(Some((Reply::Push(expected), SMESSAGE.len())))
        );
    }

    #[test]
    fn half_a_value_waits_for_the_rest() {
        for end in 0..SMESSAGE.len() {
            assert_eq!(parse(&SMESSAGE[..end]), Ok(None), "{end} bytes");
        }
    }

    #[test]
    fn answers_of_every_kind_are_read() {
        let hello = b"%2\r\n$5\r\nproto\r\n:3\r\n$7\r\nmodules\r\n*0\r\n";
        let map = vec![
            Reply::Text(b"proto"),
            Reply::Integer(3),
            Reply::Text(b"modules"),
            Reply::Items(vec![]),
        ];
        assert_eq!(parse(hello), Ok(Some((Reply::Items(map), hello.len()))));
        assert_eq!(
            parse(b"-MOVED 1 a:1\r\n+x"),
            Ok(Some((Reply::Error(b"MOVED 1 a:1"), 14)))
        );
        assert_eq!(
            parse(b"=8\r\ntxt:id=1\r\n"),
            Ok(Some((Reply::Text(b"id=1"), 14)))
        );
        assert_eq!(parse(b"_\r\n"), Ok(Some((Reply::Null, 3))));
        assert_eq!(parse(b"$-1\r\n"), Ok(Some((Reply::Null, 5))));
    }

    #[test]
    fn bytes_that_are_not_resp_are_refused() {
        for bytes in [
            &b"hello\r\n"[..],
            b"\r\n",
            b":x\r\n",
            b"$1\r\nabc",
            b"=3\r\ntxt\r\n",
            b"*1\r\n?\r\n",
        ] {
            assert_eq!(
                parse(bytes),
                Err(Malformed),
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
        assert_eq!(
            parse(&b"*1\r\n".repeat(100)),
            Err(Malformed),
            "nesting is bounded"
        );
        assert_eq!(
            parse(b"*9223372036854775807\r\n"),
            Ok(None),
            "a huge count takes no memory"
        );
    }
}
