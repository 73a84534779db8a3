//! The wall clock, and how moments are written for clients.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::{OffsetDateTime, format_description::FormatItem, macros::format_description};

const ISO: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Time since 1970.
pub(crate) fn now() -> Duration {
    // A clock before 1970 is a broken machine; tokens then simply count as expired or not yet so.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(now().as_millis()).unwrap_or(u64::MAX)
}

/// Writes milliseconds since 1970 as ISO 8601 in UTC with three digits of fraction.
pub(crate) fn iso(ms: u64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .ok()
        .and_then(|moment| moment.format(ISO).ok())
        .unwrap_or_else(|| "1970-01-01T00:00:00.000Z".to_owned())
}

/// This moment in ISO 8601.
pub(crate) fn iso_now() -> String {
    iso(now_ms())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_utc_with_milliseconds() {
        assert_eq!(iso(1_795_332_990_123), "2026-11-22T07:36:30.123Z");
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(u64::MAX), "1970-01-01T00:00:00.000Z");
    }
}
