//! The wall clock, read in one place.

use std::time::{SystemTime, UNIX_EPOCH};

use aftertrace_model::Timestamp;

/// Now, by the node's wall clock; the epoch if that clock stands before it.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
