//! The wall clock, read at the edges of the program and passed on as a value.

use std::time::{SystemTime, UNIX_EPOCH};

use aftertrace_model::Timestamp;

/// The present by this machine's clock; the epoch if that stands before it.
#[must_use]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}

/// The last instant that calendars and columns can hold, in microseconds since the Unix epoch: the end of the year
/// 9999. The first is the epoch.
pub const CALENDAR_US_MAX: i64 = 253_402_300_799_999_999;

/// How far ahead of the aggregator's clock a fact may lie, in microseconds: nodes' clocks differ. What lies
/// further ahead is quarantined at ingest, so "up to now" reaches this far.
pub const AHEAD_US_MAX: i64 = 3_600_000_000;
