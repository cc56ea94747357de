//! The wall clock, read at the edges of the program and passed on as a value.

use std::time::{SystemTime, UNIX_EPOCH};

use aftertrace_model::Timestamp;

/// The present by this machine's clock; the epoch if that stands before it.
#[must_use]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}

/// How far ahead of the aggregator's clock a fact may lie, in microseconds: nodes' clocks differ. What lies
/// further ahead is quarantined at ingest, so "up to now" reaches this far.
pub const AHEAD_US_MAX: i64 = 3_600_000_000;
