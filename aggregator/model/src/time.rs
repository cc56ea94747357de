//! Instants with honest bounds. Everything is UTC in microseconds since the Unix epoch.

use std::fmt;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// An instant: microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

/// Microseconds in a second, the unit in which Kubernetes floors its status times.
pub const SECOND_US: i64 = 1_000_000;

/// A time text that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {text:?} as a time: use RFC 3339 such as 2026-11-20T10:52:02Z")]
pub struct TimeError {
    /// The text as given.
    pub text: String,
}

impl Timestamp {
    /// The instant that many microseconds after the Unix epoch.
    #[must_use]
    pub const fn from_micros(us: i64) -> Self {
        Self(us)
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Reads RFC 3339 with any offset, as Kubernetes writes it.
    ///
    /// # Errors
    /// [`TimeError`] where the text is something else or out of range.
    pub fn parse_rfc3339(text: &str) -> Result<Self, TimeError> {
        text.parse::<jiff::Timestamp>()
            .map(|t| Self(t.as_microsecond()))
            .map_err(|_| TimeError { text: text.to_owned() })
    }

    /// This instant moved by `us` microseconds, at most to the end of the range.
    #[must_use]
    pub const fn plus_micros(self, us: i64) -> Self {
        Self(self.0.saturating_add(us))
    }

    /// Microseconds from `earlier` to this instant; negative if `earlier` is later.
    #[must_use]
    pub const fn micros_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with microseconds, or the bare number where the calendar ends.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(t) => write!(f, "{}", t.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S%.6fZ")),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

/// When something happened: the best estimate and the bounds it certainly lies in.
///
/// Invariant: `earliest <= at <= latest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Occurrence {
    /// The best estimate.
    pub at: Timestamp,
    /// The first instant at which it can have happened.
    pub earliest: Timestamp,
    /// The last instant at which it can have happened.
    pub latest: Timestamp,
}

impl Occurrence {
    /// An instant known up to `error_us` microseconds on each side; a negative error counts as zero.
    #[must_use]
    pub fn within(at: Timestamp, error_us: i64) -> Self {
        let error = error_us.max(0);
        Self { at, earliest: at.plus_micros(-error), latest: at.plus_micros(error) }
    }

    /// A Kubernetes status time: floored to a second and read from that node's clock.
    #[must_use]
    pub fn floored_to_second(at: Timestamp) -> Self {
        Self { at, earliest: at, latest: at.plus_micros(SECOND_US - 1) }
    }

    /// Something first seen at `seen`, which happened at some time after `after`.
    #[must_use]
    pub fn between(after: Timestamp, seen: Timestamp) -> Self {
        Self { at: seen, earliest: after.min(seen), latest: seen }
    }

    /// Whether this can have happened before `effect`: the test every edge passes.
    #[must_use]
    pub fn can_precede(&self, effect: &Self) -> bool {
        self.earliest <= effect.latest
    }

    /// Whether the two intervals share an instant.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.earliest <= other.latest && other.earliest <= self.latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_time_covers_its_second() {
        let floored = Occurrence::floored_to_second(Timestamp::from_micros(10 * SECOND_US));
        let inside = Occurrence::within(Timestamp::from_micros(10 * SECOND_US + 999_999), 0);
        let after = Occurrence::within(Timestamp::from_micros(11 * SECOND_US), 0);
        assert!(inside.can_precede(&floored), "a kill within the second can precede its status");
        assert!(!after.can_precede(&floored), "a kill after the second cannot");
    }

    #[test]
    fn reads_and_writes_rfc3339() {
        let t = Timestamp::parse_rfc3339("2026-11-20T12:52:02.5+02:00").expect("valid");
        assert_eq!(t.to_string(), "2026-11-20T10:52:02.500000Z");
        let bad = Timestamp::parse_rfc3339("yesterday").expect_err("not a time");
        assert!(bad.to_string().contains("yesterday"), "the error names the input: {bad}");
    }
}
