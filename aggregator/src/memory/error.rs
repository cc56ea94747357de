//! Why a question has no answer, and how gRPC says it.

use aftertrace_model::Timestamp;
use tonic::Status;

use crate::clock::CALENDAR_US_MAX;
use crate::store::StoreError;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The question cannot be understood.
    #[error("{field} {problem}")]
    Malformed {
        /// The field of the request.
        field: &'static str,
        /// What is wrong with it and what would be right.
        problem: String,
    },
    /// Nothing of that name is known.
    #[error("{what} is not known: {remedy}")]
    Unknown {
        /// What was asked for.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// Segments cannot be read.
    #[error("the memory cannot be read: {0}")]
    Store(#[from] StoreError),
}

impl From<AskError> for Status {
    fn from(error: AskError) -> Self {
        let message = error.to_string();
        match error {
            AskError::Malformed { .. } => Self::invalid_argument(message),
            AskError::Unknown { .. } => Self::not_found(message),
            AskError::Store(StoreError::Closed) => Self::unavailable(message),
            AskError::Store(_) => Self::internal(message),
        }
    }
}

/// A time of a request: from 1970 to the end of the year 9999, where calendars and columns end.
///
/// # Errors
/// [`AskError::Malformed`] naming the field.
pub(super) fn time(field: &'static str, us: i64) -> Result<Timestamp, AskError> {
    if !(0..=CALENDAR_US_MAX).contains(&us) {
        let problem =
            format!("is {us}; it must be microseconds since 1970-01-01T00:00:00Z, before the year 10000");
        return Err(AskError::Malformed { field, problem });
    }
    Ok(Timestamp::from_micros(us))
}

/// A limit of a request: 0 means the default.
///
/// # Errors
/// [`AskError::Malformed`] where it is more than `most`.
pub(super) fn limit(asked: u32, default: u32, most: u32) -> Result<usize, AskError> {
    if asked > most {
        let problem = format!("is {asked}; the most is {most}");
        return Err(AskError::Malformed { field: "limit", problem });
    }
    let limit = if asked == 0 { default } else { asked };
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

/// A Kubernetes name as far as it matters here: not empty, not longer than any name may be, and visible.
///
/// # Errors
/// [`AskError::Malformed`] naming the field.
pub(super) fn name(field: &'static str, value: &str) -> Result<(), AskError> {
    const BYTES_MAX: usize = 253;
    let visible = aftertrace_model::text::escape(value);
    if value.is_empty() || value.len() > BYTES_MAX || visible != value || value.contains(char::is_whitespace)
    {
        let problem = format!("is {visible:?}; it must be a name of 1 to {BYTES_MAX} bytes");
        return Err(AskError::Malformed { field, problem });
    }
    Ok(())
}
