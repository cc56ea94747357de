//! How the writer is, kept by its threads and read by everyone.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aftertrace_model::Timestamp;

use super::WriterStatus;
use crate::store::{Manifest, StoreError, Table};

/// Work that can be degraded, each with its own remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// Making submissions durable.
    Wal,
    /// Writing segments.
    Flush,
    /// Publishing the catalog.
    Catalog,
    /// Merging segments.
    Compaction,
}

impl Work {
    const fn consequence(self) -> &'static str {
        match self {
            Self::Wal => {
                "nothing new is accepted, agents keep it in their spools; free space on the data volume"
            }
            Self::Flush => "new facts stay in the WAL and in memory; free space on the data volume",
            Self::Catalog => {
                "memory.duckdb is out of date; free space on the data volume or check its rights"
            }
            Self::Compaction => "small files pile up and questions get slower; free space on the data volume",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    position: u64,
    recorded_at: Option<Timestamp>,
    flushed: u64,
    published_at: Option<Timestamp>,
    rows: BTreeMap<&'static str, u64>,
    degraded: BTreeMap<Work, String>,
}

impl State {
    pub(super) fn status(&self) -> WriterStatus {
        let inner = self.hold();
        WriterStatus {
            position: inner.position,
            recorded_at: inner.recorded_at,
            pending_frames: inner.position.saturating_sub(inner.flushed),
            published_at: inner.published_at,
            rows: inner.rows.clone(),
            degraded: inner.degraded.iter().map(|(w, e)| format!("{e}: {}", w.consequence())).collect(),
        }
    }

    pub(super) fn committed(&self, position: u64, recorded_at: Option<Timestamp>) {
        let mut inner = self.hold();
        inner.position = position;
        inner.recorded_at = recorded_at.or(inner.recorded_at);
    }

    pub(super) fn flushed(&self, manifest: &Manifest) {
        let mut inner = self.hold();
        inner.flushed = manifest.position;
        inner.rows = Table::ALL.into_iter().map(|t| (t.name(), manifest.rows(t))).collect();
    }

    pub(super) fn published(&self, at: Timestamp) {
        self.hold().published_at = Some(at);
    }

    /// Notes how some work went; logs when that changes.
    pub(super) fn note<T>(&self, work: Work, result: &Result<T, StoreError>) {
        let mut inner = self.hold();
        match result {
            Ok(_) => {
                if inner.degraded.remove(&work).is_some() {
                    tracing::info!(?work, "recovered");
                }
            }
            Err(error) => {
                if inner.degraded.insert(work, error.to_string()).is_none() {
                    tracing::error!(%error, ?work, "degraded: {}", work.consequence());
                }
            }
        }
    }

    /// Whether this work failed when it was last tried.
    pub(super) fn is_degraded(&self, work: Work) -> bool {
        self.hold().degraded.contains_key(&work)
    }

    fn hold(&self) -> MutexGuard<'_, Inner> {
        // Every update is a plain assignment, so a panic elsewhere leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
