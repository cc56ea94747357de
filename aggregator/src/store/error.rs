//! What can go wrong between the writer and the disk, with the operands a person needs to act.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An error of the store. It is `Clone` because one failed group commit is told to every submitter in it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused a file operation; a full disk is among these.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// Verb phrase, such as `sync`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: Arc<io::Error>,
    },
    /// Another process has the data directory.
    #[error("the data directory {dir} is in use by {holder}: stop that aggregator or use another directory",
        dir = dir.display(), holder = holder(*pid))]
    Locked {
        /// The data directory.
        dir: PathBuf,
        /// The other process, where it wrote its id.
        pid: Option<u32>,
    },
    /// A file that must be whole is not.
    #[error("{path} is damaged: {reason}; restore the data directory from a backup or move it away to start anew",
        path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The data directory was written by a later version.
    #[error("{path} has format {found}, this program reads up to {known}: use a newer aggregator",
        path = path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format known.
        known: u32,
    },
    /// A segment could not be written or read.
    #[error("cannot {action} segment {path}: {source}", path = path.display())]
    Segment {
        /// Verb phrase.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the Parquet library says.
        source: Arc<parquet::errors::ParquetError>,
    },
    /// A query failed.
    #[error("cannot {action}: {source}")]
    Query {
        /// Verb phrase, such as `read events`.
        action: &'static str,
        /// What DuckDB says.
        source: Arc<duckdb::Error>,
    },
    /// A stored row cannot be read as the domain's type.
    #[error("cannot read a stored row of {table}: {reason}")]
    Row {
        /// The table.
        table: &'static str,
        /// Which value is wrong.
        reason: String,
    },
    /// An item is larger than a frame may be.
    #[error("an item of {bytes} bytes was refused, the limit is {limit}")]
    ItemTooLarge {
        /// Encoded size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Nothing more is taken because what was taken cannot be written to segments.
    #[error("{rows} rows wait for the disk, nothing more is accepted until it takes them")]
    Backlog {
        /// Rows that wait.
        rows: usize,
    },
    /// A thread of the store could not be started.
    #[error("cannot start the thread {name}: {source}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// What the system says.
        source: Arc<io::Error>,
    },
    /// The writer has stopped.
    #[error("the writer has stopped")]
    Closed,
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl StoreError {
    /// Wraps an I/O error with what was tried on which file.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source: Arc::new(source) }
    }

    /// Wraps an error of DuckDB with what was tried.
    pub(crate) fn query(action: &'static str) -> impl FnOnce(duckdb::Error) -> Self {
        move |source| Self::Query { action, source: Arc::new(source) }
    }

    /// Wraps an error of the Parquet library.
    pub(crate) fn segment(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(parquet::errors::ParquetError) -> Self {
        let path = path.to_owned();
        move |source| Self::Segment { action, path, source: Arc::new(source) }
    }
}
