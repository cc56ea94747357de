//! The one writer: takes submissions, drops duplicates, makes the rest durable, derives edges, and hands rows
//! to segments.
//!
//! Order for each group of submissions: deduplicate, stamp `recorded_at`, append to the WAL, `fdatasync`, run
//! the engine, tell the callback, then answer the submitters. So an accepted fact is durable and can be asked
//! for at once.

mod commit;
mod dedupe;
mod evictions;
mod flush;
mod start;
mod state;
mod thread;

use std::collections::BTreeMap;
use std::sync::Arc;

use aftertrace_model::{Edge, Event, Gap, ObjectVersion, Retraction, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use self::state::State;
use crate::store::{Store, StoreError};

/// Submissions that wait for the writer. Each is at most a batch of 1,000 items; the writer takes a queue's
/// worth within one group commit, and a full queue makes submitters wait.
const QUEUE_SUBMISSIONS: usize = 256;

/// Memory of all submissions that wait, in KiB: a few groups of full batches. One that is larger waits until it
/// is alone.
const QUEUE_KIB: u32 = 64 * 1024;

/// Facts in the engine's window. Rules of the cluster look back minutes; this holds an hour of a cluster that
/// kills and swaps 25 times a second, at some 1 KB each.
const ENGINE_FACTS: usize = 100_000;

/// Bytes of those facts by their own count; most of them are in the hot graph too and are held once.
const ENGINE_BYTES: usize = 128 * 1024 * 1024;

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

impl Facts {
    /// What they take in memory, in KiB and at least one.
    fn kib(&self) -> u32 {
        let bytes = self.events.iter().map(Event::approximate_bytes).sum::<usize>()
            + self.edges.iter().map(Edge::approximate_bytes).sum::<usize>()
            + self.objects.iter().map(ObjectVersion::approximate_bytes).sum::<usize>()
            + self.gaps.iter().map(Gap::approximate_bytes).sum::<usize>();
        u32::try_from(bytes / 1_024 + 1).unwrap_or(u32::MAX)
    }
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

/// The way to the writer. Cheap to clone; when the last one is dropped the writer flushes and stops.
#[derive(Clone, Debug)]
pub struct WriterHandle {
    commands: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
    state: Arc<State>,
}

/// What the writer's thread is asked to do.
#[derive(Debug)]
enum Command {
    Submit(Submission),
    Shutdown(oneshot::Sender<Result<(), StoreError>>),
}

/// Facts and the one who waits for them.
#[derive(Debug)]
struct Submission {
    facts: Facts,
    done: oneshot::Sender<Result<Accepted, StoreError>>,
    /// Given back by the writer, not by the one who waits: a slow reader of acknowledgements keeps nobody out.
    _room: OwnedSemaphorePermit,
}

/// Where the time comes from; tests give their own.
type Clock = fn() -> Timestamp;

impl Writer {
    /// Tells `on_commit` the recent history and replays the WAL through it, then starts the writer's threads.
    ///
    /// Blocks until the replay is done and what it held is in segments: call it before serving. `on_commit`
    /// runs here first, then on the writer's thread, in order of position; what it takes is added to every
    /// acknowledgement.
    ///
    /// # Errors
    /// [`StoreError`] if history or WAL cannot be read, or a thread cannot be started. A full disk is none:
    /// the writer starts degraded.
    pub fn spawn(
        store: Store,
        on_commit: impl FnMut(&Committed) + Send + 'static,
    ) -> Result<WriterHandle, StoreError> {
        Self::spawn_at(store, now, ENGINE_FACTS, Box::new(on_commit))
    }

    fn spawn_at(
        store: Store,
        clock: Clock,
        engine_facts: usize,
        on_commit: Box<dyn FnMut(&Committed) + Send>,
    ) -> Result<WriterHandle, StoreError> {
        let (shared, reader) = store.into_parts();
        let state = Arc::new(State::default());
        let core = start::start(&shared, reader, Arc::clone(&state), clock, engine_facts, on_commit)?;
        let (commands, queue) = mpsc::channel(QUEUE_SUBMISSIONS);
        thread::spawn(shared, core, queue)?;
        let room = Arc::new(Semaphore::new(usize::try_from(QUEUE_KIB).unwrap_or(usize::MAX)));
        Ok(WriterHandle { commands, room, state })
    }
}

/// The system's clock in UTC.
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

impl WriterHandle {
    /// Submits facts and waits until they are durable. Waits also while the queue is full,
    /// in number or in bytes.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the disk refused: nothing of this submission was accepted, and it may be sent
    /// again. [`StoreError::ItemTooLarge`] if it never will be. [`StoreError::Backlog`] while the disk takes
    /// no segments. [`StoreError::Closed`] after shutdown.
    pub async fn submit(&self, facts: Facts) -> Result<Accepted, StoreError> {
        let room = Arc::clone(&self.room);
        let room =
            room.acquire_many_owned(facts.kib().min(QUEUE_KIB)).await.map_err(|_| StoreError::Closed)?;
        let (done, answer) = oneshot::channel();
        let submission = Submission { facts, done, _room: room };
        self.commands.send(Command::Submit(submission)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// How the writer is now.
    #[must_use]
    pub fn status(&self) -> WriterStatus {
        self.state.status()
    }

    /// Takes nothing more, writes what was accepted to segments, publishes, and stops the threads. The data
    /// directory is free when this returns and readers are gone.
    ///
    /// # Errors
    /// The last flush's error: accepted facts are then still safe in the WAL. [`StoreError::Closed`] if it
    /// has stopped already.
    pub async fn shutdown(&self) -> Result<(), StoreError> {
        let (done, answer) = oneshot::channel();
        self.commands.send(Command::Shutdown(done)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

#[cfg(test)]
mod tests;
