//! The one writer: takes submissions, drops duplicates, makes the rest durable, derives edges, and hands rows
//! to segments.
//!
//! Order for each group of submissions: deduplicate, stamp `recorded_at`, append to the WAL, `fdatasync`, run
//! the engine, tell the callback, then answer the submitters. So an accepted fact is durable and can be asked
//! for at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use aftertrace_model::{Edge, Event, Gap, ObjectVersion, Retraction, Timestamp};

use crate::store::{Store, StoreError};

/// What is submitted together. `recorded_at` in it is ignored: the writer stamps it.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Facts.
    pub events: Vec<Event>,
    /// Edges that agents concluded.
    pub edges: Vec<Edge>,
    /// Versions of objects.
    pub objects: Vec<ObjectVersion>,
    /// Missing evidence.
    pub gaps: Vec<Gap>,
}

/// What became of a submission. All of it is durable, duplicates were so before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The WAL position at which everything submitted is included.
    pub position: u64,
    /// New events.
    pub events: u64,
    /// Items of all sorts that were there already.
    pub duplicates: u64,
}

/// Where committed rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From segments, at start: recent history, to warm a cache.
    History,
    /// From the WAL, at start: accepted before and not yet in segments.
    Replay,
    /// Accepted just now.
    Live,
}

/// What was made durable together, with what the engine derived from it. Every `recorded_at` is set.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Where it comes from.
    pub origin: Origin,
    /// The frame's position; for [`Origin::History`] the position that segments reach.
    pub wal_position: u64,
    /// When the frame was recorded.
    pub recorded_at: Timestamp,
    /// New facts, in order of submission.
    pub events: Vec<Arc<Event>>,
    /// New edges, the agents' and the engine's.
    pub edges: Vec<Edge>,
    /// Edges that no longer hold. They take effect before `edges`.
    pub retractions: Vec<Retraction>,
    /// New versions of objects.
    pub objects: Vec<ObjectVersion>,
    /// New gaps.
    pub gaps: Vec<Gap>,
}

/// How the writer is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriterStatus {
    /// Frames made durable so far.
    pub position: u64,
    /// When the last of them was recorded.
    pub recorded_at: Option<Timestamp>,
    /// Frames that are not in segments yet.
    pub pending_frames: u64,
    /// When the catalog was last published.
    pub published_at: Option<Timestamp>,
    /// Rows in segments by table.
    pub rows: BTreeMap<&'static str, u64>,
    /// What is degraded, with the remedy; empty means that all is well.
    pub degraded: Vec<String>,
}

/// Starts the writer's threads.
#[derive(Debug)]
pub struct Writer;

/// The way to the writer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WriterHandle {
    _status: Arc<WriterStatus>,
}

impl Writer {
    /// Tells `on_commit` the recent history and replays the WAL through it, then starts the writer's threads.
    ///
    /// Blocks until the replay is done: call it before serving. `on_commit` runs here first, then on the
    /// writer's thread, in order of position; what it takes is added to every acknowledgement.
    ///
    /// # Errors
    /// [`StoreError`] if history or WAL cannot be read, or a thread cannot be started.
    pub fn spawn(
        _store: Store,
        _on_commit: impl FnMut(&Committed) + Send + 'static,
    ) -> Result<WriterHandle, StoreError> {
        Err(StoreError::Closed)
    }
}

impl WriterHandle {
    /// Submits facts and waits until they are durable. Waits also while the queue is full.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the disk refused: nothing of this submission was accepted, and it may be sent
    /// again. [`StoreError::ItemTooLarge`] if it never will be. [`StoreError::Backlog`] while the disk takes
    /// no segments. [`StoreError::Closed`] after shutdown.
    pub async fn submit(&self, _facts: Facts) -> Result<Accepted, StoreError> {
        Err(StoreError::Closed)
    }

    /// How the writer is now.
    #[must_use]
    pub fn status(&self) -> WriterStatus {
        WriterStatus::default()
    }

    /// Takes nothing more, writes what was accepted to segments, publishes, and stops the threads.
    ///
    /// # Errors
    /// The last flush's error: accepted facts are then still safe in the WAL. [`StoreError::Closed`] if it
    /// has stopped already.
    pub async fn shutdown(&self) -> Result<(), StoreError> {
        Err(StoreError::Closed)
    }
}
