//! The agent's memory across crashes and absences of the aggregator: a bounded log on disk.
//!
//! Items come from [`crate::pipeline`] with a sequence each, lie in segment files, and go to
//! [`crate::export`] once they are on disk. [`state`] keeps what must survive apart from the items: the
//! spool's id, the sequences reserved, what was acknowledged, and when the agent was last alive. [`log`] is
//! the files; [`thread`] owns them, because disks block.
//!
//! It knows nothing of what the items say, except the facts that the engine's window is filled from.

mod log;
mod state;
mod thread;

use std::path::PathBuf;

use aftertrace_model::{Event, Timestamp};
use uuid::Uuid;

pub(crate) use thread::{Progress, Reader, Writer, start};

/// How long an acknowledged segment is kept, in microseconds: the window of the node's engine, which is
/// filled from it after a restart. Ten minutes is twice the longest back-off of a crash loop.
pub(crate) const KEPT_US: i64 = 600_000_000;

/// Most facts handed to the engine from the spool at start. The latest win.
pub(crate) const TAIL_EVENTS_MAX: usize = 10_000;

/// Smallest spool that makes sense: room for a few segments of a full group each.
pub(crate) const BYTES_MIN: u64 = 1024 * 1024;

/// Where the spool lies and how large it may grow.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// A directory of its own.
    pub(crate) dir: PathBuf,
    /// Most bytes of segments; the oldest are given up above it.
    pub(crate) bytes_max: u64,
}

/// What a spool held when it was opened.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// The spool's id.
    pub(crate) spool_id: Uuid,
    /// When the agent was last alive; `None` for a new spool.
    pub(crate) last_alive: Option<Timestamp>,
    /// Whether it had ended in order, with nothing left to write.
    pub(crate) ended_clean: bool,
    /// Damaged places that were skipped.
    pub(crate) damaged: u64,
    /// Facts that lie in the engine's window, in the order of the spool.
    pub(crate) tail: Vec<Event>,
}

/// Why a spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}; the spool needs a writable directory of its own (--spool)")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another agent holds it.
    #[error("the spool {dir} is in use by another agent: stop that one, or give this one its own --spool")]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// There are segments, but nothing says whose.
    #[error("the spool {dir} holds segments and no readable id: move it away to start a new one")]
    NoId {
        /// The directory.
        dir: PathBuf,
    },
}

fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::Io { action, path, source }
}
