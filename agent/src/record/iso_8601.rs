//! Moments as text, the way OpenTelemetry wants `process.creation.time`: ISO 8601 in UTC, with milliseconds.
//!
//! Moments before 1970 have none: no process was started then.

use std::time::{SystemTime, UNIX_EPOCH};

/// `2026-09-21T13:46:40.123Z`. Absent before 1970, and after the year 9999.
pub(super) fn iso_8601(time: SystemTime) -> Option<String> {
    time.duration_since(UNIX_EPOCH).ok()?;
    jiff::Timestamp::try_from(time).ok().map(|time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_iso_8601() {
        let check = |seconds: u64, expected: &str| {
            assert_eq!(iso_8601(UNIX_EPOCH + Duration::from_secs(seconds)).as_deref(), Some(expected))
        };
        check(0, "1970-01-01T00:00:00.000Z");
        check(951_782_399, "2000-02-28T23:59:59.000Z");
        check(951_782_400, "2000-02-29T00:00:00.000Z");
        check(951_868_800, "2000-03-01T00:00:00.000Z");
        check(1_798_761_599, "2026-12-31T23:59:59.000Z");
        check(4_107_542_400, "2100-03-01T00:00:00.000Z");
        assert_eq!(
            iso_8601(UNIX_EPOCH + Duration::new(1, 999_999_999)).as_deref(),
            Some("1970-01-01T00:00:01.999Z"),
            "cut, not rounded"
        );
        assert_eq!(iso_8601(UNIX_EPOCH - Duration::from_secs(1)), None);
    }
}
